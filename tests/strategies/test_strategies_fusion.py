"""Fusion of encoders tuned alone, turns, dropout, adapters and memory: formulas, naive loops, what must hold."""

from __future__ import annotations

import copy
import itertools
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import log_softmax, softmax
from strategies_context import make_context
from torch import Tensor

from fusetune.augment.random import Moment
from fusetune.context import Context
from fusetune.data.split import Rows
from fusetune.encoders.lora import add_lora
from fusetune.heads.base import HeadData
from fusetune.heads.cache import CacheHead
from fusetune.heads.late import SumHead
from fusetune.heads.linear import LinearHead
from fusetune.heads.replacing import ReplacingHead
from fusetune.heads.shared import SharedHead
from fusetune.networks import FusionNetwork, Outputs, build_network
from fusetune.networks.run import outputs_of, read_present
from fusetune.strategies import STRATEGIES, cache_head
from fusetune.strategies.base import Fitted
from fusetune.strategies.batch import Batch, draw_batch
from fusetune.strategies.cache_head import CachedHead, choose, deltas, stored
from fusetune.strategies.end_to_end import EndToEnd, start_of
from fusetune.strategies.frozen_fusion import FrozenFusion, TunedFusion, fused
from fusetune.strategies.mla import MLA, without
from fusetune.strategies.mmlora import MMLoRA
from fusetune.strategies.modality_dropout import ModalityDropout, kept
from fusetune.strategies.reconboost import ReconBoost, remainder, turn
from fusetune.strategies.trainer import run_training
from fusetune.strategies.ume_mma import UMEMMA
from fusetune.strategies.umt import UMT
from fusetune.strategies.unimodal import fine_tune

OURS = [FrozenFusion, TunedFusion, MLA, ReconBoost, ModalityDropout, UMEMMA, MMLoRA, CachedHead]
NAMES = "abcde"
LOOP: dict[str, Any] = {"epochs": 2, "batch_size": 32, "patience": 0, "head_lr": 0.02}


def redundant_table(modalities: int, rows: int = 360, noise: float = 0.6, absent: float = 0.0) -> pd.DataFrame:
    """Return rows whose class (of three) each modality's four numbers tell; with holes, each row has one at least."""
    generator = np.random.default_rng(modalities)
    code = np.arange(rows) % 3
    frame = pd.DataFrame({"case_id": [f"case-{i}" for i in range(rows)]})
    gone = generator.random((rows, modalities)) < absent
    gone[np.arange(rows), generator.integers(0, modalities, rows)] = False
    for at, name in enumerate(NAMES[:modalities]):
        values = generator.normal(size=(3, 4))[code] * 1.5 + generator.normal(0, noise, (rows, 4))
        values[gone[:, at]] = np.nan
        frame[[f"{name}_{k}" for k in range(4)]] = values
    frame["patient"] = [f"p{i}" for i in range(rows)]
    frame["part"] = np.select([np.arange(rows) % 9 >= 7, np.arange(rows) % 9 == 6], ["test", "val"], "train")
    frame["organ"] = np.array(["heart", "liver", "lung"])[code]
    return frame


def context(folder: Path, frame: pd.DataFrame, modalities: int, **more: Any) -> Context:
    names = list(NAMES[:modalities])
    how = {"vector__encoder": "mlp", "vector__width": 16, "vector__train__epochs": 8, "head__penalties": [0.03]}
    ctx = make_context(folder, frame, names, {name: f"{name}_*" for name in names}, **(how | more))
    ctx.folder = None
    return ctx


@pytest.fixture(scope="module")
def ctx(tmp_path_factory: pytest.TempPathFactory) -> Context:
    """Return three redundant modalities with holes, read only: what is trained is a copy."""
    return context(tmp_path_factory.mktemp("three"), redundant_table(3, 240, absent=0.2), 3)


