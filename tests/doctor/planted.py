"""Small tables in which nothing is wrong, for faults to be planted into, and short ways to ask what the doctor says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from fusetune.data.infer import infer_schema
from fusetune.data.roles import Roles
from fusetune.data.table import Table
from fusetune.doctor.examine import Examination, examine
from fusetune.doctor.findings import Finding

ROLES = {"label": "organ", "group": "patient", "split": "part", "row_id": "id", "inputs": ["note", "age"]}
# What is said of every table with a label, a split and cells.
ALWAYS = {"column_scores", "neighbour_agreement"}
LIMIT = 100_000
_WORDS = (
    "air",
    "bile",
    "bone",
    "clear",
    "dense",
    "edge",
    "faint",
    "firm",
    "lobe",
    "mild",
    "node",
    "pale",
    "rib",
    "thin",
)


def plain_table(rows: int = 60, seed: int = 0) -> pd.DataFrame:
    """Return id, note, age, site, patient (two rows each), part and organ; no input tells the organ."""
    generator = np.random.default_rng(seed)
    unit = np.arange(rows) // 2
    return pd.DataFrame(
        {
            "id": [f"r{row:03d}" for row in range(rows)],
            "note": [" ".join(generator.choice(_WORDS, 8)) + f" number {row}" for row in range(rows)],
            "age": generator.normal(50, 9, rows).round(2),
            "site": "site " + pd.Series(generator.integers(0, 3, rows)).astype("str"),
            "patient": [f"p{k:02d}" for k in unit],
            "part": np.array(["train", "train", "train", "valid", "test"])[unit % 5],
            "organ": np.array(["heart", "liver", "lung"])[unit % 3],
        }
    )


def squares(count: int, seed: int = 0) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return pictures that have nothing in common, uint8 [count, 72, 72]: grey values in cells of 8 x 8 pixels."""
    cells = np.random.default_rng(seed).integers(0, 256, (count, 9, 9), dtype=np.uint8)
    return cells.repeat(8, 1).repeat(8, 2)


def with_pictures(frame: pd.DataFrame, folder: Path, column: str = "scan", seed: int = 0) -> pd.DataFrame:
    """Write a picture for each row and return the table with their paths."""
    for row, grey in enumerate(squares(len(frame), seed)):
        Image.fromarray(grey).convert("RGB").save(folder / f"{column}-{row}.png")
    return frame.assign(**{column: [f"{column}-{row}.png" for row in range(len(frame))]})


def look(frame: pd.DataFrame, root: Path = Path(), **roles: Any) -> Examination:
    """Examine a table."""
    table = Table(frame.reset_index(drop=True), "t", root)
    options = {**ROLES, **roles}
    return examine(table, infer_schema(table, Roles(**options)), pixel_limit=LIMIT)


def named(examination: Examination, kind: str) -> Finding:
    """Return the one finding of a kind."""
    (finding,) = (finding for finding in examination.findings if finding.kind == kind)
    return finding


def kinds(examination: Examination, *severities: str) -> set[str]:
    """Return the kinds of all findings, or of those of some severities."""
    return {f.kind for f in examination.findings if not severities or f.severity in severities}


def check(finding: Finding, severity: str, rows: set[str], columns: tuple[str, ...], remedy: str) -> None:
    """Assert what a finding about rows says of them."""
    assert finding.severity == severity
    assert set(finding.rows) == rows
    assert len(finding.rows) == len(rows), "no row is named twice"
    assert finding.columns == columns
    assert finding.evidence["count"] == len(rows)
    assert finding.evidence["what"].startswith(f"{len(rows):,} "), "the sentence names the number"
    assert remedy in finding.remedy
