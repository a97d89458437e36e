"""Cross-fitting: what is said of a row comes from networks, classifiers and words that did not learn from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from strategies_context import make_context
from tiny import tiny_table, untold_table
from torch import nn
from torch.nn import functional as F

from fusetune.context import Context
from fusetune.heads.folds import make_folds
from fusetune.networks import EnsembleNetwork
from fusetune.strategies import crossfit, unimodal
from fusetune.strategies.base import NoSettings, Strategy, held_by
from fusetune.strategies.crossfit import Tuned, tuned, words_block
from fusetune.strategies.linear_probe import LinearProbe
from fusetune.strategies.two_stage import TwoStage
from fusetune.strategies.ume import UME
from fusetune.strategies.unimodal import fine_tune, one_network

Rows = npt.NDArray[np.int64]


def nll(ctx: Context, logits: Any, rows: Rows) -> float:
    own = torch.from_numpy(np.asarray(logits).copy()).float()
    return float(F.cross_entropy(own, torch.from_numpy(ctx.labels[rows])))


def own_logits(ctx: Context, one: Tuned, rows: Rows) -> npt.NDArray[np.float32]:
    """Return what the mean of a modality's networks says of rows."""
    said = []
    for network in one.networks:
        encoder, classifier = network.only
        (name,) = network.owners
        with torch.inference_mode():
            said.append(classifier(torch.from_numpy(ctx.encode(name, encoder, rows)[0].copy())).numpy())
    return np.mean(said, 0)


@pytest.fixture
def numbered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Context, list[tuple[Rows, Rows]]]:
    """Return a run whose k-th fold network says k of whatever it sees, and which rows each one was given."""
    ctx = make_context(tmp_path, tiny_table(tmp_path / "data"), ["genes"], crossfit__how="k", vector__encoder="mlp")
    asked: list[tuple[Rows, Rows]] = []

    def numbering(ctx: Context, name: str, rows: Rows, stage: str, held: Rows, settings: Any) -> EnsembleNetwork:
        del stage, settings
        encoder = ctx.fresh_encoder(name)
        classifier = nn.Linear(encoder.dim, 3).requires_grad_(False)
        classifier.weight.zero_()
        classifier.bias.copy_(torch.arange(3) * (1.0 + len(asked)))
        asked.append((rows, held))
        return one_network(ctx, name, encoder, classifier)

    monkeypatch.setattr(crossfit, "fine_tune", numbering)
    return ctx, asked


def test_each_fold_network_learns_from_all_other_folds_and_is_chosen_on_its_own(
    numbered: tuple[Context, list[tuple[Rows, Rows]]],
) -> None:
    ctx, asked = numbered
    tuned(ctx, "genes")
    folds, groups = make_folds(ctx), ctx.groups
    assert groups is not None
    assert len(asked) == 3
    assert sorted(np.concatenate([held for _, held in asked])) == sorted(folds.rows)
    for rows, held in asked:
        assert not set(groups.iloc[rows]) & set(groups.iloc[held])
        assert sorted([*rows, *held]) == sorted(folds.rows)


