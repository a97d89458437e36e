"""The mathematics of each strategy: against published numbers worked out apart, naive loops, and what it must imply."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax
from strategies_context import anew, batch_of, begun, make_context
from tiny import tiny_table
from torch import Tensor, nn
from torch.nn import functional as F

from fusetune.context import Context
from fusetune.heads.folds import row_folds
from fusetune.networks import EnsembleNetwork
from fusetune.strategies import OGMGE, STRATEGIES, UMT, Joint, MMPareto, MultiLoss, ensemble
from fusetune.strategies.batch import Batch
from fusetune.strategies.end_to_end import EndToEnd, flat_gradient
from fusetune.strategies.ensemble import fit_ensemble
from fusetune.strategies.mmpareto import combine, share_of_fused
from fusetune.strategies.ogm_ge import coefficients
from fusetune.strategies.trainer import run_training
from fusetune.strategies.umt import mixture

# Two modalities' logits of four rows, and their labels; the numbers below were worked out from them by plain numpy.
F1 = torch.tensor([[2, 0, -1], [0.5, 1, 0], [0, 0, 1], [-1, 2, 0.5]], dtype=torch.float64)
F2 = torch.tensor([[0.2, 0.1, 0], [1, 0, 0], [0.3, -0.2, 0.1], [0, 0.4, 0.6]], dtype=torch.float64)
Y = torch.tensor([0, 1, 2, 1])
SCORES = torch.stack([torch.softmax(f, 1)[torch.arange(4), Y].sum() for f in (F1, F2)])


# What depends on who else is in a batch, or is drawn for it, is switched off: batches are then parts of a step.
WITHOUT_MATES: dict[str, dict[str, Any]] = {
    "ogm-ge": {"noise": False},
    "mcr": {"information": 0.0, "contrast": 0.0},
    "interference": {"kind": "blank"},
    "m3col": {"weight": 0},
    "tri-modal": {"pretrain_epochs": 0},
    "structure": {"pretrain_epochs": 0},
    "tip": {"pretrain_epochs": 0},
    "mdico": {"contrast": 0},
}


def near(value: float) -> Any:
    return pytest.approx(value, abs=1e-8)


def test_ogm_slows_the_leader_only() -> None:
    assert SCORES.tolist() == [near(2.7119890448920985), near(1.262506108684237)]
    assert coefficients(SCORES, 0.3).tolist() == [near(0.43209171297634286), 1.0]
    assert coefficients(SCORES.flip(0), 0.3).tolist() == [1.0, near(0.43209171297634286)]
    assert coefficients(SCORES[:1], 0.3).tolist() == [1.0]
    three = torch.tensor([3.0, 1.0, 2.0], dtype=torch.float64)
    expected = [1 - np.tanh(0.3 * 3 / 1.5), 1.0, 1.0]  # 3 against the mean of 1 and 2; 2 against the mean of 3 and 1
    assert coefficients(three, 0.3).tolist() == [near(value) for value in expected]


def test_mmpareto_takes_the_combination_of_least_norm_and_gives_it_its_length_back() -> None:
    fused, alone = torch.tensor([1, 2, -1.0]).double(), torch.tensor([-2, 1, 0.5]).double()
    assert float(F.cosine_similarity(fused, alone, 0)) == near(-0.08908708063747481)
    assert share_of_fused(fused, alone) == near(0.46938775510204084)
    expected = [-1.7795006179643462, 4.418070499525275, -0.613620902711844]
    assert combine(fused, alone, 1.5).tolist() == [near(value) for value in expected]
    torch.testing.assert_close(combine(fused, fused / 3, 1.5), 1.5 * fused * 4 / 3)  # they agree: the plain sum
    assert torch.isfinite(combine(fused, -fused, 1.5)).all()  # exactly opposed
    assert combine(0 * fused, 0 * fused, 1.5).tolist() == [0, 0, 0]
    gammas = np.linspace(0.001, 0.999, 999)
    norms = [float((g * fused + (1 - g) * alone).norm()) for g in gammas]
    assert share_of_fused(fused, alone) == pytest.approx(gammas[int(np.argmin(norms))], abs=1e-3)


def test_umt_has_a_mixture_without_a_scale() -> None:
    task, distance = torch.tensor(0.7, requires_grad=True), torch.tensor(3.5, requires_grad=True)
    total = mixture(task, distance, 0.4)
    assert float(total.detach()) == pytest.approx(0.7, abs=1e-7)
    total.backward()
    assert float(task.grad) == pytest.approx(0.6)  # type: ignore[arg-type]
    assert float(distance.grad) == pytest.approx(0.4 * 0.7 / 3.5)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Context:
    folder = tmp_path_factory.mktemp("formulas")
    frame = tiny_table(folder / "data")
    frame.loc[[3, 20], "note"] = None
    frame.loc[[7, 20], ["v_0", "v_1", "v_2", "v_3"]] = np.nan
    more: dict[str, Any] = {"vector__encoder": "mlp", "head__penalties": [10.0], "train__dropout": 0.0}
    ctx = make_context(folder, frame, ["note", "genes", "age"], **more)
    begun(UMT, ctx)  # encoders that learnt alone, from which many methods start
    return ctx


@pytest.fixture
def ctx(prepared: Context, tmp_path: Path) -> Context:
    return anew(prepared, tmp_path / "stages")


def naive_ce(logits: Tensor, batch: Batch, has: Tensor | None = None) -> float:
    """Return the weighted cross-entropy, one row after the other."""
    losses = [
        -w * log_softmax(f)[y]
        for f, y, w, there in zip(
            logits.detach().numpy().astype(np.float64),
            batch.target,
            batch.weight.tolist(),
            np.ones(len(logits), bool) if has is None else has.numpy(),
            strict=True,
        )
        if there
    ]
    return float(np.mean(losses))


def test_losses_are_the_naive_sums(ctx: Context) -> None:
    batch = batch_of(ctx, ctx.split.rows("train")[:24])
    for strategy in (Joint, MultiLoss, UMT):
        method = begun(strategy, ctx)
        outputs = method.network(batch.inputs, batch.present)
        expected = naive_ce(outputs.f, batch)
        if strategy is MultiLoss:
            expected += sum(naive_ce(f, batch, batch.present[name]) for name, f in outputs.f_m.items())
        if strategy is UMT:
            for name, teacher in method.teachers.items():
                taught = teacher.encode(batch.inputs, batch.present)[name]
                apart = ((outputs.z[name] - taught) / method.scales[name]) ** 2
                expected += 10 * float(apart[batch.present[name]].mean().detach())
            assert expected > naive_ce(outputs.f, batch)
        assert float(method.loss(batch, outputs).detach()) == pytest.approx(expected, rel=1e-5)


def moved(method: Any, batches: list[Batch], epoch: int = 0) -> dict[str, Tensor]:
    """Return the gradients of one optimiser step over several batches; the method itself remembers nothing of it."""
    method = copy.deepcopy(method)
    method.zero_grad(set_to_none=True)
    method.before_epoch(epoch)
    for batch in batches:
        method.gradients(batch, method.network(batch.inputs, batch.present), 1 / len(batches))
    method.before_step()
    return {name: p.grad.clone() for name, p in method.network.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("strategy", [s for s in STRATEGIES.values() if issubclass(s, EndToEnd)], ids=lambda s: s.name)
def test_accumulated_batches_are_one_batch(ctx: Context, strategy: type[EndToEnd]) -> None:
    """Gradient surgery sees the whole step: two batches of twelve rows move the weights as one batch of them does."""
    method, rows = begun(strategy, ctx, **WITHOUT_MATES.get(strategy.name, {})), ctx.split.rows("train")
    # Rows that have everything: means over the rows that have a modality are then means of means.
    rows = rows[np.all([source.present[rows] for source in ctx.sources.values()], 0)][:24]
    parts = [batch_of(ctx, rows), batch_of(ctx, rows[:12]), batch_of(ctx, rows[12:])]
    for part in parts:
        part.weight.fill_(1.0)
    # A copy, since some methods remember what they have seen.
    whole, halves = moved(copy.deepcopy(method), parts[:1]), moved(method, parts[1:])
    assert whole.keys() == halves.keys()
    for name, gradient in whole.items():
        torch.testing.assert_close(halves[name], gradient, rtol=1e-3, atol=1e-6)


def test_ogm_scales_the_encoders_and_leaves_the_head(ctx: Context) -> None:
    rows = ctx.split.rows("train")[:24]
    plain, method = begun(Joint, ctx), begun(OGMGE, ctx, noise=False, scale="gradient")
    before, after = moved(plain, [batch_of(ctx, rows)]), moved(method, [batch_of(ctx, rows)])
    batch = batch_of(ctx, rows)
    outputs = plain.network(batch.inputs, batch.present)
    shares = plain.network.head.shares(outputs.z, batch.present).detach().numpy()
    torch.testing.assert_close(torch.from_numpy(shares.sum(0)), outputs.f.detach(), rtol=1e-4, atol=1e-5)
    known = [
        sum(softmax(shares[m, i])[batch.target[i]] for i in range(24) if batch.present[name][i])
        for m, name in enumerate(outputs.z)
    ]
    k = coefficients(torch.tensor(known), 0.3)
    assert float(k.min()) < 1 == float(k.max())
    for name, gradient in before.items():
        kind, place = name.split(".")[:2]
        factor = k[int(place)] if kind == "encoders" else 1.0
        torch.testing.assert_close(after[name], gradient * factor, rtol=1e-4, atol=1e-7)
    late = begun(OGMGE, ctx, noise=False, last_epoch=0, scale="gradient")
    for name, gradient in moved(late, [batch_of(ctx, rows)], epoch=1).items():
        torch.testing.assert_close(gradient, before[name])


def test_ogm_noise_has_the_deviation_of_the_gradient(ctx: Context) -> None:
    rows = ctx.split.rows("train")[:24]
    quiet = moved(begun(OGMGE, ctx, noise=False, alpha=0.0), [batch_of(ctx, rows)])
    loud = moved(begun(OGMGE, ctx, alpha=0.0), [batch_of(ctx, rows)])
    name = max((n for n, g in quiet.items() if n.startswith("encoders") and g.ndim > 1), key=lambda n: quiet[n].numel())
    noise = loud[name] - quiet[name]
    assert float(noise.std()) == pytest.approx(float(quiet[name].std()), rel=0.1)
    assert abs(float(noise.mean())) < 0.1 * float(noise.std())


def test_mmpareto_combines_what_autograd_says_of_each_loss(ctx: Context) -> None:
    rows = ctx.split.rows("train")[:24]
    method, batch = begun(MMPareto, ctx), batch_of(ctx, rows)
    after = moved(method, [batch])
    outputs = method.network(batch.inputs, batch.present)
    names = {id(p): name for name, p in method.network.named_parameters()}
    for name, encoder in method.network.members:
        weights = [p for p in encoder.parameters() if p.requires_grad]
        pair = [
            torch.cat([g.flatten() for g in torch.autograd.grad(loss, weights, retain_graph=True)])
            for loss in (batch.loss(outputs.f), batch.loss(outputs.f_m[name], batch.present[name]))
        ]
        got = torch.cat([after[names[id(p)]].flatten() for p in weights])
        torch.testing.assert_close(got, combine(*pair, 1.5), rtol=1e-4, atol=1e-7)
    losses = batch.loss(outputs.f) + sum(batch.loss(f, batch.present[n]) for n, f in outputs.f_m.items())
    for p, g in zip(method.heads, torch.autograd.grad(losses, method.heads), strict=True):
        torch.testing.assert_close(after[names[id(p)]], g)


def test_umt_without_weight_is_joint_training_and_with_all_weight_the_teacher(ctx: Context) -> None:
    train, valid = ctx.split.rows("train"), ctx.split.rows("valid")
    loop: dict[str, Any] = {"epochs": 2, "batch_size": 16, "patience": 0}
    plain, free = begun(Joint, ctx, **loop), begun(UMT, ctx, weight=0.0, **loop)
    free.name = "joint"  # the name seeds the dropout of its epochs
    for at, method in enumerate((plain, free)):
        ctx.folder = ctx.folder / str(at)
        run_training(ctx, method.training_on(train, valid))
    for one, other in zip(plain.network.parameters(), free.network.parameters(), strict=True):
        assert torch.equal(one, other)
    bound = begun(UMT, ctx, weight=1e4)
    batch = batch_of(ctx, train[:24])
    with torch.no_grad():  # a student that starts apart from its teacher
        for _, encoder in bound.network.members:
            for p in encoder.parameters():
                p.add_(0.05 * torch.randn_like(p))
    teachers = [p.clone() for teacher in bound.teachers.values() for p in teacher.parameters()]
    optimiser = torch.optim.Adam([p for _, e in bound.network.members for p in e.parameters()], lr=1e-2)
    distances = []
    for _ in range(300):
        outputs = bound.network(batch.inputs, batch.present)
        optimiser.zero_grad()
        bound.loss(batch, outputs).backward()
        optimiser.step()
        distances.append(float(bound.distance(batch, outputs).detach()))
        if distances[-1] < 0.05 * distances[0]:
            break
    assert distances[-1] < 0.05 * distances[0]
    for before, p in zip(teachers, (p for t in bound.teachers.values() for p in t.parameters()), strict=True):
        assert torch.equal(before, p)
        assert p.grad is None


def test_ume_is_late_fusion_with_weights_over_their_number() -> None:
    """f = (1/M) sum_m (W_m z_m + b_m) / T_m, and a modality that is absent is left out of the mean."""
    torch.manual_seed(0)
    encoders = [STUB(4), STUB(3)]
    classifiers = [nn.Linear(4, 5), nn.Linear(3, 5)]
    prior, heat = torch.log_softmax(torch.randn(5), 0), {"a": 1.5, "b": 0.7}
    network = EnsembleNetwork(encoders, ["a", "b"], classifiers, prior, heat)
    z = {"a": torch.randn(6, 4), "b": torch.randn(6, 3)}
    has = {"a": torch.tensor([1, 1, 1, 1, 0, 0]).bool(), "b": torch.tensor([1, 1, 0, 0, 1, 0]).bool()}
    f = network.fuse(z, has).f
    for row in range(6):
        there = [m for m in "ab" if has[m][row]]
        layers = dict(zip("ab", classifiers, strict=True))
        expected = sum((layers[m](z[m][row]) / heat[m] / len(there) for m in there), torch.zeros(5)) if there else prior
        torch.testing.assert_close(f[row], expected)


class STUB(nn.Module):
    """An encoder that is never asked."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim


