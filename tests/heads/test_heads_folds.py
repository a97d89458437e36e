"""Folds: whole groups, every deal its own, nobody judged by what learnt from it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import torch
from strategies_context import make_context
from tiny import tiny_table
from torch.nn import functional as F

from fusetune.config import HeadConfig
from fusetune.context import Context
from fusetune.data.split import deal, joined
from fusetune.heads import folds as folds_module
from fusetune.heads.base import HeadData, logits_of
from fusetune.heads.folds import Folds, fit_on, make_folds, row_folds

WIDE = 40
CELLS = ["age", "site"]


def context(folder: Path, how: str = "k", **more: Any) -> Context:
    return make_context(folder, tiny_table(folder / "data"), CELLS, crossfit__how=how, **more)


def noise(rows: int, views: int = 1) -> dict[str, npt.NDArray[np.float32]]:
    """Return features that tell nothing, and enough of them to tell the rows that were learnt from apart."""
    return {"columns": np.random.default_rng(0).normal(size=(views, rows, WIDE)).astype(np.float32)}


def nll(ctx: Context, logits: torch.Tensor, rows: npt.NDArray[np.int64]) -> float:
    return float(F.cross_entropy(logits, torch.from_numpy(ctx.labels[rows])))


def partition(folds: npt.NDArray[np.int64]) -> set[frozenset[int]]:
    """Return which places share a fold, whatever the folds are called."""
    return {frozenset(np.flatnonzero(folds == fold).tolist()) for fold in np.unique(folds)}


def test_what_is_said_of_rows_by_a_crossed_head_is_not_what_the_head_says(tmp_path: Path) -> None:
    ctx = context(tmp_path)
    folds = make_folds(ctx)
    z = noise(len(folds.rows))
    fit, said = fit_on(ctx, folds, z, z, HeadConfig(penalties=(1e-4,)))
    own = logits_of(fit.head, HeadData.of(ctx, z, folds.rows))
    assert nll(ctx, own, folds.rows) < 0.3, "the head does not remember its rows, so nothing was tested"
    assert fit.held is not None
    # Certain of rows that it knows, a head is wrong about others: far above the log 3 of knowing nothing.
    assert nll(ctx, said, folds.rows) > 1.5
    assert nll(ctx, torch.from_numpy(fit.held), folds.rows) == pytest.approx(nll(ctx, said, folds.rows), abs=1e-5)
    assert fit.valid_nll == pytest.approx(nll(ctx, said, folds.rows), abs=1e-5)


@pytest.mark.parametrize("kind", ["ridge", "mlp"])
def test_heads_that_need_rows_to_stop_by_do_not_learn_from_them(tmp_path: Path, kind: str) -> None:
    ctx = context(tmp_path)
    folds = make_folds(ctx)
    z, config = noise(len(folds.rows)), HeadConfig(kind=kind, penalties=(1e-4,), epochs=5)  # type: ignore[arg-type]
    seen: list[npt.NDArray[np.int64]] = []
    plain = folds_module.fit_head

    def watched(data: HeadData, valid: HeadData, *rest: Any, **more: Any) -> Any:
        seen.append(data.keys)
        return plain(data, valid, *rest, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(folds_module, "fit_head", watched)
        _, said = fit_on(ctx, folds, z, z, config)
    assert len(said) == len(folds.valid_places)
    assert set(seen[0]) == set(ctx.keys[ctx.split.rows("train")])


def test_heads_weigh_groups_and_classes_as_the_run_does(tmp_path: Path) -> None:
    ctx = context(tmp_path, data__class_weights={"lung": 4.0})
    rows = make_folds(ctx).rows
    weights = HeadData.of(ctx, noise(len(rows)), rows).weights
    assert np.unique(weights.round(6)).size == 6  # patients of one, two and three rows, with a rare class and without
    np.testing.assert_array_equal(weights, ctx.row_weights(rows))


def test_every_fold_has_whole_groups_of_all_classes(tmp_path: Path) -> None:
    ctx = context(tmp_path)
    folds, groups = make_folds(ctx), ctx.groups
    assert groups is not None
    assert sorted(folds.rows) == sorted([*ctx.split.rows("train"), *ctx.split.rows("valid")])
    rows = np.concatenate([ctx.split.rows("train"), ctx.split.rows("valid")])
    for dealt, of in ((folds.encoder, folds.rows), (folds.head, folds.rows), (row_folds(ctx, rows), rows)):
        sides = groups.iloc[of].groupby(dealt).agg(set)
        assert sum(map(len, sides)) == groups.iloc[of].nunique(), "a group is in several folds"
        assert all(set(ctx.labels[of][dealt == fold]) == {0, 1, 2} for fold in np.unique(dealt))
    assert np.array_equal(folds.rows[folds.valid_places], ctx.split.rows("valid"))


def test_copies_are_in_one_fold_though_their_groups_differ(tmp_path: Path) -> None:
    for how in ("k", "holdout"):
        ctx = context(tmp_path, how)
        assert ctx.groups is not None
        plain = make_folds(ctx)
        rows = np.concatenate([plain.rows, plain.encoder_rows])
        # Pairs of patients of one class, each with a row that is a copy of one of the other.
        copies, first = np.full(len(ctx.ids), -1), ctx.groups.iloc[rows].drop_duplicates().index.to_numpy()
        for label in range(3):
            for number, pair in enumerate(first[ctx.labels[first] == label][:8].reshape(-1, 2)):
                copies[pair] = 10 * label + number
        joint = replace(ctx, units=joined(ctx.groups, copies), _memory={})
        folds = make_folds(joint)
        deals = [(folds.encoder, folds.rows), (folds.head, folds.rows), (row_folds(joint, folds.rows), folds.rows)]
        if how == "holdout":
            both = np.concatenate([folds.rows, folds.encoder_rows])
            deals = [(np.isin(both, folds.rows).astype(np.int64), both), (row_folds(joint, both), both)]
        for dealt, of in deals:
            sides = pd.Series(dealt)[copies[of] >= 0].groupby(copies[of][copies[of] >= 0]).nunique()
            assert sides.max() == 1, "a set of copies is in several folds"
            assert ctx.groups.iloc[of].groupby(dealt).agg(set).map(len).sum() == ctx.groups.iloc[of].nunique()


def test_no_two_deals_are_the_same(tmp_path: Path) -> None:
    """Encoders, heads, temperatures and the split itself: folds that coincide would share their luck."""
    ctx = context(tmp_path, crossfit__folds=5)
    folds = make_folds(ctx)
    ids, groups = ctx.ids.iloc[folds.rows], ctx.groups
    assert groups is not None
    split = deal(ids, ctx.labels[folds.rows], groups.iloc[folds.rows], (0.2,) * 5, ctx.config.seed)
    deals = [partition(each) for each in (split, folds.encoder, folds.head, row_folds(ctx, folds.rows))]
    assert all(len(one) == 5 for one in deals)
    assert all(not one & other for at, one in enumerate(deals) for other in deals[:at])


def test_a_part_that_is_held_out_for_the_head_is_kept_from_the_encoders(tmp_path: Path) -> None:
    ctx = context(tmp_path, how="holdout")
    folds, groups = make_folds(ctx), ctx.groups
    assert groups is not None
    assert sorted([*folds.rows, *folds.encoder_rows]) == ctx.split.rows("train").tolist()
    assert not set(groups.iloc[folds.rows]) & set(groups.iloc[folds.encoder_rows])
    assert np.array_equal(folds.choice_rows, ctx.split.rows("valid"))


def test_without_cross_fitting_validation_rows_are_only_chosen_by(tmp_path: Path) -> None:
    ctx = context(tmp_path, how="off")
    folds: Folds = make_folds(ctx)
    for rows in (folds.rows, folds.encoder_rows):
        assert np.array_equal(rows, ctx.split.rows("train"))
    assert np.array_equal(folds.choice_rows, ctx.split.rows("valid"))
    assert not folds.pooled
