"""What all stages of an experiment share: rows and parts, which flaws are on, pictures, and counted passes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fusetune.augment.image import ImageAugment
from fusetune.augment.random import Moment
from fusetune.config import IMAGE_POLICIES, ImagePolicy
from fusetune.data.batch import ordered_batches, prefetch, shuffled_batches
from fusetune.data.images import ImageInput, ImageSource, raise_for_problems
from fusetune.data.split import Rows
from fusetune.data.table import row_keys
from fusetune.encoders import Encoder, ImageEncoder, load_image_encoder
from fusetune.features.store import Array, Encoding, FeatureStore
from fusetune.progress import Log, bar
from fusetune.runtime import Runtime, seed_everything
from fusetune_papers.reproduce.division import Parts, divide, test_rows
from fusetune_papers.reproduce.material import Material
from fusetune_papers.reproduce.recipe import CIFAR_MEAN, CIFAR_STD, Recipe

# No epoch of training has this number, so that a head's views are not those that the network was trained on.
_HEAD_EPOCH = 1_000_000
_BATCH = 64
_REMEDY = "Repair them, or remove them and leave their rows out with --missing drop."


class Alone(nn.Module):
    """One encoder and its linear classifier."""

    def __init__(self, encoder: Encoder, classes: int) -> None:
        super().__init__()
        self.encoder, self.head = encoder, nn.Linear(encoder.dim, classes)

    def forward(self, inputs: Any) -> Tensor:
        """Return the logits, [batch, classes]."""
        logits: Tensor = self.head(self.encoder(inputs))
        return logits


@dataclass
class Bench:
    """One data set, one set of flaws, one seed.

    Attributes:
        material: The rows.
        flaws: The switches that are on.
        runtime: Device and precision.
        log: Told what happens.
        seed: Decides split, start, order and augmentation.
        cache: Folder of the feature store.
        allow_download: May weights be fetched from a hub?
        passes: Rows that went through the image encoder in the current experiment, by what for.
    """

    material: Material
    flaws: frozenset[str]
    runtime: Runtime
    log: Log
    seed: int
    cache: Path
    allow_download: bool = False
    passes: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.parts: Parts = divide(self.material, self.flaws, self.seed)
        if "L8" in self.flaws:
            self.parts.split.unlock_test()  # before any choice is made: this is the flaw
        self.keys = row_keys(self.material.ids)
        self.store = FeatureStore(self.cache, self.runtime, Log(None, quiet=True))
        self._sources: dict[int, ImageSource] = {}

    def on(self, flaw: str) -> bool:
        """Return whether a flaw is switched on."""
        return flaw in self.flaws

    def test(self, image: bool = False) -> Rows:
        """Return the test rows, or those that image networks are judged on (L15); the first call unlocks them."""
        if self.parts.split.unlocked_at is None:
            self.parts.split.unlock_test()
        return test_rows(self.material, self.parts, self.flaws, image)

    def targets(self, rows: Rows) -> Tensor:
        """Return class indices on the device."""
        return torch.from_numpy(self.material.labels[rows]).to(self.runtime.device)

    def images(self, recipe: Recipe) -> ImageSource:
        """Return the pictures at the side that training crops are taken from; read once.

        Raises:
            ImageError: A picture cannot be read.
        """
        if recipe.canvas not in self._sources:
            settings = ImageInput(column="image", size=recipe.canvas, fit="stretch")
            source = settings.bind(self.material.table)
            raise_for_problems(source, self.material.ids, _REMEDY)
            self._sources[recipe.canvas] = source
        return self._sources[recipe.canvas]

    def encoder(self, recipe: Recipe) -> ImageEncoder:
        """Return the image encoder as pretrained; L10 gives it the pixel statistics of CIFAR-100."""
        seed_everything(self.seed, "encoder", recipe.encoder or "")
        wrong = {"mean": CIFAR_MEAN, "std": CIFAR_STD} if self.on("L10") else {}
        return load_image_encoder(recipe.encoder or "builtin", allow_download=self.allow_download, **wrong).to(
            self.runtime.device
        )

    def augment(self, recipe: Recipe) -> ImageAugment:
        """Return the published augmentation; without flips (L11 off) where columns say which way is up."""
        return ImageAugment(image_policy(recipe, flips=self.on("L11") or not self.material.has("head_up")), recipe.size)

    def moment(self, epoch: int) -> Moment:
        """Return the moment of an epoch of stage M."""
        return Moment(self.seed, _HEAD_EPOCH + epoch)

    def seen(self, recipe: Recipe, raw: Tensor, rows: Rows, moment: Moment | None) -> Tensor:
        """Return pictures on the device: one random view at a moment, or as they are."""
        augment, images = self.augment(recipe), raw.to(self.runtime.device)
        if moment is None:
            return augment.plain(images)
        return augment.draw(images, torch.from_numpy(self.keys[rows]).to(self.runtime.device), moment)

    def encode(
        self, recipe: Recipe, encoder: Encoder, rows: Rows, moments: Sequence[Moment] | None, purpose: str
    ) -> Array:
        """Return features [views or 1, rows, dim] of a frozen encoder in evaluation mode.

        From the store, where rows are encoded and counted once; with L12 by running the network again every time.
        """
        views: Sequence[Moment | None] = moments or [None]
        if self.on("L12"):
            self.passes[purpose] += len(rows) * len(views)
            return np.stack([self._run(recipe, encoder, rows, moment) for moment in views])
        self.passes[purpose] = self.passes[purpose] or len(rows) * len(views)
        what = Encoding("image", encoder, self.images(recipe), self.augment(recipe), self.keys, _BATCH)
        return self.store.encode(what, rows, moments)

    def _run(self, recipe: Recipe, encoder: Encoder, rows: Rows, moment: Moment | None) -> Array:
        encoder.eval()
        result = np.zeros((len(rows), encoder.dim), dtype=np.float32)
        with torch.no_grad():
            for places in ordered_batches(np.arange(len(rows)), _BATCH):
                raw = self.images(recipe).read(rows[places])
                result[places] = encoder(self.seen(recipe, raw, rows[places], moment)).float().cpu().numpy()
        return result

    def rerun(self, recipe: Recipe, encoder: Encoder, rows: Rows, moment: Moment) -> Array:
        """Return features [rows, dim] the published way: with the network run again, here outside of any loop.

        L13 leaves it in training mode, so that batch-norm statistics follow the batches; L12 computes its gradient,
        which adds up in `.grad` and is never used.
        """
        assert recipe.head is not None
        batches = shuffled_batches(np.arange(len(rows)), recipe.head.batch_size, self.seed, moment.epoch)
        encoder.train(self.on("L13"))
        result = np.zeros((len(rows), encoder.dim), dtype=np.float32)
        source = self.images(recipe)
        with bar("re-running the encoder", len(batches)) as shown:
            for places, raw in prefetch(batches, lambda places: (places, source.read(rows[places]))):
                with torch.set_grad_enabled(self.on("L12")):
                    z = encoder(self.seen(recipe, raw, rows[places], moment))
                    if self.on("L12"):
                        z.sum().backward()
                result[places] = z.detach().float().cpu().numpy()
                shown.advance()
        self.passes["train"] += len(rows)
        return result


def image_policy(recipe: Recipe, flips: bool) -> ImagePolicy:
    """Return the published augmentation at a recipe's sizes, with or without flips."""
    policy = IMAGE_POLICIES["paper"].model_copy(update={"crop": recipe.size / recipe.canvas})
    return policy if flips else policy.model_copy(update={"flip_horizontal": 0.0, "flip_vertical": 0.0})
