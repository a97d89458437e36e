"""The tiny table with a number, and with several labels, in the place of its class."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from tiny import CLASSES, tiny_table


def number_table(folder: Path, rows: int = 96) -> pd.DataFrame:
    """Return the tiny table whose column `size` is a number that every input tells something of, and no class."""
    frame = tiny_table(folder, rows)
    code = frame["organ"].map(list(CLASSES).index).to_numpy()
    noise = np.random.default_rng(1).normal(0, 2, rows)
    size = 100 + 10 * code + 0.3 * frame["age"] + 4 * (frame["site"] == "site 1") + noise
    return frame.drop(columns="organ").assign(size=size.round(2))


def labels_table(folder: Path, rows: int = 96) -> pd.DataFrame:
    """Return the tiny table whose column `seen` names any number of three labels, with `;` between them."""
    frame = tiny_table(folder, rows)
    code = frame["organ"].map(list(CLASSES).index).to_numpy()
    bits = {"large": code > 0, "old": frame["age"] > 52, "moved": np.random.default_rng(1).random(rows) < 0.4}
    seen = [";".join(name for name, has in bits.items() if has[row]) or "[]" for row in range(rows)]
    return frame.drop(columns="organ").assign(seen=seen)
