"""What each row counts where rows do not count alike: a column of weights, read and checked.

A row of weight 2 counts as two of weight 1 do, in losses, choices and scores. Only sizes relative to each other mean
anything: weights are scaled to mean 1 over the rows that are looked at. A row of weight 0 is left out. Where all
weights are equal there is nothing to weigh, and everything is as without them, to the last bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pandas as pd

from fusetune.data.table import Table
from fusetune.data.words import finite_numbers
from fusetune.errors import TableError, listed

Weights = npt.NDArray[np.float64]


def weights_of(table: Table, name: str) -> Weights:
    """Return a column of weights, float64 [rows], not scaled.

    Raises:
        TableError: Naming the rows whose weight is missing, no finite number or negative; or that all are 0.
    """
    series = table.column(name)
    table.refuse_empty(name, "weight", "fill it in, with 0 for rows that are not to count")
    truths = pd.api.types.is_bool_dtype(series)
    weights = np.full(len(series), np.nan) if truths else finite_numbers(series)
    for wrong, what in ((~np.isfinite(weights), "is no finite number"), (weights < 0, "is negative")):
        if len(rows := np.flatnonzero(wrong)):
            raise TableError(
                f"weight column '{name}' of {table.name} holds {series.iloc[rows[:1]].tolist()[0]!r} in row(s) "
                f"{listed(rows)}, which {what}; a weight is a number from 0 on"
            )
    refuse_weightless(weights, {"": np.ones(len(weights), dtype=bool)}, name)
    return np.asarray(weights, dtype=np.float64)


def counting(table: Table, name: str | None) -> Table:
    """Return a table without the rows whose weight is 0, which are as if they were not there.

    Raises:
        TableError: As `weights_of`.
    """
    weights = None if name is None else weights_of(table, name)
    if weights is None or weights.all():
        return table
    # Without ids, rows are called by their numbers in the table as it was given.
    numbers = np.arange(len(table)) if table.numbers is None else table.numbers
    return replace(table, numbers=numbers).take(weights > 0)


def refuse_weightless(weights: Weights, parts: Mapping[str, npt.NDArray[np.bool_]], name: str) -> None:
    """Refuse parts of a table in which no row counts.

    Args:
        weights: Of the rows, [rows].
        parts: Part -> bool [rows]; those without rows are passed over, and the whole table is called "".
        name: The column of the weights.

    Raises:
        TableError: Naming the part.
    """
    for part, rows in parts.items():
        if rows.any() and not (weights[rows] > 0).any():
            where = f" of the part '{part}'" if part else ""
            raise TableError(
                f"weight column '{name}' is zero in every row{where}, so that none of them counts; give one of them at "
                "least a weight above 0"
            )


def scaled(weights: Weights) -> Weights | None:
    """Return weights of mean 1, None where all rows count alike."""
    if not len(weights) or bool((weights == weights[0]).all()):
        return None
    return np.asarray(weights / weights.mean())


def shared(weights: Weights, member: npt.NDArray[np.integer]) -> Weights:
    """Return what rows count where groups count alike but for their weights, float64 [rows].

    A group counts what its rows weigh, whatever their number: w_i / n_g with n_g = (sum_g w)^2 / sum_g w^2, the number
    of its rows that the weights leave (Kish 1965). Of equal weights w, a group of any size counts w.

    Args:
        weights: Of the rows, [rows].
        member: The number of each row's group, from 0, [rows].
    """
    total, squares = np.bincount(member, weights), np.bincount(member, weights**2)
    return np.asarray(weights * (squares / total**2)[member])
