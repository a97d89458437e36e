"""Texts: missing ones, those without a word, and a hash of the words of each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fusetune.doctor.examined import Examined
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


def look_at_texts(examined: Examined, column: str) -> Texts:
    """Hash the words of each text of a column."""
    return Texts(column, *text_hashes(examined.table.column(column)))


def text_findings(examined: Examined, texts: Texts) -> list[Finding]:
    """Return findings about cells without a text, and about texts without a word."""
    column, cells, findings = texts.column, examined.table.column(texts.column), []
    missing = (cells.isna() | (cells.astype("str").str.strip() == "")).to_numpy(dtype=bool)
    if count := int(missing.sum()):
        what = f"{count:,} of {len(cells):,} cells in '{column}' are empty"
        remedy = "nothing, if a text may be missing: these rows are trained and predicted without one"
        rows = np.flatnonzero(missing)
        findings.append(examined.finding("text_missing", "info", what, remedy, rows, (column,), count=count))
    rows = np.flatnonzero(~missing & (texts.words == 0))
    if count := len(rows):
        what, words = f"{count:,} texts in '{column}' have no letter and no digit", map(str, cells.iloc[rows[:20]])
        remedy, texts_ = "empty the cells, so that the text counts as missing", [text[:40] for text in words]
        finding = examined.finding("text_empty", "warn", what, remedy, rows, (column,), count=count, texts=texts_)
        findings.append(finding)
    return findings
