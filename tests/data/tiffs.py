"""TIFF files, byte by byte: an independent writer, since libraries refuse to write what they misread."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
_CODES = {1: "B", 3: "H", 4: "I"}


def tiff(
    values: Array,
    bits: int,
    photometric: int | None,
    *,
    kind: int = 1,
    extra: Sequence[int] = (),
    planes: bool = False,
    order: str = "<",
    packed: bool = False,
    colours: Sequence[int] = (),
    strips: int = 1,
    orientation: int = 1,
    more: dict[int, tuple[int, Sequence[int]]] | None = None,
) -> bytes:
    """Return a file of one page.

    Args:
        values: Numbers [height, width] or [height, width, channels].
        bits: Of each number.
        photometric: PhotometricInterpretation; None: left out.
        kind: SampleFormat: 1 without a sign, 2 with one, 3 floating.
        extra: ExtraSamples.
        planes: One channel after the other?
        order: Of bytes: < or >.
        packed: Deflated?
        colours: ColorMap.
        strips: How many.
        orientation: Of the camera.
        more: Further entries: tag -> type and values; they replace those above.
    """
    cube = values[..., None] if values.ndim == 2 else values
    height, width, channels = cube.shape
    rows = -(-height // strips)
    data = [
        zlib.compress(raw) if packed else raw
        for plane in (np.split(cube, channels, 2) if planes else [cube])
        for raw in (_raw(plane[top : top + rows], bits, order) for top in range(0, height, rows))
    ]
    entries: dict[int, tuple[int, Sequence[int]]] = {
        256: (4, [width]), 257: (4, [height]), 258: (3, [bits] * channels), 259: (3, [8 if packed else 1]),
        273: (4, [0] * len(data)), 274: (3, [orientation]), 277: (3, [channels]), 278: (4, [rows]),
        279: (4, [len(part) for part in data]), 284: (3, [2 if planes else 1]),
    }  # fmt: skip
    entries |= {} if photometric is None else {262: (3, [photometric])}
    entries |= {} if kind == 1 else {339: (3, [kind] * channels)}
    entries |= {338: (3, extra)} if len(extra) else {}
    entries |= {320: (3, colours)} if len(colours) else {}
    return _laid_out(entries | (more or {}), data, order)


def _raw(part: Array, bits: int, order: str) -> bytes:
    if bits % 8 == 0:
        return part.astype(np.dtype(f"{order}{part.dtype.kind}{bits // 8}")).tobytes()
    rows = part.reshape(len(part), -1).astype(np.int64)
    unpacked = (rows[:, :, None] >> np.arange(bits - 1, -1, -1)) & 1
    return np.packbits(unpacked.reshape(len(part), -1).astype(np.uint8), axis=1).tobytes()


def _laid_out(entries: dict[int, tuple[int, Sequence[int]]], data: list[bytes], order: str) -> bytes:
    start = 8 + 2 + 12 * len(entries) + 4
    long = sum(size + size % 2 for size in _sizes(entries) if size > 4)
    places = start + long + np.cumsum([0, *(len(part) for part in data)])
    entries = entries | {273: (4, [int(place) for place in places[:-1]])}
    head, body = b"", b""
    for tag, (code, numbers) in sorted(entries.items()):
        words = struct.pack(f"{order}{len(numbers)}{_CODES[code]}", *(int(number) for number in numbers))
        head += struct.pack(f"{order}HHI", tag, code, len(numbers))
        if len(words) > 4:
            head += struct.pack(f"{order}I", start + len(body))
            body += words + b"\0" * (len(words) % 2)
        else:
            head += words.ljust(4, b"\0")
    first = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, len(entries))
    return first + head + bytes(4) + body + b"".join(data)


def _sizes(entries: dict[int, tuple[int, Sequence[int]]]) -> Iterator[int]:
    return (struct.calcsize(_CODES[code]) * len(numbers) for code, numbers in entries.values())