def batch_of(ctx: Context, rows: Rows, epoch: int = 0, loop: Any = None) -> Batch:
    raw, weight = read_present(ctx.sources, rows), torch.linspace(0.5, 1.5, len(rows))
    return draw_batch(ctx, list(ctx.modalities), rows, raw, weight, epoch, loop or EndToEnd.Settings())  # type: ignore[arg-type]


def whole_rows(ctx: Context, count: int) -> Rows:
    rows = ctx.split.rows("train")
    return rows[np.all([source.present[rows] for source in ctx.sources.values()], 0)][:count]


def begun(strategy: type[EndToEnd], ctx: Context, **more: Any) -> Any:
    method = strategy(ctx, strategy.Settings(**more)).eval()
    method.begin()
    method.before_epoch(0)
    return method


def asked(ctx: Context, network: Any, rows: Rows) -> Outputs:
    return outputs_of(
        {"": network}, ctx.readers, ctx.sources, rows, config=ctx.config, runtime=ctx.runtime, description="asking"
    )[""]


def said(ctx: Context, fitted: Fitted, rows: Rows, *absent: str) -> Tensor:
    outputs = asked(ctx, fitted.network, rows)
    return fitted.network.again(outputs, {n: b & (n not in absent) for n, b in outputs.present.items()}).f


def accuracy(ctx: Context, logits: Tensor, rows: Rows) -> float:
    return float((logits.argmax(1).numpy() == ctx.labels[rows]).mean())


# All of them


@pytest.mark.parametrize("modalities", [1, 2, 5])
def test_any_number_of_modalities_and_any_subset_of_them(modalities: int, tmp_path: Path) -> None:
    ctx = context(tmp_path, redundant_table(modalities, 120, absent=0.2), modalities, vector__train__epochs=1)
    rows = np.arange(len(ctx.labels))
    for strategy in OURS:
        more = {**LOOP, "epochs": 1} if issubclass(strategy, EndToEnd) else {}
        fitted = strategy.fit(ctx, strategy.Settings(**more))
        again = build_network(fitted.network.describe())
        again.load_state_dict(fitted.network.state_dict())
        outputs = asked(ctx, fitted.network, rows)
        torch.testing.assert_close(asked(ctx, again, rows).f, outputs.f)
        assert set(outputs.f_m) == set(ctx.modalities)
        for absent in itertools.chain.from_iterable(
            itertools.combinations(ctx.modalities, k) for k in range(modalities + 1)
        ):
            present = {name: bits & (name not in absent) for name, bits in outputs.present.items()}
            other = {name: torch.randn_like(z) for name, z in outputs.z.items() if name in absent}
            f = fitted.network.again(outputs, present).f
            assert torch.isfinite(f).all()
            assert torch.equal(fitted.network.again(outputs, present, other).f, f)
        assert accuracy(ctx, outputs.f, rows) > 0.6


# Frozen and tuned fusion


@pytest.mark.parametrize("fusion", ["linear", "gated", "bilinear", "mlp", "transformer"])
def test_frozen_fusion_reads_the_encoders_that_were_tuned_alone(ctx: Context, fusion: Any) -> None:
    before = {name: copy.deepcopy(fine_tune(ctx, name)) for name in ctx.modalities}
    fitted = FrozenFusion.fit(ctx, FrozenFusion.Settings(fusion=fusion))
    network, valid = fitted.network, ctx.split.rows("valid")
    assert isinstance(network, FusionNetwork)
    assert network.head.kind == fusion
    for name, encoder in network.members:
        assert encoder is fine_tune(ctx, name).only[0]  # one training for all who ask
    outputs = asked(ctx, network, valid)
    for name, alone in before.items():
        own = asked(ctx, alone, valid)
        torch.testing.assert_close(outputs.z[name], own.z[name])
        has = outputs.present[name]
        torch.testing.assert_close(outputs.f_m[name][has], own.f_m[name][has])
    assert np.array_equal(fitted.rows, valid)
    assert fitted.notes[None].startswith("each encoder fine-tuned alone, one head on all (")
    torch.testing.assert_close(fitted.held.f, outputs.f)
    nll = float(-log_softmax(outputs.f.double().numpy(), 1)[np.arange(len(valid)), ctx.labels[valid]].mean())
    assert nll == pytest.approx(fused(ctx, fusion)[1].valid_nll, abs=1e-4)
    assert accuracy(ctx, said(ctx, fitted, np.arange(240)), np.arange(240)) > 0.9


