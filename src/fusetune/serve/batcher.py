"""Requests as sources, and several requests through the network at once.

Each request is a table of its own: how its cells are read never depends on what others ask at the time. Only what was
read of them is put together, so that an answer differs from the one alone by rounding at most.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor

from fusetune.data.problems import Problems, ids_with_notes
from fusetune.data.source import Bag, Inputs, Source
from fusetune.data.split import Rows
from fusetune.data.table import Table, read_table
from fusetune.errors import listed
from fusetune.networks import Outputs
from fusetune.progress import Bar
from fusetune.serve.counts import Counts
from fusetune.serve.current import Served
from fusetune.serve.refusal import RefusedError

MOST = 64  # rows that go through the network at once


class _Still(Bar):
    """A bar that nobody sees."""

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Do nothing."""


@dataclass(frozen=True, eq=False)
class Prepared:
    """The rows of one request, read.

    Attributes:
        served: The model that they were read for, which will answer.
        ids: Their ids.
        sources: Bound inputs by modality.
        problems: What is wrong with each row, empty where nothing is.
    """

    served: Served
    ids: pd.Series
    sources: dict[str, Source]
    problems: list[str]

    def __len__(self) -> int:
        return len(self.ids)


def prepared(served: Served, frame: pd.DataFrame, refuse: bool) -> Prepared:
    """Read the rows of a request.

    Args:
        served: The model.
        frame: Its columns, pictures as bytes.
        refuse: Is a picture or a cell that cannot be used an error?

    Raises:
        RefusedError: If there is such a one and it is, or a row has nothing at all.
        UserError: If a column is of another kind than the model's.
    """
    model = served.model
    table = model.taken(replace(read_table(frame), name="the request"))
    ids, _ = ids_with_notes(table, model.schema.named("id"))
    table, _ = model.read(table)
    sources = model.bind(table)
    if refuse:
        _refuse_problems(table, sources)
    problems = Problems.of(table, model.schema.modalities(), sources)
    return Prepared(served, ids.reset_index(drop=True), sources, problems.rows)


def _refuse_problems(table: Table, sources: dict[str, Source]) -> None:
    found = [f"row {row}: {text}" for row, text in table.problems.items()]
    for name, source in sources.items():
        found += [f"row {row}, {name}: {text}" for row, text in source.problems.items()]
    bare = np.flatnonzero(~np.any([source.present for source in sources.values()], axis=0))
    found += [f"row {row} has nothing that the model could read" for row in bare.tolist()]
    if found:
        raise RefusedError(422, f"{listed(found, 3)}; ?on_problem=warn answers from what else is there")


@dataclass
class Joined:
    """One input of several requests, one after the other."""

    parts: Sequence[Source]

    def __post_init__(self) -> None:
        self.present: npt.NDArray[np.bool_] = np.concatenate([part.present for part in self.parts])
        self.digests: npt.NDArray[np.uint64] = np.concatenate([part.digests for part in self.parts])
        self.starts = np.cumsum([0, *(len(part.present) for part in self.parts)])
        self.problems: dict[int, str] = {}
        self.unseen: dict[int, str] = {}
        self.lengths = None

    def read(self, rows: Rows) -> Inputs:
        """Return the raw inputs of some rows, which are in ascending order."""
        found = []
        for part, start, stop in zip(self.parts, self.starts, self.starts[1:], strict=False):
            here = rows[(rows >= start) & (rows < stop)]
            if len(here):
                found.append(part.read(here - start))
        return found[0] if len(found) == 1 else _one_after_the_other(found)

    def some(self, rows: Rows) -> Joined:
        """Return some rows, which are in ascending order, as an input of their own."""
        bounds = zip(self.parts, self.starts, self.starts[1:], strict=False)
        return Joined([part.some(rows[(rows >= start) & (rows < stop)] - start) for part, start, stop in bounds])


