"""Which rows each stage gets: one division of the rows, and what the published notebooks make of it.

A stage of the paper does not always keep to its part. `Parts` says which rows every stage really sees, so that a leak
is a union of two parts in one place and not a side effect of how files were written.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fusetune.data.split import PARTS, Rows, Split, make_split
from fusetune_papers.reproduce.material import Material

# 9,065 / 3,022 / 3,021 frames in the notebooks on FPUS23.
FRACTIONS = (0.6, 0.2, 0.2)
_EVERY = 10
# The row that the notebook drops, as a share of its rows.
_DROPPED = 39338 / 67972


@dataclass(frozen=True)
class Parts:
    """Rows by stage.

    Attributes:
        split: The division into train, valid and test; the test part is locked.
        image: Rows that the image network is fine-tuned on.
        text: Rows that the text network is trained on.
        head: Rows that the head is trained on.
        source: For each of the head's rows, the row whose text scores it gets: itself, but for L6.
        valid: Validation rows.
    """

    split: Split
    image: Rows
    text: Rows
    head: Rows
    source: Rows
    valid: Rows


def divide(material: Material, flaws: frozenset[str], seed: int) -> Parts:
    """Divide the rows.

    Given train and test parts are kept, and every tenth training row is a validation row, as published; otherwise the
    shares are 60, 20 and 20 %, by whole group or (L1) by frame, as published. L3 and L5 add the validation rows to what
    the stages are trained on, L6 joins scores by position, and L15 loses the first row of what image networks are
    trained on.
    """
    split = _given(material, flaws) if material.fixed is not None else _dealt(material, flaws, seed)
    train, valid = split.rows("train"), split.rows("valid")
    everything = np.union1d(train, valid)
    image = everything if "L3" in flaws else train
    text = everything if "L5" in flaws else train
    head, source = _joined(material, text) if "L6" in flaws else (text, text)
    return Parts(split, _without_the_first(material, image, flaws), text, head, source, valid)


def test_rows(material: Material, parts: Parts, flaws: frozenset[str], image: bool) -> Rows:
    """Return the test rows, which must have been unlocked; with L15, image networks lose the first of a given part."""
    rows = parts.split.rows("test")
    return _without_the_first(material, rows, flaws) if image else rows


def _without_the_first(material: Material, rows: Rows, flaws: frozenset[str]) -> Rows:
    return rows[1:] if "L15" in flaws and material.fixed is not None else rows


def shifted_join(count: int, dropped: int) -> tuple[Rows, Rows]:
    """Return which rows the published join keeps, and whose scores each of them gets (L6).

    One row is dropped before scoring, its number stays in use, and the scores are numbered anew from 0. Put side by
    side by number, row i gets the i-th score, which after the gap is that of row i + 1; the last row finds none.

    Args:
        count: Rows before the drop.
        dropped: Position of the dropped row.
    """
    kept = np.delete(np.arange(count - 1), dropped)
    return kept, np.where(kept < dropped, kept, kept + 1)


def _joined(material: Material, rows: Rows) -> tuple[Rows, Rows]:
    """Return the rows that the join keeps and those whose scores they get.

    The dropped row is the first whose title has fewer than two characters; where there is none, the one at the same
    share of the rows as in the notebook.
    """
    titles = material.table.frame["text"].iloc[rows].fillna("").astype("str")
    short = np.flatnonzero(titles.str.len() < 2)
    kept, source = shifted_join(len(rows), int(short[0]) if len(short) else int(_DROPPED * len(rows)))
    return rows[kept], rows[source]


def _given(material: Material, flaws: frozenset[str]) -> Split:
    assert material.fixed is not None
    if "L5" not in flaws and (material.fixed == "valid").any():
        return Split(material.ids, _codes(material.fixed), "given")
    part = np.where(material.fixed == "test", 2, 0).astype(np.int8)
    train = np.flatnonzero(part == 0)
    # The notebook takes every tenth of the rows that its join has kept.
    part[(_joined(material, train)[0] if "L6" in flaws else train)[::_EVERY]] = 1
    return Split(material.ids, part, "given; every tenth training row is a validation row")


def _codes(parts: npt.NDArray[np.object_]) -> npt.NDArray[np.int8]:
    return np.array([PARTS.index(part) for part in parts], dtype=np.int8)


def _dealt(material: Material, flaws: frozenset[str], seed: int) -> Split:
    if "L1" in flaws and material.by_frame is not None:
        return Split(material.ids, _codes(material.by_frame), "frames at random, as published")
    groups = None if "L1" in flaws else material.groups
    how = "stratified" if groups is None else "grouped"
    return make_split(material.ids, material.strata, how=how, groups=groups, fractions=FRACTIONS, seed=seed)


def shared_groups(material: Material, train: Rows, test: Rows) -> tuple[int, int]:
    """Return how many of the test rows' streams also have training rows, and how many streams the test rows have."""
    assert material.groups is not None
    streams = set(material.groups.iloc[test])
    return len(streams & set(material.groups.iloc[train])), len(streams)
