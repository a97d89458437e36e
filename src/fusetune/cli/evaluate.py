"""`fusetune evaluate`: a trained model judged on another table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table as Grid
from rich.text import Text

import fusetune
from fusetune.cli.frame import Debug, OnProblemOption, app, guarded, out
from fusetune.cli.given import check_model_and_table
from fusetune.cli.outputs import refuse_loss
from fusetune.cli.words import group_words, interval, printed
from fusetune.files import written_aside
from fusetune.progress import Steps
from fusetune.telling import telling_of


@app.command(
    short_help="Judge a trained model on another labelled table.",
    epilog="Example:  fusetune evaluate runs/scans new_hospital.csv --json scores.json",
)
@guarded
def evaluate(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Run folder or its model folder.")],
    table: Annotated[str, typer.Argument(metavar="TABLE", help="Labelled table with the same columns.")],
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Also write the scores to this file.")
    ] = None,
    on_problem: OnProblemOption = "warn",
    debug: Debug = False,
) -> None:
    """Judge a trained model on another labelled table, with 95 % intervals.

    Where the model was fitted with a column of weights and the table has it, rows count as it says.
    """
    del debug
    check_model_and_table(folder, table)
    steps = Steps("starting up", f"reading the model {folder}", f"judging it on {Path(table).name}")
    steps.begin()
    refuse_loss("--json", json_file, folder, table)
    load = fusetune.load
    steps.begin()
    model = load(folder)
    steps.begin()
    scores = model.evaluate(table, on_problem)
    if json_file:
        with written_aside(json_file) as aside:
            aside.write_text(json.dumps(scores, indent=1), encoding="utf-8")
    grid = Grid("", "value", "95 % interval", title=f"{scores['rows']:,} rows" + group_words(scores["groups"]))
    telling = telling_of({**model.measure.facts(), "test": scores})
    for name, score in scores.items():
        if isinstance(score, dict) and "value" in score:
            form = telling.form(name)
            grid.add_row(Text(name.replace("_", " ")), printed(score["value"], form), interval(score, form))
    out.print(grid)
    out.print(f"decided by {scores['rule']}", soft_wrap=True)
    if "weight" in scores:
        weight = scores["weight"]
        told = f"rows count as column '{weight}' says" if weight else "rows count alike: the table has no weight column"
        out.print(told, soft_wrap=True)
    for key, words in (("most_probable", "the most probable class"), ("even_odds", "even odds")):
        if key in scores:
            plain = ", ".join(f"{k.replace('_', ' ')} {v['value']:.3f}" for k, v in scores[key].items())
            out.print(f"by {words} it would be: {plain}", soft_wrap=True)
    if scores["unreadable"]:
        out.print(
            f"{scores['unreadable']:,} rows have inputs that are absent, could not be read, or hold what the model "
            "never learnt",
            soft_wrap=True,
        )
    if scores["seen"]:
        out.print(
            f"warning: {scores['seen']:,} of these rows have the inputs of rows that the model was made from; "
            "their scores say nothing about new rows",
            soft_wrap=True,
        )
    if scores["groups"] is None:
        out.print("rows are taken as independent of each other, since there is no group column")
