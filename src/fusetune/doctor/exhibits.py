"""What a page shows of a finding: a few of its rows, those that belong together side by side.

Pictures are opened once more, since the examination keeps of each a thumbnail by which nobody could judge. What is too
large for that, comes over a network or cannot be had again, is shown as its thumbnail.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image

from fusetune.data.choices import Kind
from fusetune.data.decode import opened
from fusetune.data.several import in_words
from fusetune.doctor.examine import Examination
from fusetune.doctor.findings import Finding
from fusetune.doctor.images import Pictures
from fusetune.doctor.several import SeveralPictures
from fusetune.errors import FusetuneError

Pixels = npt.NDArray[np.uint8]
# The longer side of a picture as it is shown, in pixels.
SIDE = 320
# Sets of rows that are shown of a finding, rows of a set, pictures of a row, and its cells (texts come first).
SETS, MEMBERS, PICTURES, CELLS = 6, 4, 3, 12
# Decoding larger pictures, only to show them, takes seconds.
_MOST_PIXELS = 25_000_000
_LETTERS = 280
# Beginnings of kinds whose rows are looked at as a whole: with label, pictures and texts. Of others, the column counts.
_WHOLE = ("duplicate", "near_duplicate", "similar", "conflicting", "label_errors", "image_")


@dataclass(frozen=True, eq=False)
class Shown:
    """A row as a finding shows it.

    Attributes:
        row: Its id.
        label: Its label; None where it is not shown, or missing.
        note: What the finding says of this row.
        pictures: By column, several of one column numbered: uint8 [height, width, 3], the longer side at most `SIDE`.
        words: Cells that can be read, by column.
    """

    row: str
    label: str | None = None
    note: str = ""
    pictures: dict[str, Pixels] = field(default_factory=dict)
    words: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Exhibit:
    """A finding with what is shown of it.

    Attributes:
        finding: The finding.
        sets: Rows that belong together; of a finding about single rows, one row each.
        sizes: How many rows each set has, shown or not.
        more: How many sets are not shown.
    """

    finding: Finding
    sets: Sequence[Sequence[Shown]] = ()
    sizes: Sequence[int] = ()
    more: int = 0

    def redacted(self) -> Exhibit:
        """Return the same without rows, and without sentences that may quote them."""
        return Exhibit(self.finding.redacted())


def exhibits(examination: Examination, most: int = SETS) -> list[Exhibit]:
    """Return every finding with up to `most` sets of its rows, in the order of the findings."""
    look = _Look(examination)
    return [_exhibit(finding, most, look) for finding in examination.findings]


def _exhibit(finding: Finding, most: int, look: _Look) -> Exhibit:
    evidence = finding.evidence
    sets = (evidence.get("sets") or [[row] for row in finding.rows[:most]])[:most]
    notes = _notes(finding, sets)
    whole = finding.kind.startswith(_WHOLE)
    shown = [[look.row(row, finding, notes.get(row, ""), whole) for row in some[:MEMBERS]] for some in sets]
    total = int(evidence.get("set_count", len(finding.rows)))
    return Exhibit(finding, shown, [len(some) for some in sets], total - len(shown))


def _notes(finding: Finding, sets: list[list[str]]) -> dict[str, str]:
    """Return what the evidence says of single rows."""
    evidence = finding.evidence
    errors = evidence.get("likely", 0) > 0
    notes = {item["row"]: _suspicion(item, errors) for item in evidence.get("suspects", [])}
    notes |= evidence.get("files", {})
    for members, parts in zip(sets, evidence.get("parts", []), strict=False):
        notes |= {row: f"in the {part} part" for row, part in zip(members, parts, strict=True)}
    return notes


def _suspicion(item: dict[str, Any], shown: bool) -> str:
    """Return what is expected of a label; where no error is shown, the chance of one is that at the upper bound."""
    if "p_wrong" not in item:  # a number
        return f"about {item['likely']:.4g} is expected, not {item['label']:.4g}"
    chance = f"{'' if shown else 'at most '}{_percent(item['p_wrong'])}"
    return (
        f"expected {item['likely']} ({_percent(item['p_likely'])}), not this label ({_percent(item['p_label'])}); "
        f"the label is wrong with a probability of {chance}"
    )


def _percent(share: float) -> str:
    return "under 1%" if share < 0.01 else "over 99%" if share > 0.99 else f"{share:.0%}"


@dataclass
class _Look:
    """Rows of an examined table as they are shown; every picture is opened once."""

    examination: Examination
    seen: dict[tuple[str, int], Pixels | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        examined = self.examination.examined
        self.places = pd.Index(examined.ids)
        pictured = {pictures.column for pictures in self.examination.pictures}
        vectors = {name for names in examined.vectors for name in names}
        plain = [c for c in examined.schema.inputs if c.kind is not Kind.VECTOR and c.name not in pictured | vectors]
        self.readable = [c.name for c in sorted(plain, key=lambda c: c.kind is not Kind.TEXT)]

    def row(self, row: str, finding: Finding, note: str, whole: bool) -> Shown:
        """Return a row: as a whole, or what it says in the finding's columns."""
        examined, at = self.examination.examined, int(self.places.get_loc(row))
        frame = examined.table.frame
        label = None
        if whole and examined.labels is not None and examined.labels[at] >= 0:
            label = examined.classes[examined.labels[at]]
        columns = [name for name in finding.columns if name in self.readable]
        columns = (
            (columns or self.readable[:CELLS]) if whole else [name for name in finding.columns if name in frame.columns]
        )
        words = {name: in_short(frame[name].iloc[at]) for name in columns}
        return Shown(row, label, note, dict(self._pictures(at, finding.columns)) if whole else {}, words)

    def _pictures(self, at: int, columns: tuple[str, ...]) -> Iterator[tuple[str, Pixels]]:
        """Yield the pictures of a row: those of the columns that are meant, if any of them holds pictures."""
        all_of_them = self.examination.pictures
        for pictures in [it for it in all_of_them if it.column in columns] or all_of_them:
            each, own = pictures, [at]
            if isinstance(pictures, SeveralPictures):
                assert pictures.elements is not None and pictures.places is not None
                each = pictures.elements
                own = pictures.places.index[pictures.places.row == at][:PICTURES].tolist()
            for number, place in enumerate(own, start=1):
                if (pixels := self._picture(each, place)) is not None:
                    yield pictures.column if len(own) == 1 else f"{pictures.column}, {number}", pixels

    def _picture(self, pictures: Pictures, at: int) -> Pixels | None:
        key = (pictures.column, at)
        if key not in self.seen:
            self.seen[key] = self._opened(pictures, at)
        return self.seen[key]

    def _opened(self, pictures: Pictures, at: int) -> Pixels | None:
        if not pictures.having("fine", "image_tiny", "image_blank")[at]:
            return None
        far = "://" in str(pictures.paths.iloc[at])
        if not far and pictures.sides[at].prod(dtype=np.int64) <= _MOST_PIXELS:
            reader, root = self.examination.readers[pictures.column], self.examination.examined.table.root
            try:
                encoded = reader.fetch(pictures.cells.iloc[at], root)
                with opened(encoded, reader.pixel_limit) as picture:
                    return _shrunk(reader.model_copy(update={"size": SIDE}).loaded(picture, encoded))
            except (FusetuneError, OSError):  # it was there a moment ago, and a page must not fail for it
                pass
        return _shrunk(np.repeat(pictures.thumbs[at][:, :, None], 3, axis=2), SIDE // 2)


def _shrunk(pixels: Pixels, least: int = 0) -> Pixels:
    """Return a picture whose longer side is `SIDE` at most, and `least` at least."""
    picture = Image.fromarray(pixels)
    picture.thumbnail((SIDE, SIDE))
    if max(picture.size) < least:
        picture = picture.resize((least, least), Image.Resampling.BICUBIC)
    return np.asarray(picture)


def in_short(value: Any) -> str:
    """Return a cell's text, cut where it is long."""
    if isinstance(value, tuple):
        value = in_words(value)
    if np.ndim(value) == 0 and pd.isna(value):
        return "missing"
    text = str(value)
    return text if len(text) <= _LETTERS else text[: _LETTERS - 1].rstrip() + "…"
