"""What is asked of a finished model: with what was learnt elsewhere, and nothing that the judged rows would prefer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fusetune.encoders import Identity
from fusetune.evaluate.analysis import analyse
from fusetune.evaluate.calibration import Calibration, Judged
from fusetune.evaluate.conformal import METHODS, OTHER, Conformal
from fusetune.evaluate.metrics import nll
from fusetune.evaluate.temperature import softmax
from fusetune.evaluate.threshold import choose_threshold
from fusetune.networks import EnsembleNetwork

ROWS = 60
HOW: dict[str, Any] = {"resamples": 100, "seed": 0}


@pytest.fixture(scope="module")
def judged() -> tuple[EnsembleNetwork, Judged]:
    """Return a network of two inputs and two classes, and what it says of rows."""
    torch.manual_seed(0)
    network = EnsembleNetwork(
        [Identity(3), Identity(2)], ["a", "b"], [nn.Linear(3, 2), nn.Linear(2, 2)], torch.zeros(2)
    )
    network.requires_grad_(False).eval()
    z = {"a": torch.randn(ROWS, 3), "b": torch.randn(ROWS, 2)}
    outputs = network.fuse(z, {"a": torch.ones(ROWS).bool(), "b": torch.arange(ROWS) % 3 > 0})
    labels = (torch.rand(ROWS).numpy() < softmax(2 * outputs.f.numpy())[:, 1]).astype(np.int64)
    return network, Judged(outputs, labels, np.arange(ROWS), np.arange(ROWS) // 4)


def asked(judged: tuple[EnsembleNetwork, Judged], **more: Any) -> dict[str, Any]:
    network, rows = judged
    return analyse(network, "it", Calibration(**more), rows, ["no", "yes"], {}, **HOW).as_dict()


@pytest.mark.parametrize("limit", [0.2, 0.7])
def test_rates_are_those_of_the_threshold_that_was_learnt(judged: tuple[EnsembleNetwork, Judged], limit: float) -> None:
    rows, aim = judged[1], "sensitivity >= 0.8"
    found = asked(judged, temperature=2.0, aim=aim, positive=1, threshold=limit)["threshold"]
    chance, positive = softmax(rows.outputs.f.numpy(), 2.0)[:, 1], rows.labels == 1
    assert choose_threshold(aim, chance, positive) != pytest.approx(limit, abs=0.02)
    assert found["threshold"] == limit
    assert found["sensitivity"]["value"] == pytest.approx((chance >= limit)[positive].mean())
    assert found["specificity"]["value"] == pytest.approx((chance < limit)[~positive].mean())


def test_sets_are_those_of_the_limits_that_were_learnt(judged: tuple[EnsembleNetwork, Judged]) -> None:
    rows = judged[1]
    limits = {"a + b": 0.6, OTHER: 0.4}
    sets = Conformal(dict.fromkeys(METHODS, 0.55), dict.fromkeys(METHODS, limits))
    found = asked(judged, temperature=2.0, conformal=sets)["conformal"]["sets"]
    p, at = softmax(rows.outputs.f.numpy(), 2.0), np.arange(ROWS)
    own = np.where(rows.pattern == "a + b", 0.6, 0.4)
    for mondrian, limit in ((False, 0.55), (True, own)):
        (row,) = [row for row in found if row["method"] == "lac" and row["mondrian"] == mondrian]
        assert row["coverage"]["value"] == pytest.approx((1 - p[at, rows.labels] <= limit).mean())


@pytest.mark.parametrize("heat", [1.0, 3.0])
def test_probabilities_are_those_of_the_temperature_that_was_learnt(
    judged: tuple[EnsembleNetwork, Judged], heat: float
) -> None:
    rows, found = judged[1], asked(judged, temperature=heat)
    expected = nll(softmax(rows.outputs.f.numpy(), heat), rows.labels)
    whole = next(row for row in found["subsets"] if len(row["modalities"]) == 2)
    missing = next(row for row in found["missing"] if row["rate"] == 0)
    assert whole["nll"]["value"] == pytest.approx(expected, abs=1e-6)
    assert missing["nll"]["value"] == pytest.approx(expected, abs=1e-6)
