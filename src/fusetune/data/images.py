"""Images: decoded once, at reduced scale where the file allows it, to one square uint8 size.

Nothing is silent here: a file that cannot be read is a problem of its row, with its path, and never a black image.
Local paths are taken relative to the table. URLs are opened through fsspec, those that need a network only if allowed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from fusetune.data import carried
from fusetune.data.batch import AHEAD
from fusetune.data.cache import PixelCache
from fusetune.data.decode import Picture, is_one_of_several, is_shortage, load_pixels, opened, scale_of
from fusetune.data.source import Source, notes_of
from fusetune.data.split import Rows
from fusetune.data.spread import Pixels
from fusetune.data.square import Fit, to_scale, to_square
from fusetune.data.stored import Encoded, byte_limit, read_encoded
from fusetune.data.table import Table
from fusetune.data.words import finite_numbers
from fusetune.data.workers import choose_workers
from fusetune.errors import ImageError, RunError, ShortageError, TableError
from fusetune.progress import bar

# Above this many bytes the decoded images are not kept in memory but fetched again for every batch.
_MEMORY = 6 * 2**30
# Rows that a thread reads in one go, and rows handed to the threads at a time: a waiting task is an object, and a table
# can have millions of rows.
_PIECE, _WINDOW = 16, 4096
_GREY = 127
_REMEDY = (
    "Repair the files or empty the cells; data.unreadable=mask trains with these images marked as absent, and --inputs "
    "without the column leaves it out."
)
# The reason for the number of batches that are prepared ahead of use.
_WHY = " (one waits while another is made)"
_FEWER = "close other programs, lower data.workers, or refuse large images with data.pixel_limit"
# Part of every digest: to be raised when the same file and settings give other pixels than before. Files that begin
# like these have kept theirs.
_DECODING, _KEPT = 2, (b"\xff\xd8", b"\x89PNG", b"RIFF", b"GIF8")
R = TypeVar("R")


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
        outside: May files be read that are not in the table's folder?
    """

    model_config = ConfigDict(extra="forbid")
    column: str
    size: int
    fit: Fit
    background: int = 255
    spacing: str | None = None
    extent: float | None = None
    pixel_limit: int = 200_000_000
    allow_remote: bool = False
    outside: Literal["allow", "refuse"] = "allow"

    def fit_extent(self, table: Table, train: Rows) -> ImageInput:
        """Choose the physical side of the square so that 95 % of the training images fit in whole."""
        if self.spacing is None:
            return self
        spacings, cells = _spacings(table, self.spacing), table.column(self.column)
        usable = train[has_picture(cells)[train] & (spacings[train] > 0)]
        sides = []
        for row in usable:
            try:
                with opened(self.fetch(cells.iloc[row], table.root), self.pixel_limit) as picture:
                    sides.append(max(picture.size) * spacings[row])
            except ImageError:
                continue  # reading the images reports it, with its row and path
        if not sides:
            raise TableError(
                f"image.spacing: no training row of {table.name} has both a readable image in '{self.column}' and a "
                f"positive number in '{self.spacing}'"
            )
        return self.model_copy(update={"extent": float(np.quantile(sides, 0.95))})

    def bind(self, table: Table, reading: Reading | None = None) -> ImageSource:
        """Decode a table's images.

        Rows without a path are absent; rows whose image cannot be read are absent and listed in `problems`.
        """
        return ImageSource(self, table, reading or Reading())

    def fetch(self, value: object, root: Path) -> Encoded:
        """Return the image of a cell as it is stored: the file at its path (see `read_encoded`), or the cell itself."""
        found = carried.path_or_file(value, self.pixel_limit)
        if isinstance(found, Encoded):
            return found
        return read_encoded(found, root, self.allow_remote, self.outside == "refuse", byte_limit(self.pixel_limit))

    def square(self, encoded: Encoded, spacing: float = math.nan) -> Pixels:
        """Decode one image.

        Args:
            encoded: What `fetch` gave.
            spacing: Physical size of a pixel of the file, if images are brought to one scale.

        Returns:
            uint8 [size, size, 3].

        Raises:
            ImageError: Saying what is wrong with the file.
        """
        with opened(encoded, self.pixel_limit) as picture:
            if self.extent is None:
                return self.shaped(self.loaded(picture, encoded))
            if not 0 < spacing < math.inf:
                raise ImageError(f"column '{self.spacing}' holds no positive pixel size for this image")
            return self._scaled(picture, encoded, spacing * self.size / self.extent)

    def loaded(self, picture: Picture, encoded: Encoded) -> Pixels:
        """Decode an opened image to no fewer pixels than its square has; without `extent`."""
        return load_pixels(picture, encoded, (self.size, self.size), self.background)

    def shaped(self, pixels: Pixels) -> Pixels:
        """Bring what `loaded` returned to the square."""
        return to_square(pixels, self.size, self.fit, self.background)

    def loads_alike(self, other: ImageInput, picture: Picture) -> bool:
        """Return whether both settings decode an image to the same pixels, whatever squares they make of them.

        Args:
            other: The other settings.
            picture: An opened image that was not loaded yet: loading may change the size that it states.
        """
        scale, another = (scale_of(picture, (it.size, it.size)) for it in (self, other))
        return scale == another and self.background == other.background

    def _scaled(self, picture: Picture, encoded: Encoded, factor: float) -> Pixels:
        width, height = picture.size
        least = (math.ceil(min(1.0, factor) * width), math.ceil(min(1.0, factor) * height))
        pixels = load_pixels(picture, encoded, least, self.background)
        reduction = max(width, height) / max(pixels.shape[:2])
        return to_scale(pixels, factor * reduction, self.size, self.background)

    def digest(self, encoded: Encoded, spacing: float) -> int:
        """Return a 64-bit hash of a file's content and of everything else that its square depends on."""
        settings = self.model_dump(include={"size", "fit", "background", "extent"})
        decoding = 1 if encoded.content.startswith(_KEPT) else _DECODING
        facts: list[object] = [decoding, settings, None if self.extent is None else spacing]
        if encoded.frame is not None:
            facts.append(encoded.frame)
        digest = blake2b(json.dumps(facts).encode(), digest_size=8)
        digest.update(encoded.content)
        return int.from_bytes(digest.digest(), "little")


