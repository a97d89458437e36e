"""Time and peak memory of `fusetune check` on made-up tables of 10^4, 10^5 and 10^6 rows (columns and vectors).

Each size runs in a process of its own, so that its peak is its own: 8 columns, a vector of 32 numbers, groups of 10
rows, a given split. Beside the peak stands that of a process which only reads the table.

Prediction, written before the first measurement: models see at most 20,000 rows, so that from 10^5 rows on time grows
in proportion (hashing about 2 million cells a second); 10^6 rows take about a minute and below 3 GB.
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

import numpy as np
import pandas as pd

from fusetune.data.schema import infer_schema
from fusetune.data.table import read_table
from fusetune.doctor.examine import examine
from fusetune.doctor.findings import counts

_WIDTH = 32


def main() -> None:
    args = _arguments()
    if args.table:
        print(json.dumps(_one(args.table, args.read)))
        return
    sizes = (1_000, 10_000) if args.quick else (10_000, 100_000, 1_000_000)
    rows: list[dict[str, Any]] = []
    with TemporaryDirectory() as folder:
        for size in sizes:
            path = Path(folder) / f"{size}.parquet"
            _made_up(size).to_parquet(path, index=False)
            read, check = (_measured([str(path), *more]) for more in (["--read"], []))
            rows.append({"rows": size, "read": read, "check": check})
            print(
                f"{size:>9,} rows: check {check['seconds']:7.1f} s, peak {check['gigabytes']:.2f} GB "
                f"(reading alone {read['seconds']:.1f} s, {read['gigabytes']:.2f} GB); {check['findings']}"
            )
    growth = rows[-1]["check"]["seconds"] / rows[-2]["check"]["seconds"]
    print(f"ten times the rows take {growth:.1f} times as long")
    if args.json:
        Path(args.json).write_text(json.dumps({"sizes": rows, "growth": growth}, indent=1), encoding="utf-8")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="1,000 and 10,000 rows")
    parser.add_argument("--json", metavar="FILE", help="also write the numbers to this file")
    parser.add_argument("--table", help=argparse.SUPPRESS)
    parser.add_argument("--read", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def _measured(words: list[str]) -> dict[str, Any]:
    done = subprocess.run([sys.executable, __file__, "--table", *words], check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _one(path: str, only_read: bool) -> dict[str, Any]:
    started = time.perf_counter()
    table = read_table(path)
    found: dict[str, Any] = {}
    if not only_read:
        vectors = {"embedding": "v_*"}
        schema = infer_schema(table, "label", group="patient", split="part", vectors=vectors)
        found["findings"] = counts(examine(table, schema, pixel_limit=1).findings)
    seconds = time.perf_counter() - started
    # Linux counts kilobytes.
    return {**found, "seconds": seconds, "gigabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}


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
