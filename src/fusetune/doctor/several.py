"""Pictures of columns whose cells hold several: each file is looked at once, and said of its row and its place there.

For whatever looks at rows as a whole, a row has the contents of its pictures together and the mean of their thumbnails.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from fusetune.data.images import ImageInput, Keeper
from fusetune.data.several import Elements, Places
from fusetune.doctor.examined import Codes, Examined
from fusetune.doctor.findings import FIRST, Finding
from fusetune.doctor.hashes import Hashes, combined, equal_sets
from fusetune.doctor.images import FRAMES, REMEDIES, SAID, Look, Pictures, Sets, look_at_pictures, picture_findings

_SHOWN = 20


def apart(examined: Examined, column: str) -> Elements:
    """Return the pictures of a column of lists, as rows of a table of their own."""
    return Elements.of(examined.table, [column], column, (), "picture")


@dataclass(eq=False)
class SeveralPictures(Pictures):
    """The pictures of one column per row, where a row has any number of them.

    Attributes:
        elements: Each picture by itself.
        places: Which row has which.
    """

    elements: Pictures | None = None
    places: Elements | None = None

    @property
    def contents(self) -> Hashes:
        """Hash of the contents of all pictures of a row, in any order, 0 where there are none."""
        assert self.elements is not None and self.places is not None
        return row_hashes(self.places, self.elements.contents)

    def equal(self) -> list[Places]:
        """Return sets of rows that have a picture in common, pixel for pixel."""
        assert self.elements is not None and self.places is not None
        return sharing_same(self.places, self.elements.pixels, self.elements.usable)

    def alike(
        self, find: Callable[[Pictures, Codes | None], tuple[Sets, Sets]], labels: Codes | None
    ) -> tuple[Sets, Sets]:
        """Return sets of rows that have pictures of one set, from the sets that there are among the pictures."""
        assert self.elements is not None and self.places is not None
        own = None if labels is None else _labels_of(self.places, labels, len(self.elements.status))
        first, second = find(self.elements, own)
        return sharing(self.places, first), sharing(self.places, second)


def look_at_rows(
    examined: Examined, reader: ImageInput, keeper: Keeper | None, look: Look = look_at_pictures
) -> Pictures:
    """Open every picture of a column once, whether its cells hold one or several; `look` opens those of a table."""
    if reader.column not in examined.several:
        return look(examined.table, reader, keeper)
    places = apart(examined, reader.column)
    each = look(places.table, reader, keeper)
    rows = places.rows
    read = np.bincount(places.row[each.read[places.index]], minlength=rows)
    status = np.zeros(rows, dtype=np.uint8)
    # A row is what the best of its pictures is.
    for place in np.argsort(-_rank(each)[places.index], kind="stable"):
        status[places.row[place]] = each.status[places.index[place]]
    thumbs = np.zeros((rows, *each.thumbs.shape[1:]), dtype=np.float64)
    usable = each.read[places.index]
    np.add.at(thumbs, places.row[usable], each.thumbs[places.index[usable]])
    mean = (thumbs / np.maximum(read, 1)[:, None, None]).round().astype(np.uint8)
    pixels = row_hashes(places, each.pixels)
    names = pd.Series([""] * rows, dtype="str")
    several = np.bincount(places.row[each.several[places.index]], minlength=rows) > 0
    return SeveralPictures(
        reader.column, examined.table.column(reader.column), names, status, pixels, pixels, mean, several,
        np.zeros((rows, 2), dtype=np.int32), elements=each, places=places,
    )  # fmt: skip


def rows_findings(examined: Examined, pictures: Pictures) -> list[Finding]:
    """Return one finding per kind of trouble with the files of a column, whether its cells hold one or several."""
    if not isinstance(pictures, SeveralPictures):
        return picture_findings(examined, pictures)
    each, places = pictures.elements, pictures.places
    assert each is not None and places is not None
    findings = []
    for kind, (severity, remedy) in REMEDIES.items():
        at = np.flatnonzero(each.having(kind)[places.index])
        findings += _about(examined, pictures, kind, severity, remedy, at)
    at = np.flatnonzero(each.several[places.index])
    return findings + _about(examined, pictures, "image_frames", "warn", FRAMES, at)


def _about(
    examined: Examined, pictures: SeveralPictures, kind: str, severity: str, remedy: str, at: Places
) -> list[Finding]:
    each, places = pictures.elements, pictures.places
    assert each is not None and places is not None
    if not len(at):
        return []
    rows = np.unique(places.row[at])
    total = int((np.bincount(places.row, minlength=places.rows) > 0).sum())
    what = f"of {total:,} rows have {len(at):,} such pictures in '{pictures.column}': {SAID[kind]}"
    files: dict[str, str] = {}
    for place in at[:_SHOWN]:
        element, name = int(places.index[place]), examined.ids[places.row[place]]
        said = filter(None, [places.names[place], each.paths[element], each.problems.get(element)])
        files[name] = "; ".join(filter(None, [files.get(name), ": ".join(map(str, said))]))
    first = next(iter(files.items()))
    parts = [[examined.ids[places.row[place]], int(places.part[place])] for place in at]
    told = f"{remedy}{FIRST}row {first[0]}, {first[1]}"
    return examined.about(kind, severity, what, told, rows, (pictures.column,), files=files, places=parts)  # type: ignore[arg-type]


def _labels_of(places: Elements, labels: Codes, count: int) -> Codes:
    """Return the label of each element, -1 where its rows have several or none is known."""
    least, most = np.full(count, np.iinfo(np.int64).max), np.full(count, -1, dtype=np.int64)
    np.minimum.at(least, places.index, labels[places.row])
    np.maximum.at(most, places.index, labels[places.row])
    return np.where(least == most, most, -1)


def sharing(places: Elements, sets: list[Places]) -> list[Places]:
    """Return sets of two or more rows that have an element of one set."""
    found = [np.unique(places.row[np.isin(places.index, members)]) for members in sets]
    return [rows for rows in found if len(rows) > 1]


def sharing_same(places: Elements, hashes: Hashes, use: npt.NDArray[np.bool_]) -> list[Places]:
    """Return sets of two or more rows that have equal elements, by the hashes of elements that are used."""
    by_place = equal_sets(hashes[places.index], use[places.index]) if len(places.index) else []
    found = [np.unique(places.row[members]) for members in by_place]
    return [rows for rows in found if len(rows) > 1]


def row_hashes(places: Elements, hashes: Hashes) -> Hashes:
    """Return a hash per row of those of its elements, whatever their order; 0 of a row without any."""
    result = np.zeros(places.rows, dtype=np.uint64)
    if not len(places.index):
        return result
    own = combined([hashes[places.index]])
    order = np.lexsort((own, places.row))
    rank = np.arange(len(order)) - np.searchsorted(places.row, places.row[order])
    np.add.at(result, places.row[order], combined([own[order], rank.astype(np.uint64)]))
    return result


def _rank(each: Pictures) -> npt.NDArray[np.int64]:
    """Return how far from usable each picture is."""
    return np.where(each.usable, 0, np.where(each.read, 1, 2))
