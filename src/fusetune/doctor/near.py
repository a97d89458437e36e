"""Pictures that are alike but not equal: one picture saved twice, or two things that look the same?

Candidates are pairs whose difference hashes agree in all but 4 of 64 bits and whose thumbnails correlate. Both come
from pictures pressed into a square, so that two leaves of different shapes may pass. A pair is taken for one picture
only if

- width and height have the same ratio, as they have after any resizing;
- what is left of one thumbnail after the other, shifted and scaled to it, is at most 3 grey values: saving again at
  quality 30 and half the size leaves up to 2.4, different pictures of one product or patient 5 to 30;
- the rows do not have different labels.

All other candidates are only similar.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from fusetune.doctor.examined import Codes
from fusetune.doctor.hashes import Pairs, equal_sets, near_pairs
from fusetune.doctor.images import Pictures

Set = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
# Thumbnails of a picture and of its re-encoded or resized copy correlate above .99; on medical scans of different
# people, whose difference hashes agree by chance of anatomy, they stayed below .97.
_ALIKE = 0.98
_LEFT = 3.0
# Ratios of sides may differ by this share and by half a pixel of rounding per side.
_RATIO = 0.01
# A hash with few ones or zeros is that of an almost flat picture: such hashes agree without the pictures doing so.
_PLAIN = 6
_CHUNK = 50_000


def near_sets(pictures: Pictures, labels: Codes | None) -> tuple[list[Set], list[Set]]:
    """Return sets of rows that very likely show one picture, and sets of rows whose pictures are merely similar."""
    ones = np.bitwise_count(pictures.hashes)
    rows = np.flatnonzero(pictures.usable & (ones >= _PLAIN) & (ones <= 64 - _PLAIN))
    # One row for each of equal pictures, so that copies do not multiply the pairs.
    _, first = np.unique(pictures.pixels[rows], return_index=True)
    rows = rows[np.sort(first)]
    pairs = rows[near_pairs(pictures.hashes[rows])]
    correlation, left = _compared(pictures.thumbs, pairs)
    alike = correlation >= _ALIKE
    pairs, left = pairs[alike], left[alike]
    one = (left <= _LEFT) & _same_shape(pictures.sides, pairs)
    if labels is not None:
        known = labels[pairs]
        one &= (known[:, 0] == known[:, 1]) | (known < 0).any(1)
    count = len(pictures.hashes)
    copies = linked(pairs[one], count)
    number = np.arange(count)
    for members in copies:
        number[members] = members[0]
    # Of pairs within a set of copies, nothing is left to say.
    similar = pairs[~one & (number[pairs[:, 0]] != number[pairs[:, 1]])]
    return copies, linked(similar, count)


def _compared(thumbs: npt.NDArray[np.uint8], pairs: Pairs) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return each pair's correlation, and the grey values (root mean square) that one does not explain of the other."""
    correlation, left = np.zeros((2, len(pairs)))
    for start in range(0, len(pairs), _CHUNK):
        chunk = pairs[start : start + _CHUNK]
        sides = [thumbs[chunk[:, side]].reshape(len(chunk), -1).astype(np.float32) for side in (0, 1)]
        one, other = (side - side.mean(1, keepdims=True) for side in sides)
        spread = [np.sqrt((side**2).mean(1)) for side in (one, other)]
        part = slice(start, start + len(chunk))
        correlation[part] = (one * other).mean(1) / np.maximum(spread[0] * spread[1], 1e-9)
        left[part] = np.maximum(*spread) * np.sqrt(np.maximum(0, 1 - correlation[part] ** 2))
    return correlation, left


def _same_shape(sides: npt.NDArray[np.int32], pairs: Pairs) -> Mask:
    """Return which pairs of pictures, given their sides [rows, 2], have the same ratio of width to height."""
    one, other = (sides[pairs[:, side]].astype(np.float64) for side in (0, 1))
    apart = np.abs(np.log(one[:, 0] * other[:, 1] / np.maximum(one[:, 1] * other[:, 0], 1)))
    return np.asarray(apart <= _RATIO + 0.5 * (1 / one + 1 / other).sum(1))


def linked(pairs: Pairs, rows: int) -> list[Set]:
    """Return the sets of rows that are linked through pairs of them."""
    if not len(pairs):
        return []
    graph = coo_array((np.ones(len(pairs), dtype=np.int8), (pairs[:, 0], pairs[:, 1])), shape=(rows, rows))
    names = connected_components(graph, directed=False)[1].astype(np.uint64)
    use = np.zeros(rows, dtype=bool)
    use[pairs.ravel()] = True
    return equal_sets(names, use)