def test_teachers_and_fusion_share_one_training(ctx: Context) -> None:
    FrozenFusion.fit(ctx, FrozenFusion.Settings())
    teachers = begun(UMT, ctx).teachers
    for name, encoder in fused(ctx, "linear")[0].members:
        assert teachers[name].only[0] is encoder


@pytest.mark.parametrize("fusion", ["linear", "transformer"])
def test_tuned_fusion_starts_where_frozen_fusion_ends(ctx: Context, fusion: Any) -> None:
    rows = np.arange(240)
    frozen = FrozenFusion.fit(ctx, FrozenFusion.Settings(fusion=fusion))
    state = copy.deepcopy(frozen.network.state_dict())
    ctx.histories.clear()
    untrained = TunedFusion.fit(ctx, TunedFusion.Settings(fusion=fusion, epochs=0))
    torch.testing.assert_close(said(ctx, untrained, rows), said(ctx, frozen, rows))
    assert "fine-tuned alone" in untrained.notes["a"]
    method = begun(TunedFusion, ctx, fusion=fusion, **LOOP)
    training = method.training_on(ctx.split.rows("train"), ctx.split.rows("valid"))
    run_training(ctx, replace(training, keep="last"))
    for name, p in method.network.named_parameters():
        assert not torch.equal(p, state[name]), name  # encoders, classifiers and head
    for name, p in frozen.network.state_dict().items():
        assert torch.equal(p, state[name])


def test_classifiers_listen_and_reach_no_encoder(ctx: Context) -> None:
    method, batch = begun(TunedFusion, ctx), batch_of(ctx, ctx.split.rows("train")[:32])
    outputs = method.network(batch.inputs, batch.present)
    method.listening(batch, outputs).backward()
    assert all(p.grad is None or not p.grad.any() for p in method.network.encoders.parameters())
    assert all(layer.weight.grad.any() for layer in method.network.linear_classifiers)
    for name, layer in zip(ctx.modalities, method.network.linear_classifiers, strict=True):
        assert torch.equal(layer.weight, fine_tune(ctx, name).only[1].weight)


# MMLoRA


def test_adapters_change_nothing_at_first_and_are_all_that_learns_in_an_encoder(ctx: Context) -> None:
    method, rank = begun(MMLoRA, ctx, rank=3, **LOOP), 3
    rows = np.arange(240)
    start = asked(ctx, copy.deepcopy(method.network).eval(), rows)
    torch.testing.assert_close(start.f, asked(ctx, fused(ctx, "linear")[0], rows).f)
    opened = copy.deepcopy(method.network)
    for _, encoder in opened.members:
        add_lora(encoder, rank, 2.0 * rank)
    torch.testing.assert_close(asked(ctx, opened.eval(), rows).f, start.f)
    moving = [p.numel() for p in opened.encoders.parameters() if p.requires_grad]
    assert sum(moving) == 3 * rank * ((4 + 16) + (16 + 16))  # two layers, 4 -> 16 -> 16, in each of three encoders
    before = copy.deepcopy(method.network.state_dict())
    training = method.training_on(ctx.split.rows("train"), ctx.split.rows("valid"))
    assert {one.lora_rank for one in training.encoders.values()} == {rank}
    run_training(ctx, replace(training, keep="last"))
    after = method.network.state_dict()
    assert after.keys() == before.keys()  # adapters are folded in
    ranks = []
    for name, old in before.items():
        if name.startswith("encoders") and old.ndim == 2:
            ranks.append(int(torch.linalg.matrix_rank((after[name] - old).double(), rtol=1e-4)))
        elif name.startswith("encoders"):
            assert torch.equal(after[name], old)  # biases stay
    assert 0 < max(ranks) <= rank
    assert not torch.equal(after["head.linear.weight"], before["head.linear.weight"])


