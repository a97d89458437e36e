"""Numbers learnt as logarithms: the scale goes there and back, says when it asks to be tried, and trees learn on it."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from targets_tables import number_table
from tiny import settings, tiny_table

import fusetune
from fusetune.config import Config
from fusetune.context import Context
from fusetune.data.roles import Roles
from fusetune.data.table import read_table
from fusetune.errors import TableError
from fusetune.heads import build_head
from fusetune.heads.base import HeadData
from fusetune.heads.boosted import Boosting, fit_trees
from fusetune.heads.folds import make_folds
from fusetune.heads.trees import TreesHead
from fusetune.intake import schema_of, take_in
from fusetune.networks import FusionNetwork
from fusetune.progress import Log
from fusetune.runtime import start_runtime
from fusetune.strategies import tabular, weighted
from fusetune.strategies.linear_probe import frozen
from fusetune.targets import Classification, Logarithm, Multilabel, Regression

RNG = np.random.default_rng(0)
PRICES = np.exp(RNG.normal(3, 1, 500))


def standardised(numbers: np.ndarray) -> tuple[Regression, np.ndarray]:
    target = Regression("price").standardised(numbers)
    return target, (numbers - target.mean) / target.deviation


def test_the_scale_goes_there_and_back() -> None:
    target, f = standardised(PRICES)
    scale = target.logarithm(f)
    assert scale is not None
    g = scale.learnt(f)
    assert g == pytest.approx((np.log(PRICES) - np.log(PRICES).mean()) / np.log(PRICES).std(), abs=1e-9)
    assert scale.told(torch.from_numpy(g)).numpy() == pytest.approx(f, abs=1e-9)
    assert Logarithm.read(scale.values) == scale


def test_no_number_is_told_that_is_far_beyond_all_that_were_learnt_from() -> None:
    target, f = standardised(PRICES)
    scale = target.logarithm(f)
    assert scale is not None
    told = target.numbers(scale.told(torch.tensor([50.0, -50.0], dtype=torch.float64)).numpy())
    assert told == pytest.approx([PRICES.max() * math.exp(np.log(PRICES).std()), 0.0], abs=1e-6)


@pytest.mark.parametrize(
    ("numbers", "learnable", "asks"),
    [
        (PRICES, True, True),
        (RNG.normal(100, 10, 500), True, False),  # no long tail
        (PRICES - PRICES.min(), False, False),  # one is 0
        (-PRICES, False, False),
        (1e9 + PRICES, True, False),  # logarithms have the same tail
    ],
)
def test_skewed_numbers_above_0_ask_for_it(numbers: np.ndarray, learnable: bool, asks: bool) -> None:
    target, f = standardised(numbers)
    assert (target.logarithm(f) is not None, target.skewed(f)) == (learnable, asks)


def test_classes_and_labels_have_no_logarithms() -> None:
    for target, truth in (
        (Classification(["a", "b"]), np.array([0, 1])),
        (Multilabel(["a", "b"]), np.eye(2, dtype=np.float32)),
    ):
        assert target.logarithm(truth) is None
        assert not target.skewed(truth)


@pytest.mark.parametrize("values", [[0, 1, 0, 1], [0, 0, 0, 1, 1], [0, 1, 0, -1, 1], [0, 1, math.nan, 1, 1]])
def test_a_damaged_scale_is_refused(values: list[float]) -> None:
    with pytest.raises((ValueError, TypeError)):
        TreesHead({"x": 2}, 1, logarithm=values)


def products(rows: int = 600) -> tuple[HeadData, Regression]:
    """Numbers that are products: as logarithms, a sum of what two columns say."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(rows, 4))
    target, f = standardised(np.exp(x[:, 0] + x[:, 1] + rng.normal(0, 0.2, rows)))
    z, present = {"x": x.astype(np.float32)[None]}, {"x": np.ones(rows, dtype=bool)}
    return HeadData(z, present, f, np.ones(rows), np.arange(rows), target=Regression), target


