"""Numbers of any depth as grey values of 8 bits, strip by strip: no copy of a large picture is made on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from fusetune.errors import ImageError

Pixels = npt.NDArray[np.uint8]
Numbers = npt.NDArray[np.float64]
# Numbers in a strip: few enough for the processor's caches, and for any number of threads at once.
_STRIP = 2**20
# Files write "no value" as the largest number that 32 bits hold, or as an infinite one.
_LARGEST = float(np.finfo(np.float32).max)


def strips(shape: tuple[int, ...]) -> Iterator[slice]:
    """Return the rows of an array of some shape in strips."""
    rows = max(1, _STRIP // max(1, int(np.prod(shape[1:]))))
    return (slice(start, start + rows) for start in range(0, shape[0], rows))


def usable(numbers: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Return which numbers are finite, and not so large that they stand for something else."""
    return np.asarray(np.abs(numbers) < _LARGEST)


def span(parts: Iterable[npt.NDArray[Any]]) -> tuple[float, float]:
    """Return the smallest and the largest number of several arrays.

    Raises:
        ImageError: If there is none.
    """
    found = [(float(part.min()), float(part.max())) for part in parts if part.size]
    if not found:
        raise ImageError("no pixel holds a finite number")
    return min(low for low, _ in found), max(high for _, high in found)


def spread(numbers: npt.NDArray[Any]) -> Pixels:
    """Return numbers as grey values: their own range becomes 0..255.

    16-bit and float files rarely use their whole range; scanners give 12 bits. NaN becomes 0.

    Raises:
        ImageError: If no number is finite.
    """

    def floats(rows: slice) -> Numbers:
        return numbers[rows].astype(np.float64)

    def finite(rows: slice) -> Numbers:
        return (part := floats(rows))[usable(part)]

    low, high = span(map(finite, strips(numbers.shape)))
    return in_strips(numbers.shape, lambda rows: of_range(floats(rows), low, high))


def of_range(numbers: Numbers, low: float, high: float) -> Numbers:
    """Return shares of a range, 0 to 1 within it; NaN is 0."""
    return np.nan_to_num((numbers - low) / (high - low if high > low else 1.0), nan=0.0, posinf=1.0, neginf=0.0)


def in_strips(shape: tuple[int, ...], shares: Callable[[slice], npt.NDArray[Any]]) -> Pixels:
    """Return uint8 of some shape from what a function gives, as shares of white, for each strip of rows."""
    pixels = np.empty(shape, np.uint8)
    for rows in strips(shape):
        pixels[rows] = to_8_bits(shares(rows))
    return pixels


def to_8_bits(shares: npt.NDArray[Any]) -> Pixels:
    """Return shares of white as grey values, uint8."""
    return (shares.clip(0, 1) * 255).round().astype(np.uint8)


def in_colour(grey: Pixels) -> Pixels:
    """Return grey values [height, width] as colours [height, width, 3]."""
    return np.repeat(grey[..., None], 3, axis=2)


def over(colours: Pixels, alpha: npt.NDArray[np.uint16], background: int) -> None:
    """Put colours [height, width, 3], in place, over a background; alpha [height, width, 1] of 16 bits."""
    for rows in strips(colours.shape):
        share = alpha[rows] / 65535
        colours[rows] = (share * colours[rows] + (1 - share) * background).round().astype(np.uint8)


def unmultiply(colours: npt.NDArray[np.uint16], alpha: npt.NDArray[np.uint16]) -> None:
    """Divide colours of 16 bits [height, width, 3], in place, by the alpha that they were multiplied by."""
    for rows in strips(colours.shape):
        share = np.maximum(alpha[rows], 1) / 65535
        colours[rows] = np.minimum(colours[rows] / share, 65535).round().astype(np.uint16)