def test_what_has_no_layer_stays_as_it_is(tmp_path: Path) -> None:
    ctx = context(tmp_path, redundant_table(2, 120), 2, vector__encoder="identity")
    method = MMLoRA(ctx, MMLoRA.Settings(**LOOP))
    training = method.training_on(ctx.split.rows("train"), ctx.split.rows("valid"))
    assert {(one.lora_rank, one.freeze) for one in training.encoders.values()} == {(0, 1.0)}
    assert accuracy(ctx, MMLoRA.fit(ctx, MMLoRA.Settings(**LOOP)).held.f, ctx.split.rows("valid")) > 0.8


@pytest.fixture(scope="module", params=[2, 3])
def large(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Context:
    """Return a run on many rows, read only: it remembers the encoders that were tuned alone."""
    return context(tmp_path_factory.mktemp("large"), redundant_table(request.param, 1800, noise=1.5), request.param)


@pytest.mark.parametrize("strategy", [UMEMMA, MMLoRA], ids=lambda s: s.name)
def test_with_a_modality_less_it_is_as_good_as_one_alone(strategy: Any, large: Context) -> None:
    """On redundant modalities, what is left is right in 95 % of the cases in which the network of its best one is."""
    ctx = large
    fitted, rows = strategy.fit(ctx, strategy.Settings(**LOOP)), np.flatnonzero(np.arange(1800) % 9 >= 7)
    alone = {name: accuracy(ctx, asked(ctx, fine_tune(ctx, name), rows).f, rows) for name in ctx.modalities}
    assert 0.7 < min(alone.values()) <= max(alone.values()) < 0.95  # far from chance, and not without mistakes
    one_less, only_one = [set(alone) - {name} for name in alone], [{name} for name in alone]
    for left in one_less + (only_one if strategy is UMEMMA else []):  # which has seen every subset in training
        best = max(alone[name] for name in left)
        assert accuracy(ctx, said(ctx, fitted, rows, *(set(alone) - left)), rows) >= 0.95 * best


# MLA


def test_what_was_seen_is_left_out_of_the_steps() -> None:
    torch.manual_seed(0)
    free, seen = torch.eye(6, dtype=torch.float64), torch.randn(3, 6, dtype=torch.float64)
    for mean in seen:
        k = free @ mean
        expected = [[float(free[i, j] - k[i] * k[j] / (1e-9 + mean @ free @ mean)) for j in range(6)] for i in range(6)]
        free = without(free, mean, 1e-9)
        np.testing.assert_allclose(free.numpy(), expected, atol=1e-12)
        assert float((free @ mean).norm()) < 1e-6 * float(mean.norm())
    assert float((free @ seen.T).norm()) < 1e-6  # earlier ones are remembered
    assert int(torch.linalg.matrix_rank(free, rtol=1e-6)) == 3
    loose = without(torch.eye(6, dtype=torch.float64), seen[0], 1e9)
    torch.testing.assert_close(loose, torch.eye(6, dtype=torch.float64), rtol=0, atol=1e-7)


def test_turns_go_round_by_steps_and_move_one_encoder_each(ctx: Context) -> None:
    rows = whole_rows(ctx, 24)
    plain, method = begun(MLA, ctx, projection="none"), begun(MLA, ctx)
    plain.network.load_state_dict(method.network.state_dict())
    plain.steps = method.steps = 4
    learners, read = [], []
    for epoch in range(2):
        for one in (plain, method):
            one.before_epoch(epoch)
        for step in range(4):
            batch = batch_of(ctx, rows, epoch)
            learner = method.learner
            learners.append(learner)
            outputs = method.network(batch.inputs, batch.present)
            logits = outputs.f_m[learner].detach().double().numpy()
            naive = -log_softmax(logits, 1)[np.arange(24), batch.target] * batch.weight.numpy()
            head = method.shared_head
            for one in (plain, method):
                one.zero_grad(set_to_none=True)
                loss = one.gradients(batch, one.network(batch.inputs, batch.present), 1.0)
                assert float(loss.detach()) == pytest.approx(naive.mean(), rel=1e-5)
                one.before_step()
                for name, encoder in one.network.members:
                    assert all((p.grad is not None) == (name == learner) for p in encoder.parameters())
                used = [layer.weight.grad is not None for layer in one.shared_head.project]
                assert used == [name == learner for name in ctx.modalities]
            mean = head.projected(outputs.z, batch.present)[learner].mean(0).detach()
            read.append((mean, 0.1 ** (1 + step / 4)))
            free = torch.eye(64)
            for seen, alpha in read:
                free = free - torch.outer(free @ seen, free @ seen) / (alpha + seen @ free @ seen)
            torch.testing.assert_close(method.get_buffer("free"), free, rtol=1e-4, atol=1e-5)
            got, raw = (one.shared_head.shared.weight.grad for one in (method, plain))
            torch.testing.assert_close(got, raw @ free.T, rtol=1e-4, atol=1e-6)
            assert float((got @ mean).norm()) < 0.3 * float((raw @ mean).norm())
            assert torch.equal(method.shared_head.shared.bias.grad, plain.shared_head.shared.bias.grad)
    assert learners == list("abcabcab")


def test_the_shared_classifier_starts_from_those_of_the_modalities(ctx: Context) -> None:
    method, start, rows = begun(MLA, ctx), start_of(ctx), np.arange(240)
    mine, theirs = asked(ctx, method.network, rows), asked(ctx, start, rows)
    for name, f in theirs.f_m.items():
        has = theirs.present[name]
        torch.testing.assert_close(mine.f_m[name][has], f[has], rtol=1e-3, atol=1e-4)
    assert isinstance(method.network.head, SharedHead)


# ReconBoost

F1 = torch.tensor([[2, 0, -1], [0.5, 1, 0], [0, 0, 1], [-1, 2, 0.5]], dtype=torch.float64)
F2 = torch.tensor([[0.2, 0.1, 0], [1, 0, 0], [0.3, -0.2, 0.1], [0, 0.4, 0.6]], dtype=torch.float64)
Y = torch.tensor([0, 1, 2, 1])


def test_what_the_others_know_counts_less() -> None:
    losses = torch.nn.functional.cross_entropy(F1, Y, reduction="none")
    assert float((remainder(F2, Y, 5, 1) * losses).mean()) == pytest.approx(0.6448509439255146, abs=1e-8)
    sure = F2.clone()
    sure[0, 0] += 5
    before, after = remainder(F2, Y, 5, 1), remainder(sure, Y, 5, 1)
    assert float(after[0]) < float(before[0])
    assert torch.equal(after[1:], before[1:])


def test_turns_and_rectification_by_epochs() -> None:
    assert [turn(epoch, 2, 1, 1) for epoch in range(5)] == [0, None, 1, None, 0]
    assert [turn(epoch, 3, 2, 0) for epoch in range(7)] == [0, 0, 1, 1, 2, 2, 0]
    assert [turn(epoch, 2, 4, 4) for epoch in (3, 4, 7, 8)] == [0, None, None, 1]
    assert [turn(epoch, 1, 1, 1) for epoch in range(3)] == [0, None, 0]


@pytest.mark.parametrize("variant", ["paper", "released"])
@pytest.mark.parametrize("learner", [0, 1, 2, None])
def test_boosting_is_the_naive_sum_and_moves_who_has_the_turn(ctx: Context, variant: Any, learner: int | None) -> None:
    method, batch = begun(ReconBoost, ctx, variant=variant, rate=0.7), batch_of(ctx, ctx.split.rows("train")[:40])
    method.before_epoch(1 if learner is None else 2 * learner)
    assert method.learner == learner
    outputs = method.network(batch.inputs, batch.present)
    assert isinstance(method.network.head, SumHead)
    loss = method.loss(batch, outputs)
    names = list(ctx.modalities)
    f = {name: own.detach().double().numpy() for name, own in outputs.f_m.items()}
    has = {name: bits.numpy() for name, bits in batch.present.items()}
    y, w = batch.target.numpy(), batch.weight.double().numpy()
    tasks, apart = [], []
    for row in range(40):
        if learner is None:
            total = 0.7 * sum(f[name][row] for name in names if has[name][row])
            tasks.append(-w[row] * log_softmax(total)[y[row]])
            continue
        name, before = names[learner], names[learner - 1]
        if not has[name][row]:
            continue
        others = sum((0.7 * f[n][row] for n in names if n != name and has[n][row]), np.zeros(3))
        share = (5 - softmax(others)[y[row]]) / 3
        tasks.append(-w[row] * share * log_softmax(f[name][row])[y[row]])
        if has[before][row]:
            apart.append(((softmax(f[name][row]) - softmax(f[before][row])) ** 2).mean())
    expected = np.mean(tasks) + (0.5 * np.mean(apart) if apart else 0)
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-5)
    loss.backward()
    for at, (_, encoder) in enumerate(method.network.members):
        moved = any(p.grad is not None and bool(p.grad.any()) for p in encoder.parameters())
        assert moved == (learner in (None, at))
    # The distance itself moves the learner, but for the slip of the release.
    if learner is not None:
        gradients = []
        for agreement in (0.0, 50.0):
            method.zero_grad(set_to_none=True)
            method.settings = method.settings.model_copy(update={"agreement": agreement})
            method.loss(batch, method.network(batch.inputs, batch.present)).backward()
            gradients.append(method.network.linear_classifiers[learner].weight.grad.clone())
        assert torch.equal(*gradients) == (variant == "released")


