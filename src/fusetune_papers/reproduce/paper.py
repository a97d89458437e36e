"""The procedure of arXiv 2505.06592, stage by stage, with every flaw as a switch that is asked for where it acts.

Stage U fine-tunes the image network alone; the text network is trained alone and scores every row; stage M fits one
linear layer on the image features and what stands beside them. With all switches on this is the published procedure,
with all off it is the same procedure repaired: split by group, out-of-fold scores, a head solved on stored features.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fusetune.augment.random import Moment
from fusetune.config import HeadConfig
from fusetune.data.batch import ordered_batches, shuffled_batches
from fusetune.data.split import Rows
from fusetune.encoders import Encoder
from fusetune.heads.base import HeadData
from fusetune.heads.solver import fit_logistic
from fusetune.runtime import seed_everything
from fusetune.train.loop import Task, by_loss, train
from fusetune.train.optim import encoder_groups, weight_groups
from fusetune_papers.reproduce.bench import Alone, Bench
from fusetune_papers.reproduce.recipe import Recipe
from fusetune_papers.reproduce.texts import Scores

JUDGED = "judged"
_JUDGE_BATCH = 64
_PENALTIES = HeadConfig().penalties


@dataclass(frozen=True)
class Judge:
    """A trained experiment: row positions -> class probabilities, float64 [rows, classes]."""

    predict: Callable[[Rows], npt.NDArray[np.float64]]


def fine_tune(bench: Bench, recipe: Recipe) -> Alone:
    """Stage U: all weights, SGD, a fresh random view per row and epoch; the epoch of the best accuracy is kept.

    Best on the validation rows, or on the test rows (L8). What it is trained on may include the former (L3).
    """
    assert recipe.image is not None
    settings = recipe.image.training()
    model = Alone(bench.encoder(recipe), len(bench.material.classes)).to(bench.runtime.device)
    source, rows = bench.images(recipe), bench.parts.image
    judged = bench.test(image=True) if bench.on("L8") else bench.parts.valid

    def loss(batch: Rows, raw: Any, epoch: int) -> Tensor:
        return F.cross_entropy(model(bench.seen(recipe, raw, batch, Moment(bench.seed, epoch))), bench.targets(batch))

    def validate() -> tuple[float, float]:
        bench.passes["watched"] += len(judged)
        return scored(image_logits(bench, recipe, model, judged), bench.targets(judged).cpu())

    task = Task(
        name=f"image ({recipe.encoder})",
        batches=lambda epoch: shuffled_batches(rows, settings.batch_size, bench.seed, epoch),
        read=source.read,
        gradients=by_loss(bench.runtime, loss),
        validate=validate,
        set_training=lambda: _train_mode(model),
        row_name=lambda row: str(bench.material.ids.iloc[row]),
    )
    groups = encoder_groups(model.encoder.blocks(), settings)
    groups += weight_groups(list(model.head.parameters()), settings.head_lr, 0)
    train(model, groups, task, settings, runtime=bench.runtime, seed=bench.seed, log=bench.log, keep="accuracy")
    bench.passes["fine-tuning"] += len(rows) * settings.epochs
    return model.eval()


def image_logits(bench: Bench, recipe: Recipe, model: Alone, rows: Rows) -> Tensor:
    """Return the logits of an image network on whole pictures, float32 [rows, classes] on CPU."""
    model.eval()
    found = torch.zeros(len(rows), len(bench.material.classes))
    with torch.inference_mode():
        for places in ordered_batches(np.arange(len(rows)), _JUDGE_BATCH):
            raw = bench.images(recipe).read(rows[places])
            found[places] = model(bench.seen(recipe, raw, rows[places], None)).float().cpu()
    return found


def fuse(bench: Bench, recipe: Recipe, encoder: Encoder, side: dict[str, Scores]) -> Judge:
    """Stage M: one linear layer on image features and what stands beside them.

    Args:
        bench: The rows.
        recipe: The experiment.
        encoder: The image encoder, fine-tuned or as pretrained; it counts as frozen.
        side: Blocks that stand beside the image: for training rows, and for all others.
    """
    return (_published_head if bench.on("L16") else _solved_head)(bench, recipe, encoder, side)


def _solved_head(bench: Bench, recipe: Recipe, encoder: Encoder, side: dict[str, Scores]) -> Judge:
    """Standardised blocks and multinomial logistic regression solved to convergence on stored views."""
    train_rows, valid = bench.parts.head, bench.parts.valid
    moments = [bench.moment(view) for view in range(recipe.views)]
    views = _views(bench, recipe, encoder, train_rows, moments)

    def data(z: Any, rows: Rows, blocks: dict[str, npt.NDArray[np.float64]]) -> HeadData:
        repeated = {name: np.repeat(block[None].astype(np.float32), len(z), 0) for name, block in blocks.items()}
        present = {name: np.ones(len(rows), dtype=bool) for name in ("image", *blocks)}
        weights = np.ones(len(rows))
        return HeadData({"image": z, **repeated}, present, bench.material.labels[rows], weights, bench.keys[rows])

    seen = {name: scores.train for name, scores in side.items()}
    held = data(bench.encode(recipe, encoder, valid, None, "valid"), valid, _blocks(side, valid))
    settings = HeadConfig(penalties=_PENALTIES, modality_dropout=0)
    classes = len(bench.material.classes)
    fit = fit_logistic(data(views, train_rows, seen), held, settings, classes, bench.seed)
    head = fit.head.eval()

    def predict(rows: Rows) -> npt.NDArray[np.float64]:
        z = bench.encode(recipe, encoder, rows, None, JUDGED)
        blocks = {"image": z[0], **{name: block.astype(np.float32) for name, block in _blocks(side, rows).items()}}
        with torch.inference_mode():
            inputs = {name: torch.from_numpy(np.array(block)) for name, block in blocks.items()}
            has = {name: torch.ones(len(rows), dtype=torch.bool) for name in inputs}
            return F.softmax(head(inputs, has).double(), 1).numpy()

    return Judge(predict)


def _views(bench: Bench, recipe: Recipe, encoder: Encoder, rows: Rows, moments: list[Moment]) -> Any:
    """Return features of augmented training rows, [views, rows, dim]: from the store, or by running the network."""
    if bench.on("L12") or bench.on("L13"):
        encoder.requires_grad_(bench.on("L12"))
        views = np.stack([bench.rerun(recipe, encoder, rows, moment) for moment in moments])
        encoder.eval()
        return views
    return bench.encode(recipe, encoder, rows, moments, "train")


def _published_head(bench: Bench, recipe: Recipe, encoder: Encoder, side: dict[str, Scores]) -> Judge:
    """SGD on a float64 layer over raw features; the epoch of the best validation accuracy is kept.

    With L12 the network runs in every epoch and its gradient is computed, adds up and is never used. With L13 it is in
    training mode meanwhile. The head alone is saved and restored: statistics that drifted stay as the last epoch left
    them.
    """
    assert recipe.head is not None
    settings, rows, valid = recipe.head.training(), bench.parts.head, bench.parts.valid
    place = np.zeros(len(bench.material.labels), dtype=np.int64)
    place[rows] = np.arange(len(rows))
    seen = torch.from_numpy(np.concatenate([np.zeros((len(rows), 0)), *(s.train for s in side.values())], 1))
    head = published_layer(encoder.dim + seen.shape[1], len(bench.material.classes), bench.seed)
    head.to(bench.runtime.device)
    encoder.requires_grad_(bench.on("L12"))
    stored = None if bench.on("L12") else _views(
        bench, recipe, encoder, rows, [bench.moment(epoch) for epoch in range(settings.epochs)]
    )  # fmt: skip

    def loss(batch: Rows, raw: Any, epoch: int) -> Tensor:
        if stored is None:
            z = encoder(bench.seen(recipe, raw, batch, bench.moment(epoch)))
            bench.passes["train"] += len(batch)
        else:
            z = torch.from_numpy(stored[epoch][place[batch]]).to(bench.runtime.device)
        logits = head(torch.cat([z.double(), seen[place[batch]].to(z.device)], 1))
        return F.cross_entropy(logits, bench.targets(batch))

    def logits_of(some: Rows, purpose: str) -> Tensor:
        z = torch.from_numpy(bench.encode(recipe, encoder, some, None, purpose)[0].astype(np.float64))
        beside = torch.from_numpy(np.concatenate([np.zeros((len(some), 0)), *_blocks(side, some).values()], 1))
        with torch.inference_mode():
            found: Tensor = head(torch.cat([z, beside], 1).to(bench.runtime.device)).cpu()
        return found

    def validate() -> tuple[float, float]:
        if bench.on("L8"):  # watched in every epoch
            logits_of(bench.test(), "test")
        return scored(logits_of(valid, "valid"), bench.targets(valid).cpu())

    task = Task(
        name=f"head ({recipe.title})",
        batches=lambda epoch: shuffled_batches(rows, settings.batch_size, bench.seed, bench.moment(epoch).epoch),
        read=bench.images(recipe).read if stored is None else lambda batch: batch,
        gradients=by_loss(bench.runtime, loss),
        validate=validate,
        set_training=lambda: _set_frozen(encoder, bench.on("L13") and stored is None),
        row_name=lambda row: str(bench.material.ids.iloc[row]),
    )
    groups = weight_groups(list(head.parameters()), settings.head_lr, 0)
    train(head, groups, task, settings, runtime=bench.runtime, seed=bench.seed, log=bench.log, keep="accuracy")
    return Judge(lambda some: F.softmax(logits_of(some, JUDGED), 1).numpy())


def published_layer(width: int, classes: int, seed: int) -> nn.Linear:
    """Return the published head: one float64 layer on the concatenation [image features; side vector]."""
    seed_everything(seed, "published head")
    return nn.Linear(width, classes, dtype=torch.float64)


def scored(logits: Tensor, targets: Tensor) -> tuple[float, float]:
    """Return NLL and accuracy."""
    return float(F.cross_entropy(logits, targets)), float((logits.argmax(1) == targets).double().mean())


def _blocks(side: dict[str, Scores], rows: Rows) -> dict[str, npt.NDArray[np.float64]]:
    return {name: scores.all[rows] for name, scores in side.items()}


def _train_mode(model: nn.Module) -> None:
    model.train()


def _set_frozen(encoder: Encoder, drifting: bool) -> None:
    encoder.train(drifting)
