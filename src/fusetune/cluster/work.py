"""What a worker does: load what a job needs once, then turn one chunk after another into a file.

Nothing here knows of Ray: a worker is an object that is called with a few chunks at a time, and can be called anywhere.
"""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from fusetune.cluster.place import Chunk, Place
from fusetune.errors import FusetuneError, WriteError
from fusetune.files import written_aside

# How often the work on a chunk is begun before it is given up: twice as it is, and once row by row, to see which row
# ends the process.
MOST = 3
# What became of a chunk.
DONE, STOOD, FAILED, UNWRITTEN = "done", "stood", "failed", "unwritten"
Doing = Callable[[Any, Path], None]


class Task(Protocol):
    """What is to be done with every chunk; it travels to each worker once."""

    @property
    def suffix(self) -> str:
        """What the name of a result ends in."""

    def begin(self) -> Doing:
        """Load what it takes, and return what writes the result of a piece."""

    def singly(self, piece: Any) -> Iterator[tuple[int, Any]]:
        """Yield each row of a piece with its number, as a piece of its own."""


class Worker:
    """Works on chunks, in a process that Ray started.

    Args:
        task: What is done.
        place: Where chunks are.
    """

    def __init__(self, task: Task, place: Place) -> None:
        self.task, self.place = task, place
        self.doing: Doing | None = None
        self.error = ""
        try:
            self.doing = task.begin()
        except Exception as error:  # told with each chunk: raised here, it would only start the worker anew, for ever
            self.error = str(error) if isinstance(error, FusetuneError) else f"{type(error).__name__}: {error}"

    def __call__(self, batch: Mapping[str, Sequence[Any]]) -> dict[str, npt.NDArray[Any]]:
        """Work on some chunks, given by columns start, stop, digest and name; return what became of each, likewise."""
        keys = zip(batch["start"], batch["stop"], batch["digest"], batch["name"], strict=True)
        found = [self.work(Chunk(int(start), int(stop), str(digest), str(name))) for start, stop, digest, name in keys]
        return {key: np.array([one[key] for one in found]) for key in found[0]}

    def work(self, chunk: Chunk) -> dict[str, Any]:
        """Work on a chunk; return what became of it (state, text), when, and what it cost (CPU seconds, peak bytes)."""
        began, spent = time.time(), time.process_time()
        state, text = self._tried(chunk)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        facts = {"start": chunk.start, "stop": chunk.stop, "state": state, "text": text}
        cost = {"began": began, "ended": time.time(), "cpu": time.process_time() - spent, "peak": peak}
        return facts | cost | {"pid": os.getpid()}

    def _tried(self, chunk: Chunk) -> tuple[str, str]:
        path = self.place.done(chunk)
        if path.exists():
            return STOOD, ""
        if self.doing is None:
            return FAILED, self.error
        try:
            if (tries := self.place.tries(chunk)) >= MOST:
                return FAILED, self._given_up(chunk)
            self.place.begin(chunk)
            piece = self.place.piece(chunk)
            if tries == MOST - 1:
                self._look_for_row(chunk, piece, self.doing)
            with written_aside(path) as aside:
                self.doing(piece, aside)
                self.place.vouch(chunk, aside)
        except WriteError as error:
            state, text = UNWRITTEN, str(error)
        except FusetuneError as error:
            state, text = FAILED, str(error)
        except OSError as error:
            state, text = UNWRITTEN, f"{chunk.rows} in {self.place.folder}: {error}"
        except Exception as error:  # what nobody foresaw must not start the worker anew, which would meet it again
            state, text = FAILED, f"{chunk.rows}: {type(error).__name__}: {error}"
        else:
            state, text = DONE, ""
        self.place.end(chunk)
        return state, text

    def _look_for_row(self, chunk: Chunk, piece: Any, doing: Doing) -> None:
        """Do the rows of a chunk one by one and keep nothing, so that it is known at which of them the process ends."""
        with TemporaryDirectory() as folder:
            for row, one in self.task.singly(piece):
                self.place.at(chunk, row)
                doing(one, Path(folder) / f"row{self.place.suffix}")

    def _given_up(self, chunk: Chunk) -> str:
        row = self.place.last(chunk)
        which = chunk.rows if row is None else f"row {row:,}"
        return (
            f"{which}: {MOST} processes that worked on it ended without a word (a file that a library cannot bear, or "
            "too little memory); mend it or leave it out"
        )