def test_those_that_rest_say_the_same_at_all_times(ctx: Context) -> None:
    method = begun(ReconBoost, ctx)
    for epoch, training in enumerate([[True, False, False], [True] * 3, [False, True, False]]):
        method.train()
        method.before_epoch(epoch)
        assert [encoder.training for _, encoder in method.network.members] == training


# Modality dropout


@pytest.mark.parametrize("modalities", [2, 3, 5])
def test_each_modality_goes_alike_and_one_stays(modalities: int) -> None:
    rows, drop = 20000, 0.3
    keys = torch.arange(rows) * 7919
    present = {name: np.ones(rows, bool) for name in NAMES[:modalities]}
    left = kept(present, keys, Moment(0), drop)
    matrix = np.stack(list(left.values()), 1)
    assert matrix.any(1).all()
    expected = drop - drop**modalities / modalities  # of those that lose all, one comes back
    np.testing.assert_allclose(1 - matrix.mean(0), expected, atol=0.012)
    lost = (~matrix[:, :2]).all(1).mean()  # two at once, as by chance, but for rows that got one back
    assert lost == pytest.approx(drop**2 - drop**modalities * (1 if modalities == 2 else 2 / modalities), abs=0.01)
    back = kept({name: bits[::-1] for name, bits in present.items()}, keys.flip(0), Moment(0), drop)
    assert all(np.array_equal(back[name][::-1], bits) for name, bits in left.items())
    assert not np.array_equal(kept(present, keys, Moment(0, 1), drop)["a"], left["a"])
    holes = {name: np.random.default_rng(at).random(rows) < 0.5 for at, name in enumerate(present)}
    there, less = (np.stack(list(one.values()), 1) for one in (holes, kept(holes, keys, Moment(0), drop)))
    assert not (less & ~there).any()
    assert np.array_equal(less.any(1), there.any(1))
    assert all(np.array_equal(bits, kept(present, keys, Moment(0), 0.0)[name]) for name, bits in present.items())


