"""Options that hold several values, and results as rows and sentences for the terminal."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rich.table import Table as Grid
from rich.text import Text

from fusetune.data.choices import JOIN
from fusetune.errors import UserError
from fusetune.progress import visible
from fusetune.telling import telling_of

if TYPE_CHECKING:
    import pandas as pd

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def commas(text: str | None) -> list[str] | None:
    """Return the parts of a comma-separated option, or None where it was not given; quotes protect commas."""
    if text is None:
        return None
    (parts,) = csv.reader([text], skipinitialspace=True) if text.strip() else ([],)
    return [part.strip() for part in parts if part.strip()]


def pairs(items: list[str] | None, option: str, example: str) -> dict[str, str]:
    """Return NAME=VALUE options as a mapping; raises `UserError` for anything else."""
    pairs = {}
    for item in items or ():
        name, sign, value = item.rpartition("=") if option == "--kind" else item.partition("=")
        if not sign or not name or not value:
            raise UserError(f"{option} {item}: write it as {example}")
        pairs[name] = value
    return pairs


def shares(items: list[str] | None) -> dict[str, list[str]] | None:
    """Return [NAME=]COLUMN,... options as columns by the name of what they share, or None where none was given.

    Raises:
        UserError: If two have one name.
    """
    if not items:
        return None
    found: dict[str, list[str]] = {}
    for item in items:
        name, sign, rest = item.partition("=")
        named = bool(sign) and "," not in name and bool(rest)
        columns = commas(rest if named else item) or []
        name = name.strip() if named else JOIN.join(columns)
        if name in found:
            raise UserError(f"--share {item}: two inputs would be called '{name}'; write it as NAME=COLUMN,COLUMN")
        found[name] = columns
    return found


def without_formulas(frame: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """Put an apostrophe before words that a spreadsheet would run as formulas; return also how many there were.

    Those begin with = + - @, a tab or a return (CSV injection). Plain numbers stay as they are.
    """
    import pandas as pd

    changed = 0

    def tamed(cell: object) -> object:
        nonlocal changed
        if (
            not isinstance(cell, str)
            or not cell.startswith(("=", "+", "-", "@", "\t", "\r"))
            or _NUMBER.fullmatch(cell)
        ):
            return cell
        changed += 1
        return f"'{cell}"

    words = [str(name) for name in frame.columns if not pd.api.types.is_numeric_dtype(frame[name])]
    frame = frame.copy(deep=False)
    for name in words:
        frame[name] = frame[name].map(tamed)
    return frame, changed


def gain_grid(metrics: dict[str, Any]) -> Grid:
    """Return the gain table of a run's metrics."""
    rows, groups, telling = metrics["rows"], metrics["groups"], telling_of(metrics)
    title = f"test part: {rows['test']:,} rows" + group_words(groups["test"] if groups else None)
    score, loss = telling.score, telling.loss
    grid = Grid("", score.word, "95 % interval", loss.word, title=title)
    for row in metrics["gain"]:
        grid.add_row(
            Text(visible(row["name"])),
            printed(row[score.key]["value"], score.value),
            interval(row[score.key], score.value),
            printed(row[loss.key]["value"], loss.value),
        )
    return grid


def verdicts(metrics: dict[str, Any]) -> list[str]:
    """Return one sentence per paired comparison."""
    lines, judged, telling = [], metrics["gain"][-1]["name"], telling_of(metrics)
    for c in metrics["comparisons"]:
        word = "no difference shown" if c["verdict"] == "not shown" else c["verdict"]
        lines.append(f"{judged} against {c['against']}: {word} ({telling.compared(c)})")
    return lines


def rule_lines(metrics: dict[str, Any]) -> list[str]:
    """Return how the model decides and what of that is right, where it follows a threshold."""
    acted = metrics.get("acted")  # runs of earlier versions do not have it
    if not acted:
        return []
    telling = telling_of(metrics)
    right = acted[telling.score.key]
    told = f"{right['value']:.1%} right ({interval(right, '{:.1%}'.format)})"
    return [f"decides by {metrics['rule']}: {told}; the table and what follows compare {telling.plainly}"]


def guide_lines(metrics: dict[str, Any]) -> list[str]:
    """Return the sentence on what kind of fusion a run's data ask for, where the run asked."""
    told = metrics.get("guide")  # runs of earlier versions do not have it
    return [] if told is None else [f"guide   {told['sentence']}"]


def group_words(count: int | None) -> str:
    """Return ` in N groups`, or nothing."""
    return "" if count is None else f" in {count:,} groups"


def number(value: float | None) -> str:
    """Return a score, or a dash where there is none."""
    return printed(value, "{:.3f}".format)


def printed(value: float | None, form: Callable[[float], str]) -> str:
    """Return a score in some form, or a dash where there is none."""
    return "-" if value is None else form(value)


def interval(score: dict[str, Any], form: Callable[[float], str] = "{:.3f}".format) -> str:
    """Return `low to high`, or a dash where there is no interval."""
    return "-" if score["low"] is None or score["high"] is None else f"{form(score['low'])} to {form(score['high'])}"
