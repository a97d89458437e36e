"""The label column of a table: which classes there are, and each row's as an index of known ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from fusetune.data.spelling import as_words, spellings, word_of
from fusetune.data.table import Table
from fusetune.errors import TableError, listed


def class_list(table: Table, label: str, least: int = 2) -> list[Any]:
    """Return the classes, sorted, as plain Python values.

    Args:
        table: The table.
        label: Its label column.
        least: How many rows a class must have; two to train and judge.

    Raises:
        TableError: If a label is missing, all are equal, or a class has too few rows.
    """
    table.refuse_empty(label, "label", "fill it in or drop them")
    series = table.column(label)
    words = as_words(series)
    if pd.api.types.is_datetime64_any_dtype(series):
        raise TableError(f"label column '{label}' of {table.name} holds dates; make classes of them first")
    counts = words.value_counts()
    firsts = series[~words.duplicated()]
    values = [value.item() if hasattr(value, "item") else value for value in firsts.astype(object)]
    if len(counts) < 2:
        raise TableError(
            f"label column '{label}' of {table.name} is {values[0]!r} in every row: one class, nothing to learn"
        )
    if counts.min() < least:
        raise TableError(
            f"label column '{label}': {listed(counts[counts < least].index)} occur(s) in one row only, "
            "too few to train and judge; merge or drop such classes"
        )
    if len(counts) > 0.5 * len(series) and len(series) > 20:
        raise TableError(
            f"label column '{label}' has {len(counts):,} different values in {len(series):,} rows: that is no class "
            "label. Name another column, or make classes of the values first"
        )
    odd = [value for value in values if not isinstance(value, (str, int, float, bool))]
    if odd:
        raise TableError(
            f"label column '{label}' holds {odd[0]!r} of type {type(odd[0]).__name__}; labels are words, numbers or "
            "truth values: convert the column first"
        )
    if several := spellings(series)[0]:
        raise TableError(
            f"label column '{label}' holds several labels that read '{word_of(several[0][0])}' and differ in type, in "
            f"spaces at the ends or in invisible marks only ({listed(map(repr, several[0]))}); make them one"
        )
    if {type(value) for value in values} > {bool}:
        raise TableError(f"label column '{label}' holds truth values beside other labels; write all of them as words")
    try:
        return sorted(values)
    except TypeError:
        return sorted(values, key=str)


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
