"""Likely label errors: rows whose label is improbable where the model is sure, and how many there can be.

Three cross-fitted opinions are pooled: a logistic regression and a forest on cheap features, fitted on the other folds,
whole groups at a time, so that a group cannot vouch for its own labels by its looks; and the share of each label in the
rest of the row's group, where there is one. `noise` estimates from them what share of the labels is wrong. A label is
likely to be wrong where an error explains it better than an exception does, and only where errors are shown at all; so
the list cannot be longer than the model's own error can carry. The forest is there because a linear model takes rows
for errors that are merely bent.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge

from fusetune.doctor.examined import Codes, Examined
from fusetune.doctor.findings import Finding
from fusetune.doctor.noise import Noise, estimate
from fusetune.doctor.sketch import Features
from fusetune.errors import listed
from fusetune.process import without_warnings
from fusetune.targets import Classification

Probabilities = npt.NDArray[np.float64]
# With fewer rows per class than folds, some models never see the class. Of classes that are rare beside the others,
# models are wrongly sure: their rows were named on tables that are right by construction.
_FEWEST, _ENOUGH, _RARE = 5, 50, 0.2
# Blocks of features have unit variance in sum. Of 0.3 to 30, this had the lowest cross-fitted NLL on 2,050 scans.
_INVERSE_PENALTY = 1.0
# The forest learns from so many rows at most, or it would take longer than everything else.
_TREES, _LEAF, _ROWS = 60, 3, 5_000
# What a class that no leaf has seen may be: class shares count as much as one in so many trees.
_SMOOTH = 20
# At most a tenth of the rows is listed: nobody looks through more.
_LISTED = 10
# Of numbers: times the usual error that is far.
_FAR, _TAIL = 6.0, 3.0  # and quartile ranges beyond the quartiles from which numbers are cut
# Where more than this share of labels could be wrong, the model knows too little to name any.
_TELLING = 0.2
_REMEDY = "look at the first rows of the list; correct labels that are wrong, leave the others"


@dataclass(frozen=True, eq=False)
class Doubt:
    """What a model thinks of the labels of some rows, of those classes (`names`, as indices) that have enough rows.

    `rows` are positions in the table, `labels` are indices into `names`, `noise` is about these rows and classes.
    """

    rows: Codes
    names: Codes
    labels: Codes
    noise: Noise

    @property
    def agreement(self) -> float:
        """The share of the labels that the model finds likeliest."""
        return float((self.noise.clean.argmax(1) == self.labels).mean())

    @property
    def order(self) -> Codes:
        """Positions in `rows`, the most doubted label first."""
        return np.argsort(-self.noise.wrong, kind="stable").astype(np.int64)

    def likely(self) -> Codes:
        """Return positions of labels that are more probably wrong than right, if errors are shown."""
        chance = self.noise.chance(self.noise.share) if self.noise.shown else np.zeros(len(self.rows))
        return self.order[chance[self.order] > 0.5]

    def possible(self) -> Codes:
        """Return positions of labels that would be likely to be wrong at the upper bound, as many as it allows."""
        if self.noise.high > _TELLING and not self.noise.shown:
            return np.empty(0, dtype=np.int64)
        most = min(math.ceil(self.noise.high * len(self.rows)), len(self.rows) // _LISTED)
        first = self.order[: max(most, len(self.likely()))]
        return np.setdiff1d(first[self.noise.chance(self.noise.high)[first] > 0.5], self.likely(), assume_unique=True)


def doubt(examined: Examined, features: Features) -> Doubt | None:
    """Return what a model on features [sample, width] thinks of the sample's labels; None where it cannot compare."""
    if examined.labels is None or not features.shape[1]:
        return None
    counts = np.bincount(examined.labels[examined.sample] + 1, minlength=len(examined.classes) + 1)[1:]
    least = max(_FEWEST, min(_ENOUGH, _RARE * counts.sum() / max(1, (counts >= _FEWEST).sum())))
    inside = np.isin(examined.labels[examined.sample], np.flatnonzero(counts >= least))
    rows = examined.sample[inside]
    names, labels = np.unique(examined.labels[rows], return_inverse=True)
    if len(names) < 2:
        return None
    folds, known = examined.folds[rows], features[inside]
    models = [crossed_probabilities(known, labels, folds), forest_probabilities(known, labels, folds)]
    if examined.groups is not None:
        models.append(group_shares(labels, examined.units[rows]))
    noise = estimate(labels, [np.log(np.maximum(model, 1e-12)) for model in models], examined.units[rows])
    return Doubt(rows, names, labels, noise)


