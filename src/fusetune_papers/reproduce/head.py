"""Stage M: one linear layer on the features of a frozen image network and what stands beside them.

Repaired: standardised blocks and multinomial logistic regression, solved to convergence on stored views. Published
(L16): a few epochs of SGD on raw features; L12 runs the network in every epoch, L13 leaves it in training mode.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from fusetune.config import HeadConfig
from fusetune.context import Context
from fusetune.data.batch import prefetch, shuffled_batches
from fusetune.data.split import Rows
from fusetune.encoders import Encoder
from fusetune.evaluate.metrics import FloatArray
from fusetune.features.store import Array
from fusetune.heads.base import HeadData, logits_of
from fusetune.heads.solver import fit_logistic
from fusetune.networks import EnsembleNetwork
from fusetune.process import Draws
from fusetune.progress import bar
from fusetune.targets import Target
from fusetune.train.loop import Task, by_loss, train
from fusetune.train.optim import weight_groups
from fusetune_papers.reproduce.alone import Scores
from fusetune_papers.reproduce.lab import Lab, outputs_on
from fusetune_papers.reproduce.recipe import Recipe

JUDGED = "judged"
# No epoch of training has this number, so that a head's views are not those that the network was trained on.
_HEAD_EPOCH = 1_000_000
# Row positions -> probabilities of classes or labels, float64 [rows, width].
Predict = Callable[[Rows], FloatArray]


@dataclass(frozen=True)
class Frozen:
    """An image network that counts as frozen, fine-tuned or as pretrained.

    Attributes:
        lab: Where it is used.
        run: Its pictures.
        network: The network; its classifier is not used.
    """

    lab: Lab
    run: Context
    network: EnsembleNetwork

    @property
    def encoder(self) -> Encoder:
        """The encoder; with L12 its gradient is computed, adds up in `.grad`, and is never used."""
        encoder: Encoder = self.network.encoders[0]  # type: ignore[assignment]
        return encoder.requires_grad_(self.lab.on("L12"))

    def plain(self, rows: Rows, purpose: str) -> Array:
        """Return features of whole pictures, [rows, dim]: encoded and counted once or, with L12, every time."""
        passes = self.lab.passes
        if self.lab.on("L12"):
            passes[purpose] += len(rows)
            return np.asarray(outputs_on(self.run, self.network, rows).z["image"])
        passes[purpose] = passes[purpose] or len(rows)
        return np.asarray(self.run.encode("image", self.encoder, rows)[0])

    def views(self, rows: Rows, count: int, batch_size: int) -> Array:
        """Return features of random views, [count, rows, dim]: from the store or, with L12 or L13, by running again."""
        if self.lab.on("L12") or self.lab.on("L13"):
            return np.stack([self.rerun(rows, view, batch_size) for view in range(count)])
        self.lab.passes["train"] = self.lab.passes["train"] or len(rows) * count
        moments = [self.run.moment(_HEAD_EPOCH + view) for view in range(count)]
        return self.run.encode("image", self.encoder, rows, moments)

    def rerun(self, rows: Rows, epoch: int, batch_size: int) -> Array:
        """Return features of one random view, [rows, dim], the published way: the network is run in random batches."""
        epoch += _HEAD_EPOCH
        encoder = self.encoder.train(self.lab.on("L13"))  # batch-norm statistics follow the batches
        features = np.zeros((len(rows), encoder.dim), dtype=np.float32)
        batches = shuffled_batches(np.arange(len(rows)), batch_size, self.lab.seed, epoch)
        source = self.run.sources["image"]
        with bar("running the encoder again", len(batches)) as progress:
            for places, raw in prefetch(batches, lambda places: (places, source.read(rows[places]))):
                with torch.set_grad_enabled(self.lab.on("L12")):
                    z: Tensor = encoder(self.run.augmented("image", raw, rows[places], epoch))
                    if self.lab.on("L12"):
                        torch.autograd.backward(z.sum())
                features[places] = z.detach().float().cpu().numpy()
                progress.advance()
        self.lab.passes["train"] += len(rows)
        encoder.eval()
        return features


def fuse(image: Frozen, recipe: Recipe, side: dict[str, Scores]) -> Predict:
    """Fit the head.

    Args:
        image: The image network; with L13, its statistics change.
        recipe: The experiment.
        side: Blocks that stand beside the image: for training rows, and for all others.
    """
    return (_published if image.lab.on("L16") else _solved)(image, recipe, side)


def _solved(image: Frozen, recipe: Recipe, side: dict[str, Scores]) -> Predict:
    assert recipe.head is not None
    lab, run = image.lab, image.run

    def data(z: Array, rows: Rows, blocks: dict[str, npt.NDArray[np.float64]]) -> HeadData:
        repeated = {name: np.repeat(block[None].astype(np.float32), len(z), 0) for name, block in blocks.items()}
        present = {name: np.ones(len(rows), dtype=bool) for name in ("image", *blocks)}
        inputs, weights = {"image": z, **repeated}, np.ones(len(rows))
        return HeadData(inputs, present, run.labels[rows], weights, run.keys[rows], target=type(run.target))

    def plain(rows: Rows, purpose: str) -> HeadData:
        return data(image.plain(rows, purpose)[None], rows, {name: scores.all[rows] for name, scores in side.items()})

    rows = lab.parts.head
    views = image.views(rows, recipe.views, recipe.head.batch_size)
    learnt = data(views, rows, {name: scores.train for name, scores in side.items()})
    settings = HeadConfig(modality_dropout=0)
    fit = fit_logistic(learnt, plain(lab.parts.valid, "valid"), settings, len(run.classes), lab.seed)
    fit.tell(lab.log, "head", f"head on {', '.join(('image', *side))}", blocks=["image", *side])
    return lambda some: lab.measure.say(logits_of(fit.head, plain(some, JUDGED)))


def _published(image: Frozen, recipe: Recipe, side: dict[str, Scores]) -> Predict:
    """SGD on a float64 layer over raw features; the epoch of the best validation accuracy is kept.

    The head alone is saved and restored: batch-norm statistics that drifted stay as the last epoch left them.
    """
    assert recipe.head is not None
    lab, run, settings = image.lab, image.run, recipe.head.training()
    rows, valid, device = lab.parts.head, lab.parts.valid, run.runtime.device
    seen = torch.from_numpy(np.concatenate([np.zeros((len(rows), 0)), *(s.train for s in side.values())], 1))
    head = published_layer(image.encoder.dim + seen.shape[1], len(run.classes), lab.seed).to(device)
    views = {} if lab.on("L12") else dict(enumerate(image.views(rows, settings.epochs, settings.batch_size)))

    def before_epoch(epoch: int) -> None:
        if lab.on("L12"):
            views[epoch] = image.rerun(rows, epoch, settings.batch_size)

    def loss(batch: Rows, _: Any, epoch: int) -> Tensor:
        places = np.searchsorted(rows, batch)
        x = torch.cat([torch.from_numpy(views[epoch][places]).double(), seen[places]], 1)
        return run.target.losses(head(x.to(device)), run.targets(batch)).mean()

    def logits_on(some: Rows, purpose: str) -> Tensor:
        x = np.concatenate([image.plain(some, purpose), *(scores.all[some] for scores in side.values())], 1)
        with torch.inference_mode():
            logits: Tensor = head(torch.from_numpy(x.astype(np.float64)).to(device)).cpu()
        return logits

    def validate() -> tuple[float, float]:
        if lab.on("L8"):  # watched in every epoch
            logits_on(lab.test(), "test")
        return scored(run.target, logits_on(valid, "valid"), run.targets(valid).cpu())

    task = Task(
        name=f"head ({recipe.title})",
        batches=lambda epoch: shuffled_batches(rows, settings.batch_size, lab.seed, _HEAD_EPOCH + epoch),
        read=lambda batch, epoch: batch,
        gradients=by_loss(run.runtime, loss),
        validate=validate,
        set_training=lambda: None,
        row_name=lambda row: str(run.ids.iloc[row]),
        before_epoch=before_epoch,
    )
    groups = weight_groups(list(head.parameters()), settings.head_lr, settings.weight_decay)
    train(head, groups, task, settings, runtime=run.runtime, seed=lab.seed, log=lab.log, keep="accuracy")
    return lambda some: lab.measure.say(logits_on(some, JUDGED))


def published_layer(width: int, classes: int, seed: int) -> nn.Linear:
    """Return the published head: one float64 layer on the concatenation [image features; side vector]."""
    with Draws(seed, "published head"):
        return nn.Linear(width, classes, dtype=torch.float64)


def scored(target: Target, logits: Tensor, truth: Tensor) -> tuple[float, float]:
    """Return the mean NLL and the mean score of rows."""
    return float(target.losses(logits, truth).mean()), float(target.scores(logits, truth).double().mean())
