"""The code of the documentation's pages is run as it stands, as the README's is; the site has every page."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import typer.main
from documents import ROOT, blocks, commands, run_commands_here, run_python_here, scans

import fusetune_papers.cli  # noqa: F401  # adds the commands, also where the entry point is not installed
from fusetune.cli import app

__all__ = ["scans"]
PAGES = sorted((ROOT / "docs").rglob("*.md"))
# Pages about published data sets, whose commands need those.
ABOUT_DATA = ("datasets.md", "reproduction.md", "results.md", "tutorial.md")
# Its commands do not end by themselves: tests/serve/test_serve_docs.py runs them.
SERVER = ("serve.md",)
OWN = [page for page in PAGES if page.name not in (*ABOUT_DATA, *SERVER)]


def names(pages: list[Path]) -> list[str]:
    return [page.relative_to(ROOT / "docs").as_posix() for page in pages]


RUN = [page for page in OWN if commands(page)]
CODED = [page for page in OWN if blocks(page, "python")]


@pytest.mark.parametrize("page", RUN, ids=names(RUN))
def test_commands_of_the_pages_work(page: Path, scans: Path) -> None:
    run_commands_here(page, scans)


@pytest.mark.parametrize("page", CODED, ids=names(CODED))
def test_python_of_the_pages_works(page: Path, scans: Path) -> None:
    assert all(run_python_here(code, scans) for code in blocks(page, "python"))
    for line in [
        line for block in blocks(page, "text") for line in block.splitlines() if line.startswith("python run.py")
    ]:
        # What an export ships, in the folder that the page's code has made.
        words = [sys.executable, *line.split(" > ")[0].split()[1:]]
        done = subprocess.run(words, cwd=scans / "scans-onnx", capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert len(done.stdout.splitlines()) == 1 + 9


def test_pages_on_using_a_model_are_run() -> None:
    """Serve, export and predict: what is shown of them is run here or in tests/serve."""
    run = {*names(RUN), *names(CODED), *(f"how-to/{name}" for name in SERVER)}
    assert {"how-to/serve.md", "how-to/predict.md", "export.md"} <= run


def test_the_feature_table_counts_right_and_names_what_there_is() -> None:
    page = (ROOT / "docs" / "features.md").read_text("utf-8")
    rows = [line.split(" | ") for line in page.splitlines() if re.match(r"\| \d+ \|", line)]
    assert [int(row[0].removeprefix("| ")) for row in rows] == list(range(1, 46))
    assert all(len(row) == 7 and row[6].removesuffix("|").strip() for row in rows)
    counts = Counter(row[5] for row in rows)
    head = re.search(r"\*\*(\d+) of 45 yes, (\d+) in part, (\d+) no\.\*\*", page)
    assert head
    assert [int(number) for number in head.groups()] == [counts["yes"], counts["part"], counts["no"]]
    assert counts["yes"] >= 32
    assert sum(counts.values()) == 45
    for path, name in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", page):
        assert f"def {name}(" in (ROOT / path).read_text("utf-8"), f"{path}::{name}"
    for row in rows:
        assert row[5] != "yes" or re.search(r"`(tests/|src/|fusetune )|\]\(", row[6]), f"no evidence in {row[:2]}"


def test_pages_that_are_made_hold_what_they_are_made_of() -> None:
    found = importlib.util.spec_from_file_location("pages", ROOT / "docs" / "pages.py")
    assert found
    assert found.loader
    pages = importlib.util.module_from_spec(found)
    found.loader.exec_module(pages)
    settings, glossary = pages.settings_page(), pages.glossary_page()
    for words in (
        "| `size` | whole number ≥ 16 and ≤ 4096 | `160`; paper: `224` |", "image `0.001`, text `2e-05`",
        "## `image.train`, `text.train`, `columns.train`, `vector.train`", "### umt", "| scan | `rotate=15.0`",
    ):  # fmt: skip
        assert words in settings, words
    for words in ("| NLL |", "| AUROC |", "| very likely |", "| modality | one named input", "| bag |"):
        assert words in glossary, words
    for page in (settings, glossary):
        lines = [line for line in page.splitlines() if line.startswith("|")]
        assert all(len(re.findall(r"(?<!\\)\|", line)) in (3, 5) for line in lines)


def test_every_option_that_the_pages_name_exists() -> None:
    group = typer.main.get_command(app)
    for page in PAGES:
        for line in re.findall(r"fusetune [a-z][^`\n#]*", page.read_text("utf-8")):
            assert_known(group, line.split()[1:], f"{page.name}: {line}")


def assert_known(group: object, words: list[str], line: str) -> None:
    """Follow sub-commands, then look up each option among the command's own."""
    command, rest = group, words
    while rest and rest[0] in (below := getattr(command, "commands", {})):
        command, rest = below[rest[0]], rest[1:]
    if hasattr(command, "commands") and rest and rest[0].isupper():
        return  # a placeholder for a command
    known = {option for parameter in getattr(command, "params", []) for option in parameter.opts}
    unknown = [word for word in rest if word.startswith("--") and word.split("=")[0] not in {*known, "--help"}]
    assert not unknown, f"{line} has {unknown}"
