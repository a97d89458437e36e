"""Which rows are in which batch, as a pure function of (seed, epoch), and batches prepared ahead of their use."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from fusetune.data.source import pinned
from fusetune.data.split import Rows

T = TypeVar("T")
R = TypeVar("R")
# Batches per bucket: enough that batches differ between epochs, few enough that texts in one are alike in length.
_BUCKET = 16
# Batches prepared ahead: one would do if all took alike; the second covers for one that took longer.
AHEAD = 2
# Elements in a batch of rows that have several, for each row that it could have.
_ELEMENTS = 8


def shuffled_batches(
    rows: Rows, size: int, seed: int, epoch: int, lengths: npt.NDArray[np.int64] | None = None
) -> list[Rows]:
    """Divide shuffled rows into batches.

    Args:
        rows: Row positions.
        size: Rows per batch; one batch may be smaller, but a single row left over joins another batch, since
            batch-norm has no statistics of one row.
        seed: With `epoch`, decides the order.
        epoch: Epoch number.
        lengths: Cost per row of the table; if given, rows of like length share a batch, which saves padding.
    """
    generator = np.random.Generator(np.random.PCG64([seed, epoch]))
    order = generator.permutation(rows)
    if lengths is not None:
        chunk = size * _BUCKET
        parts = [order[i : i + chunk] for i in range(0, len(order), chunk)]
        order = np.concatenate([part[np.argsort(lengths[part], kind="stable")] for part in parts])
    batches = [order[i : i + size] for i in range(0, len(order), size)]
    if size > 1 and len(batches) > 1 and len(batches[-1]) == 1:
        batches[-2:] = [np.concatenate(batches[-2:])]
    return [batches[i] for i in generator.permutation(len(batches))]


def ordered_batches(
    rows: Rows,
    size: int,
    lengths: npt.NDArray[np.int64] | None = None,
    counts: npt.NDArray[np.int64] | None = None,
) -> list[Rows]:
    """Divide rows into batches without shuffling, by length where lengths are given.

    Args:
        rows: Row positions.
        size: Most rows in a batch.
        lengths: Cost per row of the table.
        counts: Elements per row of the table; a batch has few rows where these have many (`_ELEMENTS`).
    """
    order = rows if lengths is None else rows[np.argsort(lengths[rows], kind="stable")]
    if counts is None:
        return [order[i : i + size] for i in range(0, len(order), size)]
    starts, taken = [0], 0
    for place, count in enumerate(counts[order].tolist()):
        if place - starts[-1] == size or (place > starts[-1] and taken + count > _ELEMENTS * size):
            starts.append(place)
            taken = 0
        taken += count
    return [order[start:end] for start, end in zip(starts, [*starts[1:], len(order)], strict=True) if start < end]


def prefetch(items: Sequence[T], prepare: Callable[[T], R], ahead: int = AHEAD) -> Iterator[R]:
    """Prepare items in a second thread, a few ahead of their use, in order.

    Where a GPU is in use, tensors are also put into pinned memory there, from which `to_device` copies asynchronously.

    An error in the thread is raised where the item is asked for. Leaving the loop early stops the thread.
    """

    def work(item: T) -> R:
        return pinned(prepare(item))

    if len(items) == 1:  # there is nothing that it could be ahead of
        yield work(items[0])
        return
    pool = ThreadPoolExecutor(1, "prefetch")
    waiting: deque[Future[R]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