def test_temperatures_of_held_out_rows_come_from_the_other_folds(ctx: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the ensemble says of a row does not change when that row's own label does; its neighbours' may."""
    folds = row_folds(ctx, fit_ensemble(ctx, ["note", "genes"], "").rows)
    monkeypatch.setattr(ensemble, "row_folds", lambda *_: folds)  # other labels may be dealt otherwise
    before = fit_ensemble(ctx, ["note", "genes"], "").held.f
    rows = fit_ensemble(ctx, ["note", "genes"], "").rows
    for at in (0, len(rows) - 1):
        kept = ctx.labels.copy()
        ctx.labels[rows[at]] = (kept[rows[at]] + 1) % 3
        after = fit_ensemble(ctx, ["note", "genes"], "").held.f
        ctx.labels[:] = kept
        assert torch.equal(after[at], before[at])
        assert not torch.equal(after, before)


def test_gradients_as_one_vector_are_those_of_backward(ctx: Context) -> None:
    method, batch = begun(Joint, ctx), batch_of(ctx, ctx.split.rows("train")[:8])
    loss = batch.loss(method.network(batch.inputs, batch.present).f)
    vectors = {name: flat_gradient(loss, encoder) for name, encoder in method.network.members}
    loss.backward()
    for name, encoder in method.network.members:
        torch.testing.assert_close(vectors[name], torch.cat([p.grad.flatten() for p in encoder.parameters()]))
