"""`fusetune show`: the results of a run, every setting with its default and meaning, every strategy, or a schema."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from pydantic import BaseModel
from rich.table import Table as Grid
from rich.text import Text

from fusetune.cli.frame import Debug, app, guarded, out
from fusetune.cli.given import check_model
from fusetune.cli.words import gain_grid, guide_lines, rule_lines, verdicts
from fusetune.config import Config, unknown_strategies
from fusetune.errors import UserError, did_you_mean
from fusetune.record import METRICS, is_finished, read_metrics


@app.command(epilog="Example:  fusetune show runs/scans")
@guarded
def show(
    what: Annotated[
        str,
        typer.Argument(
            metavar="DIR|config|strategies|schema",
            help="A run folder, or the word `config` for all settings and defaults, or `strategies` for all ways to "
            "make a model and the settings of each, or `schema` for the JSON Schema by which an editor checks a file "
            "for --config.",
        ),
    ],
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="After `strategies`: the card of one, with its equations.")
    ] = None,
    debug: Debug = False,
) -> None:
    """Print the results of a run, every setting with its default, every strategy, or a schema for editors."""
    del debug
    if name is not None and what != "strategies":
        raise UserError(f"'{name}': only `show strategies NAME` takes a second word")
    if name is not None:
        _card(name)
    elif what == "config":
        out.print(_explained(Config().to_yaml(), Config), end="", soft_wrap=True)
    elif what == "strategies":
        _strategies()
    elif what == "schema":
        from fusetune.settings import json_schema

        typer.echo(json.dumps(json_schema(), indent=1, ensure_ascii=False))
    else:
        _results(Path(what))


def _results(folder: Path) -> None:
    if folder.expanduser().exists():
        check_model(folder)
    if not is_finished(folder):
        hint = did_you_mean(str(folder), ["config", "strategies", "schema"])
        raise UserError(f"{folder} is no finished run: {folder / METRICS} is missing{hint}")
    metrics = read_metrics(folder)
    try:
        grid, lines = gain_grid(metrics), [*rule_lines(metrics), *verdicts(metrics), *guide_lines(metrics)]
        if "strategy" in metrics:  # runs of earlier versions do not have it
            lines = [f"strategy {metrics['strategy']['name']}: {metrics['strategy']['paper']}", *lines]
    except (KeyError, TypeError, ValueError, LookupError, AttributeError) as error:
        raise UserError(f"{folder / METRICS} is damaged; put it back from a copy, or fit again") from error
    out.print(grid)
    for line in [*lines, *(f"warning: {text}" for text in metrics["warnings"])]:
        out.print(line, soft_wrap=True)
    out.print(f"report  {folder / 'report.html'}", soft_wrap=True)


def _strategies() -> None:
    """Print a table of all strategies, then the settings of each as they are written in a configuration."""
    from fusetune.settings import based_on
    from fusetune.strategies import STRATEGIES

    grid = Grid("name", "the model is called", "where it comes from")
    for name, strategy in STRATEGIES.items():
        grid.add_row(*map(Text, (name, f"the {strategy.title} model", strategy.paper)))
    out.print(grid)
    out.print("Their own settings, as a configuration holds them:", soft_wrap=True)
    for name, strategy in STRATEGIES.items():
        # Strategies build on each other: what the list says of another one is not said again.
        own, base = strategy.Settings, based_on(name)
        values = own().model_dump(mode="json", exclude=set(STRATEGIES[base].Settings.model_fields) if base else None)
        more = f"the settings of {base}" if base else "" if values else "no settings"
        text = yaml.safe_dump({"strategy": {"name": name, **values}}, sort_keys=False)
        out.print("\n" + _explained(text, own, 1) + (f"  # {more}\n" if more else ""), end="", soft_wrap=True)


def _card(name: str) -> None:
    """Print all there is to know of one strategy."""
    if wrong := unknown_strategies([name], own=False):
        raise UserError(wrong)
    from fusetune.strategies import STRATEGIES
    from fusetune.strategies.cards import card_of

    card, own = card_of(name), STRATEGIES[name].Settings
    out.print(f"{card.name}: the {card.title} model ({card.paper})\n\n{card.text}\n", soft_wrap=True)
    out.print(f"cost      {card.cost}\nmeasured  {card.verdict}\n", soft_wrap=True)
    text = yaml.safe_dump({"strategy": {"name": name, **own().model_dump(mode="json")}}, sort_keys=False)
    out.print(_explained(text, own, 1), end="", soft_wrap=True)


def _explained(text: str, tree: type[BaseModel], skip: int = 0) -> str:
    """Add each setting's description to a configuration's YAML, as a comment; `skip` levels lie above the tree."""
    lines: list[str] = []
    path: list[str] = []
    for line in text.splitlines():
        match, note = re.match(r"( *)(\w+):", line), None
        if match:
            path = [*path[: len(match[1]) // 2], match[2]]
            note = _description(path[skip:], tree)
        lines.append(f"{line}  # {note}\n" if note else f"{line}\n")
    return "".join(lines)


def _description(path: list[str], tree: Any) -> str | None:
    for name in path[:-1]:
        tree = tree.model_fields[name].annotation
    field = getattr(tree, "model_fields", {}).get(path[-1]) if path else None
    return field.description if field else None
