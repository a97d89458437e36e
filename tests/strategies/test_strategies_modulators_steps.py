"""What one optimiser step of each modulating method does, beside what autograd or a loop over rows says it should."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from strategies_context import make_context
from tiny import tiny_table
from torch import Tensor

from fusetune.context import Context
from fusetune.evaluate.conformal import quantile
from fusetune.networks.run import read_present
from fusetune.strategies import AGM, ARL, CPSC, DGL, IEMF, MLB, OPM, InfoReg, Joint, MultiLoss
from fusetune.strategies.agm import coefficients
from fusetune.strategies.arl import weights
from fusetune.strategies.batch import Batch, draw_batch
from fusetune.strategies.cpsc import slowed
from fusetune.strategies.end_to_end import EndToEnd, alone_loss, probed_network
from fusetune.strategies.iemf import strength
from fusetune.strategies.inforeg import pulls
from fusetune.strategies.mlb import balance
from fusetune.strategies.trainer import run_training
from fusetune.train.optim import build_optimiser, set_rate

METHODS = (MLB, AGM, IEMF, OPM, InfoReg, CPSC, ARL, DGL)


def context(folder: Path, many: int) -> Context:
    """Return a run on so many modalities, vectors and cells, each of which some rows lack."""
    frame = tiny_table(folder / "data").drop(columns=["scan", "note"])
    generator, names = np.random.default_rng(0), [f"genes{m}" for m in range(many - 1)]
    values = frame[[f"v_{i}" for i in range(4)]].to_numpy()
    for m, name in enumerate(names):
        for i in range(4):
            frame[f"{name}_{i}"] = values[:, i] + generator.normal(0, 0.3 * m, len(frame))
        frame.loc[[m, 20 + m], [f"{name}_{i}" for i in range(4)]] = np.nan
    frame.loc[[9, 31], ["age"]] = np.nan
    frame = frame.drop(columns=[f"v_{i}" for i in range(4)])
    more: dict[str, Any] = {"vector__encoder": "mlp", "head__penalties": [10.0], "head__modality_dropout": 0.0}
    more |= {"vector__train__dropout": 0.0, "columns__train__dropout": 0.0}
    return make_context(folder, frame, [*names, "age"], {name: f"{name}_*" for name in names}, **more)


@pytest.fixture(params=[2, 3, 5])
def ctx(request: pytest.FixtureRequest, tmp_path: Path) -> Context:
    return context(tmp_path, request.param)


@pytest.fixture
def two(tmp_path: Path) -> Context:
    return context(tmp_path, 2)


def batch_of(ctx: Context, rows: Any) -> Batch:
    weight = torch.linspace(0.5, 1.5, len(rows))
    return draw_batch(ctx, list(ctx.modalities), rows, read_present(ctx.sources, rows), weight, 0, Joint.Settings())  # type: ignore[arg-type]


def begun(strategy: type[EndToEnd], ctx: Context, **more: Any) -> Any:
    """Return a method whose encoders are away from where they started, so that every modality has something to do."""
    method = strategy(ctx, strategy.Settings(**more)).eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for p in method.network.parameters():
            p.add_(0.05 * torch.randn_like(p))
    method.before_epoch(0)
    return method


def gradients(method: Any, batch: Batch) -> dict[str, Tensor]:
    """Return the gradients of one optimiser step, by the code that training runs."""
    method.zero_grad(set_to_none=True)
    train, valid = method.ctx.split.rows("train"), method.ctx.split.rows("valid")
    method.training_on(train, valid).gradients(batch, 1.0)
    method.factors_given = method.before_step()
    return {name: p.grad.clone() for name, p in method.network.named_parameters() if p.grad is not None}


def first(ctx: Context, many: int = 24) -> Batch:
    return batch_of(ctx, ctx.split.rows("train")[:many])


def close(found: Tensor, wanted: Tensor) -> None:
    """Check that gradients are equal but for the rounding of their largest entry."""
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5 * float(wanted.abs().max()) + 1e-8)


def scaled_as(found: dict[str, Tensor], plain: dict[str, Tensor], k: Any, head: float = 1.0) -> None:
    """Check that encoders' gradients are k times the plain ones, and the head's `head` times."""
    assert found.keys() == plain.keys()
    for name, gradient in plain.items():
        kind, place = name.split(".")[:2]
        factor = float(k[int(place)]) if kind == "encoders" else head if kind == "head" else 1.0
        close(found[name], factor * gradient)


def known(logits: Tensor, batch: Batch, name: str | None = None) -> float:
    """Return the mean probability of the label over the rows that have a modality, one row after the other."""
    rows = [i for i in range(len(logits)) if name is None or batch.present[name][i]]
    return float(np.mean([float(torch.softmax(logits[i].detach(), 0)[batch.target[i]]) for i in rows]))


def test_mlb_scales_both_losses_in_the_encoders_and_nothing_else(ctx: Context) -> None:
    batch = first(ctx)
    plain, method = begun(MultiLoss, ctx), begun(MLB, ctx, scale="gradient", beta_max=7)
    outputs = plain.network(batch.inputs, batch.present)
    k = balance(torch.tensor([known(f, batch, name) for name, f in outputs.f_m.items()]), 1.5, 7)
    assert float(k.min()) < 0.999
    assert float(k.max()) > 1.001
    before = gradients(plain, batch)
    scaled_as(gradients(method, batch), before, k)
    stepping = begun(MLB, ctx, beta_max=7)
    scaled_as(gradients(stepping, batch), before, torch.ones(len(k)))
    assert list(stepping.factors_given) == list(ctx.modalities)
    assert list(stepping.factors_given.values()) == pytest.approx(k.tolist(), rel=1e-5)


def said(method: Any, z: dict[str, Tensor], batch: Batch, names: set[str]) -> Tensor:
    present = {name: bits & (name in names) for name, bits in batch.present.items()}
    logits: Tensor = method.network.fuse(z, present).f
    return logits


def test_agm_scales_what_enters_each_contribution(ctx: Context) -> None:
    """The published way, a hook on every contribution: the same in the encoders and in the head's weights on z_m."""
    batch, method = first(ctx), begun(AGM, ctx, scale="gradient")
    method.usual += 0.3 * torch.arange(len(ctx.modalities))
    method.steps += 4
    usual = method.usual.clone()
    hooked = begun(Joint, ctx)
    z = hooked.features(batch)
    everything = set(z)
    whole = said(hooked, z, batch, everything)
    parts = [(said(hooked, z, batch, {m}) + whole - said(hooked, z, batch, everything - {m})) / 2 for m in z]
    rest = (whole - torch.stack(parts).sum(0)) / len(parts)
    parts = [part + rest for part in parts]
    losses = []
    for name, part in zip(z, parts, strict=True):
        p = torch.log_softmax(part.detach(), 1)
        losses.append(float(np.mean([-float(p[i, batch.target[i]]) for i in range(24) if batch.present[name][i]])))
    k = coefficients(torch.tensor(losses), usual, 1.0, 10.0 if len(parts) == 2 else 7.0)
    assert float(k.min()) < 0.99
    assert float(k.max()) > 1.01
    f = sum(slowed(part, one.expand(24)) for part, one in zip(parts, k, strict=True))
    hooked.zero_grad(set_to_none=True)
    batch.loss(f).backward()  # type: ignore[arg-type]
    found, wanted = gradients(method, batch), dict(hooked.network.named_parameters())
    for name, gradient in found.items():
        if name.startswith("encoders"):
            close(gradient, wanted[name].grad)
    widths = sum(method.network.head.dims.values())
    close(found["head.linear.weight"][:, :widths], wanted["head.linear.weight"].grad[:, :widths])
    torch.testing.assert_close(method.usual, usual + (torch.tensor(losses) - usual) / 5, rtol=1e-4, atol=1e-6)


