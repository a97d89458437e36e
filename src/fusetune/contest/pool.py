"""Jobs in parallel processes of one thread each: as many as cores and memory allow, one failure never another's.

Each worker is a pool of its own, so that a process that the system ends (for want of memory, say) takes one job with it
and is replaced. A worker goes on with the seed that it has, since it remembers what was trained under it.
"""

from __future__ import annotations

import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from joblib.externals.loky import ProcessPoolExecutor, process_executor

from fusetune.contest.kept import Job
from fusetune.contest.work import Workplace, in_words
from fusetune.runtime import cores, free_memory

# Called when a job has ended: the job, and why it failed, or nothing.
Told = Callable[[Job, str], None]
Run = Callable[[Sequence[Job], Told], None]
_WATCH = 1.0
_ROOM = 1.25  # memory that there must be for each byte that workers take
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
_HERE: list[Workplace] = []


@contextmanager
def working(place: Workplace, workers: int) -> Iterator[Run]:
    """Yield what does jobs: in this process if there is one worker, else in as many, which end with the block.

    Args:
        place: What a process needs to do a job.
        workers: How many processes there are.
    """

    def here(jobs: Sequence[Job], told: Told) -> None:
        for job in jobs:
            told(job, place.do(job))

    if workers < 2:
        yield here
        return
    crew = _Crew(place, workers)
    try:
        yield crew.run
    finally:
        crew.close()


def worker_count(asked: int | None, device: str) -> tuple[int, str]:
    """Return how many processes there are to be, and why; one where a GPU would have to be shared.

    Call it when this process has read the table: what it takes is what a worker takes.
    """
    if asked is not None:
        return asked, "as asked"
    if device != "cpu":
        return 1, "one for the device"
    there, free, peak = cores(), free_memory(), _peak_memory()
    if free is None or peak is None:
        return there, "the number of cores"
    fit = max(1, int(free / (_ROOM * peak)))
    return (there, "the number of cores") if fit >= there else (fit, "as many as memory has room for")


def _peak_memory() -> int | None:
    """Return the most bytes that this process has taken, or None where nobody says."""
    try:
        usage = import_module("resource")
    except ImportError:
        return None
    return int(usage.getrusage(usage.RUSAGE_SELF).ru_maxrss) * (1 if sys.platform == "darwin" else 1024)


class _Crew:
    """Some workers, each a pool of one process."""

    def __init__(self, place: Workplace, count: int) -> None:
        self.place, free = place, free_memory()
        self.room = math.inf if free is None else free / (_ROOM * count)
        self.pools = [self._hired() for _ in range(count)]

    def _hired(self) -> Any:
        given = self.place.bare(), os.getpid()
        return ProcessPoolExecutor(1, initializer=_start, initargs=given, env=_ONE_THREAD)

    def _replace(self, at: int) -> None:
        self.pools[at].shutdown(wait=False, kill_workers=True)
        self.pools[at] = self._hired()

    def run(self, jobs: Sequence[Job], told: Told) -> None:
        """Hand out jobs until all are done."""
        left = list(jobs)
        seeds: dict[int, int | None] = dict.fromkeys(range(len(self.pools)))
        busy: dict[Future[tuple[str, int]], tuple[int, Job]] = {}
        while left or busy:
            for at in sorted(set(seeds) - {at for at, _ in busy.values()}):
                if left:
                    job = self._next(left, seeds[at], {seeds[other] for other, _ in busy.values()})
                    left.remove(job)
                    seeds[at] = job.seed
                    busy[self.pools[at].submit(_do, job)] = at, job
            for ended in wait(busy, return_when=FIRST_COMPLETED).done:
                at, job = busy.pop(ended)
                try:
                    failed, memory = ended.result()
                except Exception as error:  # the process was ended, or could not write
                    failed, memory = in_words(error), None
                if memory is None or memory > self.room:
                    self._replace(at)
                    seeds[at] = None
                told(job, failed)

    @staticmethod
    def _next(left: Sequence[Job], own: int | None, others: set[int | None]) -> Job:
        """Return a job of the worker's own seed, else of one that nobody works on, else the first."""
        mine = next((job for job in left if job.seed == own), None)
        return mine or next((job for job in left if job.seed not in others), left[0])

    def close(self) -> None:
        """End all processes, whatever they are doing: what they had not left on disk is done again."""
        for pool in self.pools:
            pool.shutdown(wait=False, kill_workers=True)


def _start(place: Workplace, parent: int) -> None:
    """Make a process a worker: Ctrl-C is its parent's business, and it ends when that does."""
    # The library takes growth by 300 MB for a leak and ends the process, and a job that was just handed to it may wait
    # for ever. A worker keeps more than that on purpose, such as encoders that several strategies begin with; one that
    # there is no room for is replaced by the crew.
    process_executor._MAX_MEMORY_LEAK_SIZE = sys.maxsize
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _HERE[:] = [place]

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_WATCH)
        os._exit(1)

    if hasattr(signal, "SIGKILL"):  # elsewhere a process keeps the number of a parent that is gone
        threading.Thread(target=watch, daemon=True).start()


def _do(job: Job) -> tuple[str, int]:
    """Return why a job failed, or nothing, and the most bytes that this process has taken."""
    return _HERE[0].do(job), _peak_memory() or 0
