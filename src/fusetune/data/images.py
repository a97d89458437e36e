"""Images: decoded once, at reduced scale where the file allows it, to one square uint8 size.

Nothing is silent here: a file that cannot be read is a problem of its row, with its path, and never a black image.
Local paths are taken relative to the table. URLs are opened through fsspec, those that need a network only if allowed.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from threading import Lock
from typing import Any, ClassVar, Literal

import fsspec
import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from fusetune.data.split import Rows
from fusetune.data.table import Table
from fusetune.errors import ImageError, TableError
from fusetune.progress import bar

Pixels = npt.NDArray[np.uint8]
_LOCAL_PROTOCOLS = ("file", "local", "memory", "zip", "tar", "dir", "simplecache", "filecache", "blockcache")
# Above this many bytes the decoded images are not kept in memory but decoded again for every batch.
_MEMORY = 6 * 2**30
# Images handed to the threads at a time: a waiting task is an object, and a table can have millions of rows.
_CHUNK = 256
_GREY = 127


class ImageInput(BaseModel):
    """Pre-processing of one image column.

    Attributes:
        column: The table's column.
        size: Side of the square in pixels.
        fit: stretch (aspect is not kept), pad (with the background) or crop (the middle).
        background: Grey value behind transparency and around padded pictures.
        spacing: Number column with the physical size of one pixel, or None.
        extent: With `spacing`: side of the square in its unit, so that all images share one scale.
        pixel_limit: Larger images are refused unread.
        allow_remote: May URLs be opened that need a network?
    """

    model_config = ConfigDict(extra="forbid")
    column: str
    size: int
    fit: Literal["stretch", "pad", "crop"]
    background: int = 255
    spacing: str | None = None
    extent: float | None = None
    pixel_limit: int = 200_000_000
    allow_remote: bool = False

    def fit_extent(self, table: Table, train: Rows) -> ImageInput:
        """Choose the physical side of the square so that 95 % of the training images fit in whole."""
        if self.spacing is None:
            return self
        spacings, paths = _spacings(table, self.spacing), table.column(self.column)
        usable = train[_has_path(paths)[train] & (spacings[train] > 0)]
        sides = []
        for row in usable:
            try:
                with self._opened(str(paths.iloc[row]).strip(), table.root) as picture:
                    sides.append(max(picture.size) * spacings[row])
            except ImageError:
                continue  # reading the images reports it, with its row and path
        if not sides:
            raise TableError(
                f"image.spacing: no training row of {table.name} has both a readable image in '{self.column}' and a "
                f"positive number in '{self.spacing}'"
            )
        return self.model_copy(update={"extent": float(np.quantile(sides, 0.95))})

    def bind(self, table: Table) -> ImageSource:
        """Decode a table's images.

        Rows without a path are absent; rows whose image cannot be read are absent and listed in `problems`.
        """
        return ImageSource(self, table)

    def decode(self, value: str, root: Path, spacing: float = float("nan")) -> Pixels:
        """Read one image as a square.

        Args:
            value: Path relative to `root`, absolute path, or URL.
            root: The table's folder.
            spacing: Physical size of a pixel of the file, if images are brought to one scale.

        Returns:
            uint8 [size, size, 3].

        Raises:
            ImageError: Saying what is wrong with the file.
        """
        with self._opened(value, root) as picture:
            return self._square(picture, spacing)

    @contextmanager
    def _opened(self, value: str, root: Path) -> Iterator[Image.Image]:
        """Open an image whose size is within the limit; every failure, also while it is used, is an `ImageError`."""
        data = _bytes(value, root, self.allow_remote)
        try:
            with _OwnLimit(), Image.open(io.BytesIO(data)) as picture:
                self._check_size(picture)
                yield picture
        except ImageError:
            raise
        except UnidentifiedImageError as error:
            raise ImageError("not an image in a known format (JPEG, PNG, WebP, TIFF, BMP, GIF)") from error
        except Exception as error:  # damaged files raise whatever the parser of their format happens to raise
            raise ImageError(f"damaged image: {error or type(error).__name__}") from error

    def _check_size(self, picture: Image.Image) -> None:
        if picture.width * picture.height > self.pixel_limit:
            raise ImageError(
                f"{picture.width:,} x {picture.height:,} pixels are more than data.pixel_limit={self.pixel_limit:,}; "
                "make the image smaller or raise the limit"
            )

    def _square(self, picture: Image.Image, spacing: float) -> Pixels:
        if self.extent is None:
            # JPEG can be decoded at 1/2, 1/4 or 1/8 of its size for a fraction of the cost.
            picture.draft("RGB", (self.size, self.size))
        upright = ImageOps.exif_transpose(picture)
        colours = _to_rgb(upright, self.background)
        side = (self.size, self.size)
        if self.extent is not None:
            if not np.isfinite(spacing) or spacing <= 0:
                raise ImageError(f"column '{self.spacing}' holds no positive pixel size for this image")
            scaled = _resize(colours, spacing * self.size / self.extent, self.size)
            colours = _centre(scaled, self.size, self.background)
        elif self.fit == "pad":
            colours = ImageOps.pad(colours, side, Image.Resampling.BILINEAR, color=(self.background,) * 3)
        elif self.fit == "crop":
            colours = ImageOps.fit(colours, side, Image.Resampling.BILINEAR)
        else:
            colours = colours.resize(side, Image.Resampling.BILINEAR, reducing_gap=2.0)
        return np.asarray(colours, dtype=np.uint8)


@dataclass
class ImageSource:
    """The images of one table, in memory where they fit."""

    settings: ImageInput
    table: Table
    lengths: None = None
    problems: dict[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.paths = self.table.column(self.settings.column)
        self.spacings = _spacings(self.table, self.settings.spacing)
        self.present = _has_path(self.paths)
        self.digests = np.zeros(len(self.table), dtype=np.uint64)
        size = self.settings.size
        keep = len(self.table) * size * size * 3 <= _MEMORY
        self.pixels: Pixels | None = np.zeros((len(self.table), size, size, 3), np.uint8) if keep else None
        self._scan()

    def _scan(self) -> None:
        # Every image is read once before anything starts: a broken one is known now, not after an hour.
        rows = np.flatnonzero(self.present)
        with bar(f"reading {self.settings.column}", len(rows)) as shown, ThreadPoolExecutor(os.cpu_count()) as pool:
            for start in range(0, len(rows), _CHUNK):
                chunk = rows[start : start + _CHUNK]
                for row, outcome in zip(chunk, pool.map(self._try, chunk), strict=True):
                    shown.advance()
                    self._keep(int(row), outcome)
        if self.pixels is not None:
            self.pixels[~self.present] = _GREY

    def _keep(self, row: int, outcome: Pixels | ImageError) -> None:
        if isinstance(outcome, ImageError):
            self.present[row] = False
            self.problems[row] = f"{self.paths.iloc[row]}: {outcome}"
            return
        self.digests[row] = np.frombuffer(blake2b(outcome.tobytes(), digest_size=8).digest(), np.uint64)[0]
        if self.pixels is not None:
            self.pixels[row] = outcome

    def _try(self, row: int) -> Pixels | ImageError:
        try:
            return self._decode(row)
        except ImageError as error:
            return error

    def _decode(self, row: int) -> Pixels:
        return self.settings.decode(str(self.paths.iloc[row]).strip(), self.table.root, float(self.spacings[row]))

    def read(self, rows: Rows) -> Tensor:
        """Return uint8 [rows, 3, size, size]; absent rows are grey and must be masked by `present`.

        Raises:
            ImageError: If an image that could be read at the start no longer can.
        """
        found = self._again(rows) if self.pixels is None else self.pixels[rows]
        return torch.from_numpy(found).permute(0, 3, 1, 2)

    def _again(self, rows: Rows) -> Pixels:
        found = np.full((len(rows), self.settings.size, self.settings.size, 3), _GREY, np.uint8)
        places = np.flatnonzero(self.present[rows])
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for place, outcome in zip(places, pool.map(self._try, rows[places]), strict=True):
                if isinstance(outcome, ImageError):
                    path = self.paths.iloc[rows[place]]
                    raise ImageError(f"{path} (table row {rows[place]}) was readable before, but now: {outcome}")
                found[place] = outcome
        return found


def raise_for_problems(source: ImageSource, ids: pd.Series) -> None:
    """Refuse a table with unreadable images.

    Raises:
        ImageError: Naming the rows and paths.
    """
    if source.problems:
        shown = [f"  - row {ids.iloc[row]}: {text}" for row, text in list(source.problems.items())[:10]]
        more = f"\n  - and {len(source.problems) - 10:,} more" if len(source.problems) > 10 else ""
        raise ImageError(
            f"{len(source.problems):,} image(s) of column '{source.settings.column}' cannot be read:\n"
            + "\n".join(shown)
            + more
            + "\nRepair the files or empty the cells; data.unreadable=mask trains with these images marked as absent."
        )


class _OwnLimit:
    """Switches Pillow's own pixel limit off while any image is open, since `pixel_limit` replaces it.

    Pillow's is one global number with a warning below it; a warnings filter cannot be changed safely in threads.
    """

    _lock: ClassVar[Lock] = Lock()
    _open: ClassVar[int] = 0
    _before: ClassVar[int | None] = None

    def __enter__(self) -> None:
        with self._lock:
            if _OwnLimit._open == 0:
                _OwnLimit._before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            _OwnLimit._open += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            _OwnLimit._open -= 1
            if _OwnLimit._open == 0:
                Image.MAX_IMAGE_PIXELS = _OwnLimit._before


def _has_path(paths: pd.Series) -> npt.NDArray[np.bool_]:
    # A copy, since pandas hands out its own memory read-only and unreadable images are struck out later.
    return np.array(paths.notna() & (paths.astype("str").str.strip() != ""), dtype=bool)


def _bytes(value: str, root: Path, allow_remote: bool) -> bytes:
    try:
        if "://" not in value:
            # Only a leading "~/" is the home folder; "~x.png" is a file's name.
            return (root / (Path(value).expanduser() if value.startswith("~/") else value)).read_bytes()
        if not allow_remote:
            _refuse_remote(value)
        with fsspec.open(value, "rb") as file:
            return bytes(file.read())
    except ImageError:
        raise
    except FileNotFoundError as error:
        raise ImageError("there is no such file") from error
    except Exception as error:  # every kind of remote storage has errors of its own
        raise ImageError(f"cannot be opened: {error or type(error).__name__}") from error


def _refuse_remote(address: str) -> None:
    # Addresses can be chained: in "zip://a.png::https://host/b.zip" it is the last one that needs the network.
    for part in address.split("::"):
        protocol, sign, _ = part.partition("://")
        if sign and protocol not in _LOCAL_PROTOCOLS:
            raise ImageError(f"'{protocol}://' needs a network; set allow_download=true to read images from there")


def _to_rgb(picture: Image.Image, background: int) -> Image.Image:
    if picture.mode.startswith(("I", "F")):
        return _to_8_bits(picture)
    if picture.has_transparency_data:
        layer = picture.convert("RGBA")
        behind = Image.new("RGBA", layer.size, (background, background, background, 255))
        return Image.alpha_composite(behind, layer).convert("RGB")
    return picture.convert("RGB")


def _to_8_bits(picture: Image.Image) -> Image.Image:
    # 16-bit and float files rarely use their whole range (scanners give 12 bits): the image's own range becomes 0..255.
    values = np.asarray(picture, dtype=np.float64)
    finite = values[np.isfinite(values)]
    if not finite.size:
        raise ImageError("no pixel holds a finite number")
    low, high = float(finite.min()), float(finite.max())
    span = high - low if high > low else 1.0
    scaled = (np.nan_to_num(values, nan=low, posinf=high, neginf=low) - low) / span * 255
    return Image.fromarray(scaled.round().astype(np.uint8)).convert("RGB")


def _resize(picture: Image.Image, factor: float, most: int) -> Image.Image:
    """Scale a picture and keep at most the middle `most` x `most` pixels, without ever making more than these."""
    width, height = (min(most, max(1, round(side * factor))) for side in picture.size)
    seen_x, seen_y = min(picture.width, width / factor), min(picture.height, height / factor)
    left, top = (picture.width - seen_x) / 2, (picture.height - seen_y) / 2
    box = (left, top, left + seen_x, top + seen_y)
    return picture.resize((width, height), Image.Resampling.BILINEAR, box=box)


def _centre(picture: Image.Image, size: int, fill: int) -> Image.Image:
    square = Image.new("RGB", (size, size), (fill, fill, fill))
    square.paste(picture, ((size - picture.width) // 2, (size - picture.height) // 2))
    return square


def _spacings(table: Table, column: str | None) -> npt.NDArray[Any]:
    if column is None:
        return np.full(len(table), np.nan)
    return pd.to_numeric(table.column(column), errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
