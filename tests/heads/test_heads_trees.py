"""Trees as tensors say what LightGBM says, and boosting is judged on rows that it did not learn from."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import lightgbm
import numpy as np
import pytest
import torch

from fusetune.heads import boosted, build_head, trees
from fusetune.heads.base import HeadData
from fusetune.heads.boosted import Boosting, fit_trees
from fusetune.heads.quickscorer import Scorer
from fusetune.heads.trees import Forest, TreesHead

ROWS = 400


def table(seed: int = 0) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], np.ndarray]:
    """Cells with gaps and categories, a wide block and a narrow one, some of it absent, and three classes."""
    rng = np.random.default_rng(seed)
    numbers, missing = rng.normal(size=(ROWS, 3)), rng.random((ROWS, 3)) < 0.2
    codes = rng.integers(0, [9, 4], (ROWS, 2))
    wide, narrow = rng.normal(size=(ROWS, 40)), rng.normal(size=(ROWS, 2))
    signal = np.where(missing[:, 0], 1.0, numbers[:, 0]) + (codes[:, 0] % 3) + narrow[:, 0] + 0.5 * wide[:, 0]
    labels = np.digitize(signal + rng.normal(0, 0.3, ROWS), [0.0, 1.5])
    z = {
        "cells": np.concatenate([numbers * ~missing, missing, codes], 1).astype(np.float32)[None],
        "wide": wide.astype(np.float32)[None],
        "narrow": narrow.astype(np.float32)[None],
    }
    present = {name: rng.random(ROWS) < 0.9 for name in z}
    return z, present, labels.astype(np.int64)


def data_of(classes: int = 3, seed: int = 0) -> HeadData:
    z, present, labels = table(seed)
    return HeadData(z, present, np.minimum(labels, classes - 1), np.ones(ROWS), np.arange(ROWS))


def blank(classes: int = 3) -> TreesHead:
    return TreesHead({"cells": 8, "wide": 40, "narrow": 2}, classes, {"cells": [3, 2]}, {"wide": 5})


def tensors(data: HeadData) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    z = {name: torch.from_numpy(block[0]) for name, block in data.z.items()}
    return z, {name: torch.from_numpy(bits) for name, bits in data.present.items()}


@pytest.mark.parametrize("gaps", [True, False], ids=["gaps in training", "gaps later"])
def test_tensors_say_what_lightgbm_says(gaps: bool) -> None:
    data, head = data_of(), blank()
    head.fit_reduction({name: block[0] for name, block in data.z.items()}, data.present)
    features = head.table(*tensors(data)).numpy()
    learnt = features if gaps else np.nan_to_num(features)
    rows = lightgbm.Dataset(learnt, data.labels, categorical_feature=head.categories, params={"verbosity": -1})
    how: dict[str, Any] = {"objective": "multiclass", "num_class": 3, "verbosity": -1, "max_cat_to_onehot": 1}
    booster = lightgbm.train(how | {"min_data_per_group": 5, "cat_smooth": 1}, rows, 30)
    forest = Forest()
    for number, tree in enumerate(booster.dump_model()["tree_info"]):
        forest.add(tree["tree_structure"], np.eye(3)[number % 3].tolist())
    assert len(forest.codes) > 0  # some nodes ask about categories
    strange = features.copy()
    strange[::3, head.categories[0]] = 77  # a code that training did not know
    strange[1::3, 0] = math.nan
    for asked in (features, strange):
        expected = booster.predict(asked, raw_score=True)
        torch.testing.assert_close(
            head.planted(forest).grown(torch.from_numpy(asked)), torch.from_numpy(expected), rtol=1e-9, atol=1e-9
        )


@pytest.mark.parametrize("classes", [2, 3])
def test_a_row_is_told_by_the_booster_that_did_not_learn_from_it(classes: int) -> None:
    data, folds = data_of(classes), np.arange(ROWS) % 4
    fit = fit_trees(blank(classes), data, folds, Boosting(rounds=60, rate=0.2), seed=0, threads=1)
    assert fit.held is not None
    assert 0.5 < (fit.held.argmax(1) == data.labels).mean() < 0.99  # the largest class: 0.39
    # Labels of one fold turned round: what is said of its rows stays, since nothing was learnt from them.
    turned = data.labels.copy()
    turned[folds == 2] = classes - 1 - turned[folds == 2]
    once = Boosting(rounds=1, stop_after=1)
    other = fit_trees(blank(classes), replace(data, labels=turned), folds, once, seed=0, threads=1)
    one = fit_trees(blank(classes), data, folds, once, seed=0, threads=1)
    assert other.held is not None
    assert one.held is not None
    assert np.array_equal(other.held[folds == 2], one.held[folds == 2])
    assert not np.array_equal(other.held[folds == 1], one.held[folds == 1])


def test_the_head_is_the_mean_of_the_boosters_and_is_built_again() -> None:
    data, folds = data_of(), np.arange(ROWS) % 4
    fit = fit_trees(blank(), data, folds, Boosting(rounds=20), seed=0, threads=1)
    head = fit.head.eval()
    again = build_head(head.describe())
    again.load_state_dict(head.state_dict())
    z, present = tensors(data)
    assert torch.equal(again.eval()(z, present), head(z, present))
    rubbish = {name: torch.where(present[name][:, None], own, math.nan) for name, own in z.items()}
    assert torch.equal(head(rubbish, present), head(z, present))
    torch.testing.assert_close(head({n: v[7:8] for n, v in z.items()}, {n: v[7:8] for n, v in present.items()}),
                               head(z, present)[7:8])  # fmt: skip
    # Three of four boosters learnt from a row, so the head is surer of it than the one that did not.
    assert (head(z, present).argmax(1).numpy() == data.labels).mean() > (fit.held.argmax(1) == data.labels).mean()


@pytest.mark.filterwarnings("error")
def test_one_row_is_told_what_it_is_told_among_others(monkeypatch: pytest.MonkeyPatch) -> None:
    data, folds = data_of(), np.arange(ROWS) % 4
    head = fit_trees(blank(), data, folds, Boosting(rounds=20), seed=0, threads=1).head
    assert isinstance(head, TreesHead)
    table = head.table(*tensors(data))
    whole = head.grown(table)
    monkeypatch.setattr(trees, "_MOST", trees._TREES)  # a row in each piece
    torch.testing.assert_close(head.grown(table), whole, rtol=1e-12, atol=1e-12)
    nodes = head._nodes(table.shape[1])
    before = nodes.roots.clone()
    head._grown(trees._filled(table[:1]), nodes, slice(None))
    assert torch.equal(nodes.roots, before)


def test_scoring_ends_in_the_leaves_that_walking_ends_in(monkeypatch: pytest.MonkeyPatch) -> None:
    data, folds = data_of(), np.arange(ROWS) % 4
    head = fit_trees(blank(), data, folds, Boosting(rounds=20), seed=0, threads=1).head
    assert isinstance(head, TreesHead)
    table = head.table(*tensors(data))
    table[::7, head.categories[0]] = 77.0  # a code that training did not know
    table[::5, 1] = math.nan
    filled, nodes, every = trees._filled(table), head._nodes(table.shape[1]), slice(None)
    scorer = head._scorer()
    assert scorer is not None
    assert len(head.get_buffer("codes")) > 0
    walked = head._leaves(nodes.roots.expand(len(table), -1), filled, nodes)
    assert torch.equal(head._scored(scorer, filled, nodes, every), walked)
    whole = head.grown(table)
    monkeypatch.setattr(trees, "_SCORED", ROWS + 1)
    assert torch.equal(head.grown(table), whole)
    # Other weights are other trees.
    other = fit_trees(blank(), data, folds, Boosting(rounds=20), seed=1, threads=1).head
    again = build_head(other.describe())
    assert isinstance(again, TreesHead)
    monkeypatch.setattr(trees, "_SCORED", 1)
    again.grown(table)
    again.load_state_dict(other.state_dict())
    assert isinstance(other, TreesHead)
    assert torch.equal(again.grown(table), other.grown(table))


def test_trees_of_many_leaves_and_what_is_no_tree_are_walked() -> None:
    device = torch.device("cpu")
    chain = list(range(1, 63, 2)), list(range(2, 64, 2))  # node 0 -> leaf 1, node 2 -> leaf 3, ...
    left, right = list(range(64)), list(range(64))
    for node, (leaf, on) in enumerate(zip(*chain, strict=True)):
        left[2 * node], right[2 * node] = leaf, on
    assert Scorer.of(left, right, [0], device) is None  # 32 leaves
    few = Scorer.of(left, right, [4], device)
    assert few is not None
    assert few.leaf.tolist() == [[*range(5, 63, 2), 62]]
    right[10] = 4  # round in a circle
    assert Scorer.of(left, right, [4], device) is None


def test_rows_without_a_fold_are_learnt_from_by_all_and_judged_by_none() -> None:
    data, folds = data_of(), np.where(np.arange(ROWS) < 300, -1, 0)
    fit = fit_trees(blank(), data, folds, Boosting(rounds=20), seed=0, threads=1)
    assert fit.held is not None
    assert not fit.held[:300].any()
    z, present = tensors(data)
    torch.testing.assert_close(fit.head(z, present)[300:].numpy(), fit.held[300:].astype(np.float32))


def test_blocks_that_do_not_fit_are_refused() -> None:
    for cells, reduced in (
        ({"cells": [3, 3]}, {}),
        ({}, {"wide": 41}),
        ({"cells": [3, 2]}, {"cells": 2}),
        ({}, {"x": 1}),
    ):
        with pytest.raises(ValueError, match="block"):
            TreesHead({"cells": 8, "wide": 40, "narrow": 2}, 3, cells, reduced)


def test_a_damaged_forest_looks_at_nothing_outside() -> None:
    data, folds = data_of(), np.arange(ROWS) % 4
    head = fit_trees(blank(), data, folds, Boosting(rounds=3), seed=0, threads=1).head
    for name in ("feature", "left", "right", "roots", "subset", "size"):
        head.get_buffer(name).fill_(2**31 - 1)
        head(*tensors(data))
        head.get_buffer(name).fill_(-5)
        assert head(*tensors(data)).shape == (ROWS, 3)


def test_many_classes_make_fewer_rounds_that_count_for_more() -> None:
    plain = Boosting()
    assert boosted._bounded(plain, 1, 5, 10_000) == plain
    many = boosted._bounded(plain, 101, 5, 0)
    assert many.rounds * 101 * 5 <= 50_000
    assert boosted._bounded(plain, 101, 5, 20_000).rounds * 101 * 5 * 20_000 <= 100_000_000
    assert many.rate * many.rounds >= 6 > plain.rate * many.rounds


def test_growing_ends_when_it_must() -> None:
    data, folds, asked = data_of(), np.arange(ROWS) % 4, list[int]()

    def over() -> bool:
        asked.append(1)
        return len(asked) == 3

    fit = fit_trees(blank(), data, folds, Boosting(rounds=50), seed=0, threads=1, over=over)
    assert fit.choice.startswith("3 rounds")
