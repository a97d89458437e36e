"""Numbered rows of a group, such as the frames of a video: which training row is nearest to a held-out one?"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Codes = npt.NDArray[np.int64]


def nearest_numbers(
    groups: Codes, order: npt.NDArray[np.float64], test: Codes, train: Codes
) -> tuple[Codes, npt.NDArray[np.float64]]:
    """Return each test row's training row of its group with the nearest number (of equals the lower), and how far.

    Args:
        groups: Group of every row, from 0 on.
        order: Number of every row within its group.
        test: Rows to find a neighbour of; their groups have training rows.
        train: Rows to look among.
    """
    # One line of numbers on which groups lie further apart than any two rows of one group.
    line = (order - np.nanmin(order)) + groups * (4 * (np.nanmax(order) - np.nanmin(order)) + 4)
    ordered = train[np.argsort(line[train], kind="stable")]
    place = np.searchsorted(line[ordered], line[test])
    before, after = ordered[np.maximum(place - 1, 0)], ordered[np.minimum(place, len(ordered) - 1)]
    left, right = np.abs(line[test] - line[before]), np.abs(line[after] - line[test])
    return np.where(left <= right, before, after), np.minimum(left, right)
