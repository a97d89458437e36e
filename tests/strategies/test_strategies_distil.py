"""Distillation: the losses are the naive sums, teachers stay as they are, and cached answers need no teacher."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from strategies_context import make_context
from tiny import tiny_table
from torch import Tensor

from fusetune.config import MixPolicy
from fusetune.context import Context
from fusetune.networks import EnsembleNetwork
from fusetune.networks.run import read_present
from fusetune.strategies import MIND, CachedDistillation, MultiLoss
from fusetune.strategies.batch import Batch, draw_batch
from fusetune.strategies.majority import prior_of
from fusetune.strategies.soft_targets import softened
from fusetune.strategies.trainer import Training, run_training
from fusetune.strategies.unimodal import fine_tune

INPUTS = {2: ["genes", "age"], 3: ["genes", "age", "note"], 5: ["genes", "age", "note", "more", "most"]}


def context(folder: Path, modalities: int = 3, **more: Any) -> Context:
    frame = tiny_table(folder / "data")
    frame["more"], frame["most"] = frame["note"].iloc[::-1].to_numpy(), frame["note"].iloc[::2].repeat(2).to_numpy()
    frame.loc[[3, 20], "note"] = None
    frame.loc[[7, 20], ["v_0", "v_1", "v_2", "v_3"]] = np.nan
    frame.loc[[8], "age"] = None
    noisy: dict[str, Any] = {"vector__augment": {"jitter": 0.5}}
    return make_context(
        folder,
        frame,
        INPUTS[modalities],
        vector__encoder="mlp",
        head__penalties=[10.0],
        train__dropout=0.0,
        **noisy,
        **more,
    )


@pytest.fixture
def ctx(tmp_path: Path) -> Context:
    return context(tmp_path)


def batch_of(ctx: Context, rows: Any, epoch: int = 0, **more: Any) -> Batch:
    raw = read_present(ctx.sources, rows)
    weight = torch.linspace(0.5, 1.5, len(rows))
    return draw_batch(ctx, list(ctx.modalities), rows, raw, weight, epoch, MIND.Settings(**more))  # type: ignore[arg-type]


def begun(strategy: Any, ctx: Context, **more: Any) -> Any:
    method = strategy(ctx, strategy.Settings(**more)).eval()
    method.begin()
    return method


def naive_kl(student: Tensor, teacher: Tensor, temperature: float) -> float:
    """Return T^2 KL of one row."""
    p, q = (log_softmax(f.detach().double().numpy() / temperature) for f in (teacher, student))
    return float(temperature**2 * np.sum(np.exp(p) * (p - q)))


def test_softened_is_the_divergence_times_the_square_of_the_temperature() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(5, 4).double().requires_grad_(), torch.randn(5, 4).double()
    for temperature in (0.5, 1.0, 3.0):
        found = softened(student, teacher, temperature)
        assert found.tolist() == pytest.approx(
            [naive_kl(s, t, temperature) for s, t in zip(student, teacher, strict=True)]
        )
        # Probabilities raised to 1 / T and made to add up to 1 again are what logits divided by T give.
        again = softened(torch.log_softmax(student, 1), torch.log_softmax(teacher, 1) + 1.0, temperature)
        torch.testing.assert_close(again, found)
    assert softened(teacher, teacher, 2.0).tolist() == pytest.approx([0.0] * 5)
    softened(student, teacher, 2.0).sum().backward()
    expected = 2.0 * (torch.softmax(student / 2, 1) - torch.softmax(teacher / 2, 1))
    torch.testing.assert_close(student.grad, expected.detach())


@pytest.mark.parametrize("modalities", INPUTS)
def test_mind_adds_each_modality_s_distance_to_its_teacher(tmp_path: Path, modalities: int) -> None:
    ctx = context(tmp_path, modalities)
    rows = ctx.split.rows("train")[:24]
    method, batch = begun(MIND, ctx, weight=0.7, temperature=3.0), batch_of(ctx, rows)
    for _, encoder in method.network.members:  # away from its start, which may be the teacher
        for p in encoder.parameters():
            p.data.add_(0.3 * torch.randn_like(p))
    outputs = method.network(batch.inputs, batch.present)
    assert list(method.teachers) == list(ctx.modalities)
    assert not all(bool(bits.all()) for bits in batch.present.values())
    expected = 0.0
    for name, teacher in method.teachers.items():
        assert teacher is fine_tune(ctx, name)  # stage U's own
        said = teacher(batch.inputs, batch.present).f_m[name]
        there = np.flatnonzero(batch.present[name].numpy())
        expected += float(np.mean([naive_kl(outputs.f_m[name][i], said[i], 3.0) for i in there]))
    assert float(method.distance(batch, outputs).detach()) == pytest.approx(expected, rel=1e-4)
    plain = float(MultiLoss.loss(method, batch, outputs).detach())
    assert float(method.loss(batch, outputs).detach()) == pytest.approx(plain + 0.7 * expected, rel=1e-5)
    method.loss(batch, outputs).backward()
    assert all(p.grad is None for teacher in method.teachers.values() for p in teacher.parameters())
    assert any(bool(p.grad.abs().sum() > 0) for _, e in method.network.members for p in e.parameters())
    method.settings.weight = 0.0
    assert float(method.loss(batch, outputs).detach()) == pytest.approx(plain)


def test_mind_with_all_weight_says_what_its_teachers_say(tmp_path: Path) -> None:
    ctx = context(tmp_path, 2)
    method, batch = begun(MIND, ctx, weight=1e3), batch_of(ctx, ctx.split.rows("train"))
    with torch.no_grad():
        for p in method.network.parameters():
            p.add_(0.1 * torch.randn_like(p))
    optimiser, distances = torch.optim.Adam(method.network.parameters(), lr=1e-2), []
    for _ in range(80):
        outputs = method.network(batch.inputs, batch.present)
        distances.append(method.distance(batch, outputs))
        optimiser.zero_grad()
        method.loss(batch, outputs).backward()
        optimiser.step()
    assert float(distances[-1].detach()) < 0.05 * float(distances[0].detach())


def answered(ctx: Context, batch: Batch) -> Tensor:
    """Return the log-probabilities of the teachers when they are asked for the very inputs of a batch, row by row."""
    said = {name: fine_tune(ctx, name)(batch.inputs, batch.present).f_m[name] for name in ctx.modalities}
    found = []
    for row in range(len(batch.target)):
        logits = [f[row] for name, f in said.items() if batch.present[name][row]]
        found.append(torch.log_softmax(torch.stack(logits).mean(0) if logits else prior_of(ctx), 0))
    return torch.stack(found)


@pytest.mark.parametrize("modalities", INPUTS)
def test_what_is_kept_is_what_the_teachers_say_of_the_same_views(tmp_path: Path, modalities: int) -> None:
    ctx = context(tmp_path, modalities)
    method = begun(CachedDistillation, ctx, views=3, repeats=2)
    rows = ctx.split.rows("train")[::-2].copy()
    assert {3, 7, 8, 20} & set(rows.tolist())
    kept = []
    for epoch in range(3):
        batch = batch_of(ctx, rows, epoch, repeats=2)
        kept.append(method.answers(batch))
        torch.testing.assert_close(kept[-1], answered(ctx, batch), rtol=1e-4, atol=1e-4)
    for one, other in ((kept[0], kept[1]), (kept[1], kept[2]), (kept[0][: len(rows)], kept[0][len(rows) :])):
        assert not torch.allclose(one, other, atol=1e-2)  # views differ


def test_the_student_s_loss_is_shared_between_labels_and_answers(ctx: Context) -> None:
    method = begun(CachedDistillation, ctx, weight=0.3, temperature=4.0)
    batch = batch_of(ctx, ctx.split.rows("train")[:24], 2)
    outputs = method.network(batch.inputs, batch.present)
    said = answered(ctx, batch)
    distance = np.mean([naive_kl(f, t, 4.0) for f, t in zip(outputs.f, said, strict=True)])
    expected = 0.7 * float(batch.loss(outputs.f).detach()) + 0.3 * distance
    assert float(method.loss(batch, outputs).detach()) == pytest.approx(expected, rel=1e-4)


def test_mixed_rows_are_answered_by_the_mean_of_both_rows_probabilities(ctx: Context) -> None:
    method = begun(CachedDistillation, ctx)
    rows = ctx.split.rows("train")[:16]
    mixed = batch_of(ctx, rows, mix=MixPolicy(kind="mixup", share=1.0))
    plain, mixing = method.answers(batch_of(ctx, rows)).exp(), mixed.mixing
    assert mixing is not None
    for row in range(16):
        w = mixing.weight[row]
        expected = w * plain[row] + (1 - w) * plain[mixing.partner[row]]
        torch.testing.assert_close(method.answers(mixed)[row].exp(), expected)
    assert bool((mixing.weight < 1).any())


def test_no_teacher_runs_while_the_student_trains(ctx: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once the answers are kept, every network that was trained alone is broken, and training goes on to its end."""
    method = begun(CachedDistillation, ctx, epochs=5, batch_size=16, patience=0, views=2)
    passes = dict(ctx.store.passes)

    def never(*_: Any) -> Tensor:
        raise AssertionError("a teacher was asked")

    for name in ctx.modalities:
        teacher = fine_tune(ctx, name)
        assert not any(teacher is module for module in method.modules())
        monkeypatch.setattr(teacher.only[0], "forward", never)
    monkeypatch.setattr(EnsembleNetwork, "fuse", never)
    what: Training = method.training_on(ctx.split.rows("train"), ctx.split.rows("valid"))
    seen, plain = [], method.answers
    monkeypatch.setattr(method, "answers", lambda batch: seen.append(batch.epoch) or plain(batch))
    run_training(ctx, what)
    assert len(ctx.histories[method.stage].records) == 5
    steps = len(seen) // 5
    assert seen == [epoch % 2 for epoch in range(5) for _ in range(steps)]
    assert ctx.store.passes == passes
    with pytest.raises(AssertionError, match="a teacher was asked"):
        answered(ctx, batch_of(ctx, ctx.split.rows("train")[:4]))


def test_the_answers_depend_on_no_label_but_those_of_training(tmp_path: Path) -> None:
    """Without epochs, and of one penalty, nothing is left for validation rows to choose: theirs change nothing."""
    told = []
    for place, part in ((0, None), (1, "valid"), (2, "train")):
        made = context(tmp_path / str(place), train__epochs=0)
        rows = made.split.rows("valid" if part == "valid" else "train")
        if part:
            made.labels[rows] = (made.labels[rows] + 1) % 3
        method = begun(CachedDistillation, made)
        told.append(method.told)
        assert method.told.shape == (4, 1, len(made.split.rows("train")), 3)
        assert (method.places[made.split.rows("valid")] == -1).all()
    assert torch.equal(told[0], told[1])
    assert not torch.allclose(told[0], told[2])
