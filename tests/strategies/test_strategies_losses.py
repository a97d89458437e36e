"""Methods that add terms to the loss: against numbers worked out apart, naive loops, and what they must imply."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import log_softmax, softmax
from strategies_context import batch_of, begun, make_context
from tiny import tiny_table
from torch import Tensor
from torch.nn import functional as F

from fusetune.context import Context
from fusetune.errors import ConfigError, TableError
from fusetune.networks.run import read_present
from fusetune.strategies import STRATEGIES
from fusetune.strategies.batch import Batch, draw_batch
from fusetune.strategies.club import CLUB, temperatures
from fusetune.strategies.divergence import kullback_leibler, shannon
from fusetune.strategies.end_to_end import EndToEnd, EndToEndSettings
from fusetune.strategies.interference import Interference, donors
from fusetune.strategies.joint import Joint
from fusetune.strategies.mcr import MCR, contrastive
from fusetune.strategies.multi_loss import MultiLoss
from fusetune.strategies.soft_attributes import SoftAttributes, attribute_loss

F1 = torch.tensor([[2, 0, -1], [0.5, 1, 0], [0, 0, 1], [-1, 2, 0.5]], dtype=torch.float64)
F2 = torch.tensor([[0.2, 0.1, 0], [1, 0, 0], [0.3, -0.2, 0.1], [0, 0.4, 0.6]], dtype=torch.float64)
NEW = ("mcr", "pmr", "qmf", "g-blending", "club", "diagnose-relearn", "interference", "soft-attributes")
MORE: dict[str, Any] = {"vector__encoder": "mlp", "head__penalties": [0.03], "train__dropout": 0.0}


def table(folder: Path) -> pd.DataFrame:
    """Return the small table with inputs missing, a truth value, and three texts."""
    frame = tiny_table(folder)
    frame["smoker"] = np.arange(len(frame)) % 3 == 0
    frame["remark"], frame["history"] = frame["note"], frame["note"].str.upper()
    frame.loc[[3, 20], "note"] = None
    frame.loc[[7, 20], ["v_0", "v_1", "v_2", "v_3"]] = np.nan
    frame.loc[[9, 12], ["age"]] = np.nan
    return frame


INPUTS = {2: ["note", "genes"], 3: ["note", "genes", "age", "smoker"], 5: ["note", "remark", "history", "genes", "age"]}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Context]:
    """Return runs of two, three and five modalities."""
    made = {}
    for count, inputs in INPUTS.items():
        folder = tmp_path_factory.mktemp(f"of-{count}")
        made[count] = make_context(folder, table(folder / "data"), inputs, **MORE)
        assert len(made[count].modalities) == count
    return made


@pytest.fixture
def ctx(runs: dict[int, Context]) -> Context:
    return runs[3]


def some_rows(ctx: Context) -> Batch:
    """Return a batch in which every modality is missing somewhere."""
    batch = batch_of(ctx, ctx.split.rows("train")[:24])
    assert all(not bits.all() for name, bits in batch.present.items() if name in ("note", "genes"))
    return batch


def said(method: EndToEnd, batch: Batch) -> Any:
    return method.network(batch.inputs, batch.present)


def ce(logits: Tensor, batch: Batch, has: Tensor | None = None) -> float:
    """Return the weighted cross-entropy, one row after the other."""
    rows = range(len(logits)) if has is None else np.flatnonzero(has.numpy())
    f = logits.detach().numpy().astype(np.float64)
    return float(np.mean([-float(batch.weight[i]) * log_softmax(f[i])[batch.target[i]] for i in rows]))


@pytest.mark.parametrize("count", INPUTS)
@pytest.mark.parametrize("name", [name for name in NEW if name != "soft-attributes"])
def test_what_is_stored_for_an_absent_modality_teaches_nothing(runs: dict[int, Context], name: str, count: int) -> None:
    ctx = runs[count]
    method = begun(STRATEGIES[name], ctx, epochs=1)  # type: ignore[arg-type]
    batch, gradients = some_rows(ctx), []
    if name == "qmf":
        method.scaled.uniform_()
    for noise in (0.0, 50.0):
        twin = copy.deepcopy(method)
        twin.zero_grad(set_to_none=True)
        outputs = said(twin, batch)

        def spoilt(block: Tensor, bits: Tensor, noise: float = noise) -> Tensor:
            return torch.where(bits[:, None], block, block + noise)

        z = {m: spoilt(block, batch.present[m]) for m, block in outputs.z.items()}
        f_m = {m: spoilt(block, batch.present[m]) for m, block in outputs.f_m.items()}
        torch.manual_seed(0)
        loss = twin.gradients(batch, replace(outputs, z=z, f_m=f_m), 1.0)
        twin.before_step()
        gradients.append([loss, *(p.grad for p in twin.parameters() if p.grad is not None)])
    assert len(gradients[0]) > 5
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-6)


def test_shannon_and_the_golden_information_of_mcr() -> None:
    permuted = F1[[1, 2, 3, 0]]
    assert -float(shannon(F1 + F2, permuted + F2).mean()) == pytest.approx(-0.18501071983119877, abs=1e-8)
    sure = torch.tensor([[100.0, 0], [0, 100.0]]).double()
    assert shannon(sure, sure.flip(0)).tolist() == pytest.approx([math.log(2)] * 2)
    assert shannon(F1, F1).tolist() == pytest.approx([0] * 4, abs=1e-12)
    p, q = softmax(F1.numpy(), 1), softmax(F2.numpy(), 1)
    np.testing.assert_allclose(kullback_leibler(F1, F2).numpy(), (p * np.log(p / q)).sum(1), atol=1e-12)


def game(ctx: Context, how: str) -> tuple[Any, float, dict[str, Tensor]]:
    """Return a method, its information term, and that term's gradients with respect to features."""
    method, batch = begun(MCR, ctx, game=how), some_rows(ctx)
    outputs = said(method, batch)
    z = {name: block.detach().requires_grad_(True) for name, block in outputs.z.items()}
    torch.manual_seed(3)
    total = method.information(batch, replace(outputs, z=z))
    total.backward()
    return method, float(total.detach()), {name: own.grad for name, own in z.items() if own.grad is not None}


