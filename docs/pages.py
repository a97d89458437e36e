"""Pages made when the site is built: one per command, from its own help, and two from the top of the project."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer.main
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from typer.testing import CliRunner

from fusetune.cli import app
from fusetune.strategies import STRATEGIES
from fusetune.strategies.cards import card_of

ROOT = Path(__file__).parents[1]


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Fill the navigation with the commands that there are."""
    entry = next(entry for entry in config.nav or [] if isinstance(entry, dict) and "Commands" in entry)
    entry["Commands"] = [{" ".join(words): _address(words)} for words in _commands()]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that no file in docs/ holds."""
    for words in _commands():
        text = CliRunner().invoke(app, [*words, "--help"], prog_name="fusetune").output
        files.append(
            File.generated(config, _address(words), content=f"# fusetune {' '.join(words)}\n\n```text\n{text}```\n")
        )
    files.append(File.generated(config, "cards.md", content=_cards()))
    for name in ("CHANGELOG.md", "CONTRIBUTING.md"):
        files.append(File.generated(config, name, content=(ROOT / name).read_text("utf-8")))
    return files


def _cards() -> str:
    """Return the cards of all strategies as one page."""
    parts = ["# Strategies, one by one\n\nWhat `fusetune show strategies NAME` prints of each, but for its settings.\n"]
    for card in map(card_of, STRATEGIES):
        parts.append(f"## {card.name}\n\n{card.paper}\n\n```text\n{card.text}\n```\n")
        parts.append(f"- Cost: {card.cost}.\n- Measured: {card.verdict}.\n")
    return "\n".join(parts)


def _address(words: tuple[str, ...]) -> str:
    return f"commands/{'-'.join(words)}.md"


def _commands() -> Iterator[tuple[str, ...]]:
    def walk(command: Any, words: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        below = getattr(command, "commands", {})
        if words and not below:
            yield words
        for name in sorted(below):
            yield from walk(below[name], (*words, name))

    return walk(typer.main.get_command(app), ())
