"""Filtering, resampling and colour of uint8 pictures on the CPU through OpenCV, one picture at a time.

A picture's pixels stay in the processor's cache from its filter to its colours; those of a batch of tensors do not.
OpenCV computes coordinates and weights in float32 from version 5 on (before: in 1/32 of a pixel, which can be wrong by
4/255); what is installed is tried out before it is used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch

from fusetune.augment.warp import Border

Floats = npt.NDArray[np.float64]
Pixels = npt.NDArray[Any]
_BORDERS = {"edge": cv2.BORDER_REPLICATE, "constant": cv2.BORDER_CONSTANT, "reflect": cv2.BORDER_REFLECT}
_FLAGS = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP


@dataclass(frozen=True)
class View:
    """How one view of each picture is made.

    Attributes:
        matrices: From output to input pixels, from centre to centre, [rows, 3, 3].
        across: Filter weights along x before sampling, [rows, odd].
        down: Filter weights along y, [rows, odd].
        colours: Matrix on (red, green, blue), [rows, 3, 3], or None where colours stay.
        lift: Added to all channels afterwards, [rows].
        pull: Share of the picture's mean that is added as well, [rows].
    """

    matrices: Floats
    across: Floats
    down: Floats
    colours: Floats | None
    lift: Floats
    pull: Floats


@cache
def exact() -> bool:
    """Return whether the installed OpenCV samples at exact positions."""
    ramp = np.arange(64, dtype=np.float32)[None].repeat(4, 0)
    moved = cv2.warpAffine(ramp, np.array([[1, 0, 0.01], [0, 1, 0.0]]), (32, 4), flags=_FLAGS)
    return bool(np.abs(moved - ramp[:, :32] - 0.01).max() < 1e-4)


def paint(images: Pixels, views: Sequence[View], size: int, border: Border, fill: float) -> npt.NDArray[np.float32]:
    """Make several views of each picture.

    Args:
        images: uint8 [rows, side, side, 3].
        views: What is to be made.
        size: Side of the result.
        border: What lies outside the picture.
        fill: Its value in 0..1 where `border` is constant.

    Returns:
        float32 [views, rows, size, size, 3] in 0..1.
    """
    result = np.empty((len(views), len(images), size, size, 3), np.float32)

    def work(rows: range) -> None:
        scratch = np.empty((size, size, 4), np.float32)
        for row in rows:
            # Four channels, for OpenCV samples them faster than three, to the same bits (`benchmarks/warp.py`).
            picture = cv2.cvtColor(images[row], cv2.COLOR_RGB2RGBA)
            plain: Pixels | None = None
            for view, place in zip(views, result[:, row], strict=True):
                across, down = _trimmed(view.across[row]), _trimmed(view.down[row])
                if len(across) == len(down) == 1:
                    plain = picture.astype(np.float32) if plain is None else plain
                    _sample(plain, view.matrices[row], scratch, border, fill)
                else:
                    smooth = cv2.sepFilter2D(picture, cv2.CV_32F, across, down, borderType=cv2.BORDER_REPLICATE)
                    _sample(smooth, view.matrices[row], scratch, border, fill)
                cv2.cvtColor(scratch, cv2.COLOR_RGBA2RGB, dst=place)
                _colour(view, row, place)

    _share(work, len(images))
    return result


def convolve_row(image: Pixels, weights: Floats) -> Pixels:
    """Filter one float32 picture [side, side, 3] along both axes, repeating the edge."""
    weights = _trimmed(weights)
    return cv2.sepFilter2D(image, -1, weights, weights, borderType=cv2.BORDER_REPLICATE)


def power_row(image: Pixels, gamma: float) -> Pixels:
    """Raise the values of one float32 picture to a power; the sign is dropped."""
    return cv2.pow(image, float(gamma))


def _trimmed(weights: Floats) -> Floats:
    """Leave out zeros at the ends: how the sums are ordered must not depend on what other pictures need."""
    reach = len(weights) // 2
    used = max(1, int(np.count_nonzero(weights))) // 2
    return weights[reach - used : reach + used + 1]


def _sample(picture: Pixels, matrix: Floats, place: Pixels, border: Border, fill: float) -> None:
    inside, outside = (len(picture) - 1) / 2, (len(place) - 1) / 2
    cornered = matrix[:2].copy()
    cornered[:, 2] += inside - cornered[:, :2].sum(1) * outside
    cv2.warpAffine(
        picture,
        cornered,
        place.shape[:2],
        dst=place,
        flags=_FLAGS,
        borderMode=_BORDERS[border],
        borderValue=(255 * fill,) * 4,
    )


def _colour(view: View, row: int, place: Pixels) -> None:
    """Bring 0..255 to 0..1 and change the colours, in one pass."""
    if view.colours is None:
        np.multiply(place, np.float32(1 / 255), out=place)
        return
    mean = sum(cv2.mean(place)[:3]) / (3 * 255)
    shift = view.lift[row] + view.pull[row] * mean
    cv2.transform(place, np.column_stack([view.colours[row] / 255, np.full(3, shift)]), dst=place)
    np.clip(place, 0, 1, out=place)


def _share(work: Callable[[range], None], rows: int) -> None:
    """Give each thread every so-many-th row."""
    threads = min(rows, torch.get_num_threads())
    if threads <= 1:
        work(range(rows))
        return
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, [range(first, rows, threads) for first in range(threads)]))
