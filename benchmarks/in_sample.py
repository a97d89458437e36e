"""What it costs that TAR's learner reads embeddings of the very rows that tuned the encoder.

TAR is fitted twice with the same seeds: as published (`strategy.crossfit=false`, in-sample) and cross-fitted, the
default. These two differ in more than in what the learner reads: cross-fitted, a new row gets the mean over five
encoders, each tuned on four fifths of the rows. So a third learner stands between them ("same encoders"): it reads
training rows as the cross-fitted network embeds new ones, by the mean of all five encoders, four of which learnt from
the row. It differs from the cross-fitted network in nothing but the numbers that the learner was fitted on.

By default on stored features (`--level features`): encoders are small networks on what pretrained encoders said once,
and are tuned whole. With `--level encoders`, the pretrained encoders themselves are tuned by LoRA, and vectors are not.
Test rows are read once per set and seed, after everything is fitted. Intervals draw test rows (whole groups) and seeds;
p is that of swapping the two networks, group by group, on differences that are means over the seeds; Holm's correction
is for the number of sets, per comparison and score.

Expected before it was run, on stored features: in-sample has the higher NLL on every real set, by .02 to .10, the most
where rows are few beside features and classes (rosmap, food101); on the synthetic table with its short vectors it is
less than .03. Its accuracy is lower by half a point to two points, and on no set is that shown. A temperature takes
back half of the NLL, since what in-sample embeddings teach is above all too much certainty; the rest is a wrong weight
between modalities. Of the whole difference, a third is not the learner's reading but the mean of five encoders. With
LoRA in three blocks and few epochs, encoders move little: less than .02 in NLL, and nothing is shown.

Measured: `docs/results.md`. Shown on three of seven sets, most on hc18 where it was not expected; no temperature takes
any of it back; with LoRA nothing is left of it on the set where it costs most (at 96 pixels, three epochs).
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from _cases import CASES, DATA, prepared

from fusetune.config import Config
from fusetune.context import Context
from fusetune.data.split import PARTS, Rows
from fusetune.data.table import Table, read_table
from fusetune.datasets import Synthetic
from fusetune.evaluate import holm, mcnemar, permutation_test
from fusetune.evaluate.intervals import Interval, plain
from fusetune.evaluate.metrics import correct_rows, nll_rows
from fusetune.evaluate.seeds import crossed_mean, crossed_share
from fusetune.evaluate.temperature import Heat, softmax
from fusetune.heads.base import HeadData
from fusetune.judge import scaled_on_valid
from fusetune.progress import console, track
from fusetune.strategies.base import Fitted, held_by
from fusetune.strategies.level import on_features
from fusetune.strategies.tar import TAR, TARSettings, learn

WAYS = ("in-sample", "same encoders", "cross-fitted")
PAIRS = (("in-sample", "cross-fitted"), ("same encoders", "cross-fitted"))
SCORES = ("accuracy", "nll", "nll_after")
Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Source:
    """One data set: its file, its label, and how its rows are read and divided."""

    path: Path | None
    label: str
    options: dict[str, Any]
    sets: list[str] = field(default_factory=list)
    divide: Callable[[Table], Table] = lambda table: table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0] if __doc__ else "")
    parser.add_argument("sets", nargs="*", default=list(SOURCES), help=f"which of {', '.join(SOURCES)}; default: all")
    parser.add_argument("--seeds", type=int, default=5, help="trainings of each network")
    parser.add_argument("--level", choices=["features", "encoders"], default="features", help="what is tuned")
    parser.add_argument("--set", dest="own", action="append", default=[], help="KEY=VALUE for all networks")
    parser.add_argument("--json", help="write the result to this file")
    parser.add_argument("--quick", action="store_true", help="the smallest sets, one seed, few epochs: does it run?")
    args = parser.parse_args()
    names = [name for name in args.sets if name in ("rosmap", "synthetic")] if args.quick else args.sets
    quick = ["vector.train.epochs=2", "columns.train.epochs=2"] if args.quick else []
    results = {}
    for name in names:
        path = SOURCES[name].path
        if path is not None and not path.exists():
            print(f"{name}: left out, there is no {path}")
            continue
        results[name] = measured(name, 1 if args.quick else args.seeds, args.level, [*args.own, *quick])
        console.print(f"{name}: {results[name]['seconds']:.0f} s")
    correct(list(results.values()))
    show(results)
    if args.json:
        Path(args.json).write_text(json.dumps(plain(results), indent=1), encoding="utf-8")


def measured(name: str, seeds: int, level: str, sets: list[str]) -> dict[str, Any]:
    """Fit all networks of one data set with every seed, and compare them on its test rows."""
    source, started = SOURCES[name], time.perf_counter()
    table = source.divide(read_table(SYNTHETIC.table() if source.path is None else source.path))
    said: list[dict[str, tuple[Array, Heat]]] = []
    epochs: list[int] = []
    for seed in track(range(seeds), f"{name}, seeds"):
        config = Config.build({"seed": seed}, sets=[*source.sets, *sets])
        with prepared(table, source.label, source.options, config) as (ctx, _):
            run = on_features(ctx) if level == "features" else ctx
            ways = fitted(run)
            epochs += [history.best_epoch + 1 for history in run.histories.values()]
            heats = {way: scaled_on_valid(run, one).heat.value for way, one in ways.items()}
            run.split.unlock_test()
            rows = run.split.rows("test")
            said.append(
                {way: (held_by(run, one.network, rows).f.double().numpy(), heats[way]) for way, one in ways.items()}
            )
    groups = None if run.groups is None else run.groups.iloc[rows].to_numpy()
    facts: dict[str, Any] = {part: len(run.split.rows(part)) for part in PARTS}
    facts |= {"groups": None if groups is None else len(set(groups)), "classes": len(run.classes), "seeds": seeds}
    facts["epochs"] = float(np.mean(epochs))
    return facts | compared(said, run.labels[rows], groups) | {"seconds": time.perf_counter() - started}


def fitted(run: Context) -> dict[str, Fitted]:
    """Fit TAR in-sample and cross-fitted, and the learner that reads training rows as if they were new."""
    settings = TARSettings()
    crossed = TAR.fit(run, settings)
    return {
        "in-sample": TAR.fit(run, TARSettings(crossfit=False)),
        "same encoders": learnt_again(run, crossed, settings),
        "cross-fitted": crossed,
    }


def learnt_again(run: Context, done: Fitted, settings: TARSettings) -> Fitted:
    """Return a network with another learner: fitted on what the network's own encoders make of the training rows."""

    def read(rows: Rows) -> HeadData:
        z = held_by(run, done.network, rows).z
        return HeadData.of(run, {name: z[name].numpy()[None] for name in run.modalities}, rows)

    valid = run.split.rows("valid")
    learner = learn(run, read(run.split.rows("train")), read(valid), settings)
    network: Any = copy.deepcopy(done.network)
    network.head = learner.head.to(run.runtime.device).eval().requires_grad_(False)
    return replace(done, network=network, held=held_by(run, network, valid), tried=learner.tried)


