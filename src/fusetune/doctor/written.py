"""How cells are written: numbers with a unit, dates whose order nobody can tell, words that count as an empty cell."""

from __future__ import annotations

import re

import numpy as np
import numpy.typing as npt

from fusetune.data.choices import Kind
from fusetune.data.words import day_order, is_words, open_order
from fusetune.doctor.examined import Examined
from fusetune.doctor.findings import Finding, Severity

# A number as people write it: a sign or a bound, digits with separators, and a unit or a percent sign.
_UNIT = r"(?:%|°?[a-zA-Zµμ]{1,6}(?:[/^*·²³\d][a-zA-Zµμ²³\d]*)*)"
_QUANTITY = re.compile(r"[<>≤≥~±]?\s*[-+]?\d[\d.,' \u00a0\u2009]*\s*" + _UNIT + "?")
_MOST = 0.9
# So few different values are sizes, doses or grades (S1, 5 mg, 10 mg), which are categories.
_FEW = 10


def written_findings(examined: Examined) -> list[Finding]:
    """Return findings about cells whose meaning hangs on how they are written."""
    # A column of measurements that all differ is left out as one that only names rows, which must not pass unsaid.
    columns = [c for c in examined.schema.columns if c.role in ("input", "unused")]
    found = [_quantities(examined, c.name) for c in columns if c.kind in (Kind.TEXT, Kind.CATEGORY)]
    found += [_orders(examined, name) for name in examined.columns(Kind.DATE)]
    found += [_empty_words(examined, column.name) for column in columns]
    return [finding for findings in found for finding in findings]


def _quantities(examined: Examined, name: str) -> list[Finding]:
    cells = examined.table.column(name)
    if not is_words(cells) or cells.nunique() <= _FEW:
        return []
    words = cells.dropna().str.strip()
    fits = words.map({word: bool(_QUANTITY.fullmatch(word)) for word in words.unique()})
    if fits.mean() < _MOST or not words.str.contains(r"[^\d\s.+-]", regex=True).any():
        return []
    kind = examined.schema.kind_of(name)
    what = f"cells in '{name}' are numbers with a unit or a separator, such as '{words[fits].iloc[0]}', read as {kind}"
    remedy = "write plain numbers (12.5, not 12,5 or 12 mg) in one unit, named in the header"
    return examined.about("numbers_as_words", "warn", what, remedy, _rows(cells.index.isin(words.index[fits])), (name,))


def _orders(examined: Examined, name: str) -> list[Finding]:
    cells = examined.table.column(name)
    rows = _rows(open_order(cells))
    if day_order(cells) is not None or not len(rows):
        return []
    what = f"dates in '{name}' may begin with the day or the month, such as '{cells.iloc[rows[0]]}', and no row tells"
    remedy = "write them as year-month-day; as they are, the month is taken to come first"
    return examined.about("dates_unclear", "warn", what, remedy, rows, (name,))


def _empty_words(examined: Examined, name: str) -> list[Finding]:
    if name not in examined.table.blanks:
        return []
    said = examined.table.blanks[name]
    said = said[examined.table.column(name).isna().to_numpy()[said.index]]
    words = ", ".join(sorted(said.unique()))
    what = f"cells in '{name}' say {words} and count as empty"
    remedy = "nothing, if they are; a word is written in quotation marks"
    # A column with one value beside them has several, if they are words.
    severity: Severity = "warn" if examined.table.column(name).nunique() <= 1 else "info"
    return examined.about("words_read_as_empty", severity, what, remedy, said.index.to_numpy(np.int64), (name,))


def _rows(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    return np.flatnonzero(mask).astype(np.int64)