@pytest.mark.parametrize("count", INPUTS)
def test_mcr_plays_the_game_on_the_encoders_and_leaves_the_head(runs: dict[int, Context], count: int) -> None:
    ctx = runs[count]
    alone, coop, greedy = (game(ctx, how) for how in ("independent", "cooperative", "greedy"))
    assert alone[1] == coop[1] == greedy[1]  # the value is the same, only who learns what differs
    for method, *_ in (alone, coop, greedy):
        assert all(p.grad is None for p in method.parameters())
    # A naive loop: each modality's own term by itself, with the same permutations.
    batch, terms = some_rows(ctx), {}
    torch.manual_seed(3)
    method = alone[0]
    outputs = said(method, batch)
    for name in outputs.z:
        z = {other: block.detach().requires_grad_(True) for other, block in outputs.z.items()}
        rows = batch.present[name].nonzero()[:, 0].tolist()
        order = dict(zip(rows, [rows[i] for i in torch.randperm(len(rows))], strict=True))
        moved = torch.stack([z[name][order.get(row, row)] for row in range(24)])
        p, q = (F.softmax(method.network.head(own, batch.present), 1) for own in (z, {**z, name: moved}))
        mean = (p + q) / 2
        js = [(p[i] * (p[i] / mean[i]).log() + q[i] * (q[i] / mean[i]).log()).sum() / 2 for i in rows]
        term = -torch.stack(js).mean()
        term.backward()
        terms[name] = (float(term.detach()), {other: own.grad for other, own in z.items()})
        assert -math.log(2) < terms[name][0] < 0
    assert alone[1] == pytest.approx(sum(value for value, _ in terms.values()), rel=1e-4)
    for name in outputs.z:
        own = terms[name][1][name]
        others = sum(terms[other][1][name] for other in terms if other != name) / (count - 1)
        assert float(others.abs().max()) > 1e-6
        for k, (_, _, gradients) in ((0, alone), (1, coop), (-1, greedy)):
            torch.testing.assert_close(gradients[name], own + k * others, rtol=1e-3, atol=1e-6)