def label_findings(examined: Examined, features: Features) -> list[Finding]:
    """Return the finding about label errors: likely ones first, then possible ones, each the most doubted first."""
    if examined.numbers is not None:
        return number_findings(examined, examined.numbers, features)
    # A row's labels are judged one by one nowhere: of a set of labels, one may be wrong.
    doubts = doubt(examined, features) if examined.schema.target == Classification.kind else None
    if doubts is None:
        return []
    noise, likely, possible = doubts.noise, doubts.likely(), doubts.possible()
    possible = possible[np.argsort(-noise.wrong[possible], kind="stable")]
    suspects, checked = np.concatenate([likely, possible]), len(doubts.rows)
    if not len(suspects):
        return []
    # A model that disagrees with a tenth of the labels cannot carry that more of them are wrong.
    high = min(noise.high, max(noise.share, 1 - doubts.agreement))
    chances = noise.chance(noise.share if noise.shown else high)
    missed = [examined.classes[k] for k in range(len(examined.classes)) if k not in doubts.names]
    evidence: dict[str, Any] = {
        "count": len(suspects),
        "likely": len(likely),
        "possible": len(possible),
        "likely_and_right": round(float((1 - chances[likely]).sum()), 1),
        "checked": checked,
        "share": round(noise.share if noise.shown else 0.0, 4),
        "interval": [round(noise.low if noise.shown else 0.0, 4), round(high, 4)],
        "at_most": math.ceil(high * checked),
        "model_accuracy": round(doubts.agreement, 4),
        "classes_too_rare": missed,
        "suspects": [_suspect(examined, doubts, chances, int(place)) for place in suspects[:100]],
    }
    agrees = f"the model agrees with {doubts.agreement:.1%}"
    more = f"; {len(possible):,} more are possible" if len(possible) and len(likely) else ""
    if len(likely):
        what = f"{len(likely):,} of {checked:,} labels are likely to be wrong, {evidence['likely_and_right']:.0f} of "
        what += f"these by mistake; in all, {noise.share:.1%} [{noise.low:.1%}, {high:.1%}] are{more}; {agrees}"
    else:
        what = f"no label is shown to be wrong, and at most {evidence['at_most']:,} of {checked:,} can be (95 %); "
        what += f"the {len(possible):,} most doubted ones are listed; {agrees}"
    what += f"; too rare to be judged: {listed(missed)}" if missed else ""
    rows, column = doubts.rows[suspects], examined.column_of("label")
    if len(likely):
        return [examined.finding("label_errors", "warn", what, _REMEDY, rows, column, certainty="likely", **evidence)]
    remedy = "nothing must be done; who has time looks at the first rows of the list"
    return [examined.finding("label_errors", "info", what, remedy, rows, column, certainty="possible", **evidence)]


