"""Contrastive methods on a small table: their whole losses, what learns and what does not, and how they are resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from strategies_context import anew, make_context
from tiny import tiny_table
from torch import Tensor
from torch.nn import functional as F

from fusetune.context import Context
from fusetune.encoders import CellIdentity, Identity
from fusetune.errors import ConfigError
from fusetune.networks import Outputs
from fusetune.networks.ensemble import mean_logits
from fusetune.networks.run import read_present
from fusetune.strategies import ITHP, STRATEGIES, UMT, M3CoL, MDiCo, MultiLoss, Structure, TriModal, m3col
from fusetune.strategies.base import held_by
from fusetune.strategies.batch import Batch, draw_batch
from fusetune.strategies.contrast import cosines, nt_xent, shared_rows, two_way
from fusetune.strategies.end_to_end import EndToEnd
from fusetune.strategies.majority import prior_of
from fusetune.strategies.unimodal import fine_tune
from fusetune.train import loop

THREE, TWO = ["note", "genes", "age"], ["genes", "age"]
FAST: dict[str, Any] = {"epochs": 2, "batch_size": 16, "patience": 0}


def context(folder: Path, inputs: list[str], missing: bool = True, **more: Any) -> Context:
    """Return a run on a vector, a column that repeats the first of its values, and where asked for, a text."""
    frame = tiny_table(folder / "data")
    frame["age"] = (10 * frame["v_0"]).round(2)
    if missing:
        frame.loc[[3, 20], "age"] = None
        frame.loc[[5, 20], "note"] = None
        frame.loc[[7, 20], ["v_0", "v_1", "v_2", "v_3"]] = np.nan
    more = {"vector__encoder": "mlp", "vector__width": 16, "head__penalties": [10.0], "train__dropout": 0.0} | more
    return make_context(folder, frame, inputs, **more)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Context]:
    """Hold a run on three inputs and one on two, with encoders that learnt alone, from which many methods start."""
    folder = tmp_path_factory.mktemp("contrast")
    made = {3: context(folder / "three", THREE, vector__width=24), 2: context(folder / "two", TWO)}
    for ctx in made.values():
        begun(UMT, ctx)
    return made


@pytest.fixture
def ctx(prepared: dict[int, Context], tmp_path: Path) -> Context:
    return anew(prepared[3], tmp_path / "stages")


@pytest.fixture
def two(prepared: dict[int, Context], tmp_path: Path) -> Context:
    return anew(prepared[2], tmp_path / "stages")


def batch_of(ctx: Context, rows: Any) -> Batch:
    weight = torch.linspace(0.5, 1.5, len(rows))
    raw = read_present(ctx.sources, rows)
    return draw_batch(ctx, list(ctx.modalities), rows, raw, weight, 0, EndToEnd.Settings())  # type: ignore[arg-type]


def begun(strategy: type[EndToEnd], ctx: Context, **more: Any) -> Any:
    torch.manual_seed(0)
    method = strategy(ctx, strategy.Settings(**{**FAST, **more})).eval()
    method.begin()
    return method


def said(method: Any, batch: Batch) -> Outputs:
    z = method.features(batch)
    outputs: Outputs = method.fused(batch, z, batch.present)
    return Outputs(z, outputs.f_m, outputs.f, outputs.present)


def naive_ce(logits: Tensor, batch: Batch, has: Tensor | None = None) -> float:
    logs = log_softmax(logits.detach().double().numpy(), 1)
    there = np.ones(len(logs), bool) if has is None else has.numpy()
    losses = [-float(w) * logs[i, y] for i, (y, w) in enumerate(zip(batch.target, batch.weight, strict=True))]
    return float(np.mean(np.array(losses)[there]))


def weights(module: torch.nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in module.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(p, other[name]) for name, p in one.items())


@pytest.mark.parametrize("strategy", [M3CoL, TriModal, Structure, MDiCo, ITHP], ids=lambda s: s.name)
def test_one_input_is_refused(tmp_path: Path, strategy: type[EndToEnd]) -> None:
    single = context(tmp_path, ["genes"])
    with pytest.raises(ConfigError, match=rf"'{strategy.name}' learns from how inputs .* only genes; add an input"):
        strategy.fit(single, strategy.Settings(**FAST))
    assert STRATEGIES[strategy.name] is strategy


@pytest.mark.parametrize("variant", ["paper", "released"])
def test_m3col_is_multi_loss_and_the_cycle_of_directions(
    ctx: Context, variant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch, how = batch_of(ctx, ctx.split.rows("train")[:24]), {"weight": 0.5, "variant": variant, "mixed": 1.0}
    method, drawn = begun(M3CoL, ctx, epochs=10, **how), []
    plain = m3col.Partners.draw

    def watched(*given: Any) -> m3col.Partners:
        drawn.append(plain(*given))
        return drawn[-1]

    monkeypatch.setattr(m3col.Partners, "draw", watched)
    outputs = said(method, batch)
    base = naive_ce(outputs.f, batch) + sum(naive_ce(f, batch, batch.present[n]) for n, f in outputs.f_m.items())
    assert method.switch == 3
    for epoch in (2, 3):
        drawn.clear()
        method.before_epoch(epoch)
        loss = float(method.loss(batch, outputs).detach())
        names, total = list(outputs.z), 0.0
        for at, name in enumerate(names):
            then = (at + 1) % 3
            rows = shared_rows(batch.present, name, names[then])
            assert 0 < len(rows) < 24
            u, v = (F.normalize(method.projections[k](outputs.z[names[k]]), dim=1)[rows] for k in (at, then))
            if epoch == 3:
                total += float(m3col.soft_loss(u, v, 0.125).detach())
                continue
            if variant == "released":  # what is mixed in one place is mixed in all
                v = m3col.mixture(v, *drawn[then].among(rows))
            own = drawn[at].among(rows)
            total += float(m3col.mixup_loss(u, v, *own, 0.1, own_partner=variant == "paper").detach())
        assert loss == pytest.approx(base + 0.5 * total, rel=1e-5)


def test_m3col_without_its_weight_or_mixing_is_what_it_must_be(two: Context) -> None:
    batch = batch_of(two, two.split.rows("train")[:24])
    free, plain = begun(M3CoL, two, weight=0.0), begun(MultiLoss, two)
    outputs = said(plain, batch)
    torch.testing.assert_close(free.loss(batch, outputs), plain.loss(batch, outputs))
    unmixed = begun(M3CoL, two, epochs=10, mixed=0.0)
    rows = shared_rows(batch.present, *two.modalities)
    z = [layer(outputs.z[n])[rows] for n, layer in zip(two.modalities, unmixed.projections, strict=True)]
    assert isinstance(unmixed.projections[0], torch.nn.Identity)  # of one width
    torch.testing.assert_close(unmixed.contrast(batch, outputs), two_way(cosines(*z) / 0.1))  # half of it, twice


def test_what_is_stored_for_an_absent_input_changes_no_loss(ctx: Context) -> None:
    batch = batch_of(ctx, ctx.split.rows("train")[:24])
    assert not all(bool(bits.all()) for bits in batch.present.values())
    for strategy in (M3CoL, TriModal, Structure, MDiCo, ITHP):
        method = begun(strategy, ctx, **({"pretrain_epochs": 0} if strategy in (TriModal, Structure) else {}))
        z = {name: own.detach() for name, own in method.features(batch).items()}
        odd = {name: torch.where(batch.present[name][:, None], own, 7.0) for name, own in z.items()}
        found = []
        for features in (z, odd):
            torch.manual_seed(1)
            out = method.fused(batch, features, batch.present)
            torch.manual_seed(1)
            found.append(method.loss(batch, Outputs(features, out.f_m, out.f, out.present)))
            if hasattr(method, "embedding_head"):
                found[-1] = found[-1] + method.contrast(features, batch.present)
        torch.testing.assert_close(*found)


@pytest.mark.parametrize("anchor", ["pairs", "others"])
def test_pre_training_brings_inputs_of_a_row_together_without_labels(two: Context, anchor: str) -> None:
    rows = two.split.rows("train")
    rows = rows[np.all([source.present[rows] for source in two.sources.values()], 0)][:24]

    def lost(method: Any) -> float:
        """Return how badly a row's inputs find each other, in nats per direction."""
        batch = batch_of(two, rows)
        embeddings = method.embedding_head.embed(method.network.encode(batch.inputs, batch.present), batch.present)
        return float(two_way(5 * cosines(*embeddings.values())).detach()) / 2

    how: dict[str, Any] = {"anchor": anchor, "sharpness": 5, "head_lr": 0.02}
    before, after = begun(TriModal, two, pretrain_epochs=0, **how), begun(TriModal, two, pretrain_epochs=30, **how)
    assert lost(after) < min(lost(before), np.log(24)) - 0.3  # of rows as alike as any, ln 24
    kept = two.labels.copy()
    two.labels[:] = np.random.default_rng(0).permutation(two.labels)
    two.histories.clear()
    two.folder = None
    blind = begun(TriModal, two, pretrain_epochs=30, **how)
    two.labels[:] = kept
    assert same(weights(blind.network.encoders), weights(after.network.encoders))
    assert same(weights(blind.embedding_head.project), weights(after.embedding_head.project))