def compared(said: list[dict[str, tuple[Array, Heat]]], labels: Any, groups: Any) -> dict[str, Any]:
    """Score what every network says of the test rows, before and after its temperature, and compare them in pairs."""
    scores: dict[str, dict[str, Array]] = {}
    for way in WAYS:
        p = [softmax(one[way][0]) for one in said]
        scores[way] = {
            "accuracy": np.stack([correct_rows(own, labels) for own in p]).astype(float),
            "nll": np.stack([nll_rows(own, labels) for own in p]),
            "nll_after": np.stack([nll_rows(softmax(*one[way]), labels) for one in said]),
        }
    ways = {
        way: {"accuracy": crossed_share(own["accuracy"], groups)}
        | {key: crossed_mean(own[key], groups) for key in SCORES[1:]}
        | {"temperatures": [one[way][1] for one in said]}
        for way, own in scores.items()
    }
    return {"ways": ways, "pairs": [paired(scores, a, b, groups) for a, b in PAIRS]}


def paired(scores: dict[str, dict[str, Array]], a: str, b: str, groups: Any) -> dict[str, Any]:
    """Compare two networks on the same rows and seeds."""
    tests = [mcnemar(*pair) for pair in zip(scores[a]["accuracy"], scores[b]["accuracy"], strict=True)]
    pair: dict[str, Any] = {"a": a, "b": b}
    pair |= {key: float(np.mean([getattr(test, key) for test in tests])) for key in ("gained", "lost")}
    for key in SCORES:
        difference = scores[a][key] - scores[b][key]
        pair[key] = crossed_mean(difference, groups)
        pair[f"p_{key}"] = permutation_test(difference.mean(0), groups)
    return pair


def correct(results: list[dict[str, Any]]) -> None:
    """Add p-values that are corrected for the number of sets."""
    for at in range(len(PAIRS)):
        for key in SCORES:
            pairs = [result["pairs"][at] for result in results]
            for pair, p in zip(pairs, holm([pair[f"p_{key}"] for pair in pairs]), strict=True):
                pair[f"holm_{key}"] = p


