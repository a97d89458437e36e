"""A number: f is its distance from the training mean in training deviations, and the loss is squared error."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fusetune.config import Config
from fusetune.data.table import Table
from fusetune.data.weights import Weights
from fusetune.data.words import finite_numbers
from fusetune.errors import ConfigError, TableError, listed
from fusetune.targets.base import Boosted, Target, Truth
from fusetune.targets.links import Link, Normal, Robust
from fusetune.targets.logarithm import Logarithm, skewed

_BINS = 10  # of which parts and folds hold alike shares
_LEAST = 1e-12  # of a mean squared error, whose logarithm is taken


class Regression(Target):
    """y = mean + deviation * f.

    Args:
        name: The label column.
        mean: Of the numbers of the training part.
        deviation: Of these, above 0.
        whole: Are all of them whole numbers?
    """

    kind, names_word, model_word = "regression", "numbers", "model"
    loss_word, score_word = "MSE/2", "R2"
    prior_word = "mean"
    link = Normal()
    always = "It gives a number for every row, also far from all that it has learnt from."

    def __init__(self, name: str, mean: float = 0.0, deviation: float = 1.0, whole: bool = False) -> None:
        super().__init__([name])
        if not (np.isfinite(mean) and 0 < deviation < np.inf):
            raise ValueError(f"a mean of {mean} and a deviation of {deviation}")
        self.mean, self.deviation, self.whole = float(mean), float(deviation), bool(whole)
        self.unit = self.deviation

    def describe(self) -> str:
        """Return that it is a number."""
        return "a number"

    def called(self, label: str, names: str) -> str:
        """Return that it tells a number."""
        return f"A model of the number {label}"

    def answered(self, f: Tensor, temperature: float | Tensor = 1.0) -> Tensor:
        """Return mean + deviation * f."""
        return self.mean + self.deviation * f

    def facts(self) -> dict[str, Any]:
        """Return mean, deviation and whether numbers are whole."""
        return {"mean": self.mean, "deviation": self.deviation, "whole": self.whole}

    def standardised(self, numbers: npt.NDArray[np.float64], sample_weight: Weights | None = None) -> Self:
        """Return the target in units of the numbers of the training rows, which count alike or as weights say.

        Raises:
            TableError: If they are all equal.
        """
        mean, deviation = float(numbers.mean()), float(numbers.std())
        if sample_weight is not None:
            mean = float(np.average(numbers, weights=sample_weight))
            deviation = float(np.sqrt(np.average((numbers - mean) ** 2, weights=sample_weight)))
        if not deviation > 0:
            raise TableError(
                f"label column '{self.names[0]}' is {numbers[0]:g} in every training row: nothing to learn"
            )
        return type(self)(self.names[0], mean, deviation, bool((numbers % 1 == 0).all()))

    def encode(self, table: Table, label: str) -> Truth:
        """Return (y - mean) / deviation, float64 [rows]."""
        return (numbers_of(table, label) - self.mean) / self.deviation

    def numbers(self, f: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """Return numbers in the user's units for what networks say, in the shape of f."""
        return np.asarray(self.mean + self.deviation * np.asarray(f, dtype=np.float64))

    def strata(self, truth: Truth) -> npt.NDArray[np.int64]:
        """Return the tenth of the numbers that each row is in; equal numbers are in one."""
        bins = min(_BINS, max(1, len(truth) // 20))
        edges = np.unique(np.quantile(truth, np.linspace(0, 1, bins + 1)[1:-1]))
        return np.searchsorted(edges, truth, side="right").astype(np.int64)

    def prior(self, truth: Truth, sample_weight: Weights | None = None) -> Tensor:
        """Return the mean of the training rows."""
        mean = np.mean(truth) if sample_weight is None else np.average(truth, weights=sample_weight)
        return torch.tensor([float(mean)], dtype=torch.float32)

    def weights(
        self, config: Config, truth: Truth, train: npt.NDArray[np.int64], sample_weight: Weights | None = None
    ) -> Weights:
        """Return ones."""
        if config.data.class_weights != "none":
            raise ConfigError("data.class_weights weighs classes, and a number is predicted; leave it out")
        return np.ones(len(truth))

    def logarithm(self, truth: Truth) -> Logarithm | None:
        """Return the scale of logarithms of these numbers, if they are all above 0."""
        return Logarithm.of(self.numbers(truth), self.mean, self.deviation)

    def skewed(self, truth: Truth) -> bool:
        """Return whether they are above 0 and have a long right tail."""
        return skewed(self.numbers(truth))

    @property
    def averaged(self) -> bool:
        """Return True: f is a number in the unit of the labels."""
        return True

    @classmethod
    def solved_by(cls, robust: bool) -> Link:
        """Return squared error, or Huber's loss."""
        return Robust() if robust else cls.link

    @classmethod
    def tensor(cls, truth: Truth) -> Tensor:
        """Return float32, as networks are."""
        return torch.from_numpy(truth).float()

    @classmethod
    def losses(cls, f: Tensor, truth: Tensor, smoothing: float = 0.0) -> Tensor:
        """Return (f - y)^2 / 2; there is nothing to smooth."""
        return (f[:, 0] - truth.to(f)).square() / 2

    @classmethod
    def scores(cls, f: Tensor, truth: Tensor) -> Tensor:
        """Return 1 - (f - y)^2, whose mean is R2 where the rows vary as the training rows do."""
        return 1 - (f[:, 0] - truth.to(f)).square()

    @classmethod
    def total(cls, f: Tensor, truth: Tensor, weights: Tensor) -> Tensor:
        """Return W / 2 log(sum_i w_i (f_i - y_i)^2 / W), W = sum_i w_i: the normal NLL at its own best variance."""
        count = weights.sum()
        return count / 2 * ((weights @ (f[:, 0] - truth.to(f)).square()) / count).clamp_min(_LEAST).log()

    @classmethod
    def summable(cls, f: Tensor) -> Tensor:
        """Return f itself."""
        return f

    @classmethod
    def mean_of_views(cls, f: Tensor) -> Tensor:
        """Return the mean."""
        return f.double().mean(0)

    @classmethod
    def boosted(cls, truth: Truth, width: int) -> list[Boosted]:
        """Return one booster of squared error."""
        return [Boosted({"objective": "regression"}, truth, np.ones((1, 1)))]


def numbers_of(table: Table, label: str) -> npt.NDArray[np.float64]:
    """Return a label column of numbers, float64 [rows].

    Raises:
        TableError: Naming the rows whose label is missing, no number or not finite.
    """
    series = table.column(label)
    table.refuse_empty(label, "label", "fill it in or drop them")
    numbers = finite_numbers(series)
    odd = np.flatnonzero(~np.isfinite(numbers))
    if len(odd):
        raise TableError(
            f"label column '{label}' of {table.name} holds {series.iloc[int(odd[0])]!r} in row(s) {listed(odd)}, which "
            "is no finite number; mend these cells or, if the labels are classes, ask for --target classification"
        )
    return np.asarray(numbers, dtype=np.float64)
