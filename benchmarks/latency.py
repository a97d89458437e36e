"""What one row costs: a saved model, the same accelerated, and its ONNX export, one thread, each in its own process.

Load, first and warm prediction of one row, 200 rows in one call (seconds of the processor; of warm rows the median of
a round; the best of three rounds that take turns, since other work on a machine only adds), peak memory of the
process, bytes on disk, and the largest difference of a probability. numpy, pandas and Pillow are in both processes
from the start. By default a run on medpix2 (picture, history, age, sex) with `--preset quick` is fitted first; `--run`
and `--table` take what there is. With `--clean DIR`, a new environment is made there that has what the export asks for
and nothing else, and the runner must say the same in it.

Prediction, written before the first run of this command, when single warm rows had been timed by hand at .055 s and
.028 s: importing the library takes more than loading the model (4 s, 1 s) and the runner a tenth of both together; the
first row twice a warm one on either side; of 200 rows each costs what a warm row does less a third for the model, whose
tables are read once, and no less in ONNX, whose encoders are most of it; memory 900 MB against 400 MB; bytes alike.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
import venv
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

_DATA = Path(os.environ.get("FUSETUNE_DATA", Path(__file__).parents[2] / "shared" / "data"))
_SIDES = ("model", "accelerated", "ONNX")
_PARTS = ("import", "load", "first row", "warm row", "200 rows")
_INPUTS = ["image", "history", "age", "sex"]


def main() -> None:
    args = _arguments()
    if args.side:
        print(json.dumps(_measured(args.side, Path(args.run), Path(args.table), args.warm)))
        return
    with TemporaryDirectory() as folder:
        run, table = (Path(args.run), Path(args.table)) if args.run else _fitted(Path(folder), args.quick)
        rows = Path(folder) / "rows.csv"
        _rows(table, rows)
        homes = dict.fromkeys(_SIDES[:2], run / "model") | {"ONNX": _exported(run, Path(folder) / "onnx")}
        found = _raced(homes, rows, rounds=1 if args.quick else 3, warm=5 if args.quick else 30)
        facts = {side: {**found[side], "bytes": _bytes(home)} for side, home in homes.items()}
        _show(facts)
        if args.clean:
            _show_clean(homes["ONNX"], rows, facts["model"]["probabilities"], Path(args.clean))
    if args.json:
        Path(args.json).write_text(json.dumps({"quick": args.quick, "sides": facts}, indent=1), encoding="utf-8")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0] if __doc__ else "")
    parser.add_argument("--run", help="folder of a finished run")
    parser.add_argument("--table", help="the table that its rows are taken from")
    parser.add_argument("--clean", metavar="DIR", help="also run the export in a new environment, made there")
    parser.add_argument("--json", help="write the result to this file")
    parser.add_argument("--quick", action="store_true", help="a small made-up table: does it run?")
    parser.add_argument("--side", choices=_SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--warm", type=int, default=30, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if bool(args.run) != bool(args.table):
        parser.error("--run and --table go together")
    return args


def _fitted(folder: Path, quick: bool) -> tuple[Path, Path]:
    """Fit a run; return its folder and its table."""
    import fusetune  # noqa: PLC0415  # not in the processes that measure the runner

    how: dict[str, Any] = {"inputs": _INPUTS, "out": folder / "run", "quiet": True}
    table = folder / "table.csv"
    if quick:
        _made_up(folder).to_csv(table, index=False)
        small = {"image": {"encoder": "builtin", "size": 32}, "text": {"encoder": "builtin"}, "train": {"epochs": 1}}
        fusetune.fit(table, "label", config=small | {"strategy": {"name": "ume"}}, **how)
        return folder / "run", table
    frame = pd.read_csv(_DATA / "medpix2" / "manifest.csv")
    patients = np.random.default_rng(0).permutation(frame["uid"].unique())
    frame = frame[frame["uid"].isin(patients[: len(patients) // 5])]
    frame["image"] = [str(_DATA / "medpix2" / path) for path in frame["image"]]
    frame[[*_INPUTS, "uid", "label"]].to_csv(table, index=False)
    fusetune.fit(table, "label", group="uid", preset="quick", **how)
    return folder / "run", table


def _made_up(folder: Path) -> pd.DataFrame:
    draw = np.random.default_rng(0)
    rows = []
    for row in range(60):
        label = row % 3
        pixels = draw.integers(0, 90, (48, 64, 3)) + 60 * (np.arange(3) == label)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{row}.png")
        words = f"patient {row} has pain in the {['head', 'chest', 'leg'][label]} since yesterday"
        rows.append({"image": f"{row}.png", "history": words, "age": 20 + row, "sex": "mf"[row % 2], "label": label})
    return pd.DataFrame(rows)


def _rows(table: Path, out: Path) -> None:
    """Write 200 rows of a table, repeated where it has fewer, whose paths start anywhere."""
    frame = pd.read_csv(table, dtype=str, keep_default_na=False)
    frame = frame.iloc[np.resize(np.arange(len(frame)), 200)]
    if "image" in frame.columns:
        frame["image"] = [str((table.parent / path).resolve()) if path else "" for path in frame["image"]]
    frame.to_csv(out, index=False)


def _exported(run: Path, out: Path) -> Path:
    from fusetune.export import export_run  # noqa: PLC0415

    return export_run(run, "onnx", out).folder


def _raced(homes: dict[str, Path], rows: Path, rounds: int, warm: int) -> dict[str, dict[str, Any]]:
    """Measure each side in turns; of each part the best round."""
    told: dict[str, list[dict[str, Any]]] = {side: [] for side in homes}
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", "OPENBLAS_NUM_THREADS": "1"}
    for _ in range(rounds):
        for side, home in homes.items():
            command = [sys.executable, __file__, "--side", side, "--run", str(home), "--table", str(rows)]
            done = subprocess.run(
                [*command, "--warm", str(warm)], env=environment, check=True, capture_output=True, text=True
            )
            told[side].append(json.loads(done.stdout.splitlines()[-1]))
    best = {
        side: {part: min(one[part] for one in several) for part in (*_PARTS, "memory")}
        for side, several in told.items()
    }
    return {side: {**best[side], "probabilities": several[0]["probabilities"]} for side, several in told.items()}


def _measured(side: str, home: Path, rows: Path, warm: int) -> dict[str, Any]:
    """Measure one side in this process, which has imported neither library yet."""
    predict_one, predict_all, seconds = _runner(home, rows) if side == "ONNX" else _model(home, rows, side != "model")
    seconds["first row"], _ = _timed(predict_one)
    seconds["warm row"] = statistics.median(_timed(predict_one)[0] for _ in range(warm))
    seconds["200 rows"], probabilities = _timed(predict_all)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts KiB
    return {**seconds, "memory": peak, "probabilities": probabilities}


Predict = Callable[[], Any]


def _model(home: Path, rows: Path, accelerated: bool) -> tuple[Predict, Predict, dict[str, float]]:
    def load_library() -> Any:
        import fusetune  # noqa: PLC0415

        return fusetune

    seconds: dict[str, float] = {}
    seconds["import"], library = _timed(load_library)
    seconds["load"], model = _timed(lambda: library.load(home))
    if accelerated:
        seconds["load"] += _timed(model.accelerate)[0]
    frame = pd.read_csv(rows)
    one = frame.iloc[[3]]
    return (
        lambda: model.predict_proba(one, "mask"),
        lambda: model.predict_proba(frame, "mask").to_numpy().tolist(),
        seconds,
    )


def _runner(home: Path, rows: Path) -> tuple[Predict, Predict, dict[str, float]]:
    sys.path.insert(0, str(home))

    def load_library() -> Any:
        return __import__("run")

    seconds: dict[str, float] = {}
    seconds["import"], library = _timed(load_library)
    seconds["load"], runner = _timed(lambda: library.Runner(home, 1))
    cells, words = library.read_rows(rows)
    names = [f"p({label})" for label in runner.classes]

    def predict_all() -> Any:
        return [[line[name] for name in names] for line in runner.predict(cells, rows.parent, words)]

    return lambda: runner.predict(cells[3:4], rows.parent, words), predict_all, seconds


def _timed(work: Callable[[], Any]) -> tuple[float, Any]:
    started = time.process_time()
    found = work()
    return time.process_time() - started, found


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _show(facts: dict[str, dict[str, Any]]) -> None:
    model = facts["model"]
    print(f"{'':12s}" + "".join(f" {side:>14s} {'ratio':>7s}" for side in facts))
    for part in (*_PARTS, "memory", "bytes"):
        unit, size = ("s  ", 1.0) if part in _PARTS else ("MiB", float(2**20))
        cells = [
            f" {one[part] / size:10.3f} {unit} {one[part] / max(model[part], 1e-9):7.2f}" for one in facts.values()
        ]
        print(f"{part:12s}" + "".join(cells))
    for side, one in facts.items():
        if side != "model":
            print(f"largest difference of a probability, {side}: "
                  f"{_difference(model['probabilities'], one['probabilities']):.1e}")  # fmt: skip


def _difference(one: Any, other: Any) -> float:
    return float(np.abs(np.array(one) - np.array(other)).max())


def _show_clean(home: Path, rows: Path, expected: Any, place: Path) -> None:
    """Run the export in an environment that has what its README asks for, and compare."""
    venv.create(place, with_pip=True)
    python = place / ("Scripts" if os.name == "nt" else "bin") / "python"
    asked = next(
        line for line in (home / "README.md").read_text("utf-8").splitlines() if line.startswith("pip install ")
    )
    subprocess.run([python, "-m", *asked.split()], check=True, capture_output=True)
    subprocess.run([python, "-c", "import importlib.util as u; assert not u.find_spec('torch')"], check=True)
    done = subprocess.run(
        [python, home / "run.py", rows, "--json"], check=True, capture_output=True, text=True, env={"PATH": ""}
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    found = [[value for name, value in line.items() if name.startswith("p(")] for line in lines]
    print(f"in a new environment, after `{asked}`: largest difference {_difference(expected, found):.1e}")


if __name__ == "__main__":
    main()
