"""What a new user gets: `fusetune.fit` with a table and a label, nothing set by hand, beside two simple references.

The references are what anybody would write in an hour: logistic regression on frozen features (the row `traditional` of
the run's own table), and LightGBM on the columns and on 60 components of the texts' TF-IDF. All are judged on the same
test rows, by pairs. Names of inputs, groups and the split's column are given, as a user must who has them; no setting.

Expected before it was run: no set on which a reference is better by a corrected test; three or more of eight sets on
which the default is better than both; hc18 quartile near 85 % and .36, since the size of a pixel is now tried; rosmap
about .38 and 84 %, below the published reference in accuracy; women's clothing near .90 where 20 minutes are too few to
tune a sentence encoder on 10,000 reviews.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import numpy.typing as npt
import pandas as pd
from _cases import CASES, DATA
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer

import fusetune
from fusetune.data.table import Table, read_table
from fusetune.evaluate import holm, mcnemar, paired_difference
from fusetune.evaluate.metrics import auroc

Array = npt.NDArray[Any]
_REVIEW = ["Title", "Review Text", "Age", "Positive Feedback Count", "Division Name", "Department Name", "Class Name"]


@dataclass(frozen=True)
class Given:
    """One table and what a user says of it.

    Attributes:
        path: Its file.
        label: The column to predict.
        options: Inputs, groups, split.
        aim: What the default is to reach.
        text: Columns that the reference reads as texts.
        divide: Makes the split of a seed, where the table has none.
        seeds: How many runs.
    """

    path: Path
    label: str
    options: dict[str, Any]
    aim: str
    text: tuple[str, ...] = ()
    divide: Callable[[Table, int], Table] = lambda table, seed: table
    seeds: int = 1


def splits(label: str) -> Callable[[Table, int], Table]:
    """Return the protocol of arXiv 2605.10616: a random tenth is the test part, at most 10,000 and 2,000 rows."""

    def divide(table: Table, seed: int) -> Table:
        order = np.random.default_rng(seed).permutation(len(table))
        test = order[: min(2000, len(order) // 10)]
        rows = np.concatenate([test, order[len(order) // 10 :][:10_000]])
        frame = table.frame.iloc[rows].reset_index(drop=True)
        known = frame[label].notna().to_numpy()
        part = np.where(np.arange(len(rows)) < len(test), "test", "train")
        return Table(frame.assign(part=part)[known].reset_index(drop=True), table.name, table.root)

    return divide


def titles(table: Table, seed: int) -> Table:
    """Learn from the official development titles, and test on the official test titles."""
    del seed
    part = table.frame["split"].where(table.frame["split"] == "test", "train")
    return Table(table.frame.assign(part=part), table.name, table.root)


_REVIEWS = DATA / "multabench" / "womens_clothing.parquet"
SETS = {
    "medpix2": Given(
        DATA / "medpix2" / "manifest.csv", "label", CASES["medpix2"].options, ">= 88 %, <= .45", ("history",)
    ),
    "hc18": Given(
        DATA / "hc18_trimester" / "manifest.csv", "label_hc_quartile", CASES["hc18"].options, ">= 86 %, <= .33"
    ),
    "hc18-trimester": Given(DATA / "hc18_trimester" / "manifest.csv", "label", CASES["hc18"].options, "-"),
    "flipkart": Given(
        DATA / "flipkart_1050" / "manifest.csv", "label", CASES["flipkart"].options, ">= 96 %", ("text",)
    ),
    "rosmap": Given(
        DATA / "rosmap" / "manifest.csv", "label", CASES["rosmap"].options, ">= 86.8 %", seeds=5
    ),
    "food101": Given(
        DATA / "upmc_food101_text" / "manifest.csv.gz", "label", {"inputs": ["text"], "split": "part"}, ">= 84 %",
        ("text",), titles,
    ),
    "womens": Given(
        _REVIEWS, "Rating", {"inputs": [*_REVIEW, "Recommended IND"], "split": "part"}, "AUC >= .909",
        ("Title", "Review Text"), splits("Rating"), 5,
    ),
    "womens-recommended": Given(
        _REVIEWS, "Recommended IND", {"inputs": _REVIEW, "split": "part"}, "-",
        ("Title", "Review Text"), splits("Recommended IND"),
    ),
}  # fmt: skip


@dataclass
class Row:
    """What one run and its references say of the test part.

    Attributes:
        p: Probabilities, [rows, classes], by who says them.
        labels: Class index, [rows].
        groups: Group of each row, where there are any.
        minutes: What the run took.
        gain: The run's own table.
    """

    p: dict[str, Array]
    labels: Array
    groups: Array | None
    minutes: float
    gain: list[dict[str, Any]] = field(default_factory=list)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0] if __doc__ else "")
    parser.add_argument("sets", nargs="*", default=[], help=f"which of {', '.join(SETS)}")
    parser.add_argument("--all", action="store_true", help="every set")
    parser.add_argument("--preset", default="good", choices=["quick", "good", "best"])
    parser.add_argument("--seeds", type=int, help="runs of each set; default: as its protocol says")
    parser.add_argument("--out", default="runs/defaults", help="folder for the runs; finished ones are not repeated")
    parser.add_argument("--json", help="write the result to this file")
    parser.add_argument("--quick", action="store_true", help="rosmap, one seed, preset quick: does it run?")
    args = parser.parse_args()
    names = ["rosmap"] if args.quick else list(SETS) if args.all else args.sets
    preset, seeds = ("quick", 1) if args.quick else (args.preset, args.seeds)
    told = []
    for name in names:
        if not SETS[name].path.exists():
            print(f"{name}: left out, there is no {SETS[name].path}")
            continue
        rows = [run(name, preset, seed, Path(args.out)) for seed in range(seeds or SETS[name].seeds)]
        told.append(said(name, preset, rows))
    show(told)
    if args.json:
        Path(args.json).write_text(json.dumps(told, indent=1), encoding="utf-8")


def run(name: str, preset: str, seed: int, out: Path) -> Row:
    """Fit one table with the defaults, and the reference on the same rows."""
    given = SETS[name]
    table = given.divide(read_table(given.path), seed)
    frame = table.frame if table.root is None else resolved(table, given)
    folder = out / f"{name}-{preset}-{seed}"
    started = time.perf_counter()
    done = (folder / "metrics.json").exists()
    if folder.exists() and not done:
        shutil.rmtree(folder)  # the time of a run that is resumed would not be its own
    fitted = fusetune.fit(
        frame, given.label, preset=preset, seed=seed, out=folder, resume=done, **given.options,
    )  # fmt: skip
    minutes = fitted.metrics["seconds"]["total"] / 60 if done else (time.perf_counter() - started) / 60
    said_of = pd.read_parquet(folder / "predictions.parquet")
    test = said_of[said_of["part"] == "test"]
    names = [column[2:-1] for column in test.columns if column.startswith("p(")]
    labels = pd.Index(names).get_indexer(pd.Index(test["label"]))
    p = {"fusetune": test[[f"p({one})" for one in names]].to_numpy()}
    p["TF-IDF + LightGBM"] = reference(frame, given, folder, test["row_id"].astype(str), names)
    groups = test["group"].to_numpy() if "group" in test else None
    return Row(p, labels, groups, minutes, fitted.metrics["gain"])


def resolved(table: Table, given: Given) -> pd.DataFrame:
    """Return the table with pictures by their whole paths."""
    frame = table.frame.copy()
    for column in given.options.get("inputs", ()):
        cells = frame[column]
        if cells.dtype != float and cells.dropna().astype(str).str.endswith((".jpg", ".png")).all():
            frame[column] = [str(table.root / str(cell)) if isinstance(cell, str) else None for cell in cells]
    return frame


def reference(frame: pd.DataFrame, given: Given, folder: Path, ids: pd.Series, names: list[str]) -> Array:
    """Return what LightGBM on columns and components of TF-IDF says of test rows, by the run's own split."""
    split = pd.read_parquet(folder / "split.parquet").set_index("row_id")["part"]
    split.index = split.index.astype(str)
    own = frame.set_axis(_ids(frame, split), axis=0)
    own = own[own.index.isin(split.index)]
    learn, asked = own[split.reindex(own.index).to_numpy() != "test"], own.reindex(ids)
    parts, more = list[pd.DataFrame](), list[pd.DataFrame]()
    for column in _columns(given, frame):
        if column in given.text:
            words = TfidfVectorizer(min_df=2, ngram_range=(1, 2), max_features=50_000)
            counts = words.fit_transform(learn[column].fillna("").astype(str))
            reduced = TruncatedSVD(min(60, counts.shape[1] - 1), random_state=0).fit(counts)
            for rows, of in ((learn, parts), (asked, more)):
                z = reduced.transform(words.transform(rows[column].fillna("").astype(str)))
                of.append(pd.DataFrame(z, index=rows.index).add_prefix(f"{column} "))
            continue
        numbers = pd.to_numeric(own[column], errors="coerce")
        if numbers.notna().sum() >= own[column].notna().sum():
            values = numbers.to_frame()
        elif own[column].nunique() <= 1000:
            values = own[column].astype("category").cat.codes.to_frame()
        else:
            continue
        parts.append(values.loc[learn.index])
        more.append(values.reindex(asked.index))
    x, new = (pd.concat(some, axis=1).to_numpy(dtype=float) for some in (parts, more))
    y = pd.Index(names).get_indexer(pd.Index(learn[given.label].map(_name)))
    model = lightgbm.LGBMClassifier(n_estimators=200, learning_rate=0.05, num_leaves=15, verbose=-1, random_state=0)
    told = np.asarray(model.fit(x, y).predict_proba(new))
    whole = np.full((len(new), len(names)), 1e-6)
    whole[:, model.classes_] = told
    return np.asarray(whole / whole.sum(1, keepdims=True))


