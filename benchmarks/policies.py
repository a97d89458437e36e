"""Which augmentation policy, and how many views of a row in a batch, help stage U at equal compute?

Image encoders are fine-tuned alone under each policy x repeats x seed and judged on validation rows; the test part
stays locked. Compute is equal: every run makes the same number of row passes, in steps of the same size, since
`repeats` divides both the epochs and the rows of a batch (arXiv 2105.13343). Intervals are cluster bootstraps over the
groups of the validation rows, of the mean over seeds; the spread between seeds stands beside them. Seconds are those
of the processor, which other programs on the machine do not stretch. A policy that a data set's columns contradict is
refused, as in any run: hc18 brings pictures to one physical scale, which light, medium and trivial would change.

Prediction, written before measuring: on medpix2 every policy is better than none and the policies lie within each
other's intervals; on hc18, where the label is a size, policies that change the scale (light, medium, trivial) would be
worse than paper, which does not. Repeats 2 and 4 change the NLL by less than 0.03, which three seeds on 200 rows cannot
tell from nothing; 4 is the worst where a policy changes little, since it sees a quarter of the epochs.
"""

from __future__ import annotations

import argparse
import json
import time
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from _cases import CASES, DATA, opened

from fusetune.errors import ConfigError
from fusetune.evaluate.bootstrap import clusters, resampled_means
from fusetune.evaluate.metrics import correct_rows, nll_rows
from fusetune.files import write_text
from fusetune.strategies.unimodal import fine_tune

POLICIES = ("none", "paper", "light", "medium", "trivial", "scan", "ultrasound")
SETS = ("medpix2", "hc18")
COLUMNS = (
    "policy", "repeats", "NLL", "95 % interval", "sd of seeds", "less {base} x 1", "95 % interval", "accuracy",
    "best epoch", "passes", "CPU s",
)  # fmt: skip
RESAMPLES = 2000


def main() -> None:
    args = _arguments()
    sets = [name for name in args.data if (DATA / CASES[name].folder / "manifest.csv").exists()]
    for name in set(args.data) - set(sets):
        print(f"{name}: left out, there is no {DATA / CASES[name].folder / 'manifest.csv'}")
    settings = {"epochs": args.epochs, "batch": args.batch, "sets": args.sets}
    results = _read(args.json, settings)
    with TemporaryDirectory() as store:
        for name, policy, repeats, seed in product(sets, args.policies, args.repeats, range(args.seeds)):
            cell = f"{name} {policy} {repeats} {seed}"
            if cell in results["cells"]:
                continue
            try:
                results["cells"][cell] = _fit(name, policy, repeats, seed, args, store)
            except ConfigError as error:  # a policy that this data set's columns contradict
                if (repeats, seed) == (args.repeats[0], 0):
                    print(f"{name} {policy}: refused: {error}", flush=True)
                continue
            print(f"{cell}: {results['cells'][cell]['seconds']:.0f} s of CPU", flush=True)
            if args.json:
                write_text(args.json, json.dumps(results))
    for name in sets:
        _show(name, results["cells"], args)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0] if __doc__ else "")
    parser.add_argument("--data", nargs="+", default=list(SETS), choices=list(SETS))
    parser.add_argument("--policies", nargs="+", default=list(POLICIES))
    parser.add_argument("--repeats", nargs="+", type=int, default=[1, 2, 4])
    parser.add_argument("--base", default="none", choices=POLICIES, help="policy that the others are compared with")
    parser.add_argument("--seeds", type=int, default=3, help="how many")
    parser.add_argument("--epochs", type=int, default=12, help="passes over the training rows, views included")
    parser.add_argument("--batch", type=int, default=32, help="passes per step, views included")
    parser.add_argument("--encoder", help="default: the one of the data set")
    parser.add_argument("--size", type=int, help="side in pixels; default: the one of the data set")
    parser.add_argument("--set", dest="sets", action="append", default=[], help="KEY=VALUE for all runs")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="results are kept here after every run; an interrupted study goes on")
    parser.add_argument("--quick", action="store_true", help="a small network, two policies, one seed: does it run?")
    args = parser.parse_args()
    if args.quick:
        args.data, args.policies, args.repeats, args.seeds = ["hc18"], ["none", "paper"], [1, 2], 1
        args.epochs, args.encoder, args.size = 2, "builtin", 32
    if any(args.epochs % repeats or args.batch % repeats for repeats in args.repeats):
        parser.error("--epochs and --batch must be multiples of every value of --repeats, or the compute is not equal")
    args.sets += [f"image.encoder={args.encoder}"] if args.encoder else []
    args.sets += [f"image.size={args.size}", f"image.encode_size={args.size}"] if args.size else []
    return args