def test_a_modality_that_the_head_ignores_has_no_information(ctx: Context) -> None:
    method, batch = begun(MCR, ctx), some_rows(ctx)
    with torch.no_grad():
        method.network.head.linear.weight.zero_()
    assert float(method.information(batch, said(method, batch)).detach()) == pytest.approx(0, abs=1e-7)


def test_mcr_is_the_sum_of_its_terms(ctx: Context) -> None:
    weights = {"unimodal": 0.3, "information": 0.7, "contrast": 0.2, "bottleneck": 0.4}
    method, batch = begun(MCR, ctx, **weights), some_rows(ctx)
    outputs = said(method, batch)
    expected = ce(outputs.f, batch) + 0.3 * sum(ce(f, batch, batch.present[n]) for n, f in outputs.f_m.items())
    torch.manual_seed(5)
    expected += 0.7 * float(method.information(batch, outputs).detach())
    unit = {
        name: F.normalize(layer(outputs.z[name]), dim=1).detach().numpy().astype(np.float64)
        for name, layer in zip(outputs.z, method.projections, strict=True)
    }
    pairs = []
    for one, other in [(m, n) for m in unit for n in unit if m != n]:
        here, there = (np.flatnonzero(batch.present[name].numpy()) for name in (one, other))
        terms = []
        for i in here:
            logs = log_softmax(unit[other][there] @ unit[one][i] / 0.1)
            terms.append(
                -np.mean([log for log, j in zip(logs, there, strict=True) if batch.target[j] == batch.target[i]])
            )
        pairs.append(np.mean(terms))
    expected += 0.2 * float(np.mean(pairs))
    blocks = method.network.head.blocks(outputs.z, batch.present)
    for (name, _), block, centre in zip(outputs.z.items(), blocks, method.centres, strict=True):
        squares = [
            float((block[i] - centre[batch.target[i]]).square().sum().detach())
            for i in range(24)
            if batch.present[name][i]
        ]
        expected += 0.4 * float(np.mean(squares))
    torch.manual_seed(5)
    assert float(method.loss(batch, outputs).detach()) == pytest.approx(expected, rel=1e-4)


def test_contrasts_of_rows_without_partners_are_zero() -> None:
    u, v = F.normalize(torch.randn(4, 3), dim=1), F.normalize(torch.randn(4, 3), dim=1)
    y, all_, none = torch.tensor([0, 1, 0, 2]), torch.ones(4).bool(), torch.zeros(4).bool()
    assert float(contrastive(u, v, y, none, all_, 0.1)) == 0
    assert float(contrastive(u, v, y, all_, none, 0.1)) == 0
    apart = torch.tensor([1, 1, 0, 0]).bool()
    # Rows 0 and 1 of u; of v only row 2 has row 0's class, and nothing has row 1's.
    expected = -float(F.log_softmax((u[0] @ v[2:].T) / 0.1, 0)[0])
    assert float(contrastive(u, v, y, apart, ~apart, 0.1)) == pytest.approx(expected, rel=1e-5)


def test_club_has_its_published_weights() -> None:
    found = temperatures(torch.tensor([0, 1, -1]).double()).tolist()
    assert found == [pytest.approx(x, abs=1e-8) for x in (0.7936929712265561, 0.6299485325744387, 1.0)]
    assert temperatures(torch.zeros(4)).tolist() == [1, 1, 1, 1]
    extreme = temperatures(torch.tensor([-60.0, 60.0]))
    assert 1 == float(extreme[0]) > float(extreme[1]) > math.exp(-1) - 1e-6  # bounded from below


