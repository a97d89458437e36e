"""What can go wrong without a word, kind by kind: a case of one, and what became of it.

A case is `right` (the value that a careful person would get came out), `loud` (one error or note says where and what),
`silent` (a wrong value and not a word) or `failed` (an exception that nobody foresaw, or an error
that does not say where).
"""

from __future__ import annotations

import re
import resource
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

from _workshop import CannotTryError, Workshop

import fusetune
from fusetune.errors import FusetuneError, UserError

KINDS = (
    "data of the user destroyed",
    "rows lost",
    "identity rests on too little",
    "problems that not every way of asking tells",
    "same meaning, other carrier",
    "cells changed before their kind is known",
    "one value, several spellings",
    "dates",
    "values that the model cannot know",
    "objects turned into text",
    "wrong kind of column, copies on both sides",
    "pixels",
    "one cell ends everything",
    "a model of a stranger",
    "checkpoints and results trusted",
    "the program around",
    "the penalty path",
    "terminal",
)
OUTCOMES = ("right", "loud", "silent", "failed")
_ADDRESSES = 16 * 2**30  # bytes that nobody asks for by mistake, and that the threads of a large machine do not reach


class Loud(Exception):  # noqa: N818 - it is no error
    """A case was not right, and something that a user sees says so; the message is what is said."""


@dataclass(frozen=True)
class Case:
    """One input that can go wrong silently.

    Attributes:
        kind: Number of its kind, from 1.
        name: What it is.
        look: Tries it; returns what is wrong and was not said, or an empty string.
        says: What an error must say to be as good as the right value (a regular expression: where, and what to do);
            None: the input must be taken.
        slow: Does it take more than about five seconds?
    """

    kind: int
    name: str
    look: Callable[[Workshop], str]
    says: str | None = None
    slow: bool = False


@dataclass
class Said:
    """What was said during a piece of work, on any way that reaches a user."""

    warnings: list[str] = field(default_factory=list)
    terminal: StringIO = field(default_factory=StringIO)

    @property
    def text(self) -> str:
        """All of it."""
        return "\n".join([*self.warnings, self.terminal.getvalue()])


@contextmanager
def listening() -> Iterator[Said]:
    """Hear what a piece of work says by warnings or on the terminal."""
    said = Said()
    with warnings.catch_warnings(record=True) as caught, redirect_stderr(said.terminal):
        warnings.simplefilter("always")
        try:
            yield said
        finally:
            said.warnings += [str(warning.message) for warning in caught]


def told_by(run: fusetune.Run) -> str:
    """Return all that a run says of its input: its warnings, findings, and the reasons in its schema."""
    pages = [run.folder / name for name in ("findings.json", "schema.json")]
    found = [page.read_text(encoding="utf-8") for page in pages if page.exists()]
    return "\n".join([*map(str, run.metrics["warnings"]), *found])


def became(case: Case, shop: Workshop) -> tuple[str, str]:
    """Try a case; return its outcome, and what was seen.

    Raises:
        CannotTryError: If it cannot be tried on this machine.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            seen = case.look(shop)
    except CannotTryError:
        raise
    except Loud as said:
        return "loud", str(said)
    except FusetuneError as error:
        return _refused(case, error)
    except Exception as error:  # whatever it is, it is what this looks for
        return "failed", f"{type(error).__name__}: {error}"
    return ("silent", seen) if seen else ("right", "")


def _refused(case: Case, error: FusetuneError) -> tuple[str, str]:
    if case.says is None:
        return "failed", f"refused: {error}"
    if error.exit_code != UserError.exit_code or not re.search(case.says, str(error), re.DOTALL):
        return (
            "failed",
            f"an error that does not say where ({type(error).__name__}, exit code {error.exit_code}): {error}",
        )
    return "loud", str(error)


def _peak() -> int:
    """Return the most memory in MiB since `_from_here`."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) // 1024


@contextmanager
def bounded(mebibytes: int) -> Iterator[None]:
    """Refuse more memory than a small input may take, so that the machine does not suffer; say how much it took."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError as error:
        raise CannotTryError("the most memory that a process took can be asked for on Linux only") from error
    before, limits = _peak(), resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    # Addresses are not memory: each thread reserves 128 MiB of them for its heap, and a machine may have many threads.
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + _ADDRESSES, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
        grown = _peak() - before
        assert grown < mebibytes, f"it took {grown} MiB"


def need(right: Any, seen: object) -> str:
    """Return what was seen unless it is right."""
    return "" if right else str(seen)
