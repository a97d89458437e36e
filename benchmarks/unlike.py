"""Do `--unlike` and `--drift` keep quiet where nothing is odd, and speak where something is? On real tables.

A fifth of the groups (without groups: rows) is taken away before anything is trained and stands in for later patients
or products; the rest is fitted with `--preset quick`. Then the held-back rows are predicted as they are, and changed in
one way at a time: pictures turned to negatives or replaced by noise, texts by a sentence in German, numbers tripled.

    python benchmarks/unlike.py --sets hc18,flipkart --json unlike.json

Printed per set and change: the share of rows called unlike in the changed input (about .01 is promised where nothing is
changed), the area under the ROC curve of `as_far` against the unchanged rows, and where drift is shown.

Expected before it was run: .00 to .03 of unchanged rows per input; noise, negatives and another language called unlike
in more than .8 of the rows; no drift shown for the unchanged rows.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from _cases import DATA
from PIL import Image, ImageOps

import fusetune
from fusetune.data.table import read_table
from fusetune.evaluate.metrics import auroc


@dataclass(frozen=True)
class Given:
    """One table: its folder, label, inputs, and the column of groups."""

    folder: str
    label: str
    inputs: tuple[str, ...]
    group: str | None = None


SETS = {
    "hc18": Given("hc18_trimester", "label_hc_quartile", ("image", "pixel_size_mm"), "subject"),
    "flipkart": Given("flipkart_1050", "label", ("image", "text", "retail_price")),
    "medpix2": Given("medpix2", "label", ("image", "history", "age"), "uid"),
}
FOREIGN = "Der schnelle braune Fuchs springt über den faulen Hund, und morgen soll es regnen."


def held_back(frame: pd.DataFrame, group: str | None, seed: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Return which rows are kept from training."""
    units = frame[group] if group else pd.Series(np.arange(len(frame)))
    names = np.random.default_rng(seed).permutation(units.unique())
    return np.asarray(units.isin(names[: len(names) // 5]))


def changes(frame: pd.DataFrame, model: fusetune.Model, folder: Path) -> dict[str, tuple[str, pd.DataFrame]]:
    """Return the changed tables by what was done: the input that it was done to, and the table."""
    found = {}
    for name, modality in model.schema.modalities().items():
        column = modality.columns[0]
        match modality.kind:
            case "image":
                found[f"noise for {name}"] = (name, frame.assign(**{column: _pictures(frame[column], folder, "noise")}))
                found[f"negatives of {name}"] = (
                    name,
                    frame.assign(**{column: _pictures(frame[column], folder, "negative")}),
                )
            case "text":
                found[f"another language in {name}"] = (name, frame.assign(**{column: FOREIGN}))
            case "columns":
                found[f"{column} times 3"] = (name, frame.assign(**{column: pd.to_numeric(frame[column]) * 3}))
    return found


def _pictures(paths: pd.Series, folder: Path, how: str) -> list[str]:
    random, made = np.random.default_rng(0), []
    for place, path in enumerate(paths):
        with Image.open(path) as picture:
            plain = picture.convert("RGB")
        if how == "noise":
            plain = Image.fromarray(random.integers(0, 256, (plain.height, plain.width, 3)).astype(np.uint8))
        else:
            plain = ImageOps.invert(plain)
        made.append(str(folder / f"{how}-{place}.png"))
        plain.save(made[-1])
    return made


def asked(name: str, seed: int) -> list[dict[str, Any]]:
    """Fit one set and return what is said of its held-back rows."""
    given, rows = SETS[name], []
    path = DATA / given.folder / "manifest.csv"
    frame = read_table(path).frame
    for column in given.inputs:
        if column == "image":
            frame[column] = [str(path.parent / cell) for cell in frame[column]]
    later = held_back(frame, given.group, seed)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        run = fusetune.fit(
            frame[~later].reset_index(drop=True), given.label, inputs=given.inputs, group=given.group, preset="quick",
            seed=seed, sets=["data.unreadable=mask"], out=folder / "run", quiet=True,
        )  # fmt: skip
        new = frame[later].reset_index(drop=True)
        usual = run.model.predict_table(new, "mask", unlike=True)
        likeness = run.model.reference.likeness if run.model.reference else {}
        drift = run.model.drift(new, "mask")
        shown = ", ".join(shift.name for shift in drift.shifts if shift.shown)
        for modality in likeness:
            share = usual["unlike"].str.contains(f"{modality} (", regex=False).mean()
            rows.append(
                {"set": name, "rows": len(new), "what": "as it is", "input": modality, "unlike": share, "drift": shown}
            )
        for what, (modality, table) in changes(new, run.model, folder).items():
            told = run.model.predict_table(table, "mask", unlike=True)
            far = np.r_[usual[f"as_far({modality})"], told[f"as_far({modality})"]]
            there = ~np.isnan(far)
            truth = np.r_[np.zeros(len(new), int), np.ones(len(new), int)][there]
            area = auroc(np.c_[far, 1 - far][there], truth)
            share = told["unlike"].str.contains(f"{modality} (", regex=False).mean()
            found = [shift.name for shift in run.model.drift(table, "mask").shifts if shift.shown]
            rows.append({"set": name, "rows": len(new), "what": what, "input": modality, "unlike": share, "auroc": area,
                         "drift": ", ".join(found)})  # fmt: skip
    return rows


def main() -> None:
    """Run the sets that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rows = []
    for name in args.sets.split(","):
        started = time.perf_counter()
        rows += asked(name, args.seed)
        print(f"{name}: {time.perf_counter() - started:.0f} s", flush=True)
        print(pd.DataFrame([row for row in rows if row["set"] == name]).to_string(index=False), flush=True)
        if args.json:
            args.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
