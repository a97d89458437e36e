"""What labels of rows that do not count alike teach: as much as copies of the rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from fusetune.config import Config
from fusetune.targets import Classification, Multilabel, Regression, Target

ROWS = 20
random = np.random.default_rng(2)
K = random.integers(1, 4, ROWS)
COPIES, WEIGHTS = np.repeat(np.arange(ROWS), K), K.astype(float)
CASES: list[tuple[Target, Any, int]] = [
    (Classification(list("abc")), random.integers(0, 3, ROWS), 3),
    (Multilabel(list("abc")), (random.random((ROWS, 3)) < 0.5).astype(np.float32), 3),
    (Regression("y"), random.normal(size=ROWS), 1),
]


@pytest.mark.parametrize(("target", "truth", "width"), CASES, ids=lambda case: getattr(case, "kind", ""))
def test_priors_and_losses_are_those_of_copies(target: Target, truth: Any, width: int) -> None:
    assert torch.allclose(target.prior(truth, WEIGHTS), target.prior(truth[COPIES]))
    f = random.normal(size=(ROWS, width))
    assert target.nll(f, truth, WEIGHTS) == pytest.approx(target.nll(f[COPIES], truth[COPIES]))


def test_a_number_is_in_units_of_weighted_rows() -> None:
    numbers = random.normal(3, 2, ROWS)
    one, other = Regression("y").standardised(numbers, WEIGHTS), Regression("y").standardised(numbers[COPIES])
    assert (one.mean, one.deviation) == pytest.approx((other.mean, other.deviation))


def test_balanced_classes_weigh_alike_together() -> None:
    target, truth, train = CASES[0][0], CASES[0][1], np.arange(ROWS)
    config = Config.build({"data": {"class_weights": "balanced"}})
    weights = target.weights(config, truth, train, WEIGHTS) * WEIGHTS
    assert np.bincount(truth, weights) == pytest.approx(np.ones(3))