def test_a_rows_logits_are_those_of_the_network_that_did_not_see_it(
    numbered: tuple[Context, list[tuple[Rows, Rows]]],
) -> None:
    ctx, asked = numbered
    one, rows = tuned(ctx, "genes"), make_folds(ctx).rows
    says = {int(row): 1.0 + at for at, (_, held) in enumerate(asked) for row in held}
    expected = np.array([says[int(row)] for row in rows])[:, None] * np.arange(3)
    np.testing.assert_allclose(one.held, expected)
    np.testing.assert_allclose(one.block.plain[0], expected)
    np.testing.assert_allclose(one.block.views, np.broadcast_to(expected, one.block.views.shape))
    for at, (_, held) in enumerate(asked):
        here, (encoder, _) = np.isin(rows, held), one.networks[at].only
        np.testing.assert_allclose(one.block.z[here], ctx.encode("genes", encoder, rows[here])[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("reads", ["features", "logits"])
def test_a_classifier_on_an_untrained_encoder_is_not_asked_about_its_own_rows(tmp_path: Path, reads: str) -> None:
    more: dict[str, Any] = {"crossfit__how": "k", "head__inputs": reads, "head__penalties": [1e-4]}
    ctx = make_context(tmp_path, untold_table(tmp_path / "data"), ["genes"], **more)
    one, rows = tuned(ctx, "genes"), make_folds(ctx).rows
    assert nll(ctx, own_logits(ctx, one, rows), rows) < 0.3, "it remembers nothing, so nothing was tested"
    assert nll(ctx, one.held, rows) > 1.5
    if reads == "logits":
        for said in (one.block.plain[0], *one.block.views):
            assert nll(ctx, said, rows) > 1.5


@pytest.mark.parametrize("strategy", [TwoStage, LinearProbe, UME])
def test_what_a_strategy_leaves_is_not_said_by_its_own_network(tmp_path: Path, strategy: type[Strategy]) -> None:
    ctx = make_context(tmp_path, untold_table(tmp_path / "data"), ["genes"], crossfit__how="k", head__penalties=[1e-4])
    fitted = strategy.fit(ctx, NoSettings())
    own = held_by(ctx, fitted.network, fitted.rows)
    assert nll(ctx, own.f, fitted.rows) < 0.5, "it remembers nothing, so nothing was tested"
    for said in (fitted.held.f, fitted.held.f_m["genes"]):
        assert nll(ctx, said, fitted.rows) > 1.5
    assert sorted(fitted.rows) == sorted([*ctx.split.rows("train"), *ctx.split.rows("valid")])
    assert fitted.tried == []  # no candidate was chosen on the rows that it leaves


def test_only_rows_that_were_held_out_are_spoken_of(tmp_path: Path) -> None:
    ctx = make_context(tmp_path, tiny_table(tmp_path / "data"), ["genes"])
    fitted = LinearProbe.fit(ctx, NoSettings())
    valid, plain = ctx.split.rows("valid"), held_by(ctx, fitted.network, ctx.split.rows("valid"))
    torch.testing.assert_close(fitted.held_on(valid[[5, 2, 3]]).f, plain.f[[5, 2, 3]])
    for rows in (ctx.split.rows("train")[:3], np.flatnonzero(ctx.split.part == 2), np.append(valid, len(ctx.ids))):
        with pytest.raises(ValueError, match="nothing was held out for"):
            fitted.held_on(rows)


def test_words_are_not_asked_about_the_rows_that_they_were_learnt_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame, generator = tiny_table(tmp_path / "data"), np.random.default_rng(0)
    frame["note"] = [" ".join(f"word{i}" for i in generator.choice(40, 8)) for _ in range(len(frame))]
    ctx = make_context(tmp_path, frame, ["note"], crossfit__how="k", text__max_tokens=64)
    monkeypatch.setattr(unimodal, "_WORD_PENALTIES", (1e-6,))
    folds = make_folds(ctx)
    block = words_block(ctx, "note", folds)
    assert block is not None
    (network,) = block.networks
    encoder, classifier = network.only
    with torch.inference_mode():
        own = classifier(torch.from_numpy(ctx.encode("note", encoder, folds.rows)[0].copy()))
    assert nll(ctx, own, folds.rows) < 0.3, "it remembers nothing, so nothing was tested"
    for said in (block.plain[0], *block.views):
        assert nll(ctx, said, folds.rows) > 1.5


@pytest.mark.parametrize("change", ["nothing", "rows", "held", "settings", "choice"])
def test_a_network_is_used_again_only_for_the_same_rows_and_settings(tmp_path: Path, change: str) -> None:
    ctx = make_context(tmp_path, tiny_table(tmp_path / "data"), ["genes"], vector__encoder="mlp", train__epochs=1)
    train, valid = ctx.split.rows("train"), ctx.split.rows("valid")
    first = fine_tune(ctx, "genes", train, "first", valid)
    rows, held = (train[:-9] if change == "rows" else train), (valid[:-3] if change == "held" else valid)
    if change == "settings":
        section = ctx.config.vector.train.model_copy(update={"lr": 1e-2})
        vector = ctx.config.vector.model_copy(update={"train": section})
        ctx.config = ctx.config.model_copy(update={"vector": vector})
    # Without rows to choose by, the validation rows choose: the same rows, but the start is a candidate then.
    again = fine_tune(ctx, "genes", rows, "again", None if change == "choice" else held)
    assert (again is first) == (change == "nothing")
    assert ("again" in ctx.histories) == (change != "nothing")
