"""FPUS23 as one problem of several labels (which of head, abdomen, arms, legs are in the frame) without any picture.

What stands in the annotations beside the label is the stream's name. Every stream is judged by what the 38 others say,
so that all 15,113 frames count and no stream is on both sides; intervals resample whole streams.

Prediction, written before this command was first run. The most frequent answer is no label at all: label accuracy .709
and macro F1 0 by the published shares, all four right in .374. From the name: label accuracy .86 to .90, macro F1 .75
to .83, all four right in .60 to .68, of which .37 are the sweeps along the body (longrec), where nothing is annotated.
The most frequent set of the other streams at the same location has more frames with all four right than four decisions
one by one, by at most five points. With frames dealt at random, the nearest training frame has all four labels right in
.98 or more. The numbers of boxes are the label itself; the annotators' diagnostic plane, where it is given, says which
organ is there.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from fpus23_baselines import DATA
from sklearn.linear_model import LogisticRegression

from fusetune.data.table import read_table
from fusetune.evaluate.bootstrap import clusters, drawn_counts
from fusetune.evaluate.intervals import Interval, means, percentile, proportion
from fusetune_papers.datasets.baselines import nearest_frame
from fusetune_papers.datasets.fpus23 import STRUCTURES, TASKS, fpus23_table, make_parts
from fusetune_papers.reproduce.flaws import FPUS23
from fusetune_papers.reproduce.material import Material, material_of, place_numbers

_RESAMPLES = 2000
Array = npt.NDArray[np.float64]
Bits = npt.NDArray[np.bool_]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0] if __doc__ else "")
    parser.add_argument("--data", type=Path, default=DATA, help="folder with the annotations")
    parser.add_argument("--json", help="write the result to this file")
    parser.add_argument("--quick", action="store_true", help="one seed of the split by frame instead of 5")
    args = parser.parse_args()
    if not args.data.is_dir():
        print(f"left out, there is no {args.data}")
        return
    result = measure(args.data, range(1 if args.quick else 5))
    _show(result)
    if args.json:
        Path(args.json).write_text(json.dumps(result, indent=1), encoding="utf-8")


def measure(data: Path, seeds: range) -> dict[str, Any]:
    """Return scores with intervals by what is said of a stream, and what gives the labels away."""
    table = fpus23_table(data, images=False)
    material = material_of(FPUS23, read_table(table), STRUCTURES)
    there = table[[*TASKS]].to_numpy(dtype=bool)
    streams = table["stream"].to_numpy()
    said = {name: answer > 0.5 for name, answer in left_out(material, there).items()}
    return {
        "rows": len(table),
        "streams": int(table["stream"].nunique()),
        "seeds": len(seeds),
        "no label": float((~there).all(1).mean()),
        "several labels": float((there.sum(1) > 1).mean()),
        "sets": len(np.unique(there, axis=0)),
        "scores": {
            name: {score: interval.as_dict() for score, interval in scores(called, there, streams).items()}
            for name, called in said.items()
        },
        "all four right, one set less label by label": {
            name: _more_right(said["location, one set"], said[name], there, streams).as_dict()
            for name in ("location", "the stream's name")
        },
        "nearest frame, frames at random": _nearest(table, there, seeds),
        "leaks": _leaks(data),
    }


def left_out(material: Material, there: Bits) -> dict[str, Array]:
    """Return what is said of each frame, float [rows, labels], by what the other streams show, in four ways.

    A name is the same in all frames of a stream, so that models are fitted on streams weighed by their frames.
    """
    frame, names = material.table.frame, place_numbers(material, ordinal=False)
    codes, streams = pd.factorize(frame["stream"])
    first = np.unique(codes, return_index=True)[1]
    places, numbers = frame["location"].to_numpy()[first], names[first]
    count = np.bincount(codes).astype(float)
    has = np.stack([np.bincount(codes, weights=column) for column in there.T], 1)
    kinds, kind = np.unique(there, axis=0, return_inverse=True)
    of_kind = np.zeros((len(streams), len(kinds)))
    np.add.at(of_kind, (codes, kind.reshape(-1)), 1)
    said = {
        name: np.zeros(has.shape)
        for name in ("the most frequent answer", "location", "location, one set", "the stream's name")
    }
    for stream in range(len(streams)):
        others = np.arange(len(streams)) != stream
        near = others & (places == places[stream])
        said["the most frequent answer"][stream] = has[others].sum(0) / count[others].sum()
        said["location"][stream] = has[near].sum(0) / count[near].sum()
        said["location, one set"][stream] = kinds[of_kind[near].sum(0).argmax()]
        said["the stream's name"][stream] = [
            _regressed(numbers[others], has[others, label], count[others], numbers[stream])
            for label in range(len(TASKS))
        ]
    return {name: answer[codes] for name, answer in said.items()}


def _regressed(numbers: Array, has: Array, count: Array, asked: Array) -> float:
    """Return the probability by logistic regression on rows that stand for many, some with and some without a label."""
    x, y = np.concatenate([numbers, numbers]), np.repeat([1, 0], len(numbers))
    model = LogisticRegression(max_iter=1000).fit(x, y, sample_weight=np.concatenate([has, count - has]))
    return float(model.predict_proba(asked[None])[0, 1])


def scores(called: Bits, there: Bits, groups: npt.NDArray[Any], seed: int = 0) -> dict[str, Interval]:
    """Return label accuracy, the share of rows with all labels right, F1 (macro and of each), accuracy of each."""
    right = called == there
    (label,) = means(right.mean(1)[:, None], groups, resamples=_RESAMPLES, seed=seed)
    each = {f"accuracy {task}": proportion(right[:, at], groups) for at, task in enumerate(TASKS)}
    f1 = _f1(called, there, groups, seed)
    return {"label accuracy": label, "all four right": proportion(right.all(1), groups), **f1, **each}


def _more_right(one: Bits, other: Bits, there: Bits, groups: npt.NDArray[Any], seed: int = 0) -> Interval:
    """Return the share of rows with all labels right by one, less that by another."""
    right, also = ((called == there).all(1).astype(float) for called in (one, other))
    (found,) = means((right - also)[:, None], groups, resamples=_RESAMPLES, seed=seed)
    return found


def _f1(called: Bits, there: Bits, groups: npt.NDArray[Any], seed: int) -> dict[str, Interval]:
    """Return F1, 0 where a label is neither called nor there, from sums per group."""
    where = clusters(groups, len(there))

    def sums(bits: Bits) -> Array:
        return np.stack([np.bincount(where.member, weights=column, minlength=where.count) for column in bits.T])

    both, either = sums(called & there), sums(called) + sums(there)

    def ratio(times: Array) -> Array:
        total = either @ times
        return np.divide(2 * both @ times, total, out=np.zeros_like(total), where=total > 0)

    value = ratio(np.ones((where.count, 1)))[:, 0]
    draws = np.concatenate(
        [ratio(t.astype(np.float64)) for t in drawn_counts(where.count, len(there), _RESAMPLES, seed)], 1
    )
    found = {"macro F1": percentile(float(value.mean()), draws.mean(0), where.count)}
    each = zip(TASKS, value, draws, strict=True)
    return found | {f"F1 {task}": percentile(float(one), drawn, where.count) for task, one, drawn in each}


def _nearest(table: pd.DataFrame, there: Bits, seeds: range) -> dict[str, float]:
    """Return how often the nearest training frame has each label right, and all, a mean over seeds of the split."""
    sets = pd.Series(there @ (1 << np.arange(len(TASKS))), index=table.index)
    parts = [table.assign(split=make_parts(table, sets.astype("str"), "frames", seed), sets=sets) for seed in seeds]
    each = {name: mean(nearest_frame(part, name).accuracy for part in parts) for name in (*TASKS, "sets")}
    return {"label accuracy": mean(each[task] for task in TASKS), "all four right": each["sets"]}


def _leaks(data: Path) -> dict[str, float]:
    """Return what annotators wrote down that is no input: how often it is there, how often it gives a label away."""
    if not (data / "frames.csv").is_file():
        return {}
    frames = pd.read_csv(data / "frames.csv")
    boxes = frames[["n_head", "n_abdomen", "n_arm", "n_legs"]].to_numpy() > 0
    table = fpus23_table(data, images=False)
    ids = frames["stream"] + "/" + frames["frame"].str.removesuffix(".png")
    there = table.set_index("id").loc[list(ids), [*TASKS]].to_numpy(dtype=bool)
    plane = frames["diagnostic_plane.plane"].notna().to_numpy()
    planes = [
        pd.crosstab(frames["diagnostic_plane.plane"], column).max(axis=1).sum() / plane.sum() for column in there.T
    ]
    return {
        "boxes of the four classes, label accuracy": float((boxes == there).mean()),
        "frames with a diagnostic plane": float(plane.mean()),
        "a constant per diagnostic plane, label accuracy there": float(np.mean(planes)),
    }


def _show(result: dict[str, Any]) -> None:
    print(
        f"\n{result['rows']:,} frames of {result['streams']} streams, each judged by the others; no picture was read;"
    )
    none, several, sets = (result[name] for name in ("no label", "several labels", "sets"))
    print(f"none of the four in {none:.4f} of the frames, several in {several:.4f}, {sets} different sets\n")
    for score in next(iter(result["scores"].values())):
        said = [f"{name} {_bounds(found[score])}" for name, found in result["scores"].items()]
        print(f"{score}: {'; '.join(said)}")
    for name, found in result["all four right, one set less label by label"].items():
        print(f"all four right, location, one set, less {name}: {_bounds(found)}")
    near = ", ".join(f"{name} {value:.4f}" for name, value in result["nearest frame, frames at random"].items())
    print(f"\nnearest training frame, frames dealt at random ({result['seeds']} seed(s)): {near}")
    for name, value in result["leaks"].items():
        print(f"{name}: {value:.4f}")


def _bounds(found: dict[str, float]) -> str:
    return f"{found['value']:.3f} [{found['low']:.3f}, {found['high']:.3f}]"


if __name__ == "__main__":
    main()