def _one_after_the_other(parts: Sequence[Any]) -> Any:
    """Put raw inputs of several requests one after the other."""
    first = parts[0]
    if isinstance(first, Bag):
        elements = np.cumsum([0, *(len(part.index) for part in parts)]).tolist()
        rows = np.cumsum([0, *(part.count for part in parts)]).tolist()
        # What `read` gives has a place for each element, in their order.
        return Bag(
            _one_after_the_other([part.elements for part in parts]),
            torch.cat([part.index + start for part, start in zip(parts, elements, strict=False)]),
            torch.cat([part.row + start for part, start in zip(parts, rows, strict=False)]),
            torch.cat([part.rank for part in parts]),
            rows[-1],
        )
    if isinstance(first, Tensor):
        return torch.cat(list(parts))
    return {name: _stacked([part[name] for part in parts]) for name in first}


def _stacked(parts: Sequence[Tensor]) -> Tensor:
    """Put rows one after the other; shorter ones end in zeros, which a mask of False leaves out."""
    width = max(part.shape[1] for part in parts)
    return torch.cat([torch.nn.functional.pad(part, (0, width - part.shape[1])) for part in parts])


@dataclass(eq=False)
class _Job:
    prepared: Prepared
    answer: asyncio.Future[Outputs]


class Batcher:
    """Gathers requests for some milliseconds and runs the network once for all; while it runs, others gather.

    Args:
        gather: Milliseconds to wait for others.
        counts: What is counted of batches.
    """

    def __init__(self, gather: float, counts: Counts) -> None:
        self._gather, self._counts = gather / 1000, counts
        self._queue: asyncio.Queue[_Job] = asyncio.Queue()
        # One thread: the network uses all cores that it may.
        self._thread = ThreadPoolExecutor(1, "network")
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Batcher:
        self._task = asyncio.create_task(self._work())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        self._thread.shutdown(cancel_futures=True)

    async def ask(self, rows: Prepared) -> Outputs:
        """Return what the network says of the rows of a request."""
        job = _Job(rows, asyncio.get_running_loop().create_future())
        self._queue.put_nowait(job)
        return await job.answer

    async def _work(self) -> None:
        loop, left = asyncio.get_running_loop(), list[_Job]()
        while True:
            jobs = [*left] or [await self._queue.get()]
            if not left:
                await asyncio.sleep(self._gather)
            while not self._queue.empty():
                jobs.append(self._queue.get_nowait())
            jobs = [job for job in jobs if not job.answer.done()]  # whoever asked has given up
            now, left = _first_batch(jobs)
            if not now:
                continue
            self._counts.batch(sum(len(job.prepared) for job in now), sum(len(job.prepared) for job in left))
            for job, answer in zip(now, await loop.run_in_executor(self._thread, _run, now), strict=True):
                if job.answer.done():
                    continue
                if isinstance(answer, Exception):
                    job.answer.set_exception(answer)
                else:
                    job.answer.set_result(answer)


def _first_batch(jobs: Sequence[_Job]) -> tuple[list[_Job], list[_Job]]:
    """Return the first jobs that one model can answer at once, and the others, in their order."""
    now: list[_Job] = []
    left: list[_Job] = []
    rows = 0
    for job in jobs:
        fits = not now or (job.prepared.served is now[0].prepared.served and rows + len(job.prepared) <= MOST)
        if fits and not left:
            now.append(job)
            rows += len(job.prepared)
        else:
            left.append(job)
    return now, left


def _run(jobs: Sequence[_Job]) -> list[Outputs | Exception]:
    """Return the outputs of each job; where running them together fails, each is tried alone."""
    try:
        return list(together([job.prepared for job in jobs]))
    except Exception as error:
        return [error] if len(jobs) == 1 else [_run([job])[0] for job in jobs]


def together(requests: Sequence[Prepared]) -> list[Outputs]:
    """Return what one model says of the rows of several requests."""
    model = requests[0].served.model
    sources: dict[str, Source] = {
        name: Joined([request.sources[name] for request in requests]) for name in requests[0].sources
    }
    sizes = [len(request) for request in requests]
    watched: Any = _Still("", 1)
    with model.runtime.applied():
        outputs = model.outputs(sources, np.arange(sum(sizes)), watched=watched)
    ends = np.cumsum(sizes)
    return [outputs.some(slice(int(end - size), int(end))) for end, size in zip(ends, sizes, strict=True)]
