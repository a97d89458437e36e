"""The SYNTHETIC ultrasound streams: time to draw them, and how much better a split by frame makes a model look.

The model is the simplest one: a test frame gets the label of the most similar training picture (32 x 18 pixels,
squared distance). Both splits are measured on the same frames; the number printed last is the ratio of error rates.

Prediction, written before this command was first run, after a trial with sharper pictures (48 x 28 pixels reduced to
60 components): above 95 % in the split by frame, 50 to 80 % in the split by streams, so that splitting by frame hides
9 of 10 errors; and less than 30 s of processor time for 39 streams of 40 frames.

Then several structures in one frame: every combination of the four equally often in every stream, drawn in full. What a
constant answer gets is known without measuring: label accuracy 1/2, all four right in 1/16, whatever the split and
whatever is said of a stream. Beside it stands a linear classifier of several labels on frozen features of the built-in
encoder, judged on whole streams that it never saw. Prediction, written after a trial on 12 streams whose validation NLL
was 1.08 (2.77 is knowing nothing), before any test score was seen: label accuracy .80 to .92, all four right in .35 to
.70; the most similar training picture of other streams .5 to .75. `--quick` has too few streams for that: above 1/2.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image

import fusetune
from fusetune_papers.datasets.fpus23 import STRUCTURES, TASKS, fpus23_table, make_parts
from fusetune_papers.phantom.draw import write_phantom
from fusetune_papers.phantom.knobs import Knobs

_SEEDS = range(5)
_EXACT = Knobs(
    frames=48, difficulty=0.0, image_share=1.0, metadata_share=0.0, text_share=0.0, width=96, combinations=True
)
_FIT: dict[str, Any] = {"onnx": False, "image": {"encoder": "builtin", "size": 96, "encode_size": 96}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0] if __doc__ else "")
    parser.add_argument("--json", help="write the result to this file")
    parser.add_argument("--quick", action="store_true", help="10 streams of 12 frames: does it run?")
    args = parser.parse_args()
    knobs = Knobs(streams=10, frames=12, width=96) if args.quick else Knobs()
    exact = replace(_EXACT, streams=10, frames=16) if args.quick else _EXACT
    with TemporaryDirectory() as scratch:
        started = time.process_time()
        folder = write_phantom(Path(scratch) / "synthetic", knobs)
        seconds = time.process_time() - started
        result = {"frames": knobs.streams * knobs.frames, "processor seconds": seconds, **measure(fpus23_table(folder))}
        result["structures"] = structures(Path(scratch), exact)
    _show(result)
    if args.json:
        Path(args.json).write_text(json.dumps(result, indent=1), encoding="utf-8")


def measure(table: pd.DataFrame) -> dict[str, Any]:
    """Return test accuracies by split and task, each a mean over seeds of the split, and the ratio of errors."""
    away = _apart(table)
    seen = table[list(TASKS)].astype("str").agg(" ".join, axis=1)
    scores: dict[str, Any] = {}
    for how in ("frames", "streams"):
        parts = [make_parts(table, seen, how, seed) for seed in _SEEDS]
        scores[how] = {task: mean(_nearest(away, table[task].to_numpy(), part) for part in parts) for task in TASKS}
    scores["largest class"] = {task: float(max(table[task].mean(), 1 - table[task].mean())) for task in TASKS}
    errors = [1 - mean(scores[how].values()) for how in ("streams", "frames")]
    return {"accuracy": scores, "error, streams to frames": errors[0] / errors[1]}


def structures(scratch: Path, knobs: Knobs) -> dict[str, Any]:
    """Return what a fit on pictures says of streams that it never saw, where all combinations are equally frequent."""
    table = fpus23_table(write_phantom(scratch / "combinations-synthetic", knobs))
    bits, part = table[[*TASKS]].to_numpy(), table["split"].to_numpy()
    away = _apart(table)
    done = fusetune.fit(table, STRUCTURES, inputs=["image"], group="stream", split="split", strategy="linear-probe",
                        config=_FIT, out=scratch / "run", quiet=True)  # fmt: skip
    found = {name: done.metrics["test"][name] for name in ("label_accuracy", "subset_accuracy", "macro_f1")}
    return {
        "test frames": int((part == "test").sum()),
        "test streams": int(table["stream"][part == "test"].nunique()),
        "sets": pd.Series(map(tuple, bits)).value_counts().unique().tolist(),
        "constant": {"label_accuracy": 1 / 2, "subset_accuracy": 1 / 2 ** len(TASKS)},
        "most similar training picture": mean(_nearest(away, column, part) for column in bits.T),
        "fit": found,
        "each": {one["name"]: {score: one[score] for score in ("recall", "precision")} for one in done.metrics["each"]},
    }


def _apart(table: pd.DataFrame) -> npt.NDArray[np.float64]:
    """Return the squared distance of every picture to every other, [rows, rows]."""
    pixels = np.stack([_shrunk(path) for path in table["image"]])
    squares = (pixels**2).sum(1)
    return np.asarray(squares[:, None] + squares[None] - 2 * pixels @ pixels.T)


def _shrunk(path: str) -> npt.NDArray[np.float64]:
    with Image.open(path) as picture:
        return np.asarray(picture.resize((32, 18), Image.Resampling.BOX), dtype=np.float64).ravel() / 255


def _nearest(away: npt.NDArray[np.float64], labels: npt.NDArray[Any], part: npt.NDArray[Any]) -> float:
    train, test = np.flatnonzero(part == "train"), np.flatnonzero(part == "test")
    nearest = train[away[np.ix_(test, train)].argmin(1)]
    return float((labels[nearest] == labels[test]).mean())


def _show(result: dict[str, Any]) -> None:
    print(f"\n{result['frames']:,} SYNTHETIC frames drawn in {result['processor seconds']:.1f} s of processor time\n")
    print("| label of the most similar training picture | " + " | ".join(TASKS) + " |")
    print("|---" * (len(TASKS) + 1) + "|")
    for name, values in result["accuracy"].items():
        print(f"| {name} | " + " | ".join(f"{values[task]:.3f}" for task in TASKS) + " |")
    print(f"\nerrors, split by streams to split by frame: {result['error, streams to frames']:.1f}")
    found = result["structures"]
    frames, streams = found["test frames"], found["test streams"]
    print(
        f"\nall combinations of structures equally often; {frames:,} frames of {streams} streams that were in no other"
    )
    print("part, seed 0; intervals resample whole streams\n")
    for name, about in found["fit"].items():
        constant = f"; a constant {found['constant'][name]:.4f}" if name in found["constant"] else ""
        print(f"{name.replace('_', ' ')}: {_bounds(about)}{constant}")
    print(f"label accuracy of the most similar training picture: {found['most similar training picture']:.3f}")
    for name, about in found["each"].items():
        print(f"{name}: recall {_bounds(about['recall'])}, precision {_bounds(about['precision'])}")


def _bounds(found: dict[str, float]) -> str:
    return f"{found['value']:.3f} [{found['low']:.3f}, {found['high']:.3f}]"


if __name__ == "__main__":
    main()
