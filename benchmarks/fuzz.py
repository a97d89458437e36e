"""Many inputs of every sort, sound and damaged: family | inputs | right | loud | faults.

Right means that what was put in came out: as many rows as a reader of its own counts, every cell as it was written.
Loud means an error of fusetune. Everything else is a fault: another exception, a row or a cell that is lost or changed,
a hang, a process that dies, memory that grows out of bounds, a program that is started, a sound input that is refused.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from _fuzz_json import JSON_LINES
from _fuzz_models import MODELS
from _fuzz_parquet import PARQUET
from _fuzz_pictures import PICTURES
from _fuzz_text import TEXTS
from _page import renew
from _trials import LOUD, RIGHT, Family, Outcome, outcome_of, random_of, try_many

FAMILIES: Sequence[Family] = [*TEXTS, *JSON_LINES, *PARQUET, *PICTURES, *MODELS]
_QUICK, _USUAL = 100, 1000


def main() -> None:
    args = _arguments()
    chosen = [family for family in FAMILIES if not args.families or family.name in args.families.split(",")]
    with TemporaryDirectory() as place:
        if args.only:
            repeat(args.only, args.seed, Path(place))
            return
        count = args.count or (_QUICK if args.quick else _USUAL)
        found = {
            family.name: fuzz(family, range(args.first, args.first + count), args.seed, Path(place))
            for family in chosen
        }
    table = table_of(found)
    print(table)
    if args.write:
        renew("fuzz", table)
    print_faults(found, args.seed, args.examples)
    sys.exit(any(_faults(outcomes) for outcomes, _ in found.values()))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help=f"{_QUICK} inputs per family")
    parser.add_argument("--count", type=int, default=0, help=f"inputs per family (default: {_USUAL})")
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument("--families", default="", help=f"some of {', '.join(family.name for family in FAMILIES)}")
    parser.add_argument("--seed", type=int, default=0, help="decides all inputs")
    parser.add_argument("--only", metavar="FAMILY:NUMBER", help="repeat one input here, and show its traceback")
    parser.add_argument("--write", action="store_true", help="renew the table in docs/reliability.md")
    parser.add_argument("--examples", type=int, default=3, help="numbers of inputs to name for each fault")
    return parser.parse_args()


def fuzz(family: Family, numbers: range, seed: int, place: Path) -> tuple[list[Outcome], float]:
    """Try inputs of a family in a folder of its own; return what became of them, and seconds."""
    folder = place / family.name.replace(" ", "-")
    folder.mkdir(exist_ok=True)
    started = time.perf_counter()
    outcomes = list(try_many(family, numbers, seed, folder))
    return outcomes, time.perf_counter() - started


def repeat(which: str, seed: int, place: Path) -> None:
    """Try one input in this process and say all about it."""
    name, _, number = which.rpartition(":")
    family = next(family for family in FAMILIES if family.name == name)
    trial = family.open(place)(random_of(family, seed, int(number)))
    print(trial.note)
    try:
        trial.use()
    except BaseException:  # also what is no error elsewhere
        traceback.print_exc()
    print(*outcome_of(trial), sep=": ")


def _faults(outcomes: Sequence[Outcome]) -> list[Outcome]:
    return [outcome for outcome in outcomes if outcome.kind not in (RIGHT, LOUD)]


def table_of(found: dict[str, tuple[list[Outcome], float]]) -> str:
    """Return the table in Markdown."""
    lines = ["| family | inputs | right | loud | faults | inputs/s |", "|---|---:|---:|---:|---:|---:|"]
    for name, (outcomes, seconds) in found.items():
        lines.append(_line(name, outcomes, f"{len(outcomes) / seconds:,.0f}"))
    return "\n".join([*lines, _line("all", [outcome for outcomes, _ in found.values() for outcome in outcomes], "")])


def _line(name: str, outcomes: Sequence[Outcome], rate: str) -> str:
    kinds = Counter(outcome.kind for outcome in outcomes)
    return f"| {name} | {len(outcomes):,} | {kinds[RIGHT]:,} | {kinds[LOUD]:,} | {len(_faults(outcomes)):,} | {rate} |"


def print_faults(found: dict[str, tuple[list[Outcome], float]], seed: int, examples: int) -> None:
    """Print faults of one sort together, with what repeats them."""
    for name, (outcomes, _) in found.items():
        groups: dict[tuple[str, str], list[Outcome]] = defaultdict(list)
        for outcome in _faults(outcomes):
            groups[outcome.kind, _sort_of(outcome.text)].append(outcome)
        for (kind, _), same in sorted(groups.items(), key=lambda item: -len(item[1])):
            numbers = ", ".join(f"{name}:{outcome.number}" for outcome in same[:examples])
            print(f"\n{kind} x {len(same)} (--seed {seed} --only {numbers})\n    {same[0].text}")


def _sort_of(text: str) -> str:
    """Return what is left of a message without what is of one input only; of an exception, its kind and place."""
    if found := re.search(r"^(\w+): .*(\(\S+\.\w+:\d+\)) \[", text, flags=re.DOTALL):
        return " ".join(found.groups())
    return re.sub(r"'[^']*'|\"[^\"]*\"|\d+|\[.*\]$", "", text, flags=re.DOTALL)[:60]


if __name__ == "__main__":
    main()