@dataclass(frozen=True)
class Scan:
    """What is known of the images of a table once each was opened.

    Attributes:
        present: Rows with an image that can be read, bool [rows].
        digests: Hash of each row's image, uint64 [rows].
        several: Files of which one frame is taken, and nobody said which, bool [rows].
        problems: Why a row's image cannot be read, by row.
    """

    present: npt.NDArray[np.bool_]
    digests: npt.NDArray[np.uint64]
    several: npt.NDArray[np.bool_]
    problems: dict[int, str]

    def some(self, rows: Rows) -> Scan:
        """Return what is known of some rows."""
        return Scan(self.present[rows], self.digests[rows], self.several[rows], notes_of(self.problems, rows))

    @classmethod
    def joined(cls, scans: Sequence[Scan]) -> Scan:
        """Return what is known of several tables, one after the other."""
        starts = np.cumsum([0, *(len(one.present) for one in scans)]).tolist()
        problems = {
            row + start: text for one, start in zip(scans, starts, strict=False) for row, text in one.problems.items()
        }
        return cls(
            np.concatenate([one.present for one in scans]),
            np.concatenate([one.digests for one in scans]),
            np.concatenate([one.several for one in scans]),
            problems,
        )


Opener = Callable[[ImageInput, Table], Scan]


@dataclass(frozen=True)
class Reading:
    """How images are read; the pixels do not depend on it.

    Attributes:
        workers: Threads; None: chosen by what the machine has.
        cache: Folder for decoded images, or None.
        cache_gb: Most that they may take there.
        scan: Opens all images of a table elsewhere, and puts their pixels into the cache; None: it is done here.
    """

    workers: int | None = None
    cache: Path | None = None
    cache_gb: float = 0
    scan: Opener | None = None


@dataclass(frozen=True)
class Keeper:
    """Keeps the squares that a run will need of images that are decoded for something else before it.

    Attributes:
        settings: What the run will make of the images, without `spacing`; the column does not matter.
        cache: Where the run will look for them.
    """

    settings: ImageInput
    cache: PixelCache

    def load(self, picture: Picture, encoded: Encoded, reader: ImageInput) -> Pixels:
        """Decode an opened image as `reader` does, and keep the run's square if it would decode the same pixels.

        A JPEG that the run needs at a finer scale is left to it: one scale's pixels are not to be had from another's.
        """
        alike = self.settings.loads_alike(reader, picture)
        pixels = reader.loaded(picture, encoded)
        if alike and (key := self.settings.digest(encoded, math.nan)) not in self.cache:
            self.cache.put(key, self.settings.shaped(pixels))
        return pixels


