"""What all experiments of a series share: rows and parts, which flaws are on, counted passes, and what was trained."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from torch import nn

from fusetune.augment import Augment
from fusetune.augment.image import ImageAugment
from fusetune.augment.token_noise import TextAugment
from fusetune.config import IMAGE_POLICIES, Config, ImagePolicy, TextPolicy
from fusetune.context import Context
from fusetune.data.images import ImageInput, ImageSource, raise_for_problems
from fusetune.data.schema import Modality
from fusetune.data.source import Source
from fusetune.data.split import Rows
from fusetune.data.table import row_keys
from fusetune.data.tokens import TextInput
from fusetune.encoders import (
    Encoder,
    ImageEncoder,
    ShallowText,
    load_image_encoder,
    load_text_encoder,
    special_ids,
    train_word_tokenizer,
)
from fusetune.evaluate.intervals import Interval, proportion
from fusetune.evaluate.measures import Measure, measure_of
from fusetune.evaluate.metrics import FloatArray
from fusetune.features.store import FeatureStore
from fusetune.inputs import Reader
from fusetune.networks import EnsembleNetwork, Outputs
from fusetune.networks.run import outputs_of
from fusetune.process import Draws
from fusetune.progress import Log
from fusetune.runtime import Runtime
from fusetune.strategies.unimodal import one_network
from fusetune_papers.reproduce.division import Parts, divide, test_rows
from fusetune_papers.reproduce.material import Material
from fusetune_papers.reproduce.recipe import CIFAR_MEAN, CIFAR_STD, Recipe, TextStage

_BATCH = 64
_REMEDY = "Repair them, or remove them and leave their rows out with --missing drop."


@dataclass
class Lab:
    """One data set, one set of flaws, one seed.

    Attributes:
        material: The rows.
        flaws: The switches that are on.
        runtime: Device and precision.
        log: Told what happens.
        seed: Decides split, start, order and augmentation.
        cache: Folder of the feature store.
        allow_download: May weights be fetched from a hub?
        resamples: Bootstrap samples behind intervals.
        passes: Rows that went through the image encoder in the current experiment, by what for.
        draws: What the latest encoder's weights were drawn from; those of the classifier on it come next.
    """

    material: Material
    flaws: frozenset[str]
    runtime: Runtime
    log: Log
    seed: int
    cache: Path
    allow_download: bool = False
    resamples: int = 500
    passes: Counter[str] = field(default_factory=Counter)
    draws: Draws = field(default_factory=lambda: Draws("classifier"))

    def __post_init__(self) -> None:
        material = self.material
        self.parts: Parts = divide(material, self.flaws, self.seed)
        if self.on("L8"):
            self.parts.split.unlock_test()  # before any choice is made: this is the flaw
        # Without any input: every network brings its own, and all of them remember what was trained together.
        self.run = Context(
            config=Config.build({"seed": self.seed, "image": {"train": {"batch_size": _BATCH}}}),
            runtime=self.runtime, log=self.log,
            modalities={}, readers={}, sources={}, augments={}, encodings={}, pristine={},
            split=self.parts.split, target=material.target, labels=material.labels,
            label_weights=np.ones(len(material.labels)),
            keys=row_keys(material.ids), ids=material.ids, groups=material.groups, units=material.units,
            store=FeatureStore(self.cache, self.runtime, Log(None, quiet=True)), folder=None, key="",
        )  # fmt: skip

    def on(self, flaw: str) -> bool:
        """Return whether a flaw is switched on."""
        return flaw in self.flaws

    def test(self, image: bool = False) -> Rows:
        """Return the test rows, or those that image networks are judged on (L15); the first call unlocks them."""
        if self.parts.split.unlocked_at is None:
            self.parts.split.unlock_test()
        return test_rows(self.material, self.parts, self.flaws, image)

    def image_encoder(self, recipe: Recipe) -> ImageEncoder:
        """Return the image encoder as pretrained; L10 gives it the pixel statistics of CIFAR-100."""
        wrong = {"mean": CIFAR_MEAN, "std": CIFAR_STD} if self.on("L10") else {}
        self.draws = Draws(self.seed, "encoder", recipe.encoder or "")
        with self.draws:
            return load_image_encoder(recipe.encoder or "builtin", allow_download=self.allow_download, **wrong)

    @property
    def measure(self) -> Measure[Any]:
        """How answers about the task are judged."""
        return measure_of(self.material.target)

    def scores(self, probabilities: FloatArray, rows: Rows) -> dict[str, Interval]:
        """Return scores with intervals; frames of one stream are resampled together, whichever way they were split.

        Where a row may have several labels, "accuracy of NAME" is what a task of that label alone would be judged by.
        """
        truth, groups = self.material.labels[rows], self._streams(rows)
        found = self.measure.scores(probabilities, truth, groups, resamples=self.resamples)
        if truth.ndim == 1:
            return found
        right = (probabilities > 0.5) == (truth > 0)
        each = zip(self.material.target.names, right.T, strict=True)
        return found | {f"accuracy of {name}": proportion(hits, groups) for name, hits in each}

    def _streams(self, rows: Rows) -> npt.NDArray[Any] | None:
        return None if self.material.groups is None else self.material.groups.iloc[rows].to_numpy()

    def images(self, recipe: Recipe) -> Context:
        """Return the run of an image network: pictures at the side that training crops are taken from, read once.

        Flips are off (L11 off) where columns say which way is up.

        Raises:
            ImageError: A picture cannot be read.
            WeightsError: The encoder's weights are not on this machine.
        """
        fitted = ImageInput(column="image", size=recipe.canvas, fit="stretch")

        def read() -> ImageSource:
            source = fitted.bind(self.material.table)
            raise_for_problems(source, self.material.ids, _REMEDY)
            return source

        source = self.run.remember((f"pictures at {recipe.canvas}",), read)
        policy = image_policy(recipe, flips=self.on("L11") or not self.material.has("head_up"))
        reader = Reader(Modality("image", "image", ("image",)), fitted, recipe.size)
        return self._reading(reader, source, ImageAugment(policy, recipe.size), self.image_encoder(recipe))

    def texts(self, stage: TextStage, rows: Rows) -> Context:
        """Return the run of a text network; where it has words of its own, they are those of the given rows."""
        encoder, tokenizer = self.text_encoder(stage, rows)
        fitted = TextInput("text", tokenizer, special_ids(tokenizer).pad, stage.max_tokens)
        texts = fitted.bind(self.material.table)
        # As published: batches do not go by length, and an empty title is a title.
        everything: dict[str, Any] = {"present": np.ones(len(texts.present), dtype=bool), "lengths": None}
        source = cast(Source, SimpleNamespace(digests=texts.digests, problems={}, read=texts.read, **everything))
        reader = Reader(Modality("text", "text", ("text",)), fitted)
        return self._reading(reader, source, TextAugment(TextPolicy(drop=0), (), fitted.pad), encoder)

    def text_encoder(self, stage: TextStage, rows: Rows) -> tuple[Encoder, Any]:
        """Return an untrained (shallow, L9: padding counts) or pretrained text encoder and its tokenizer.

        Raises:
            WeightsError: Its weights are not on this machine.
        """
        self.draws = Draws(self.seed, "text encoder")
        if stage.encoder == "shallow":
            texts = self.material.table.column("text").iloc[rows].dropna().astype("str")
            tokenizer = train_word_tokenizer(texts.tolist())
            with self.draws:
                return ShallowText(tokenizer.get_vocab_size(), masked=not self.on("L9")), tokenizer
        with self.draws:
            encoder, tokenizer = load_text_encoder(
                stage.encoder, max_tokens=stage.max_tokens, allow_download=self.allow_download, pooling=stage.pooling
            )
        for module in encoder.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0  # as published: GPT-2 is loaded in evaluation mode and never put into training mode
        return encoder, tokenizer

    def _reading(self, reader: Reader, source: Source, augment: Augment, encoder: Encoder) -> Context:
        """Return the run of one network with one input."""
        name = reader.modality.name
        return replace(
            self.run,
            modalities={name: reader.modality}, readers={name: reader}, sources={name: source},
            augments={name: augment}, encodings={name: augment}, pristine={name: encoder},
        )  # fmt: skip


def image_policy(recipe: Recipe, flips: bool) -> ImagePolicy:
    """Return the published augmentation at a recipe's sizes, with or without flips."""
    policy = IMAGE_POLICIES["paper"].model_copy(update={"crop": recipe.size / recipe.canvas})
    return policy if flips else policy.model_copy(update={"flip_horizontal": 0.0, "flip_vertical": 0.0})


def untrained(run: Context, draws: Draws) -> EnsembleNetwork:
    """Return the encoder of a run's only input as it was pretrained, under a random classifier."""
    ((name, encoder),) = run.pristine.items()
    with draws:
        return one_network(run, name, encoder, nn.Linear(encoder.dim, len(run.classes)))


def outputs_on(run: Context, network: EnsembleNetwork, rows: Rows, batch_size: int = _BATCH) -> Outputs:
    """Return what a network says of the plain inputs of some rows; batches are in the rows' order, as published."""
    how: dict[str, Any] = {"config": run.config, "runtime": run.runtime, "batch_size": batch_size}
    return outputs_of({"": network}, run.readers, run.sources, rows, **how, description="asking a network")[""]
