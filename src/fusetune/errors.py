"""The named errors. Each message says what is wrong, where (row, column, path) and what to do about it.

`UserError` and its children mean that the input or the configuration is at fault (exit code 2 on the command line);
everything else that fusetune raises is a `RunError` (exit code 1).
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import PurePath
from reprlib import Repr


class FusetuneError(Exception):
    """Base of every error that fusetune raises on purpose."""

    exit_code = 1


class UserError(FusetuneError):
    """The user's input or configuration cannot be used as it is."""

    exit_code = 2


class ConfigError(UserError):
    """One or more configuration values are wrong; the message lists all of them."""


class TableError(UserError):
    """The table cannot be read, or a column or value in it cannot be used."""


class SchemaError(UserError):
    """A table does not match the schema that the model was trained with."""


class ImageError(UserError):
    """An image cannot be read; the message names the row and the path."""


class SplitError(UserError):
    """The rows cannot be split as asked, or a stage was given rows outside its part."""


class WeightsError(UserError):
    """Pretrained weights are not where they were said to be, or may not be downloaded."""


class BundleError(UserError):
    """A model folder is missing a file, was changed after it was written, or is of a newer format."""


class WriteError(UserError, OSError):
    """Something cannot be written: the disk is full, or nothing may be written there; `place` says what."""

    place: PurePath | None = None


class InputWarning(UserWarning):
    """Something of a table was not used, or is not what it seems; the message counts it and says what to do."""


class ShortageError(UserError, MemoryError):
    """There is too little memory for what was asked; nothing is wrong with the input."""


class RunError(FusetuneError):
    """Something failed while running."""


class LockedTestError(RunError):
    """The test part was asked for before the end, or a second time."""


class RankError(RunError):
    """Another process of the run has ended, or cannot be reached; its own message says why."""


class NonFiniteLossError(RunError):
    """The loss became NaN or infinite; the message names the rows of the batch."""


# What to do where LightGBM's wheel, which brings no OpenMP, finds none.
OPENMP = "apt-get install libgomp1 (Debian, Ubuntu), dnf install libgomp (Fedora) or brew install libomp (macOS)"
_SHORT = Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 100
_SHORT.maxlevel = 2


def clipped(words: str, longest: int = 120) -> str:
    """Return words for a message: long ones cut, half characters (which no file takes) spelt out."""
    cut = words if len(words) <= longest else f"{words[:longest]}... ({len(words):,} letters)"
    return cut.encode("utf-8", "backslashreplace").decode()


def shown(value: object) -> str:
    """Return a value as Python writes it, cut short: lists within lists may be longer than all memory."""
    try:
        return _SHORT.repr(value)
    except ValueError:  # a number of more digits than Python writes out
        return f"a {type(value).__name__} too long to show"


def did_you_mean(word: str, words: Iterable[str]) -> str:
    """Return ``", did you mean 'x'?"`` for the only word that begins so, else the closest, or an empty string."""
    known = list(words)
    begun = [one for one in known if len(word) > 1 and one.startswith(word)]
    near = len(word) <= 2 * max(map(len, known), default=0)  # else nothing is close, and looking would take long
    match = begun if len(begun) == 1 else get_close_matches(word, known, n=1, cutoff=0.6) if near else []
    return f", did you mean '{match[0]}'?" if match else ""


def as_list(word: str, words: Iterable[str]) -> str:
    """Return how to write a list of names that were written as one word with commas, or an empty string."""
    known, parts = set(words), [part.strip() for part in word.split(",")]
    return f", in Python write a list: {parts}" if len(parts) > 1 and known.issuperset(parts) else ""


def no_column(table: str, name: str, columns: Iterable[str]) -> str:
    """Return what is said of a column that a table has not: which it has, and which one was probably meant."""
    known = list(columns)
    near = as_list(name, known) or did_you_mean(name, known)
    return f"{table} has no column '{name}'; its columns are {listed(known, 12)}{near}"


def listed(items: Iterable[object], most: int = 5, beyond: int = 0) -> str:
    """Return the first few items separated by commas, and how many more there are: `beyond` are not among the items."""
    values = [str(item) for item in items]
    more = max(0, len(values) - most) + beyond
    return ", ".join(values[:most]) + (f" and {more:,} more" if more else "")
