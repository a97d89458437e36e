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
    """The texts of one column: per row, a hash of its words and their number."""

    column: str
    hashes: Hashes
    words: npt.NDArray[np.int64]


def look_at_texts(examined: Examined, column: str) -> Texts:
    """Hash the words of each text of a column."""
    return Texts(column, *text_hashes(examined.table.column(column)))


def text_findings(examined: Examined, texts: Texts) -> list[Finding]:
    """Return findings about cells without a text, and about texts without a word."""
    column, cells = texts.column, examined.table.column(texts.column)
    missing = (cells.isna() | (cells.astype("str").str.strip() == "")).to_numpy(dtype=bool)
    rows, empty = np.flatnonzero(missing), np.flatnonzero(~missing & (texts.words == 0))
    what = f"of {len(cells):,} cells in '{column}' are empty"
    remedy = "nothing, if a text may be missing: these rows are trained and predicted without one"
    findings = examined.about("text_missing", "info", what, remedy, rows, (column,))
    what = f"texts in '{column}' have no letter and no digit"
    remedy = "empty the cells, so that the text counts as missing"
    examples = [str(text)[:40] for text in cells.iloc[empty[:20]]]
    return findings + examined.about("text_empty", "warn", what, remedy, empty, (column,), texts=examples)
