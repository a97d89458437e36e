from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusetune.doctor.hashes import (
    column_hashes,
    combined,
    difference_hash,
    equal_sets,
    near_pairs,
    text_hashes,
)


def naive_pairs(hashes: np.ndarray, distance: int) -> list[tuple[int, int]]:
    pairs = [(i, j) for i in range(len(hashes)) for j in range(i + 1, len(hashes))]
    return [(i, j) for i, j in pairs if bin(int(hashes[i]) ^ int(hashes[j])).count("1") <= distance]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 4))
def test_near_pairs_are_those_of_comparing_all(seed: int, distance: int) -> None:
    generator = np.random.default_rng(seed)
    base = generator.integers(0, 2**63, 12, dtype=np.uint64)
    flips = [sum(1 << int(b) for b in generator.choice(64, k, replace=False)) for k in generator.integers(0, 7, 60)]
    hashes = base[generator.integers(0, 12, 60)] ^ np.array(flips, dtype=np.uint64)
    assert [tuple(pair) for pair in near_pairs(hashes, distance).tolist()] == naive_pairs(hashes, distance)


def test_distances_that_could_be_missed_are_refused() -> None:
    with pytest.raises(ValueError, match="up to distance 4, not 5"):
        near_pairs(np.zeros(2, dtype=np.uint64), 5)


def test_many_unrelated_hashes_have_no_near_pairs() -> None:
    assert len(near_pairs(np.random.default_rng(0).integers(0, 2**63, 20_000, dtype=np.uint64))) == 0


def test_difference_hash_says_where_it_gets_brighter() -> None:
    steps = np.repeat(np.arange(9) * 10.0, 8)[None, :].repeat(72, 0).astype(np.float32)
    assert int(difference_hash(steps)) == 2**64 - 1
    assert int(difference_hash(steps[:, ::-1].copy())) == 0
    assert int(difference_hash(steps / 100)) == 0, "steps below one grey value are noise"


def test_texts_are_equal_by_their_words_in_any_script() -> None:
    hashes, words = text_hashes(
        pd.Series(["Chest pain, 3 days.", "chest  PAIN 3 days", "胸痛三天", "头痛三天", "...", None])
    )
    assert hashes[0] == hashes[1]
    assert hashes[2] != hashes[3]
    assert words.tolist() == [4, 4, 1, 1, 0, 0]


def test_cells_and_lists_are_hashed_by_value() -> None:
    lists = column_hashes(pd.Series([[1.0, 2.0], [1, 2], [2.0, 1.0], None]))
    assert lists[0] == lists[1]
    assert len(set(lists.tolist())) == 3
    numbers = column_hashes(pd.Series([1.5, 1.5, np.nan]))
    assert numbers[0] == numbers[1] != numbers[2]


def test_combined_hashes_know_which_column_a_value_is_in() -> None:
    one, two = np.array([1, 2, 0], dtype=np.uint64), np.array([2, 1, 0], dtype=np.uint64)
    assert len(set(combined([one, two]).tolist())) == 3


def test_equal_sets_ignore_rows_that_are_not_in_use() -> None:
    hashes = np.array([5, 7, 5, 7, 5], dtype=np.uint64)
    use = np.array([True, True, True, False, True])
    assert [rows.tolist() for rows in equal_sets(hashes, use)] == [[0, 2, 4]]
    assert equal_sets(hashes, np.zeros(5, dtype=bool)) == []
