"""What a run tells its stages: weights of rows and classes, moments that nobody shares, what was paid for twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from strategies_context import fresh_context
from tiny import CLASSES, tiny_table

from fusetune.context import Context
from fusetune.features.store import weights_hash


def context(folder: Path, **more: Any) -> Context:
    """Return a run of uneven classes: half of the training patients of the last one are gone."""
    frame = tiny_table(folder / "data")
    lungs = frame[(frame["organ"] == "lung") & (frame["part"] == "train")]
    rare = lungs["patient"].unique()[::2]
    return fresh_context(folder, frame[~frame["patient"].isin(rare)].reset_index(drop=True), ["age", "site"], **more)


def sums(ctx: Context, rows: Any) -> pd.Series:
    """Return the weight of each group of some rows."""
    assert ctx.groups is not None
    return pd.Series(ctx.row_weights(rows)).groupby(ctx.groups.iloc[rows].to_numpy()).sum()


def test_groups_count_alike_whatever_their_size(tmp_path: Path) -> None:
    ctx = context(tmp_path)
    assert ctx.groups is not None
    for rows in (ctx.split.rows("train"), ctx.split.rows("valid")[1:]):
        assert ctx.groups.iloc[rows].value_counts().nunique() > 1
        assert np.ptp(sums(ctx, rows)) < 1e-12
        assert ctx.row_weights(rows).mean() == pytest.approx(1)


def test_rows_count_alike_where_groups_do_not(tmp_path: Path) -> None:
    ctx = context(tmp_path, data__group_weights="none")
    rows = ctx.split.rows("train")
    assert ctx.row_weights(rows) == pytest.approx(np.ones(len(rows)))


@pytest.mark.parametrize("weights", ["none", "balanced", {"lung": 5.0, "heart": 0.5}])
def test_weights_of_classes_have_the_mean_1_over_the_training_rows(tmp_path: Path, weights: Any) -> None:
    ctx = context(tmp_path, data__class_weights=weights)
    labels = ctx.labels[ctx.split.rows("train")]
    counts = np.bincount(labels)
    assert counts[2] < counts[1]
    asked = {"none": np.ones(3), "balanced": 1 / counts}.get(str(weights), np.array([0.5, 1.0, 5.0]))
    assert ctx.label_weights[ctx.split.rows("train")].mean() == pytest.approx(1)
    found = np.array([ctx.label_weights[ctx.labels == label][0] for label in range(3)])
    assert found / found[1] == pytest.approx(asked / asked[1], rel=1e-6)
    assert ctx.classes == list(CLASSES)


def test_a_groups_weight_is_that_of_its_class(tmp_path: Path) -> None:
    ctx = context(tmp_path, data__class_weights="balanced")
    rows = ctx.split.rows("train")
    assert ctx.groups is not None
    label = pd.Series(ctx.labels[rows]).groupby(ctx.groups.iloc[rows].to_numpy()).first()
    each = np.array([ctx.label_weights[ctx.labels == one][0] for one in range(3)])
    shares = sums(ctx, rows) / each[label]
    assert np.ptp(shares) < 1e-12


def test_what_was_paid_for_once_counts_for_everybody_who_asks(tmp_path: Path) -> None:
    ctx = context(tmp_path)

    def train() -> str:
        ctx.trained_rows["columns"] += 7
        ctx.seconds["stage_u"] = ctx.seconds.get("stage_u", 0) + 2.0
        return "network"

    for times in (1, 2, 3):
        assert ctx.remember(("network", "a"), train) == "network"
        assert ctx.cost().passes["columns, training"] == 7 * times
        assert ctx.cost().seconds["stage_u"] == 2.0 * times
    assert ctx.trained_rows["columns"] == 7
    ctx.remember(("network", "a b"), train)
    ctx.forget("network", "a")
    assert not ctx.remembers(("network", "a"))
    assert ctx.remembers(("network", "a b"))


def test_the_head_sees_views_that_no_encoder_was_trained_on(tmp_path: Path) -> None:
    ctx = context(tmp_path, views=3)
    moments = {(moment.seed, moment.epoch, moment.view) for moment in ctx.views()}
    assert len(moments) == 3
    trained = [ctx.moment(epoch, view) for epoch in range(500) for view in range(9)]
    assert not moments & {(moment.seed, moment.epoch, moment.view) for moment in trained}


@pytest.mark.parametrize("change", ["nothing", "label", "part", "cell", "settings", "strategy", "threads"])
def test_checkpoints_belong_to_labels_split_inputs_and_settings(tmp_path: Path, change: str) -> None:
    frame, more = tiny_table(tmp_path / "data"), {}
    first = fresh_context(tmp_path, frame, ["age", "site"]).key
    match change:
        case "label":
            swapped = {"heart": "lung", "lung": "heart"}
            frame["organ"] = [swapped.get(organ, organ) for organ in frame["organ"]]
        case "part":
            frame["part"] = frame["part"].replace({"val": "test", "test": "val"})
        case "cell":
            frame.loc[0, "age"] += 1.0
        case "settings":
            more = {"train__lr": 5e-3}
        case "strategy":
            more = {"strategy": {"name": "ume"}}
        case "threads":
            more = {"threads": 2}
    second = fresh_context(tmp_path, frame, ["age", "site"], **more).key
    # A stage does not depend on who asks for it, and threads change no result.
    assert (first == second) == (change in ("nothing", "strategy", "threads"))


def test_nothing_is_learnt_from_the_inputs_of_test_rows(tmp_path: Path) -> None:
    """Scales, categories and words are those of the training rows, whatever the test part holds."""
    frame, inputs = tiny_table(tmp_path / "data"), ["age", "site", "note", "genes"]
    first = fresh_context(tmp_path, frame, inputs)
    test = frame["part"] == "test"
    frame.loc[test, "age"] *= 100
    frame.loc[test, "site"] = "another hospital"
    frame.loc[test, "note"] = "words that nobody else writes"
    frame.loc[test, [f"v_{i}" for i in range(4)]] -= 50
    second = fresh_context(tmp_path, frame, inputs)
    train = first.split.rows("train")
    for name in first.sources:
        assert weights_hash(second.pristine[name]) == weights_hash(first.pristine[name])
        one, other = (leaves(ctx.plain(name, ctx.sources[name].read(train))) for ctx in (first, second))
        assert one
        assert all(torch.equal(before, after) for before, after in zip(one, other, strict=True))


def leaves(inputs: Any) -> list[torch.Tensor]:
    """Return the tensors of an encoder's inputs."""
    if isinstance(inputs, torch.Tensor):
        return [inputs]
    parts = inputs.values() if isinstance(inputs, dict) else inputs
    return [leaf for part in parts for leaf in leaves(part)]
