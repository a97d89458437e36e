"""Time and peak memory of `fusetune check` and of stage M on made-up tables of 10^4, 10^5 and 10^6 rows.

Each measurement runs in a process of its own, so that its peak is its own: 8 columns, a vector of 32 numbers, groups of
10 rows, a given split. Beside it stands that of a process which only reads the table. Stage M is the features of the
untrained encoders and one epoch of a non-linear head on them, everything before included: reading the table, splitting,
fitting scales and vocabularies. Its first batch is when the head sees one. Last, `check` on 100,000 JPEG files.

Prediction, written before the first measurement: models see at most 20,000 rows, so that from 10^5 rows on time grows
in proportion (hashing about 2 million cells a second); 10^6 rows take about a minute and below 3 GB. Stage M: 10^6 rows
in two minutes, the first batch after one (encoding is before it), 3 GB.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import numpy as np
import pandas as pd
import simplejpeg
from _cases import prepared
from torch import nn

from fusetune.config import Config
from fusetune.data.infer import infer_schema
from fusetune.data.roles import Roles
from fusetune.data.table import read_table
from fusetune.doctor.examine import examine
from fusetune.doctor.findings import counts
from fusetune.heads.base import Head
from fusetune.heads.folds import fit_on, make_folds
from fusetune.progress import track

_WIDTH = 32
PARTS = ("read", "check", "stage M")
_OPTIONS: dict[str, Any] = {"group": "patient", "split": "part", "vectors": {"embedding": "v_*"}}


def main() -> None:
    args = _arguments()
    if args.table:
        print(json.dumps(_one(Path(args.table), args.part)))
        return
    sizes = (1_000, 10_000) if args.quick else (10_000, 100_000, 1_000_000)
    rows: list[dict[str, Any]] = []
    with TemporaryDirectory() as folder:
        for size in sizes:
            path = Path(folder) / f"{size}.parquet"
            _made_up(size).to_parquet(path, index=False)
            found = {part: _measured(str(path), part) for part in PARTS}
            rows.append({"rows": size, **found})
            read, check, stage_m = (found[part] for part in PARTS)
            print(
                f"{size:>9,} rows: check {check['seconds']:7.1f} s, peak {check['gigabytes']:.2f} GB; stage M "
                f"{stage_m['seconds']:7.1f} s, first batch after {stage_m['first_batch']:.1f} s, peak "
                f"{stage_m['gigabytes']:.2f} GB (reading alone {read['seconds']:.1f} s, {read['gigabytes']:.2f} GB); "
                f"{check['findings']}",
                flush=True,
            )
        pictures = _pictures(Path(folder) / "pictures", 200 if args.quick else 100_000)
        print(
            f"{pictures['rows']:>9,} pictures: check {pictures['seconds']:.1f} s, peak {pictures['gigabytes']:.2f} GB"
        )
    growth = {part: rows[-1][part]["seconds"] / rows[-2][part]["seconds"] for part in PARTS}
    print("ten times the rows take " + ", ".join(f"{growth[part]:.1f} times as long ({part})" for part in PARTS[1:]))
    if args.json:
        Path(args.json).write_text(
            json.dumps({"sizes": rows, "growth": growth, "pictures": pictures}, indent=1), encoding="utf-8"
        )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="1,000 and 10,000 rows")
    parser.add_argument("--json", metavar="FILE", help="also write the numbers to this file")
    parser.add_argument("--table", help=argparse.SUPPRESS)
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    return parser.parse_args()


def _measured(path: str, part: str) -> dict[str, Any]:
    words = [sys.executable, __file__, "--table", path, "--part", part]
    found: dict[str, Any] = json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
    return found


def _one(path: Path, part: str) -> dict[str, Any]:
    started = time.perf_counter()
    found: dict[str, Any] = {}
    if part == "stage M":
        found["first_batch"] = _stage_m(path) - started
    else:
        table = read_table(path)
    if part == "check":
        options = _OPTIONS if "part" in table.frame else {"group": "patient"}
        schema = infer_schema(table, Roles("label", **options))
        found["findings"] = counts(examine(schema.read(table), schema, pixel_limit=10**6).findings)
    seconds = time.perf_counter() - started
    # Linux counts kilobytes.
    return {**found, "seconds": seconds, "gigabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}


def _pictures(folder: Path, rows: int) -> dict[str, Any]:
    """Check a table of small JPEG files, all different, in groups of ten."""
    generator = np.random.default_rng(0)
    for place in range(100):
        (folder / str(place)).mkdir(parents=True)
    paths = [f"{row % 100}/{row}.jpg" for row in range(rows)]
    for path in track(paths, "drawing"):
        pixels = cv2.resize(generator.integers(0, 256, (6, 6, 3), np.uint8), (128, 96), interpolation=cv2.INTER_CUBIC)
        (folder / path).write_bytes(simplejpeg.encode_jpeg(pixels))
    patient = np.arange(rows) // 10
    table = pd.DataFrame({"image": paths, "patient": patient, "label": np.array(["a", "b", "c"])[patient % 3]})
    table.to_csv(folder / "table.csv", index=False)
    return {"rows": rows, **_measured(str(folder / "table.csv"), "check")}


def _stage_m(path: Path) -> float:
    """Train the head for an epoch; return when it saw its first batch."""
    seen: list[float] = []

    def note(module: nn.Module, _: Any) -> None:
        if isinstance(module, Head):
            seen.append(time.perf_counter())

    with TemporaryDirectory() as store:
        sets = ["head.kind=mlp", "head.train.epochs=1", "views=1", "crossfit.how=off", f"store.folder={store}"]
        with prepared(read_table(path), "label", _OPTIONS, Config.build({}, sets=sets)) as (ctx, _):
            folds = make_folds(ctx)
            encoders = {name: ctx.fresh_encoder(name) for name in ctx.modalities}
            views, plain = (
                {name: ctx.encode(name, encoder, rows) for name, encoder in encoders.items()}
                for rows in (folds.rows, folds.choice_rows)
            )
            with nn.modules.module.register_module_forward_pre_hook(note):
                fit_on(ctx, folds, views, plain, ctx.config.head)
    return seen[0]


def _made_up(rows: int) -> pd.DataFrame:
    generator = np.random.default_rng(0)
    patient = np.arange(rows) // 10
    label = generator.integers(0, 4, int(patient.max()) + 1)[patient]
    frame = pd.DataFrame({"patient": patient, "label": np.array(["a", "b", "c", "d"])[label]})
    frame["part"] = np.array(["train", "valid", "test"])[np.searchsorted([0.7, 0.85], (patient * 0.6180339887) % 1)]
    for place in range(6):
        frame[f"number_{place}"] = generator.normal(label * place / 10, 1).round(3)
    for place in range(2):
        frame[f"word_{place}"] = pd.Series(generator.integers(0, 50, rows)).map(lambda code: f"w{code}").astype("str")
    centres = generator.normal(size=(4, _WIDTH)).astype(np.float32)
    vectors = centres[label] + 2 * generator.normal(size=(rows, _WIDTH)).astype(np.float32)
    return pd.concat([frame, pd.DataFrame(vectors, columns=[f"v_{i}" for i in range(_WIDTH)])], axis=1)


if __name__ == "__main__":
    main()
