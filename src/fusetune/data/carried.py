"""Cells that are pictures themselves: bytes of an image file, PIL pictures, NumPy arrays, and {"bytes", "path"}.

Each becomes a file in memory, so that it is decoded, checked and cached as files are, to the same pixels. Numbers of an
array mean what they mean in a file: uint8 is 0 to 255; of uint16 the array's own range becomes black to white, as of
16-bit files; floats run from 0 (black) to 1 (white); truth values are black and white.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from datetime import date, time, timedelta
from decimal import Decimal
from hashlib import blake2b
from numbers import Number, Real
from os import PathLike
from threading import Lock
from typing import Any
from uuid import UUID

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image

from fusetune.data.decode import has_empty_alpha, is_shortage
from fusetune.data.paths import begins_like_picture
from fusetune.data.spread import usable
from fusetune.data.stored import Encoded
from fusetune.errors import ImageError, ShortageError, TableError, clipped, listed

_KEYS = {"bytes", "path"}
_KINDS = ("u1", "u2", "f2", "f4", "f8", "b1")
_TIMES = (date, time, timedelta, np.datetime64, np.timedelta64, pd.Period, pd.Interval)
_SCALARS = (str, Real, Decimal, np.bool_, PathLike, UUID, *_TIMES)
_LISTS = (list, tuple, np.ndarray)
_BYTES = (bytes, bytearray, memoryview)
_WHAT = "the bytes of an image file, PIL pictures, NumPy arrays [height, width] or [height, width, 3], or {bytes, path}"
# PNG keeps these modes of Pillow's as they are.
_AS_PNG = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16", "I;16B")
# Pillow reads its files lazily and not from two threads at once; one picture may stand in many rows.
_LOCK = Lock()


def is_picture(value: object) -> bool:
    """Return whether a cell is a picture, not a path of one."""
    match value:
        case bytes() | bytearray() | memoryview():
            return begins_like_picture(bytes(value[:132]))
        case np.ndarray():
            pixels = value.ndim == 2 or (value.ndim == 3 and value.shape[2] in (1, 3, 4))
            return pixels and value.size > 0 and value.dtype.str[1:] in _KINDS
        case Mapping():
            return bool(value) and set(value) <= _KEYS
        case _:
            return isinstance(value, Image.Image)


def are_pictures(values: pd.Series) -> bool:
    """Return whether a column's cells are pictures: at least one is, and whatever else there is may be one."""
    return values.dtype == object and any(map(is_picture, values))


def is_absent(value: object) -> bool:
    """Return whether a cell of an image column is empty."""
    if isinstance(value, str):
        return not value.strip()
    if isinstance(value, Mapping):
        return all(is_absent(part) for part in value.values())
    return _is_missing(value)


def refuse_objects(frame: pd.DataFrame, table: str, start: int = 0) -> None:
    """Refuse cells that no kind of column can hold, before anything makes words of them; `start` numbers the first row.

    Raises:
        TableError: Naming the column, the rows and the type.
    """
    for name, cells in frame.items():
        if cells.dtype != object:
            continue
        shapeless = [row for row, value in enumerate(cells, start) if _is_shapeless(value)]
        if shapeless:
            why = _no_picture(cells.iloc[shapeless[0] - start])
            raise TableError(
                f"column '{name}' of {table}, row(s) {listed(shapeless)}: {why}; of several pictures in a cell make a "
                "list, list(array)"
            )
        fitting: tuple[Any, ...] = (*_SCALARS, *_LISTS)
        if are_pictures(cells):
            fitting = (str, PathLike, *_BYTES)
        wrong = [row for row, value in enumerate(cells, start) if not _fits(value, fitting)]
        if wrong:
            kind = type(cells.iloc[wrong[0] - start]).__name__
            raise TableError(
                f"column '{name}' of {table} holds {kind} in row(s) {listed(wrong)}; make words or numbers of them, or "
                f"leave the column out. Cells that are pictures can be {_WHAT}"
            )


def _fits(value: Any, fitting: tuple[Any, ...]) -> bool:
    if isinstance(value, fitting) or is_picture(value) or _is_missing(value):
        return True
    # Several pictures in one cell.
    return (
        isinstance(value, _LISTS)
        and not (isinstance(value, np.ndarray) and not value.ndim)
        and all(_fits(part, fitting) for part in value)
    )


def _is_shapeless(value: object) -> bool:
    """Return whether an array of several dimensions is neither a picture nor a stack of coloured ones.

    Taken row by row, one with its channels first would be three grey pictures.
    """
    if not isinstance(value, np.ndarray) or value.ndim < 2 or value.dtype == object:
        return False
    return not (is_picture(value) or (value.ndim == 4 and len(value) and is_picture(value[0])))


def _is_missing(value: Any) -> bool:
    return value is None or (pd.api.types.is_scalar(value) and bool(pd.isna(value)))


def names(cells: pd.Series) -> pd.Series:
    """Return what to call each cell of an image column in messages: its path, or what it is with a part of its hash."""
    if cells.dtype != object:
        return cells.astype("str")
    return cells.map(_name, na_action="ignore").astype("str")


