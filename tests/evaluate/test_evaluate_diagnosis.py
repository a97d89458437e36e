"""Each part of a diagnosis against a naive loop, a closed form, or what is really there."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import betabinom
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import r2_score
from torch import nn

from fusetune.augment.random import Moment, normal, uniform
from fusetune.config import Config
from fusetune.data.cells import CellInput, CellSource
from fusetune.data.choices import Kind
from fusetune.data.schema import Modality
from fusetune.data.source import row_digests
from fusetune.data.table import Table
from fusetune.data.vectors import VectorInput, VectorSource
from fusetune.encoders import CellIdentity, Encoder, Identity
from fusetune.errors import TableError
from fusetune.evaluate import means, metrics, proportion
from fusetune.evaluate.calibration import Judged
from fusetune.evaluate.conformal import COVERAGE, OTHER, Conformal, fit_conformal
from fusetune.evaluate.conformal import LEVELS as LEVELS_OF_SETS
from fusetune.evaluate.diagnosis import Asked, CellMasks, Diagnosed, Parts, Wanted, diagnose
from fusetune.evaluate.diagnosis.asked import ALL
from fusetune.evaluate.diagnosis.attack import RADII, STEPS, attack_features, attacked
from fusetune.evaluate.diagnosis.certainty import certainty, coverages
from fusetune.evaluate.diagnosis.curves import area_weights, curves, judged_rows
from fusetune.evaluate.diagnosis.incomplete import column_importance, incomplete_columns, without_cells
from fusetune.evaluate.diagnosis.interference import interference
from fusetune.evaluate.diagnosis.laziness import ALONE, BEFORE, probe_laziness, solved
from fusetune.evaluate.diagnosis.missing import missing_curves
from fusetune.evaluate.diagnosis.noise import FEATURES, LEVELS, fewer_words, noise_curves, noisy_features, noisy_pixels
from fusetune.evaluate.measures import Labels, Numbers
from fusetune.evaluate.modalities import RATES, misled, missing_masks
from fusetune.evaluate.reach import Reaches
from fusetune.evaluate.temperature import softmax
from fusetune.heads.linear import LinearHead
from fusetune.inputs import Reader
from fusetune.networks import EnsembleNetwork, FusionNetwork, Outputs, Wiring
from fusetune.report.diagnosis import render_diagnosis
from fusetune.runtime import start_runtime
from fusetune.targets import Multilabel, Regression

HOW = {"resamples": 100, "seed": 3}
CONFIG = Config.build({"device": "cpu", "threads": 1, "evaluate": {"resamples": 100}, "seed": 3})
RUNTIME = start_runtime(CONFIG)
NUMBERS, LABELS = Numbers(Regression("y", 10.0, 2.0)), Labels(Multilabel(["u", "v"]))


def linear_network(widths: dict[str, int], classes: int, encoders: list[Encoder] | None = None) -> FusionNetwork:
    """Features as they are, and a linear head on them."""
    torch.manual_seed(0)
    names = list(widths)
    wiring = Wiring(names, {}, {name: at for at, name in enumerate(names)}, [])
    head = LinearHead(widths, classes)
    nn.init.normal_(head.linear.weight, std=1.5)
    found = encoders or [Identity(width) for width in widths.values()]
    return FusionNetwork(found, [], head, wiring).eval().requires_grad_(False)


def vectors(widths: dict[str, int], classes: int, rows: int = 45, every: bool = False) -> tuple[Diagnosed, Asked]:
    """A linear model on vectors, and rows of which some lack something."""
    generator = torch.Generator().manual_seed(1)
    labels = np.arange(rows) % classes
    sources, readers = {}, {}
    for name, width in widths.items():
        has = (torch.rand(rows, generator=generator) > (0.0 if every else 0.2)).numpy()
        values = torch.randn(rows, width, generator=generator).numpy()
        values[:, 0] += labels
        values[~has] = 0
        sources[name] = VectorSource(values, has, row_digests(values))
        fitted = VectorInput(columns=[name], mean=[0.0] * width, std=[1.0] * width)
        readers[name] = Reader(Modality(name, "vector", (name,)), fitted)
    network = linear_network(widths, classes)
    model = Diagnosed(network, readers, 1.3, RUNTIME)
    return model, asked_of(network, sources, labels)


def asked_of(network: Any, sources: dict[str, Any], labels: np.ndarray) -> Asked:
    rows = len(labels)
    present = {name: torch.from_numpy(source.present) for name, source in sources.items()}
    with torch.inference_mode():  # as a saved model is asked
        raw = {name: source.read(np.flatnonzero(source.present)) for name, source in sources.items()}
        outputs: Outputs = network(raw, present)
    keys = np.random.default_rng(5).integers(0, 2**62, rows)
    table = Table(pd.DataFrame({"row": np.arange(rows)}), "t", Path())
    return Asked(table, sources, np.arange(rows), Judged(outputs, labels, keys, np.arange(rows) // 3))


def labelled(asked: Asked, labels: np.ndarray, measure: Any) -> Asked:
    return replace(asked, judged=replace(asked.judged, labels=labels, measure=measure))


def number_of(widths: dict[str, int], every: bool = False) -> tuple[Diagnosed, Asked]:
    """The model of one number, which is 10 + 2 f, on rows that it is about right of."""
    model, asked = vectors(widths, 1, every=every)
    f = asked.judged.outputs.f[:, 0].double().numpy()
    truth = f + np.random.default_rng(2).normal(0, 0.5, len(f))
    return replace(model, temperature=1.0), labelled(asked, truth, NUMBERS)


# Curves.


def test_the_area_is_that_of_trapezoids() -> None:
    for levels in (RATES, LEVELS, (0.0, 0.1, 0.25, 0.5)):
        heights = np.random.default_rng(0).random(len(levels))
        naive = sum((levels[k + 1] - levels[k]) * (heights[k] + heights[k + 1]) / 2 for k in range(len(levels) - 1))
        assert area_weights(levels) @ heights == pytest.approx(naive / (levels[-1] - levels[0]))
    assert area_weights([0.5]).tolist() == [1]


def test_a_curve_is_means_over_rows_with_their_intervals() -> None:
    random, groups = np.random.default_rng(0), np.arange(30) // 2
    right, lost = random.integers(0, 2, (30, 3)).astype(float), random.random((30, 3))
    right[:, 2] = random.random(30)  # a mean of several draws
    labels = np.zeros(30, dtype=np.int64)
    first, _ = curves((0, 0.5, 2), {"a": right, "b": right}, {"a": lost, "b": lost}, labels, groups, **HOW)
    assert [point.level for point in first.points] == [0, 0.5, 2]
    for at, point in enumerate(first.points):
        assert point.accuracy.value == pytest.approx(right[:, at].mean())
        assert point.nll == means(lost, groups, **HOW)[at]
    assert first.points[0].accuracy == proportion(right[:, 0], groups)
    assert first.points[2].accuracy == means(right, groups, **HOW)[2]
    area = right @ np.array([0.125, 0.5, 0.375])
    assert first.area == means(area[:, None], groups, **HOW)[0]
    assert curves((0, 1), {}, {}, labels, None, **HOW) == []


def test_a_curve_of_a_number_is_its_r2_and_mean_error() -> None:
    random, groups = np.random.default_rng(0), np.arange(30) // 2
    truth, errors = random.normal(0, 1.5, 30), random.normal(0, 0.5, (30, 3))
    answers = [NUMBERS.target.numbers(truth + errors[:, [at]].T).T for at in range(3)]
    right, lost = judged_rows(answers, truth, NUMBERS)
    (curve,) = curves((0, 0.5, 2), {"a": right}, {"a": lost}, truth, groups, NUMBERS, **HOW)
    y, weights = NUMBERS.target.numbers(truth), np.array([0.125, 0.5, 0.375])
    scores = np.array([r2_score(y, answer) for answer in answers])
    assert [point.accuracy.value for point in curve.points] == pytest.approx(scores)
    assert [point.nll.value for point in curve.points] == pytest.approx(np.abs(2 * errors).mean(0))
    assert (curve.area.value, curve.nll_area.value) == pytest.approx(
        (scores @ weights, np.abs(2 * errors).mean(0) @ weights)
    )
    whole = NUMBERS.score_means(right, truth, groups, **HOW)
    assert [point.accuracy for point in curve.points] == whole


@pytest.mark.parametrize("widths", [{"a": 3, "b": 2}, {"a": 2, "b": 2, "c": 3}, dict.fromkeys("abcde", 2)])
def test_missing_rates_against_a_loop_over_rows(widths: dict[str, int]) -> None:
    model, asked = vectors(widths, 3)
    told, probe = asked.judged, model.probe(asked)
    (curve,) = missing_curves({"m": probe.again}, list(widths), told.labels, told.keys, told.groups, **HOW)
    assert [point.level for point in curve.points] == list(RATES)
    for rate in (0.0, 0.3, 0.9):
        right, lost = [], []
        for draw in range(5 if rate else 1):
            mask = missing_masks(list(widths), told.keys, rate, draw, 3)
            for row, label in enumerate(told.labels):
                one = {name: told.outputs.present[name][row] & mask[name][row] for name in widths}
                z = {name: told.outputs.z[name][row : row + 1] for name in widths}
                logits = model.network.fuse(z, {name: bit[None] for name, bit in one.items()}).f.numpy()
                p = softmax(logits, 1.3)[0]
                right.append(p.argmax() == label)
                lost.append(-math.log(p[label]))
        point = curve.points[RATES.index(rate)]
        assert point.accuracy.value == pytest.approx(np.mean(right))
        assert point.nll.value == pytest.approx(np.mean(lost), rel=1e-5)


# Missing cells.


def cells() -> tuple[Table, CellInput, np.ndarray]:
    random = np.random.default_rng(2)
    rows = 60
    labels = np.arange(rows) % 3
    frame = pd.DataFrame(
        {
            "noise": random.normal(size=rows),
            "age": labels * 2 + random.normal(0, 0.1, rows),
            "seen": pd.Series(np.where(random.random(rows) < 0.5, "2020-01-05", "2021-07-09")),
            "site": pd.Series([f"s{k}" for k in random.integers(0, 3, rows)]),
            "smokes": pd.Series(np.where(random.random(rows) < 0.5, "true", "false")),
        }
    )
    frame.loc[[3, 8], "age"] = np.nan
    kinds = {"noise": Kind.NUMBER, "age": Kind.NUMBER, "seen": Kind.DATE, "site": Kind.CATEGORY, "smokes": Kind.BOOLEAN}
    table = Table(frame, "cells", Path())
    return table, CellInput.fit(table, kinds, np.arange(40)), labels


def test_masks_against_their_definitions() -> None:
    names, keys = list("abcdefg"), np.random.default_rng(0).integers(0, 2**62, 300)
    importance = {name: share / 28 for name, share in zip(names, (1, 7, 3, 2, 6, 5, 4), strict=True)}
    masks = CellMasks.draw([str(k) for k in range(300)], keys, names, importance, seed=4)
    assert masks.ways == ["RVM", "RFM", "MIFM", "LIFM"]
    for rate in RATES:
        for at, key in enumerate(keys[:20]):
            chance = uniform(Moment(4), torch.tensor([key]), "missing cells", 7)[0]
            assert masks.missing("RVM", rate)[at].tolist() == [float(u) < rate for u in chance]
        for way in ("RFM", "MIFM", "LIFM"):
            gone = masks.missing(way, rate)
            assert (gone == gone[0]).all()  # the same columns in all rows
            assert gone[0].sum() == round(rate * 7)
    assert masks.missing("RVM", 0.4).mean() == pytest.approx(0.4, abs=0.03)
    by_rank = [name for _, name in sorted((importance[name], name) for name in names)]
    assert [n for n, gone in zip(names, masks.missing("LIFM", 0.4)[0], strict=True) if gone] == sorted(by_rank[:3])
    assert [n for n, gone in zip(names, masks.missing("MIFM", 0.4)[0], strict=True) if gone] == sorted(by_rank[-3:])
    for way in masks.ways:
        for less, more in pairwise(RATES):
            assert not (masks.missing(way, less) & ~masks.missing(way, more)).any()
    assert CellMasks.draw(["x"], keys[:1], names, {}, 4).ways == ["RVM", "RFM"]
    assert (CellMasks.draw(["x"], keys[7:8], names, {}, 4).chance[0] == masks.chance[7]).all()
    assert CellMasks.draw(["x"], keys[:1], names, {}, 5).orders != {"RFM": masks.orders["RFM"]}


def test_masks_are_kept_and_shared(tmp_path: Path) -> None:
    ids, names = ["x", "y", "z"], ["a", "b"]
    masks = CellMasks.draw(ids, np.arange(3), names, {"a": 0.25, "b": 0.75}, 7)
    masks.save(tmp_path / "m.parquet")
    again = CellMasks.load(tmp_path / "m.parquet", ["z", "x"], ["b", "a"])
    assert again.seed == 7
    assert again.importance == masks.importance
    assert (again.orders, again.rows) == (masks.orders, ["z", "x"])
    assert (again.chance == masks.chance[[2, 0]][:, [1, 0]]).all()
    assert again.missing("MIFM", 0.5)[0].tolist() == [True, False]
    with pytest.raises(TableError, match="other columns"):
        CellMasks.load(tmp_path / "m.parquet", ids, ["a", "c"])
    with pytest.raises(TableError, match="no mask of row"):
        CellMasks.load(tmp_path / "m.parquet", ["x", "w"], names)
    pd.DataFrame({"row_id": ids}).to_parquet(tmp_path / "other.parquet")
    (tmp_path / "broken.parquet").write_text("no parquet")
    for name in ("other", "broken"):
        with pytest.raises(TableError, match="holds no masks"):
            CellMasks.load(tmp_path / f"{name}.parquet", ids, names)


def test_a_cell_taken_away_equals_an_empty_cell_of_the_table() -> None:
    table, fitted, _ = cells()
    missing = np.random.default_rng(0).random((60, 5)) < 0.5
    missing[11] = True
    emptied = table.frame.mask(pd.DataFrame(missing, columns=table.frame.columns))
    expected = fitted.bind(replace(table, frame=emptied))
    found = without_cells(fitted, fitted.bind(table), missing)
    assert not found.present[11]
    assert (found.present == expected.present).all()
    for field in ("numbers", "missing", "codes", "digests"):
        np.testing.assert_array_equal(getattr(found, field), getattr(expected, field))


def test_importance_finds_the_column_that_tells() -> None:
    table, fitted, labels = cells()
    rows = np.arange(40)
    found = column_importance(fitted, fitted.bind(table), rows, labels[rows], 0)
    assert list(found) == list(fitted.kinds)
    assert sum(found.values()) == pytest.approx(1)
    assert max(found, key=found.__getitem__) == "age"


def test_missing_cells_against_tables_with_empty_cells() -> None:
    table, fitted, labels = cells()
    source = fitted.bind(table)
    encoder = CellIdentity(len(fitted.numbers), fitted.cardinalities)
    values = np.random.default_rng(0).normal(size=(60, 2)).astype(np.float32)
    sources: dict[str, Any] = {
        "columns": source, "v": VectorSource(values, np.ones(60, bool), row_digests(values))
    }  # fmt: skip
    network = linear_network({"columns": encoder.dim, "v": 2}, 3, [encoder, Identity(2)])
    readers = {"columns": Reader(Modality("columns", "columns", tuple(fitted.kinds)), fitted)}
    model = Diagnosed(network, readers, 1.0, RUNTIME)
    asked = asked_of(network, sources, labels).some(np.array([5, 40, 11, 3, 59, 20]))
    masks = CellMasks.draw(list("abcdef"), asked.judged.keys, list(fitted.kinds), {}, 3)
    found = incomplete_columns(model, "columns", asked, masks, **HOW)
    assert [curve.name for curve in found.curves] == ["RVM", "RFM"]
    for curve in found.curves:
        for at, rate in enumerate(RATES):
            frame = table.frame.iloc[asked.where].reset_index(drop=True)
            emptied = frame.mask(pd.DataFrame(masks.missing(curve.name, rate), columns=frame.columns))
            here: CellSource = fitted.bind(replace(table, frame=emptied))
            told = asked_of(network, {"columns": here, "v": some_vectors(values, asked)}, asked.judged.labels)
            p = softmax(told.judged.outputs.f.numpy())
            assert curve.points[at].nll.value == pytest.approx(metrics.nll(p, asked.judged.labels), rel=1e-5)
            assert curve.points[at].accuracy.value == pytest.approx(metrics.accuracy(p, asked.judged.labels))


def some_vectors(values: np.ndarray, asked: Asked) -> VectorSource:
    return VectorSource(values[asked.where], np.ones(len(asked), bool), row_digests(values[asked.where]))


# Noise.


def test_noise_on_vectors_is_of_the_features_own_size() -> None:
    model, asked = vectors({"a": 3, "b": 2}, 3)
    z, has = asked.judged.outputs.z["a"], asked.judged.outputs.present["a"]
    found = noisy_features(model, "a", asked, 3)
    assert len(found) == len(LEVELS)
    assert torch.equal(found[0], z)
    drawn = normal(Moment(3), torch.from_numpy(asked.judged.keys), "noise a", 3)
    for level, noisy in zip(LEVELS, found, strict=True):
        for column in range(3):
            spread = z[has][:, column].numpy().std()
            expected = z[:, column] + level * FEATURES * spread * drawn[:, column]
            torch.testing.assert_close(noisy[:, column], expected)


def test_noise_curves_against_a_loop() -> None:
    model, asked = vectors({"a": 3, "b": 2, "c": 2}, 3)
    told = asked.judged
    found = {curve.name: curve for curve in noise_curves(model, asked, **HOW)}
    assert list(found) == ["a", "b", "c", ALL]
    noisy = {name: noisy_features(model, name, asked, 3) for name in "abc"}
    for title, names in {"b": "b", ALL: "abc"}.items():
        for at in range(len(LEVELS)):
            z = {name: noisy[name][at] if name in names else told.outputs.z[name] for name in "abc"}
            kept = {name: torch.where(told.outputs.present[name][:, None], own, 0.0) for name, own in z.items()}
            p = softmax(model.network.fuse(kept, told.outputs.present).f.numpy(), 1.3)
            assert found[title].points[at].accuracy.value == pytest.approx(metrics.accuracy(p, told.labels))
            assert found[title].points[at].nll.value == pytest.approx(metrics.nll(p, told.labels), rel=1e-5)


def test_pixels_get_noise_of_their_row_and_stay_pixels() -> None:
    pictures, keys = torch.full((3, 3, 8, 8), 0.5), {4: 11, 7: 12, 9: 13}
    noisy = noisy_pixels(pictures, np.array([4, 7, 9]), keys=keys, deviation=0.1, seed=2)
    assert noisy.sub(0.5).std().item() == pytest.approx(0.1, rel=0.1)
    alone = noisy_pixels(pictures[:1], np.array([7]), keys=keys, deviation=0.1, seed=2)
    assert torch.equal(alone[0], noisy[1])  # whatever company it is in
    drawn = normal(Moment(2), torch.tensor([12]), "pixel noise", 3 * 8 * 8).view(3, 8, 8)
    torch.testing.assert_close(noisy[1], 0.5 + 0.1 * drawn)
    far = noisy_pixels(pictures, np.array([4, 7, 9]), keys=keys, deviation=5.0, seed=2)
    assert (far.min(), far.max()) == (0, 1)
    assert torch.equal(noisy_pixels(pictures[:1], np.array([4]), keys=keys, deviation=0.0, seed=2)[0], pictures[0])


def test_words_are_left_out_one_by_one_and_one_stays() -> None:
    texts = ["one two three four five six seven eight", "alone", "", None, "a b"]
    table = Table(pd.DataFrame({"note": pd.Series(texts, dtype="object")}), "t", Path())
    keys = np.array([7, 8, 9, 10, 11])
    before: list[Any] = texts
    for share in (0.2, 0.5, 0.8, 1.0):
        found = fewer_words(table, "note", np.arange(5), keys, share, 1).frame["note"].tolist()
        for row in (0, 1, 4):
            words = str(texts[row]).split()
            chance = uniform(Moment(1), torch.tensor([keys[row]]), "word noise", len(words))[0].tolist()
            kept = [word for word, u in zip(words, chance, strict=True) if u >= share]
            assert found[row].split() == (kept or [words[int(np.argmax(chance))]])
            assert set(found[row].split()) <= set(before[row].split())  # nested
        assert found[2] == ""
        assert pd.isna(found[3])
        before = found
    assert fewer_words(table, "note", np.arange(5), keys, 0.0, 1).frame["note"].tolist()[0] == texts[0]
    assert fewer_words(table, "note", np.array([4]), keys[4:], 1.0, 1).frame["note"].tolist()[0] == texts[0]
    assert table.frame["note"].tolist()[0] == texts[0]


# Attacks.


@pytest.mark.parametrize("names", ["a", "b", "ab"])
def test_an_attack_on_a_linear_network_is_the_closed_form(names: str) -> None:
    model, asked = vectors({"a": 3, "b": 2}, 2, every=True)
    probe, y = model.probe(asked), asked.judged.labels
    reach = {name: torch.tensor([0.3, 0.2, 0.1][: asked.judged.outputs.z[name].shape[1]]) for name in names}
    z = attacked(probe, torch.from_numpy(y), reach)
    found = probe.again(asked.judged.outputs.present, z)
    head = model.network.head
    weight = head.linear.weight.double().numpy()
    places = {"a": slice(0, 3), "b": slice(3, 5)}
    scales = {name: head.get_buffer(f"scale_{at}").double().numpy() for at, name in enumerate("ab")}
    for row, label in enumerate(y):
        other = 1 - label
        f = asked.judged.outputs.f[row].double().numpy()
        margin = f[label] - f[other]
        for name in names:
            slope = (weight[label] - weight[other])[places[name]] * scales[name]
            margin -= float((np.abs(slope) * reach[name].numpy()).sum())
        assert found[row, label] == pytest.approx(1 / (1 + math.exp(-margin / 1.3)), rel=1e-5)
    for name in names:
        moved = (z[name] - asked.judged.outputs.z[name]).abs()
        assert (moved <= reach[name] + 1e-6).all()
        assert (moved > reach[name] - 1e-5).all()


@pytest.mark.parametrize("widths", [{"a": 4}, {"a": 3, "b": 2, "c": 2}, dict.fromkeys("abcde", 2)])
def test_an_attack_stays_in_its_ball_and_never_helps(widths: dict[str, int]) -> None:
    model, asked = vectors(widths, 4)
    told, probe = asked.judged, model.probe(asked)
    spread = {name: told.outputs.z[name][told.outputs.present[name]].std(0, correction=0) for name in widths}
    losses = [metrics.nll_rows(probe.again(told.outputs.present), told.labels)]
    for radius in RADII:
        z = attacked(probe, torch.from_numpy(told.labels), {name: radius * spread[name] for name in widths})
        for name, own in z.items():
            assert ((own - told.outputs.z[name]).abs() <= radius * spread[name] + 1e-6).all()
            assert torch.equal(own[~told.outputs.present[name]], told.outputs.z[name][~told.outputs.present[name]])
        losses.append(metrics.nll_rows(probe.again(told.outputs.present, z), told.labels))
        assert (losses[-1] >= losses[0] - 1e-6).all()
        bare = ~np.any([bits.numpy() for bits in told.outputs.present.values()], axis=0)
        np.testing.assert_allclose(losses[-1][bare], losses[0][bare])
    attack = attack_features(model, asked, **HOW)
    assert [curve.name for curve in attack.curves] == [*widths, *([ALL] if len(widths) > 1 else [])]
    whole = attack.curves[-1]
    assert [point.nll.value for point in whole.points] == pytest.approx([loss.mean() for loss in losses])
    assert whole.points[-1].nll.value > whole.points[0].nll.value + 0.1
    assert "certifies nothing" in attack.warning
    assert attack.steps == STEPS == 10


def test_an_attack_on_what_is_not_read_changes_nothing() -> None:
    model, asked = vectors({"a": 3, "b": 2}, 3)
    model.network.head.linear.weight[:, 3:5] = 0
    first, second, _ = attack_features(model, asked, **HOW).curves
    assert first.points[-1].nll.value > first.points[0].nll.value
    assert len({point.nll.value for point in second.points}) == 1


def test_an_attack_on_a_number_adds_to_its_error_all_that_it_can() -> None:
    model, asked = number_of({"a": 3, "b": 2})
    probe, reach = model.probe(asked), {"a": torch.tensor([0.3, 0.2, 0.1])}
    z = attacked(probe, NUMBERS.target.tensor(asked.judged.labels), reach)
    head = model.network.head
    slope = head.linear.weight.double().numpy()[0, :3] * head.get_buffer("scale_0").double().numpy()
    f, y = asked.judged.outputs.f[:, 0].double().numpy(), asked.judged.labels
    found = NUMBERS.errors(probe.again(asked.judged.outputs.present, z), y)
    worst = np.abs(f - y) + np.where(asked.has("a"), np.abs(slope) @ reach["a"].numpy(), 0)
    assert np.abs(found) == pytest.approx(NUMBERS.target.deviation * worst, rel=1e-4)


# Interference.


def test_interference_against_a_loop_and_an_ignored_modality_costs_nothing() -> None:
    model, asked = vectors({"a": 3, "b": 2}, 3)
    model.network.head.linear.weight[:, 3:5] = 0  # b is not read
    told, probe = asked.judged, model.probe(asked)
    plain = probe.again(told.outputs.present)
    found = {(one.modality, one.kind): one for one in interference(model, asked, **HOW)}
    assert len(found) == 10
    for place, p in zip(*misled(probe, told.labels, 3), strict=True):
        one, has = found[place], told.outputs.present[place[0]].numpy()
        before, then, flips, harms, count = 0, 0, 0, 0, 0
        for row in np.flatnonzero(has):
            was, now = plain[row].argmax() == told.labels[row], p[row].argmax() == told.labels[row]
            before, then, count = before + was, then + now, count + 1
            flips += plain[row].argmax() != p[row].argmax()
            harms += was and not now
        assert one.rows == count
        assert one.groups == len(set(told.groups[has]))
        assert one.drop.value == pytest.approx((before - then) / count)
        assert (one.flip.value, one.harm.value) == pytest.approx((flips / count, harms / count))
        if place[0] == "b":
            assert (one.drop.value, one.flip.value, one.harm.value) == (0, 0, 0)
            assert (one.drop.low, one.drop.high) == (0, 0)
    assert found["a", "other class"].harm.value > 0


def test_a_number_is_no_decision_and_of_labels_one_is_enough() -> None:
    model, asked = number_of({"a": 3, "b": 2})
    told, probe = asked.judged, model.probe(asked)
    found = {(one.modality, one.kind): one for one in interference(model, asked, **HOW)}
    for place, p in zip(*misled(probe, told.labels, 3), strict=True):
        one, has = found[place], asked.has(place[0])
        y = NUMBERS.target.numbers(told.labels)[has]
        assert (one.flip, one.harm) == (None, None)
        assert one.drop.value == pytest.approx(r2_score(y, probe.p[has]) - r2_score(y, p[has]))
        assert one.nll.value == pytest.approx(np.abs(y - p[has, 0]).mean())
    model, asked = vectors({"a": 3, "b": 2}, 2)
    bits = np.random.default_rng(0).integers(0, 2, (len(asked), 2)).astype(np.float32)
    asked = labelled(asked, bits, LABELS)
    probe = model.probe(asked)
    found = {(one.modality, one.kind): one for one in interference(model, asked, **HOW)}
    for place, p in zip(*misled(probe, bits, 3), strict=True):
        one, rows = found[place], np.flatnonzero(asked.has(place[0]))
        flips = [any((probe.p[row] > 0.5) != (p[row] > 0.5)) for row in rows]
        harms = [all((probe.p[row] > 0.5) == bits[row]) and not all((p[row] > 0.5) == bits[row]) for row in rows]
        assert one.flip is not None and one.harm is not None
        assert (one.flip.value, one.harm.value) == pytest.approx((np.mean(flips), np.mean(harms)))
        assert one.accuracy.value == pytest.approx(((p > 0.5) == bits)[rows].mean())


# Certainty.


def test_coverage_of_an_exchangeable_simulation_is_what_was_promised() -> None:
    random, learn, rows, classes = np.random.default_rng(0), 1500, 3000, 3
    logits = random.normal(0, 2, (learn + rows, classes)).astype(np.float32)
    labels = np.array([random.choice(classes, p=p) for p in softmax(logits)])
    keys = random.integers(0, 2**62, learn + rows)
    p, pattern = softmax(logits), np.full(learn + rows, "a")
    conformal = fit_conformal(p[:learn], labels[:learn], keys[:learn], pattern[:learn], seed=1)
    f = torch.from_numpy(logits[learn:])
    outputs = Outputs({}, {}, f, {"a": torch.ones(rows, dtype=torch.bool)})
    told = Judged(outputs, labels[learn:], keys[learn:], None)
    asked = Asked(Table(pd.DataFrame(), "t", Path()), {}, np.arange(rows), told)
    rank = math.ceil((learn + 1) * COVERAGE)  # of learn + 1 exchangeable rows
    low, high = betabinom.ppf([0.001, 0.999], rows, rank, learn + 1 - rank) / rows
    names = [str(k) for k in range(classes)]
    found = coverages(conformal, p[learn:], asked, pattern[learn:], names, **HOW)
    assert [(one.method, one.mondrian) for one in found] == [
        ("lac", False), ("lac", True), ("aps", False), ("aps", True),
    ]  # fmt: skip
    for one in found:
        assert low <= one.coverage.value <= high
        assert one.coverage.low <= 0.9 + 0.01
        assert one.coverage.high >= 0.9 - 0.01
        sets = conformal.sets(one.method, p[learn:], keys[learn:], pattern[learn:] if one.mondrian else None)
        for at, each in enumerate(one.by_class):
            mine = [row for row in range(rows) if labels[learn + row] == at]
            assert each.rows == len(mine)
            assert each.coverage.value == pytest.approx(np.mean([sets[row, at] for row in mine]))
            assert each.size.value == pytest.approx(np.mean([sets[row].sum() for row in mine]))


def test_certainty_after_a_loss_is_that_of_what_is_left() -> None:
    model, asked = vectors({"a": 3, "b": 2}, 3)
    told, probe = asked.judged, model.probe(asked)
    p = probe.again(told.outputs.present)
    conformal = fit_conformal(p, told.labels, told.keys, told.pattern, told.groups)
    found = {one.lost: one for one in certainty(model, asked, conformal, ["x", "y", "z"], **HOW)}
    assert list(found) == [None, "a", "b"]
    without = probe.again({"a": torch.zeros(45, dtype=torch.bool), "b": told.outputs.present["b"]})
    assert found["a"].scores["ece"].value == pytest.approx(metrics.ece(without, told.labels))
    assert found["a"].scores["nll"].value == pytest.approx(metrics.nll(without, told.labels))
    assert found[None].scores["nll"].value == pytest.approx(metrics.nll(p, told.labels))
    assert {one.groups for one in found.values()} == {15}
    mondrian = found["a"].sets[1]
    pattern = np.where(told.outputs.present["b"].numpy(), "b", "nothing")
    sets = conformal.sets("lac", without, told.keys, pattern)
    assert mondrian.coverage.value == pytest.approx(sets[np.arange(45), told.labels].mean())
    assert certainty(model, asked, Conformal(), ["x", "y", "z"], **HOW)[0].sets == []


# Laziness.


def test_a_probe_is_multinomial_logistic_regression_at_the_chosen_penalty() -> None:
    model, asked = vectors({"a": 4}, 3, rows=150, every=True)
    del model
    learn, choose, judged = asked.some(slice(0, 90)), asked.some(slice(90, 120)), asked.some(slice(120, 150))
    z = [part.judged.outputs.z["a"].numpy() for part in (learn, choose, judged)]
    p, choice = solved(z, Parts(learn, choose, judged), 3)
    penalty = float(choice.removeprefix("penalty ").split(",")[0])
    centre, scale = z[0].mean(0), z[0].std(0) * 2  # the block is divided by the root of its width
    reference = LogisticRegression(C=1 / (penalty * 90), tol=1e-8, max_iter=5000)
    reference.fit((z[0] - centre) / scale, learn.judged.labels)
    np.testing.assert_allclose(p, reference.predict_proba((z[2] - centre) / scale), atol=2e-3)


def test_an_encoder_that_throws_its_input_away_is_lazy() -> None:
    rows, random = 240, np.random.default_rng(0)
    labels = random.integers(0, 2, rows)
    values = {name: random.normal(size=(rows, 2)).astype(np.float32) for name in "ab"}
    for own in values.values():
        own[:, 0] += 3 * labels
    sources = {name: VectorSource(own, np.ones(rows, bool), row_digests(own)) for name, own in values.items()}
    readers = {
        name: Reader(Modality(name, "vector", (name,)), VectorInput(columns=[name], mean=[0.0] * 2, std=[1.0] * 2))
        for name in "ab"
    }
    network = linear_network({"a": 2, "b": 2}, 2, [Identity(2), Blind(2)])
    model, asked = Diagnosed(network, readers, 1.0, RUNTIME), asked_of(network, sources, labels)
    parts = Parts(asked.some(slice(0, 120)), asked.some(slice(120, 160)), asked.some(slice(160, 240)))
    alone = {"b": np.eye(2)[labels[160:]] * 0.8 + 0.1}
    (a, b), notes = probe_laziness(model, parts, alone, CONFIG, **HOW)
    assert not notes
    assert (a.rows, a.groups, a.learnt, a.chosen) == (80, len(set(asked.judged.groups[160:])), 120, 40)
    assert [one.name for one in a.references] == [BEFORE]
    assert a.references[0].laziness.value == 0  # the encoder of a does nothing, before and after
    before, other = b.references
    assert (before.name, other.name) == (BEFORE, ALONE)
    assert before.accuracy.value == pytest.approx(metrics.accuracy(*probed(sources, labels)), abs=0.05)
    assert before.laziness.value == pytest.approx(before.accuracy.value - b.accuracy.value)
    assert before.laziness.low > 0.2
    assert before.laziness_nll.value == pytest.approx(b.nll.value - before.nll.value)
    assert other.accuracy.value == 1
    assert other.laziness.value == pytest.approx(1 - b.accuracy.value)


class Blind(Identity):
    """Says next to nothing of its input."""

    def forward(self, inputs: Any) -> Any:
        return torch.zeros_like(inputs) + 1e-3 * torch.sin(1e3 * inputs)


def probed(sources: dict[str, Any], labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    x = sources["b"].values
    fit = LogisticRegression().fit(x[:120], labels[:120])
    return fit.predict_proba(x[160:]), labels[160:]


# All together.


def test_intervals_after_a_loss_are_those_that_the_model_states() -> None:
    model, asked = number_of({"a": 3, "b": 2}, every=True)
    levels = {"a + b": [0.5] * len(LEVELS_OF_SETS), OTHER: [4.0] * len(LEVELS_OF_SETS)}
    found = {one.lost: one for one in certainty(model, asked, Conformal(), ["y"], Reaches(levels), **HOW)}
    probe, y = model.probe(asked), NUMBERS.target.numbers(asked.judged.labels)
    for lost, one in found.items():
        present = {name: bits & (name != lost) for name, bits in asked.judged.outputs.present.items()}
        errors = np.abs(probe.again(present)[:, 0] - y)
        stated, pooled = one.sets
        assert (stated.mondrian, pooled.mondrian) == (True, False)
        reach = 0.5 if lost is None else 4.0  # what no validation row lacked has that of all other patterns
        assert stated.coverage.value == pytest.approx((errors <= reach).mean())
        assert stated.size.value == pytest.approx(2 * reach)
        assert pooled.coverage.value == pytest.approx((errors <= 4.0).mean())
        assert set(one.scores) == {"r2", "mae", "rmse", "bias"}
        assert one.scores["mae"].value == pytest.approx(errors.mean())


@pytest.mark.parametrize("kind", ["regression", "multilabel"])
def test_a_probe_is_the_linear_model_of_its_target(kind: str) -> None:
    random = np.random.default_rng(0)
    z = [random.normal(size=(rows, 3)).astype(np.float32) for rows in (80, 40, 30)]
    parts = []
    for own in z:
        noise = random.normal(size=len(own))
        truth = (
            own[:, 0] - own[:, 1] + 0.3 * noise if kind == "regression" else (own[:, :2] > 0.2 * noise[:, None]) * 1.0
        )
        _, asked = vectors({"a": 3}, 2, rows=len(own), every=True)
        parts.append(labelled(asked, truth, NUMBERS if kind == "regression" else LABELS))
    p, choice = solved(z, Parts(*parts), 1 if kind == "regression" else 2)
    assert "penalty" in choice
    truth, measure = parts[2].judged.labels, parts[2].judged.measure
    assert measure.right_rows(p, truth).mean() > 0.85
    if kind == "regression":
        weights = np.linalg.lstsq(np.c_[z[0], np.ones(80)], parts[0].judged.labels, rcond=None)[0]
        expected = NUMBERS.target.numbers(np.c_[z[2], np.ones(30)] @ weights)
        np.testing.assert_allclose(p[:, 0], expected, atol=0.1)


@pytest.mark.parametrize("kind", ["regression", "multilabel"])
def test_numbers_and_labels_are_diagnosed_by_their_own_scores(kind: str) -> None:
    if kind == "regression":
        model, asked = number_of({"a": 3, "b": 2})
        names, reaches = ["y"], Reaches({OTHER: [4.0] * len(LEVELS_OF_SETS)})
    else:
        model, asked = vectors({"a": 3, "b": 2}, 2)
        bits = np.random.default_rng(0).integers(0, 2, (len(asked), 2)).astype(np.float32)
        asked, names, reaches = labelled(asked, bits, LABELS), ["u", "v"], Reaches()
    rows = [str(row) for row in range(len(asked))]
    wanted = Wanted(CONFIG, Conformal(), names, "joint", rows, reaches=reaches)
    found = diagnose(model, asked, None, wanted, seen=0, judged_seen=False)
    values, measure = found.as_dict(), asked.judged.measure
    assert json.loads(json.dumps(values, allow_nan=False)) == values
    assert values["target"]["kind"] == kind
    assert set(values["missing"][0]) == {"name", "points", "area", f"{measure.loss}_area"}
    assert set(values["subsets"][0]) == {"modalities", measure.score, measure.loss}
    assert values["noise"][0]["points"][0][measure.score] == pytest.approx(values["scores"][measure.score])
    assert bool(values["certainty"][1]["sets"]) == (kind == "regression")
    lines = {name: value for name, value, _ in found.lines()}
    whole = found.scores[measure.score].value
    assert lines["as they are"] == (f"{whole:.3f}" if kind == "regression" else f"{whole:.1%}")
    assert any(name.startswith("harm by") for name in lines) == (kind == "multilabel")
    page = render_diagnosis(found, "t.csv")
    assert ("R²" in page and "MAE" in page) == (kind == "regression")
    assert ("Label accuracy" in page) == (kind == "multilabel")
    assert "Accuracy by" not in page and "of another class" not in page


def test_a_model_that_reads_nothing_is_diagnosed_too() -> None:
    network = EnsembleNetwork([], [], [], torch.tensor([0.6, 0.4]).log()).eval()
    outputs = network.again(
        Outputs({}, {}, torch.zeros(6, 2), {"a": torch.ones(6, dtype=torch.bool)}),
        {"a": torch.ones(6, dtype=torch.bool)},
    )
    asked = Asked(
        Table(pd.DataFrame(), "t", Path()), {}, np.arange(6), Judged(outputs, np.arange(6) % 2, np.arange(6), None)
    )
    wanted = Wanted(CONFIG, Conformal(), ["x", "y"], "majority", [str(k) for k in range(6)])
    found = diagnose(Diagnosed(network, {}, 1.0, RUNTIME), asked, None, wanted, seen=0, judged_seen=False)
    assert (found.noise, found.interference, found.attack, found.incomplete, found.laziness) == ([], [], None, None, [])
    assert {point.accuracy.value for point in found.missing[0].points} == {0.5}
    values = found.as_dict()
    assert json.loads(json.dumps(values, allow_nan=False)) == values
    assert (values["rows"], values["groups"], values["seed"], values["level"]) == (6, None, 3, 0.95)
    assert any("no probes" in note for note in found.notes)