@dataclass
class ImageSource:
    """The images of one table, in memory where they fit, else from the cache, else decoded for every batch."""

    settings: ImageInput
    table: Table
    reading: Reading
    known: Scan | None = None  # of images that were opened before
    lengths: None = None
    problems: dict[int, str] = field(default_factory=dict)
    unseen: dict[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.known is None and self.reading.scan is not None:
            self.known = self.reading.scan(self.settings, self.table)
        self.cells = self.table.column(self.settings.column)
        self.paths = carried.names(self.cells)
        self.spacings = _spacings(self.table, self.settings.spacing)
        self.present = has_picture(self.cells)
        self.several = np.zeros(len(self.table), dtype=bool)  # files of which one frame is taken, and nobody said which
        self.digests = np.zeros(len(self.table), dtype=np.uint64)
        size, where = self.settings.size, self.reading.cache
        self.threads, self._reason = choose_workers(self.reading.workers, self.paths)
        self.cache = None if where is None else PixelCache(where, size, self.reading.cache_gb)
        keep = self.known is None and len(self.table) * size * size * 3 <= _MEMORY
        self.pixels: Pixels | None = np.zeros((len(self.table), size, size, 3), np.uint8) if keep else None
        self.cached = 0
        if self.known is None:
            self._scan()
        else:
            self.present, self.digests, self.several = self.known.present, self.known.digests, self.known.several
            self.problems = self.known.problems

    def __reduce__(self) -> tuple[Any, ...]:
        return ImageSource, (self.settings, self.table, replace(self.reading, scan=None), self.scanned)

    @property
    def scanned(self) -> Scan:
        """What is known of the images."""
        return Scan(self.present, self.digests, self.several, self.problems)

    def some(self, rows: Rows) -> ImageSource:
        """Return some rows, whose images are opened when they are read; see `Source`."""
        return ImageSource(self.settings, self.table.take(rows), self.reading, self.scanned.some(rows))

    def describe(self) -> str:
        """Return one line about how the images were and will be read."""
        parts = [f"{self.settings.column}: {int(self.present.sum()):,} images read with {self._reason}"]
        if self.cache is not None:
            parts.append(f"{self.cached:,} of them decoded before")
        if self.pixels is not None:
            parts.append(f"kept in memory ({self.pixels.nbytes / 2**20:,.0f} MiB), batches {AHEAD} ahead{_WHY}")
        elif self.known is not None:
            parts.append("opened elsewhere before")
        else:
            source = "decoded" if self.cache is None else "fetched from the cache"
            parts.append(f"too many for memory, {source} for every batch, {AHEAD} ahead{_WHY}")
        if self.cache is not None and self.cache.freed:
            parts.append(f"{self.cache.freed / 2**20:,.0f} MiB of older ones dropped there (store.images_gb)")
        if self.cache is not None and self.cache.full:
            parts.append(f"{self.cache.home} took no more of them (store.images_gb)")
        return "; ".join(parts)

    def note(self) -> str | None:
        """Return a sentence about files with several frames or pages, of which nobody chose one; or None."""
        rows = np.flatnonzero(self.several)
        if not len(rows):
            return None
        return (
            f"{len(rows):,} of {int(self.present.sum()):,} images in '{self.settings.column}' hold several frames or "
            f"pages (such as {self.paths.iloc[rows[0]]}): the first is read, of a DICOM file the middle one; "
            "'#frame=2' at the end of a path chooses another"
        )

    def _scan(self) -> None:
        # Every image is read once before anything starts: a broken one is known now, not after an hour.
        rows = np.flatnonzero(self.present)
        with bar(f"reading {self.settings.column}", len(rows)) as progress:
            for read, cached in self._spread(self._first, rows):
                progress.advance(read)
                self.cached += cached
        self.problems = dict(sorted(self.problems.items()))
        if self.pixels is not None:
            self.pixels[~self.present] = _GREY
        if self.cache is not None:
            self.cache.flush()

    def _spread(self, work: Callable[[Rows], R], items: Rows) -> Iterator[R]:
        """Let the threads work on pieces of an array; results come in order."""
        if len(items) <= _PIECE:  # a thread costs more than it could save
            yield from map(work, [items] if len(items) else [])
            return
        with ThreadPoolExecutor(self.threads, "reading") as pool:
            for start in range(0, len(items), _WINDOW):
                window = items[start : start + _WINDOW]
                yield from pool.map(work, [window[i : i + _PIECE] for i in range(0, len(window), _PIECE)])

    def _first(self, rows: Rows) -> tuple[int, int]:
        """Read rows for the first time; return how many, and how many of them the cache had."""
        cached = 0
        for row, cell in zip(rows.tolist(), self.cells.iloc[rows].tolist(), strict=True):
            try:
                cached += self._take(row, self.settings.fetch(cell, self.table.root))
            except ImageError as error:
                self.present[row] = False
                self.problems[row] = f"{self.paths.iloc[row]}: {error}"
            except Exception as error:  # a thread must not end without telling at which row
                name = f"{self.paths.iloc[row]} (column '{self.settings.column}', {self.table.unit} {row})"
                if is_shortage(error):
                    raise ShortageError(f"reading {name} failed: {error or 'memory is short'}; {_FEWER}") from error
                raise RunError(f"reading {name} failed: {type(error).__name__}: {error}") from error
        return len(rows), cached

    def _take(self, row: int, encoded: Encoded) -> bool:
        """Put a row's pixels where later batches get them from; return whether the cache had them."""
        spacing = float(self.spacings[row])
        key = self.settings.digest(encoded, spacing)
        square = None if self.cache is None or self.pixels is None else self.cache.get(key)
        cached = square is not None or (self.pixels is None and self.cache is not None and key in self.cache)
        if not cached:
            square = self.settings.square(encoded, spacing)
            if self.cache is not None:
                self.cache.put(key, square)
        if self.pixels is not None and square is not None:
            self.pixels[row] = square
        self.digests[row] = key
        self.several[row] = is_one_of_several(encoded, self.settings.pixel_limit)
        return cached

    def read(self, rows: Rows) -> Tensor:
        """Return uint8 [rows, 3, size, size], channels last; absent rows are grey and must be masked by `present`.

        Raises:
            ImageError: If an image that could be read at the start no longer can, or has changed.
        """
        pixels = self._again(rows) if self.pixels is None else self.pixels[rows]
        return torch.from_numpy(pixels).permute(0, 3, 1, 2)

    def _again(self, rows: Rows) -> Pixels:
        pixels = np.full((len(rows), self.settings.size, self.settings.size, 3), _GREY, np.uint8)

        def fetch(places: Rows) -> None:
            for place in places:
                pixels[place] = self._fetched(int(rows[place]))

        for _ in self._spread(fetch, np.flatnonzero(self.present[rows])):
            pass
        return pixels

    def _fetched(self, row: int) -> Pixels:
        """Return a row's pixels from the cache or from its file."""
        square = None if self.cache is None else self.cache.get(int(self.digests[row]))
        if square is not None:
            return square
        spacing = float(self.spacings[row])
        name = f"{self.paths.iloc[row]} ({self.table.unit} {row})"
        try:
            encoded = self.settings.fetch(self.cells.iloc[row], self.table.root)
            square = self.settings.square(encoded, spacing)
        except ImageError as error:
            raise ImageError(f"{name} was readable before, but now: {error}") from error
        if self.settings.digest(encoded, spacing) != self.digests[row]:
            raise ImageError(f"{name} was changed since the images were first read; start again")
        return square


def raise_for_problems(source: Source, ids: pd.Series, remedy: str = _REMEDY, column: str | None = None) -> None:
    """Refuse a table with unreadable images.

    Args:
        source: What was read.
        ids: Row ids.
        remedy: What the user can do.
        column: What to call the column; default: by its name.

    Raises:
        ImageError: Naming the rows and paths.
    """
    count = len(source.problems)
    if not count:
        return
    column = source.settings.column if column is None and isinstance(source, ImageSource) else column
    lines = [f"{count:,} image(s) of column '{column}' cannot be read:"]
    lines += [f"  - row {ids.iloc[row]}: {text}" for row, text in list(source.problems.items())[:10]]
    lines += [f"  - and {count - 10:,} more"] if count > 10 else []
    raise ImageError("\n".join([*lines, remedy]))


def has_picture(cells: pd.Series) -> npt.NDArray[np.bool_]:
    """Return which cells of an image column are not empty."""
    # A copy, since pandas hands out its own memory read-only and unreadable images are struck out later.
    if cells.dtype == object:
        return np.array([not carried.is_absent(cell) for cell in cells], dtype=bool)
    return np.array(cells.notna() & (cells.astype("str").str.strip() != ""), dtype=bool)


def _spacings(table: Table, column: str | None) -> npt.NDArray[np.float64]:
    if column is None:
        return np.full(len(table), np.nan)
    return finite_numbers(table.column(column))
