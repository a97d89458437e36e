"""Batches: every row once, a pure function of (seed, epoch), alike in length; and preparation ahead of use."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from fusetune.data.batch import ordered_batches, prefetch, shuffled_batches
from fusetune.data.source import pinned, to_device
from fusetune.errors import ImageError

ROWS = np.arange(100, 357)


@pytest.mark.parametrize("size", [1, 2, 8, 64, 256, 257, 1000])
@pytest.mark.parametrize("with_lengths", [False, True])
def test_every_row_is_in_one_batch(size: int, with_lengths: bool) -> None:
    lengths = np.random.default_rng(0).integers(1, 99, 400) if with_lengths else None
    batches = shuffled_batches(ROWS, size, seed=1, epoch=2, lengths=lengths)
    assert np.array_equal(np.sort(np.concatenate(batches)), ROWS)
    assert max(map(len, batches)) <= size + 1
    if size > 1:
        assert min(map(len, batches)) > 1
        assert sum(len(batch) != size for batch in batches) <= 1


def test_the_order_is_a_function_of_seed_and_epoch() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        return np.concatenate(shuffled_batches(ROWS, 16, seed, epoch)).tolist()

    np.random.seed(5)
    first = order(0, 0)
    np.random.seed(6)
    assert order(0, 0) == first
    assert len({tuple(order(seed, epoch)) for seed in range(4) for epoch in range(4)}) == 16
    assert first != ROWS.tolist()


def test_rows_of_like_length_share_a_batch_that_changes_between_epochs() -> None:
    lengths = np.random.default_rng(0).integers(1, 200, 400)

    def spread(batches: list[np.ndarray]) -> float:  # type: ignore[type-arg]
        return float(np.mean([np.ptp(lengths[batch]) for batch in batches]))

    bucketed = shuffled_batches(ROWS, 8, 0, 0, lengths)
    assert spread(bucketed) < 0.2 * spread(shuffled_batches(ROWS, 8, 0, 0))
    again = shuffled_batches(ROWS, 8, 0, 1, lengths)
    assert {frozenset(batch.tolist()) for batch in bucketed}.isdisjoint(frozenset(batch.tolist()) for batch in again)
    means = [lengths[batch].mean() for batch in bucketed]
    assert abs(np.corrcoef(means, range(len(means)))[0, 1]) < 0.5  # short ones do not all come first


def test_ordered_batches_keep_the_order_or_sort_by_length() -> None:
    assert [batch.tolist() for batch in ordered_batches(np.array([5, 1, 3]), 2)] == [[5, 1], [3]]
    lengths = np.array([9, 2, 9, 1, 9, 5])
    assert [b.tolist() for b in ordered_batches(np.array([5, 1, 3, 0]), 3, lengths)] == [[3, 1, 5], [0]]


def test_prefetch_returns_results_in_order() -> None:
    def slow(item: int) -> int:
        time.sleep(0.001 * (item % 3))
        return item * item

    assert list(prefetch(range(20), slow)) == [item * item for item in range(20)]
    assert list(prefetch([], slow)) == []
    assert list(prefetch([1, 2], lambda item: None)) == [None, None]


def test_an_error_arrives_where_its_item_is_asked_for() -> None:
    def prepare(item: int) -> int:
        if item == 3:
            raise ValueError("item three")
        return item

    stream = prefetch(range(10), prepare)
    assert [next(stream), next(stream), next(stream)] == [0, 1, 2]
    with pytest.raises(ValueError, match="item three"):
        next(stream)
    assert not alive()


@pytest.mark.parametrize("taken", [1, 2, 5])
def test_leaving_early_stops_the_thread_and_its_work(taken: int) -> None:
    prepared: list[int] = []

    def prepare(item: int) -> int:
        prepared.append(item)
        return item

    def take() -> Iterator[int]:
        for value in prefetch(range(1000), prepare, ahead=2):
            yield value
            if value + 1 == taken:
                return

    assert list(take()) == list(range(taken))
    assert not alive()
    assert len(prepared) <= taken + 2


def test_nothing_is_prepared_further_ahead_than_asked() -> None:
    prepared: list[int] = []

    def prepare(item: int) -> int:
        prepared.append(item)
        return item

    stream = prefetch(range(100), prepare, ahead=3)
    next(stream)
    time.sleep(0.05)
    assert len(prepared) == 1 + 3
    assert alive()
    stream.close()  # type: ignore[attr-defined]
    assert not alive()


def test_an_error_beside_a_slow_consumer_ends_the_thread() -> None:
    def prepare(item: int) -> int:
        if item == 1:
            raise ImageError("b.png (table row 1): damaged image")
        return item

    stream = prefetch(range(10), prepare, ahead=1)
    assert next(stream) == 0
    time.sleep(0.02)
    with pytest.raises(ImageError, match=r"b\.png \(table row 1\)"):
        next(stream)
    assert not alive()


def test_without_a_gpu_nothing_is_pinned_or_copied() -> None:
    batch = (np.arange(2), {"image": torch.zeros(2, 3), "text": {"ids": torch.ones(2, 4)}}, None)
    assert pinned(batch) is batch
    moved = to_device({"ids": batch[1]["text"]["ids"]}, torch.device("cpu"))  # type: ignore[index]
    assert moved["ids"].data_ptr() == batch[1]["text"]["ids"].data_ptr()  # type: ignore[index]


def test_with_a_gpu_every_tensor_of_a_batch_is_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.Tensor] = []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: seen.append(self) or self + 1)
    rows = np.arange(2)
    ((batch_rows, inputs),) = prefetch([rows], lambda rows: (rows, {"a": torch.zeros(2), "b": {"c": torch.ones(3)}}))
    assert batch_rows is rows
    assert inputs["a"].tolist() == [1, 1]
    assert inputs["b"]["c"].tolist() == [2, 2, 2]
    assert len(seen) == 2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_pinned_batches_reach_the_gpu_whole() -> None:
    device = torch.device("cuda")
    torch.zeros(1, device=device)  # a GPU is in use
    images = torch.arange(2 * 3 * 8 * 8, dtype=torch.uint8).reshape(2, 8, 8, 3).permute(0, 3, 1, 2)
    for batch in prefetch(range(3), lambda item: images + item):
        assert batch.is_pinned()
        assert batch.is_contiguous(memory_format=torch.channels_last)
    moved = to_device(batch, device)
    assert isinstance(moved, torch.Tensor)
    assert torch.equal(moved.cpu(), images + 2)


def alive() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if "prefetch" in thread.name]