def test_club_draws_a_hard_task_to_a_uniform_guess(ctx: Context) -> None:
    method, plain, batch = begun(CLUB, ctx), begun(MultiLoss, ctx), some_rows(ctx)
    outputs = said(method, batch)
    whole = float(plain.loss(batch, outputs).detach())
    assert float(method.loss(batch, outputs).detach()) == pytest.approx(whole / 4, rel=1e-5)  # all weights are 1
    with torch.no_grad():
        method.hardness.copy_(torch.tensor([0.0, 1.0, -1.0, 2.0]))
    tau = temperatures(method.hardness).tolist()
    losses = [ce(outputs.f, batch), *(ce(f, batch, batch.present[n]) for n, f in outputs.f_m.items())]
    expected = np.mean([t * one + (1 - t) * math.log(3) for t, one in zip(tau, losses, strict=True)])
    assert float(method.loss(batch, outputs).detach()) == pytest.approx(expected, rel=1e-5)
    # A task that is worse than a guess gets less weight by a step, one that is better gets more.
    method.zero_grad()
    temperatures(method.hardness)[1].mul(5.0 - math.log(3)).backward()
    assert float(method.hardness.grad[1]) < 0  # type: ignore[index]
    before = said(method, batch)
    method.finish()
    after = said(method, batch)
    torch.testing.assert_close(after.f, before.f * tau[0])
    for at, (name, f) in enumerate(before.f_m.items()):
        torch.testing.assert_close(after.f_m[name], f * tau[1 + at])
    untouched = begun(CLUB, ctx, temper=False)
    with torch.no_grad():
        untouched.hardness.copy_(method.hardness)
    untouched.finish()
    torch.testing.assert_close(said(untouched, batch).f, before.f)


@pytest.mark.parametrize("count", INPUTS)
def test_interference_is_the_naive_sum(runs: dict[int, Context], count: int) -> None:
    ctx = runs[count]
    for divergence in ("js", "kl"):
        method, batch = begun(Interference, ctx, kind="blank", weight=0.5, divergence=divergence), some_rows(ctx)
        outputs = said(method, batch)
        p, terms = softmax(outputs.f.detach().double().numpy(), 1), []
        for name in outputs.z:
            f = method.network.fuse({**outputs.z, name: torch.zeros_like(outputs.z[name])}, batch.present).f
            has = batch.present[name] & (torch.stack(list(batch.present.values())).sum(0) > 1)
            q = softmax(f.detach().double().numpy(), 1)
            m = (p + q) / 2
            kl = (p * np.log(p / q)).sum(1)
            js = 0.5 * (p * np.log(p / m)).sum(1) + 0.5 * (q * np.log(q / m)).sum(1)
            apart = {"js": js, "kl": kl}[divergence][has.numpy()].mean()
            terms.append(ce(f, batch, has) + 0.5 * apart)
        expected = ce(outputs.f, batch) + np.mean(terms)
        assert float(method.loss(batch, outputs).detach()) == pytest.approx(expected, rel=1e-4)


def test_interference_of_one_modality_leaves_the_others_alone(ctx: Context) -> None:
    method, batch = begun(Interference, ctx, modality="genes", kind="shuffled"), some_rows(ctx)
    assert method.irrelevant == ["genes"]
    outputs = said(method, batch)
    changed = method.perturbed(batch, outputs, "genes")
    torch.manual_seed(1)
    expected = ce(outputs.f, batch)
    torch.manual_seed(1)
    f = method.network.fuse({**outputs.z, "genes": method.perturbed(batch, outputs, "genes")}, batch.present).f
    has = batch.present["genes"] & (torch.stack(list(batch.present.values())).sum(0) > 1)
    expected += ce(f, batch, has) + 0.01 * float(shannon(outputs.f, f)[has].mean().detach())
    torch.manual_seed(1)
    assert float(method.loss(batch, outputs).detach()) == pytest.approx(expected, rel=1e-4)
    assert not torch.equal(changed, outputs.z["genes"])


def test_donors_are_of_another_class_and_have_the_modality() -> None:
    target, has = torch.tensor([0, 0, 1, 1, 2, 2]), torch.tensor([1, 0, 1, 1, 0, 1]).bool()
    seen = torch.stack([donors(target, has) for _ in range(60)])
    for row in range(6):
        assert set(seen[:, row].tolist()) == {j for j in range(6) if has[j] and target[j] != target[row]}
    assert donors(torch.zeros(3).long(), torch.ones(3).bool()).tolist() == [0, 1, 2]


