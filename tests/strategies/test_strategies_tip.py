"""TIP: missing cells tell nobody anything, three losses are their naive sums, and what labels never saw resumes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax
from strategies_context import make_context
from tiny import tiny_table
from torch import Tensor
from torch.nn import functional as F

from fusetune.context import Context
from fusetune.encoders import ColumnTokens
from fusetune.errors import ConfigError
from fusetune.heads import TIPHead, build_head
from fusetune.networks import build_network
from fusetune.strategies import TIP, end_to_end, tip
from fusetune.strategies.base import held_by
from fusetune.strategies.tip import CellViews, Pretraining, TIPSettings, contrast, hard_negatives
from fusetune.strategies.trainer import Training
from fusetune.train import loop

SMALL: dict[str, Any] = {"width": 16, "depth": 1, "attention_heads": 2, "projection": 8}
LOOP: dict[str, Any] = {"epochs": 2, "batch_size": 16, "patience": 0, "pretrain_epochs": 3}


def cells(rows: int, numbers: int = 3, categories: int = 2, gaps: bool = True) -> dict[str, Tensor]:
    missing = torch.rand(rows, numbers) < 0.25 if gaps else torch.zeros(rows, numbers, dtype=torch.bool)
    codes = torch.randint(0 if gaps else 2, 5, (rows, categories))
    return {"numbers": torch.randn(rows, numbers).masked_fill(missing, 0.0), "missing": missing, "codes": codes}


def moved(module: Any) -> Any:
    """Return a module away from its start, where some weights are zero, in eval mode."""
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.2 * torch.randn_like(p))
    return module.eval()


@pytest.fixture
def encoder() -> ColumnTokens:
    torch.manual_seed(0)
    made: ColumnTokens = moved(ColumnTokens(3, [5, 5], width=16, depth=2, heads=2))
    return made


@pytest.mark.parametrize("hidden", [7.0, float("nan"), float("inf")])
def test_the_value_stored_in_a_missing_cell_is_never_seen(encoder: ColumnTokens, hidden: float) -> None:
    table = cells(8)
    changed = {**table, "numbers": table["numbers"].masked_fill(table["missing"], hidden)}
    assert table["missing"].any()
    assert torch.equal(encoder(changed), encoder(table))


def test_a_class_token_is_that_of_a_table_without_the_missing_columns(encoder: ColumnTokens) -> None:
    """Missing cells inform nobody: the same layers without any mask, on the columns that are there, say the same."""
    table = cells(8)
    said = encoder(table).unflatten(1, (-1, 16))
    tokens = encoder.tokenizer(table)
    for row in range(8):
        known = torch.cat([~table["missing"][row], table["codes"][row] > 0])
        left = encoder.tokens_norm(torch.cat([encoder.class_token[None], tokens[row][known]]))[None]
        for layer in encoder.layers:
            left = layer(left)
        expected = encoder.norm(left)[0]
        torch.testing.assert_close(said[row, 0], expected[0])
        torch.testing.assert_close(said[row, 1:][known], expected[1:])
    # Which columns are the missing ones, and what stands for them, is nothing to the class token, and all to their own.
    before = encoder(table).unflatten(1, (-1, 16))
    with torch.no_grad():
        encoder.tokenizer.missing.add_(torch.randn(1, 16))
    after = encoder(table).unflatten(1, (-1, 16))
    assert torch.equal(after[:, 0], before[:, 0])
    gone = torch.cat([table["missing"], table["codes"] == 0], 1)
    assert not torch.isclose(after[:, 1:][gone], before[:, 1:][gone]).all(1).any()


def test_one_token_says_missing_in_all_columns(encoder: ColumnTokens) -> None:
    nothing = cells(1)
    nothing["missing"][:], nothing["codes"][:] = True, 0
    assert encoder.tokenizer.missing.shape == (1, 16)
    torch.testing.assert_close(
        encoder.tokenizer(nothing)[0], (encoder.tokenizer.missing + encoder.tokenizer.bias).detach()
    )
    features = encoder(nothing)
    assert torch.isfinite(features).all()
    features.sum().backward()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in encoder.parameters())


def head_of(others: int, classes: int = 3) -> TIPHead:
    torch.manual_seed(1)
    dims = {"columns": 16 * 6} | {f"m{i}": 3 + i for i in range(others)}
    head: TIPHead = moved(TIPHead(dims, classes, columns="columns", width=16, depth=2, heads=2))
    head.get_buffer("prior").copy_(torch.log_softmax(torch.randn(classes), 0))
    for i in range(1, others + 1):
        head.get_buffer(f"mean_{i}").normal_()
    return head


@pytest.mark.parametrize("others", [1, 2, 4])
def test_the_prediction_is_the_mean_of_the_classifiers_that_have_something_to_read(others: int) -> None:
    head, rows = head_of(others), 40
    z = {name: torch.randn(rows, dim) for name, dim in head.dims.items()}
    present = {name: torch.rand(rows) < 0.5 for name in z}
    said = head(z, present)
    beside, _ = head.beside(z, present)
    patterns = set()
    for row in range(rows):
        there = [name for name in head.others if present[name][row]]
        logits = [head.linears[head.others.index(name)](z[name][row]) for name in there]
        tokens = z["columns"][row].view(1, -1, 16)
        if present["columns"][row]:
            logits.append(head.linears[others](tokens[0, 0]))
        if present["columns"][row] and there:
            seen = [head.others.index(name) for name in there]
            only = beside[row : row + 1, seen]  # without a mask: only those that are there
            fused = head.across(tokens, only, torch.ones(1, len(seen), dtype=torch.bool))
            logits.append(head.linears[others + 1](fused[0, 0]))
        expected = torch.stack(logits).mean(0) if logits else head.get_buffer("prior")
        torch.testing.assert_close(said[row], expected, rtol=1e-4, atol=1e-5)
        patterns.add((bool(present["columns"][row]), len(there)))
    assert {(True, others), (False, 0), (True, 0)} <= patterns or others == 4
    rubbish = {name: torch.where(present[name][:, None], own, float("nan")) for name, own in z.items()}
    assert torch.equal(head(rubbish, present), said)


def test_the_head_is_made_again_from_its_description() -> None:
    head = head_of(2)
    again = build_head(json.loads(json.dumps(head.describe())))
    again.load_state_dict(head.state_dict())
    z = {name: torch.randn(5, dim) for name, dim in head.dims.items()}
    present = {name: torch.ones(5, dtype=torch.bool) for name in z}
    assert torch.equal(again.eval()(z, present), head(z, present))
    with pytest.raises(ValueError, match="columns, as tokens of one width, and something beside them"):
        TIPHead({"columns": 16, "a": 3}, 3, columns="columns", width=12, heads=2)


def test_views_change_exactly_so_many_columns_and_keep_their_marginals() -> None:
    torch.manual_seed(0)
    donors = cells(50, numbers=6, categories=4)
    donors["missing"][:, 1:4] = donors["missing"][:, 1:2]  # numbers 1 to 3 are one date
    donors["codes"][:, 3] = 0  # nobody has this one
    donors["numbers"] += torch.arange(6) * 100.0
    views = CellViews.of(donors, (0, 1, 1, 1, 2, 3))
    assert len(views.counts) == 8
    table = {name: own.clone() for name, own in donors.items()}
    masked, asked = views.masked(table, 0.5)
    hit = torch.cat([masked["missing"] & ~table["missing"], (masked["codes"] == 0) & (table["codes"] > 0)], 1)
    assert torch.equal(hit, asked)
    chosen = views.chosen(200, round(0.5 * 8))
    assert (chosen[:, [0, 1, 4, 5, 6, 7, 8, 9]].sum(1) == 4).all()
    assert torch.equal(chosen[:, 1], chosen[:, 2])
    assert torch.equal(chosen[:, 1], chosen[:, 3])
    assert 0.4 < float(chosen.float().mean()) < 0.6
    away = {name: torch.full_like(own, -1 if name != "missing" else 0) for name, own in table.items()}
    corrupted = views.corrupted(away, 0.3)
    changed = torch.cat([corrupted["numbers"] != -1, corrupted["codes"] != -1], 1)
    assert (changed[:, [0, 1, 4, 5, 6, 7, 8]].sum(1) <= 2).all()
    assert (changed[:, [0, 1, 4, 5, 6, 7, 8]].sum(1) == 2).float().mean() > 0.5  # the rest drew the empty column, too
    assert not changed[:, 9].any()
    assert not corrupted["missing"].any()
    for at in range(6):
        known = donors["numbers"][:, at][~donors["missing"][:, at]].tolist()
        taken = corrupted["numbers"][:, at][changed[:, at]].tolist()
        assert set(taken) <= set(known)
        assert len(set(taken)) > 3
    trio = [tuple(row) for row in donors["numbers"][:, 1:4].tolist()]
    assert all(tuple(row) in trio for row in corrupted["numbers"][changed[:, 1]][:, 1:4].tolist())
    assert 0 not in corrupted["codes"][changed[:, 6:]].tolist()


U = torch.tensor([[1, 0], [0, 1], [1, 1], [1, -1]], dtype=torch.float64)
V = torch.tensor([[1, 0.2], [0.1, 1], [0.8, 1], [0.5, -1]], dtype=torch.float64)


def test_the_contrast_is_that_of_clip() -> None:
    loss, similar = contrast(F.normalize(U, dim=1), F.normalize(V, dim=1), 0.1, 0.5)
    # Worked out apart by plain numpy.
    assert float(loss) == pytest.approx(0.1117323403, abs=1e-8)
    u, v = F.normalize(U, dim=1).numpy(), F.normalize(V, dim=1).numpy()
    s = u @ v.T / 0.1
    np.testing.assert_allclose(similar.numpy(), s)
    rows = -np.mean([log_softmax(s[i])[i] for i in range(4)])
    columns = -np.mean([log_softmax(s[:, i])[i] for i in range(4)])
    for balance in (0.0, 0.2, 1.0):
        found, _ = contrast(F.normalize(U, dim=1), F.normalize(V, dim=1), 0.1, balance)
        assert float(found) == pytest.approx(balance * rows + (1 - balance) * columns, abs=1e-8)


def test_hard_negatives_are_drawn_by_similarity_and_never_the_own_row(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    similar = 30 * torch.eye(6) + 3 * torch.randn(6, 6)
    drawn = torch.stack([hard_negatives(similar) for _ in range(400)])
    assert not (drawn == torch.arange(6)).any()
    assert torch.equal(hard_negatives(torch.zeros(2, 2)), torch.tensor([1, 0]))
    assert torch.isfinite(hard_negatives(1e4 * torch.eye(3)).float()).all()
    asked: list[Tensor] = []
    monkeypatch.setattr(torch, "multinomial", lambda weights, _: asked.append(weights) or weights.argmax(1)[:, None])
    hard_negatives(similar)
    for i in range(6):
        expected = softmax(similar[i].double().numpy()) + 1e-4
        expected[i] = 0
        np.testing.assert_allclose(asked[0][i].numpy(), expected, rtol=1e-5, atol=1e-8)


def pretraining(others: int, **more: Any) -> tuple[Pretraining, ColumnTokens, TIPHead, dict[str, Any]]:
    torch.manual_seed(3)
    settings = TIPSettings(**{**SMALL, **more})
    head, encoder = head_of(others), moved(ColumnTokens(3, [5, 5], width=16, depth=1, heads=2))
    dims = {name: head.dims[name] for name in head.others}
    table = cells(10)
    model = moved(Pretraining(dims, [5, 5], settings, CellViews.of(table)))
    z = {name: torch.randn(10, dim) for name, dim in dims.items()}
    present = {name: torch.rand(10) < 0.6 for name in dims}
    present["m0"][:] |= ~torch.stack(list(present.values())).any(0)
    z = {name: own * present[name][:, None] for name, own in z.items()}
    return model, encoder, head, {"z": z, "present": present, "cells": table}


@pytest.mark.parametrize("others", [1, 2, 4])
def test_the_three_losses_are_the_naive_sums(others: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, encoder, head, given = pretraining(others)
    z, present, table = given["z"], given["present"], given["cells"]
    corrupted = model.views.corrupted(table, 0.3)
    masked, asked = model.views.masked(table, 0.5)
    monkeypatch.setattr(CellViews, "corrupted", lambda *_: corrupted)
    monkeypatch.setattr(CellViews, "masked", lambda *_: (masked, asked))
    partner = torch.arange(10).roll(3)
    monkeypatch.setattr(tip, "hard_negatives", lambda similar: partner)
    found = {name: float(loss.detach()) for name, loss in model.losses(encoder, head, z, present, table).items()}
    # ITC
    tokens = head.tokens(encoder(corrupted))
    us, vs = [], []
    for row in range(10):
        there = [i for i, name in enumerate(head.others) if present[name][row]]
        u = sum(model.beside[i](z[head.others[i]][row]) for i in there) / len(there)
        us.append(F.normalize(u, dim=0).detach())
        vs.append(F.normalize(model.table(tokens[row, 0]), dim=0).detach())
    s = (torch.stack(us) @ torch.stack(vs).T).numpy() / 0.1
    both = [log_softmax(s[i])[i] + log_softmax(s[:, i])[i] for i in range(10)]
    assert found["itc"] == pytest.approx(-np.mean(both) / 2, rel=1e-4)
    # ITM
    beside, seen = head.beside(z, present)
    losses = []
    for t, i, belong in [
        (t, i, y) for r in range(10) for t, i, y in ((r, r, 1), (int(partner[r]), r, 0), (r, int(partner[r]), 0))
    ]:
        fused = head.across(tokens[t : t + 1], beside[i : i + 1], seen[i : i + 1])[0, 0]
        losses.append(-log_softmax(model.match(fused).detach().numpy())[belong])
    assert found["itm"] == pytest.approx(np.mean(losses), rel=1e-4)
    # MTR
    fused = head.across(head.tokens(encoder(masked)), beside, seen)
    squares, entropies = [], []
    for row in range(10):
        for column in range(5):
            if not asked[row, column]:
                continue
            token = fused[row, 1 + column]
            if column < 3:
                squares.append(float((model.number(token)[0] - table["numbers"][row, column]).detach() ** 2))
            else:
                target = 5 * (column - 3) + int(table["codes"][row, column - 3])
                entropies.append(-log_softmax(model.category(token).detach().numpy())[target])
    assert squares
    assert entropies
    assert found["mtr"] == pytest.approx((np.mean(squares) + np.mean(entropies)) / 2, rel=1e-4)


def test_a_column_that_follows_from_another_is_reconstructed() -> None:
    """A number and a category that say the same: whichever is masked, the other tells it. Others cannot be told."""
    final = {}
    for told in (True, False):
        torch.manual_seed(0)
        settings = TIPSettings(**SMALL)
        encoder, head = ColumnTokens(1, [4], width=16, depth=1, heads=2, dropout=0.0), head_of(1)
        head = TIPHead({"columns": 48, "m": 4}, 3, columns="columns", width=16, depth=1, heads=2, dropout=0.0)
        code = torch.randint(0, 2, (96, 1))
        number = 2.0 * (code if told else torch.randint(0, 2, (96, 1))) - 1
        table = {"numbers": number, "missing": torch.zeros(96, 1, dtype=torch.bool), "codes": code + 2}
        model = Pretraining({"m": 4}, [4], settings, CellViews.of(table))
        z, seen = torch.zeros(96, 1, 16), torch.ones(96, 1, dtype=torch.bool)
        weights = [*encoder.parameters(), *head.parameters(), *model.parameters()]
        optimiser = torch.optim.Adam(weights, lr=6e-3)
        for _ in range(90):
            loss = model.reconstruction(encoder, head, z, seen, table)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        final[told] = float(loss.detach())
    assert final[True] < 0.02
    assert final[False] > 0.5


@pytest.fixture
def ctx(tmp_path: Path) -> Context:
    frame = tiny_table(tmp_path / "data")
    frame.loc[[3, 20], ["v_0", "v_1", "v_2", "v_3"]] = np.nan
    frame.loc[[7, 20, 31], ["age", "site"]] = None
    frame.loc[[9, 44], "age"] = None
    return context(tmp_path, frame, ["genes", "age", "site"])


def context(folder: Path, frame: Any, inputs: list[str], **more: Any) -> Context:
    return make_context(folder, frame, inputs, vector__encoder="mlp", head__penalties=[1.0], **more)


def fitted(ctx: Context, **more: Any) -> Any:
    return TIP.fit(ctx, TIPSettings(**{**SMALL, **LOOP, **more}))


def test_it_is_fitted_saved_and_asked_with_less(ctx: Context) -> None:
    done = fitted(ctx)
    assert done.notes["genes"].startswith("pre-trained for 3 epochs")
    history = ctx.histories["strategy tip, pre-training"]
    assert [record.epoch for record in history.records] == [0, 1, 2]
    assert history.records[-1].train_loss < history.records[0].train_loss
    rows = np.arange(len(ctx.labels))
    said = held_by(ctx, done.network, rows)
    assert torch.isfinite(said.f).all()
    again = build_network(json.loads(json.dumps(done.network.describe())))
    again.load_state_dict(done.network.state_dict())
    assert torch.equal(held_by(ctx, again.eval(), rows).f, said.f)
    head = done.network.head
    torch.testing.assert_close(said.f[20], head.get_buffer("prior"))  # has nothing at all
    torch.testing.assert_close(said.f[3], head.linears[1](said.z["columns"][3, :16]))  # has columns alone
    torch.testing.assert_close(said.f[7], head.linears[0](said.z["genes"][7]))
    accuracy = float((said.f.argmax(1).numpy() == ctx.labels)[ctx.split.rows("valid")].mean())
    assert accuracy > 0.6


def test_pretraining_sees_no_label_and_no_row_but_those_of_training(
    tmp_path: Path, ctx: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither other labels nor other validation rows change what pre-training leaves."""
    plain, asked, states = end_to_end.run_training, [], []

    def watched(ctx: Context, what: Training) -> None:
        asked.append(what)
        plain(ctx, what)

    monkeypatch.setattr(tip, "run_training", watched)
    ctx.folder = None
    for _ in range(2):
        method = TIP(ctx, TIPSettings(**{**SMALL, **LOOP}))
        method.load_state_dict(states[0][0] if states else method.state_dict())
        before = {name: p.clone() for name, p in method.state_dict().items()}
        monkeypatch.setattr(method, "solve", lambda: None)
        method.begin()
        states.append((before, method.state_dict()))
        ctx.labels[:] = ctx.labels[::-1].copy()
        valid = ctx.split.rows("valid")
        source: Any = ctx.sources["columns"]
        source.numbers[valid] += 1.0
    for name, weight in states[0][1].items():
        assert torch.equal(states[1][1][name], weight), name
    assert any(not torch.equal(states[0][0][name], p) for name, p in states[0][1].items())
    assert all(np.array_equal(what.rows, ctx.split.rows("train")) for what in asked)


