"""A run on cells that are pictures is the run on the same pictures in files: fit, predict, evaluate, explain."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from tiny import settings, tiny_table

import fusetune

INPUTS = ["scan", "age"]


def carried(frame: pd.DataFrame, folder: Path, how: str) -> pd.DataFrame:
    """Return a table with its pictures in the cells."""

    def cell(name: str) -> object:
        content = (folder / name).read_bytes()
        match how:
            case "pil":
                return Image.open(io.BytesIO(content)).convert("RGB")
            case "array":
                return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
            case "struct":
                return {"bytes": content, "path": name}
            case _:
                return content

    return frame.assign(scan=pd.Series([cell(name) for name in frame["scan"]], dtype=object, index=frame.index))


def test_pictures_in_cells_are_trained_on_and_predicted_as_files_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame = tiny_table(tmp_path)
    monkeypatch.chdir(tmp_path)
    how = {"preset": "quick", "inputs": INPUTS, "split": "part", "row_id": "case_id", "quiet": True}
    how["config"] = settings(tmp_path / "store")
    files = fusetune.fit(frame, "organ", out=tmp_path / "files", **how)
    cells = fusetune.fit(carried(frame, tmp_path, "pil"), "organ", out=tmp_path / "cells", **how)
    assert cells.metrics["test"] == files.metrics["test"]
    expected = files.model.predict_table(frame)
    for kind in ("pil", "array", "struct", "bytes"):
        pd.testing.assert_frame_equal(cells.model.predict_table(carried(frame, tmp_path, kind)), expected)
    broken = carried(frame, tmp_path, "bytes")
    broken.loc[3, "scan"] = b"\x89PNG\r\n" + bytes(20)
    problems = cells.model.predict_table(broken)["problem"]
    assert np.flatnonzero(problems != "").tolist() == [3]
    assert "damaged image" in problems[3] or "known format" in problems[3]
    assert cells.model.explain(carried(frame, tmp_path, "array"), "case-001")