def _ids(frame: pd.DataFrame, split: pd.Series) -> Any:
    """Return the ids that the run gave the rows: those of a column, or their numbers."""
    for column in frame.columns:
        if frame[column].is_unique and frame[column].astype(str).isin(split.index).mean() > 0.9:
            return pd.Index(frame[column].astype(str).tolist())
    return pd.Index([str(row) for row in range(len(frame))])


def _columns(given: Given, frame: pd.DataFrame) -> list[str]:
    vectors = given.options.get("vectors", {})
    starts = tuple(pattern.rstrip("*") for pattern in vectors.values())
    columns = [
        *given.options.get("inputs", ()),
        *(name for name in frame.columns if starts and name.startswith(starts)),
    ]
    return [name for name in columns if name != "image"]


def _name(value: Any) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def said(name: str, preset: str, rows: list[Row]) -> dict[str, Any]:
    """Return the figures of one set; with several seeds, the mean and the range over them."""
    first = rows[0]
    each = {who: [scores(row.p[who], row.labels) for row in rows] for who in first.p}
    for row_name in ("traditional", "two-stage", "ensemble", "trees"):
        found = [next((g for g in row.gain if g["name"] == row_name), None) for row in rows]
        if all(found):
            each[row_name] = [{"accuracy": g["accuracy"]["value"], "nll": g["nll"]["value"]} for g in found if g]
    pairs = [
        paired_difference(row.p["fusetune"], row.p["TF-IDF + LightGBM"], row.labels, row.groups, resamples=2000, seed=0)
        for row in rows
    ]
    right = [{who: p.argmax(1) == row.labels for who, p in row.p.items()} for row in rows]
    tests = [mcnemar(one["fusetune"], one["TF-IDF + LightGBM"]) for one in right]
    gain = first.gain[-1]
    return {
        "set": name, "preset": preset, "aim": SETS[name].aim, "seeds": len(rows), "rows": len(first.labels),
        "groups": None if first.groups is None else len(set(first.groups)),
        "minutes": [row.minutes for row in rows], "scores": each,
        "interval": {key: [gain[key]["low"], gain[key]["high"]] for key in ("accuracy", "nll")},
        "against": {
            "accuracy": [pair["accuracy"].as_dict() for pair in pairs],
            "nll": [pair["nll"].as_dict() for pair in pairs],
            "p": [test.p for test in tests],
        },
        "note": gain["note"],
    }  # fmt: skip