@pytest.mark.parametrize("replacement", ["learnt", "zero"])
@pytest.mark.parametrize("strategy", [ModalityDropout, UMEMMA], ids=lambda s: s.name)
def test_training_sees_what_is_left_and_learns_what_stands_in(ctx: Context, strategy: Any, replacement: str) -> None:
    method = begun(strategy, ctx, drop=0.5, replacement=replacement, repeats=2)
    rows = ctx.split.rows("train")[:60]
    batch = batch_of(ctx, rows, 3, method.settings)
    outputs = method.fused(batch, batch.features(method.network), batch.present)
    has = {name: bits[:60].numpy() for name, bits in batch.present.items()}
    for view in (0, 1):
        left = kept(has, torch.from_numpy(ctx.keys[rows]), Moment(ctx.config.seed, 3, view), 0.5)
        for name, bits in left.items():
            assert np.array_equal(outputs.present[name][60 * view : 60 * (view + 1)].numpy(), bits)
    assert any(bool((outputs.present[name] != bits).any()) for name, bits in batch.present.items())
    loss = method.loss(batch, outputs)
    logits = method.network.head(outputs.z, outputs.present).detach().double().numpy()
    naive = -log_softmax(logits, 1)[np.arange(120), batch.target] * batch.weight.numpy()
    assert float(loss.detach()) == pytest.approx(naive.mean(), rel=1e-5)
    loss.backward()
    head = method.network.head
    assert isinstance(head, ReplacingHead)
    if replacement == "zero":
        assert head.vectors is None
        return
    assert head.vectors is not None
    assert all(bool(vector.grad.any()) for vector in head.vectors)  # type: ignore[union-attr]
    before = said_without(method.network, outputs, "a")
    with torch.no_grad():
        head.vectors[0].add_(1.0)
    assert not torch.equal(said_without(method.network, outputs, "a"), before)  # at prediction, too


