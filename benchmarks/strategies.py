"""Every strategy that applies on every real data set, on stored features, under one protocol (`fusetune.compare`).

Prints a table per data set, and with `--write` keeps what the cards of the strategies say of it
(`src/fusetune/strategies/measured.json`). `--level encoders --seeds 1` trains the ten most used ones end to end
instead, on pictures of 96 pixels and 64 tokens of text, for as many epochs as `--epochs` says: two cores allow no more.

Expected before it was run: nothing beats both the calibrated ensemble and plain fusion at a corrected p below .05 on
more than one of the four sets; methods that balance modalities differ from joint training by less than seeds do; and
what scores rows by their own confidence (qmf) has the best NLL of the late fusions. End to end: two-stage and the
ensemble, which tune each encoder alone, lead on all three sets of pictures, since a thousand rows tune no encoder
jointly in a few epochs; no method of balancing is shown to be better than joint training.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from _cases import CASES, DATA, QUICK

import fusetune
from fusetune.contest import Contest
from fusetune.strategies import cards

_MARKERS = {"features": ("<!-- table -->", "<!-- end -->"), "encoders": ("<!-- encoders -->", "<!-- end encoders -->")}
# The plain ways, and of each family what papers compare with most.
TEN = "ume,two-stage,frozen-fusion,joint,umt,ogm-ge,agm,qmf,mla,m3col"
_SMALL = ("image.size=96", "image.encode_size=96", "text.max_tokens=64")
# A mark for each plain rival that a strategy was shown to be better or worse than.
_MARKS = {"better": " +{}", "worse": " -{}", "same": ""}
_RIVALS = {"ume": "U", "frozen-fusion": "F"}
WRITTEN = Path(cards.__file__).with_name("measured.json")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0] if __doc__ else "")
    parser.add_argument("sets", nargs="*", default=list(CASES), help=f"which of {', '.join(CASES)}; default: all")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each strategy")
    parser.add_argument("--strategies", help="names, separated by commas; default: all, or ten with --level encoders")
    parser.add_argument("--level", choices=list(_MARKERS), default="features", help="what is trained")
    parser.add_argument("--epochs", type=int, help="epochs of joint training, of which every budget is made")
    parser.add_argument("--jobs", type=int, help="processes; default: as many as there are cores")
    parser.add_argument("--out", default="runs/strategies", help="folder for the comparisons; what is there goes on")
    parser.add_argument("--write", action="store_true", help="keep the verdicts for the cards of the strategies")
    parser.add_argument("--page", help="write the table of all sets whose comparisons are there into this page")
    parser.add_argument("--quick", action="store_true", help="three strategies and one seed: does it run?")
    args = parser.parse_args()
    names = args.strategies or {"features": "all", "encoders": TEN}[args.level]
    names = "ume,linear-probe,joint" if args.quick else names
    for name in args.sets:
        table = DATA / CASES[name].folder / "manifest.csv"
        if not table.exists():
            print(f"{name}: left out, there is no {table}")
            continue
        out = Path(args.out) / (f"{name}-quick" if args.quick else name)
        case = CASES[name]
        sets = case.reading + ([*QUICK[-2:]] if args.quick else [])
        sets += _SMALL if args.level == "encoders" else ()
        contest = fusetune.compare(
            table, case.label, **case.options, sets=sets, strategies=names if names == "all" else names.split(","),
            seeds=1 if args.quick else args.seeds, level=args.level, jobs=args.jobs, epochs=args.epochs, out=out,
            resume=out.exists(),
        )  # fmt: skip
        show(name, contest)
        if args.write:
            keep(name, contest)

    if args.write and not args.quick:
        print(f"kept in {WRITTEN}")
    if args.page:
        fill(Path(args.page), Path(args.out), args.level)


def show(name: str, contest: Contest) -> None:
    """Print the strategies of one data set by NLL, and how each compares with the ensemble and plain fusion."""
    test = contest.summary["test"]
    print(f"\n### {name}: {test['rows']} test rows" + (f" in {test['groups']} groups" if test["groups"] else ""))
    print("\n| strategy | accuracy | 95 % interval | NLL | 95 % interval | rank | against | seconds |")
    print("|---|---|---|---|---|---|---|---|")
    for one in sorted(contest.summary["strategies"], key=lambda s: s["nll"]["value"] or 99):
        if one["nll"]["value"] is None:
            reason = next(iter(one["errors"].values()), "")
            print(f"| {one['name']} | does not apply: {reason.split(':', 1)[-1].strip()[:90]} | | | | | | |")
            continue
        accuracy, nll, rank = one["accuracy"], one["nll"], one["rank"]
        pairs = [pair for pair in contest.summary["paired"] if pair["name"] == one["name"]]
        against = "; ".join(f"{pair['against']}: {by_nll(pair)}" for pair in pairs)
        print(
            f"| {one['name']} | {accuracy['value']:.3f} | {accuracy['low']:.3f} to {accuracy['high']:.3f} "
            f"| {nll['value']:.3f} | {nll['low']:.3f} to {nll['high']:.3f} | {rank['value']:.0f} | {against} "
            f"| {one['seconds']:.0f} |"
        )
    for check in contest.summary["checklist"]:
        print(f"- {check['question']} {check['evidence']}")


def fill(page: Path, out: Path, level: str) -> None:
    """Put one table of all finished comparisons between the marks of a page: NLL, rank, and what was shown."""
    found = {name: out / name / "summary.json" for name in CASES}
    sets = {name: json.loads(path.read_text("utf-8")) for name, path in found.items() if path.exists()}
    ranks, cells = dict[str, list[float]](), dict[str, dict[str, str]]()
    for name, summary in sets.items():
        for one in summary["strategies"]:
            if one["nll"]["value"] is None:
                continue
            pairs = [pair for pair in summary["paired"] if pair["name"] == one["name"]]
            marks = "".join(_MARKS[by_nll(pair)].format(_RIVALS[pair["against"]]) for pair in pairs)
            accuracy, nll = one["accuracy"]["value"], one["nll"]["value"]
            cells.setdefault(one["name"], {})[name] = f"{accuracy:.1%} / {nll:.3f}{marks}".replace("%", "")
            ranks.setdefault(one["name"], []).append(one["rank"]["value"])
    heads = [f"{name} ({summary['test']['rows']} rows, {_groups(summary)})" for name, summary in sets.items()]
    lines = [f"| strategy | mean rank | {' | '.join(heads)} |", "|---" * (len(sets) + 2) + "|"]
    for strategy in sorted(cells, key=lambda one: sum(ranks[one]) / len(ranks[one])):
        mean = sum(ranks[strategy]) / len(ranks[strategy])
        own = " | ".join(cells[strategy].get(name, "") for name in sets)
        lines.append(f"| `{strategy}` | {mean:.0f} | {own} |")
    begin, end = _MARKERS[level]
    before, _, rest = page.read_text("utf-8").partition(begin)
    page.write_text(f"{before}{begin}\n\n" + "\n".join(lines) + f"\n\n{end}{rest.partition(end)[2]}", "utf-8")


def _groups(summary: dict[str, Any]) -> str:
    groups = summary["test"]["groups"]
    seeds = max(one["seeds"] for one in summary["strategies"])
    return (f"{groups} groups, " if groups else "") + f"{seeds} seeds"


def by_nll(pair: dict[str, Any]) -> str:
    """Return better, worse or same, by the NLL of the same rows, where the corrected test and the interval say so."""
    low, high = pair["nll"]["low"], pair["nll"]["high"]
    if pair["p_nll_holm"] >= 0.05 or low is None or low <= 0 <= high:
        return "same"
    return "better" if high < 0 else "worse"


def keep(name: str, contest: Contest) -> None:
    """Write what the cards say of one data set."""
    found = cards.measured()
    rival = next(one for one in ("ume",) if any(one == pair["against"] for pair in contest.summary["paired"]))
    pairs = {pair["name"]: pair for pair in contest.summary["paired"] if pair["against"] == rival}
    found[name] = {
        "seeds": min(pair["seeds"] for pair in pairs.values()),
        "strategies": {
            strategy: {"against": "the calibrated ensemble", "verdict": by_nll(pair), "nll": pair["nll"]}
            for strategy, pair in pairs.items()
        },
    }
    WRITTEN.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
