"""64-bit hashes of contents, and pairs of pictures whose hashes differ in few bits, without comparing all pairs."""

from __future__ import annotations

import re
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

Hashes = npt.NDArray[np.uint64]
Pairs = npt.NDArray[np.int64]
# Side of the grey square that hashes start from: 8 rows of 9 cells, each 9 x 8 pixels.
SIDE = 72
# Bits that may differ. A picture saved again with another quality or size changes 0 to 3 of 64; two unrelated ones
# differ in 32 on average, and in 4 or fewer with a probability below 1e-13.
DISTANCE = 4
# With 4 changed bits, at least 2 of 6 blocks are untouched: pictures that share no pair of blocks need no comparison.
_BLOCKS = 6
# A step smaller than this between neighbouring cells is noise of compression in a flat area, not an edge.
_STEP = 1.0
_CHUNK = 50_000
_NO_WORD = re.compile(r"[\W_]+")
_MIX = np.uint64(0x9E3779B97F4A7C15)


def difference_hash(grey: npt.NDArray[np.float32]) -> np.uint64:
    """Return the difference hash of a picture: one bit per pair of horizontal neighbours, on where it gets brighter.

    Args:
        grey: [72, 72], 0 to 255.
    """
    cells = grey.reshape(8, 9, 9, 8).mean((1, 3))
    return np.uint64(np.packbits(cells[:, 1:] > cells[:, :-1] + _STEP).view(np.uint64)[0])


def near_pairs(hashes: Hashes, distance: int = DISTANCE) -> Pairs:
    """Return all pairs of positions whose hashes differ in at most `distance` bits (at most 4), smaller one first.

    Multi-index hashing: hashes are sorted by the bits of each pair of blocks, and only those that agree there are
    compared. The bits of a block are spread over the whole picture, so that a black border does not fill one bucket.

    Returns:
        int64 [pairs, 2], sorted, without repetition.
    """
    if distance > _BLOCKS - 2:
        raise ValueError(f"{_BLOCKS} blocks find pairs up to distance {_BLOCKS - 2}, not {distance}")
    pairs = [np.empty((0, 2), dtype=np.int64)]
    for blocks in combinations(range(_BLOCKS), 2):
        mask = np.uint64(sum(1 << bit for bit in range(64) if bit % _BLOCKS in blocks))
        key = hashes & mask
        order = np.argsort(key, kind="stable")
        pairs.append(_close_in_runs(key[order], hashes[order], order, distance))
    return np.unique(np.concatenate(pairs), axis=0)


def _close_in_runs(key: Hashes, hashes: Hashes, order: Pairs, distance: int) -> Pairs:
    """Compare neighbours at growing offsets while any two at that offset still share their key."""
    pairs, alive, offset = [np.empty((0, 2), dtype=np.int64)], np.arange(len(key)), 1
    while True:
        alive = alive[alive < len(key) - offset]
        alive = alive[key[alive] == key[alive + offset]]
        if not len(alive):
            return np.concatenate(pairs)
        close = np.bitwise_count(hashes[alive] ^ hashes[alive + offset]) <= distance
        pair = np.stack([order[alive[close]], order[alive[close] + offset]], 1)
        pairs.append(np.sort(pair, axis=1))
        offset += 1


def text_hashes(texts: pd.Series) -> tuple[Hashes, npt.NDArray[np.int64]]:
    """Return a hash per text, of its words alone (not of case, spaces and punctuation), and its number of words."""
    hashes, words = np.zeros(len(texts), dtype=np.uint64), np.zeros(len(texts), dtype=np.int64)
    for start in range(0, len(texts), _CHUNK):
        chunk = texts.iloc[start : start + _CHUNK]
        plain = [_NO_WORD.sub(" ", str(text).lower()).strip() for text in chunk.where(chunk.notna(), "")]
        hashes[start : start + len(plain)] = pd.util.hash_array(np.array(plain, dtype=object), categorize=False)
        words[start : start + len(plain)] = [text.count(" ") + (text != "") for text in plain]
    return hashes, words


def column_hashes(series: pd.Series) -> Hashes:
    """Return a hash per cell, of lists too; missing cells have a hash of their own."""
    hashes = np.empty(len(series), dtype=np.uint64)
    for start in range(0, len(series), _CHUNK):
        chunk = series.iloc[start : start + _CHUNK]
        if chunk.map(np.ndim).gt(0).any() if chunk.dtype == object else False:
            chunk = chunk.map(_as_bytes)
        hashes[start : start + len(chunk)] = pd.util.hash_pandas_object(chunk, index=False, categorize=False)
    return hashes


def combined(hashes: list[Hashes]) -> Hashes:
    """Return one hash per row from several; their order matters."""
    total = np.zeros_like(hashes[0])
    for part in hashes:
        # Xorshift and multiply after each part: 0 and repeated values do not cancel out.
        total = (total ^ part) * _MIX
        total ^= total >> np.uint64(29)
    return total


def equal_sets(hashes: Hashes, use: npt.NDArray[np.bool_]) -> list[npt.NDArray[np.int64]]:
    """Return the sets of two or more positions in `use` with equal hashes, in order of their first position."""
    rows = np.flatnonzero(use)
    _, codes, sizes = np.unique(hashes[rows], return_inverse=True, return_counts=True)
    repeated = sizes[codes] > 1
    rows, codes = rows[repeated], codes[repeated]
    if not len(rows):
        return []
    order = np.argsort(codes, kind="stable")
    sets = np.split(rows[order], np.flatnonzero(np.diff(codes[order])) + 1)
    return sorted(sets, key=lambda members: int(members[0]))


def _as_bytes(value: Any) -> str:
    try:
        numbers = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):  # words, lists of words, lists of lists of other lengths
        return str(value.tolist() if isinstance(value, np.ndarray) else value)
    return numbers.tobytes().hex() if numbers.ndim else str(value)