def _name(value: object) -> str:
    match value:
        case str() | PathLike():
            return clipped(str(value))
        case bytes() | bytearray() | memoryview():
            return f"{len(value):,} bytes ({_short(bytes(value))})"
        case Image.Image():
            return f"a PIL picture ({value.width} x {value.height}, {value.mode}, {id(value):x})"
        case np.ndarray():
            return f"an array ({value.shape}, {value.dtype}, {_short(value.tobytes())})"
        case Mapping() if set(value) <= _KEYS:
            return _name(value.get("path") or value.get("bytes"))
        case _:
            return clipped(str(value))


def _short(content: bytes) -> str:
    return blake2b(content, digest_size=4).hexdigest()


def path_or_file(value: object, pixel_limit: int) -> str | Encoded:
    """Return the path that a cell holds, or its picture as a file in memory.

    Raises:
        ImageError: If a picture cannot be read, or the numbers of an array say nothing of black and white.
        ShortageError: If there is not enough memory.
    """
    if isinstance(value, Mapping) and is_picture(value):
        value = value.get("bytes") if value.get("bytes") is not None else value.get("path")
    match value:
        case str() | PathLike():
            return str(value).strip()
        case bytes() | bytearray() | memoryview():
            return Encoded(bytes(value))
        case Image.Image():
            return _of_picture(value, pixel_limit)
        case np.ndarray():
            return Encoded(_of_array(value))
        case _ if isinstance(value, Number):
            return str(value)
    raise ImageError(f"an object of type {type(value).__name__} is no picture; cells can be paths, {_WHAT}")


def _of_picture(picture: Image.Image, pixel_limit: int) -> Encoded:
    if picture.width * picture.height > pixel_limit:
        raise ImageError(
            f"{picture.width:,} x {picture.height:,} pixels are more than data.pixel_limit={pixel_limit:,}"
        )
    try:
        with _LOCK:
            return _as_stored(picture) or Encoded(_as_file(picture))
    except Exception as error:  # its file may be gone, or damaged in any way
        if is_shortage(error):
            raise ShortageError(f"there is not enough memory to read it ({error})") from error
        raise ImageError(f"the PIL picture cannot be read: {str(error) or type(error).__name__}") from error


def _as_stored(picture: Image.Image) -> Encoded | None:
    """Return the file of a picture that was opened and not yet loaded or changed, else None."""
    file = getattr(picture, "fp", None)
    if not getattr(picture, "tile", None) or file is None or picture.tell():
        return None
    place = file.tell()
    file.seek(0)
    content = file.read()
    file.seek(place)
    return Encoded(bytes(content))


def _as_file(picture: Image.Image) -> bytes:
    """Write a picture so that reading it gives its pixels: PNG, not packed, or TIFF where PNG has no such numbers."""
    kind = "TIFF" if picture.mode in ("I", "F") else "PNG"
    if has_empty_alpha(picture):
        picture = picture.convert("RGB")
    elif kind == "PNG" and picture.mode not in _AS_PNG:
        plain = picture.convert("LA") if picture.mode == "La" else picture
        picture = plain.convert("RGBA" if picture.mode in ("La", "PA", "RGBa") else "RGB")
    file = io.BytesIO()
    exif = Image.Exif()
    if (turn := picture.getexif().get(0x0112)) is not None:
        exif[0x0112] = turn
    picture.save(file, kind, **({"compress_level": 0} if kind == "PNG" else {}), exif=exif)
    return file.getvalue()


def _of_array(array: npt.NDArray[Any]) -> bytes:
    if not is_picture(array):
        raise ImageError(_no_picture(array))
    array = array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array
    if array.dtype == np.uint16:
        ordered = array if array.ndim == 2 else array[..., [2, 1, 0, 3][: array.shape[2]]]
        written, file = cv2.imencode(".png", np.ascontiguousarray(ordered), [cv2.IMWRITE_PNG_COMPRESSION, 0])
        if not written:
            raise ImageError(f"an array of shape {array.shape} cannot be written as a picture")
        return file.tobytes()
    return _as_file(Image.fromarray(np.ascontiguousarray(_bytes(array))))


def _no_picture(array: npt.NDArray[Any]) -> str:
    ahead = array.ndim == 3 and array.shape[0] in (1, 3, 4)
    first = " (channels come last: array.transpose(1, 2, 0))" if ahead else ""
    return (
        f"an array of shape {array.shape} and type {array.dtype} is no picture{first}; it takes [height, width] or "
        "[height, width, 3 or 4] of uint8, of uint16, or of floats from 0 to 1"
    )


def _bytes(array: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    if array.dtype == np.uint8:
        return array
    numbers = array.astype(np.float64)
    finite = numbers[usable(numbers)]
    if not finite.size:
        raise ImageError("no pixel holds a finite number")
    if finite.min() < 0 or finite.max() > 1:
        raise ImageError(
            f"the array's floats run from {finite.min():g} to {finite.max():g}, not from 0 (black) to 1 (white); scale "
            "them, or make uint8 of numbers up to 255"
        )
    return np.asarray((np.nan_to_num(numbers, nan=0.0, posinf=1.0, neginf=0.0) * 255).round().clip(0, 255), np.uint8)