def show(results: dict[str, dict[str, Any]]) -> None:
    """Print what each network reaches, and each paired difference."""
    print("\n| set | seeds | test rows (groups) | learner reads | accuracy | NLL | NLL after temperature |")
    print("|---|---|---|---|---|---|---|")
    for name, result in results.items():
        rows = f"{result['test']:,}" + (f" ({result['groups']:,})" if result["groups"] else "")
        for way, one in result["ways"].items():
            print(
                f"| {name} | {result['seeds']} | {rows} | {way} | {percent(one['accuracy'])} | {bounds(one['nll'])} "
                f"| {bounds(one['nll_after'])} |"
            )
    for at, (a, b) in enumerate(PAIRS):
        print(f"\n{a} minus {b}:\n")
        print("| set | accuracy, points | rows gained, lost | p, Holm | NLL | p, Holm | after temperature | p, Holm |")
        print("|---|---|---|---|---|---|---|---|")
        for name, result in results.items():
            pair = result["pairs"][at]
            p = {key: f"{pair[f'p_{key}']:.4f}, {pair[f'holm_{key}']:.4f}" for key in SCORES}
            print(
                f"| {name} | {points(pair['accuracy'])} | {pair['gained']:.1f}, {pair['lost']:.1f} | {p['accuracy']} "
                f"| {bounds(pair['nll'], '+')} | {p['nll']} | {bounds(pair['nll_after'], '+')} | {p['nll_after']} |"
            )
    print("\nepochs of the encoders that are read, in the mean, and seconds of all:")
    print("; ".join(f"{name} {result['epochs']:.1f}, {result['seconds']:.0f} s" for name, result in results.items()))


def percent(one: Interval) -> str:
    """Return a share as percents, with its bounds."""
    return f"{100 * one.value:.1f} % [{100 * one.low:.1f}, {100 * one.high:.1f}]"


def points(one: Interval) -> str:
    """Return a difference of shares in points, with its bounds."""
    return f"{100 * one.value:+.1f} [{100 * one.low:+.1f}, {100 * one.high:+.1f}]"


def bounds(one: Interval, sign: str = "") -> str:
    """Return a value with its bounds."""
    return f"{one.value:{sign}.3f} [{one.low:{sign}.3f}, {one.high:{sign}.3f}]"


def divided(most: int, shares: tuple[float, float, float], group: str | None = None) -> Callable[[Table], Table]:
    """Return what takes some rows of a table by chance and divides them, or their groups, into parts."""

    def divide(table: Table) -> Table:
        generator = np.random.default_rng(0)
        kept = np.sort(generator.permutation(len(table))[:most])
        frame = table.frame.iloc[kept].reset_index(drop=True)
        unit = np.arange(len(frame)) if group is None else np.unique(frame[group], return_inverse=True)[1]
        part = generator.choice(["train", "valid", "test"], unit.max() + 1, p=shares)[unit]
        return Table(frame.assign(part=part), table.name, table.root)

    return divide


def _titles(table: Table) -> Table:
    """Take the official development titles, a fifth of them for choices, and some of the test titles."""
    frame, generator = table.frame, np.random.default_rng(0)
    part = np.where(generator.random(len(frame)) < 0.2, "valid", "train")
    part = np.where(frame["split"] == "test", np.where(generator.random(len(frame)) < 0.2, "test", ""), part)
    return Table(frame.assign(part=part)[part != ""].reset_index(drop=True), table.name, table.root)


REVIEW = [
    "Title", "Review Text", "Age", "Recommended IND", "Positive Feedback Count", "Division Name", "Department Name",
    "Class Name",
]  # fmt: skip
SYNTHETIC = Synthetic(rows=2000, width=64, sigma=0.3)
# Of tables without a division of their own, rows and parts are drawn once, whatever the seed.
SOURCES = {
    name: Source(DATA / case.folder / "manifest.csv", case.label, case.options, case.reading)
    for name, case in CASES.items()
} | {
    "womens": Source(
        DATA / "multabench" / "womens_clothing.parquet",
        "Rating",
        {"inputs": REVIEW, "group": "Clothing ID", "split": "part"},
        divide=divided(4000, (0.5, 0.15, 0.35), "Clothing ID"),
    ),
    "food101": Source(
        DATA / "upmc_food101_text" / "manifest.csv.gz", "label", {"inputs": ["text"], "split": "part"}, divide=_titles
    ),
    "synthetic": Source(
        None,
        "label",
        {"vectors": SYNTHETIC.vectors, "inputs": [*SYNTHETIC.modalities], "split": "part"},
        divide=divided(2000, (0.3, 0.1, 0.6)),
    ),
}


if __name__ == "__main__":
    main()
