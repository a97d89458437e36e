"""Two or more ways to do one thing, run in turns in one process, and the ratio of their medians."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Sides = dict[str, Callable[[], Any]]


@dataclass
class Row:
    """One comparison: medians in milliseconds per image, and their ratio (theirs / ours unless the goal is a most)."""

    name: str
    ours: float
    theirs: float
    ratio: float
    goal: str
    predicted: str


def race(sides: Sides, repeats: int, clock: Callable[[], float] = time.process_time) -> dict[str, float]:
    """Run all sides in turns and return each one's median seconds; a first run of each does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for repeat in range(repeats + 1):
        for name, run in sides.items():
            started = clock()
            run()
            if repeat:
                seconds[name].append(clock() - started)
    return {name: statistics.median(values) for name, values in seconds.items()}


def make_row(name: str, seconds: dict[str, float], files: list[bytes], goal: str, predicted: str) -> Row:
    """Compare the sides `ours` and `theirs` of a race over so many files."""
    ours, theirs = (1000 * seconds[side] / len(files) for side in ("ours", "theirs"))
    return Row(name, ours, theirs, ours / theirs if goal.startswith("<=") else theirs / ours, goal, predicted)


def show(row: Row) -> None:
    """Print a row."""
    print(
        f"{row.name:44}  ours {row.ours:8.3f} ms  theirs {row.theirs:8.3f} ms  ratio {row.ratio:6.2f}  "
        f"goal {row.goal or '-':7} predicted {row.predicted}",
        flush=True,
    )
