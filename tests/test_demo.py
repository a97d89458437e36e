"""The table that comes with the library, and a first report made of it by one command."""

from __future__ import annotations

import io
from importlib.resources import files
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner

from fusetune.cli import app
from fusetune.datasets import emoji
from fusetune.errors import UserError


def test_every_row_has_a_picture_a_name_and_a_category(tmp_path: Path) -> None:
    table = emoji.write_emoji(tmp_path / "emoji")
    rows = pd.read_csv(table)
    assert len(rows) == 1250
    assert rows["id"].is_unique
    assert rows["name"].notna().all()
    assert rows["category"].value_counts().min() >= 80
    assert (rows.groupby("kind")["category"].nunique() == 1).all()
    for path in rows["picture"]:
        with Image.open(table.parent / path) as picture:
            picture.load()
            assert picture.size == (48, 48)
    readme = (table.parent / "README.txt").read_text("utf-8")
    for word in ("Apache License 2.0", "Unicode License", "MIT License"):
        assert word in readme


def test_a_made_folder_is_used_again_and_another_is_left_alone(tmp_path: Path) -> None:
    table = emoji.write_emoji(tmp_path / "emoji")
    table.write_text(table.read_text("utf-8") + "\n", encoding="utf-8")
    before = table.read_bytes()
    assert emoji.write_emoji(tmp_path / "emoji").read_bytes() == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="was not made by this command"):
        emoji.write_emoji(tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]


def test_one_command_makes_a_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = pd.read_parquet(io.BytesIO((files("fusetune.datasets") / "emoji.parquet").read_bytes()))
    some = whole[whole["category"].isin(["Activities", "Food & Drink"])].groupby("category").head(45)

    def few(_: io.BytesIO) -> pd.DataFrame:
        monkeypatch.undo()
        return some

    monkeypatch.setenv("FUSETUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(pd, "read_parquet", few)
    done = CliRunner().invoke(app, ["demo", "--out", str(tmp_path / "demo")])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "demo" / "run" / "report.html").exists()
    assert "weighted-ensemble" in done.output
    again = CliRunner().invoke(app, ["demo", "--out", str(tmp_path / "demo")])
    assert again.exit_code == 0, again.output
