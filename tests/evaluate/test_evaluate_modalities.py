"""Subsets, Shapley shares, missing and misleading inputs, against running the model on what is really there."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import permutations
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fusetune.encoders import Identity
from fusetune.evaluate import metrics, modalities
from fusetune.evaluate.analysis import analyse, row_shares, without_inputs
from fusetune.evaluate.calibration import Calibration, Judged, learn, scale
from fusetune.evaluate.conformal import OTHER, Conformal
from fusetune.evaluate.measures import CLASSES
from fusetune.evaluate.modalities import (
    RATES,
    Probe,
    interference_table,
    keep_only,
    missing_masks,
    missing_table,
    shapley,
    shapley_table,
    subset_probabilities,
    subset_table,
    subsets,
)
from fusetune.evaluate.temperature import softmax
from fusetune.heads.linear import LinearHead
from fusetune.networks import FusionNetwork, Outputs, Wiring

HOW = {"resamples": 100, "seed": 0}
WIDTHS = {"image": 3, "text": 2}


def model() -> FusionNetwork:
    """Two encoders for the image (its features and its logits are read), one for the text."""
    torch.manual_seed(0)
    encoders = [Identity(3), Identity(2), Identity(3)]
    networks, features = {"image": [0], "text": [1]}, {"image as pretrained": 2, "text": 1}
    wiring = Wiring(["image", "text", "image"], networks, features, ["image"])
    head = LinearHead({"image as pretrained": 3, "text": 2, "image": 3}, 3)
    nn.init.normal_(head.linear.weight, std=2.0)
    classifiers = [nn.Linear(3, 3), nn.Linear(2, 3)]
    return FusionNetwork(encoders, classifiers, head, wiring).eval().requires_grad_(False)


def told(
    network: FusionNetwork, rows: int = 40, every: bool = False
) -> tuple[Outputs, dict[str, torch.Tensor], np.ndarray]:
    """Outputs, raw inputs and labels; a few rows lack something."""
    generator = torch.Generator().manual_seed(1)
    raw = {name: torch.randn(rows, width, generator=generator) for name, width in WIDTHS.items()}
    present = {name: torch.rand(rows, generator=generator) > (0.0 if every else 0.2) for name in WIDTHS}
    outputs = run(network, raw, present)
    return outputs, raw, np.arange(rows) % 3


def run(network: FusionNetwork, raw: dict[str, torch.Tensor], present: dict[str, torch.Tensor]) -> Outputs:
    with torch.inference_mode():
        return network({name: x[present[name]] for name, x in raw.items()}, present)


def test_taking_away_equals_never_having_had() -> None:
    network = model()
    outputs, raw, _ = told(network)
    for kept in subsets(WIDTHS):
        less = keep_only(outputs, kept)
        again, anew = network.again(outputs, less), run(network, raw, less)
        torch.testing.assert_close(again.f, anew.f)
        for name in WIDTHS:
            torch.testing.assert_close(again.f_m[name], anew.f_m[name])
            torch.testing.assert_close(again.z[name], anew.z[name])


def test_what_was_absent_stays_absent() -> None:
    network = model()
    outputs, _, _ = told(network)
    everything = {name: torch.ones_like(bits) for name, bits in outputs.present.items()}
    torch.testing.assert_close(network.again(outputs, everything).f, outputs.f)


def test_all_subsets_from_none_to_all() -> None:
    assert [len(kept) for kept in subsets("abc")] == [0, 1, 1, 1, 2, 2, 2, 3]


def test_shapley_equals_the_mean_over_all_orders() -> None:
    random = np.random.default_rng(0)
    values = {kept: random.normal() for kept in subsets("abcd")}
    expected = dict.fromkeys("abcd", 0.0)
    for order in permutations("abcd"):
        for place, player in enumerate(order):
            before = frozenset(order[:place])
            expected[player] += (values[before | {player}] - values[before]) / 24
    assert shapley(values) == pytest.approx(expected)
    assert sum(shapley(values).values()) == pytest.approx(values[frozenset("abcd")] - values[frozenset()])


def test_shares_sum_to_what_all_inputs_add() -> None:
    network = model()
    outputs, _, y = told(network)
    p = subset_probabilities(Probe(network, outputs, 1.5))
    table = {tuple(row.modalities): row for row in subset_table(p, y, None, **HOW)}
    assert table["image", "text"].nll.value == pytest.approx(metrics.nll(softmax(outputs.f.numpy(), 1.5), y))
    shares = shapley_table(p, y, np.arange(40) // 4, **HOW)
    for metric, sign in (("accuracy", 1), ("nll", -1)):
        gained = getattr(table["image", "text"], metric).value - getattr(table[()], metric).value
        assert sum(getattr(row, metric).value for row in shares) == pytest.approx(sign * gained, abs=1e-12)


def test_a_network_is_asked_once_for_each_pattern(monkeypatch: pytest.MonkeyPatch) -> None:
    network = model()
    outputs, _, y = told(network)
    fused, asked = FusionNetwork.fuse, list[int]()

    def fuse(self: FusionNetwork, z: Any, present: Any) -> Outputs:
        asked.append(1)
        return fused(self, z, present)

    monkeypatch.setattr(FusionNetwork, "fuse", fuse)
    probe = Probe(network, outputs, 1.5)
    plain = subset_probabilities(probe)
    again = replace(probe, temperature=0.5)
    assert row_shares(again)
    missing_table({"it": again.again}, list(outputs.present), y, np.arange(40), None, **HOW)
    assert len(asked) == len(plain) == 4
    for kept, p in plain.items():  # what is kept is what the network says, before any temperature
        mask = keep_only(outputs, kept)
        assert np.array_equal(p, Probe(network, outputs, 1.5).again(mask))
        assert np.array_equal(again.again(mask), Probe(network, outputs, 0.5).again(mask))


def test_a_rows_shares_sum_to_its_probability_and_absence_counts_nothing() -> None:
    network = model()
    outputs, _, _ = told(network)
    probe = Probe(network, outputs, 1.5)
    shares, prior, p = row_shares(probe), without_inputs(probe), softmax(outputs.f, 1.5)
    top = p.argmax(axis=1)
    assert sum(shares.values()) == pytest.approx(p.max(axis=1) - prior[np.arange(40), top])
    for name, share in shares.items():
        absent = ~outputs.present[name].numpy()
        assert absent.any()
        assert (share[absent] == 0).all()


def test_masks_are_nested_and_belong_to_the_row() -> None:
    keys = np.random.default_rng(0).integers(0, 2**62, 4000)
    small, large = (missing_masks(["a", "b"], keys, rate, 0, 7) for rate in (0.3, 0.6))
    for name in "ab":
        assert not (large[name] & ~small[name]).any()
        assert small[name].float().mean().item() == pytest.approx(0.7, abs=0.03)
    assert (small["a"] != small["b"]).any()
    assert missing_masks(["a", "b"], keys[5:9], 0.3, 0, 7)["a"].tolist() == small["a"][5:9].tolist()
    assert all(bits.all() for bits in missing_masks(["a", "b"], keys, 0.0, 0, 7).values())


def test_missing_rates_ask_every_method_with_the_same_masks() -> None:
    seen: dict[str, list[Any]] = {"x": [], "y": []}

    def method(name: str) -> Any:
        def masked(mask: Any) -> np.ndarray:
            seen[name].append({key: bits.tolist() for key, bits in mask.items()})
            return np.where(mask["a"].numpy()[:, None], [[0.9, 0.1]], [[0.2, 0.8]])

        return masked

    y = np.zeros(50, int)
    table = missing_table({name: method(name) for name in seen}, ["a", "b"], y, np.arange(50), None, **HOW)
    assert seen["x"] == seen["y"]
    assert [row.rate for row in table if row.method == "x"] == list(RATES)
    for rate in (0.0, 0.5):
        row = next(row for row in table if row.rate == rate and row.method == "y")
        draws = [missing_masks(["a", "b"], np.arange(50), rate, draw, 0)["a"].numpy().mean() for draw in range(5)]
        assert row.accuracy.value == pytest.approx(np.mean(draws))


def test_interference_changes_the_features_of_one_modality_only() -> None:
    network = model()
    outputs, raw, y = told(network, every=True)
    table = {(row.modality, row.kind): row for row in interference_table(Probe(network, outputs, 1.0), y, None, **HOW)}
    assert len(table) == 10
    blank = run(network, {**raw, "text": torch.zeros(40, 2)}, outputs.present)
    assert table["text", "blank"].nll.value == pytest.approx(metrics.nll(softmax(blank.f), y), rel=1e-5)
    mean = run(network, {**raw, "image": raw["image"].mean(0).expand(40, -1)}, outputs.present)
    assert table["image", "mean"].nll.value == pytest.approx(metrics.nll(softmax(mean.f), y), rel=1e-5)


@pytest.mark.parametrize("same", [True, False])
def test_donors_are_others_of_the_stated_class_that_have_the_input(same: bool) -> None:
    y, has = np.arange(30) % 3, np.arange(30) % 5 != 0
    found = modalities._donors(y, has, same, np.random.default_rng(0))
    for row in np.flatnonzero(has):
        assert found[row] != row
        assert has[found[row]]
        assert (y[found[row]] == y[row]) == same
    lonely = modalities._donors(np.array([0, 1]), np.array([True, True]), True, np.random.default_rng(0))
    assert lonely.tolist() == [0, 1]


def learnt(rows: Judged, tried: Any, folds: np.ndarray) -> Calibration:
    scaled = scale(rows, tried, folds, chosen_elsewhere=False)
    return learn(rows, scaled, aim=None, positive=None, seed=3)


def test_everything_at_once_is_plain_json() -> None:
    network = model()
    outputs, _, y = told(network)
    y = (y > 0).astype(int)
    rows = Judged(outputs, y, np.arange(40), np.arange(40) // 4)
    calibration = learnt(rows, [], np.arange(40) // 4 % 5)
    rivals = {"other": lambda _: softmax(outputs.f)}
    found = analyse(network, "two-stage", calibration, rows, ["a", "b", "c"], rivals, **HOW).as_dict()
    assert list(found) == [
        "subsets", "shapley", "missing", "interference", "conformal", "risk_coverage", "worst_group", "threshold",
    ]  # fmt: skip
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert {row["method"] for row in found["missing"]} == {"two-stage", "other"}
    assert "average over groups" in found["conformal"]["caveat"]


def test_calibration_survives_being_written() -> None:
    sets = Conformal({"lac": 0.8, "aps": 0.9}, {"lac": {OTHER: float("inf")}, "aps": {OTHER: 0.5}}, seed=3)
    given = Calibration(1.5, sets, "npv >= 0.5", 1, 0.25)
    assert Calibration.read(json.loads(json.dumps(given.describe(), allow_nan=False))) == given


def test_what_is_learnt_comes_from_the_crossfitted_logits() -> None:
    network = model()
    outputs, _, y = told(network)
    rows, folds = Judged(outputs, y, np.arange(40), None), np.arange(40) % 5
    shown = outputs.f.double().numpy()
    own = learnt(rows, [], folds)
    same = learnt(rows, [shown, 100 * shown], folds)
    other = learnt(rows, [np.zeros_like(shown)], folds)
    assert same == own  # every fold prefers the finished model
    assert other.conformal.pooled["lac"] == pytest.approx(2 / 3)  # a candidate that says 1/3 everywhere


def test_too_many_modalities_have_no_subsets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fusetune.evaluate.analysis.MOST", 1)
    network = model()
    outputs, _, y = told(network)
    rows = Judged(outputs, y, np.arange(40), None)
    found = analyse(network, "two-stage", Calibration(), rows, ["a", "b", "c"], {}, **HOW)
    assert found.subsets is None
    assert found.shapley is None
    assert found.conformal is None
    assert row_shares(Probe(network, outputs, 1.0)) == {}


@pytest.mark.parametrize("many", [1, 3, 6])
def test_rows_are_told_by_their_own_subset_however_many_modalities_there_are(many: int) -> None:
    names, labels = [f"m{at}" for at in range(many)], np.arange(50) % 3
    effect, asked = np.random.default_rng(0).normal(size=(many, 50, 3)), list[int]()

    def masked(present: Any) -> Any:
        asked.append(1)
        has = np.stack([present[name].numpy() for name in names])
        return softmax((effect * has[:, :, None]).sum(0))

    told = modalities._by_pattern(masked, names, labels, CLASSES)
    for draw in range(3):
        mask = missing_masks(names, np.arange(50), 0.4, draw, 0)
        right, lost = told(mask)
        np.testing.assert_array_equal(right, metrics.correct_rows(masked(mask), labels))
        np.testing.assert_allclose(lost, metrics.nll_rows(masked(mask), labels))
    # Six modalities have more subsets than there are draws at all rates.
    assert len(asked) == 6 + (2**many if many < 6 else 3)
