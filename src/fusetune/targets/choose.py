"""Which kind of target a label column is, with the reason; what the user says comes first."""

from __future__ import annotations

import re

import numpy as np
import numpy.typing as npt
import pandas as pd

from fusetune.data.choices import TargetKind
from fusetune.data.several import holds_lists
from fusetune.data.table import Table
from fusetune.data.weights import Weights
from fusetune.data.words import finite_numbers, is_words, numeric
from fusetune.errors import TableError
from fusetune.targets.base import Target
from fusetune.targets.classification import Classification
from fusetune.targets.multilabel import SEPARATOR, Multilabel, split_labels
from fusetune.targets.regression import Regression, numbers_of

# Numbers with no more different values than this are classes: grades, stages, stars.
_FEW = 20
_NAMING = re.compile(r"(?i)(class|label|categor|code|type|kind|id)\w*$")
_BALANCED = 0.1  # of the mean number of rows that the rarest code has at least


def kind_of(table: Table, label: str) -> tuple[TargetKind, str]:
    """Return the kind of target that a label column looks like, and why."""
    series = table.column(label).dropna()
    if holds_lists(series):
        return "multilabel", "its cells are lists"
    if is_words(series) and (found := _separated(series)) is not None:
        return "multilabel", found
    numbers = _numbers(series)
    if numbers is None or not len(numbers):
        return "classification", "its values are names"
    values, counts = np.unique(numbers, return_counts=True)
    if len(values) <= _FEW:
        return "classification", f"{len(values)} different numbers, which are taken for classes"
    whole = bool((values % 1 == 0).all())
    if whole and _NAMING.search(label):
        return "classification", "whole numbers in a column that is named like a code"
    codes = whole and values[0] in (0, 1) and values[-1] - values[0] + 1 == len(values)
    if codes and counts.min() >= _BALANCED * counts.mean():
        return "classification", f"whole numbers from {values[0]:g} to {values[-1]:g}, each about as often"
    return "regression", f"{len(values):,} different numbers"


def learn_target(kind: TargetKind, table: Table, label: str) -> Target:
    """Return the target of a label column; numbers are not in units of any rows yet (`in_units`).

    Raises:
        TableError: If the column cannot be one of this kind.
    """
    series = table.column(label).dropna()
    if kind == Classification.kind and holds_lists(series):
        raise TableError(
            f"label column '{label}' of {table.name} holds lists, and one class of several is a word or a number a "
            f"row; ask for --target {Multilabel.kind}, or write one class in each cell"
        )
    if kind == Multilabel.kind and (numbers := _numbers(series)) is not None and len(numbers):
        raise TableError(
            f"label column '{label}' of {table.name} holds a number in every row, and labels are lists, or words with "
            f"'{SEPARATOR}' between them; ask for --target {Classification.kind} or {Regression.kind}"
        )
    if kind == Regression.kind:
        numbers_of(table, label)
        return Regression(label)
    return Multilabel.learn(table, label) if kind == Multilabel.kind else Classification.learn(table, label)


def in_units(
    target: Target, table: Table, label: str, rows: npt.NDArray[np.int64], sample_weight: Weights | None = None
) -> Target:
    """Return a target whose numbers are in units of these rows, those of the training part; others as they are.

    Args:
        target: What is predicted.
        table: The table.
        label: Its label column.
        rows: Rows of the training part.
        sample_weight: What each row of the table counts; None: all alike.
    """
    if isinstance(target, Regression):
        return target.standardised(
            numbers_of(table, label)[rows], None if sample_weight is None else sample_weight[rows]
        )
    return target


def _numbers(series: pd.Series) -> npt.NDArray[np.float64] | None:
    if is_words(series):
        return None if (read := numeric(series)) is None else finite_numbers(read)
    plain = pd.api.types.is_numeric_dtype(series) and not pd.api.types.is_bool_dtype(series)
    if not plain or isinstance(series.dtype, pd.CategoricalDtype):
        return None
    numbers = finite_numbers(series)
    return numbers[np.isfinite(numbers)]


def _separated(words: pd.Series) -> str | None:
    """Return why words are several labels each, if they are: parts between `;`, or lists that were written down."""
    cells = [split_labels(word) or [] for word in words]
    written = words.str.strip().str.fullmatch(r"\[.*\]", flags=re.DOTALL).mean()
    if written > 0.9:
        return "its cells are lists that were written down"
    if not words.str.contains(SEPARATOR, regex=False).any():
        return None
    parts = pd.Series([part for cell in cells for part in cell]).value_counts()
    if len(parts) < words.nunique() and parts.min() > 1:
        return f"several of {len(parts)} labels in a cell, with '{SEPARATOR}' between them"
    return None
