"""The content of columns as hashes: equal for equal values, whatever file or type of column they come from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from fusetune.data.table import Table

_EXACT = 2**53  # whole numbers up to here are exact as float64


def imprint(table: Table, names: Iterable[str]) -> dict[str, str]:
    """Return a hash of the values, in the order of the rows, of each of these columns that the table has."""
    return {name: column_hash(table.frame[name]) for name in names if name in table.frame.columns}


def column_hash(cells: pd.Series) -> str:
    """Return the SHA-256 of a column's cells; missing cells are equal, and so are 3 and 3.0 in columns of numbers."""
    digest = hashlib.sha256(cells.isna().to_numpy(bool).tobytes())
    if pd.api.types.is_numeric_dtype(cells) and not pd.api.types.is_complex_dtype(cells):
        numbers = cells.to_numpy(np.float64, na_value=np.nan)
        if not (np.abs(numbers) > _EXACT).any():
            digest.update(np.where(np.isnan(numbers), np.nan, numbers + 0.0).tobytes())
            return digest.hexdigest()
    for cell in cells if cells.dtype == object else cells.astype("str"):
        content = content_of(cell)
        digest.update(len(content).to_bytes(8, "little") + content)
    return digest.hexdigest()


def content_of(cell: Any) -> bytes:
    """Return a cell as bytes; of objects of other libraries that do not tell their content, the name of their type."""
    match cell:
        case str():
            return cell.encode("utf-8", "surrogatepass")
        case bytes() | bytearray() | memoryview():
            return bytes(cell)
        case dict():
            return content_of([part for item in sorted(cell.items(), key=lambda item: str(item[0])) for part in item])
        case np.ndarray() if cell.dtype.kind in "biuf":
            return np.asarray(cell, np.float64).tobytes()
        case list() | tuple() if cell and {type(part) for part in cell} <= {int, float, bool}:
            return np.array([float(part) for part in cell]).tobytes()
        case list() | tuple() | np.ndarray():
            parts = [content_of(part) for part in cell]
            return b"".join(len(part).to_bytes(8, "little") + part for part in parts)
    if hasattr(cell, "tobytes") and hasattr(cell, "size") and not isinstance(cell, np.generic):
        return f"{type(cell).__name__} {cell.size} ".encode() + bytes(cell.tobytes())  # a picture
    if pd.api.types.is_scalar(cell):
        return b"" if pd.isna(cell) else str(cell).encode("utf-8", "surrogatepass")
    return type(cell).__name__.encode()
