"""The weighted ensemble against its formula, and the promises that make its weights honest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from strategies_context import make_context
from tiny import few_trees, tiny_table
from torch import Tensor
from torch.nn import functional as F

from fusetune.config import Config
from fusetune.context import Context
from fusetune.errors import ConfigError, TableError
from fusetune.strategies import refuse_unread, weighted
from fusetune.strategies.base import held_by
from fusetune.strategies.trees import Trees
from fusetune.strategies.weighted import Weighted, WeightedSettings
from fusetune.targets import Classification

TARGET = Classification([0, 1, 2])


def said(rows: int = 300, groups: int | None = None, seed: int = 0) -> weighted._Said:
    """Three candidates: a good one, its noisier twin, and one that knows nothing; the last cannot read every row."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 3, (rows,), generator=generator)
    truth = F.one_hot(labels, 3) * 1.5 + torch.randn(rows, 3, generator=generator)
    noise = torch.randn(2, rows, 3, generator=generator)
    reads = torch.ones(3, rows, dtype=torch.bool)
    reads[2] = torch.rand(rows, generator=generator) < 0.7
    weights = torch.rand(rows, generator=generator).double() + 0.5
    weights *= (groups or rows) / weights.sum()
    logits = torch.stack([truth, truth + 1.5 * noise[0], 3 * noise[1]]).double()
    return weighted._Said(logits, reads, labels.numpy(), weights, torch.zeros(3).double().log_softmax(0), TARGET)


def naive(one: weighted._Said, weights: Any, heats: Any) -> list[Tensor]:
    """f row by row, candidate by candidate."""
    f = []
    for row in range(len(one.labels)):
        there = [k for k in range(len(one.logits)) if bool(one.reads[k, row])]
        scale = sum(weights) / sum(weights[k] for k in there)
        f.append(sum(weights[k] * scale * (one.logits[k, row] / heats[k]).log_softmax(0) for k in there))
    return f  # type: ignore[return-value]


def test_the_sum_equals_a_loop_over_rows_and_candidates() -> None:
    one, pool = said(40), weighted._Pool([1.0, 2.0, 0.5], [0.7, 0.2, 0.4])
    torch.testing.assert_close(one.pooled(pool), torch.stack(naive(one, pool.weights, pool.temperatures)))


def test_rows_that_weigh_more_are_as_their_copies() -> None:
    """Temperatures, weights of candidates and the best of these; 0, 1 or 2 copies of each row, as many as rows."""
    one = said(150)
    counts = np.tile([0, 1, 2], 50)
    copies = np.repeat(np.arange(150), counts)
    one = replace(one, reads=torch.ones_like(one.reads), weights=torch.ones(150).double())
    weighed = replace(one, weights=torch.from_numpy(counts).double(), counted=counts.astype(float))
    for learn in (weighted._weigh, weighted._best):
        ours, theirs = learn(weighed), learn(one.some(copies))
        assert ours.temperatures == pytest.approx(theirs.temperatures, rel=1e-4)
        assert ours.weights == pytest.approx(theirs.weights, abs=1e-4)
    assert weighted._weigh(one).temperatures != pytest.approx(weighted._weigh(weighed).temperatures, rel=1e-2)


def test_the_weights_are_the_least_of_the_penalised_loss() -> None:
    one = said(150)
    pool = weighted._weigh(one)
    assert (np.array(pool.weights) >= 0).all()

    def loss(weights: list[float]) -> float:
        f, kept = one.pooled(weighted._Pool(pool.temperatures, weights)), [w > 0 for w in pool.weights]
        ce = sum(float(w) * float(F.cross_entropy(row[None], torch.tensor([int(y)])))
                 for w, row, y in zip(one.weights, f, one.labels, strict=True))  # fmt: skip
        away = sum((a - keep / sum(kept)) ** 2 for a, keep in zip(weights, kept, strict=True))
        return ce + away / (2 * weighted._SPREAD**2)

    best = loss(pool.weights)
    for index, weight in enumerate(pool.weights):
        for step in (-0.03, 0.03):
            if weight + step >= 0 and weight > 0:
                moved = [*pool.weights]
                moved[index] += step
                assert loss(moved) > best


