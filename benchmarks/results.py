"""The results tables: fit each real data set with its settings and print what its test part says."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import mean
from typing import Any

from _cases import CASES, DATA, QUICK

import fusetune


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0] if __doc__ else "")
    parser.add_argument("sets", nargs="*", default=list(CASES), help=f"which of {', '.join(CASES)}; default: all")
    parser.add_argument("--seeds", default="0", help="seeds, separated by commas")
    parser.add_argument("--out", default="runs/results", help="folder for the runs")
    parser.add_argument("--json", help="write the result to this file")
    parser.add_argument("--quick", action="store_true", help="frozen encoders and one view: does it run?")
    args = parser.parse_args()
    results = {}
    for name in args.sets:
        table = DATA / CASES[name].folder / "manifest.csv"
        if not table.exists():
            print(f"{name}: left out, there is no {table}")
            continue
        seeds = [int(seed) for seed in args.seeds.split(",")]
        results[name] = [_fit(name, table, seed, Path(args.out), args.quick) for seed in seeds]
        _show(name, seeds, results[name])
    if args.json:
        Path(args.json).write_text(json.dumps(results, indent=1), encoding="utf-8")


def _fit(name: str, table: Path, seed: int, out: Path, quick: bool) -> dict[str, Any]:
    case = CASES[name]
    sets = [*case.sets, *(QUICK if quick else ())]
    folder = out / f"{name}-{'quick-' if quick else ''}{seed}"
    run = fusetune.fit(table, case.label, seed=seed, sets=sets, out=folder, resume=folder.exists(), **case.options)
    return run.metrics


def _show(name: str, seeds: list[int], runs: list[dict[str, Any]]) -> None:
    case, rows, groups = CASES[name], runs[0]["rows"], runs[0]["groups"]
    print(f"\n### {name}: {rows['test']} test rows" + (f" in {groups['test']} groups" if groups else ""))
    print(f"\nseeds {', '.join(map(str, seeds))}; reference {case.reference}, goal {case.goal}\n")
    print("| model | accuracy | 95 % interval | NLL | 95 % interval | valid NLL |")
    print("|---|---|---|---|---|---|")
    for index, row in enumerate(runs[0]["gain"]):
        same = [run["gain"][index] for run in runs]
        accuracy, nll = ([r[key]["value"] for r in same] for key in ("accuracy", "nll"))
        valid = mean(r["valid_nll"] for r in same)
        low, high = row["accuracy"]["low"], row["accuracy"]["high"]
        bounds = f"{low:.3f} to {high:.3f}" if len(runs) == 1 else f"seeds {min(accuracy):.3f} to {max(accuracy):.3f}"
        sharp = (
            f"{row['nll']['low']:.3f} to {row['nll']['high']:.3f}"
            if len(runs) == 1
            else (f"seeds {min(nll):.3f} to {max(nll):.3f}")
        )
        print(f"| {row['name']} | {mean(accuracy):.3f} | {bounds} | {mean(nll):.3f} | {sharp} | {valid:.3f} |")
    for run, seed in zip(runs, seeds, strict=True):
        for c in run["comparisons"]:
            print(
                f"\nseed {seed}, two-stage against {c['against']}: {c['gained']} rows gained, {c['lost']} lost, "
                f"exact McNemar p = {c['p']:.3g}, Holm {c['p_holm']:.3g}; NLL {c['nll']['value']:+.3f} "
                f"[{c['nll']['low']:+.3f}, {c['nll']['high']:+.3f}]"
            )
    total = mean(run["seconds"]["total"] for run in runs)
    print(
        f"\n{total:.0f} s a run; " + ", ".join(f"{k} {v:.0f} s" for k, v in runs[0]["seconds"].items() if k != "total")
    )


if __name__ == "__main__":
    main()
