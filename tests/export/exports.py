"""One small run of every kind of input, its exports, and a way to load the runner that an export ships."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path
from typing import Any

import pandas as pd
from tiny import few_trees, settings, tiny_table

import fusetune

LABEL = "organ"


def fitted(folder: Path, strategy: Any = None, **more: Any) -> fusetune.Run:
    """Fit a run on pictures, texts, cells of every kind and a vector; its table is `folder/data/table.csv`."""
    frame = tiny_table(folder / "data")
    days = pd.Timestamp("2020-01-01") + pd.to_timedelta(pd.Series(range(len(frame))) * 9 % 400, unit="D")
    frame["seen"] = days.dt.strftime("%Y-%m-%d")
    frame["urgent"] = ["yes" if row % 3 else "no" for row in range(len(frame))]
    for row, column in {5: "scan", 11: "note", 44: "scan", 45: "note", 47: "age", 48: "seen", 50: "site"}.items():
        frame[column] = frame[column].astype(object)
        frame.loc[row, column] = None
    table = folder / "data" / "table.csv"
    frame.to_csv(table, index=False)
    given = settings(folder / "store", views=1, train__epochs=1, evaluate__neighbours=True, **more) | {
        "doctor": {"check": False}
    }
    given |= {"strategy": strategy or {"name": "weighted-ensemble", "candidates": ["ume", "trees"]}}
    how: dict[str, Any] = {"vectors": {"genes": "v_*"}, "group": "patient", "split": "part", "row_id": "case_id"}
    with few_trees():
        return fusetune.fit(table, LABEL, config=given, out=folder / "run", quiet=True, **how)


def runner_of(export: Path) -> Any:
    """Return the module `run` of an export, as somebody who imports it gets it."""
    spec: Any = importlib.util.spec_from_file_location(f"run_of_{abs(hash(export))}", export / "run.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def probabilities(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[[name for name in frame if name.startswith("p(")]].astype(float)


def copied(run: Path, place: Path) -> Path:
    return Path(shutil.copytree(run, place))


def left_behind(folder: Path) -> list[str]:
    """The names of half-written files in a folder."""
    return [path.name for path in folder.iterdir() if ".fusetune-" in path.name]
