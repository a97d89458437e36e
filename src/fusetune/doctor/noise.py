"""How many labels can be wrong? A share of errors is estimated beside what a model does not know anyway.

A label that a model finds improbable is an error or one of the exceptions that the model itself expects: of a hundred
rows with a label of probability .1, ten have it rightly. So the two are told apart by one likelihood,

    q(y | x) = (1 - e) p(y | x) + e sum_{t != y} p(t | x) v_y / (1 - v_t),

where p pools the cross-fitted log probabilities of several models with weights (a weight is an inverse temperature, so
that p is calibrated), e is the share of wrong labels, and v is what they are written as: half evenly over the classes,
half as often as each class is written. Weights and e have the greatest likelihood together. A hard table has flat p and
no more improbable labels than p says: e is 0. Wrong labels stand where p is sure: e grows.

The interval is that of the profile likelihood, widened where rows of a group are dependent. Two tests must agree before
errors are said to be shown: the likelihood ratio, and Vuong's (Econometrica 1989) with groups as units, which one odd
row cannot pass. Noise of labels as a mixture: Natarajan et al., NeurIPS 2013; confident learning (arXiv 1911.00068),
used before, counts exceptions as errors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.special import expit, logit, softmax

from fusetune.doctor.examined import Codes

Numbers = npt.NDArray[np.float64]
# Weights of models are between exp(-4) and exp(3); the share between 6e-6 and a half, where labels would say nothing.
_WEIGHTS, _SHARES = (-4.0, 3.0), (-12.0, 0.0)
# Probability tables of at most so many cells are fitted; of larger ones an even selection of rows.
_CELLS = 400_000
# 95 % of a chi-squared variable with one degree of freedom.
_INTERVAL = 3.84
# What the likelihood ratio must exceed (by chance once in twenty tables, with the share on its boundary), and the
# standard errors by which the mean advantage per unit must differ from none.
_TEST, _VUONG = 2.71, 1.645
_HALVINGS = 12


@dataclass(frozen=True, eq=False)
class Noise:
    """What labels say of their own errors.

    Attributes:
        share: Estimated share of wrong labels.
        low, high: Its 95 % interval.
        shown: Are there errors, by both tests?
        clean: Calibrated probabilities of the labels without errors, [rows, classes].
        wrong: How much likelier an error makes each row's label than the model does, [rows]: the rank of suspicion.
    """

    share: float
    low: float
    high: float
    shown: bool
    clean: Numbers
    wrong: Numbers

    def chance(self, share: float) -> Numbers:
        """Return how probably each label is wrong, [rows], if such a share of all is."""
        return share * self.wrong / ((1 - share) + share * self.wrong)


def estimate(labels: Codes, models: Sequence[Numbers], units: Codes) -> Noise:
    """Estimate the share of wrong labels.

    Args:
        labels: Class index per row.
        models: Log probabilities [rows, classes] of models that did not see the row.
        units: Number of the independent unit (group) of each row.
    """
    rows, classes = models[0].shape
    often = (np.bincount(labels, minlength=classes) / rows + 1 / classes) / 2
    step = max(1, -(-rows * classes // _CELLS))
    some = slice(None, None, step)
    part = _Likelihood(labels[some], [model[some] for model in models], often)
    free = part.fit(part.start, None)
    none = part.fit(part.start, _SHARES[0])
    best = part.fit(np.append(none[:-1], logit(0.03)), None)
    best = min(best, free, key=part.loss)
    gain = 2 * (part.loss(none) - part.loss(best))
    apart = part.logs(best) - part.logs(none)
    shown = gain > _TEST and _standardised(apart, units[some]) > _VUONG
    width = _INTERVAL * part.spread(best, units[some])
    low, high = part.interval(best, width)
    clean, wrong = _Likelihood(labels, models, often).at(best)
    share = 0.0 if gain <= 0 else float(expit(best[-1]))
    return Noise(share, low, high, bool(shown), clean, wrong)


class _Likelihood:
    """The likelihood of labels as a function of log weights and the logit of the share, the last parameter."""

    def __init__(self, labels: Codes, models: Sequence[Numbers], often: Numbers) -> None:
        self.labels, self.models, self.often = labels, models, often
        self.rows = np.arange(len(labels))
        self.start = np.append(np.zeros(len(models)), logit(0.03))

    def at(self, point: Numbers) -> tuple[Numbers, Numbers]:
        """Return calibrated probabilities, and how much likelier each label is as an error."""
        pooled = np.sum([np.exp(w) * m for w, m in zip(point[:-1], self.models, strict=True)], axis=0)
        clean = np.asarray(softmax(pooled, axis=1))
        return clean, self._errors(clean) / np.maximum(clean[self.rows, self.labels], 1e-300)

    def _errors(self, clean: Numbers) -> Numbers:
        """Return the probability of each label as an error: another class is true, and this one is written."""
        share = clean / (1 - self.often)
        own = share[self.rows, self.labels]
        return np.asarray(self.often[self.labels] * np.maximum(share.sum(1) - own, 0))

    def logs(self, point: Numbers) -> Numbers:
        """Return the log likelihood of each row."""
        clean, wrong = self.at(point)
        share = expit(point[-1])
        own = np.maximum(clean[self.rows, self.labels], 1e-300)
        return np.asarray(np.log(own) + np.log1p(share * (wrong - 1)))

    def loss(self, point: Numbers) -> float:
        """Return the negative log likelihood."""
        return -float(self.logs(point).sum())

    def slope(self, point: Numbers) -> tuple[float, Numbers]:
        """Return the loss and its gradient."""
        clean, wrong = self.at(point)
        share = float(expit(point[-1]))
        own = np.maximum(clean[self.rows, self.labels], 1e-300)
        mixed = own * (1 + share * (wrong - 1))
        spread = clean / (1 - self.often)
        others, often = wrong * own, self.often[self.labels]
        gradient = np.empty(len(point))
        for place, model in enumerate(self.models):
            mean = (clean * model).sum(1)
            label = model[self.rows, self.labels]
            written = (spread * model).sum(1) - spread[self.rows, self.labels] * label
            change = (1 - share) * own * (label - mean) + share * (often * written - mean * others)
            gradient[place] = -np.exp(point[place]) * float((change / mixed).sum())
        gradient[-1] = -share * (1 - share) * float(((others - own) / mixed).sum())
        return -float(np.log(np.maximum(mixed, 1e-300)).sum()), gradient

    def fit(self, start: Numbers, share: float | None) -> Numbers:
        """Return the parameters of the greatest likelihood; `share` fixes the logit of the share."""
        if share is not None:
            start = np.append(start[:-1], share)
        bounds = [_WEIGHTS] * len(self.models) + [_SHARES if share is None else (share, share)]
        return np.asarray(minimize(self.slope, start, jac=True, method="L-BFGS-B", bounds=bounds).x)

    def spread(self, point: Numbers, units: Codes) -> float:
        """Return by how much the score of the share varies more between units than between rows, at least 1."""
        wrong = self.at(point)[1]
        share = max(float(expit(point[-1])), 1 / len(self.labels))
        scores = (wrong - 1) / (1 + share * (wrong - 1))
        return max(1.0, float((_summed(scores, units) ** 2).sum() / (scores**2).sum()))

    def interval(self, best: Numbers, width: float) -> tuple[float, float]:
        """Return the shares between which twice the log likelihood, weights fitted anew, falls by less than `width`."""
        least = self.loss(best)

        def inside(at: float) -> bool:
            return 2 * (self.loss(self.fit(best, at)) - least) < width

        return (
            0.0 if inside(_SHARES[0]) else float(expit(_edge(inside, best[-1], _SHARES[0]))),
            float(expit(_SHARES[1] if inside(_SHARES[1]) else _edge(inside, best[-1], _SHARES[1]))),
        )


def _edge(inside: Callable[[float], bool], near: float, far: float) -> float:
    """Return where `inside` ends between a point within and one without."""
    for _ in range(_HALVINGS):
        middle = (near + far) / 2
        near, far = (middle, far) if inside(middle) else (near, middle)
    return far


def _summed(values: Numbers, units: Codes) -> Numbers:
    return np.bincount(np.unique(units, return_inverse=True)[1], weights=values).astype(np.float64)


def _standardised(values: Numbers, units: Codes) -> float:
    sums = _summed(values, units)
    return float(sums.sum() / max(np.sqrt((sums**2).sum()), 1e-12))