@pytest.mark.parametrize("fusion", ["mean", "concat"])
def test_the_classifier_starts_at_its_solution(tmp_path: Path, fusion: str) -> None:
    """Of the embeddings of the training rows: no step makes it better, and it says more than the frequencies."""
    penalty = 1e-2
    ctx = context(tmp_path, TWO, head__penalties=[penalty], head__modality_dropout=0.0)
    method, rows = begun(TriModal, ctx, fusion=fusion, pretrain_epochs=2), ctx.split.rows("train")
    outputs = held_by(ctx, method.network, rows)
    assert float(F.cross_entropy(outputs.f, ctx.targets(rows))) < np.log(3) - 0.3
    head = method.network.requires_grad_(True).head
    losses = F.cross_entropy(head(outputs.z, outputs.present), ctx.targets(rows), reduction="none")
    weight, linear = torch.from_numpy(ctx.row_weights(rows)).float(), head.outer.linear
    slope, bias = torch.autograd.grad((losses * weight).mean(), [linear.weight, linear.bias])
    torch.testing.assert_close(slope, -penalty * linear.weight, rtol=0.05, atol=1e-4)
    assert float(bias.abs().max()) < 1e-3


@pytest.mark.parametrize("strategy", [TriModal, Structure], ids=lambda s: s.name)
def test_killed_in_pre_training_it_ends_with_the_same_bits(
    tmp_path: Path, strategy: type[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    how = strategy.Settings(**FAST, pretrain_epochs=3)
    whole = strategy.fit(context(tmp_path / "whole", THREE), how)
    plain, calls = loop._run_epoch, []

    def killed(*args: Any) -> Any:
        calls.append(args[2].name)
        if len(calls) in (2, 5):  # in the second of three epochs before, and in the last of two after
            raise KeyboardInterrupt
        return plain(*args)

    monkeypatch.setattr(loop, "_run_epoch", killed)
    for _ in range(2):
        run = context(tmp_path / "killed", THREE)
        run.resume = True
        with pytest.raises(KeyboardInterrupt):
            strategy.fit(run, how)
    run = context(tmp_path / "killed", THREE)
    run.resume = True
    fitted = strategy.fit(run, how)
    first, then = f"strategy {strategy.name}, pre-training", f"strategy {strategy.name}"
    assert calls == [first, first, first, first, then, then, then][: len(calls)]
    assert calls.count(first) == 4  # the epoch that was killed is done again, and nothing else
    assert same(weights(fitted.network), weights(whole.network))
    assert torch.equal(fitted.held.f, whole.held.f)


def test_pre_training_can_be_all_that_moves_the_encoders(two: Context) -> None:
    fitted = TriModal.fit(two, TriModal.Settings(epochs=0, pretrain_epochs=2, batch_size=16))
    assert fitted.notes["genes"] == "classifier on its contrastively trained encoder"
    assert not same(weights(fitted.network.encoders[0]), weights(two.pristine[fitted.network.owners[0]]))
    assert {name.split(", ")[-1] for name in two.histories} == {"pre-training"}
    assert len(two.histories["strategy tri-modal, pre-training"].records) == 2


def test_structure_moves_no_encoder_and_reads_vectors_and_cells_themselves(ctx: Context) -> None:
    how = Structure.Settings(**FAST, pretrain_epochs=2, head_lr=0.01)
    fitted = Structure.fit(ctx, how)
    kinds = {name: type(encoder) for name, encoder in fitted.network.members}
    assert (kinds["genes"], kinds["columns"]) == (Identity, CellIdentity)
    text = dict(fitted.network.members)["note"]
    assert same(weights(text), weights(ctx.pristine["note"]))
    assert set(fitted.notes.values()) >= {"classifier on its encoder as it was"}
    project = weights(begun(Structure, ctx, pretrain_epochs=2, head_lr=0.01).embedding_head.project)
    untouched = weights(begun(Structure, ctx, pretrain_epochs=0).embedding_head.project)
    assert not same(project, untouched)
    method = begun(Structure, ctx, pretrain_epochs=0)
    assert not any(p.requires_grad for p in method.embedding_head.project.parameters())
    method.train()
    assert not any(module.training for encoder in method.network.encoders for module in encoder.modules())


def test_structure_weighs_its_regulariser_more_from_epoch_to_epoch(ctx: Context) -> None:
    method = begun(Structure, ctx, pretrain_epochs=0, weight=10.0, rise=1.0)
    method.settings = method.settings.model_copy(update={"pretrain_epochs": 4})
    batch = batch_of(ctx, ctx.split.rows("train")[:24])
    z, losses = method.features(batch), []
    for epoch in range(6):
        method.before_epoch(epoch)
        losses.append(float(method.contrast(z, batch.present).detach()))
    steps = np.diff(losses)
    assert steps[0] > 0
    np.testing.assert_allclose(steps, [steps[0]] * 3 + [0] * 2, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("inputs", [TWO, THREE], ids=["two", "three"])
@pytest.mark.parametrize("discriminate", ["irrelevant", "shared"])
def test_mdico_is_the_sum_of_its_four_losses(tmp_path: Path, inputs: list[str], discriminate: str) -> None:
    ctx = context(tmp_path, inputs)
    batch = batch_of(ctx, ctx.split.rows("train")[:24])
    method = begun(MDiCo, ctx, width=6, auxiliary=0.5, contrast=0.25, discrimination=2.0, discriminate=discriminate)
    outputs = said(method, batch)
    names, expected, parts = list(outputs.z), 0.0, {n: z.chunk(3, 1) for n, z in outputs.z.items()}
    for at, name in enumerate(names):
        has, (u, s, n) = batch.present[name], parts[name]
        a, (first, second) = method.shared_classifier, method.discriminators
        told = 0.0
        for logits in (first(u), second(n if discriminate == "irrelevant" else s)):
            told -= float(np.mean(log_softmax(logits.detach().numpy(), 1)[has.numpy(), at]))
        auxiliary = naive_ce(a(u), batch, has) + naive_ce(a(s), batch, has)
        expected += (naive_ce(outputs.f_m[name], batch, has) + 0.5 * auxiliary / 2 + 2 * told / 2) / len(names)
        for other in names:
            if other != name:
                rows = shared_rows(batch.present, name, other)
                expected += 0.25 * float(nt_xent(s[rows], parts[other][1][rows], 0.1).detach())
    assert float(method.loss(batch, outputs).detach()) == pytest.approx(expected, rel=1e-5)


def test_mdico_predicts_by_the_mean_of_what_is_there_and_never_by_the_rest(two: Context) -> None:
    fitted = MDiCo.fit(two, MDiCo.Settings(**{**FAST, "epochs": 4}, width=6, head_lr=0.02))
    assert two.histories["strategy mdico"].best_epoch >= 0
    network: Any = fitted.network
    outputs = held_by(two, network, np.arange(len(two.labels)))
    expected = mean_logits(outputs.f_m, outputs.present, dict.fromkeys(outputs.f_m, 1.0), prior_of(two), 96)
    torch.testing.assert_close(outputs.f, expected)
    torch.testing.assert_close(outputs.f[20], prior_of(two))  # which has neither
    for layer in network.classifiers:
        assert not layer.weight[:, 12:].any()
        assert layer.weight[:, :12].any()
    assert set(fitted.notes) == {*two.modalities, None}


@pytest.mark.parametrize("inputs", [TWO, THREE], ids=["two", "three"])
@pytest.mark.parametrize("variant", ["paper", "released"])
def test_ithp_is_its_classifier_and_the_chain(tmp_path: Path, inputs: list[str], variant: str) -> None:
    ctx = context(tmp_path, inputs)
    names = list(ctx.modalities)
    method = begun(ITHP, ctx, prime="genes", width=5, variant=variant)
    batch = batch_of(ctx, ctx.split.rows("train")[:24])
    outputs, detectors = said(method, batch), [name for name in names if name != "genes"]
    has, total = batch.present["genes"], 0.0
    states = method.bottleneck_head.chain(outputs.z, batch.present)
    assert len(states) == len(detectors) == len(method.decoders)
    for at, (name, state) in enumerate(zip(detectors, states, strict=True)):
        mean, log_variance = state.mean.detach().numpy(), state.log_variance.detach().numpy()
        mu, deviation = method.bottleneck_head.statistics(name)
        target = ((outputs.z[name] - mu) / deviation).detach().numpy()
        said_of = method.decoders[at](state.sample).detach().numpy()
        kl = [(mean[i] ** 2 + np.exp(log_variance[i]) - log_variance[i] - 1) / 2 for i in range(24) if has[i]]
        squares = [np.mean((said_of[i] - target[i]) ** 2) for i in range(24) if has[i] and batch.present[name][i]]
        link = np.mean([k.sum() if variant == "paper" else k.mean() for k in kl])
        total += 0.3**at * (link + (8 if at == 0 else 32) * np.mean(squares))
    expected = naive_ce(outputs.f, batch) + 2 / 40 * total
    assert float(method.loss(batch, outputs).detach()) == pytest.approx(expected, rel=1e-4)


def test_ithp_needs_only_the_prime_input(tmp_path: Path) -> None:
    ctx = context(tmp_path, THREE)
    teachers = {name: weights(fine_tune(ctx, name).only[0]) for name in ctx.modalities}
    fitted = ITHP.fit(ctx, ITHP.Settings(**{**FAST, "epochs": 4}, prime="genes", head_lr=0.01))
    assert ctx.histories["strategy ithp"].best_epoch >= 0
    outputs = held_by(ctx, fitted.network, np.arange(len(ctx.labels)))
    only = {name: bits & (name == "genes") for name, bits in outputs.present.items()}
    torch.testing.assert_close(fitted.network.again(outputs, only).f, outputs.f)
    torch.testing.assert_close(outputs.f[7], outputs.f[20])  # without it, a constant
    for name, encoder in fitted.network.members:
        assert same(weights(encoder), teachers[name]) == (name != "genes")
    assert fitted.notes[next(name for name in ctx.modalities if name != "genes")] == (
        "classifier on its encoder trained alone"
    )


def test_ithp_starts_from_the_classifier_of_the_prime_input(tmp_path: Path) -> None:
    two = context(tmp_path, TWO, missing=False, head__penalties=[1e-2])
    method, prime = begun(ITHP, two), next(iter(two.modalities))
    outputs = held_by(two, method.network, np.arange(len(two.labels)))
    assert float(outputs.f.std()) > 0.5
    torch.testing.assert_close(outputs.f, outputs.f_m[prime], rtol=1e-3, atol=1e-3)
    with pytest.raises(ConfigError, match=r"strategy.prime: there is no input 'gens', did you mean 'genes'"):
        ITHP.fit(two, ITHP.Settings(prime="gens"))
