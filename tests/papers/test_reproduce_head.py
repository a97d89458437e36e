"""Stage by stage: each switch does what it says, and the published head is the published formula."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from made import HEAD, frozen, lab, recipe, streams

from fusetune.augment.image import ImageAugment
from fusetune.encoders import SmallCNN
from fusetune.encoders.pretrained import transformers
from fusetune.features.store import weights_hash
from fusetune_papers.reproduce.alone import Scores
from fusetune_papers.reproduce.head import fuse, published_layer
from fusetune_papers.reproduce.material import Material, place_numbers
from fusetune_papers.reproduce.recipe import CIFAR_MEAN, CIFAR_STD, Recipe
from fusetune_papers.reproduce.report import published_passes, stored_passes


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Material:
    return streams(tmp_path_factory.mktemp("frames"))


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the folder of a tiny network with batch-norm."""
    folder = tmp_path_factory.mktemp("resnet")
    config = transformers().ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    torch.manual_seed(0)
    transformers().AutoModel.from_config(config).save_pretrained(folder)
    return str(folder)


def beside(material: Material, rows: np.ndarray, ordinal: bool = True) -> dict[str, Scores]:
    numbers = place_numbers(material, ordinal)
    return {"place": Scores(numbers[rows], numbers)}


def test_one_step_of_the_published_head_is_its_formula(frames: Material, tmp_path: Path) -> None:
    # One batch holds all rows and there is one epoch: the head makes a single step.
    whole = recipe(head=HEAD.model_copy(update={"epochs": 1, "batch_size": 1000, "lr": 5e-4}))
    made = lab(frames, tmp_path, "L16")
    image, side = frozen(made, whole), beside(frames, made.parts.head)
    predict = fuse(image, whole, side)

    rows, valid = made.parts.head, made.parts.valid
    phi = image.views(rows, 1, 1000)[0].astype(np.float64)
    layer = published_layer(phi.shape[1] + 4, 2, made.seed)
    assert layer.weight.dtype == torch.float64
    W, b = layer.weight.detach().numpy(), layer.bias.detach().numpy()
    x = np.concatenate([phi, side["place"].train], 1)
    exps = np.exp(x @ W.T + b)
    error = exps / exps.sum(1, keepdims=True) - np.eye(2)[frames.labels[rows]]
    W, b = W - 5e-4 * error.T @ x / len(rows), b - 5e-4 * error.mean(0)

    phi = image.plain(valid, "again").astype(np.float64)
    exps = np.exp(np.concatenate([phi, side["place"].all[valid]], 1) @ W.T + b)
    assert np.abs(predict(valid) - exps / exps.sum(1, keepdims=True)).max() < 1e-12


def test_features_stored_for_every_epoch_give_what_rerunning_gives(frames: Material, tmp_path: Path) -> None:
    scores = []
    for flaws in (("L16",), ("L12", "L16")):
        made = lab(frames, tmp_path, *flaws)
        predict = fuse(frozen(made, recipe()), recipe(), beside(frames, made.parts.head))
        scores.append(predict(made.test()))
    assert np.abs(scores[0] - scores[1]).max() < 1e-6


@pytest.mark.parametrize("flaws", [("L8", "L12", "L13", "L16"), ()])
def test_passes_are_those_of_the_formula(frames: Material, tmp_path: Path, flaws: tuple[str, ...]) -> None:
    made = lab(frames, tmp_path, *flaws)
    image, seen = frozen(made, recipe()), []
    image.encoder.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    made.run.store.onnx = False
    predict = fuse(image, recipe(), beside(frames, made.parts.head))
    passes, counted = dict(made.passes), sum(seen)
    predict(made.test())
    train, valid, test = len(made.parts.head), len(made.parts.valid), len(made.test())
    if flaws:
        assert sum(passes.values()) == counted == published_passes(train, valid, test, epochs=3)
    else:
        assert sum(passes.values()) == counted == 2 * train + valid
        assert sum(seen) == stored_passes(train, valid, test, views=2)


