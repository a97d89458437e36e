"""What could go wrong without a word: kind | tried | right | loud | silent | failed, on small inputs of every kind.

With --write the table in docs/reliability.md is renewed. Exit code 1 if anything is silent or fails.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from _kinds import KINDS, OUTCOMES, Case, became
from _kinds_around import AROUND_KINDS
from _kinds_hostile import HOSTILE_KINDS
from _kinds_pixels import PIXELS
from _kinds_runs import RUN_KINDS
from _kinds_values import VALUE_KINDS
from _kinds_words import WORD_KINDS
from _page import renew
from _workshop import CannotTryError, Workshop, open_workshop

from fusetune.progress import track

_ALL = [*WORD_KINDS, *VALUE_KINDS, *RUN_KINDS, *AROUND_KINDS, *PIXELS, *HOSTILE_KINDS]
CASES: Sequence[Case] = sorted(_ALL, key=lambda case: case.kind)


def main() -> None:
    args = _arguments()
    kinds = {int(kind) for kind in args.kinds.split(",") if kind}
    cases = [case for case in CASES if not kinds or case.kind in kinds]
    if args.quick:
        cases = [case for number, case in enumerate(cases) if number % 9 == 0 and not case.slow]
    with TemporaryDirectory() as folder:
        found = look_at(cases, open_workshop(Path(folder)))
    table = table_of(found)
    print(table)
    for case, outcome, seen in found:
        if outcome in ("silent", "failed") or args.verbose:
            print(f"\n{case.kind}. {case.name}: {outcome}: {seen[:400]}")
    if args.write:
        renew("kinds", table)
    sys.exit(any(outcome in ("silent", "failed") for _, outcome, _ in found))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="every ninth case")
    parser.add_argument("--kinds", default="", help="numbers of kinds, such as 2,5")
    parser.add_argument("--verbose", action="store_true", help="say what was seen in every case")
    parser.add_argument("--write", action="store_true", help="renew the table in docs/reliability.md")
    return parser.parse_args()


def look_at(cases: Sequence[Case], shop: Workshop) -> list[tuple[Case, str, str]]:
    """Try cases, each in a folder of its own; return their outcomes and what was seen."""
    found = []
    for number, case in enumerate(track(cases, "looking at cases")):
        place = shop.folder / f"case-{number}"
        place.mkdir()
        started = time.perf_counter()
        try:
            outcome, seen = became(case, replace(shop, folder=place))
        except CannotTryError as error:
            print(f"{case.kind}. {case.name} is left out: {error}")
            continue
        found.append((case, outcome, f"({time.perf_counter() - started:.1f} s) {seen}"))
    return found


def table_of(found: Sequence[tuple[Case, str, str]]) -> str:
    """Return the table in Markdown."""
    counts = {number: Counter[str]() for number in range(1, len(KINDS) + 1)}
    for case, outcome, _ in found:
        counts[case.kind][outcome] += 1
    lines = [f"| kind | tried | {' | '.join(OUTCOMES)} |", "|---|---:" + "|---:" * len(OUTCOMES) + "|"]
    for number, name in enumerate(KINDS, start=1):
        if counts[number]:
            lines.append(_line(name, counts[number]))
    lines.append(_line("all", sum(counts.values(), Counter())))
    return "\n".join(lines)


def _line(name: str, count: Counter[str]) -> str:
    return f"| {name} | {count.total()} | {' | '.join(str(count[outcome]) for outcome in OUTCOMES)} |"


if __name__ == "__main__":
    main()
