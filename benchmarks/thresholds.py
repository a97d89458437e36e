"""Even odds, or the threshold of the largest F1 for each label? On tables whose rows have any number of labels.

Eight splits: a fifth of the rows (whole groups) is the test part, a fifth chooses thresholds, the rest teaches
a logistic regression for each label. `f1 where it helps` takes the largest F1 only where rows that did not choose it
show, by more than a standard error, that it is better than even odds; that is what a run does by default.

Expected before it was run: rare labels gain, and where few groups choose, the largest F1 loses.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from _cases import DATA
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.model_selection import GroupKFold, GroupShuffleSplit
from sklearn.preprocessing import OneHotEncoder

from fusetune.evaluate.calibration import Calibration
from fusetune.evaluate.measures.base import Answered
from fusetune.evaluate.measures.labels import LabelRule, Labels
from fusetune.targets import Multilabel

Array = npt.NDArray[Any]
AIMS = ("even odds", "f1", "f1 where it helps")
SCORES = ("macro F1", "micro F1", "label accuracy", "rows all right")
_LEAST = 20  # rows with a label


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", help="write the result to this file")
    parser.add_argument("--quick", action="store_true", help="two splits of one table: does it run?")
    args = parser.parse_args()
    print(f"| table | labels | aim | {' | '.join(SCORES)} | macro F1 less that at even odds |")
    print("|" + "---|" * (len(SCORES) + 4))
    told = {}
    for name in ["fabrics"] if args.quick else TABLES:
        features, has, groups = TABLES[name]()
        found = np.array([split(features, has, groups, seed) for seed in range(2 if args.quick else 8)])
        told[name] = found.tolist()
        for at, aim in enumerate(AIMS):
            change = found[:, at, 0] - found[:, 0, 0]
            scores = " | ".join(f"{mean:.3f}" for mean in found[:, at].mean(0))
            print(
                f"| {name} | {has.shape[1]} | {aim} | {scores} | {change.mean():+.3f} ± {change.std():.3f} |",
                flush=True,
            )
    if args.json:
        Path(args.json).write_text(json.dumps(told, indent=1), encoding="utf-8")


def split(features: Any, has: Array, groups: Array, seed: int) -> list[list[float]]:
    """Return the scores of each aim on one split."""
    rest, test = next(GroupShuffleSplit(1, test_size=0.2, random_state=seed).split(has, groups=groups))
    learn, choose = next(GroupShuffleSplit(1, test_size=0.25, random_state=seed).split(rest, groups=groups[rest]))
    train, valid = rest[learn], rest[choose]
    p = {name: np.zeros((len(rows), has.shape[1])) for name, rows in (("valid", valid), ("test", test))}
    for at in range(has.shape[1]):
        model = None
        if 0 < has[train, at].sum() < len(train):
            model = LogisticRegression(C=3, max_iter=300).fit(features[train], has[train, at])
        for name, rows in (("valid", valid), ("test", test)):
            p[name][:, at] = has[train, at].mean() if model is None else model.predict_proba(features[rows])[:, 1]
    folds = np.zeros(len(valid), dtype=np.int64)
    for fold, (_, here) in enumerate(GroupKFold(min(5, len(set(groups[valid])))).split(valid, groups=groups[valid])):
        folds[here] = fold
    names = [str(at) for at in range(has.shape[1])]
    measure, none = Labels(Multilabel(names)), np.array([""] * len(valid))
    rows = Answered(p["valid"], has[valid].astype(np.float32), valid, none, groups[valid], folds)
    found = []
    for aim in AIMS:
        learnt = Calibration(**measure.thresholds(rows, aim, None))
        rule, truth = learnt.rule(names, measure=measure), has[test]
        called = rule.called(p["test"]) > 0
        assert isinstance(rule, LabelRule)
        f1 = [float(f1_score(truth, called, average=how, zero_division=0)) for how in ("macro", "micro")]
        found.append([*f1, float((called == truth).mean()), float((called == truth).all(1).mean())])
    return found


def _babies(column: str, other: str) -> tuple[Any, Array, Array]:
    frame = pd.read_csv(DATA / "multabench" / "babies_r_us.csv").drop_duplicates("title").reset_index(drop=True)
    cells = frame[column].fillna("").str.replace("grey", "gray").str.split(" / ")
    counts = cells.explode().value_counts()
    names = sorted(name for name in counts.index if name and counts[name] >= _LEAST)
    has = np.array([[name in cell for name in names] for cell in cells])
    texts = frame["title"].fillna("") + " " + frame["category"].fillna("") + " " + frame[other].fillna("")
    return TfidfVectorizer(min_df=2, max_features=8000).fit_transform(texts), has, np.arange(len(frame))


def _frames() -> tuple[Any, Array, Array]:
    frame = pd.read_csv(DATA / "fpus23_annotations" / "frames.csv").sample(6000, random_state=0)
    has = frame[["n_head", "n_abdomen", "n_arm", "n_legs"]].to_numpy() > 0
    return OneHotEncoder().fit_transform(frame[["pose", "location", "probe"]]).tocsr(), has, frame["stream"].to_numpy()


TABLES: dict[str, Callable[[], tuple[Any, Array, Array]]] = {
    "colours": lambda: _babies("colors", "fabrics"),
    "fabrics": lambda: _babies("fabrics", "colors"),
    "fpus23": _frames,
}


if __name__ == "__main__":
    main()
