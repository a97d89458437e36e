"""Rows with any number of pictures or texts, as one source: each element is read once, rows are sets of elements.

What is in a row does not depend on the order of its elements: they are put in order by their content. A row that has
one element has the content of that element, so that a column of lists of one says what a plain column would.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from fusetune.data import carried
from fusetune.data.images import ImageSource
from fusetune.data.several import Elements, Places
from fusetune.data.source import Bag, Source, notes_of
from fusetune.data.split import Rows
from fusetune.errors import clipped

_SHOWN, _LETTERS = 3, 80
_GOLDEN, _MIX = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9)


@dataclass
class BagSource:
    """The rows of one table as bags of elements.

    Attributes:
        elements: The elements of all rows, each once.
        index: The element at each place, int64 [places], ordered by row, then by content.
        row: The row of each place, int64 [places], ascending.
        offsets: Where each row's places start, int64 [rows + 1].
        apart: Which row has which elements, as the table has them.
        origin: The place in `apart` of each place, int64 [places].
        truncated: How many texts were cut.
    """

    elements: Source
    index: Places
    row: Places
    offsets: Places
    present: npt.NDArray[np.bool_]
    digests: npt.NDArray[np.uint64]
    apart: Elements
    origin: Places
    truncated: int = 0
    problems: dict[int, str] = field(default_factory=dict)
    unseen: dict[int, str] = field(default_factory=dict)

    @classmethod
    def of(cls, apart: Elements, elements: Source) -> BagSource:
        """Put elements that were read back into rows; those that could not be used are left out and said.

        Args:
            apart: Which row has which elements.
            elements: What was read of them.
        """
        there = elements.present[apart.index] if len(apart.index) else np.zeros(0, dtype=bool)
        origin = np.flatnonzero(there)
        origin = origin[np.lexsort((elements.digests[apart.index[origin]], apart.row[origin]))]
        index, row = apart.index[origin], apart.row[origin]
        counts = np.bincount(row, minlength=apart.rows)
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        digests = _row_digests(elements.digests[index], row, offsets)
        cut, problems = getattr(elements, "truncated", 0), _problems(apart, elements.problems)
        return cls(elements, index, row, offsets, counts > 0, digests, apart, origin, cut, problems)

    @property
    def counts(self) -> Places:
        """Elements per row, int64 [rows]."""
        counts: Places = np.diff(self.offsets)
        return counts

    @property
    def lengths(self) -> npt.NDArray[np.int64] | None:
        """Tokens of the longest text per row; None of pictures."""
        if (own := self.elements.lengths) is None:
            return None
        longest = np.ones(len(self.present), dtype=np.int64)
        if len(self.index):
            longest[self.present] = np.maximum.reduceat(own[self.index], self.offsets[:-1][self.present])
        return longest

    def places(self, rows: Rows) -> Places:
        """Return the places of some rows, one row after the other."""
        counts = self.counts[rows]
        ends = np.cumsum(counts)
        places: Places = np.arange(int(counts.sum())) + np.repeat(self.offsets[rows] - ends + counts, counts)
        return places

    def read(self, rows: Rows) -> Bag:
        """Return the raw inputs of some rows that all have an element."""
        return self.read_places(self.places(rows), rows)

    def read_places(self, places: Places, rows: Rows) -> Bag:
        """Return the raw inputs of some rows with some of their elements only.

        Args:
            places: What is read, one row after the other; at least one of each row.
            rows: The rows, each once.
        """
        owner = self.row[places]
        row = np.cumsum(np.append(False, owner[1:] != owner[:-1]))
        read = self.elements.read(self.index[places])
        assert not isinstance(read, Bag)
        rank = torch.from_numpy(places - self.offsets[owner])
        return Bag(read, torch.arange(len(places)), torch.from_numpy(row), rank, len(rows))

    def some(self, rows: Rows) -> BagSource:
        """Return some rows, with the elements that they have; see `Source`."""
        places = self.places(rows)
        used, index = np.unique(self.index[places], return_inverse=True)
        row = np.repeat(np.arange(len(rows)), self.counts[rows])
        origin = self.origin[places]
        names = [self.apart.names[place] for place in origin.tolist()]
        table = self.apart.table.take(used)
        apart = Elements(table, index, row, self.apart.part[origin], names, len(rows))
        offsets = np.concatenate([[0], np.cumsum(self.counts[rows])]).astype(np.int64)
        notes = (notes_of(self.problems, rows), notes_of(self.unseen, rows))
        bits = (self.present[rows], self.digests[rows])
        return BagSource(
            self.elements.some(used), index, row, offsets, *bits, apart, np.arange(len(places)), self.truncated, *notes
        )

    def told(self, row: int) -> list[tuple[int, str]]:
        """Return, for each place of a row, its number among all places as the table has them, and what to call it."""
        found = []
        for place in range(self.offsets[row], self.offsets[row + 1]):
            origin = int(self.origin[place])
            words = clipped(str(carried.names(self._cell(place)).iloc[0]), _LETTERS)
            found.append((origin, ": ".join(filter(None, [self.apart.names[origin], words]))))
        return found

    def text_of(self, place: int) -> str:
        """Return the text at a place."""
        return str(self._cell(place).iloc[0])

    def _cell(self, place: int) -> pd.Series:
        """Return the cell of the element at a place, as a column of one row."""
        at = int(self.index[place])
        return self.apart.table.frame.iloc[at : at + 1, -1]  # what is said beside the elements stands before them

    def describe(self, what: str) -> str:
        """Return one line about how many elements the rows have, which are called `what`."""
        counts = self.counts
        most, mean = int(counts.max(initial=0)), float(counts.mean()) if len(counts) else 0.0
        repeated = len(self.index) - len(np.unique(self.elements.digests[self.index]))
        again = f"; {repeated:,} of them are copies of another, and encoded once" if repeated else ""
        least = int(counts.min(initial=most))
        each = f"{most} in each row" if least == most else f"{least} to {most} in a row ({mean:.1f} on average)"
        return f"{len(self.index):,} {what}s in {len(counts):,} rows, {each}{again}"


def pictures_of(source: Source) -> ImageSource | None:
    """Return the pictures that a source reads, or None where it reads something else."""
    inner = source.elements if isinstance(source, BagSource) else source
    return inner if isinstance(inner, ImageSource) else None


def element_counts(sources: Iterable[Source]) -> Places | None:
    """Return how many elements each row has in sources with several in a row; None where there are no such sources."""
    counts = [source.counts for source in sources if isinstance(source, BagSource)]
    return np.sum(counts, axis=0) if counts else None


def _row_digests(digests: npt.NDArray[np.uint64], row: Places, offsets: Places) -> npt.NDArray[np.uint64]:
    """Return a digest per row of the digests of its elements in order; of a single one it is its own."""
    rank = (np.arange(len(row)) - offsets[row]).astype(np.uint64)
    with np.errstate(over="ignore"):
        mixed = (digests ^ (rank * _GOLDEN)) * _MIX
        mixed ^= mixed >> np.uint64(31)
        total = np.zeros(len(offsets) - 1, dtype=np.uint64)
        np.add.at(total, row, np.where(rank == 0, digests, mixed))
    return total


def _problems(apart: Elements, wrong: dict[int, str]) -> dict[int, str]:
    """Return what is wrong with elements by their row, each with its place in the row."""
    found: dict[int, list[str]] = {}
    if not wrong:
        return {}
    for place in np.flatnonzero(np.isin(apart.index, list(wrong))):
        name, text = apart.names[place], wrong[int(apart.index[place])]
        found.setdefault(int(apart.row[place]), []).append(f"{name}: {text}" if name else text)
    return {
        row: "; ".join(texts[:_SHOWN]) + (f"; and {len(texts) - _SHOWN:,} more" if len(texts) > _SHOWN else "")
        for row, texts in found.items()
    }
