"""Which of the training rows a probe is solved on, and on which its penalty is chosen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fusetune.data.problems import ids_with_notes
from fusetune.data.schema import Schema
from fusetune.data.split import PARTS, part_codes
from fusetune.data.table import row_keys
from fusetune.errors import TableError
from fusetune.evaluate.diagnosis.asked import Asked

_SHARE = 0.2  # of the groups, where nothing says which rows are for choices


def divided(training: Asked, schema: Schema, split: Path | None, seed: int) -> tuple[Asked, Asked]:
    """Return the rows that probes learn from, and those that they are chosen on.

    These are the training and the validation rows by the run's split, or by the table's column of parts; rows that
    neither knows are training rows, and test rows are left out. Where there are no validation rows, a fifth of the
    groups (of rows, without groups) is set aside; a single group is used for both.

    Args:
        training: The rows.
        schema: Names the columns of ids and parts.
        split: `split.parquet` of the run, or None.
        seed: Decides which groups are set aside.

    Raises:
        TableError: If `split` is no file of a split.
    """
    part = _parts(training, schema, split)
    known = training.some(part != "test") if (part != "test").any() else training
    valid = part[part != "test"] == "valid"
    if not 0 < valid.sum() < len(known):
        valid = _set_aside(known, seed)
    return (known, known) if valid.all() else (known.some(~valid), known.some(valid))


def _parts(training: Asked, schema: Schema, split: Path | None) -> NDArray[Any]:
    """Return the part of each row, `train` where nothing says another."""
    if split is not None:
        ids, _ = ids_with_notes(training.table, schema.named("id"))
        try:
            saved = pd.read_parquet(split).drop_duplicates("row_id").set_index("row_id")["part"]
        except Exception as error:  # damaged files raise whatever the parser happens to raise
            raise TableError(f"{split} is no saved split ({error}); leave it out") from error
        found = ids.iloc[training.where].map(saved)
    elif (column := schema.named("split")) in training.table.frame.columns:
        codes = part_codes(training.table.column(str(column)).iloc[training.where])
        found = pd.Series([PARTS[max(code, 0)] for code in codes])
    else:
        return np.full(len(training), "train")
    return np.asarray(found.where(found.isin(PARTS), "train").to_numpy(), dtype=str)


def _set_aside(rows: Asked, seed: int) -> NDArray[np.bool_]:
    groups = rows.judged.groups
    units = rows.judged.keys if groups is None else row_keys(pd.Series(groups.astype(str)))
    different = np.unique(units)
    order = np.random.default_rng(seed).permutation(different)
    return np.isin(units, order[: max(1, round(_SHARE * len(order)))])
