"""Columns that a table lacks: each is a column of missing cells, unless another one looks like a slip of its name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from fusetune.data.choices import Kind
from fusetune.data.schema import Schema
from fusetune.data.table import Table, with_columns
from fusetune.errors import did_you_mean


@dataclass(frozen=True)
class Lacking:
    """What a table lacks of a model's inputs.

    Attributes:
        inputs: Inputs without any column.
        columns: Columns of inputs of which it has others -> the input.
    """

    inputs: tuple[str, ...] = ()
    columns: Mapping[str, str] | None = None

    def lines(self) -> list[str]:
        """Return each as it is said."""
        columns = self.columns or {}
        return [f"{name}: not in the table" for name in self.inputs] + [
            f"{name}: not in the table, a missing cell of {owner} in every row" for name, owner in columns.items()
        ]


def with_empty_columns(table: Table, schema: Schema) -> tuple[Table, Lacking]:
    """Give a table empty columns for those that it lacks, unless it lacks all.

    A column is left for `Schema.check` to refuse where the table has one of nearly the same name that the model does
    not know: it is more likely a slip than left out on purpose. Of words that are read in pictures, a table lacks
    nothing where it has the pictures.
    """
    there = set(table.frame.columns)
    strangers = there.union(table.unread) - {column.name for column in schema.columns}
    wanted = {column: name for name, modality in schema.modalities().items() for column in modality.columns}
    absent = {
        column: name for column, name in wanted.items() if column not in there and not did_you_mean(column, strangers)
    }
    if not absent or len(absent) == len(wanted):
        return table, Lacking()
    for column in schema.inputs:
        if column.read_in in there and column.name in absent:
            del absent[column.name]
            table = replace(table, frame=with_columns(table.frame, {column.name: _no_text(table)}))
    whole = tuple(
        name for name, modality in schema.modalities().items() if all(column in absent for column in modality.columns)
    )
    numbers = {column.name for column in schema.columns if column.kind is Kind.NUMBER}
    empty = {column: np.nan if column in numbers else _no_text(table) for column in absent}
    single = {column: name for column, name in absent.items() if name not in whole}
    return replace(table, frame=with_columns(table.frame, empty)), Lacking(whole, single)


def _no_text(table: Table) -> pd.Series:
    return pd.Series([None] * len(table), dtype="str")
