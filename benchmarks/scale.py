"""Time and peak memory of `fusetune check` and of stage M on made-up tables of 10^4, 10^5 and 10^6 rows.

Each measurement runs in a process of its own, so that its peak is its own: 8 columns, a vector of 32 numbers, groups of
10 rows, a given split. Beside it stands that of a process which only reads the table. Stage M is the features of the
untrained encoders and one epoch of a non-linear head on them, everything before included: reading the table, splitting,
fitting scales and vocabularies. Its first batch is when the head sees one. Last, `check` on 100,000 JPEG files.

Prediction, written before the first measurement: models see at most 20,000 rows, so that from 10^5 rows on time grows
in proportion (hashing about 2 million cells a second); 10^6 rows take about a minute and below 3 GB. Stage M: 10^6 rows
in two minutes, the first batch after one (encoding is before it), 3 GB.

Last, what 10^6 to 10^8 rows of a picture and a text would take on 1 to 64 workers (`_beyond.py`), from rates measured
in the same run in seconds of CPU time, so that other work on the machine does not count: what one thread encodes, and
by how much seconds and memory grew between the two largest tables. `--markdown FILE` puts the table into a page,
between the marks `<!-- scale -->`.

Prediction, written before that was measured: one core encodes 18 pictures and 90 texts a second, so that predicting
10^6 rows takes one worker 21 hours and 64 workers 20 minutes, and 10^8 rows 64 workers a day and a half, of which
reading is an hour; cost is in proportion to rows and does not depend on the workers. `fit` on 10^8 rows takes 3 TB of
features and more memory than a machine has, since the command holds the cells.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import numpy as np
import pandas as pd
import simplejpeg
from _beyond import JOBS, ROWS, WORKERS, Assumed, Rates, markdown, taken
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
from fusetune.runtime import cores
from fusetune.speed import measure

_WIDTH = 32
PARTS = ("read", "check", "stage M")
_ENCODE = "encode"
_MARK = "<!-- scale -->"
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
    rates = _rates(rows, _measured("-", _ENCODE))
    assumed = Assumed(args.efficiency, args.price)
    _tell(rates, assumed)
    if args.markdown:
        _put(Path(args.markdown), rates, assumed, sizes, args.quick)
    if args.json:
        Path(args.json).write_text(
            json.dumps({"sizes": rows, "growth": growth, "pictures": pictures}, indent=1), encoding="utf-8"
        )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="1,000 and 10,000 rows")
    parser.add_argument("--json", metavar="FILE", help="also write the numbers to this file")
    parser.add_argument("--price", type=float, default=Assumed.price, help="of a core for an hour")
    parser.add_argument("--efficiency", type=float, default=Assumed.efficiency, help="of a worker among others, 0 to 1")
    parser.add_argument("--markdown", metavar="FILE", help=f"put the table into this page, between two marks {_MARK}")
    parser.add_argument("--table", help=argparse.SUPPRESS)
    parser.add_argument("--part", choices=(*PARTS, _ENCODE), help=argparse.SUPPRESS)
    return parser.parse_args()


def _measured(path: str, part: str) -> dict[str, Any]:
    words = [sys.executable, __file__, "--table", path, "--part", part]
    found: dict[str, Any] = json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
    return found


def _one(path: Path, part: str) -> dict[str, Any]:
    started, spent = time.perf_counter(), time.process_time()  # after what was imported: that does not grow with rows
    found: dict[str, Any] = {}
    if part == _ENCODE:
        speed = measure(threads=1, clock=time.process_time)
        found |= {"pictures": speed.pictures, "texts": speed.texts, "widths": speed.picture_width + speed.text_width}
    elif part == "stage M":
        found["first_batch"] = _stage_m(path) - started
    else:
        table = read_table(path)
    if part == "check":
        options = _OPTIONS if "part" in table.frame else {"group": "patient"}
        schema = infer_schema(table, Roles("label", **options))
        found["findings"] = counts(examine(schema.read(table), schema, pixel_limit=10**6).findings)
    seconds = time.perf_counter() - started
    # Linux counts kilobytes.
    cost = {"cpu": time.process_time() - spent, "bytes": path.stat().st_size if path.is_file() else 0}
    return {
        **found,
        **cost,
        "seconds": seconds,
        "gigabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


def _rates(rows: list[dict[str, Any]], encode: dict[str, Any]) -> Rates:
    """Return rates from the growth between the two largest tables, and from what one thread encodes."""
    small, large = rows[-2:]
    more = large["rows"] - small["rows"]

    def slope(part: str, what: str) -> float:
        grown: float = (large[part][what] - small[part][what]) / more
        return max(0.0, grown)

    held = slope("stage M", "gigabytes")
    return Rates(
        encode["pictures"],
        encode["texts"],
        encode["gigabytes"],
        encode["widths"],
        {"predict": slope("read", "cpu"), "fit": slope("check", "cpu") + slope("stage M", "cpu")},
        # `predict` holds the cells of a piece, and 8 bytes of each id.
        {
            "predict": (encode["gigabytes"], 8 / 2**30),
            "fit": (large["stage M"]["gigabytes"] - held * large["rows"], held),
        },
        large["read"]["bytes"] / large["rows"],
    )


def _tell(rates: Rates, assumed: Assumed) -> None:
    print(
        f"\none core encodes {rates.pictures:.1f} pictures and {rates.texts:.1f} texts a second of its time, with "
        f"{rates.worker:.2f} GB; alone, for a row: "
        + ", ".join(f"{1e6 * rates.serial[job]:.0f} us ({job})" for job in JOBS)
    )
    for line in assumed.lines(rates):
        print(f"  assumed: {line}")
    for job in JOBS:
        for rows in ROWS:
            found = {workers: taken(job, rows, workers, rates, assumed) for workers in WORKERS}
            hours = ", ".join(f"{one.hours:,.1f} h with {workers}" for workers, one in found.items())
            last = found[WORKERS[-1]]
            print(
                f"  {job} {rows:,} rows: {hours} worker(s); memory of the command {last.memory:,.1f} GB, disk "
                f"{last.disk:,.0f} GB, cost {last.cost:,.0f}"
            )


def _put(page: Path, rates: Rates, assumed: Assumed, sizes: tuple[int, ...], quick: bool) -> None:
    """Put the table between the marks of a page, with where it comes from."""
    before, _, after = page.read_text("utf-8").split(_MARK)
    command = f"python benchmarks/scale.py{' --quick' if quick else ''} --markdown docs/{page.name}"
    where = f"{platform.machine()}, {cores()} core(s), {platform.system()}"
    told = [
        f"Made on {datetime.now(UTC):%Y-%m-%d} by `{command}` on {where}, from tables of {sizes[-2]:,} and "
        f"{sizes[-1]:,} rows: "
        f"one core encodes {rates.pictures:.1f} pictures and {rates.texts:.1f} texts in a second of its time with "
        f"{rates.worker:.1f} GB; what only one core can do takes "
        + " and ".join(f"{1e6 * rates.serial[job]:.0f} µs a row (`{job}`)" for job in JOBS)
        + ".",
        markdown(rates, assumed),
        "\n".join(f"- {line}" for line in assumed.lines(rates)),
    ]
    page.write_text(before + _MARK + "\n\n" + "\n\n".join(told) + "\n\n" + _MARK + after, encoding="utf-8")


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
