"""`fusetune explain`: why one row is decided as it is, as a page."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

import fusetune
from fusetune.cli.frame import Debug, OnProblemOption, app, guarded, out
from fusetune.cli.given import check_model_and_table
from fusetune.cli.outputs import refuse_loss
from fusetune.files import written_aside
from fusetune.progress import Steps
from fusetune.version import VERSION


@app.command(
    short_help="Show why one row is decided as it is.",
    epilog="Example:  fusetune explain runs/scans scans.csv --row case-017 --out case-017.html",
)
@guarded
def explain(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Run folder or its model folder.")],
    table: Annotated[str, typer.Argument(metavar="TABLE", help="Table with the row; the label is not needed.")],
    row: Annotated[
        str, typer.Option("--row", metavar="ID", help="The row's id; where no id is a number, also its number, from 0.")
    ],
    out_file: Annotated[Path, typer.Option("--out", metavar="FILE", help="Where to write the page (.html).")],
    on_problem: OnProblemOption = "warn",
    debug: Debug = False,
) -> None:
    """Show why one row is decided as it is: shares of the inputs, an image map, words and cells."""
    del debug
    check_model_and_table(folder, table)
    steps = Steps("starting up", f"reading the model {folder}", "explaining row " + row)
    steps.begin()
    from fusetune.report.explanation import render_explanation

    refuse_loss("--out", out_file, folder, table)
    load = fusetune.load
    steps.begin()
    model = load(folder)
    steps.begin()
    explanation = model.explain(table, row, on_problem)
    with written_aside(out_file) as aside:
        aside.write_text(render_explanation(explanation, _facts(model, folder, table)), encoding="utf-8")
    said, prior = map(explanation.shown, (explanation.probability, explanation.prior))
    out.print(f"row {explanation.row}: {explanation.decision} ({said}); without any input {prior}")
    for name, share in explanation.shares.items():
        out.print(f"  {name}: {explanation.changed(share)}" + (" (absent)" if name in explanation.absent else ""))
    out.print(f"page  {out_file}", soft_wrap=True)


def _facts(model: fusetune.Model, folder: Path, table: str) -> dict[str, str]:
    from fusetune.features.store import weights_hash

    return {
        "Model": f"{folder.resolve().name}, weights {weights_hash(model.network)[:12]}",
        "Table": Path(table).name,
        "Decided by": model.rule.words,
        "Made": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC by fusetune {VERSION}",
    }
