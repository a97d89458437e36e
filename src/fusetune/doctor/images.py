"""Pictures: every file is opened once, in parallel; what cannot be used is a finding, the rest becomes a few numbers.

Per row stay a status, a hash of the pixels, a difference hash and a thumbnail of 24 x 24 grey values: 600 bytes, so
that the memory for 100,000 pictures is 60 MB. Pictures above the limit of pixels are never decoded.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import UnidentifiedImageError

from fusetune.data.decode import opened
from fusetune.data.images import ImageInput, Keeper
from fusetune.data.kinds import FRAME
from fusetune.data.workers import choose_workers
from fusetune.doctor.case import Case
from fusetune.doctor.findings import Finding, Severity
from fusetune.doctor.hashes import SIDE, Hashes, column_hashes, difference_hash
from fusetune.errors import ImageError
from fusetune.progress import bar

THUMB = 24
_CHUNK = 256
# Encoders cut pictures into patches of 16 pixels: below that, nothing is left to see but a colour.
_TINY = 16
# The grey values of a picture of one colour spread by less than the rounding of its compression.
_FLAT = 1.0
_STATES = (
    "absent", "fine", "image_missing", "image_empty", "image_unreadable", "image_truncated", "image_enormous",
    "image_tiny", "image_blank",
)  # fmt: skip
_BROKEN = _STATES[2:7]
# What Pillow, libjpeg and pydicom say of a file that ends too early.
_TOO_SHORT = ("truncated", "premature end", "less than expected")
_REMEDIES: dict[str, tuple[Severity, str]] = {
    "image_missing": ("error", "correct the paths (they start at the table's folder), or empty the cells"),
    "image_empty": ("error", "the files have no bytes: copy them again, or empty the cells"),
    "image_unreadable": ("error", "replace the files, or empty the cells; data.unreadable=mask trains without them"),
    "image_truncated": ("error", "the files end too early: copy them again, or empty the cells"),
    "image_enormous": (
        "error",
        "make the pictures smaller, or raise data.pixel_limit if they are meant to be so large",
    ),
    "image_tiny": ("warn", "look at the pictures: placeholders and icons should be empty cells"),
    "image_blank": ("warn", "look at the pictures: one colour says nothing; empty the cells if they are placeholders"),
}


@dataclass(eq=False)
class Pictures:
    """What is known about the pictures of one column.

    Attributes:
        column: The column.
        paths: Its cells.
        status: Index into the states per row, uint8 [rows].
        pixels: Hash of the decoded pixels per row; equal files have equal hashes.
        hashes: Difference hash per row.
        thumbs: Grey values, uint8 [rows, 24, 24].
        problems: What is wrong with a file, by row position.
    """

    column: str
    paths: pd.Series
    status: npt.NDArray[np.uint8]
    pixels: Hashes
    hashes: Hashes
    thumbs: npt.NDArray[np.uint8]
    problems: dict[int, str]

    def having(self, *states: str) -> npt.NDArray[np.bool_]:
        """Return which rows are in one of some states."""
        return np.isin(self.status, [_STATES.index(state) for state in states])

    @property
    def contents(self) -> Hashes:
        """Hash of the pixels, of the path where a file cannot be read (its content is unknown), 0 where absent."""
        unread = self.having(*_BROKEN)
        found = self.pixels.copy()
        found[unread] = column_hashes(self.paths[unread])
        return found

    @property
    def read(self) -> npt.NDArray[np.bool_]:
        """Rows whose picture could be decoded, whatever it shows."""
        return (self.status > 0) & ~self.having(*_BROKEN)

    @property
    def usable(self) -> npt.NDArray[np.bool_]:
        """Rows whose picture could be decoded and shows something."""
        return self.having("fine")


def look_at_pictures(case: Case, reader: ImageInput, keeper: Keeper | None = None) -> Pictures:
    """Open every picture of a column once, several at a time; `keeper` keeps what a run can use of them."""
    column = reader.column
    rows = len(case.ids)
    paths = case.table.column(column)
    words = paths.astype("str").str.strip()
    present = np.flatnonzero((paths.notna() & (words != "")).to_numpy(dtype=bool))
    found = Pictures(
        column,
        words,
        np.zeros(rows, dtype=np.uint8),
        np.zeros(rows, dtype=np.uint64),
        np.zeros(rows, dtype=np.uint64),
        np.zeros((rows, THUMB, THUMB), dtype=np.uint8),
        {},
    )
    root = case.table.root
    threads = choose_workers(None, words.iloc[present])[0]
    with bar(f"looking at {column}", len(present)) as shown, ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(present), _CHUNK):
            chunk = present[start : start + _CHUNK]
            looks = pool.map(lambda path: _look(reader, path, root, keeper), words.iloc[chunk].tolist())
            for row, look in zip(chunk, looks, strict=True):
                shown.advance()
                _keep(found, int(row), look)
    return found


@dataclass(frozen=True)
class _Look:
    state: str
    problem: str = ""
    pixels: int = 0
    hash: int = 0
    thumb: npt.NDArray[np.uint8] | None = None


def _keep(found: Pictures, row: int, look: _Look) -> None:
    found.status[row] = _STATES.index(look.state)
    found.pixels[row], found.hashes[row] = look.pixels, look.hash
    if look.thumb is not None:
        found.thumbs[row] = look.thumb
    if look.problem:
        found.problems[row] = look.problem


def _look(reader: ImageInput, path: str, root: Path, keeper: Keeper | None) -> _Look:
    try:
        encoded = reader.fetch(path, root)
        with opened(encoded, reader.pixel_limit) as picture:
            width, height = picture.size
            pixels = reader.loaded(picture, encoded) if keeper is None else keeper.load(picture, encoded, reader)
            square = reader.shaped(pixels)
    except ImageError as error:
        state = _state(error, root / FRAME.sub("", path))
        return _Look(state, "the file has no bytes" if state == "image_empty" else str(error))
    grey = square.astype(np.float32).mean(2)
    state, problem = "fine", ""
    if min(width, height) < _TINY:
        state, problem = "image_tiny", f"{width} x {height} pixels"
    elif grey.std() < _FLAT:
        state, problem = "image_blank", f"one colour, {width} x {height} pixels"
    content = int.from_bytes(blake2b(square.tobytes(), digest_size=8).digest(), "little")
    thumb = grey.reshape(THUMB, SIDE // THUMB, THUMB, SIDE // THUMB).mean((1, 3)).astype(np.uint8)
    return _Look(state, problem, content, int(difference_hash(grey)), thumb)


def _state(error: ImageError, path: Path) -> str:
    cause = error.__cause__
    if isinstance(cause, FileNotFoundError):
        return "image_missing"
    if cause is None and "pixel_limit" in str(error):
        return "image_enormous"
    if path.is_file() and path.stat().st_size == 0:
        return "image_empty"
    said = str(cause).lower()
    if not isinstance(cause, UnidentifiedImageError) and any(word in said for word in _TOO_SHORT):
        return "image_truncated"
    return "image_unreadable"


def picture_findings(case: Case, pictures: Pictures) -> list[Finding]:
    """Return one finding per kind of trouble with the files."""
    found = []
    for kind, (severity, remedy) in _REMEDIES.items():
        rows = np.flatnonzero(pictures.having(kind))
        if len(rows):
            first = {case.ids.iloc[row]: f"{pictures.paths.iloc[row]}: {pictures.problems[row]}" for row in rows[:20]}
            what = f"{len(rows):,} of {int((pictures.status > 0).sum()):,} pictures in '{pictures.column}'"
            evidence = {"what": what, "count": len(rows), "files": first}
            found.append(Finding(kind, severity, case.names(rows), (pictures.column,), evidence, remedy))
    return found