def test_few_groups_leave_the_weights_near_equal_and_many_rows_decide_them() -> None:
    few, many = weighted._weigh(said(3000, groups=4)), weighted._weigh(said(3000))
    share = [np.array(pool.weights) / sum(pool.weights) for pool in (few, many)]
    assert share[1][0] > 0.85  # the noisy twin adds nothing, and the third knows nothing
    assert share[0][0] < share[1][0]
    assert share[0].min() > share[1].min()


def test_what_is_said_of_a_row_does_not_know_its_label() -> None:
    one, folds = said(100), np.arange(100) % 5
    turned = one.labels.copy()
    turned[folds == 3] = (turned[folds == 3] + 1) % 3
    for learn in (weighted._weigh, weighted._best):
        before, after = (weighted._crossed(some, folds, learn) for some in (one, replace(one, labels=turned)))
        here = torch.from_numpy(folds == 3)
        assert torch.equal(before[here], after[here])
        assert not torch.equal(before[~here], after[~here])


@pytest.fixture
def ctx(tmp_path: Path) -> Iterator[Context]:
    frame = tiny_table(tmp_path / "data")
    frame.loc[[3, 37, 40, 81], ["v_0", "v_1", "v_2", "v_3"]] = np.nan
    with few_trees():
        yield make_context(tmp_path, frame, ["age", "site", "genes"], crossfit__how="k", train__epochs=0)


def test_the_network_is_the_sum_of_its_parts(ctx: Context) -> None:
    fitted = Weighted.fit(ctx, WeightedSettings())
    rows = ctx.split.rows("valid")
    network: Any = fitted.network
    assert list(fitted.parts) == ["columns alone", "genes alone", "ensemble", "traditional", "trees", "two-stage"]
    both = {name: held_by(ctx, part.network, rows) for name, part in fitted.parts.items()}
    f = torch.zeros(len(rows), 3)
    kept = weighted._weigh(weighted._said(ctx, fitted.parts, fitted.rows))
    for weight, heat, said_of in zip(kept.weights, kept.temperatures, both.values(), strict=True):
        f = f + weight * torch.log_softmax(said_of.f / heat, 1)
    has_all = torch.stack([torch.from_numpy(ctx.sources[name].present[rows]) for name in ctx.modalities]).all(0)
    torch.testing.assert_close(held_by(ctx, network, rows).f[has_all], f[has_all], rtol=1e-4, atol=1e-4)
    # Rows that lack the vectors are told by those that read something else.
    assert bool(torch.isfinite(held_by(ctx, network, rows).f).all())


def test_a_candidate_that_fails_does_not_lose_the_others(ctx: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise TableError("too few rows")

    monkeypatch.setattr(Trees, "fit", fail)
    assert "trees" not in Weighted.fit(ctx, WeightedSettings()).parts
    with pytest.raises(TableError, match="too few rows"):
        Weighted.fit(ctx, WeightedSettings(candidates=["trees"]))


def test_the_best_alone_is_the_model_where_weights_do_not_help(ctx: Context) -> None:
    fitted = Weighted.fit(ctx, WeightedSettings(candidates=["trees"]))
    assert fitted.notes[None] == "the best of 1: trees"


def test_a_candidate_that_there_is_not_is_named_before_anything_is_read() -> None:
    with pytest.raises(ConfigError, match=r"strategy\.candidates.*'tree'|strategy\.candidates.*tree"):
        refuse_unread(Config.build({"strategy": {"candidates": ["tree"]}}))


def test_settings_that_no_candidate_follows_are_refused() -> None:
    asked = {"head": {"kind": "mlp"}}
    refuse_unread(Config.build(asked))
    with pytest.raises(ConfigError, match=r"head\.kind: the strategy 'weighted-ensemble' does not read this"):
        refuse_unread(Config.build(asked, {"preset": "quick"}))
