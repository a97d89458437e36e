"""Vectors: the same from number columns and from lists, scaled by the training rows, absent where incomplete."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from fusetune.data.table import Table
from fusetune.data.vectors import VectorInput
from fusetune.errors import TableError

TRAIN = np.array([0, 1, 2, 3])


def table(**columns: Any) -> Table:
    return Table(pd.DataFrame(columns), "t.csv", Path())


def test_vectors_of_columns_and_of_lists_are_the_same() -> None:
    values = np.random.default_rng(0).normal(5, 3, (6, 3))
    wide = table(a=values[:, 0], b=values[:, 1], c=values[:, 2])
    long = table(v=list(values))
    mean, std = values[TRAIN].mean(0), values[TRAIN].std(0)
    for rows, columns in ((wide, ["a", "b", "c"]), (long, ["v"])):
        vector = VectorInput.fit(rows, columns, TRAIN)
        source = vector.bind(rows)
        assert source.values == pytest.approx((values - mean) / std, abs=1e-5)
        assert source.read(np.array([2, 0])).numpy() == pytest.approx(source.values[[2, 0]])
        assert VectorInput.model_validate_json(vector.model_dump_json()) == vector


def test_incomplete_vectors_are_absent() -> None:
    rows = table(a=[1.0, 2, 3, 4, None, np.inf], b=[1.0, 0, 5, 5, 5, 5])
    source = VectorInput.fit(rows, ["a", "b"], np.arange(6)).bind(rows)
    assert source.present.tolist() == [True] * 4 + [False] * 2
    assert (source.values[4:] == 0).all()
    lists = table(v=[[1.0, 2], [3, 4], None, [1, None], (5, 6)])
    source = VectorInput.fit(lists, ["v"], np.arange(5)).bind(lists)
    assert source.present.tolist() == [True, True, False, False, True]
    empty = VectorInput.fit(lists, ["v"], np.arange(5)).bind(table(v=[None, None]))
    assert empty.present.tolist() == [False, False]
    assert empty.values.shape == (2, 2)


def test_vectors_that_do_not_fit_are_refused() -> None:
    with pytest.raises(TableError, match="column 'v' holds 2 numbers, but 3 in row 1"):
        VectorInput.fit(table(v=[[1, 2], [1, 2, 3]]), ["v"], np.arange(2))
    with pytest.raises(TableError, match="is incomplete in every training row"):
        VectorInput.fit(table(v=[None, [1.0, 2.0]]), ["v"], np.array([0]))
    vector = VectorInput.fit(table(v=[[1, 2], [3, 4]]), ["v"], np.arange(2))
    with pytest.raises(TableError, match="has 3 numbers, the model knows 2"):
        vector.bind(table(v=[[1, 2, 3]]))


@pytest.mark.parametrize("value", [0.1, 1e9 + 0.1, 7])
def test_equal_numbers_are_not_blown_up_by_rounding(value: float) -> None:
    vector = VectorInput.fit(table(a=[value] * 7, b=np.arange(7.0)), ["a", "b"], np.arange(7))
    assert vector.std == [1.0, 2.0]
