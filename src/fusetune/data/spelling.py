"""One value in several spellings: what counts as the same word, for headers, labels, groups, ids and categories alike.

Spaces at the ends, invisible marks and the two ways of writing an accent (Unicode NFC, NFD) never make two values of
one. Capital letters may, so words that differ only in them are told apart, and named to the user.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

import pandas as pd

# Zero-width characters and the byte order mark: nobody sees them. Joiners between letters (U+200C, U+200D) spell words.
_INVISIBLE = re.compile("[\u200b\u2060\ufeff]")


def tidy(word: str) -> str:
    """Return a word as everybody reads it: accents composed (NFC), no spaces at its ends, nothing invisible."""
    return unicodedata.normalize("NFC", _INVISIBLE.sub("", word)).replace("\u00a0", " ").strip()


def tidied(words: pd.Series) -> pd.Series:
    """Return a column of words with each one tidy; missing cells stay missing."""
    if words.dropna().str.isascii().all():
        return words.str.strip()
    return words.map({word: tidy(word) for word in words.dropna().unique()}).astype("str")


def folded(word: str) -> str:
    """Return what is left of a word without capital letters and repeated spaces: equal for words that look alike."""
    return " ".join(tidy(word).casefold().split())


def lookalikes(words: Iterable[str]) -> list[tuple[str, ...]]:
    """Return the words that differ only in capital letters, spaces or the way of writing an accent, in groups."""
    groups: dict[str, list[str]] = {}
    for word in dict.fromkeys(words):
        groups.setdefault(folded(word), []).append(word)
    return [tuple(group) for group in groups.values() if len(group) > 1]
