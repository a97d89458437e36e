"""Texts: missing ones, those without a word, and a hash of the words of each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fusetune.doctor.case import Case
from fusetune.doctor.findings import Finding
from fusetune.doctor.hashes import Hashes, text_hashes


@dataclass(frozen=True, eq=False)
class Texts:
    """What is known about the texts of one column.

    Attributes:
        column: The column.
        hashes: Hash of the words per row.
        words: Number of words per row.
    """

    column: str
    hashes: Hashes
    words: npt.NDArray[np.int64]


def look_at_texts(case: Case, column: str) -> Texts:
    """Hash the words of each text of a column."""
    return Texts(column, *text_hashes(case.table.column(column)))


def text_findings(case: Case, texts: Texts) -> list[Finding]:
    """Return findings about cells without a text, and about texts without a word."""
    cells = case.table.column(texts.column)
    missing = (cells.isna() | (cells.astype("str").str.strip() == "")).to_numpy(dtype=bool)
    found = []
    rows = np.flatnonzero(missing)
    if len(rows):
        evidence = {"what": f"{len(rows):,} of {len(cells):,} cells in '{texts.column}' are empty", "count": len(rows)}
        remedy = "nothing, if a text may be missing: these rows are trained and predicted without one"
        found.append(Finding("text_missing", "info", case.names(rows), (texts.column,), evidence, remedy))
    rows = np.flatnonzero(~missing & (texts.words == 0))
    if len(rows):
        shown = [str(text)[:40] for text in cells.iloc[rows[:20]]]
        what = f"{len(rows):,} texts in '{texts.column}' have no letter and no digit"
        remedy = "empty the cells, so that the text counts as missing"
        evidence = {"what": what, "count": len(rows), "texts": shown}
        found.append(Finding("text_empty", "warn", case.names(rows), (texts.column,), evidence, remedy))
    return found
