"""Pages made when the site is built, each from what says it already.

A page per command from its own help, the cards of strategies, settings from the classes that check them with a schema
for editors, the glossary from the words of ARCHITECTURE.md and of the report, two pages from the top of the project.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import typer.main
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from typer.testing import CliRunner

from fusetune.cli import app
from fusetune.config import IMAGE_POLICIES, MINUTES
from fusetune.doctor.findings import CERTAINTIES
from fusetune.report.terms import LABEL_SCORES, LABEL_TERMS, NUMBER_SCORES, NUMBER_TERMS, SCORES, TERMS
from fusetune.settings import Setting, groups, json_schema, strategy_settings
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
    files.append(File.generated(config, "settings.md", content=settings_page()))
    files.append(File.generated(config, "glossary.md", content=glossary_page()))
    files.append(File.generated(config, "fusetune.schema.json", content=json.dumps(json_schema(), indent=1)))
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


_SETTINGS = """# Settings

Every setting, read off the classes that check it. A setting is given as `--set image.size=224`, in a YAML file for
`--config`, or from Python (`fit(..., config={"image": {"size": 224}})`, `fit(..., sets=["image.size=224"])`;
`FusionClassifier` takes `sets` as well). Later layers win: defaults, the preset, files, `--set`. `fusetune show config`
prints the same as YAML.

An editor that knows JSON Schema (draft 2020-12) checks such a file while it is written:
[fusetune.schema.json](fusetune.schema.json), which `fusetune show schema` prints. With the YAML extension of VS Code or
any editor with yaml-language-server, its first line is

```yaml
# yaml-language-server: $schema=fusetune.schema.json
```

What two settings must agree on, such as fractions that sum to 1, fusetune alone checks.
"""


def settings_page() -> str:
    """Return the reference of all settings."""
    minutes = " and ".join(f"{limit:g} minutes ({preset})" for preset, limit in MINUTES.items())
    parts = [_SETTINGS, f"Where nothing says how long a run may take, it is {minutes}.\n"]
    for group in groups():
        title = ", ".join(f"`{path}`" for path in group.paths if path) or "At the top"
        parts.append(f"## {title}\n\n{group.about}\n")
        if "image.train" in group.paths:
            parts.append("`train.NAME` sets one of all inputs at once.\n")
        parts.append(_table(group.settings))
        if "doctor" in group.paths:
            parts.append(
                "The kinds of finding, what is possible for each and the default stand in [checks](checks.md).\n"
            )
        if "image.augment" in group.paths:
            parts.append(_policies())
    parts.append("## Of a strategy\n\nBeside `strategy.name`. What each strategy is stands in [its card](cards.md).\n")
    for name in STRATEGIES:
        base, own = strategy_settings(name)
        parts.append(f"### {name}\n")
        if base:
            parts.append(f"The settings of [{base}](#{base}){', and:' if own else '.'}\n")
        parts.append(_table(own) if own else "" if base else "No settings of its own.\n")
    return "\n".join(parts)


def _policies() -> str:
    lines = ["Policies that have a name, by what differs from doing nothing:\n", "| policy | settings |", "|---|---|"]
    for name, policy in IMAGE_POLICIES.items():
        told = ", ".join(f"`{key}={_value(value)}`" for key, value in policy.model_dump(exclude_defaults=True).items())
        lines.append(f"| {name} | {told or 'nothing happens'} |")
    return "\n".join(lines) + "\n"


def _table(settings: Sequence[Setting]) -> str:
    lines = ["| setting | allowed | default | what it means |", "|---|---|---|---|"]
    for one in settings:
        presets = "".join(f"; {preset}: `{_value(value)}`" for preset, value in one.presets.items())
        cells = (f"`{one.name}`", one.allowed, _default(one) + presets, one.meaning)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _default(setting: Setting) -> str:
    """Return a default, of each section where they differ."""
    told = {path.split(".")[0]: _value(value) for path, value in setting.defaults.items()}
    if len(set(told.values())) == 1:
        return f"`{next(iter(told.values()))}`"
    return ", ".join(f"{path} `{value}`" for path, value in told.items())


def _value(value: object) -> str:
    """Return a value as YAML has it."""
    if isinstance(value, dict) and len(value) > 4:
        return f"{len(value)} of them"
    return json.dumps(value) if not isinstance(value, str) else value


def glossary_page() -> str:
    """Return the words of the project and of its reports."""
    architecture = (ROOT / "docs" / "ARCHITECTURE.md").read_text("utf-8")
    words = architecture.split("## Words\n", 1)[1].split("\n## ", 1)[0].strip()
    parts = ["# Glossary\n", "## Of the report\n", _words(TERMS), "## Scores\n", _words(dict(SCORES.values()))]
    own = (
        (NUMBER_TERMS, NUMBER_SCORES, "where a number is predicted"),
        (LABEL_TERMS, LABEL_SCORES, "where labels are"),
    )
    for terms, scores, where in own:
        new = {name: meaning for name, meaning in terms.items() if TERMS.get(name) != meaning}
        told = dict(one for key, one in scores.items() if SCORES.get(key) != one)
        parts += [f"## Of the report, {where}\n", _words(new), f"## Scores, {where}\n", _words(told)]
    parts += ["## How sure a finding is\n", _words(dict(CERTAINTIES)), "## Of the project\n", words, ""]
    return "\n".join(parts)


def _words(meanings: dict[str, str]) -> str:
    return "\n".join(["| term | what it means |", "|---|---|", *(f"| {a} | {b} |" for a, b in meanings.items())]) + "\n"


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
