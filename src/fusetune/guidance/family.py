"""What of the comparison hangs on what is predicted: one class for each kind of target, found by `family_of`.

Each is a family of distributions of the label given f [rows, width], with the natural parameter in which independent
evidence adds up. Given y, let the modalities be independent; then

    log p(y | x_1 .. x_M) = log p(y) + sum_m (log p(y | x_m) - log p(y)) + const.

- Classes: f are log probabilities, and this is E of `crossed` as it stands.
- Labels: the same for every label on its own, in log-odds, so that each has its own a_m and its own temperatures. What
  is compared is the mean of the labels' NLLs: with one label it is the comparison of two classes.
- A number: let p(y | x_m) be normal with mean f_m and variance v_m, p(y) with mean f_0 and variance v_0. Then the sum
  is normal, too, with mean f_0 + c sum_m a_m (f_m - f_0), a_m = 1 / v_m, 1 / c = 1 / v_0 + sum_m (1 / v_m - 1 / v_0):
  a sum again, with weights that are not negative (stacked regressions, Breiman 1996), and a factor c that depends on
  which modalities there are, as a temperature does. A temperature's other half is the variance: of every head, and for
  every pattern of absent modalities, it is that of the errors on the rows learnt from, each said by what did not see
  it. The loss is the normal NLL in nats, so that half the log of a ratio of mean squared errors is what counts: a
  delta of 0.01 nats is 2 % of the error that is left, however much of the label's variance that is. Squared errors in
  shares of the variance (R2) would call every difference none where inputs tell nearly all.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import expit, logit, logsumexp
from torch import Tensor

from fusetune.data.choices import TargetKind
from fusetune.evaluate.metrics import SMALLEST_PROBABILITY, FloatArray, nll_rows
from fusetune.evaluate.temperature import fit_temperature, softmax
from fusetune.targets import TARGETS, Target, Truth

_UNSURE = 1e-3  # share of p_m that is the frequencies: one modality that is certain must not settle everything
_WEIGHT = 4.0  # rows that a variance of all patterns, and a factor of 1, weigh as much as
_LEAST = 1e-12  # of a variance

Floats = npt.NDArray[np.float64]
Bits = npt.NDArray[np.bool_]


class Family(ABC):
    """One kind of label, and the rows that are compared.

    Args:
        labels: Of the rows, as the target has them.

    Attributes:
        kind: The kind of target.
        lost_word: What joint training costs, after the input's name.
        lost_factor: By which that is multiplied.
        lost_form: How it is printed then.
    """

    kind: ClassVar[TargetKind]
    lost_word: ClassVar[str] = "points lost to joint training"
    lost_factor: ClassVar[float] = 100.0
    lost_form: ClassVar[str] = "+.1f"

    def __init__(self, labels: Truth) -> None:
        self.labels = labels

    @property
    def target(self) -> type[Target]:
        """What is predicted."""
        return TARGETS[self.kind]

    @property
    @abstractmethod
    def width(self) -> int:
        """How many numbers are said of a row."""

    @property
    def parts(self) -> list[slice]:
        """Which of these numbers have weights of their own."""
        return [slice(None)]

    @classmethod
    @abstractmethod
    def comparable(cls, labels: Truth, folds: npt.NDArray[np.int64], fewest: int) -> tuple[list[int], Bits, Truth]:
        """Return names that are in too few folds to be compared, by place, which rows are left, and their labels."""

    @abstractmethod
    def prior(self, rows: Bits) -> Floats:
        """Return what is said without inputs, from some rows, [width]."""

    def unsure(self, f: Floats, prior: Floats) -> Floats:
        """Return what one modality says, [..., rows, width], less sure where it could be certain."""
        return f

    def one(self, f: Floats) -> Floats:
        """Return what one network says, in the form that `mean` takes."""
        return f

    @abstractmethod
    def mean(self, f: Floats) -> Floats:
        """Return what several networks say together, from [folds, networks, rows, width]."""

    @abstractmethod
    def cost(self, f: Floats, rows: Bits, part: slice) -> tuple[float, Floats]:
        """Return the mean loss of some rows, and its derivative by what is said of each of them, [rows, width]."""

    @abstractmethod
    def calibrated(self, f: Floats, known: Bits, here: Bits, prior: Floats) -> Floats:
        """Return what is said of the rows `here`, its certainty corrected by the rows `known`, [rows here, width]."""

    @abstractmethod
    def losses(self, f: Floats, here: Bits, known: Bits, patterns: Sequence[Bits]) -> Floats:
        """Return the NLL in nats of the rows `here`; what more than f it takes is learnt from the rows `known`."""

    def noise(self, f: Floats, rows: Bits) -> float:
        """Return what losses are divided by for them to be in nats, where f is nearly the best that there is."""
        return 1.0

    def tensor(self) -> Tensor:
        """Return the labels as the target's losses take them."""
        return self.target.tensor(self.labels)