def said_without(network: Any, outputs: Outputs, name: str) -> Tensor:
    present = {n: bits & (n != name) for n, bits in outputs.present.items()}
    with torch.no_grad():
        f: Tensor = network.fuse({n: z.detach() for n, z in outputs.z.items()}, present).f
    return f


def test_it_starts_from_encoders_that_were_tuned_alone(ctx: Context) -> None:
    for name, encoder in begun(UMEMMA, ctx).network.members:
        tuned = fine_tune(ctx, name).only[0]
        assert all(torch.equal(one, other) for one, other in zip(encoder.parameters(), tuned.parameters(), strict=True))
        assert all(p.requires_grad for p in encoder.parameters())
    for name, encoder in begun(ModalityDropout, ctx).network.members:
        tuned = fine_tune(ctx, name).only[0]
        assert any(
            not torch.equal(one, other) for one, other in zip(encoder.parameters(), tuned.parameters(), strict=True)
        )


# Cache head


def test_remembered_rows_are_of_all_classes_alike() -> None:
    labels = np.repeat([0, 1, 2], [500, 60, 5])
    keys = np.arange(565) * 7919
    for most, counts in {30: [13, 12, 5], 9: [3, 3, 3], 1000: [500, 60, 5], 200: [135, 60, 5]}.items():
        rows = stored(labels, keys, 0, most)
        found = np.bincount(labels[rows], minlength=3)
        assert abs(found - counts).max() <= 1
        assert len(rows) == min(most, 565) == len(set(rows))
    order = np.random.default_rng(0).permutation(565)
    assert set(order[stored(labels[order], keys[order], 0, 30)]) == set(stored(labels, keys, 0, 30))
    assert set(stored(labels, keys, 1, 30)) != set(stored(labels, keys, 0, 30))