def _read(path: Path | None, settings: dict[str, Any]) -> dict[str, Any]:
    """Return the results of an interrupted study, or empty ones."""
    if path is None or not path.exists():
        return {"settings": settings, "cells": {}}
    results: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if results["settings"] != settings:
        raise SystemExit(f"{path} holds results of {results['settings']}, not of {settings}; name another file")
    return results


def _fit(name: str, policy: str, repeats: int, seed: int, args: argparse.Namespace, store: str) -> dict[str, Any]:
    """Fine-tune the image encoder once and return what it says about each validation row."""
    train = {"epochs": args.epochs // repeats, "batch_size": args.batch // repeats, "repeats": repeats, "patience": 0}
    sets = [f"image.augment={policy}", f"threads={args.threads}", f"store.folder={store}", "onnx=false", *args.sets]
    sets += [f"image.train.{key}={value}" for key, value in train.items()]
    started = time.process_time()
    with opened(name, sets, seed, ["image"]) as (ctx, _):
        encoder, classifier = fine_tune(ctx, "image").only
        rows = ctx.split.rows("valid")
        with torch.inference_mode():
            logits = classifier(torch.from_numpy(np.array(ctx.encode("image", encoder, rows)[0])))
    p = torch.softmax(logits.double(), 1).numpy()
    history = ctx.histories["image"]
    return {
        "nll": nll_rows(p, ctx.labels[rows]).round(5).tolist(),
        "right": correct_rows(p, ctx.labels[rows]).astype(float).tolist(),
        "groups": list(range(len(rows))) if ctx.groups is None else ctx.groups.iloc[rows].astype(str).tolist(),
        "passes": history.rows_seen,
        "best_epoch": history.best_epoch + 1,
        "seconds": time.process_time() - started,
    }


def _show(name: str, cells: dict[str, Any], args: argparse.Namespace) -> None:
    """Print one line per policy and repeats: NLL, what it gains over no augmentation, accuracy, and the cost."""
    print(f"\n{name}, validation part, {args.seeds} seed(s)\n")
    print("| " + " | ".join(COLUMNS).format(base=args.base) + " |")
    print("|" + "---|" * len(COLUMNS))

    def runs(policy: str, repeats: int) -> list[dict[str, Any]]:
        found = (cells.get(f"{name} {policy} {repeats} {seed}") for seed in range(args.seeds))
        return [run for run in found if run]

    base = runs(args.base, 1)
    for policy, repeats in product(args.policies, args.repeats):
        found = runs(policy, repeats)
        if not found:
            print(f"| {policy} | {repeats} | refused" + " |" * (len(COLUMNS) - 2))
            continue
        nll = np.array([run["nll"] for run in found])
        less = nll - np.array([run["nll"] for run in base]) if len(base) == len(found) else np.full_like(nll, np.nan)
        values = np.stack([nll.mean(0), less.mean(0)], 1)
        drawn = resampled_means(values, clusters(found[0]["groups"], len(values)), resamples=RESAMPLES, seed=0)
        (low, less_low), (high, less_high) = np.quantile(drawn, (0.025, 0.975), axis=0)
        spread = nll.mean(1).std(ddof=1) if len(found) > 1 else float("nan")
        right = np.mean([run["right"] for run in found])
        print(
            f"| {policy} | {repeats} | {nll.mean():.3f} | {low:.3f} to {high:.3f} | {spread:.3f} "
            f"| {less.mean():+.3f} | {less_low:+.3f} to {less_high:+.3f} | {right:.3f} "
            f"| {np.mean([run['best_epoch'] for run in found]):.1f} of {args.epochs // repeats} "
            f"| {found[0]['passes']:,} | {np.mean([run['seconds'] for run in found]):.0f} |"
        )


if __name__ == "__main__":
    main()
