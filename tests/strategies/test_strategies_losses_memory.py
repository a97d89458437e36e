"""Methods that remember rows, prototypes or weights, and those that watch rows which nothing is learnt from."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import softmax
from strategies_context import batch_of, begun, make_context
from tiny import tiny_table
from torch.nn import functional as F

from fusetune.context import Context
from fusetune.data.batch import shuffled_batches
from fusetune.errors import ConfigError, SplitError, TableError
from fusetune.heads import build_head
from fusetune.heads.folds import inner_split
from fusetune.heads.late import ConfidenceHead, confidence
from fusetune.strategies import g_blending
from fusetune.strategies.base import held_by
from fusetune.strategies.diagnose_relearn import DiagnoseRelearn, pull_back, purity
from fusetune.strategies.end_to_end import EndToEnd
from fusetune.strategies.g_blending import GBlending, blended
from fusetune.strategies.joint import Joint
from fusetune.strategies.pmr import PMR, lagging, similarity
from fusetune.strategies.qmf import QMF, rank_loss, scaled_history
from fusetune.strategies.trainer import Training, run_training

F1 = torch.tensor([[2, 0, -1], [0.5, 1, 0], [0, 0, 1], [-1, 2, 0.5]], dtype=torch.float64)
F2 = torch.tensor([[0.2, 0.1, 0], [1, 0, 0], [0.3, -0.2, 0.1], [0, 0.4, 0.6]], dtype=torch.float64)
LOOP: dict[str, Any] = {"epochs": 3, "batch_size": 16, "patience": 0}


@pytest.fixture
def ctx(tmp_path: Path) -> Context:
    frame = tiny_table(tmp_path / "data")
    frame.loc[[3, 20], "note"] = None
    frame.loc[[7, 20], ["v_0", "v_1", "v_2", "v_3"]] = np.nan
    more: dict[str, Any] = {"vector__encoder": "mlp", "head__penalties": [0.3], "train__dropout": 0.0}
    return make_context(tmp_path, frame, ["note", "genes", "age"], **more)


def near(values: Sequence[float]) -> Any:
    return pytest.approx(list(values), abs=1e-8)


# QMF


def test_qmf_confidence_and_fusion_are_the_published_ones() -> None:
    expected = [0.21698460195562858, 0.16802696706417347, 0.1551444713932051, 0.22413112966571572]
    assert confidence(F1).tolist() == near(expected)
    head, has = ConfidenceHead({"a": 3, "b": 3}, 3).double(), {name: torch.ones(4).bool() for name in "ab"}
    fused = head({"a": F1, "b": F2}, has)
    assert fused[0].tolist() == near([0.458008060875842, 0.01201942848229244, -0.21698460195562858])
    history = torch.tensor([0.1, 0.9, 0.4, 0.2]).double()
    scaled = scaled_history(history[None], torch.ones(1, 4).bool())[0]
    assert [float(rank_loss(confidence(F1), scaled, how)) for how in ("tolerance", "gap")] == near(
        [0.0, 0.47552118255427245]
    )
    assert float(rank_loss(confidence(F1), torch.ones(4), "gap")) == 0  # equal histories make no pair
    assert float(rank_loss(confidence(F1)[:1], scaled[:1], "gap")) == 0


@pytest.mark.parametrize("count", [1, 2, 5])
def test_the_confident_head_leaves_absent_modalities_out(count: int) -> None:
    torch.manual_seed(0)
    names = [f"m{i}" for i in range(count)]
    head = ConfidenceHead(dict.fromkeys(names, 3), 3)
    head.get_buffer("prior").copy_(torch.tensor([-1.0, -2.0, -0.5]))
    z = {name: torch.randn(8, 3, requires_grad=True) for name in names}
    has = {name: torch.rand(8) < 0.6 for name in names}
    has[names[0]][0] = True
    for name in names:
        has[name][7] = False
    f = head(z, has)
    for row in range(7):
        there = [name for name in names if has[name][row]]
        expected = sum((torch.logsumexp(z[n][row], 0) / 10 * z[n][row] for n in there), torch.zeros(3))
        torch.testing.assert_close(f[row], expected if there else torch.tensor([-1.0, -2.0, -0.5]))
    assert f[7].tolist() == [-1.0, -2.0, -0.5]
    wild = {name: torch.where(has[name][:, None], z[name], torch.nan) for name in names}
    torch.testing.assert_close(head(wild, has), f)
    # No gradient through the confidence: that of the sum of logits is the confidence itself.
    f[0].sum().backward()
    c = confidence(z[names[0]])[0].detach()
    torch.testing.assert_close(z[names[0]].grad[0], c.expand(3))  # type: ignore[index]
    again = build_head(head.describe())
    again.load_state_dict(head.state_dict())
    torch.testing.assert_close(again(z, has), f)
    with pytest.raises(ValueError, match="as wide as there are classes"):
        ConfidenceHead({"a": 4}, 3)


def test_qmf_starts_with_confidences_above_zero_and_remembers_how_hard_rows_were(ctx: Context) -> None:
    method = begun(QMF, ctx, margin="gap", rank=0.5)
    batch = batch_of(ctx, ctx.split.rows("train")[:24])
    outputs = method.network(batch.inputs, batch.present)
    for name, layer in zip(outputs.f_m, method.network.classifiers, strict=True):
        torch.testing.assert_close(outputs.f_m[name].mean(1), torch.zeros(24), rtol=0, atol=1e-5)
        assert float(confidence(outputs.f_m[name]).min().detach()) >= math.log(3) / 10 - 1e-6
        assert layer.weight.requires_grad
    expected = sum(float(batch.loss(f, batch.present[n]).detach()) for n, f in outputs.f_m.items())
    expected += float(batch.loss(outputs.f).detach())
    method.before_epoch(0)
    assert float(method.loss(batch, outputs).detach()) == pytest.approx(expected, rel=1e-5)  # no history yet
    hard = {n: F.cross_entropy(f.detach(), batch.target, reduction="none") for n, f in outputs.f_m.items()}
    for at, name in enumerate(outputs.f_m):
        kept = torch.where(batch.present[name], hard[name], 0.0)
        torch.testing.assert_close(method.history[at, batch.rows], kept)
        assert float(method.history[at].sum()) == pytest.approx(float(kept.sum()), rel=1e-5)
    method.loss(batch, outputs)
    torch.testing.assert_close(method.history[0, batch.rows], 2 * torch.where(batch.present["note"], hard["note"], 0.0))
    method.before_epoch(1)
    for at, name in enumerate(outputs.f_m):
        rows, own = batch.rows[batch.present[name].numpy()], method.history[at]
        low, high = float(own[rows].min()), float(own[rows].max())
        h, c = [(float(own[row]) - low) / (high - low) for row in rows], confidence(outputs.f_m[name]).detach()
        c = c[batch.present[name]].tolist()
        pairs = [(i, (i + 1) % len(rows)) for i in range(len(rows))]
        terms = [max(0.0, np.sign(h[i] - h[j]) * (c[i] - c[j]) + abs(h[i] - h[j])) * (h[i] != h[j]) for i, j in pairs]
        expected += 0.5 * float(np.mean(terms))
    assert float(method.loss(batch, outputs).detach()) == pytest.approx(expected, rel=1e-4)


def test_qmf_says_class_frequencies_of_a_row_without_anything(ctx: Context) -> None:
    method = begun(QMF, ctx)
    none = {name: torch.zeros(2).bool() for name in ctx.modalities}
    f = method.network.fuse({name: torch.zeros(2, e.dim) for name, e in method.network.members}, none).f
    weights = ctx.row_weights(ctx.split.rows("train"))
    shares = np.bincount(ctx.labels[ctx.split.rows("train")], weights=weights) + 1
    np.testing.assert_allclose(softmax(f[0].detach().numpy()), shares / shares.sum(), rtol=1e-5)


# PMR


def test_the_modality_behind_the_mean_of_the_others_lags() -> None:
    for scores, behind in (
        ([0.7, 0.4], [False, True]),
        ([0.4, 0.7], [True, False]),
        ([0.5, 0.5], [False, False]),
        ([0.5], [False]),
        ([0.9, 0.5, 0.4], [False, True, True]),
        ([0.9, 0.8, 0.1, 0.7, 0.6], [False, False, True, False, True]),
    ):
        assert lagging(torch.tensor(scores)).tolist() == behind


def test_similarity_is_a_distance_with_a_gradient_everywhere() -> None:
    z, c = torch.randn(5, 4, requires_grad=True), torch.randn(3, 4)
    expected = [[-float((a - b).norm()) for b in c] for a in z.detach()]
    torch.testing.assert_close(similarity(z, c).detach(), torch.tensor(expected))
    similarity(c.clone().requires_grad_(True), c).sum().backward()
    at = c.clone().requires_grad_(True)
    similarity(at, c).sum().backward()
    assert at.grad is not None
    assert torch.isfinite(at.grad).all()


def test_prototypes_follow_the_first_tenth_and_survive_a_class_that_is_not_there(ctx: Context) -> None:
    method = begun(PMR, ctx, momentum=0.25, batch_size=16)
    train = ctx.split.rows("train")
    for name, encoder in method.network.members:  # they start as class means over all training rows
        has = train[ctx.sources[name].present[train]]
        z = torch.from_numpy(ctx.encode(name, encoder, has)[0].copy())
        for k in range(3):
            torch.testing.assert_close(
                method.prototypes(name)[k], z[ctx.labels[has] == k].mean(0), rtol=1e-4, atol=1e-5
            )
    with torch.no_grad():
        for p in method.network.encoders.parameters():
            p.add_(0.05 * torch.randn_like(p))
    before = {name: method.prototypes(name).clone() for name in ctx.modalities}
    batches = shuffled_batches(train, 16, ctx.config.seed, 4)
    first = batches[0]
    assert math.ceil(0.1 * len(batches)) == 1
    ctx.labels[first[ctx.labels[first] == 2]] = 1  # class 2 is not in the sample
    method.train()
    method.before_epoch(4)
    assert all(part.training for part in method.network.encoders[0].modules())
    said = held_by(ctx, method.network, first)
    for name in ctx.modalities:
        has, labels = said.present[name], torch.from_numpy(ctx.labels[first])
        for k in (0, 1):
            fresh = said.z[name][has & (labels == k)].mean(0)
            torch.testing.assert_close(
                method.prototypes(name)[k], 0.75 * fresh + 0.25 * before[name][k], rtol=1e-4, atol=1e-5
            )
        assert torch.equal(method.prototypes(name)[2], before[name][2])
    assert {f"prototypes_{at}" for at in range(3)} <= set(method.state_dict())


def test_only_the_encoder_that_lags_is_drawn_to_its_prototypes(ctx: Context) -> None:
    method, plain, batch = begun(PMR, ctx, alpha=0.7), begun(Joint, ctx), batch_of(ctx, ctx.split.rows("train")[:24])
    outputs = method.network(batch.inputs, batch.present)
    near = {name: similarity(z, method.prototypes(name)) for name, z in outputs.z.items()}
    known = []
    for name, logits in near.items():
        rows = np.flatnonzero(batch.present[name].numpy())
        known.append(np.mean([softmax(logits[i].detach().numpy())[batch.target[i]] for i in rows]))
    behind = dict(zip(near, lagging(torch.tensor(known)).tolist(), strict=True))
    assert 0 < sum(behind.values()) < 3
    pulls = {
        name: torch.autograd.grad(batch.loss(near[name], batch.present[name]), list(encoder.parameters()))
        for name, encoder in method.network.members
    }
    outputs = method.network(batch.inputs, batch.present)
    assert float(method.gradients(batch, outputs, 1.0).detach()) == pytest.approx(
        float(batch.loss(outputs.f).detach()), rel=1e-6
    )
    method.before_step()
    plain.gradients(batch, plain.network(batch.inputs, batch.present), 1.0)
    for (name, encoder), (_, other) in zip(method.network.members, plain.network.members, strict=True):
        for p, q, pull in zip(encoder.parameters(), other.parameters(), pulls[name], strict=True):
            expected = q.grad + (0.7 * pull if behind[name] else 0)
            torch.testing.assert_close(p.grad, expected, rtol=1e-4, atol=1e-6)
    for p, q in zip(method.heads, plain.heads, strict=True):
        torch.testing.assert_close(p.grad, q.grad)
    assert not method.pulls
    assert not method.known.any()


# Rows that are watched


def test_watched_rows_are_whole_groups_of_the_training_part(ctx: Context) -> None:
    train = ctx.split.rows("train")
    learnt, watched = inner_split(ctx, train, 0.25)
    assert np.array_equal(np.sort(np.concatenate([learnt, watched])), train)
    assert not set(ctx.units.iloc[learnt]) & set(ctx.units.iloc[watched])
    assert 0.15 < len(watched) / len(train) < 0.35
    with pytest.raises(SplitError, match="may only see rows of train"):
        inner_split(ctx, ctx.split.rows("valid"), 0.25)
    ctx.units.iloc[train] = "all one"
    with pytest.raises(TableError, match="too few groups or rows in the training part"):
        inner_split(ctx, train, 0.25)


@pytest.mark.parametrize("strategy", [GBlending, DiagnoseRelearn], ids=lambda s: s.name)
def test_nothing_is_learnt_from_watched_rows(
    ctx: Context, monkeypatch: pytest.MonkeyPatch, strategy: type[EndToEnd]
) -> None:
    asked: list[Training] = []

    def watch(ctx: Any, what: Training) -> None:
        asked.append(what)
        run_training(ctx, what)

    monkeypatch.setattr(g_blending, "run_training", watch)
    monkeypatch.setattr("fusetune.strategies.end_to_end.run_training", watch)
    fitted = strategy.fit(ctx, strategy.Settings(**LOOP, share=0.25))  # type: ignore[call-arg]
    learnt, watched = inner_split(ctx, ctx.split.rows("train"), 0.25)
    assert np.array_equal(fitted.rows, ctx.split.rows("valid"))
    assert len(asked) == (3 if strategy is GBlending else 1)
    for what in asked:
        assert np.array_equal(what.rows, learnt)
        assert not np.isin(what.held, watched).any()
    # Nor is the start solved on them: the head's statistics are those of the rows that are learnt from.
    has = learnt[ctx.sources["genes"].present[learnt]]
    z = ctx.encode("genes", ctx.fresh_encoder("genes"), has)[0]
    method = begun(strategy, ctx, **LOOP, share=0.25)
    np.testing.assert_allclose(method.network.head.statistics("genes")[0], z.mean(0), rtol=1e-4, atol=1e-6)
    plain = begun(Joint, ctx)
    assert not torch.allclose(plain.network.head.statistics("genes")[0], torch.from_numpy(z.mean(0)), atol=1e-4)


# G-Blending


def test_blending_weights_are_the_published_ones() -> None:
    before = torch.tensor([[1, 1, 1], [1, 1, 1]], dtype=torch.float64)
    after = torch.tensor([[0.7, 0.8, 0.6], [0.5, 0.75, 0.3]], dtype=torch.float64)
    expected = [0.08157099697885216, 0.8700906344410874, 0.048338368580060506]
    assert blended(before, after, guard=0.0).tolist() == near(expected)
    assert blended(before, after).tolist() == pytest.approx(expected, abs=1e-5)
    assert blended(before, before).tolist() == [pytest.approx(1 / 3)] * 3  # nothing moved: all alike
    level = torch.tensor([[0.7, 0.9, 0.9], [0.7, 0.9, 0.8]], dtype=torch.float64)  # gains that overfit nothing
    assert torch.isfinite(blended(before, level)).all()


def test_estimates_leave_no_trace_and_are_those_of_naive_copies(ctx: Context) -> None:
    method = begun(GBlending, ctx, **LOOP, super_epoch=2, clip=0.0)
    state = copy.deepcopy(method.state_dict())
    random, passes, histories = torch.random.get_rng_state(), ctx.trained_rows.copy(), dict(ctx.histories)
    method.before_epoch(1)
    assert torch.equal(method.weights, state["weights"])  # in the middle of a super-epoch
    method.train()
    method.before_epoch(0)
    assert method.weights.tolist() != state["weights"].tolist()
    assert float(method.weights.sum()) == pytest.approx(1)
    assert torch.equal(torch.random.get_rng_state(), random)
    assert ctx.trained_rows == passes
    assert ctx.histories == histories
    for name, value in method.state_dict().items():
        assert name == "weights" or torch.equal(value, state[name])
    assert all(p.requires_grad for p in method.network.parameters())
    # Each candidate by itself, on a copy that learns from nothing else.
    method.eval()
    before, after = method.measured(), []
    for at in range(4):
        twin = copy.deepcopy(method)
        twin.weights.zero_()[at] = 1.0
        kind = "fused" if at == 3 else "alone"
        twin.learn(0, kind)
        after.append(twin.measured()[:, at])
    # Without clipping, the losses of modalities alone have nothing in common.
    expected = blended(before, torch.stack(after, 1)).float()
    torch.testing.assert_close(method.weights, expected, rtol=1e-3, atol=1e-5)


def test_measured_losses_are_of_the_rows_that_have_the_modality(ctx: Context) -> None:
    method = begun(GBlending, ctx, **LOOP)
    found = method.measured()
    for side, rows in enumerate((method.watched, method.learnt)):
        said, target = held_by(ctx, method.network, rows), ctx.targets(rows)
        for at, name in enumerate(said.f_m):
            losses = [float(F.cross_entropy(said.f_m[name][i], target[i])) for i in np.flatnonzero(said.present[name])]
            assert float(found[side, at]) == pytest.approx(np.mean(losses), rel=1e-5)
        assert float(found[side, 3]) == pytest.approx(float(F.cross_entropy(said.f, target)), rel=1e-5)


def test_blending_weighs_the_losses_and_is_charged_for_its_copies(ctx: Context) -> None:
    method, batch = begun(GBlending, ctx, **LOOP), batch_of(ctx, ctx.split.rows("train")[:24])
    outputs = method.network(batch.inputs, batch.present)
    method.weights.copy_(torch.tensor([0.1, 0.2, 0.3, 0.4]))
    losses = [*(batch.loss(f, batch.present[n]) for n, f in outputs.f_m.items()), batch.loss(outputs.f)]
    expected = sum(w * float(one.detach()) for w, one in zip((0.1, 0.2, 0.3, 0.4), losses, strict=True))
    assert float(method.loss(batch, outputs).detach()) == pytest.approx(expected, rel=1e-5)
    fitted = GBlending.fit(ctx, GBlending.Settings(**LOOP, super_epoch=2))  # type: ignore[call-arg]
    # Super-epochs of two epochs and of what is left, each on two copies, beside the three epochs themselves.
    assert fitted.cost.passes["note, training"] == (3 + 2 * (2 + 1)) * len(method.learnt)


# D&R


def test_purity_is_the_share_of_the_commonest_class() -> None:
    z = np.repeat(np.array([[0.0, 0], [10, 0], [0, 10]]), 4, 0) + 0.01 * np.random.default_rng(0).normal(size=(12, 2))
    labels = np.repeat([0, 1, 2], 4)
    assert purity(z.astype(np.float32), labels, 3, 0) == 1
    mixed = labels.copy()
    mixed[[0, 4, 5]] = 2, 0, 0
    assert purity(z.astype(np.float32), mixed, 3, 0) == pytest.approx((3 + 2 + 4) / 12)
    assert purity(np.zeros((4, 2), np.float32), np.array([0, 0, 1, 2]), 3, 0) == 0.5  # one place, one cluster
    assert purity(np.zeros((0, 2), np.float32), np.zeros(0, np.int64), 3, 0) == 0


def test_encoders_go_back_as_far_as_they_overfit(ctx: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    method = begun(DiagnoseRelearn, ctx, epochs=9, strength=2.0)
    assert method.every == 3
    with torch.no_grad():
        for p in method.network.parameters():
            p.add_(torch.randn_like(p))
    before = copy.deepcopy(method.network)
    gaps = method.gaps()
    for name in ctx.modalities:
        pure = []
        for rows in (method.learnt, method.watched):
            said = held_by(ctx, method.network, rows)
            has = said.present[name].numpy()
            pure.append(purity(said.z[name].numpy()[has], ctx.labels[rows][has], 3, ctx.config.seed))
        assert gaps[name] == pytest.approx(abs(pure[0] - pure[1]), abs=1e-12)
    assert max(gaps.values()) > 0
    for epoch in (0, 1, 2, 4, 9, 12):  # at 9 and 12 it was done twice
        method.before_epoch(epoch)
        for p, q in zip(method.network.parameters(), before.parameters(), strict=True):
            assert torch.equal(p, q)
    method.before_epoch(3)
    for (name, encoder), (_, old) in zip(method.network.members, before.members, strict=True):
        w = math.tanh(2.0 * gaps[name])
        for p, q, first in zip(
            encoder.parameters(), old.parameters(), ctx.fresh_encoder(name).parameters(), strict=True
        ):
            torch.testing.assert_close(p, w * first + (1 - w) * q)
    head = [p for part in (before.classifiers, before.head) for p in part.parameters()]
    for p, q in zip(method.heads, head, strict=True):
        assert torch.equal(p, q)
    again = ctx.fresh_encoder("genes")
    pull_back(encoder_of(method, "genes"), again, 1.0)
    for p, first in zip(encoder_of(method, "genes").parameters(), again.parameters(), strict=True):
        assert torch.equal(p, first)
    times: list[int] = []

    def counted(self: DiagnoseRelearn) -> dict[str, float]:
        times.append(1)
        return dict.fromkeys(ctx.modalities, 0.1)

    monkeypatch.setattr(DiagnoseRelearn, "gaps", counted)
    often = begun(DiagnoseRelearn, ctx, epochs=40, every=15, times=2)
    for epoch in range(50):
        often.before_epoch(epoch)
    assert len(times) == 2


def encoder_of(method: EndToEnd, name: str) -> Any:
    return dict(method.network.members)[name]


def test_adapters_are_refused_where_weights_must_be_those_of_the_start(tmp_path: Path) -> None:
    frame = tiny_table(tmp_path / "data")
    more: dict[str, Any] = {"vector__encoder": "mlp", "vector__train__lora_rank": 2, "head__penalties": [0.3]}
    ctx = make_context(tmp_path, frame, ["genes", "age"], **more)
    for strategy in (GBlending, DiagnoseRelearn):
        with pytest.raises(ConfigError, match=r"vector.train.lora_rank must be 0"):
            begun(strategy, ctx)


def test_modes_are_as_they_were_after_a_look(ctx: Context) -> None:
    method = begun(DiagnoseRelearn, ctx, epochs=3)
    method.train()
    frozen = next(iter(method.network.encoders)).eval()
    method.gaps()
    assert not frozen.training
    assert method.network.head.training