def test_agm_remembers_the_mean_of_all_steps_and_a_checkpoint_holds_it(two: Context) -> None:
    method, train = begun(AGM, two), two.split.rows("train")
    parts = [batch_of(two, train[at : at + 12]) for at in (0, 12, 24)]
    gradients(method, parts[0])
    assert list(method.factors_given.values()) == [1.0, 1.0]  # nothing is usual yet
    means = [method.usual.clone()]
    for part in parts[1:]:
        alone = begun(AGM, two)
        gradients(alone, part)
        means.append(alone.usual.clone())
        gradients(method, part)
    torch.testing.assert_close(method.usual, torch.stack(means).mean(0))
    assert {"usual", "steps"} <= set(method.state_dict())


@pytest.mark.parametrize(("scale", "given", "bound"), [("gradient", None, 10), ("update", None, 2), ("update", 3.0, 3)])
def test_agm_bounds_a_step_more_than_a_gradient(two: Context, scale: Any, given: float | None, bound: float) -> None:
    method = begun(AGM, two, scale=scale, bound=given)
    method.usual += torch.tensor([0.0, 9.0])  # the first was much better than the second, and now is much worse
    method.steps += 1
    method.scores += torch.tensor([9.0, 0.0])
    method.seen += 1
    k = method.factors(method.scores)
    assert float(k.max()) == pytest.approx(np.exp(bound))
    assert bool(method.scaled(k)) == (scale == "update")


