"""`fusetune guide`: what kind of fusion a table asks for, before anything is fine-tuned on it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table as Grid
from rich.text import Text

import fusetune
from fusetune.cli.frame import Debug, app, guarded, out, starting
from fusetune.cli.given import check_table, check_there
from fusetune.cli.options import (
    Gather,
    Group,
    Inputs,
    Kinds,
    RowId,
    Sets,
    ShareColumns,
    SplitColumn,
    TableFile,
    Vectors,
    check_settings,
    column_roles,
)
from fusetune.cli.outputs import refuse_loss
from fusetune.files import written_aside

if TYPE_CHECKING:
    from fusetune.evaluate.intervals import Interval
    from fusetune.guidance import Guidance


@app.command(
    short_help="Say what kind of fusion a table asks for.",
    epilog="Example:  fusetune guide scans.csv --label region --group patient --json guide.json",
)
@guarded
def guide(
    table: TableFile,
    label: Annotated[str, typer.Option(metavar="COLUMN", help="Column to predict.")],
    inputs: Inputs = None,
    kind: Kinds = None,
    vectors: Vectors = None,
    group: Group = None,
    split: SplitColumn = None,
    row_id: RowId = None,
    share: ShareColumns = None,
    gather: Gather = None,
    seed: Annotated[int | None, typer.Option(metavar="N", help="Decides split, folds and heads.")] = None,
    delta: Annotated[
        float | None, typer.Option(metavar="NATS", help="The least difference of NLL that counts. Default: 0.01.")
    ] = None,
    lazy: Annotated[
        bool,
        typer.Option(
            "--lazy/--no-lazy",
            help="Where one head on all features is better, also train small networks jointly: do they leave an input "
            "behind?",
        ),
    ] = True,
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="YAML file with any setting; see `fusetune show config`.")
    ] = None,
    set_: Sets = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Also write decision and evidence to this file.")
    ] = None,
    debug: Debug = False,
) -> None:
    """Say what kind of fusion a table asks for: an ensemble, one head on all features, teachers, or interactions.

    Heads on features of the pretrained encoders are compared on rows that they did not learn from, groups together.
    Nothing is fine-tuned, and the test part stays shut.
    """
    del debug
    check_table(table, label, group, split, row_id, gather)
    check_there(config)
    check_settings(set_, seed=seed)
    starting(f"guide: what kind of fusion does {table} ask for?")
    refuse_loss("--json", json_file, table)
    from fusetune.guidance import WARNINGS

    least: dict[str, Any] = {} if delta is None else {"delta": delta}
    told = fusetune.guide(
        table,
        label,
        **column_roles(inputs, kind, vectors, group, split, row_id, share, gather),
        seed=seed,
        **least,
        lazy=lazy,
        config=config,
        sets=set_ or (),
    )
    if json_file:
        with written_aside(json_file) as aside:
            aside.write_text(json.dumps(told.as_dict(), indent=1, ensure_ascii=False), encoding="utf-8")
    if told.evidence is not None:
        out.print(_grid(told))
    if told.left_out:
        out.print(f"left out, in too few groups to be compared: {', '.join(told.left_out)}", soft_wrap=True)
    out.print(f"{told.decision.replace('_', ' ')}: {told.sentence}", soft_wrap=True)
    for warning in WARNINGS if told.evidence is not None else ():
        out.print(f"  mind that {warning}", soft_wrap=True)
    out.print(f"next    fusetune fit {table} --label {label} {told.next}  (and the columns as here)", soft_wrap=True)


def _grid(told: Guidance) -> Grid:
    """Return NLLs and differences with their intervals."""
    from fusetune.evaluate.intervals import Interval

    assert told.evidence is not None
    where = f" in {told.groups:,} groups" if told.grouped else ""
    grid = Grid("", "NLL", "95 % interval", title=f"{told.rows:,} rows{where} outside the test part")
    form = {"bilinear": ", multiplying", "mlp": ", a hidden layer", "additive": ", which did not help"}
    rows = {f"{name} alone": score for name, score in told.evidence.alone.items()}
    rows |= {"E  calibrated ensemble": told.evidence.ensemble, "A  one head on all, a sum": told.evidence.additive}
    rows[f"I  with interactions{form[told.evidence.form]}"] = told.evidence.interaction
    for name, score in rows.items():
        grid.add_row(Text(name), f"{score.value:.3f}", _bounds(score, ".3f"))
    for name, difference in {"d1 = E - A": told.d1, "d2 = A - I": told.d2}.items():
        grid.add_row(name, f"{difference.value:+.3f}", _bounds(difference, "+.3f"))
    for name, lost in told.lazy.items():
        family = told.family
        value = Interval(*(family.lost_factor * end for end in (lost.value, lost.low, lost.high)))
        bounds = _bounds(value, family.lost_form)
        grid.add_row(Text(f"{name}: {family.lost_word}"), f"{value.value:{family.lost_form}}", bounds)
    return grid


def _bounds(score: Interval, form: str) -> str:
    return f"{score.low:{form}} to {score.high:{form}}" if score.bounded else "-"
