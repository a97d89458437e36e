"""Tables whose rows have any number of pictures and texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tiny import tiny_table


def several_table(folder: Path, rows: int = 96, most: int = 4) -> pd.DataFrame:
    """Return a tiny table with `scans` and `notes`: lists of up to `most` of a row's class and part, its own first."""
    frame = tiny_table(folder, rows)
    generator = np.random.default_rng(1)
    alike = {key: rows.index.to_numpy() for key, rows in frame.groupby(["organ", "part"])}
    for name, column in (("scans", "scan"), ("notes", "note")):
        cells: list[list[Any]] = []
        for row in frame.index:
            count = int(generator.integers(0, most + 1))
            others = generator.choice(alike[(frame.organ[row], frame.part[row])], max(0, count - 1))
            cells.append([frame[column][at] for at in [row, *others]][:count])
        frame[name] = cells
    return frame


def of_one(frame: pd.DataFrame, *columns: str) -> pd.DataFrame:
    """Return a table with each cell of some columns as a list of one."""
    return frame.assign(**{name: [[cell] for cell in frame[name]] for name in columns})