@pytest.mark.parametrize("variant", ["paper", "released"])
def test_iemf_hurries_the_head_alone(ctx: Context, variant: Any) -> None:
    batch, method = first(ctx), begun(IEMF, ctx, scale="gradient", variant=variant, first_epoch=1)
    plain = begun(Joint, ctx)
    outputs = plain.network(batch.inputs, batch.present)
    shares = plain.network.head.shares(outputs.z, batch.present)
    alone = torch.tensor([known(f, batch, name) for f, name in zip(shares, outputs.z, strict=True)])
    k = float(strength(alone, torch.tensor(known(outputs.f, batch)), variant))
    assert abs(k - 1) > 0.003
    before, ones = gradients(plain, batch), np.ones(len(alone))
    scaled_as(gradients(method, batch), before, ones)  # not yet
    method.before_epoch(1)
    scaled_as(gradients(method, batch), before, ones, head=k)
    stepping = begun(IEMF, ctx, variant=variant)
    scaled_as(gradients(stepping, batch), before, ones)
    assert stepping.factors_given == {"head": pytest.approx(k, rel=1e-5)}


def test_steps_of_the_head_are_scaled_by_its_own_name_only(two: Context) -> None:
    method = begun(IEMF, two)
    groups = method.training_on(two.split.rows("train"), two.split.rows("valid")).groups
    optimiser = build_optimiser(groups, method.settings)
    set_rate(optimiser, 1.0, {method.head_owner: 0.5, "": 0.1})
    rates = {id(p): group["lr"] for group in optimiser.param_groups for p in group["params"]}
    assert {rates[id(p)] for p in method.network.head.parameters()} == {0.5 * method.settings.head_lr}
    assert {rates[id(p)] for p in method.network.classifiers.parameters()} == {method.settings.head_lr}
    two.modalities["head"] = next(iter(two.modalities.values()))
    assert method.head_owner not in two.modalities


def test_opm_drops_features_of_the_leader_and_enlarges_what_is_left(ctx: Context) -> None:
    batch, method = batch_of(ctx, ctx.split.rows("train")), begun(OPM, ctx, share=1.0, q=0.3)
    z = {name: own.detach() for name, own in method.features(batch).items()}
    whole = method.fused(batch, z, batch.present)
    torch.testing.assert_close(whole.f, method.network.fuse(z, batch.present).f)  # in eval mode, nothing goes
    method.train()
    shares = method.network.head.shares(z, batch.present)
    scores = [known(f, batch, name) for f, name in zip(shares, z, strict=True)]
    leader = list(z)[int(np.argmax(scores))]
    rho = max(scores) / ((sum(scores) - max(scores)) / (len(z) - 1))
    q = 0.3 * (1 + 0.5 * np.tanh(rho - 1))
    widths = {name: own.shape[1] for name, own in z.items()}
    theta = widths[leader] * q / sum(widths.values())
    lost = 0.0
    for _ in range(60):
        outputs = method.fused(batch, z, batch.present)
        kept = {name: outputs.present[name] | ~batch.present[name] for name in z}
        assert all(bool(bits.all()) for name, bits in kept.items() if name != leader)
        lost += float((~kept[leader]).sum() / batch.present[leader].sum()) / 60
    assert lost == pytest.approx(q, abs=0.03)
    head = method.network.head
    blocks = [
        block * (outputs.present[name] | ~batch.present[name])[:, None] / (1 - theta)
        for name, block in zip(z, head.blocks(z, batch.present), strict=True)
    ]
    here = batch.present[leader]  # where the leader is absent, nobody can tell what else would have gone
    expected = head.linear(torch.cat([*blocks, head.absent(batch.present)], 1))
    torch.testing.assert_close(outputs.f[here], expected[here], rtol=1e-4, atol=1e-5)
    never = begun(OPM, ctx, share=0.0).train()
    torch.testing.assert_close(never.fused(batch, z, batch.present).f, whole.f)


