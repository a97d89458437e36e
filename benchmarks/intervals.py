"""The same reach to both sides of every number, or a band of quantiles first (CQR)? On three tables of numbers.

Five splits: a fifth of the rows (whole groups) is the test part, a fifth calibrates, the rest teaches a plain model:
boosted trees on thumbnails and the size of a pixel for head circumference, ridge regression on words for prices and
salaries. `used` is what a run does: the band where held-out rows show it to be narrower and to hold.

Expected before it was run: prices and circumferences gain a tenth in width, salaries nothing; plain intervals hold too
seldom where numbers are large.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import numpy.typing as npt
import pandas as pd
from _cases import DATA
from PIL import Image
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import Ridge
from sklearn.model_selection import GroupKFold, GroupShuffleSplit

from fusetune.evaluate.reach import BAND, PLAIN, Reaches, fit_reaches, judge_reaches

Array = npt.NDArray[Any]
_WORDS = ["title", "category", "company_struct", "fabrics", "colors", "materials"]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", help="write the result to this file")
    parser.add_argument("--quick", action="store_true", help="two splits of one table: does it run?")
    args = parser.parse_args()
    print("| table | MAE | intervals | hold | mean width | hold by thirds of what is said | band used |")
    print("|---|---|---|---|---|---|---|")
    told: dict[str, Any] = {}
    for name in ["salaries"] if args.quick else TABLES:
        model, features, y, groups = TABLES[name]()
        found = [split(model, features, y, groups, seed) for seed in range(2 if args.quick else 5)]
        told[name] = found
        error, used = (float(np.mean([one[key] for one in found])) for key in ("mae", "used"))
        for way in (PLAIN, BAND, "used by a run"):
            hold, width, thirds = (np.array([one[way][at] for one in found]) for at in range(3))
            parts = ", ".join(f"{100 * part:.0f}" for part in thirds.mean(0))
            print(
                f"| {name} | {error:,.1f} | {way} | {hold.mean():.1%} | {width.mean():,.1f} | {parts} | {used:.0%} |",
                flush=True,
            )
    if args.json:
        Path(args.json).write_text(json.dumps(told, indent=1), encoding="utf-8")


def split(model: Callable[[], Any], features: Any, y: Array, groups: Array, seed: int) -> dict[str, Any]:
    """Return how both ways fare on the test rows of a split, and what a run would use."""
    rest, test = next(GroupShuffleSplit(1, test_size=0.2, random_state=seed).split(y, groups=groups))
    learn, choose = next(GroupShuffleSplit(1, test_size=0.25, random_state=seed).split(rest, groups=groups[rest]))
    train, valid = rest[learn], rest[choose]
    fitted = model().fit(features[train], y[train])
    said, new = (np.asarray(fitted.predict(features[rows]), dtype=np.float64) for rows in (valid, test))
    folds = np.zeros(len(valid), dtype=np.int64)
    for fold, (_, here) in enumerate(GroupKFold(5).split(valid, groups=groups[valid])):
        folds[here] = fold
    alike = [np.array(["all"] * len(rows)) for rows in (valid, test)]
    member = groups if len(set(groups)) < len(groups) else None
    of = [None if member is None else member[rows] for rows in (valid, test)]
    given = (said - y[valid], alike[0], of[0], said, folds)
    reaches = {"used by a run": fit_reaches(*given), PLAIN: fit_reaches(*given, ways=(PLAIN,))}
    reaches[BAND] = fit_reaches(*given, ways=(BAND,))
    thirds = np.argsort(np.argsort(new)) * 3 // len(new)
    found: dict[str, Any] = {"mae": float(np.abs(new - y[test]).mean())}
    found["used"] = reaches["used by a run"].way == BAND
    for way, one in reaches.items():
        found[way] = _judged(one, new, y[test], alike[1], of[1], thirds)
    return found


def _judged(one: Reaches, new: Array, true: Array, alike: Array, member: Array | None, thirds: Array) -> list[Any]:
    low, high = one.ends(0.9, new, alike)
    held, score = (low <= true) & (true <= high), judge_reaches(one, new, true, alike, member)
    assert score is not None
    return [score.coverage.value, score.width.value, [float(held[thirds == at].mean()) for at in range(3)]]


def _heads() -> tuple[Callable[[], Any], Array, Array, Array]:
    folder = DATA / "hc18_trimester"
    frame = pd.read_csv(folder / "manifest.csv")
    pictures = [np.asarray(Image.open(folder / path).convert("L").resize((24, 16))).ravel() for path in frame["image"]]
    features = np.column_stack([frame["pixel_size_mm"], np.array(pictures, dtype=np.float64)])
    return _trees, features, frame["hc_mm"].to_numpy(), frame["subject"].to_numpy()


def _trees() -> Any:
    return lightgbm.LGBMRegressor(
        n_estimators=120, num_leaves=15, learning_rate=0.08, colsample_bytree=0.5, n_jobs=1, verbose=-1
    )


def _babies() -> tuple[Callable[[], Any], Any, Array, Array]:
    frame = pd.read_csv(DATA / "multabench" / "babies_r_us.csv")
    return _of_words(frame[frame["price"].notna()], _WORDS, "price")


def _salaries() -> tuple[Callable[[], Any], Any, Array, Array]:
    frame = pd.read_csv(DATA / "multabench" / "vancouver.csv", sep=";")
    known = frame[frame["remuneration"].notna()].sample(4000, random_state=0)
    return _of_words(known, ["department", "title"], "remuneration")


def _of_words(frame: pd.DataFrame, columns: list[str], label: str) -> tuple[Callable[[], Any], Any, Array, Array]:
    texts = frame[columns].fillna("").agg(" ".join, axis=1)
    features = TfidfVectorizer(min_df=2, max_features=6000).fit_transform(texts)
    return Ridge, features, frame[label].to_numpy(dtype=np.float64), np.arange(len(frame))


TABLES: dict[str, Callable[[], tuple[Callable[[], Any], Any, Array, Array]]] = {
    "heads": _heads,
    "babies": _babies,
    "salaries": _salaries,
}


if __name__ == "__main__":
    main()
