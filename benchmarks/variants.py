"""How the defaults were chosen: variants of one setting on a real data set, judged on validation rows only.

The test part stays locked. Differences below the interval of a few hundred validation rows are not differences; where
several variants are alike, the cheapest is the default.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from _cases import CASES, DATA, QUICK, opened

from fusetune.evaluate import score_with_intervals
from fusetune.strategies import strategy_of
from fusetune.strategies.base import held_by

VARIANTS = {
    "crossfit": (["crossfit.how=off"], ["crossfit.how=holdout"], ["crossfit.how=k"]),
    "pretrained": (["head.pretrained=false"], ["head.pretrained=true"]),
    "tuning": (["train.epochs=0"], []),
    "frozen": (["image.train.epochs=0", "text.train.epochs=0"], ["image.train.epochs=0"], []),
    "views": (["views=1"], ["views=2"], ["views=4"]),
    "groups": (["data.group_weights=none"], ["data.group_weights=equal"]),
    "sentences": (["text.encoder=all-MiniLM-L6-v2"], ["text.encoder=all-mpnet-base-v2"]),
    "features": ([], ["head.augment.noise=0.3"], ["head.augment.scale=0.3"]),
    # With k-fold cross-fitting, what is said of validation rows is said of plain inputs.
    "test_views": (["crossfit.how=off"], ["crossfit.how=off", "evaluate.test_views=4"]),
    "mix": (
        [],
        [f"image.train.{s}" for s in ("mix.kind=cutmix", "mix.alpha=1", "mix.share=0.5", "label_smoothing=0")],
    ),
    "head": (["head.kind=logistic"], ["head.kind=mlp"], ["head.kind=gated"], ["head.kind=bilinear"]),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0] if __doc__ else "")
    parser.add_argument("set", nargs="?", default="hc18", choices=list(CASES), help="which data set")
    parser.add_argument("--vary", default="crossfit", choices=list(VARIANTS), help="which setting")
    parser.add_argument("--set", dest="sets", action="append", default=[], help="KEY=VALUE for all variants")
    parser.add_argument(
        "--rows", default="valid", choices=["valid", "all", "outer"],
        help="judge validation rows; or all but the test part, as cross-validation of the head tells them; or "
        "validation rows that were kept out like a test part, while some of the training rows served for choices",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", help="write the result to this file")
    parser.add_argument("--quick", action="store_true", help="frozen encoders and one view: does it run?")
    args = parser.parse_args()
    table = DATA / CASES[args.set].folder / "manifest.csv"
    if not table.exists():
        print(f"{args.set}: left out, there is no {table}")
        return
    quick = [*QUICK, "evaluate.resamples=100"] if args.quick else []
    print(f"{args.set}, seed {args.seed}, rows: {args.rows}\n")
    print("| variant | accuracy | 95 % interval | NLL | 95 % interval | seconds |")
    print("|---|---|---|---|---|---|")
    results = {}
    for variant in VARIANTS[args.vary]:
        name = " ".join(variant) or "default"
        results[name] = _judge(args.set, [*args.sets, *quick, *variant], args.seed, args.rows)
        _show(name, results[name])
    if args.json:
        Path(args.json).write_text(json.dumps(results, indent=1), encoding="utf-8")


def _judge(name: str, sets: list[str], seed: int, which: str) -> dict[str, Any]:
    """Run all stages up to the head and judge it on rows that it has not learnt from."""
    started = time.perf_counter()
    with opened(name, sets, seed, outer=which == "outer") as (ctx, _):
        strategy, settings = strategy_of(ctx.config)
        fitted = strategy.fit(ctx, settings)
        if which == "outer":
            ctx.split.unlock_test()
            rows = ctx.split.rows("test")
            outputs = held_by(ctx, fitted.network, rows)
        else:  # where rows were also learnt from, what is said of them without them is judged
            rows = fitted.rows if which == "all" else ctx.split.rows("valid")
            outputs = fitted.held_on(rows)
        if which == "all" and len(rows) == len(ctx.split.rows("valid")):
            raise SystemExit("--rows all needs crossfit.how=k and head.kind=logistic")
    logits = outputs.f.double()
    groups = None if ctx.groups is None else ctx.groups.iloc[rows].to_numpy()
    probabilities = torch.softmax(logits, 1).numpy()
    scores = score_with_intervals(probabilities, ctx.labels[rows], groups, resamples=ctx.config.evaluate.resamples)
    return {**{key: scores[key].as_dict() for key in ("accuracy", "nll")}, "seconds": time.perf_counter() - started}


def _show(name: str, result: dict[str, Any]) -> None:
    accuracy, nll = result["accuracy"], result["nll"]
    print(
        f"| {name} | {accuracy['value']:.3f} | {accuracy['low']:.3f} to {accuracy['high']:.3f} "
        f"| {nll['value']:.3f} | {nll['low']:.3f} to {nll['high']:.3f} | {result['seconds']:.0f} |",
        flush=True,
    )


if __name__ == "__main__":
    main()