def test_opm_leaves_out_rows_that_lost_all_that_they_had(two: Context) -> None:
    batch, method = first(two), begun(OPM, two)
    outputs = method.network(batch.inputs, batch.present)
    one, other = outputs.present
    left = {one: outputs.present[one].clone(), other: outputs.present[other].clone()}
    for bits in left.values():
        bits[:3] = False
    batch.present[one][5] = batch.present[other][5] = left[one][5] = left[other][5] = False  # had nothing to lose
    losses = batch.losses(outputs.f)
    expected = float(losses[3:].mean().detach())
    assert float(method.loss(batch, replace(outputs, present=left)).detach()) == pytest.approx(expected, rel=1e-5)
    assert float(method.loss(batch, outputs).detach()) == pytest.approx(float(losses.mean().detach()), rel=1e-5)


@pytest.mark.parametrize("variant", ["paper", "released"])
def test_inforeg_pulls_the_leader_back_to_where_the_epoch_began(ctx: Context, variant: Any) -> None:
    batch, plain, method = first(ctx), begun(MultiLoss, ctx), begun(InfoReg, ctx, variant=variant)
    began = {name: p.detach().clone() for name, p in method.network.named_parameters()}
    for one in (plain, method):
        torch.manual_seed(1)
        with torch.no_grad():
            for p in one.network.parameters():
                p.add_(0.1 * torch.randn_like(p))
    outputs = plain.network(batch.inputs, batch.present)
    scores = torch.tensor([known(f, batch, name) for name, f in outputs.f_m.items()])
    leader, many = int(scores.argmax()), len(scores)
    beta = pulls(scores, torch.ones(many, dtype=torch.bool), 0.5)
    before = gradients(plain, batch)

    def check(opened: bool) -> None:
        after = gradients(method, batch)
        for name, p in method.network.named_parameters():
            here = opened and name.startswith(f"encoders.{leader}.")
            more = beta[leader] * (p.detach() - began[name]) if here else 0.0
            torch.testing.assert_close(after[name], before[name] + more, rtol=1e-4, atol=1e-6)

    check(opened=True)
    method.epoch = 1
    for place in range(many):
        method.traces.zero_()
        method.traces[place, -1] = 1.0  # its trace grows, nobody else's
        check(opened=place == (leader if variant == "paper" else 0))


def test_inforeg_notes_the_squared_norms_of_each_epoch(two: Context) -> None:
    method, plain = begun(InfoReg, two, window=3), begun(MultiLoss, two)
    batches = [first(two), batch_of(two, two.split.rows("train")[24:40])]
    norms = []
    for batch in batches:
        found = gradients(plain, batch)
        norms.append([
            sum(float(g.square().sum()) for n, g in found.items() if n.startswith(f"encoders.{m}.")) for m in range(2)
        ])  # fmt: skip
        gradients(method, batch)
    state = method.state_dict()
    resumed = begun(InfoReg, two, window=3)
    resumed.load_state_dict(state)
    for one in (method, resumed):
        one.before_epoch(1)
        assert one.traces[:, -1].tolist() == pytest.approx(np.mean(norms, 0).tolist(), rel=1e-4)
        assert not one.traces[:, :-1].any()
        gradients(one, batches[0])
        one.before_epoch(2)
        expected = np.stack([np.mean(norms, 0), norms[0]], 1)
        np.testing.assert_allclose(one.traces[:, -2:].numpy(), expected, rtol=1e-4)


