"""`fusetune diagnose`: what a trained model's accuracy hangs on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table as Grid
from rich.text import Text

import fusetune
from fusetune.cli.frame import Debug, OnProblemOption, app, guarded, out
from fusetune.cli.given import check_model, check_model_and_table, check_table
from fusetune.cli.outputs import refuse_loss
from fusetune.cli.words import group_words
from fusetune.errors import UserError
from fusetune.files import written_aside
from fusetune.progress import Steps
from fusetune.record import Record, is_run

if TYPE_CHECKING:
    from fusetune.evaluate.diagnosis import Diagnosis

_SPLIT = "split.parquet"


@app.command(
    short_help="Say what a trained model's accuracy hangs on.",
    epilog="Example:  fusetune diagnose runs/scans scans.csv --out diagnosis.html",
)
@guarded
def diagnose(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder or its model folder.")],
    table: Annotated[
        str, typer.Argument(metavar="TABLE", help="Labelled table: that of the run, or new rows with the same columns.")
    ],
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Also write all numbers to this file.")
    ] = None,
    out_file: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Where to write the page (.html).")
    ] = None,
    train: Annotated[
        str | None,
        typer.Option(metavar="TABLE", help="Labelled training rows for the probes, where TABLE has only new ones."),
    ] = None,
    alone: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="RUN", help="Model of one input, or an ensemble of such, to compare the probes with (repeatable)."
        ),
    ] = None,
    masks: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Which cells go missing (.parquet): read if it exists, else written, for other models."
        ),
    ] = None,
    on_problem: OnProblemOption = "warn",
    debug: Debug = False,
) -> None:
    """Say what a trained model's accuracy hangs on, with 95 % intervals.

    Lazy encoders, missing and noisy inputs, missing cells, attacked features,
    misleading inputs, and whether certainty keeps its promise.
    """
    del debug
    others = alone or []
    check_model_and_table(folder, table)
    if train is not None:
        check_table(train)
    for other in others:
        check_model(other)
    steps = Steps("starting up", f"reading the model {folder}", "asking what its accuracy hangs on")
    steps.begin()
    outputs = {"--json": json_file, "--out": out_file, "--masks": masks}
    named = [path.expanduser().resolve() for path in outputs.values() if path is not None]
    if len(set(named)) < len(named):
        raise UserError("--json, --out and --masks name the same file; give each its own")
    for option in ("--json", "--out"):
        refuse_loss(option, outputs[option], folder, table, train, *others)
    from fusetune.report.diagnosis import render_diagnosis

    load = fusetune.load
    steps.begin()
    model, compared = load(folder), [load(path) for path in others]
    steps.begin()
    diagnosis = model.diagnose(
        table, on_problem, train=train, alone=compared, split=_split_of(folder),
        masks=masks,
    )  # fmt: skip
    # Both are made before either is written.
    text = json.dumps(diagnosis.as_dict(), indent=1, allow_nan=False)
    page = render_diagnosis(diagnosis, Path(table).name)
    for path, content in ((json_file, text), (out_file, page)):
        if path is not None:
            with written_aside(path) as aside:
                aside.write_text(content, encoding="utf-8")
    _say(diagnosis)
    if out_file is not None:
        out.print(f"page  {out_file}", soft_wrap=True)


def _split_of(folder: Path) -> Path | None:
    """Return the split of the run that a model is of, or None where there is none; a changed one is refused."""
    for place in (folder, folder.absolute().parent):
        if is_run(place) and (place / _SPLIT).is_file():
            record = Record.read(place)
            if record is not None:
                record.refuse_damage(place, [_SPLIT])
            return place / _SPLIT
    return None


def _say(diagnosis: Diagnosis) -> None:
    """Print the most telling numbers, and what the numbers are not."""
    title = f"{diagnosis.rows:,} rows" + group_words(diagnosis.groups)
    grid = Grid(diagnosis.telling.score.word, "value", "95 % interval", title=title)
    for name, value, bounds in diagnosis.lines():
        grid.add_row(Text(name), value, bounds or "-")
    out.print(grid)
    lines = [f"attack: {diagnosis.attack.warning}"] if diagnosis.attack else []
    if diagnosis.seen and not diagnosis.judged_seen:
        lines.append(f"{diagnosis.seen:,} further rows have inputs that the model was made from; they are not judged")
    if diagnosis.groups is None:
        lines.append("rows are taken as independent of each other, since there is no group column")
    for line in [*lines, *diagnosis.notes]:
        out.print(line, soft_wrap=True)