def test_killed_in_pretraining_it_ends_with_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frame = tiny_table(tmp_path / "data")
    frame.loc[[3, 20], "age"] = None
    networks, plain, calls = [], loop._run_epoch, []

    def killed(*args: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return plain(*args)

    for place in ("whole", "resumed"):
        made = context(tmp_path / place, frame, ["genes", "age", "site"])
        if place == "resumed":
            with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
                patch.setattr(loop, "_run_epoch", killed)
                fitted(made)
            made = replace(context(tmp_path / place, frame, ["genes", "age", "site"]), resume=True)
        networks.append(fitted(made).network.state_dict())
    for name, weight in networks[0].items():
        assert torch.equal(networks[1][name], weight), name


def test_classifiers_start_from_their_solution_and_may_be_all_that_learns(ctx: Context) -> None:
    settings = TIPSettings(**{**SMALL, **LOOP, "tune": "classifiers", "head_lr": 0.05})
    method = TIP(ctx, settings)
    method.begin()
    head, valid = method.head, ctx.split.rows("valid")
    before = held_by(ctx, method.network, valid)
    torch.testing.assert_close(before.f_m["columns"], head.linears[1](before.z["columns"][:, :16]))
    assert float(F.cross_entropy(before.f, ctx.targets(valid))) < np.log(3) - 0.05
    weights = {name: p.detach().clone() for name, p in method.network.named_parameters()}
    end_to_end.run_training(ctx, method.training_on(ctx.split.rows("train"), valid))
    assert len(ctx.histories[method.stage].records) == 2
    ctx.histories[method.stage].best_epoch = 1
    still = [n for n, p in method.network.named_parameters() if torch.equal(p, weights[n])]
    assert all(name in still for name in weights if not name.startswith(("head.linears", "classifiers")))


def test_three_and_five_modalities(tmp_path: Path) -> None:
    frame = tiny_table(tmp_path / "data", rows=48)
    frame["more"], frame["most"] = frame["note"].iloc[::-1].to_numpy(), frame["note"]
    frame.loc[[1, 5], "note"] = None
    for inputs in (["genes", "age", "note"], ["genes", "age", "note", "more", "most"]):
        made = context(tmp_path / str(len(inputs)), frame, inputs)
        network = fitted(made, epochs=1, pretrain_epochs=1).network
        assert len(network.head.linears) == len(inputs) + 1
        said = held_by(made, network, np.arange(len(frame)))
        assert torch.isfinite(said.f).all()


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (["age", "site"], "no input that is something beside the columns"),
        (["genes"], "no input that is columns of numbers or categories"),
    ],
)
def test_it_needs_columns_and_something_beside_them(tmp_path: Path, inputs: list[str], message: str) -> None:
    made = context(tmp_path, tiny_table(tmp_path / "data"), inputs)
    with pytest.raises(ConfigError, match=f"{message}; name one with --inputs, or take another strategy"):
        fitted(made)


def test_a_width_that_heads_cannot_share_is_refused(ctx: Context) -> None:
    with pytest.raises(ConfigError, match=r"strategy\.width: 16 values .* among 3 attention_heads; take a multiple"):
        fitted(ctx, attention_heads=3)