def test_attacks_stay_in_their_box_and_raise_the_loss(ctx: Context) -> None:
    method, batch = begun(Interference, ctx, kind="pgd", radius=0.5, rate=5.0, steps=8), some_rows(ctx)
    outputs = said(method, batch)
    torch.manual_seed(0)
    added = method.attack(batch, outputs, "genes")
    box = 0.5 * method.network.head.statistics("genes")[1]
    assert bool((added.abs() <= box * (1 + 1e-5)).all())
    f = method.network.fuse({**outputs.z, "genes": outputs.z["genes"] + added}, batch.present).f
    has = batch.present["genes"]
    random = (2 * torch.rand_like(added) - 1) * box
    by_chance = method.network.fuse({**outputs.z, "genes": outputs.z["genes"] + random}, batch.present).f
    assert ce(f, batch, has) > max(ce(outputs.f, batch, has), ce(by_chance, batch, has)) + 0.01
    assert all(p.grad is None for p in method.parameters())
    # A row's attack does not depend on the company of others: the raw gradient is that of its own loss.
    still = begun(Interference, ctx, kind="pgd", radius=0.5, rate=0.1, steps=1)
    torch.manual_seed(0)
    start = (2 * torch.rand_like(added) - 1) * 0.5
    torch.manual_seed(0)
    moved = still.attack(batch, outputs, "genes") / method.network.head.statistics("genes")[1]
    delta = start.clone().requires_grad_(True)
    logits = still.network.fuse(
        {**outputs.z, "genes": outputs.z["genes"] + delta * still.network.head.statistics("genes")[1]}, batch.present
    ).f
    for row in (0, 5):
        (slope,) = torch.autograd.grad(batch.losses(logits)[row], delta, retain_graph=True)
        torch.testing.assert_close(moved[row], (start[row] + 0.1 * slope[row]).clamp(-0.5, 0.5), rtol=1e-4, atol=1e-6)


