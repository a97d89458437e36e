"""`fusetune data ...`: what is written, what is output, and exit codes."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

import fusetune_papers.cli  # adds the commands
from fusetune.cli.added import GROUP
from fusetune.cli.frame import app
from fusetune.data.table import read_table

FEW = ["--streams", "8", "--frames", "8", "--width", "64"]


def run(*words: str | Path, code: int = 0) -> str:
    result = CliRunner().invoke(app, [str(word) for word in ("data", *words)])
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("commands") / "few-synthetic"
    output = run("phantom", "--out", folder, *FEW)
    assert "(SYNTHETIC)" in output
    assert f"fusetune data fpus23 {folder} --out {folder}.parquet --task head" in output
    return folder


@pytest.mark.parametrize("name", ["head.csv", "head.parquet", "head.jsonl"])
def test_phantom_then_table(folder: Path, name: str) -> None:
    path = folder.parent / name
    output = run("fpus23", folder, "--out", path, "--task", "head")
    assert "64 rows" in output
    assert "--label head --group stream --split split --inputs image,text,head_up" in output
    table = read_table(path)
    assert len(table) == 64
    assert (table.root / table.frame["image"][0]).is_file(), "paths are relative to the table"
    assert table.frame["image"][0].startswith("few-synthetic/four_poses/stream_")
    assert not [entry.name for entry in path.parent.iterdir() if entry.name.startswith(".")]


def test_a_table_without_pictures(folder: Path, tmp_path: Path) -> None:
    run("fpus23", folder, "--out", tmp_path / "t.csv", "--without-images", "--split", "frames", "--seed", "3")
    table = pd.read_csv(tmp_path / "t.csv")
    assert "image" not in table
    assert table["split"].value_counts().to_dict() == {"train": 39, "valid": 13, "test": 12}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--out", "t.xlsx"), "must end in .csv, .parquet, .jsonl"),
        (("--out", "t.csv", "--match", "arms"), "write it as --match arms=arm"),
        (("--out", "t.csv", "--match", "arms=hand"), "has a single class"),
        (("--out", "t.csv", "--split", "given"), "holds no annotations"),
    ],
)
def test_wrong_input_is_exit_code_2(folder: Path, words: tuple[str, ...], message: str) -> None:
    assert message in run("fpus23", folder, *words, code=2)
    assert not Path("t.csv").exists()


def test_a_file_that_is_read_is_not_written_over(folder: Path) -> None:
    before = (folder / "sentences.csv").read_bytes()
    said = run("fpus23", folder, "--out", folder / "sentences.csv", code=2)
    assert "choose another name" in said
    assert (folder / "sentences.csv").read_bytes() == before


def test_help_teaches() -> None:
    for name in ("fpus23", "upmc-food101", "mogonet", "phantom", "resnet50", "stamps"):
        assert f"Example:  fusetune data {name}" in run(name, "--help")


def test_the_package_says_where_its_commands_are() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8"))
    assert project["project"]["entry-points"][GROUP] == {"papers": fusetune_papers.cli.__name__}
    listed = CliRunner().invoke(app, ["--help"]).output
    assert "reproduce" in listed


def test_the_files_that_are_read_are_packaged() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8"))
    source = Path(fusetune_papers.__file__).parent
    patterns = project["tool"]["setuptools"]["package-data"]["fusetune_papers"]
    packaged = {path for pattern in patterns for path in source.glob(pattern)}
    others = {path for path in source.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")}
    assert others == packaged


def test_the_commands_are_found_where_the_package_is_installed(tmp_path: Path) -> None:
    installed = tmp_path / "some_papers-1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: some-papers\nVersion: 1.0\n")
    (installed / "entry_points.txt").write_text(f"[{GROUP}]\npapers = fusetune_papers.cli\nother = no_such_module\n")
    source = str(Path(fusetune_papers.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-m", "fusetune.cli", "data", "--help"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([source, str(tmp_path)])},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "fpus23" in done.stdout
    assert "stamps" in done.stdout
    assert "the commands of 'other' (no_such_module) are missing" in done.stderr