class OfClasses(Family):
    """Classes: f are logits."""

    kind = "classification"

    @property
    def width(self) -> int:
        """The number of classes."""
        return int(self.labels.max()) + 1

    @classmethod
    def comparable(cls, labels: Truth, folds: npt.NDArray[np.int64], fewest: int) -> tuple[list[int], Bits, Truth]:
        """Leave out the rows of classes that are in too few folds."""
        lost = [int(k) for k in np.unique(labels) if len(np.unique(folds[labels == k])) < fewest]
        kept = ~np.isin(labels, lost)
        return lost, kept, np.unique(labels[kept], return_inverse=True)[1]

    def prior(self, rows: Bits) -> Floats:
        """Return log frequencies, each class counted once more."""
        counts = np.bincount(self.labels[rows], minlength=self.width) + 1
        return np.asarray(np.log(counts / counts.sum()))

    def unsure(self, f: Floats, prior: Floats) -> Floats:
        """Return log probabilities, a small share of which are the frequencies."""
        p = softmax(f.reshape(-1, self.width)).reshape(f.shape)
        return np.asarray(np.log((1 - _UNSURE) * p + _UNSURE * np.exp(prior)))

    def one(self, f: Floats) -> Floats:
        """Return log probabilities."""
        return np.asarray(torch.log_softmax(torch.from_numpy(f), -1).numpy())

    def mean(self, f: Floats) -> Floats:
        """Return the log of the mean probability: one network that is certain has no more than its share."""
        return np.asarray(logsumexp(f, 1) - np.log(f.shape[1]))

    def cost(self, f: Floats, rows: Bits, part: slice) -> tuple[float, Floats]:
        """Return the cross-entropy."""
        p, y = softmax(f), self.labels[rows]
        return float(nll_rows(p, y).mean()), p - np.eye(self.width)[y]

    def calibrated(self, f: Floats, known: Bits, here: Bits, prior: Floats) -> Floats:
        """Divide by a temperature."""
        return f[here] / (fit_temperature(f[known], self.labels[known]) if known.any() else 1.0)

    def losses(self, f: Floats, here: Bits, known: Bits, patterns: Sequence[Bits]) -> Floats:
        """Return -log p of the label."""
        return np.asarray(nll_rows(softmax(f[here]), self.labels[here]), dtype=np.float64)


