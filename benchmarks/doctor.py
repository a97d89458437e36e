"""Does `fusetune check` find what is wrong? Forty faults in a copy of medpix2, two splits of fpus23, and wrong labels.

Prediction, written before the first measurement: every fault of a file, a copy, a group or a column is found, and 5 of
6 swapped labels are named; no false alarm of severity error; all swapped labels are in the first tenth when rows are
ranked by the margin for another class. The frame split of fpus23 is called leaking, the stream split clean.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
from _faults import false_alarms, found_of, plant
from _labels import label_errors

from fusetune.data.infer import infer_schema
from fusetune.data.roles import Roles
from fusetune.data.table import read_table
from fusetune.doctor.examine import Examination, examine
from fusetune.doctor.labels import doubt

DATA = Path(os.environ.get("FUSETUNE_DATA", "../shared/data"))
_LIMIT = 200_000_000


def main() -> None:
    args = _arguments()
    result: dict[str, Any] = {"quick": args.quick}
    if not args.labels:
        result |= {"faults": faults(args.quick, args.seed), "frames": frames()}
    result["labels"] = label_errors(args.labels or None, args.seed)
    if args.json:
        Path(args.json).write_text(json.dumps(result, indent=1), encoding="utf-8")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="a third of the patients")
    parser.add_argument("--labels", metavar="TABLE", nargs="+", help="only label errors, of these tables")
    parser.add_argument("--seed", type=int, default=0, help="decides where the faults are planted")
    parser.add_argument("--json", metavar="FILE", help="also write the numbers to this file")
    return parser.parse_args()


def faults(quick: bool, seed: int) -> dict[str, Any]:
    clean = pd.read_csv(DATA / "medpix2" / "manifest.csv")
    if quick:
        clean = clean[pd.factorize(clean["uid"])[0] % 3 == 0].reset_index(drop=True)
    with TemporaryDirectory() as folder:
        planted = plant(clean, DATA / "medpix2", Path(folder), seed)
        started = time.perf_counter()
        examination = look(planted.frame, inputs="image,history,age,sex,region_code")
        seconds = time.perf_counter() - started
    matches = found_of(planted, examination.findings)
    for kind, names in planted.faults.items():
        print(f"{kind:36} found {len(matches[kind])} of {len(names)}")
    doubted = next(f.evidence for f in examination.findings if f.kind == "label_errors")
    ranks = label_ranks(examination, planted.faults["label_errors"])
    counts = {"found": sum(map(len, matches.values())), "planted": sum(map(len, planted.faults.values()))}
    alarms = false_alarms(planted, examination.findings)
    print(f"found {counts['found']} of {counts['planted']}; false alarms of severity error: {len(alarms)} {alarms[:5]}")
    places = ", ".join(f"{rank:.1%}" for rank in ranks)
    listed = f"{doubted['likely']} labels as likely errors and {doubted['possible']} as possible ones"
    print(f"the list of doubted labels names {listed}")
    print(f"swapped labels rank at {places}; {len(planted.frame)} rows, {seconds:.1f} s")
    return {**counts, "per_kind": {k: len(v) for k, v in matches.items()}, "false_alarms": alarms, "ranks": ranks}


def look(frame: pd.DataFrame, inputs: str) -> Examination:
    table = read_table(frame)
    schema = infer_schema(table, Roles("label", inputs=inputs.split(","), group="uid", split="split", row_id="id"))
    return examine(table, schema, pixel_limit=_LIMIT)


def label_ranks(examination: Examination, names: list[str]) -> list[float]:
    """Return where rows stand when all are ranked by doubt, as a share of all rows."""
    doubts = doubt(examination.examined, examination.features)
    assert doubts is not None
    order = examination.examined.ids.iloc[doubts.rows[doubts.order]].tolist()
    return [(order.index(name) + 1) / len(order) for name in names]


def frames() -> dict[str, Any]:
    results = {}
    for task in ("head", "abdomen", "arm", "legs"):
        for split in ("frame", "stream"):
            examination = look_at_frames(task, split)
            leaks = [f for f in examination.findings if "across_parts" in f.kind or "give" in f.kind]
            scores = next(f.evidence for f in examination.findings if f.kind == "column_scores")
            facts = {f.kind: f.evidence for f in leaks}
            results[f"{task}, by {split}"] = {
                "leaks": sorted(facts),
                "location": scores["columns"]["location"]["fitted"],
                "nearest": facts.get("neighbours_across_parts", {}).get("agreement"),
                "constant": facts.get("group_across_parts", {}).get("constant_per_group"),
            }
            print(f"fpus23 {task:8} by {split:7} {results[f'{task}, by {split}']}")
    return results


def look_at_frames(task: str, split: str) -> Examination:
    """Examine the annotations of fpus23 under a random 60/20/20 split of frames or of streams."""
    frame = pd.read_csv(DATA / "fpus23_annotations" / "frames.csv")
    frame["present"] = np.where(frame[f"n_{task}"] > 0, "yes", "no")
    units = frame["frame"] + frame["stream"] if split == "frame" else frame["stream"]
    codes, names = pd.factorize(units)
    order = np.random.default_rng(0).permutation(len(names)) / len(names)
    frame["part"] = np.array(["train", "valid", "test"])[np.searchsorted([0.6, 0.8], order[codes], "right")]
    table = read_table(frame)
    schema = infer_schema(table, Roles("present", inputs=["pose", "location", "probe"], group="stream", split="part"))
    return examine(table, schema, pixel_limit=_LIMIT)


if __name__ == "__main__":
    main()
