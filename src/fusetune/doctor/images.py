"""Pictures: every file is opened once, in parallel; what cannot be used is a finding, the rest becomes a few numbers.

Per row stay a status, a hash of the pixels, a difference hash and a thumbnail of 24 x 24 grey values: 600 bytes, so
that the memory for 100,000 pictures is 60 MB. Pictures above the limit of pixels are never decoded.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import UnidentifiedImageError

from fusetune.data import carried
from fusetune.data.decode import has_more, is_shortage, opened
from fusetune.data.images import ImageInput, Keeper, has_picture
from fusetune.data.paths import FRAME
from fusetune.data.table import Table
from fusetune.data.workers import choose_workers
from fusetune.doctor.examined import Codes, Examined
from fusetune.doctor.findings import FIRST, Finding, Severity
from fusetune.doctor.hashes import SIDE, Hashes, column_hashes, difference_hash, equal_sets
from fusetune.errors import ImageError, ShortageError
from fusetune.progress import bar

Sets = list[npt.NDArray[np.int64]]
THUMB = 24
_CHUNK = 256
# Encoders cut pictures into patches of 16 pixels: below that, nothing is left to see but a colour.
_TINY = 16
# The grey values of a picture of one colour spread by less than the rounding of its compression.
_FLAT = 1.0
# What Pillow, libjpeg and pydicom say of a file that ends too early.
_TOO_SHORT = ("truncated", "premature end", "less than expected")
_SMALLER = "make the pictures smaller, or raise data.pixel_limit if they are meant to be so large"
FRAMES = "their first frame or page is read (of a DICOM file the middle one): name another, '#frame=2' after the path"
REMEDIES: dict[str, tuple[Severity, str]] = {
    "image_missing": ("error", "correct the paths (they start at the table's folder), or empty the cells"),
    "image_empty": ("error", "the files have no bytes: copy them again, or empty the cells"),
    "image_unreadable": ("error", "replace the files, or empty the cells; data.unreadable=mask trains without them"),
    "image_truncated": ("error", "the files end too early: copy them again, or empty the cells"),
    "image_enormous": ("error", _SMALLER),
    "image_tiny": ("warn", "look at the pictures: placeholders and icons should be empty cells"),
    "image_blank": ("warn", "look at the pictures: one colour says nothing; empty the cells if they are placeholders"),
}
SAID = {
    "image_missing": "no such file",
    "image_empty": "no bytes in the file",
    "image_unreadable": "cannot be read",
    "image_truncated": "the file ends too early",
    "image_enormous": "more pixels than data.pixel_limit",
    "image_tiny": f"smaller than {_TINY} pixels on a side",
    "image_blank": "nothing but one colour",
    "image_frames": "several frames or pages, of which one is read",
}
_OF_MANY_CAUSES = ("image_missing", "image_unreadable")
_STATES = ("absent", "fine", *REMEDIES)
_BROKEN = [state for state, (severity, _) in REMEDIES.items() if severity == "error"]


@dataclass(eq=False)
class Pictures:
    """The pictures of one column, per row, and what is wrong with a file by its row's position."""

    column: str
    cells: pd.Series
    paths: pd.Series  # what to call them
    status: npt.NDArray[np.uint8]  # index into the states
    pixels: Hashes  # of the decoded pixels: equal files have equal ones
    hashes: Hashes  # difference hashes
    thumbs: npt.NDArray[np.uint8]  # grey values [rows, 24, 24]
    several: npt.NDArray[np.bool_]  # files with more frames or pages than the one that is read
    sides: npt.NDArray[np.int32]  # width and height [rows, 2], 0 where unknown
    problems: dict[int, str] = field(default_factory=dict)

    @classmethod
    def unopened(cls, cells: pd.Series, column: str) -> Pictures:
        """Return the pictures of some cells before any was opened."""
        paths = carried.names(cells).str.strip()
        count = len(paths)
        hashes, thumbs = np.zeros((2, count), dtype=np.uint64), np.zeros((count, THUMB, THUMB), dtype=np.uint8)
        status, several = np.zeros(count, dtype=np.uint8), np.zeros(count, dtype=bool)
        sides = np.zeros((count, 2), dtype=np.int32)
        return cls(column, cells, paths, status, hashes[0], hashes[1], thumbs, several, sides)

    def having(self, *states: str) -> npt.NDArray[np.bool_]:
        """Return which rows are in one of some states."""
        return np.isin(self.status, [_STATES.index(state) for state in states])

    @property
    def contents(self) -> Hashes:
        """Hash of the pixels, of the path where a file cannot be read (its content is unknown), 0 where absent."""
        unread, contents = self.having(*_BROKEN), self.pixels.copy()
        contents[unread] = column_hashes(self.paths[unread])
        return contents

    @property
    def read(self) -> npt.NDArray[np.bool_]:
        """Rows whose picture could be decoded, whatever it shows."""
        return (self.status > 0) & ~self.having(*_BROKEN)

    @property
    def usable(self) -> npt.NDArray[np.bool_]:
        """Rows whose picture could be decoded and shows something."""
        return self.having("fine")

    def equal(self) -> list[npt.NDArray[np.int64]]:
        """Return sets of rows with the same picture, pixel for pixel."""
        return equal_sets(self.pixels, self.usable)

    def alike(
        self, find: Callable[[Pictures, Codes | None], tuple[Sets, Sets]], labels: Codes | None
    ) -> tuple[Sets, Sets]:
        """Return the sets of rows that something finds among the pictures, given the label of each row, -1 unknown."""
        return find(self, labels)

    def look(self, row: int, reader: ImageInput, root: Path, keeper: Keeper | None) -> None:
        """Open the picture of one row."""
        path = str(self.paths.iloc[row])
        try:
            encoded = reader.fetch(self.cells.iloc[row], root)
            with opened(encoded, reader.pixel_limit) as picture:
                width, height = picture.size
                self.sides[row] = width, height
                self.several[row] = encoded.frame is None and has_more(picture)
                pixels = reader.loaded(picture, encoded) if keeper is None else keeper.load(picture, encoded, reader)
                square = reader.shaped(pixels)
        except ImageError as error:
            self._mark(row, _state(error, root / FRAME.sub("", path)), str(error))
            return
        except Exception as error:
            if not is_shortage(error):
                raise
            raise ShortageError(f"looking at {path} (column '{self.column}', table row {row}): {error}") from error
        grey = square.astype(np.float32).mean(2)
        if min(width, height) < _TINY:
            self._mark(row, "image_tiny", f"{width} x {height} pixels")
        elif grey.std() < _FLAT:
            self._mark(row, "image_blank", f"one colour, {width} x {height} pixels")
        else:
            self._mark(row, "fine")
        self.pixels[row] = int.from_bytes(blake2b(square.tobytes(), digest_size=8).digest(), "little")
        self.hashes[row] = difference_hash(grey)
        self.thumbs[row] = grey.reshape(THUMB, SIDE // THUMB, THUMB, SIDE // THUMB).mean((1, 3)).astype(np.uint8)

    def _mark(self, row: int, state: str, problem: str = "") -> None:
        self.status[row] = _STATES.index(state)
        if problem:
            self.problems[row] = "the file has no bytes" if state == "image_empty" else problem


Look = Callable[[Table, ImageInput, Keeper | None], Pictures]


def look_at_pictures(
    table: Table, reader: ImageInput, keeper: Keeper | None = None, workers: int | None = None
) -> Pictures:
    """Open every picture of a column once, several at a time.

    Args:
        table: The table.
        reader: Names the column, and says how its pictures are read.
        keeper: Keeps what a run can use of them.
        workers: Threads; None: chosen by what the machine has.
    """
    pictures, root = Pictures.unopened(table.column(reader.column), reader.column), table.root
    present = np.flatnonzero(has_picture(pictures.cells))
    threads = choose_workers(workers, pictures.paths.iloc[present])[0]
    with bar(f"looking at {reader.column}", len(present)) as progress, ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(present), _CHUNK):
            chunk = present[start : start + _CHUNK].tolist()
            for _ in pool.map(lambda row: pictures.look(row, reader, root, keeper), chunk):
                progress.advance()
    return pictures