class OfLabels(Family):
    """Labels, each on its own: f are log-odds."""

    kind = "multilabel"

    @property
    def width(self) -> int:
        """The number of labels."""
        return int(self.labels.shape[1])

    @property
    def parts(self) -> list[slice]:
        """Every label."""
        return [slice(at, at + 1) for at in range(self.width)]

    @classmethod
    def comparable(cls, labels: Truth, folds: npt.NDArray[np.int64], fewest: int) -> tuple[list[int], Bits, Truth]:
        """Leave out labels that too few folds have, or lack, rows with; all rows stay."""
        lost = [
            at
            for at, has in enumerate(labels.T > 0)
            if min(len(np.unique(folds[has])), len(np.unique(folds[~has]))) < fewest
        ]
        return lost, np.ones(len(labels), dtype=bool), np.delete(labels, lost, axis=1)

    def prior(self, rows: Bits) -> Floats:
        """Return the log-odds of the frequencies, with one row more with and without each."""
        has = self.labels[rows].sum(0).astype(np.float64) + 1
        return np.asarray(np.log(has / (rows.sum() + 2 - has)))

    def unsure(self, f: Floats, prior: Floats) -> Floats:
        """Return the log-odds of a probability, a small share of which is the frequency."""
        return np.asarray(logit((1 - _UNSURE) * expit(f) + _UNSURE * expit(prior)))

    def mean(self, f: Floats) -> Floats:
        """Return the log-odds of the mean probability."""
        p = expit(f).mean(1)
        return np.asarray(logit(np.clip(p, SMALLEST_PROBABILITY, 1 - SMALLEST_PROBABILITY)))

    def cost(self, f: Floats, rows: Bits, part: slice) -> tuple[float, Floats]:
        """Return the binary cross-entropy of a label."""
        y = self.labels[rows][:, part]
        return float(self._nll(f, y).mean()), expit(f) - y

    def calibrated(self, f: Floats, known: Bits, here: Bits, prior: Floats) -> Floats:
        """Divide each label's by a temperature of its own."""
        heats = [1.0] * self.width
        if known.any():
            heats = [fit_temperature(f[known, at], self.labels[known, at], self._nll) for at in range(self.width)]
        return np.asarray(f[here] / np.array(heats))

    def losses(self, f: Floats, here: Bits, known: Bits, patterns: Sequence[Bits]) -> Floats:
        """Return the mean over the labels."""
        return np.asarray(self._nll(f[here], self.labels[here]).mean(1))

    @staticmethod
    def _nll(f: FloatArray, y: Truth) -> FloatArray:
        """Return log(1 + exp(-f)) where a label is there, and log(1 + exp(f)) where it is not, in the shape of f."""
        return np.asarray(np.logaddexp(0, np.where(y > 0, -f, f)))


class OfNumbers(Family):
    """A number in deviations of the training rows: f is its mean, and its variance that of the errors."""

    kind = "regression"
    lost_word, lost_factor, lost_form = "R² lost to joint training", 1.0, "+.3f"

    @property
    def width(self) -> int:
        """One."""
        return 1

    @classmethod
    def comparable(cls, labels: Truth, folds: npt.NDArray[np.int64], fewest: int) -> tuple[list[int], Bits, Truth]:
        """Leave out nothing."""
        return [], np.ones(len(labels), dtype=bool), labels

    def prior(self, rows: Bits) -> Floats:
        """Return the mean."""
        return np.array([self.labels[rows].mean() if rows.any() else 0.0])

    def mean(self, f: Floats) -> Floats:
        """Return the mean."""
        return np.asarray(f.mean(1))

    def cost(self, f: Floats, rows: Bits, part: slice) -> tuple[float, Floats]:
        """Return half the squared error, whose least is where the NLL's is, whatever the variance."""
        error = f - self.labels[rows][:, None]
        return float((error**2).mean() / 2), error

    def calibrated(self, f: Floats, known: Bits, here: Bits, prior: Floats) -> Floats:
        """Multiply the distance from the prior by the factor of the lowest NLL, at a normal prior around 1."""
        if not known.any():
            return f[here]
        away, y = (f[known] - prior)[:, 0], self.labels[known] - prior[0]
        unit = max(float(((y - away) ** 2).mean()), _LEAST)
        factor = (away @ y / unit + _WEIGHT) / (away @ away / unit + _WEIGHT)
        return np.asarray(prior + max(float(factor), 0.0) * (f[here] - prior))

    def losses(self, f: Floats, here: Bits, known: Bits, patterns: Sequence[Bits]) -> Floats:
        """Return the normal NLL, its variance that of the errors of known rows with the same modalities."""
        square = (f[:, 0] - self.labels) ** 2
        whole = float(square[known].mean())
        found = np.empty(len(square))
        for pattern in patterns:
            seen = known & pattern
            spread = max((float(square[seen].sum()) + _WEIGHT * whole) / (float(seen.sum()) + _WEIGHT), _LEAST)
            found[pattern] = square[pattern] / (2 * spread) + math.log(2 * math.pi * spread) / 2
        return found[here]

    def noise(self, f: Floats, rows: Bits) -> float:
        """Return the mean squared error."""
        return max(float(((f[rows, 0] - self.labels[rows]) ** 2).mean()), _LEAST) if rows.any() else 1.0


FAMILIES: dict[TargetKind, type[Family]] = {one.kind: one for one in (OfClasses, OfLabels, OfNumbers)}


def family_of(target: type[Target]) -> type[Family]:
    """Return the family of a kind of target."""
    return FAMILIES[target.kind]