def number_findings(examined: Examined, numbers: npt.NDArray[np.float64], features: Features) -> list[Finding]:
    """Return the finding about numbers that lie far from what the inputs say of their row, the farthest first.

    A linear model and a forest are fitted on the other folds; far is more than six times the usual error, the median
    absolute one times 1.4826. Such rows are exceptions at least as often as errors.

    Args:
        examined: The table.
        numbers: Its labels, NaN where missing.
        features: Of the sampled rows, [sample, width].
    """
    inside = np.isfinite(numbers[examined.sample])
    rows, known, folds = examined.sample[inside], features[inside], examined.folds[examined.sample[inside]]
    if len(rows) < _ENOUGH or not features.shape[1] or len(np.unique(folds)) < 2:
        return []
    # What is far off must not teach what is usual.
    low, high = np.quantile(numbers[rows], [0.25, 0.75])
    taught = np.clip(numbers[rows], low - _TAIL * (high - low), high + _TAIL * (high - low))
    said = np.zeros(len(rows))
    for fold in np.unique(folds):
        here, learn = folds == fold, np.flatnonzero(folds != fold)
        learn = learn[np.random.default_rng(0).permutation(len(learn))[:_ROWS]]
        # Each split looks at few features, as in a forest of classes; looking at all takes fifteen times as long.
        forest = RandomForestRegressor(
            _TREES, min_samples_leaf=_LEAF, max_features="sqrt", random_state=0, n_jobs=1
        )  # fmt: skip
        for model in (Ridge(alpha=_INVERSE_PENALTY), forest):
            said[here] += model.fit(known[learn], taught[learn]).predict(known[here]) / 2
    error = np.abs(numbers[rows] - said)
    usual = 1.4826 * float(np.median(error))
    far = np.flatnonzero(error > _FAR * usual) if usual > 0 else np.empty(0, dtype=np.int64)
    far = far[np.argsort(-error[far], kind="stable")][: max(1, len(rows) // _LISTED)]
    if not len(far):
        return []
    what = f"{len(far):,} of {len(rows):,} labels lie more than {_FAR:g} times the usual error ({usual:.4g}) from what "
    what += "the inputs say of their row; the farthest are listed first"
    remedy = "look at the first rows of the list; correct numbers that are wrong, leave the others"
    suspects = [
        {"row": examined.ids.iloc[rows[at]], "label": float(numbers[rows[at]]), "likely": round(float(said[at]), 4)}
        for at in far[:100]
    ]
    return [
        examined.finding(
            "label_errors", "info", what, remedy, rows[far], examined.column_of("label"),
            certainty="possible", count=len(far), checked=len(rows), suspects=suspects,
        )
    ]  # fmt: skip


def _suspect(examined: Examined, doubts: Doubt, chances: Probabilities, place: int) -> dict[str, str | float]:
    clean, label = doubts.noise.clean[place], doubts.labels[place]
    stated, likely = (examined.classes[doubts.names[k]] for k in (label, clean.argmax()))
    p_label, p_likely = round(float(clean[label]), 4), round(float(clean.max()), 4)
    row, p_wrong = examined.ids.iloc[doubts.rows[place]], round(float(chances[place]), 4)
    return {
        "row": row, "label": stated, "likely": likely, "p_label": p_label, "p_likely": p_likely, "p_wrong": p_wrong,
    }  # fmt: skip


def group_shares(labels: Codes, groups: Codes) -> Probabilities:
    """Return the share of each class among the other rows of the group; overall shares count as one more row."""
    _, place = np.unique(groups, return_inverse=True)
    own = np.eye(int(labels.max()) + 1)[labels]
    counts = np.zeros((int(place.max()) + 1, own.shape[1]))
    np.add.at(counts, (place, labels), 1)
    others = counts[place] - own + own.mean(0)
    return np.asarray(others / others.sum(1, keepdims=True))


def crossed_probabilities(features: Features, labels: Codes, folds: Codes) -> Probabilities:
    """Return class probabilities of each row from a model that saw none of its fold, float64 [rows, classes].

    A class that is absent from the other folds gets a small probability instead of none.
    """
    classes = int(labels.max()) + 1
    chances = np.full((len(labels), classes), 1e-6)
    for fold in np.unique(folds):
        inside = folds == fold
        seen = np.unique(labels[~inside])
        if len(seen) < 2:
            chances[inside] = np.bincount(labels, minlength=classes) / len(labels)
            continue
        model = LogisticRegression(C=_INVERSE_PENALTY, max_iter=200)
        with without_warnings(ConvergenceWarning):  # ranks of rows settle long before the weights do
            model.fit(features[~inside], labels[~inside])
        chances[np.ix_(inside, seen)] = model.predict_proba(features[inside])
    return np.asarray(chances / chances.sum(1, keepdims=True))


def forest_probabilities(features: Features, labels: Codes, folds: Codes) -> Probabilities:
    """Return what a forest says of each row that saw none of its fold, mixed with class shares, [rows, classes]."""
    shares = np.bincount(labels) / len(labels)
    chances = np.tile(shares, (len(labels), 1))
    for fold in np.unique(folds):
        inside = folds == fold
        rows = np.flatnonzero(~inside)
        if not len(rows):
            continue
        rows = rows[np.random.default_rng(0).permutation(len(rows))[:_ROWS]]
        model = RandomForestClassifier(_TREES, min_samples_leaf=_LEAF, random_state=0, n_jobs=1)
        model.fit(features[rows], labels[rows])
        chances[np.ix_(inside, model.classes_)] = model.predict_proba(features[inside])
    return np.asarray((_SMOOTH * chances + shares) / (_SMOOTH + 1))
