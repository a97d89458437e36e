"""Which spellings are one word, and which only look alike."""

from __future__ import annotations

import unicodedata
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusetune.data.spelling import as_words, folded, lookalikes, tidied, tidy


@given(st.text(max_size=12))
def test_spaces_accents_and_invisible_marks_make_no_other_word(word: str) -> None:
    plain = tidy(word)
    assert tidy(plain) == plain
    for spelling in (f" {word}\t", f"\ufeff{word}\u200b", f"{word}\u00a0", unicodedata.normalize("NFD", word)):
        assert tidy(spelling) == plain
    assert tidied(pd.Series([word, None], dtype="str")).iloc[0] == plain


@pytest.mark.parametrize(
    ("words", "groups"),
    [
        (["Cat", "cat", "dog"], [("Cat", "cat")]),
        (["left  knee", "Left knee"], [("left  knee", "Left knee")]),
        (["Ａ", "A", "B"], [("Ａ", "A")]),
        (["1.1", "1.10"], []),
    ],
)
def test_words_that_look_alike_are_found_and_stay_several(words: list[str], groups: list[tuple[str, ...]]) -> None:
    assert lookalikes(words) == groups
    assert len({folded(word) for word in words}) == len(words) - sum(len(group) - 1 for group in groups)
    assert as_words(pd.Series(words)).nunique() == len(words)


@pytest.mark.parametrize(
    "cells",
    [
        [7, 8, None], [7.0, 8.0, np.nan], ["7", " 8", None], ["7.0", "8", ""],
        pd.array([7, 8, None], dtype="Int64"), pd.Categorical([7, 8, None]),
        pd.Series([7, "8", None], dtype=object),
    ],
)  # fmt: skip
def test_a_number_is_one_word_whatever_type_carries_it(cells: Any) -> None:
    words = as_words(pd.Series(cells))
    assert [None if pd.isna(word) else word for word in words] == ["7", "8", None]