def _state(error: ImageError, path: Path) -> str:
    cause = error.__cause__
    if isinstance(cause, FileNotFoundError):
        return "image_missing"
    if cause is None and "pixel_limit" in str(error):
        return "image_enormous"
    if _is_empty(path):
        return "image_empty"
    words = str(cause).lower()
    if not isinstance(cause, UnidentifiedImageError) and any(word in words for word in _TOO_SHORT):
        return "image_truncated"
    return "image_unreadable"


def _is_empty(path: Path) -> bool:
    try:
        return path.is_file() and path.stat().st_size == 0
    except (OSError, ValueError):  # what is no path at all
        return False


def picture_findings(examined: Examined, pictures: Pictures) -> list[Finding]:
    """Return one finding per kind of trouble with the files."""
    findings, total = [], int((pictures.status > 0).sum())
    what = f"of {total:,} pictures in '{pictures.column}'"
    for kind, (severity, remedy) in REMEDIES.items():
        rows = np.flatnonzero(pictures.having(kind))
        leave = "; or leave the column out with --inputs" if len(rows) == total and kind in _BROKEN else ""
        files = {examined.ids[row]: f"{pictures.paths[row]}: {pictures.problems[row]}" for row in rows[:20]}
        first = f"{FIRST}{next(iter(files.values()))}" if files and kind in _OF_MANY_CAUSES else ""
        told, todo = f"{what}: {SAID[kind]}", remedy + leave + first
        findings += examined.about(kind, severity, told, todo, rows, (pictures.column,), files=files)
    rows = np.flatnonzero(pictures.several)
    files = {examined.ids[row]: str(pictures.paths[row]) for row in rows[:20]}
    told = f"{what}: {SAID['image_frames']}"
    return findings + examined.about("image_frames", "warn", told, FRAMES, rows, (pictures.column,), files=files)
