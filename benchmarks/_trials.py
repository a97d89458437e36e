"""Trials of made-up input in a process of its own: what came of each, and whether it hung, died or took the memory.

A family makes trials from random numbers. A trial ends `right` (what was put in came out), `loud` (an error of
fusetune) or in a fault, which has a name. The number of a trial and the seed decide all of it, so it can be repeated.
"""

from __future__ import annotations

import multiprocessing
import resource
import subprocess
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NoReturn
from zlib import crc32

import numpy as np

from fusetune.errors import FusetuneError

Generator = np.random.Generator
# Seconds that a trial may take, and bytes by which it may let the process grow; its inputs are of a few kB.
_PATIENCE, _GROWTH = 20, 400 * 2**20
RIGHT, LOUD = "right", "loud"


class WrongError(BaseException):
    """What came out is not what was put in; `kind` says what sort of fault it is.

    No `except Exception` catches it.
    """

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


@dataclass(frozen=True)
class Trial:
    """One input.

    Attributes:
        use: Hands it to fusetune; raises `WrongError` where the result is not what was meant.
        sound: Is nothing wrong with it, so that a refusal is a fault too?
        note: What was done to it, for people.
    """

    use: Callable[[], None]
    sound: bool
    note: str


@dataclass(frozen=True)
class Family:
    """A sort of input.

    Attributes:
        name: What tables and `--only` call it.
        open: Takes an empty folder to work in, and returns what makes a trial of random numbers.
    """

    name: str
    open: Callable[[Path], Callable[[Generator], Trial]]


@dataclass(frozen=True)
class Outcome:
    """What became of a trial: its number, `right`, `loud` or the name of the fault, and what was seen."""

    number: int
    kind: str
    text: str


def outcome_of(trial: Trial) -> tuple[str, str]:
    """Run a trial here; return what became of it, and what was seen."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # parsers complain about what they can still read
            trial.use()
    except WrongError as error:
        return error.kind, f"{error} [{trial.note}]"
    except FusetuneError as error:
        return _of_refusal(str(error), trial)
    except Exception as error:  # whatever it is, it is what this looks for
        place = traceback.extract_tb(error.__traceback__)[-1]
        return "crash", f"{type(error).__name__}: {error} ({Path(place.filename).name}:{place.lineno}) [{trial.note}]"
    return RIGHT, trial.note


def _of_refusal(message: str, trial: Trial) -> tuple[str, str]:
    if "MemoryError" in message or "memory" in message.lower() or "bad allocation" in message:
        return "memory", f"{message} [{trial.note}]"
    return ("refused" if trial.sound else LOUD), f"{message} [{trial.note}]"


def random_of(family: Family, seed: int, number: int) -> Generator:
    """Return what decides one trial."""
    return np.random.default_rng([seed, crc32(family.name.encode()), number])


def try_many(family: Family, numbers: range, seed: int, folder: Path) -> Iterator[Outcome]:
    """Yield what becomes of trials, in order, each in a process that may die of it."""
    first = numbers.start
    while first < numbers.stop:
        for outcome in _until_a_fault_of_the_process(family, range(first, numbers.stop), seed, folder):
            yield outcome
            first = outcome.number + 1


def _until_a_fault_of_the_process(family: Family, numbers: range, seed: int, folder: Path) -> Iterator[Outcome]:
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(family, numbers, seed, folder, theirs), daemon=True)
    process.start()
    theirs.close()
    try:
        yield from _told(ours, process, numbers)
    finally:
        process.kill()
        process.join()
        ours.close()


def _told(ours: Connection, process: Any, numbers: range) -> Iterator[Outcome]:
    if not ours.poll(300) or ours.recv() != "open":
        raise RuntimeError("the process could not prepare its trials")
    for number in numbers:
        if not ours.poll(_PATIENCE):
            yield Outcome(number, "hang", f"no end after {_PATIENCE} s")
            return
        try:
            kind, text, grown = ours.recv()
        except EOFError:
            process.join()
            yield Outcome(number, "died", f"the process ended with code {process.exitcode}")
            return
        if grown > _GROWTH:
            yield Outcome(number, "memory", f"the process grew by {grown / 2**20:,.0f} MiB; {kind}: {text}")
            return
        yield Outcome(number, kind, text)


def _work(family: Family, numbers: range, seed: int, folder: Path, theirs: Connection) -> None:
    make = family.open(folder)
    outcome_of(make(random_of(family, seed, numbers.start)))  # what is only imported or set up once is not growth
    _bound_memory()
    before = _peak()
    theirs.send("open")
    for number in numbers:
        kind, text = outcome_of(make(random_of(family, seed, number)))
        theirs.send((kind, text[:600], _peak() - before))


def _bound_memory() -> None:
    """Let no trial take the machine's memory: beyond this, asking for more is an error."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    most = pages * resource.getpagesize() + 4 * _GROWTH
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    subprocess.Popen = _no_program  # type: ignore[assignment,misc]


def _no_program(*args: Any, **_: Any) -> NoReturn:
    raise WrongError("program", f"another program was to be started: {args[:1]}")


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