def test_a_gradient_that_nobody_uses_adds_up(frames: Material, tmp_path: Path) -> None:
    sizes = []
    for epochs in (1, 2):
        made = lab(frames, tmp_path, "L12", "L16")
        plan = recipe(head=HEAD.model_copy(update={"epochs": epochs}))
        image = frozen(made, plan)
        encoder = image.encoder
        before = weights_hash(encoder)
        fuse(image, plan, beside(frames, made.parts.head))
        assert weights_hash(encoder) == before
        gradients = [p.grad for p in encoder.parameters()]
        assert all(g is not None for g in gradients)
        sizes.append(torch.cat([g.flatten() for g in gradients if g is not None]))
    assert not torch.equal(sizes[0], sizes[1])  # the second epoch's gradient was added, nothing was set to zero


def test_without_l12_there_is_no_gradient(frames: Material, tmp_path: Path) -> None:
    made = lab(frames, tmp_path, "L16")
    image = frozen(made, recipe())
    fuse(image, recipe(), beside(frames, made.parts.head))
    assert all(p.grad is None for p in image.encoder.parameters())


@pytest.mark.parametrize("others", [(), ("L16",), ("L12", "L16")])
def test_batch_norm_drifts_with_l13_alone(
    frames: Material, tmp_path: Path, resnet: str, others: tuple[str, ...]
) -> None:
    plan = recipe(encoder=resnet, size=32, canvas=35)
    for flaws, drifts in ((others, False), ((*others, "L13"), True)):
        made = lab(frames, tmp_path, *flaws)
        image = frozen(made, plan)
        encoder = image.encoder
        before = {name: value.clone() for name, value in encoder.named_buffers()}
        fuse(image, plan, beside(frames, made.parts.head))
        moved = [name for name, value in encoder.named_buffers() if not torch.equal(value, before[name])]
        assert bool(moved) == drifts
        assert not encoder.training


def test_stage_m_keeps_the_epoch_of_the_best_accuracy(
    frames: Material, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, plan = lab(frames, tmp_path, "L16"), recipe(head=HEAD.model_copy(update={"epochs": 4}))
    scores, states = iter([(9.0, 0.5), (5.0, 0.8), (1.0, 0.8), (0.5, 0.7)]), []

    def judged(_: object, logits: torch.Tensor, __: torch.Tensor) -> tuple[float, float]:
        states.append(logits.softmax(1).numpy())
        return next(scores)

    monkeypatch.setattr("fusetune_papers.reproduce.head.scored", judged)
    kept = fuse(frozen(made, plan), plan, beside(frames, made.parts.head))(made.parts.valid)
    assert np.abs(states[2] - states[1]).max() > 1e-6
    np.testing.assert_allclose(kept, states[1], atol=1e-12)


def test_l10_brings_the_statistics_of_cifar(frames: Material, tmp_path: Path) -> None:
    wrong, right = (lab(frames, tmp_path, *flaws).image_encoder(recipe()) for flaws in (("L10",), ()))
    assert (tuple(wrong.mean), tuple(wrong.std)) == (CIFAR_MEAN, CIFAR_STD)
    assert wrong.mean != right.mean == SmallCNN().mean


def test_flips_are_off_beside_orientation_unless_l11(frames: Material, tmp_path: Path) -> None:
    for flaws, share in (((), 0.0), (("L11",), 0.5)):
        augment = lab(frames, tmp_path, *flaws).images(recipe()).augments["image"]
        assert isinstance(augment, ImageAugment)
        assert (augment.policy.flip_horizontal, augment.policy.flip_vertical) == (share, share)


def test_the_sound_head_stands_on_standardised_blocks(frames: Material, tmp_path: Path) -> None:
    made = lab(frames, tmp_path)
    image, (block,) = frozen(made, recipe()), beside(frames, made.parts.head).values()
    plain, scaled = (
        fuse(image, recipe(), {"place": Scores(by * block.train, by * block.all)})(made.parts.valid)
        for by in (1.0, 1e3)
    )
    assert np.abs(plain - scaled).max() < 1e-3


def test_the_published_loop_leaves_the_networks_weights_alone(frames: Material, tmp_path: Path) -> None:
    made, plan = lab(frames, tmp_path, "L12", "L13", "L16"), recipe()
    image = frozen(made, plan)
    untouched = copy.deepcopy(image.encoder.state_dict())
    fuse(image, plan, {})
    assert all(torch.equal(value, untouched[name]) for name, value in image.encoder.state_dict().items())


def test_recipes_refuse_unknown_settings() -> None:
    with pytest.raises(ValueError, match="epochz"):
        Recipe.model_validate({"name": "x", "title": "x", "data": "fpus23", "stage": "image", "epochz": 1})
