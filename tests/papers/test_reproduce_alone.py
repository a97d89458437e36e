"""Networks trained alone: which epoch is kept, which rows a score comes from, and the class that is never learned."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from made import IMAGE, TEXT, lab, recipe, streams, titles
from torch.nn import functional as F

from fusetune.networks import EnsembleNetwork
from fusetune.strategies.batch import Batch
from fusetune_papers.reproduce import alone
from fusetune_papers.reproduce.alone import after_the_first, fine_tune, text_scores
from fusetune_papers.reproduce.lab import outputs_on, untrained
from fusetune_papers.reproduce.material import Material

LONGER = TEXT.model_copy(update={"epochs": 20})


def remembering(trained: list[np.ndarray]) -> object:
    """Return a stand-in for a network: its score of a row is 1 if it was trained on the row, else 0."""

    def score(lab: object, stage: object, rows: np.ndarray, name: str) -> np.ndarray:
        trained.append(rows)
        count = len(lab.material.labels)  # type: ignore[attr-defined]
        return np.isin(np.arange(count), rows)[:, None] * np.ones((1, 3))

    return score


@pytest.mark.parametrize("flaws", [(), ("L4",), ("L5",), ("L4", "L5"), ("L6",), ("L4", "L6")])
def test_in_sample_scores_with_l4_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flaws: tuple[str, ...]
) -> None:
    trained: list[np.ndarray] = []
    monkeypatch.setattr(alone, "_score", remembering(trained))
    made = lab(titles(), tmp_path, *flaws)
    scores = text_scores(made, TEXT)
    assert len(trained) == (1 if "L4" in flaws else 5)
    assert len(scores.train) == len(made.parts.head)
    covered = np.isin(made.parts.source, made.parts.text)
    assert (scores.train[covered] == (1 if "L4" in flaws else 0)).all()
    valid = scores.all[made.parts.valid]
    leaked = {("L5",): 0.8, ("L4", "L5"): 1.0}.get(flaws, 0.0)
    assert valid == pytest.approx(np.full_like(valid, leaked))  # four of the five networks saw a leaked row


def test_l6_gives_rows_the_scores_of_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alone, "_score", lambda lab, *_: np.arange(len(lab.material.labels))[:, None] * np.ones((1, 3)))
    made = lab(titles(), tmp_path, "L4", "L6")
    scores = text_scores(made, TEXT)
    assert scores.train[:, 0].tolist() == made.parts.source.tolist() != made.parts.head.tolist()
    right = lab(titles(), tmp_path, "L4")
    assert text_scores(right, TEXT).train[:, 0].tolist() == right.parts.head.tolist()


def test_ignoring_the_first_class_is_what_shifting_the_labels_does() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, targets = torch.randn(6, 3, generator=generator), torch.tensor([0, 0, 1, 2, 1, 0])
    published, ours = logits.clone().requires_grad_(), logits.roll(1, 1).requires_grad_()
    wanted = F.cross_entropy(published, targets - 1, ignore_index=-1)
    nothing: dict[str, torch.Tensor] = {}
    batch = Batch(np.arange(6), {}, nothing, targets, torch.ones(6), None, 0.0, 0, frozenset())
    loss = batch.loss(ours, after_the_first(batch))
    torch.testing.assert_close(loss, wanted)
    (loss + wanted).backward()
    assert ours.grad is not None
    assert published.grad is not None
    torch.testing.assert_close(ours.grad, published.grad.roll(1, 1))
    assert (ours.grad[targets == 0] == 0).all()
    assert (ours.grad[targets > 0] != 0).all()
    assert (ours.grad[:, 0] >= 0).all()  # the first class is only ever pushed down


def test_the_first_class_is_never_predicted_with_l7(tmp_path: Path) -> None:
    material = titles()
    published = text_scores(lab(material, tmp_path, "L4", "L7", "L9"), LONGER).all.argmax(1)
    sound = text_scores(lab(material, tmp_path, "L4"), LONGER).all.argmax(1)
    assert not (published == 0).any()
    others = material.labels > 0
    assert (published[others] == material.labels[others]).mean() > 0.95
    assert (sound == material.labels).mean() > 0.95


def test_networks_without_the_shifted_labels_have_no_l7(tmp_path: Path) -> None:
    stage = LONGER.model_copy(update={"one_based": False})  # as GPT-2's notebook
    assert (text_scores(lab(titles(), tmp_path, "L4", "L7"), stage).all.argmax(1) == 0).any()


def test_same_seed_same_scores(tmp_path: Path) -> None:
    first, second = (text_scores(lab(titles(), tmp_path, "L4"), TEXT).all for _ in range(2))
    assert (first == second).all()


def test_padding_counts_with_l9_alone(tmp_path: Path) -> None:
    for flaws in ((), ("L9",)):
        made = lab(titles(), tmp_path, *flaws)
        encoder, _ = made.text_encoder(TEXT, made.parts.text)
        ids = torch.tensor([[2, 3, 4]])
        longer = torch.tensor([[2, 3, 4, 0, 0, 0]])
        with torch.inference_mode():
            alone = encoder({"ids": ids, "mask": ids > 0})
            padded = encoder({"ids": longer, "mask": longer > 0})
        assert torch.allclose(alone, padded, atol=1e-6) == (not flaws)


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Material:
    return streams(tmp_path_factory.mktemp("frames"))


def test_the_test_part_chooses_the_epoch_with_l8_and_is_locked_without(frames: Material, tmp_path: Path) -> None:
    plan = recipe(stage="image", image=IMAGE)
    sound, published = lab(frames, tmp_path), lab(frames, tmp_path, "L8")
    assert sound.parts.split.unlocked_at is None
    fine_tune(sound, plan)
    assert sound.parts.split.unlocked_at is None
    assert sound.passes["watched"] == IMAGE.epochs * len(sound.parts.valid)
    assert published.parts.split.unlocked_at is not None
    fine_tune(published, plan)
    assert published.passes["watched"] == IMAGE.epochs * len(published.test())


def test_stage_u_keeps_the_epoch_of_the_best_accuracy(
    frames: Material, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, plan = lab(frames, tmp_path), recipe(stage="image", image=IMAGE.model_copy(update={"epochs": 4}))
    scores = iter(
        [(9.0, 0.5), (5.0, 0.8), (1.0, 0.8), (0.5, 0.7)]
    )  # the first of the best accuracies, not the best NLL
    states = []

    def judged(_: object, network: EnsembleNetwork, *__: object) -> tuple[float, float]:
        states.append(copy.deepcopy(network.state_dict()))
        return next(scores)

    monkeypatch.setattr("fusetune.strategies.trainer.validate", judged)
    _, network = fine_tune(made, plan)
    kept = network.state_dict()
    assert [all(torch.equal(kept[name], state[name]) for name in kept) for state in states] == [
        False,
        True,
        False,
        False,
    ]


@pytest.mark.parametrize("flaws", [(), ("L8",)])
def test_the_rows_that_choose_are_the_validation_rows_but_for_l8(
    frames: Material, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flaws: tuple[str, ...]
) -> None:
    made, asked = lab(frames, tmp_path, *flaws), []
    monkeypatch.setattr("fusetune.strategies.trainer.validate", lambda *args: asked.append(args[3]) or (1.0, 1.0))
    fine_tune(made, recipe(stage="image", image=IMAGE))
    wanted = made.test(image=True) if flaws else made.parts.valid
    assert len(asked) == IMAGE.epochs
    assert all(np.array_equal(rows, wanted) for rows in asked)


def test_pretrained_text_networks_are_trained_without_dropout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Sequential(torch.nn.Dropout(0.5)))
    monkeypatch.setattr("fusetune_papers.reproduce.lab.load_text_encoder", lambda *_, **__: (encoder, None))
    made = lab(titles(), tmp_path)
    inputs = torch.ones(8, 2)
    network, _ = made.text_encoder(TEXT.model_copy(update={"encoder": "gpt2"}), made.parts.text)
    assert torch.equal(network.train()(inputs), network.eval()(inputs))


def test_no_checkpoint_is_left_behind(frames: Material, tmp_path: Path) -> None:
    fine_tune(lab(frames, tmp_path), recipe(stage="image", image=IMAGE))
    assert not list(tmp_path.rglob("*.pt"))


def test_batches_are_asked_for_in_the_rows_order(tmp_path: Path) -> None:
    made, seen = lab(titles(), tmp_path), []
    run = made.texts(TEXT, made.parts.text)
    network, rows = untrained(run, made.draws), np.arange(10)[::-1].copy()
    network.encoders[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]["ids"]))
    outputs_on(run, network, rows, batch_size=4)
    assert [len(ids) for ids in seen] == [4, 4, 2]
    wanted = run.sources["text"].read(rows[:4])["ids"]  # type: ignore[call-overload]
    assert torch.equal(seen[0], wanted)
