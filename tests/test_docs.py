"""The code of the documentation's pages is run as it stands, as the README's is; the site has every page."""

from __future__ import annotations

import re
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
