"""One class of several: logits, cross-entropy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from fusetune.config import Config
from fusetune.data.labels import class_list, encode_labels
from fusetune.data.table import Table
from fusetune.data.weights import Weights
from fusetune.errors import ConfigError, did_you_mean, listed
from fusetune.targets.base import Boosted, Target, Truth
from fusetune.targets.links import Multinomial


class Classification(Target):
    """f are logits, and softmax(f) are the probabilities of the classes."""

    kind, names_word = "classification", "classes"
    loss_word, score_word = "NLL", "accuracy"
    prior_word = "class frequencies"
    link = Multinomial()
    always = "It names one of its classes for every row, also for rows that belong to none."

    @classmethod
    def learn(cls, table: Table, label: str, least: int = 2) -> Self:
        """Return the classes of a label column; see `class_list` for arguments and errors."""
        return cls(class_list(table, label, least))

    def describe(self) -> str:
        """Return how many classes there are."""
        return f"{self.width} classes"

    def called(self, label: str, names: str) -> str:
        """Return that it is a classifier."""
        return f"A classifier of {label} into {self.width} classes ({names})"

    def answered(self, f: Tensor, temperature: float | Tensor = 1.0) -> Tensor:
        """Return softmax(f / T)."""
        return torch.softmax(f / temperature, 1)

    def facts(self) -> dict[str, Any]:
        """Return nothing: names are kept beside it."""
        return {}

    def encode(self, table: Table, label: str) -> Truth:
        """Return class indices, int64 [rows]."""
        return encode_labels(table, label, self.names)

    def strata(self, truth: Truth) -> npt.NDArray[np.int64]:
        """Return the classes."""
        return truth

    @property
    def strata_names(self) -> list[Any]:
        """The classes."""
        return self.names

    def lost(self, truth: Truth, some: npt.NDArray[np.bool_]) -> list[Any]:
        """Return the classes of which no row is among these."""
        return [self.names[at] for at in sorted(set(truth) - set(truth[some]))]

    def prior(self, truth: Truth, sample_weight: Weights | None = None) -> Tensor:
        """Return the log of the class frequencies, with half a row more of each class."""
        counts = np.bincount(truth, sample_weight, minlength=self.width) + 0.5
        return torch.from_numpy(np.log(counts / counts.sum())).float()

    def weights(
        self, config: Config, truth: Truth, train: npt.NDArray[np.int64], sample_weight: Weights | None = None
    ) -> Weights:
        """Return the weight of each row's class."""
        counted = None if sample_weight is None else sample_weight[train]
        return class_weights(config, self.names, truth[train], counted)[truth]

    @classmethod
    def losses(cls, f: Tensor, truth: Tensor, smoothing: float = 0.0) -> Tensor:
        """Return the cross-entropy of each row, with label smoothing (arXiv 1512.00567)."""
        return F.cross_entropy(f, truth, label_smoothing=smoothing, reduction="none")

    @classmethod
    def scores(cls, f: Tensor, truth: Tensor) -> Tensor:
        """Return whether each row's most probable class is its own."""
        return (f.argmax(1) == truth).to(f.dtype)

    @classmethod
    def summable(cls, f: Tensor) -> Tensor:
        """Return log probabilities."""
        return torch.log_softmax(f, -1)

    @classmethod
    def mean_of_views(cls, f: Tensor) -> Tensor:
        """Return the log of the mean probability."""
        return torch.logsumexp(torch.log_softmax(f.double(), 2), 0) - math.log(len(f))

    @classmethod
    def boosted(cls, truth: Truth, width: int) -> list[Boosted]:
        """Return one booster; of two classes, a tree speaks for one as much as against the other."""
        if width > 2:
            return [Boosted({"objective": "multiclass", "num_class": width}, truth, np.eye(width))]
        return [Boosted({"objective": "binary"}, truth, np.array([[-0.5, 0.5]]))]


def class_weights(
    config: Config, classes: Sequence[Any], labels: Truth, sample_weight: Weights | None = None
) -> Weights:
    """Return the loss weight per class, as `data.class_weights` asks for labels of the training rows, [classes].

    Balanced, what the rows of a class weigh together (without weights of their own: their number) is the same for all.

    Raises:
        ConfigError: If a name is no class, or weights are not usable.
    """
    counts = np.bincount(labels, sample_weight, minlength=len(classes)).astype(np.float64)
    match config.data.class_weights:
        case "none":
            return np.ones(len(classes))
        case "balanced":
            least = 1.0 if sample_weight is None else float(sample_weight.min())
            return np.asarray(1 / np.maximum(counts, least))
        case weight_of:
            names = [str(name) for name in classes]
            unknown = [name for name in weight_of if name not in names]
            if unknown:
                raise ConfigError(
                    f"data.class_weights: '{unknown[0]}' is no class{did_you_mean(unknown[0], names)}; "
                    f"the classes are {listed(names, 12)}"
                )
            weights = np.array([weight_of.get(name, 1.0) for name in names])
            if not np.isfinite(weights).all() or weights.min() < 0 or not (weights * counts).sum() > 0:
                raise ConfigError(
                    "data.class_weights must be finite and not negative, with at least one above 0 (classes that are "
                    f"not named get 1); got {weight_of}"
                )
            return weights
