"""The label column of a table as indices of known classes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from fusetune.data.spelling import as_words, word_of
from fusetune.data.table import Table
from fusetune.errors import TableError, listed


def encode_labels(table: Table, label: str, classes: list[Any]) -> npt.NDArray[np.int64]:
    """Return class indices of the label column.

    Raises:
        TableError: If a label is missing or not among the classes.
    """
    series = table.names(label, classes)
    # A later table may hold the labels as another type.
    words, names = as_words(series), [word_of(value) for value in classes]
    if pd.api.types.infer_dtype(series) == "boolean" or all(isinstance(value, bool) for value in classes):
        words, names = words.map(_truth, na_action="ignore"), [_truth(name) for name in names]
    if len(set(names)) < len(names):  # older models may tell 1.0 from 1
        words, names = series.astype("str").mask(words.isna()), [str(value) for value in classes]
    if words.isna().any():
        rows = np.flatnonzero(words.isna().to_numpy())
        raise TableError(f"label column '{label}' is empty in row(s) {listed(rows)}{table.empty(label)}; fill it in")
    codes = words.map({name: index for index, name in enumerate(names)}).fillna(-1).to_numpy().astype(np.int64)
    if (codes == -1).any():
        unknown = series[codes == -1].unique()
        raise TableError(f"label column '{label}' holds {listed(unknown)}; the model knows {listed(classes, 12)}")
    return codes


def _truth(word: str) -> str:
    return {"true": "1", "false": "0"}.get(word.lower(), word.lower())