@pytest.mark.parametrize("variant", ["paper", "released"])
def test_cpsc_scales_every_row_on_its_way_into_every_encoder(ctx: Context, variant: Any) -> None:
    batch, method, plain = first(ctx), begun(CPSC, ctx, variant=variant), begun(Joint, ctx)
    plain.network.load_state_dict(method.network.state_dict())
    outputs = plain.network(batch.inputs, batch.present)
    for name, logits in outputs.f_m.items():  # half of the rows are outside
        method.limits[name] = float(1 - torch.softmax(logits.detach(), 1)[np.arange(24), batch.target].median())
    r = torch.zeros(len(outputs.z), 24)
    for m, (name, logits) in enumerate(outputs.f_m.items()):
        for i, p in enumerate(torch.softmax(logits.detach(), 1)):
            y = int(batch.target[i])
            r[m, i] = 1 / (1 + sum(float(q) > float(p[y]) for q in p)) if 1 - p[y] <= method.limits[name] else 0.0
    if variant == "released":
        has = torch.stack([batch.present[name] for name in outputs.z])
        r = torch.full_like(r, float(r[has].mean()))
    assert variant == "released" or {0.0, 1.0} < set(r.unique().tolist())
    found, head = gradients(method, batch), gradients(plain, batch)
    for m in range(len(r)):
        # The loss is linear in the rows' weights, so that factors on one encoder's rows are weights of these.
        weighed = gradients(plain, replace(batch, weight=batch.weight * (0.6 * r[m] + 0.6)))
        for name, gradient in weighed.items():
            if name.startswith(f"encoders.{m}."):
                close(found[name], gradient)
    for name in ("head.linear.weight", "head.linear.bias"):
        torch.testing.assert_close(found[name], head[name])


def test_cpsc_calibrates_on_rows_that_nothing_learns_from(two: Context) -> None:
    method, train = CPSC(two, CPSC.Settings()), two.split.rows("train")
    what = method.training_on(train, two.split.rows("valid"))
    assert not set(what.rows) & set(method.watched)
    assert sorted([*what.rows, *method.watched]) == train.tolist()
    assert not set(two.units.iloc[what.rows]) & set(two.units.iloc[method.watched])
    method.train()
    method.before_epoch(0)
    assert all(part.training for part in method.modules())
    limits = dict(method.limits)
    with torch.no_grad():
        said = method.eval().network(*inputs_of(two, method.watched))
    for name, logits in said.f_m.items():
        here = two.sources[name].present[method.watched]
        p = torch.softmax(logits, 1).numpy()[np.arange(len(here)), two.labels[method.watched]]
        assert limits[name] == pytest.approx(quantile((1 - p)[here], two.units.iloc[method.watched][here], 0.8))
    # What they are labelled moves the sets, and not the start.
    kept = two.labels.copy()
    two.labels[method.watched] = (kept[method.watched] + 1) % 3
    method.before_epoch(0)
    assert method.limits != limits
    again, start = probed_network(two, method.learnt), CPSC.start
    two.labels[:] = kept
    for one, other in zip(again.parameters(), start(method).parameters(), strict=True):
        assert torch.equal(one, other)


def inputs_of(ctx: Context, rows: Any) -> tuple[dict[str, Any], dict[str, Tensor]]:
    plain = {name: ctx.plain(name, raw) for name, raw in read_present(ctx.sources, rows).items()}
    return plain, {name: torch.from_numpy(source.present[rows]) for name, source in ctx.sources.items()}


def test_cpsc_quantiles_with_and_without_the_new_row(two: Context) -> None:
    scores, units = np.arange(1, 11) / 10, np.arange(10)
    assert CPSC(two, CPSC.Settings()).limit(scores, units) == 0.9  # the ninth: 8.8 of 10
    released = CPSC(two, CPSC.Settings(variant="released"))
    assert released.limit(scores, units) == 0.8  # the eighth
    assert CPSC(two, CPSC.Settings()).limit(scores[:3], units[:3]) == np.inf
    assert released.limit(scores[:0], units[:0]) == np.inf