def test_trees_of_logarithms_are_judged_in_the_numbers_own_unit_and_learn_products_better() -> None:
    data, target = products()
    scale = target.logarithm(data.labels)
    assert scale is not None
    folds, how = np.arange(600) % 3, Boosting(rounds=150, rate=0.1)
    plain = fit_trees(TreesHead({"x": 4}, 1), data, folds, how, seed=0, threads=1)
    logs = fit_trees(TreesHead({"x": 4}, 1, logarithm=scale.values), data, folds, how, seed=0, threads=1)
    assert logs.held is not None
    # By the formula: log root mean squared error of f itself.
    error = np.sqrt(((logs.held[:, 0] - data.labels) ** 2).mean())
    assert logs.valid_nll == pytest.approx(math.log(error), abs=1e-6)
    assert logs.valid_nll < plain.valid_nll - 0.1


def test_a_rows_own_number_reaches_no_booster_that_tells_it() -> None:
    data, target = products(300)
    scale = target.logarithm(data.labels)
    assert scale is not None
    folds, other = np.arange(300) % 3, data.labels.copy()
    other[folds == 0] = np.roll(other[folds == 0], 1)
    held = []
    for labels in (data.labels, other):
        blank, rows = TreesHead({"x": 4}, 1, logarithm=scale.values), replace(data, labels=labels)
        fit = fit_trees(blank, rows, folds, Boosting(rounds=1), seed=0, threads=1)
        assert fit.held is not None
        held.append(fit.held)
    assert held[0][folds == 0] == pytest.approx(held[1][folds == 0])
    assert not np.allclose(held[0][folds == 1], held[1][folds == 1])


def test_a_saved_head_of_logarithms_says_the_same() -> None:
    data, target = products(200)
    scale = target.logarithm(data.labels)
    assert scale is not None
    head = fit_trees(
        TreesHead({"x": 4}, 1, logarithm=scale.values), data, np.arange(200) % 2, Boosting(rounds=20), seed=0, threads=1
    ).head
    again = build_head(head.describe())
    again.load_state_dict(head.state_dict())
    z, present = {"x": torch.from_numpy(data.z["x"][0])}, {"x": torch.ones(200, dtype=torch.bool)}
    assert torch.equal(head(z, present), again(z, present))
    numbers = target.numbers(head(z, present).detach().numpy())
    assert (numbers > 0).all()


@pytest.mark.parametrize(
    ("numbers", "rows"),
    [
        (PRICES, {"trees": "plain", "trees of logarithms": "log", "randomised trees": "plain"}),
        (-PRICES, {"trees": "plain", "randomised trees": "plain"}),
    ],
)
def test_numbers_with_a_long_tail_are_weighed_on_both_scales(numbers: np.ndarray, rows: dict[str, str]) -> None:
    target, f = standardised(numbers)
    ctx: Any = SimpleNamespace(target=target, labels=f, split=SimpleNamespace(rows=lambda part: np.arange(len(f))))
    chosen = weighted._trees(ctx)
    assert {row: how.scale for row, (_, how) in chosen.items()} == rows
    assert [row for row, (_, how) in chosen.items() if how.grow == "randomised"] == ["randomised trees"]


def test_a_run_on_logarithms_is_saved_and_loaded(tmp_path: Path) -> None:
    frame = number_table(tmp_path, 192)[["age", "site", "part", "size"]]
    frame = frame.assign(size=np.exp(frame["size"] / 10))
    how: dict[str, Any] = {"name": "trees", "scale": "log", "rounds": 20, "rate": 0.2}
    given = settings(tmp_path / "store", strategy=how, evaluate={"resamples": 100, "baselines": False, "reference": 0})
    run = fusetune.fit(frame, "size", split="part", config=given, out=tmp_path / "run", quiet=True)
    said = fusetune.load(run.folder).predict(frame).to_numpy(dtype=float)
    assert (said > 0).all()
    logs = np.log(frame["size"])
    assert np.square(np.log(said) - logs).mean() < 0.2 * logs.var()


