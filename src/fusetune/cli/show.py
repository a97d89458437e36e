"""`fusetune show`: the results of a run, or every setting with its default and what it means."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from fusetune.cli.frame import Debug, app, guarded, out
from fusetune.cli.words import gain_grid, verdicts
from fusetune.config import Config
from fusetune.errors import UserError, did_you_mean


@app.command(epilog="Example:  fusetune show runs/scans")
@guarded
def show(
    what: Annotated[
        str,
        typer.Argument(metavar="DIR|config", help="A run folder, or the word `config` for all settings and defaults."),
    ],
    debug: Debug = False,
) -> None:
    """Print the results of a run, or every setting with its default."""
    del debug
    if what == "config":
        sys.stdout.write(_explained(Config().to_yaml()))
        return
    path = Path(what) / "metrics.json"
    if not path.exists():
        raise UserError(f"{what} is no finished run: {path} is missing" + did_you_mean(what, ["config"]))
    metrics = json.loads(path.read_text(encoding="utf-8"))
    out.print(gain_grid(metrics))
    for line in [*verdicts(metrics), *(f"warning: {text}" for text in metrics["warnings"])]:
        out.print(line, soft_wrap=True)
    out.print(f"report  {Path(what) / 'report.html'}", soft_wrap=True)


def _explained(text: str) -> str:
    """Add each setting's description to a configuration's YAML, as a comment."""
    lines: list[str] = []
    path: list[str] = []
    for line in text.splitlines():
        found, note = re.match(r"( *)(\w+):", line), None
        if found:
            path = [*path[: len(found[1]) // 2], found[2]]
            note = _description(path)
        lines.append(f"{line}  # {note}\n" if note else f"{line}\n")
    return "".join(lines)


def _description(path: list[str]) -> str | None:
    section: Any = Config
    for name in path[:-1]:
        section = section.model_fields[name].annotation
    field = getattr(section, "model_fields", {}).get(path[-1])
    return field.description if field else None
