"""`fusetune compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

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
    Vectors,
    check_settings,
    column_roles,
)
from fusetune.cli.words import commas, group_words, interval, printed
from fusetune.errors import UserError
from fusetune.files import expanded
from fusetune.progress import visible
from fusetune.record import is_run


@app.command(
    short_help="Fit several strategies under one protocol, or set finished runs side by side.",
    epilog="Example:  fusetune compare scans.csv --label region --group patient --strategies two-stage,ume,joint "
    "--seeds 3 --out runs/compare",
)
@guarded
def compare(
    what: Annotated[
        str,
        typer.Argument(metavar="TABLE|RUN", help="One table, as for `fit`; or two or more folders of finished runs."),
    ],
    others: Annotated[list[str] | None, typer.Argument(metavar="RUN", hidden=True)] = None,
    label: Annotated[str | None, typer.Option(metavar="COLUMN", help="Column to predict (of a table).")] = None,
    strategies: Annotated[
        str,
        typer.Option(
            metavar="NAME,...",
            help="Strategies, separated by commas, or all that are defined for the label; see `show strategies`.",
        ),
    ] = "all",
    seeds: Annotated[
        int,
        typer.Option(metavar="N", help="Trainings of each: other initial weights and batches, the same split."),
    ] = 5,
    level: Annotated[
        str,
        typer.Option(
            metavar="LEVEL",
            help="features: pictures and texts are read once by pretrained encoders, small networks are trained on "
            "that (seconds); encoders: the encoders are trained (minutes).",
        ),
    ] = "features",
    trials: Annotated[
        int,
        typer.Option(
            metavar="N", help="Tuning trials of each strategy, on validation rows; 0: defaults only. Kept in tuning.db."
        ),
    ] = 0,
    budget: Annotated[
        str,
        typer.Option(
            metavar="KIND",
            help="What is equal for all: passes (rows sent through encoders in training) or seconds (with --minutes).",
        ),
    ] = "passes",
    minutes: Annotated[
        float | None, typer.Option(metavar="M", help="How long one fit of one strategy may train.")
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(metavar="N", help="Epochs of joint training, of which the budget of passes is made."),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Processes, of one thread each. Default: as many as there are cores and memory for."
        ),
    ] = None,
    inputs: Inputs = None,
    kind: Kinds = None,
    vectors: Vectors = None,
    group: Group = None,
    split: SplitColumn = None,
    row_id: RowId = None,
    share: ShareColumns = None,
    gather: Gather = None,
    preset: Annotated[
        str | None, typer.Option(metavar="NAME", help="As for `fusetune fit`: quick, good (default), best or paper.")
    ] = None,
    seed: Annotated[int | None, typer.Option(metavar="N", help="The first seed, which also decides the split.")] = None,
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="YAML file with any setting, for all strategies.")
    ] = None,
    set_: Sets = None,
    out_folder: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="DIR",
            help="Folder for the results. Default: runs/<table>-<label>-compare; of runs: none is written.",
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with what was stopped; failed fits are tried again.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Fit several strategies on one table under one protocol and judge them side by side; or compare finished runs.

    One split for all. Seeds vary what networks begin from and the order of batches. Every strategy gets the same budget
    and as many tuning trials, on validation rows; the test part is opened once, after everything was fitted. A strategy
    that fails stands in the column `error`, and costs the others nothing.

    The folder holds results.csv (a row per strategy and seed), summary.json, report.html (intervals, paired tests with
    Holm's correction against the ensemble and plain fusion, ranks, costs, and whether it was fair), results.tex,
    predictions.parquet, and what exactly was done.
    """
    del debug
    check_there(what, *(others or ()), config)
    if not others and not is_run(expanded(what)):
        check_table(what, label, group, split, row_id, gather)
        check_settings(set_, strategies, preset=preset, seed=seed)
    starting(
        f"compare: {what}" + (f" and {len(others)} more, side by side" if others else ", one strategy after another")
    )
    told: dict[str, Any] = {"out": out_folder, "resume": resume}
    if others:
        contest = fusetune.compare([what, *others], label, **told)
    else:
        if label is None and not is_run(expanded(what)):
            raise UserError("--label is missing: the column to predict")
        contest = fusetune.compare(
            what,
            label,
            strategies=commas(strategies) or [],
            seeds=seeds,
            level=level,
            trials=trials,
            budget=budget,
            minutes=minutes,
            epochs=epochs,
            jobs=jobs,
            **column_roles(inputs, kind, vectors, group, split, row_id, share, gather),
            preset=preset,
            seed=seed,
            config=config,
            sets=set_ or (),
            **told,
        )
    _show(contest)


def _show(contest: fusetune.Contest) -> None:
    summary, score, loss = contest.summary, contest.telling.score, contest.telling.loss
    rows, groups = summary["test"]["rows"], summary["test"]["groups"]
    grid = Grid("", score.word, "95 % interval", loss.word, "95 % interval", "seconds",
                title=f"test part: {rows:,} rows" + group_words(groups))  # fmt: skip
    for one in summary["strategies"]:
        grid.add_row(
            Text(visible(one["name"])),
            printed(one[score.key]["value"], score.value),
            interval(one[score.key], score.value),
            printed(one[loss.key]["value"], loss.value),
            interval(one[loss.key], loss.value),
            "-" if one["seconds"] is None else f"{one['seconds']:.1f}",
        )
    out.print(grid)
    for check in summary["checklist"]:
        answer = {True: "yes: ", False: "no: ", None: ""}[check["met"]]
        out.print(f"{check['question']} {answer}{check['evidence']}", soft_wrap=True)
    for one in summary["strategies"]:
        for seed, error in one["errors"].items():
            out.print(f"{one['name']}, seed {seed}, failed: {error}", soft_wrap=True)
    if contest.report is not None:
        out.print(f"report  {contest.report}", soft_wrap=True)