def scores(p: Array, labels: Array) -> dict[str, float]:
    """Return accuracy, NLL and the mean one-vs-rest AUC."""
    nll = float(-np.log(np.clip(p[np.arange(len(labels)), labels], 1e-12, 1)).mean())
    return {"accuracy": float((p.argmax(1) == labels).mean()), "nll": nll, "auc": float(auroc(p, labels))}


def show(told: list[dict[str, Any]]) -> None:
    """Print the table, and how often the default wins, ties and loses against the reference of words and columns."""
    print("\n| set | n (groups) | seeds | accuracy | NLL | AUC | minutes | aim | frozen + linear ", end="")
    print("| TF-IDF + LightGBM | NLL, ours minus it |")
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    corrected = iter(holm([one["against"]["p"][0] for one in told]))
    tally = {"better": 0, "same": 0, "worse": 0}
    for one in told:
        ours, other = one["scores"]["fusetune"], one["scores"]["TF-IDF + LightGBM"]
        frozen = one["scores"].get("traditional", [])
        bounds = one["interval"]
        pair, p = one["against"]["nll"][0], next(corrected)
        verdict = "better" if pair["high"] < 0 else "worse" if pair["low"] > 0 else "same"
        tally[verdict] += 1
        groups = f" ({one['groups']})" if one["groups"] else ""
        print(
            f"| {one['set']} | {one['rows']:,}{groups} | {one['seeds']} "
            f"| {spread(ours, 'accuracy')} [{bounds['accuracy'][0]:.3f}, {bounds['accuracy'][1]:.3f}] "
            f"| {spread(ours, 'nll')} [{bounds['nll'][0]:.3f}, {bounds['nll'][1]:.3f}] | {spread(ours, 'auc')} "
            f"| {np.mean(one['minutes']):.1f} | {one['aim']} "
            f"| {spread(frozen, 'accuracy')} / {spread(frozen, 'nll')} "
            f"| {spread(other, 'accuracy')} / {spread(other, 'nll')} "
            f"| {pair['value']:+.3f} [{pair['low']:+.3f}, {pair['high']:+.3f}], {verdict}; McNemar, Holm: {p:.3f} |"
        )
        print(f"<!-- {one['set']}: {one['note']} -->")
    print(f"\nNLL against TF-IDF + LightGBM: {', '.join(f'{count} {what}' for what, count in tally.items())}")


def spread(runs: list[dict[str, float]], key: str) -> str:
    """Return the mean over seeds, and the range where there are several."""
    values = [one[key] for one in runs if key in one]
    if not values:
        return "-"
    several = f" ({min(values):.3f} to {max(values):.3f})" if len(values) > 1 else ""
    return f"{np.mean(values):.3f}{several}"


if __name__ == "__main__":
    main()
