"""Images: decoded once, at reduced scale where the file allows it, to one square uint8 size.

Nothing is silent here: a file that cannot be read is a problem of its row, with its path, and never a black image.
Local paths are taken relative to the table. URLs are opened through fsspec, those that need a network only if allowed.
"""

from __future__ import annotations

import io
import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal

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
_LOCAL_PROTOCOLS = ("file", "local", "memory", "zip", "tar")
# Above this many bytes the decoded images are not kept in memory but decoded again for every batch.
_MEMORY = 6 * 2**30


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
        spacings = _spacings(table, self.spacing)
        sides = []
        for row in train:
            value = table.column(self.column).iloc[row]
            if isinstance(value, str) and np.isfinite(spacings[row]):
                with Image.open(io.BytesIO(_bytes(value, table.root, self.allow_remote))) as picture:
                    sides.append(max(picture.size) * spacings[row])
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
        data = _bytes(value, root, self.allow_remote)
        try:
            # Pillow warns from half its own limit on; ours replaces both.
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)
                with Image.open(io.BytesIO(data)) as picture:
                    if picture.width * picture.height > self.pixel_limit:
                        raise ImageError(
                            f"{picture.width:,} x {picture.height:,} pixels are more than data.pixel_limit="
                            f"{self.pixel_limit:,}; make the image smaller or raise the limit"
                        )
                    return self._square(picture, spacing)
        except UnidentifiedImageError as error:
            raise ImageError("not an image in a known format (JPEG, PNG, WebP, TIFF, BMP, GIF)") from error
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise ImageError(f"damaged image: {error}") from error

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
            scaled = _resize(colours, spacing * self.size / self.extent)
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
        self.present = (self.paths.notna() & (self.paths.astype("str").str.strip() != "")).to_numpy(dtype=bool)
        self.digests = np.zeros(len(self.table), dtype=np.uint64)
        self.pool = ThreadPoolExecutor(os.cpu_count() or 1)
        size = self.settings.size
        keep = len(self.table) * size * size * 3 <= _MEMORY
        self.pixels: Pixels | None = np.zeros((len(self.table), size, size, 3), np.uint8) if keep else None
        self._scan()

    def _scan(self) -> None:
        # Every image is read once before anything starts: a broken one is known now, not after an hour.
        rows = np.flatnonzero(self.present)
        with bar(f"reading {self.settings.column}", len(rows)) as shown:
            for row, outcome in zip(rows, self.pool.map(self._try, rows), strict=True):
                shown.advance()
                if isinstance(outcome, ImageError):
                    self.present[row] = False
                    self.problems[int(row)] = f"{self.paths.iloc[row]}: {outcome}"
                else:
                    self.digests[row] = np.frombuffer(blake2b(outcome, digest_size=8).digest(), np.uint64)[0]
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
        """Return uint8 [rows, 3, size, size]; absent rows are grey and must be masked by `present`."""
        if self.pixels is not None:
            found = self.pixels[rows]
        else:
            grey = np.full((self.settings.size, self.settings.size, 3), 127, np.uint8)
            found = np.stack(list(self.pool.map(lambda row: self._decode(row) if self.present[row] else grey, rows)))
        return torch.from_numpy(found).permute(0, 3, 1, 2)


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


def _bytes(value: str, root: Path, allow_remote: bool) -> bytes:
    protocol, sign, _ = value.partition("://")
    try:
        if not sign:
            return (root / Path(value).expanduser()).read_bytes()
        if protocol.split("::")[0] not in _LOCAL_PROTOCOLS and not allow_remote:
            raise ImageError(f"'{protocol}://' needs a network; set allow_download=true to read images from there")
        with fsspec.open(value, "rb") as file:
            return bytes(file.read())
    except FileNotFoundError as error:
        raise ImageError("there is no such file") from error
    except (OSError, ValueError, ImportError) as error:
        raise ImageError(f"cannot be opened: {error}") from error


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
    low, high = float(values.min()), float(values.max())
    scaled = (values - low) * (255 / (high - low)) if high > low else np.zeros_like(values)
    return Image.fromarray(scaled.round().astype(np.uint8)).convert("RGB")


def _resize(picture: Image.Image, factor: float) -> Image.Image:
    side = (max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))
    return picture.resize(side, Image.Resampling.BILINEAR)


def _centre(picture: Image.Image, size: int, fill: int) -> Image.Image:
    square = Image.new("RGB", (size, size), (fill, fill, fill))
    square.paste(picture, ((size - picture.width) // 2, (size - picture.height) // 2))
    return square


def _spacings(table: Table, column: str | None) -> npt.NDArray[Any]:
    if column is None:
        return np.full(len(table), np.nan)
    values = pd.to_numeric(table.column(column), errors="coerce").to_numpy(dtype=float)
    if not np.isfinite(values).any():
        raise TableError(f"image.spacing: column '{column}' of {table.name} holds no numbers")
    return values
