"""The solver of linear heads against scikit-learn's, at the size of UPMC Food-101, and how it grows with the rows.

Three measurements, all in one run:

1. One penalty, all rows, five augmented views: `LogisticRegression` (L-BFGS, on the same float32 features in memory)
   against `fit_logistic` on memory-mapped features; both objectives are printed. Every further penalty and fold costs
   scikit-learn as much again, less what a warm start saves; ours solves the folds together.
2. The whole choice, as `fit` makes it: ten penalties or more, five folds, and the head on all rows.
3. Rows from 10,000 to 1,000,000 with 1,664 features and ten classes, memory-mapped: seconds and peak memory, each in a
   process of its own.

Features are made up (centres of classes in 64 directions, noise, unequal scales), since no table that big is at hand;
their scale is chosen so that the best penalty lies within the path.

Prediction, written before the first run at full size: 5 times scikit-learn's speed for one penalty, since it needs
about a hundred passes in which ours needs 20; the whole choice in a quarter of an hour on two cores; seconds in
proportion to rows above 100,000; 3 GB.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from fusetune.config import HeadConfig
from fusetune.heads.base import Head, HeadData, logits_of
from fusetune.heads.linear import LinearHead
from fusetune.heads.solver import fit_crossed, fit_logistic
from fusetune.targets import Classification

_LATENT, _FOLDS, _PENALTY = 64, 5, 1e-3


def main() -> None:
    args = _arguments()
    if args.grow:
        print(json.dumps(_grown(args.grow, args.features, args.folder)))
        return
    rows, features, classes = (2_000, 64, 10) if args.quick else (args.rows, 1_125, 101)
    found: dict[str, Any] = {"threads": torch.get_num_threads(), "quick": args.quick}
    with TemporaryDirectory(dir=args.folder) as folder:
        data = made(Path(folder), args.views, rows, features, classes)
        found["table"] = {"rows": rows, "features": features, "classes": classes, "views": args.views}
        found["one penalty"] = _one_penalty(data, classes, args.iterations)
        _show_one(found)
        if not args.no_path:
            found["path"] = _whole_path(data, classes)
            print(
                f"ten penalties or more, {_FOLDS} folds: {found['path']['seconds']:.0f} s, {found['path']['choice']}",
                flush=True,
            )
        del data
    sizes = (1_000, 2_000) if args.quick else [int(size) for size in args.sizes.split(",") if size]
    found["growth"] = []
    for size in sizes:
        command = [sys.executable, __file__, "--grow", str(size), "--features", "64" if args.quick else "1664"]
        command += ["--folder", args.folder] if args.folder else []
        told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        one = json.loads(told.splitlines()[-1])
        found["growth"].append(one)
        print(
            f"{one['rows']:>9,} x {one['features']:,}: {one['seconds']:6.1f} s, "
            f"{1e6 * one['seconds'] / one['rows']:.0f} us a row, peak {one['peak'] / 1e9:.2f} GB", flush=True,
        )  # fmt: skip
    if args.json:
        Path(args.json).write_text(json.dumps(found, indent=1), encoding="utf-8")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0] if __doc__ else "")
    parser.add_argument("--rows", type=int, default=68_000, help="rows of the first table")
    parser.add_argument("--views", type=int, default=5, help="augmented views of each")
    parser.add_argument("--iterations", type=int, default=1_000, help="scikit-learn's limit")
    parser.add_argument("--no-path", action="store_true", help="leave the whole choice out")
    parser.add_argument("--sizes", default="10000,100000,1000000", help="rows of the tables that grow")
    parser.add_argument("--folder", help="where the features are written (up to 7 GB); default: the system's")
    parser.add_argument("--json", help="write the result to this file")
    parser.add_argument("--quick", action="store_true", help="small tables: does it run?")
    parser.add_argument("--grow", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--features", type=int, default=1_664, help=argparse.SUPPRESS)
    return parser.parse_args()


def made(folder: Path, views: int, rows: int, features: int, classes: int) -> HeadData:
    """Write features of made-up rows, and return them memory-mapped."""
    generator = np.random.default_rng(0)
    y = generator.integers(0, classes, rows)
    scales = np.arange(1, _LATENT + 1)[:, None] ** -0.5
    centres, mix = generator.normal(size=(classes, _LATENT)), generator.normal(size=(_LATENT, features)) * scales
    path = folder / f"{rows}.npy"
    z = np.lib.format.open_memmap(path, "w+", np.float32, (views, rows, features))
    for view in range(views):
        for start in range(0, rows, 10_000):
            own = y[start : start + 10_000]
            inner = 0.3 * centres[own] + generator.normal(size=(len(own), _LATENT))
            z[view, start : start + len(own)] = inner @ mix + 0.5 * generator.standard_normal((len(own), features))
    z.flush()
    del z
    ones = np.ones(rows)
    stored: npt.NDArray[np.float32] = np.load(path, mmap_mode="r")
    return HeadData({"z": stored}, {"z": ones.astype(bool)}, y, ones, np.arange(rows))


def _one_penalty(data: HeadData, classes: int, iterations: int) -> dict[str, Any]:
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415  # not in the processes whose memory is told

    plain = HeadData({"z": data.z["z"][:1]}, data.present, data.labels, data.weights, data.keys)
    started = time.perf_counter()
    head = fit_logistic(data, plain, HeadConfig(penalties=(_PENALTY,)), classes, 0).head
    ours = {"seconds": time.perf_counter() - started, "cost": _cost(head, data)}
    started = time.perf_counter()
    x = np.concatenate(list(data.z["z"])).astype(np.float32)
    mean, scale = (head.get_buffer(name).numpy() for name in ("mean_0", "scale_0"))
    x -= mean
    x *= scale
    y = np.tile(data.labels, len(data.z["z"]))
    model = LogisticRegression(C=1 / (_PENALTY * len(y)), tol=1e-6, max_iter=iterations).fit(x, y)
    theirs: dict[str, Any] = {"seconds": time.perf_counter() - started, "passes": int(model.n_iter_.max())}
    with torch.no_grad():
        _linear(head).weight[:, :-1].copy_(torch.from_numpy(model.coef_))
        _linear(head).bias.copy_(torch.from_numpy(model.intercept_))
    theirs["cost"] = _cost(head, data)
    return {"penalty": _PENALTY, "scikit-learn": theirs, "fusetune": ours, "ratio": theirs["seconds"] / ours["seconds"]}


def _cost(head: Head, data: HeadData) -> float:
    """Return the objective: mean NLL of all views, and the penalty."""
    total, (z,) = 0.0, data.z.values()
    for view in z:
        for rows in np.array_split(np.arange(len(view)), -(-len(view) // 10_000)):
            some = replace(data.some(rows), z={"z": view[None, rows]})
            total += Classification.nll(logits_of(head, some).double().numpy(), some.labels) * len(rows)
    squares = float(_linear(head).weight.detach().double().square().sum())
    return total / float(z.shape[0] * z.shape[1]) + _PENALTY / 2 * squares


def _linear(head: Head) -> torch.nn.Linear:
    assert isinstance(head, LinearHead)
    return head.linear


def _whole_path(data: HeadData, classes: int) -> dict[str, Any]:
    plain = HeadData({"z": data.z["z"][:1]}, data.present, data.labels, data.weights, data.keys)
    started = time.perf_counter()
    fit = fit_crossed(data, plain, np.arange(len(data.labels)) % _FOLDS, HeadConfig(), classes, 0)
    return {"seconds": time.perf_counter() - started, "choice": fit.choice, "path": fit.path, "doubts": fit.doubts}


def _grown(rows: int, features: int, where: str | None) -> dict[str, Any]:
    with TemporaryDirectory(dir=where) as folder:
        data = made(Path(folder), 1, rows, features, 10)
        few = data.some(np.arange(1000))
        started = time.perf_counter()
        fit = fit_logistic(data, few, HeadConfig(), 10, 0)
        seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"rows": rows, "features": features, "seconds": seconds, "peak": peak, "doubts": fit.doubts}


def _show_one(found: dict[str, Any]) -> None:
    one, table = found["one penalty"], found["table"]
    size = f"{table['rows']:,} rows in {table['views']} views, {table['features']:,} features"
    print(f"{size}, {table['classes']} classes, {found['threads']} thread(s), {os.cpu_count()} cores")
    for name in ("scikit-learn", "fusetune"):
        side = one[name]
        passes = f", {side['passes']} iterations" if "passes" in side else ""
        print(f"penalty {one['penalty']:g}, {name:13}{side['seconds']:8.1f} s, objective {side['cost']:.8f}{passes}")
    print(f"ratio: {one['ratio']:.1f} x", flush=True)


if __name__ == "__main__":
    main()