def test_interference_refuses_what_makes_no_sense(ctx: Context, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no input 'gens', did you mean 'genes'"):
        begun(Interference, ctx, modality="gens")
    alone = make_context(tmp_path, table(tmp_path / "data"), ["genes"], **MORE)
    with pytest.raises(ConfigError, match="'genes' is the only one"):
        begun(Interference, alone)
    for name in ("mcr", "pmr", "qmf", "club"):  # the others of one input are joint training with terms that vanish
        method = begun(STRATEGIES[name], alone)  # type: ignore[arg-type]
        method.before_epoch(0)
        batch = batch_of(alone, alone.split.rows("train")[:12])
        method.gradients(batch, said(method, batch), 1.0)
        method.before_step()
        assert all(torch.isfinite(p.grad).all() for p in method.parameters() if p.grad is not None)
    with pytest.raises(ConfigError, match="this run has no cells"):
        begun(SoftAttributes, alone)


def test_cells_become_attributes_that_the_other_inputs_must_tell(ctx: Context) -> None:
    method, frame = begun(SoftAttributes, ctx, weight=2.0), ctx.readers["columns"].fitted
    assert method.asked == ["note", "genes"]
    train, source = ctx.split.rows("train"), ctx.sources["columns"]
    assert {scale.column for scale in frame.numbers} == {"age", "smoker"}
    at = [scale.column for scale in frame.numbers].index("age")
    age, known = source.numbers[:, at], ~source.missing[:, at]  # type: ignore[union-attr]
    for row in (*train[:5].tolist(), 9):
        others = [age[i] for i in train if known[i]]
        below = sum(other < age[row] for other in others) + 0.5 * sum(other == age[row] for other in others)
        assert bool(method.known[row, at]) == bool(known[row])
        if known[row]:
            assert float(method.answers[row, at]) == pytest.approx(below / len(others), abs=1e-6)
    assert set(method.answers[train, 1 - at].unique().tolist()) == {0.0, 1.0}
    assert not method.known[np.setdiff1d(np.arange(len(ctx.labels)), train)].any()  # of training rows only
    batch = some_rows(ctx)
    outputs = said(method, batch)
    blocks = method.network.head.blocks(outputs.z, batch.present)
    logits = method.attributes(torch.cat([blocks[0], blocks[2]], 1))
    terms = []
    for i, row in enumerate(batch.rows):
        for q in range(2):
            if method.known[row, q] and (batch.present["note"][i] or batch.present["genes"][i]):
                a, p = float(method.answers[row, q]), float(torch.sigmoid(logits[i, q]).detach())
                terms.append(-a * math.log(p) - (1 - a) * math.log(1 - p))
    assert len(terms) < 48
    expected = ce(outputs.f, batch) + 2.0 * np.mean(terms)
    assert float(method.loss(batch, outputs).detach()) == pytest.approx(expected, rel=1e-4)
    without = replace(outputs, z={**outputs.z, "columns": outputs.z["columns"] + 3})
    torch.testing.assert_close(method.loss(batch, without), method.loss(batch, outputs))


def test_attributes_are_mixed_as_inputs_are(ctx: Context) -> None:
    method, rows = begun(SoftAttributes, ctx), ctx.split.rows("train")[:24]
    settings = EndToEnd.Settings(mix={"kind": "mixup"})  # type: ignore[call-arg]
    raw = read_present(ctx.sources, rows)
    batch = draw_batch(ctx, list(ctx.modalities), rows, raw, torch.ones(24), 0, settings)  # type: ignore[arg-type]
    assert batch.mixing is not None
    answers, known = method.asked_of(batch, torch.ones(24).bool())
    assert bool((batch.mixing.weight < 1).any())
    for i, (j, w) in enumerate(zip(batch.mixing.partner.tolist(), batch.mixing.weight.tolist(), strict=True)):
        both = method.known[rows[i]] & method.known[rows[j]]
        assert known[i].tolist() == both.tolist()
        mixed = w * method.answers[rows[i]] + (1 - w) * method.answers[rows[j]]
        torch.testing.assert_close(answers[i][both], mixed[both])


def test_attributes_come_from_a_file(ctx: Context, tmp_path: Path) -> None:
    ids = ctx.ids.to_numpy()
    frame = pd.DataFrame({"row_id": ids[::-1], "round": np.linspace(0, 1, len(ids))[::-1], "dark": 0.25})
    frame.loc[0, "dark"] = None
    frame.iloc[:-1].to_csv(tmp_path / "answers.csv", index=False)  # the first row of the table is not in it
    method = begun(SoftAttributes, ctx, file=str(tmp_path / "answers.csv"))
    assert method.asked == list(ctx.modalities)
    train = ctx.split.rows("train")
    assert 0 in train
    assert method.known[0].tolist() == [False, False]
    np.testing.assert_allclose(method.answers[train[1:], 0], np.linspace(0, 1, len(ids))[train[1:]], atol=1e-6)
    assert bool(method.known[train[1:]].all())
    batch = some_rows(ctx)
    assert torch.isfinite(method.loss(batch, said(method, batch)))
    nothing = torch.zeros(3, 2)
    assert float(attribute_loss(nothing, nothing, nothing.bool())) == 0
    for change, message in (
        ({"row_id": [f"x{i}" for i in range(len(ids))]}, "names none of the training rows"),
        ({"dark": 7.5}, "'7.5' in column 'dark' is no probability"),
        ({"dark": "yes"}, "'yes' in column 'dark' is no probability"),
    ):
        frame.assign(**change).to_csv(tmp_path / "wrong.csv", index=False)  # type: ignore[arg-type]
        with pytest.raises(TableError, match=message):
            begun(SoftAttributes, ctx, file=str(tmp_path / "wrong.csv"))
    frame[["round", "dark"]].to_csv(tmp_path / "wrong.csv", index=False)
    with pytest.raises(TableError, match="attributes need a column 'row_id'"):
        begun(SoftAttributes, ctx, file=str(tmp_path / "wrong.csv"))
    with pytest.raises(ConfigError, match="'aged' is no number or truth value among the inputs, did you mean 'age'"):
        begun(SoftAttributes, ctx, columns=["aged"])
    with pytest.raises(ValueError, match="leave out one of the two"):
        SoftAttributes.Settings(file="a.csv", columns=["age"])


def test_terms_of_no_weight_leave_joint_training(ctx: Context) -> None:
    batch = some_rows(ctx)
    plain = begun(Joint, ctx)
    expected = float(plain.loss(batch, said(plain, batch)).detach())
    off = {"unimodal": 0.0, "information": 0.0, "contrast": 0.0, "bottleneck": 0.0}
    for method in (begun(MCR, ctx, **off), begun(SoftAttributes, ctx, weight=0.0)):
        assert float(method.loss(batch, said(method, batch)).detach()) == pytest.approx(expected, rel=1e-6)
    assert isinstance(plain.settings, EndToEndSettings)
