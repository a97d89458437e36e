"""What is predicted, and everything in learning that hangs on it: losses, sums of models, what is known without inputs.

A network says numbers of a row, f [rows, width]; what they mean is the target's affair: logits of classes, log-odds of
labels, or a number in units of its deviation. How answers are judged is `evaluate.measures`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fusetune.config import Config
from fusetune.data.choices import TargetKind
from fusetune.data.table import Table
from fusetune.data.weights import Weights
from fusetune.errors import ConfigError
from fusetune.targets.links import Link
from fusetune.targets.logarithm import Logarithm

# Labels as networks learn them: class index, int64 [rows]; label bits, float32 [rows, labels]; numbers, float64 [rows].
Truth = npt.NDArray[Any]


@dataclass(frozen=True)
class Boosted:
    """How LightGBM learns a target.

    Attributes:
        settings: Of the booster: its objective.
        truth: What it learns, [rows].
        says: What each tree of a round says of f, [trees of a round, width].
    """

    settings: dict[str, Any]
    truth: Truth
    says: npt.NDArray[np.float64]


class Target(ABC):
    """What is predicted.

    Args:
        names: What the numbers that a network says of a row stand for: the classes, the labels, or the one number.

    Attributes:
        kind: Its name in `target`.
        names_word: What its names are, such as classes.
        model_word: What predicts it from features is called.
        loss_word: What its loss is called.
        score_word: What the share of a row's answer that is right is called, on average.
        prior_word: What `prior` is made of.
        link: How linear heads are solved for it.
        always: What a reader must know of its answers, in a sentence.
        unit: What differences of answers are measured in.
    """

    kind: ClassVar[TargetKind]
    names_word: ClassVar[str]
    model_word: ClassVar[str] = "classifier"
    loss_word: ClassVar[str]
    score_word: ClassVar[str]
    prior_word: ClassVar[str]
    link: ClassVar[Link]
    always: ClassVar[str]
    unit: float = 1.0

    def __init__(self, names: Sequence[Any]) -> None:
        self.names = list(names)

    @property
    def width(self) -> int:
        """How many numbers a network says of a row."""
        return len(self.names)

    @abstractmethod
    def describe(self) -> str:
        """Return in a few words what is told: "3 classes"."""

    @abstractmethod
    def called(self, label: str, names: str) -> str:
        """Return what a model of it is called, as the beginning of a sentence; both are printed as they are."""

    @abstractmethod
    def answered(self, f: Tensor, temperature: float | Tensor = 1.0) -> Tensor:
        """Return what a user is told, float [rows, width]: probabilities of classes or labels, or a number."""

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """Return JSON values from which `read_target` makes it again."""

    @abstractmethod
    def encode(self, table: Table, label: str) -> Truth:
        """Return the label column as networks learn it.

        Raises:
            TableError: If a label is missing or cannot be one.
        """

    @abstractmethod
    def strata(self, truth: Truth) -> npt.NDArray[np.int64]:
        """Return what parts and folds hold alike shares of, int64 [rows]."""

    @property
    def strata_names(self) -> list[Any] | None:
        """What the strata are called, where they have names."""
        return None

    def lost(self, truth: Truth, some: npt.NDArray[np.bool_]) -> list[Any]:
        """Return what labels tell of that some of the rows alone would not know, such as a class without a row."""
        return []

    @abstractmethod
    def prior(self, truth: Truth, sample_weight: Weights | None = None) -> Tensor:
        """Return f of a row of which nothing is known, from the labels of training rows, float32 [width].

        Args:
            truth: Labels.
            sample_weight: What each row counts, [rows], of mean 1; None: all alike.
        """

    @abstractmethod
    def weights(
        self, config: Config, truth: Truth, train: npt.NDArray[np.int64], sample_weight: Weights | None = None
    ) -> Weights:
        """Return what each row weighs in losses by its label (`data.class_weights`), float64 [rows]; not scaled.

        Args:
            config: The settings.
            truth: Labels of all rows.
            train: Rows that labels are counted in.
            sample_weight: What each row counts by itself, [rows]; None: all alike.

        Raises:
            ConfigError: If the setting does not fit the labels.
        """

    def logarithm(self, truth: Truth) -> Logarithm | None:
        """Return the scale of logarithms that labels of rows can be learnt on; None where they can on none."""
        return None

    def skewed(self, truth: Truth) -> bool:
        """Return whether labels of rows ask for that scale to be tried."""
        return False

    @property
    def averaged(self) -> bool:
        """Can f of a row be the mean of the labels of others that are like it?"""
        return False

    @classmethod
    def solved_by(cls, robust: bool) -> Link:
        """Return the link of linear heads; `robust` is `head.robust`.

        Raises:
            ConfigError: If no row can be far off.
        """
        if robust:
            raise ConfigError(f"head.robust is for numbers, and this is {cls.kind}; leave it out")
        return cls.link

    @classmethod
    def tensor(cls, truth: Truth) -> Tensor:
        """Return labels as losses take them."""
        return torch.from_numpy(truth)

    @classmethod
    @abstractmethod
    def losses(cls, f: Tensor, truth: Tensor, smoothing: float = 0.0) -> Tensor:
        """Return the loss of each row in nats, [rows]."""

    @classmethod
    @abstractmethod
    def scores(cls, f: Tensor, truth: Tensor) -> Tensor:
        """Return how right each row's answer is, [rows], at most 1."""

    @classmethod
    def total(cls, f: Tensor, truth: Tensor, weights: Tensor) -> Tensor:
        """Return the weighted sum of the NLL of rows in nats: what models are compared and combined by."""
        return weights @ cls.losses(f, truth)

    @classmethod
    def nll(cls, f: npt.NDArray[Any], truth: Truth, sample_weight: Weights | None = None) -> float:
        """Return the mean NLL of f [rows, width] in nats; of rows that do not count alike, the weighted mean."""
        values = torch.from_numpy(np.asarray(f))
        if sample_weight is None:
            return float(cls.total(values, cls.tensor(truth), torch.ones(len(values)).to(values))) / len(values)
        weights = torch.from_numpy(sample_weight).to(values)
        return float(cls.total(values, cls.tensor(truth), weights)) / float(weights.sum())

    @classmethod
    @abstractmethod
    def summable(cls, f: Tensor) -> Tensor:
        """Return what of several models is added up, [..., width]."""

    @classmethod
    @abstractmethod
    def mean_of_views(cls, f: Tensor) -> Tensor:
        """Return f of the mean answer over views, [rows, width], from f of each, [views, rows, width]."""

    @classmethod
    @abstractmethod
    def boosted(cls, truth: Truth, width: int) -> list[Boosted]:
        """Return the boosters that together learn the target."""
