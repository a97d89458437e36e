"""Likely label errors: rows whose label a cross-fitted model finds less likely than confident learning expects.

Confident learning (Northcutt et al., arXiv 1911.00068) through cleanlab: a row is suspected where another class is more
likely than that class usually is for its own rows. The model is a logistic regression on cheap features, fitted on the
other folds, whole groups at a time, so that a group cannot vouch for its own labels by its looks. Its probabilities are
multiplied by the share of each label in the rest of the row's group, where there is one. The accuracy of the two together
stands beside the suspects, since they are worth as much as it is.
"""

from __future__ import annotations

import warnings

import numpy as np
import numpy.typing as npt
from cleanlab.filter import find_label_issues
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from fusetune.doctor.case import Case, Codes
from fusetune.doctor.findings import Finding
from fusetune.doctor.sketch import Features

Probabilities = npt.NDArray[np.float64]
# With fewer rows per class than folds, some models never see the class.
_FEWEST = 5
# Blocks of features have unit variance in sum. Of 0.3 to 30, this had the lowest cross-fitted NLL on 2,050 scans.
_INVERSE_PENALTY = 1.0
_REMEDY = "look at the first rows of the list; correct labels that are wrong, leave the others"


def label_findings(case: Case, features: Features) -> list[Finding]:
    """Return the finding about likely label errors in the sample, the most suspicious rows first.

    Args:
        case: The case.
        features: float32 [sample, width].
    """
    if case.labels is None or not features.shape[1]:
        return []
    frequent = np.bincount(case.labels[case.labels >= 0], minlength=len(case.classes)) >= _FEWEST
    inside = case.labels[case.sample] >= 0
    inside[inside] = frequent[case.labels[case.sample][inside]]
    rows = case.sample[inside]
    names, labels = np.unique(case.labels[rows], return_inverse=True)
    if len(names) < 2:
        return []
    probabilities = crossed_probabilities(features[inside], labels, case.folds[rows])
    if case.groups is not None:
        probabilities = with_group(probabilities, labels, case.units[rows])
    suspects = ranked_suspects(labels, probabilities)
    if not len(suspects):
        return []
    accuracy = float((probabilities.argmax(1) == labels).mean())
    evidence = {
        "what": f"{len(suspects):,} of {len(rows):,} labels are doubted by a simple model that agrees with "
        f"{accuracy:.1%} of them",
        "count": len(suspects),
        "checked": len(rows),
        "model_accuracy": round(accuracy, 4),
        "suspects": [
            {
                "row": case.ids.iloc[rows[i]],
                "label": case.classes[names[labels[i]]],
                "likely": case.classes[names[probabilities[i].argmax()]],
                "p_label": round(float(probabilities[i, labels[i]]), 4),
                "p_likely": round(float(probabilities[i].max()), 4),
            }
            for i in suspects[:100]
        ],
    }
    column = str(case.schema.named("label"))
    return [Finding("label_errors", "warn", case.names(rows[suspects]), (column,), evidence, _REMEDY)]


def ranked_suspects(labels: Codes, probabilities: Probabilities) -> Codes:
    """Return positions of likely label errors by confident learning, the largest margin for another class first."""
    found = find_label_issues(
        labels,
        probabilities,
        filter_by="confident_learning",
        return_indices_ranked_by="normalized_margin",
        n_jobs=1,
    )
    return np.asarray(found, dtype=np.int64)


def with_group(probabilities: Probabilities, labels: Codes, groups: Codes) -> Probabilities:
    """Multiply by the share of each class among the other rows of the group, the classes' overall shares counting as one.

    On 2,050 scans of 671 patients with 20 wrong labels, it brings 19 to 20 of them into the first tenth, instead of 12.
    """
    classes = probabilities.shape[1]
    _, place = np.unique(groups, return_inverse=True)
    own = np.eye(classes)[labels]
    counts = np.zeros((int(place.max()) + 1, classes))
    np.add.at(counts, (place, labels), 1)
    others = counts[place] - own + own.mean(0)
    found = probabilities * others / others.sum(1, keepdims=True)
    return np.asarray(found / found.sum(1, keepdims=True))


def crossed_probabilities(features: Features, labels: Codes, folds: Codes) -> Probabilities:
    """Return class probabilities of each row from a model that saw none of its fold, float64 [rows, classes].

    A class that is absent from the other folds gets a small probability instead of none.
    """
    classes = int(labels.max()) + 1
    found = np.full((len(labels), classes), 1e-6)
    for fold in np.unique(folds):
        inside = folds == fold
        seen = np.unique(labels[~inside])
        if len(seen) < 2:
            found[inside] = np.bincount(labels, minlength=classes) / len(labels)
            continue
        model = LogisticRegression(C=_INVERSE_PENALTY, max_iter=200)
        with warnings.catch_warnings():
            # Ranks of rows settle long before the weights do.
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(features[~inside], labels[~inside])
        found[np.ix_(inside, seen)] = model.predict_proba(features[inside])
    return found / found.sum(1, keepdims=True)