def test_logarithms_of_what_has_none_are_refused(tmp_path: Path) -> None:
    given = settings(tmp_path / "store", strategy={"name": "trees", "scale": "log"})
    frame = number_table(tmp_path, 48)[["age", "site", "part", "size"]]
    for table, label in (
        (frame.assign(size=frame["size"] - frame["size"].max()), "size"),
        (tiny_table(tmp_path / "tiny", 48)[["age", "site", "part", "organ"]], "organ"),
    ):
        with pytest.raises(TableError, match=r"scale: log learns logarithms, and these labels .*leave it out"):
            fusetune.fit(table, label, split="part", config=given, out=tmp_path / label, quiet=True)


def test_randomised_trees_are_for_numbers_as_they_are(tmp_path: Path) -> None:
    frame = tiny_table(tmp_path / "tiny", 48)[["age", "site", "part", "organ"]]
    numbers = number_table(tmp_path, 48)[["age", "site", "part", "size"]]
    for table, label, how, why in (
        (frame, "organ", {}, "averages labels, and these are no numbers"),
        (numbers, "size", {"scale": "log"}, "learns numbers as they are"),
    ):
        given = settings(tmp_path / "store", strategy={"name": "trees", "grow": "randomised", **how})
        with pytest.raises(TableError, match=why):
            fusetune.fit(table, label, split="part", config=given, out=tmp_path / label, quiet=True)


def test_a_run_of_randomised_trees_reads_logarithms_and_is_saved_and_loaded(tmp_path: Path) -> None:
    frame = number_table(tmp_path, 192)[["note", "age", "site", "part", "size"]]
    frame = frame.assign(size=np.exp(frame["size"] / 4))
    given = settings(
        tmp_path / "store", strategy={"name": "trees", "grow": "randomised"}, crossfit={"how": "k", "folds": 2},
        evaluate={"resamples": 100, "baselines": False, "reference": 0},
    )  # fmt: skip
    run = fusetune.fit(frame, "size", split="part", config=given, out=tmp_path / "run", quiet=True)
    assert isinstance(run.model.network, FusionNetwork)
    assert {"note of logarithms", "note words of logarithms"} <= set(run.model.network.head.dims)
    model = fusetune.load(run.folder)
    said = model.predict(frame).to_numpy(dtype=float)
    assert np.array_equal(said, run.model.predict(frame).to_numpy(dtype=float))
    assert np.square(np.log(said) - np.log(frame["size"])).mean() < 0.5 * np.log(frame["size"]).var()
    assert np.isfinite(model.predict(frame.drop(columns="note"), "mask").to_numpy(dtype=float)).all()


def number_context(folder: Path, frame: pd.DataFrame) -> Context:
    # One penalty: the choice among several is made by the rows of all folds.
    config = Config.build(settings(folder / "store", crossfit={"how": "k", "folds": 2}, head={"penalties": [1.0]}))
    table = read_table(frame)
    schema = schema_of(table, Roles("size", ["note", "age"], group="patient", split="part"), config)
    return take_in(table, "size", schema, config, None).context(config, start_runtime(config), Log(quiet=True))


def test_what_is_read_of_logarithms_was_learnt_from_other_rows(tmp_path: Path) -> None:
    frame = number_table(tmp_path)[["note", "age", "part", "patient", "size"]]
    frame["size"] = np.exp(frame["size"] / 4)
    first = number_context(tmp_path, frame)
    folds = make_folds(first)
    own = folds.rows[folds.head == 0]
    turned = frame["size"].to_numpy(copy=True)
    turned[own] = turned[own[::-1]]  # the same numbers, so that their scale is the same
    held = []
    for ctx in (first, number_context(tmp_path, frame.assign(size=turned))):
        encoder = frozen(ctx, "note")[0].networks[0].only[0]
        z = ctx.encode("note", encoder, folds.rows)[0]
        (block,) = tabular._of_logarithms(ctx, "note", encoder, z, folds)
        held.append(block.values[folds.head == 0])
    assert held[0] == pytest.approx(held[1], abs=1e-5)
