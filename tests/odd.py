"""Tables that no sane person would write: for tests that anything is read or refused."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from hypothesis import strategies as st

CELLS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=12), st.binary(max_size=4),
    st.dates(), st.datetimes(), st.decimals(allow_nan=False), st.lists(st.integers(-9, 9), max_size=3),
    st.lists(st.floats(), min_size=2, max_size=2), st.tuples(st.text(max_size=2)),
    st.dictionaries(st.text(max_size=2), st.integers(), max_size=1),
    st.sampled_from(["a.png", "yes", "no", "2020-01-01", "1.5", "007", "train", "", " ", "nan", "1e999", "31/12/99"]),
    st.complex_numbers(), st.timedeltas(), st.just(pd.NA), st.just(pd.NaT), st.just(np.ones((2, 2))),
)  # fmt: skip
SINGLE = st.sampled_from(
    [
        st.integers(-(2**63), 2**63 - 1), st.floats(), st.booleans(), st.text(max_size=30), st.binary(max_size=3),
        st.sampled_from(["a", "b", None]), st.lists(st.floats(), max_size=2), st.just(None), st.dates(),
    ]
)  # fmt: skip
NAMES = st.sampled_from(["id", "x_id", "columns", "uid", "image", "é", "", "Unnamed: 0", "1"]) | st.text(max_size=4)


@st.composite
def tables(draw: st.DrawFn, rows: st.SearchStrategy[int] = st.integers(1, 30)) -> pd.DataFrame:  # noqa: B008
    """Return up to four columns of any name, each of one kind of cell or of all."""
    names = draw(st.lists(NAMES, min_size=1, max_size=4, unique=True))
    return draw(columns(names, rows))


@st.composite
def columns(draw: st.DrawFn, names: Sequence[str], rows: st.SearchStrategy[int]) -> pd.DataFrame:
    """Return columns of given names."""
    count = draw(rows)
    found = {}
    for name in names:
        cells = draw(st.one_of(st.just(CELLS), SINGLE))
        values = draw(st.lists(cells, min_size=count, max_size=count))
        series = pd.Series(np.empty(count, dtype=object))
        for row, value in enumerate(values):
            series.iat[row] = value
        found[name] = series.infer_objects() if draw(st.booleans()) else series
    return pd.DataFrame(found)
