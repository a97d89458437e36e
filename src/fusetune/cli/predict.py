"""`fusetune predict`: what a trained model says of every row of a table."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import fusetune
from fusetune.cli.frame import Debug, OnProblemOption, app, check_table_name, guarded, out
from fusetune.cli.given import check_model_and_table
from fusetune.cli.options import Address, Engine, WorkerGpus, Workers, cluster_of, engine_of
from fusetune.cli.outputs import refuse_loss
from fusetune.cli.words import without_formulas
from fusetune.data.choices import By, refuse_coverage, refuse_margin
from fusetune.errors import UserError
from fusetune.files import written_aside
from fusetune.progress import Steps

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import pandas as pd

    from fusetune.data.dataset import Dataset
    from fusetune.data.table import Table
    from fusetune.evaluate.drift import Drift, Tally
    from fusetune.model import Model


@app.command(
    short_help="Predict every row of a table.",
    epilog="Example:  fusetune predict runs/scans new_patients.csv --out predictions.csv --sets 0.9 --unlike",
)
@guarded
def predict(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Run folder or its model folder.")],
    table: Annotated[
        str,
        typer.Argument(metavar="TABLE", help="Table with the same input columns; empty and lacking ones are allowed."),
    ],
    out_file: Annotated[Path, typer.Option("--out", metavar="FILE", help="Where to write: .csv, .parquet or .jsonl.")],
    sets: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            help="Also a set of classes, or the ends of an interval, that holds the truth of so many new rows, such as "
            "0.9 (0.5 to 0.999).",
        ),
    ] = None,
    margin: Annotated[
        float | None,
        typer.Option(
            metavar="M", help="Also how far each row is from another decision, and mark those closer than M (0 to 1)."
        ),
    ] = None,
    unlike: Annotated[
        bool, typer.Option("--unlike", help="Also how unlike the training rows each row is, by input.")
    ] = False,
    drift_file: Annotated[
        Path | None,
        typer.Option(
            "--drift",
            metavar="FILE",
            help="Compare the whole table with the training part; the figures go here (JSON).",
        ),
    ] = None,
    by: Annotated[
        By,
        typer.Option(
            help="Follow thresholds for evaluate.aim, if there are any, or the most probable class and even odds."
        ),
    ] = "judged",
    confined: Annotated[
        bool, typer.Option("--confined", help="Read no image outside the table's folder: for a table of a stranger.")
    ] = False,
    on_problem: OnProblemOption = "warn",
    engine: Engine = None,
    address: Address = None,
    workers: Workers = None,
    worker_gpus: WorkerGpus = None,
    debug: Debug = False,
) -> None:
    """Predict every row of a table, in its order; rows that could not be read in full are marked.

    In a .csv file, words that a spreadsheet would run as formulas get an apostrophe in front. With --engine, chunks go
    into FILE.chunks until all are done; a command that was stopped continues there when it is given again.
    """
    del debug
    check_table_name(out_file)
    if sets is not None:
        refuse_coverage(sets)
    if margin is not None:
        refuse_margin(margin)
    if drift_file is not None and drift_file.expanduser().absolute() == out_file.expanduser().absolute():
        raise UserError("--out and --drift name the same file; give each its own")
    check_model_and_table(folder, table)
    cluster = cluster_of(engine, address, workers, worker_gpus)
    if cluster is not None and drift_file is not None:
        raise UserError("--drift compares the whole table, in one process: leave out --engine, or draw rows for it")
    steps = Steps("starting up", f"reading the model {folder}", f"predicting the rows of {Path(table).name}")
    steps.begin()
    from fusetune.data.table import as_dataset, read_table

    counts, found = _Counts(), None
    with ExitStack() as around:
        joined = around.enter_context(engine_of(cluster))  # what is wrong with a cluster is told first
        load = fusetune.load
        steps.begin()
        model = load(folder)
        model = model.confined() if confined else model
        tally = model.tally() if drift_file else None
        steps.begin()
        stored = None if drift_file else as_dataset(table)
        data = read_table(table) if stored is None else model.opened(stored)
        for option, path in (("--out", out_file), ("--drift", drift_file)):
            refuse_loss(option, path, folder, table, table=data)
        if joined is None:
            pieces = model.predict_pieces(data, on_problem, by=by, sets=sets, margin=margin, unlike=unlike, tally=tally)
        else:
            from fusetune.answers import Extras
            from fusetune.cluster.predicting import Asked, predicted

            asked = Asked(folder, model, Extras(by, sets, margin, unlike), on_problem, confined)
            found = around.enter_context(predicted(asked, data, Path(f"{out_file}.chunks"), joined))
            pieces = found.pieces
        drift = _write(pieces, out_file, drift_file, counts, lambda: _drift(model, tally, data))
        if found is not None:
            found.place.discard()
    out.print(
        f"{counts.rows:,} row{'' if counts.rows == 1 else 's'} -> {out_file}"
        + (f"; {counts.marked:,} with a problem, see that column" if counts.marked else ""),
        soft_wrap=True,
    )
    if found is not None:
        out.print(str(found.outcome), soft_wrap=True)
    out.print(f"decided by {model.rule_by(by).words}", soft_wrap=True)
    for line in [*_held(model, stored), *counts.lines(), *([] if drift is None else drift.lines())]:
        out.print(line, soft_wrap=True)


def _write(
    pieces: Iterator[pd.DataFrame],
    out_file: Path,
    drift_file: Path | None,
    counts: _Counts,
    compared: Callable[[], Drift | None],
) -> Drift | None:
    """Write the rows, and how the whole table compares if that is asked for; neither is there before both are whole."""
    from fusetune.data.written import rows_written

    with ExitStack() as stack:
        write = stack.enter_context(rows_written(out_file))
        aside = None if drift_file is None else stack.enter_context(written_aside(drift_file))
        if aside is not None:
            aside.touch()  # a place that cannot be written is told before hours of work
        for piece in pieces:
            write(counts.add(piece, out_file.suffix == ".csv"))
        drift = compared()
        if aside is not None and drift is not None:
            text = json.dumps(drift.as_dict(), indent=1, ensure_ascii=False, allow_nan=False)
            aside.write_text(text, encoding="utf-8")
    return drift


def _drift(model: Model, tally: Tally | None, data: Table | Dataset) -> Drift | None:
    from fusetune.data.table import Table

    # A table, as it was read for --drift.
    return model.drift_of(tally, data) if tally is not None and isinstance(data, Table) else None


def _held(model: Model, stored: Dataset | None) -> list[str]:
    """Return why the cells of a dataset were in memory at once, if they were."""
    why = None if stored is None else model.why_together(stored)
    return [] if why is None else [f"cells were held in memory at once: {why}"]


class _Counts:
    """What is counted while rows are written."""

    def __init__(self) -> None:
        self.rows = self.marked = self.formulas = 0
        self.found: dict[str, int] = {}

    def add(self, piece: pd.DataFrame, tame: bool) -> pd.DataFrame:
        """Count some rows, and return them as they are written."""
        self.rows += len(piece)
        self.marked += int((piece["problem"] != "").sum())
        if "set_size" in piece:
            sizes = piece["set_size"]
            self._more("sets of one class", int((sizes == 1).sum()))
            self._more("empty sets (no class is as likely as it should be)", int((sizes == 0).sum()))
            classes = sum(1 for name in piece.columns if name.startswith("p("))
            self._more("sets of every class (too little is known)", int((sizes == classes).sum()))
        if "abstain" in piece:
            self._more("rows closer to another decision than the margin: abstain", int(piece["abstain"].sum()))
        if "unlike" in piece:
            self._more("rows unlike the training rows in some input", int((piece["unlike"] != "").sum()))
        if tame:
            piece, changed = without_formulas(piece)
            self.formulas += changed
        return piece

    def _more(self, what: str, count: int) -> None:
        self.found[what] = self.found.get(what, 0) + count

    def lines(self) -> list[str]:
        """Return what is said of them."""
        said = [f"{count:,} {what}" for what, count in self.found.items()]
        if self.formulas:
            said.append(
                f"{self.formulas:,} cell(s) that a spreadsheet would run as formulas got an apostrophe in front; "
                ".parquet and .jsonl files keep them as they are"
            )
        return said