@pytest.mark.parametrize("variant", ["paper", "released"])
def test_arl_trains_by_the_shares_of_the_head_and_hurries_by_variance(ctx: Context, variant: Any) -> None:
    batch, method, plain = first(ctx), begun(ARL, ctx, scale="gradient", variant=variant), begun(Joint, ctx)
    z = plain.features(batch)
    f = plain.network.fuse(z, batch.present).f
    shares = dict(zip(z, plain.network.head.shares(z, batch.present), strict=True))
    loss = batch.loss(f) + 4 * alone_loss(batch, shares)
    plain.zero_grad(set_to_none=True)
    loss.backward()
    before = {name: p.grad for name, p in plain.network.named_parameters() if p.grad is not None}
    entropies, sizes = torch.zeros(2, len(z))
    for m, (name, logits) in enumerate(shares.items()):
        rows = [i for i in range(24) if batch.present[name][i]]
        p = [torch.softmax(logits[i].detach(), 0).numpy() for i in rows]
        entropies[m] = float(np.mean([-(one * np.log(one)).sum() for one in p]))
        sizes[m] = float(np.mean([float(logits[i].detach().abs().sum()) for i in rows]))
    w = weights(entropies, sizes, 8) if variant == "paper" else torch.full_like(sizes, 1 / len(sizes))
    after = gradients(method, batch)
    scaled_as({name: g for name, g in after.items() if not name.startswith("classifiers")}, before, 1 + w)
    listening = gradients(begun(Joint, ctx), batch)
    for name in (n for n in after if n.startswith("classifiers")):
        torch.testing.assert_close(after[name], listening[name])


class Loud(DGL):
    """The fused loss counts a hundred times as much."""

    def loss(self, batch: Batch, outputs: Any) -> Tensor:
        return super().loss(batch, outputs) + 99 * batch.loss(outputs.f)


@pytest.mark.parametrize("variant", ["paper", "released"])
def test_dgl_keeps_the_fused_loss_and_the_unimodal_losses_apart(ctx: Context, variant: Any) -> None:
    batch = first(ctx)
    plain, loud = (gradients(begun(method, ctx, variant=variant), batch) for method in (DGL, Loud))
    more = gradients(begun(DGL, ctx, variant=variant, alpha=3.0), batch)
    joint = gradients(begun(Joint, ctx), batch)
    for name, gradient in plain.items():
        if name.startswith("encoders"):
            assert torch.equal(loud[name], gradient)
            close(more[name], 3 * gradient)
        if name.startswith("head"):
            torch.testing.assert_close(loud[name], 100 * gradient, rtol=1e-4, atol=1e-6)
            assert torch.equal(more[name], gradient)
            torch.testing.assert_close(gradient, joint[name])
    teacher = begun(Joint, ctx)
    z = teacher.features(batch)
    logits = teacher.network.fuse(z, batch.present).f_m
    if variant == "released":
        logits = {name: said(teacher, z, batch, {name}) for name in z}
    teacher.zero_grad(set_to_none=True)
    alone_loss(batch, logits).backward()  # type: ignore[no-untyped-call]
    for name, p in teacher.network.named_parameters():
        if name.startswith("encoders") and p.grad is not None:
            close(plain[name], p.grad)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_a_modality_that_no_row_of_a_step_has(two: Context, method: type[EndToEnd]) -> None:
    rows = two.split.rows("train")[:8]
    one = next(iter(two.modalities))
    two.sources[one].present[rows] = False
    found = gradients(begun(method, two).train(), batch_of(two, rows))
    assert all(bool(g.isfinite().all()) for g in found.values())
    assert not any(bool(g.any()) for name, g in found.items() if name.startswith("encoders.0."))
    assert any(bool(g.any()) for name, g in found.items() if name.startswith("encoders.1."))


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_one_modality_alone_is_trained(tmp_path: Path, method: type[EndToEnd]) -> None:
    ctx = context(tmp_path, 1)
    ctx.folder = None
    one = method(ctx, method.Settings(epochs=2, batch_size=32, patience=0))
    run_training(ctx, one.training_on(ctx.split.rows("train"), ctx.split.rows("valid")))
    assert all(np.isfinite(record.valid_nll) for record in ctx.histories[one.stage].records)