def test_what_modalities_may_count() -> None:
    assert deltas(1) == [(1.0,)]
    assert set(deltas(2)) == {(0.5, 0.5), (0.75, 0.25), (0.25, 0.75), (1.0, 0.0), (0.0, 1.0)}
    for modalities in (3, 5):
        found = deltas(modalities)
        assert len(found) == 1 + 2 * modalities
        assert all(sum(one) == pytest.approx(1) for one in found)


def rings(rows: int, seed: int) -> HeadData:
    """Return rows whose class is whether two signs agree: no linear head can say it, and every neighbour can."""
    generator = np.random.default_rng(seed)
    signs = generator.choice([-1.0, 1.0], (rows, 2))
    near = np.concatenate([signs, np.zeros((rows, 1))], 1) + 0.2 * generator.normal(size=(rows, 3))
    noise = generator.normal(size=(rows, 6))
    blocks = {"a": near.astype(np.float32)[None], "b": noise.astype(np.float32)[None]}
    present = {"a": np.ones(rows, bool), "b": np.ones(rows, bool)}
    return HeadData(blocks, present, (signs.prod(1) > 0).astype(np.int64), np.ones(rows), np.arange(rows))


def test_the_best_candidate_on_validation_rows_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    data, held, fresh = rings(150, 0), rings(90, 1), rings(200, 2)
    linear = LinearHead({"a": 3, "b": 6}, 2)
    linear.fit_scale(data)
    head = CacheHead.of(linear, data)
    words, tried = choose(head, held)
    losses = [float(-log_softmax(one, 1)[np.arange(90), held.labels].mean()) for one in tried]
    assert len(tried) == 5 * 4 * 5
    assert losses[0] == pytest.approx(math.log(2))  # alpha 0: the linear head, which is at chance

    def asked(data: HeadData) -> Tensor:
        z = {name: torch.from_numpy(block[0]) for name, block in data.z.items()}
        return head(z, {name: torch.from_numpy(bits) for name, bits in data.present.items()}).detach()

    nll = float(torch.nn.functional.cross_entropy(asked(held), torch.from_numpy(held.labels)))
    assert nll == pytest.approx(min(losses), abs=1e-5)
    assert "delta a 1, b 0" in words  # b is noise
    assert float((asked(fresh).argmax(1).numpy() == fresh.labels).mean()) > 0.9
    monkeypatch.setattr(cache_head, "_ALPHAS", (0.0,))
    assert choose(head, held)[0].startswith("alpha 0")


@pytest.mark.parametrize("encoders", ["pretrained", "fine-tuned"])
def test_a_model_remembers_training_rows_and_no_others(ctx: Context, encoders: Any) -> None:
    fitted = CachedHead.fit(ctx, CachedHead.Settings(rows=50, encoders=encoders))
    head, train = fitted.network.head, ctx.split.rows("train")
    assert isinstance(head, CacheHead)
    assert len(head.get_buffer("answers")) == 50
    outputs = asked(ctx, fitted.network, train)
    own = torch.cat(
        [torch.nn.functional.normalize(block, dim=1) for block in head.blocks(outputs.z, outputs.present)], 1
    )
    memory = torch.cat([head.get_buffer(f"stored_{at}") for at in range(3)], 1)
    gaps, places = torch.cdist(memory, own).min(1)
    assert float(gaps.max()) < 5e-3  # in float32, of vectors of length one
    labels = head.get_buffer("answers").float().argmax(1).numpy()
    assert np.array_equal(labels, ctx.labels[train][places.numpy()])
    assert np.array_equal(fitted.rows, ctx.split.rows("valid"))
    assert float(head.get_buffer("alpha")) >= 0


def test_all_have_names() -> None:
    assert all(STRATEGIES[strategy.name] is strategy for strategy in OURS)
