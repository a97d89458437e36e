"""One value in several spellings: what counts as the same word, for headers, labels, groups, ids and categories alike.

Spaces at the ends, invisible marks and the two ways of writing an accent (Unicode NFC, NFD) never make two values of
one, and nor does the type that carries it: 7, 7.0 and "7" are one. Capital letters may, so words that differ only in
them are told apart, and named to the user.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from datetime import date, datetime, time
from typing import Any

import numpy as np
import pandas as pd

# Zero-width characters and the byte order mark: nobody sees them. Joiners between letters (U+200C, U+200D) spell words.
_INVISIBLE = re.compile("[\u200b\u2060\ufeff]")
_WHOLE = re.compile(r"([+-]?\d+)\.0+")
_EXAMPLES = 3


def tidy(word: str) -> str:
    """Return a word as everybody reads it: accents composed (NFC), no spaces at its ends, nothing invisible."""
    return unicodedata.normalize("NFC", _INVISIBLE.sub("", word)).replace("\u00a0", " ").strip()


def repeated(names: Iterable[str]) -> list[str]:
    """Return the names that there are several of."""
    return [name for name, count in Counter(names).items() if count > 1]


def tidied(words: pd.Series) -> pd.Series:
    """Return a column of words with each one tidy; missing cells stay missing."""
    if words.dropna().str.isascii().all():
        return words.str.strip()
    return words.map({word: tidy(word) for word in words.dropna().unique()}).astype("str")


def printed(cells: pd.Series) -> pd.Series:
    """Return cells as the words that they are or print (dtype str), missing ones missing.

    Where one cell is missing, a DataFrame holds whole numbers as fractions: 7.0 prints as 7.
    """
    words = cells.astype(object) if isinstance(cells.dtype, pd.CategoricalDtype) else cells
    if words.dtype == object or pd.api.types.is_float_dtype(words):
        words = words.astype(object).map(_print, na_action="ignore")
    return words.astype("str").where(cells.notna())


def _print(value: Any) -> str:
    whole = isinstance(value, float) and value.is_integer() and abs(value) < 2**53
    return str(int(value) if whole else value)


def word_of(value: Any) -> str:
    """Return a single value as a tidy word, whatever type carries it: 7 for 7.0 and "7.0", the day for midnight."""
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, float):
        return _print(value)
    if isinstance(value, datetime) and value.timetz() == time(0):
        return value.date().isoformat()
    word = tidy(value.isoformat() if isinstance(value, date) else str(value))
    whole = _WHOLE.fullmatch(word)
    return whole[1] if whole else word


def as_words(cells: pd.Series) -> pd.Series:
    """Return a column as tidy words (dtype str), whatever type carries it; cells that are missing or blank are missing.

    This is what decides whether two cells hold the same group, label, part, id or category.
    """
    if isinstance(cells.dtype, pd.CategoricalDtype):
        cells = cells.astype(cells.cat.categories.dtype if cells.notna().all() else object)
    if pd.api.types.is_integer_dtype(cells):
        return cells.astype("str")
    if pd.api.types.is_string_dtype(cells) and cells.dtype != object:
        words = tidied(cells).str.replace(f"^{_WHOLE.pattern}$", r"\1", regex=True).astype("str")
        return words.mask((words == "").to_numpy(dtype=bool))
    there = cells.notna().to_numpy()
    if cells.dtype == object:  # 1 and True would be one key of a dictionary
        words = pd.Series([word_of(cell) if has else None for cell, has in zip(cells, there, strict=True)], cells.index)
    else:
        words = cells.map({cell: word_of(cell) for cell in cells[there].unique()})
    words = words.astype("str").mask((words == "").to_numpy(dtype=bool))
    words.name = cells.name
    return words


def folded(word: str) -> str:
    """Return what is left of a word without capitals, wide forms and repeated spaces: equal if words look alike."""
    return " ".join(unicodedata.normalize("NFKC", tidy(word)).casefold().split())


def lookalikes(words: Iterable[str]) -> list[tuple[str, ...]]:
    """Return the words that differ only in capital letters, spaces or the way of writing an accent, in groups."""
    groups: dict[str, list[str]] = {}
    for word in dict.fromkeys(words):
        groups.setdefault(folded(word), []).append(word)
    return [tuple(group) for group in groups.values() if len(group) > 1]


def spellings(cells: pd.Series) -> tuple[list[tuple[Any, ...]], list[tuple[str, ...]]]:
    """Return the cells that are one word in several spellings, and the words that only look like one another."""
    if isinstance(cells.dtype, pd.CategoricalDtype):
        cells = cells.astype(object)
    if cells.dtype != object and not pd.api.types.is_string_dtype(cells):
        return [], []
    words = as_words(cells).dropna()
    typed = pd.Series([(type(cell), cell) for cell in cells[words.index]], words.index).drop_duplicates()
    several = typed.groupby(words[typed.index].to_numpy(), sort=False).agg(list)
    return [tuple(cell for _, cell in one) for one in several if len(one) > 1], lookalikes(words)


def examples(sets: list[tuple[Any, ...]]) -> str:
    """Return the first few spellings of the first few values, as they would be written in Python."""
    return ", ".join(" and ".join(map(repr, one[:_EXAMPLES])) for one in sets[:_EXAMPLES])
