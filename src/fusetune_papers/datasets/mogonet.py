"""The omics data sets of MOGONET (Wang et al. 2021), ROSMAP and BRCA, as a table of three groups of numbers.

Folder: `1_tr.csv`, `1_te.csv`, `1_featname.csv` and the same for 2 and 3 (values without header, one row per person),
`labels_tr.csv`, `labels_te.csv`. The files have no names of persons; rows are kept in their order.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from fusetune.errors import UserError, listed
from fusetune.progress import track

VIEWS = ("mrna", "meth", "mirna")
_PARTS = {"tr": "train", "te": "test"}


def mogonet_table(src: Path) -> pd.DataFrame:
    """Read one of MOGONET's folders.

    Returns:
        Columns id, split (train or test; the publishers give no valid part, so a fit takes it from train),
        `mrna__<feature>`, `meth__<feature>`, `mirna__<feature>`, label (int).

    Raises:
        UserError: A file is missing, has a cell that is no finite number, or numbers of rows or names do not agree.
    """
    src = Path(src)
    if not src.is_dir():
        raise UserError(f"there is no folder {src}")
    labels = {part: _labels(src / f"labels_{part}.csv") for part in _PARTS}
    ids = [f"{_PARTS[part]}_{row}" for part in _PARTS for row in range(len(labels[part]))]
    splits = [_PARTS[part] for part in _PARTS for _ in labels[part]]
    views = [_view(src, number, labels) for number in track(range(1, len(VIEWS) + 1), "Reading the views")]
    about = pd.DataFrame({"id": ids, "split": splits})
    return pd.concat([about, *views, pd.Series(np.concatenate(list(labels.values())), name="label")], axis=1)


def _view(src: Path, number: int, labels: dict[str, npt.NDArray[np.int64]]) -> pd.DataFrame:
    path = src / f"{number}_featname.csv"
    names = [name.strip() for name in _text(path).splitlines() if name.strip()]
    if len(set(names)) < len(names):
        raise UserError(f"{path} names {listed(sorted({name for name in names if names.count(name) > 1}))} twice")
    blocks = []
    for part, own in labels.items():
        file = src / f"{number}_{part}.csv"
        values = _numbers(file)
        if values.shape != (len(own), len(names)):
            raise UserError(
                f"{file} has {values.shape[0]} rows and {values.shape[1]} columns, but there are "
                f"{len(own)} labels in labels_{part}.csv and {len(names)} names in {path.name}"
            )
        blocks.append(values)
    return pd.DataFrame(np.concatenate(blocks), columns=[f"{VIEWS[number - 1]}__{name}" for name in names])


def _labels(path: Path) -> npt.NDArray[np.int64]:
    values = _numbers(path)
    if values.shape[1] != 1 or (values != np.round(values)).any():
        raise UserError(f"{path} must hold one whole number per row")
    return values[:, 0].astype(np.int64)


def _numbers(path: Path) -> npt.NDArray[np.float64]:
    rows = [line.split(",") for line in _text(path).splitlines() if line.strip()]
    if not rows:
        raise UserError(f"{path} is empty")
    for number, row in enumerate(rows, 1):
        if len(row) != len(rows[0]):
            raise UserError(f"{path}: row {number} has {len(row)} cells, the first has {len(rows[0])}")
    cells = pd.DataFrame(rows).apply(pd.to_numeric, errors="coerce")
    table: npt.NDArray[np.float64] = cells.to_numpy(dtype=np.float64)
    if not np.isfinite(table).all():
        row, column = np.argwhere(~np.isfinite(table))[0]
        raise UserError(f"{path}: row {row + 1}, column {column + 1} holds '{rows[row][column]}', which is no number")
    return table


def _text(path: Path) -> str:
    if not path.is_file():
        raise UserError(f"{path} is missing; the folder must be complete, as in MOGONET's repository")
    return path.read_text("utf-8")
