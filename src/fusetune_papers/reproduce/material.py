"""A data set as the experiments see it: a table, one target, and what stands beside the image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from fusetune.data.split import Codes
from fusetune.data.table import Table
from fusetune.errors import TableError, listed
from fusetune_papers.datasets.streams import LOCATIONS

PLACE_COLUMNS = ("head_up", "front_view", "location", "probe")
_PROBES = {"horizontal": 0.0, "vertical": 1.0}


@dataclass(frozen=True)
class Material:
    """Rows to experiment on.

    Attributes:
        data: Name of the data set.
        task: What is predicted.
        table: All rows, in the publisher's order.
        labels: Class index per row, int64 [rows].
        classes: The classes' names.
        groups: The stream of each row, or None.
        given: train, valid or test per row, or None where the rows are divided here; valid only where a file says so.
        by_frame: train, valid or test per row as the publisher deals single frames (L1), or None.
    """

    data: str
    task: str
    table: Table
    labels: Codes
    classes: list[Any]
    groups: pd.Series | None
    given: npt.NDArray[np.object_] | None
    by_frame: npt.NDArray[np.object_] | None = None

    @property
    def synthetic(self) -> bool:
        """Were the pictures drawn? The annotations of a phantom say so."""
        return self.has("source") and bool(self.table.frame["source"].astype("str").str.contains("synthetic").any())

    @property
    def ids(self) -> pd.Series:
        """Row ids."""
        return self.table.frame["id"].astype("str")

    def has(self, column: str) -> bool:
        """Return whether the table has a column."""
        return column in self.table.frame


def material_of(data: str, table: Table, task: str, dev: bool = False) -> Material:
    """Take a target, groups and given parts from a table.

    Args:
        data: Name of the data set.
        table: With the columns id and `task`, and, as far as they exist, image, text, stream, frame, split and what a
            stream's name says (head_up, front_view, location, probe).
        task: The target's column.
        dev: Is the table's valid part that of a file of its own, and not dealt from the training rows?

    Raises:
        TableError: The target has one class only, or there are no training rows.
    """
    frame = table.frame
    values = table.column(task)
    labels, classes = pd.factorize(values, sort=True)
    if len(classes) < 2:
        raise TableError(f"the target '{task}' of {table.name} has a single class; choose another task")
    groups = frame["stream"].astype("str") if "stream" in frame else None
    parts = frame["split"].to_numpy(dtype=object) if "split" in frame else None
    if groups is not None or parts is None:
        return Material(data, task, table, labels.astype(np.int64), list(classes), groups, None, parts)
    given = parts if dev else np.where(parts == "test", "test", "train").astype(object)
    if not (given == "train").any() or not (given == "test").any():
        missing = "training" if (given == "test").any() else "test"
        raise TableError(f"{table.name} has no {missing} rows; both are needed to reproduce anything")
    return Material(data, task, table, labels.astype(np.int64), list(classes), groups, given)


def place_numbers(material: Material, ordinal: bool) -> npt.NDArray[np.float64]:
    """Return what a stream's name says, as numbers [rows, 4 or 8].

    Args:
        material: The rows.
        ordinal: As published (L14): head up, front view, location / 4 in the order of `LOCATIONS`, probe. Else the
            location has one column per place.
    """
    frame = material.table.frame
    for column in PLACE_COLUMNS:
        material.table.column(column)  # raises where it is absent
    codes = pd.Index(LOCATIONS).get_indexer(pd.Index(frame["location"]))
    if (codes < 0).any():
        unknown = frame["location"].iloc[int(np.flatnonzero(codes < 0)[0])]
        raise TableError(
            f"column 'location' of {material.table.name} holds '{unknown}', which is no place; use {listed(LOCATIONS)}"
        )
    where = codes[:, None] / 4 if ordinal else np.eye(len(LOCATIONS))[codes]
    probe = frame["probe"].map(_PROBES).to_numpy(dtype=np.float64)
    first = frame[["head_up", "front_view"]].to_numpy(dtype=np.float64)
    return np.column_stack([first, where, probe]).astype(np.float64)
