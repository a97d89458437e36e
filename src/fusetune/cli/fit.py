"""`fusetune fit`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

import fusetune
from fusetune.cli.frame import Debug, app, guarded, out, starting
from fusetune.cli.given import check_table, check_there
from fusetune.cli.launched import as_one_of_several, launch, wanted
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
    Weight,
    check_settings,
    column_roles,
)
from fusetune.cli.words import gain_grid, guide_lines, rule_lines, verdicts
from fusetune.data.choices import TargetKind


@app.command(
    short_help="Train and judge a classifier; write a report and a model.",
    epilog="Example:  fusetune fit scans.csv --label region --inputs image,history,age,sex --group patient "
    "--set image.train.epochs=5 --out runs/scans",
)
@guarded
def fit(
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
    weight: Weight = None,
    preset: Annotated[
        str | None,
        typer.Option(
            "--preset",
            metavar="NAME",
            help="quick: encoders as they were pretrained, minutes; good (default): fine-tuned where that pays; best: "
            "more folds and views, hours; paper: the published settings.",
        ),
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(
            metavar="N",
            help="How long the run may take; default: 3 for quick, 20 for good. What is too late is left out.",
        ),
    ] = None,
    target: Annotated[
        TargetKind | None,
        typer.Option(
            help="What the label is: a class, any number of labels, or a number. Default: as its column looks."
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(metavar="N", help="Decides split, augmentation and training.")] = None,
    strategy: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="How the model is made: weighted-ensemble (default) or another of `show strategies`.",
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="YAML file with any setting; see `fusetune show config`. The file named by FUSETUNE_CONFIG, "
            "if set, holds your own defaults.",
        ),
    ] = None,
    set_: Sets = None,
    out_folder: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Folder for the results. Default: runs/<table>-<label>.")
    ] = None,
    redact: Annotated[
        bool,
        typer.Option("--redact", help="Leave ids, texts and pictures of rows out of report.html."),
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Continue a run that was stopped.")] = False,
    devices: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Train in N processes on this machine: one per GPU, or dividing the cores. Default: 1."
        ),
    ] = None,
    nodes: Annotated[
        int | None,
        typer.Option(metavar="M", help="Train on M machines, on each of which `torchrun` starts this command."),
    ] = None,
    sharded: Annotated[
        bool,
        typer.Option("--sharded", help="Divide weights and optimiser states among devices in training (FSDP)."),
    ] = False,
    debug: Debug = False,
) -> None:
    """Train a classifier, judge it on locked test rows, and write a report and a portable model.

    The results folder holds report.html (open it in a browser), metrics.json, predictions.parquet, model/ (the portable
    model), config.yaml, schema.json, split.parquet (what exactly was done), and run.json (hashes of what it was made
    from). Nothing else that lies there is touched.
    """
    del debug
    check_table(table, label, group, split, row_id, gather)
    check_there(config)
    check_settings(set_, strategy, preset=preset, minutes=minutes, seed=seed)
    if wanted(devices, nodes) and devices is not None:
        starting(f"fit: train and judge a model on {table} in {devices} processes")
        code = launch(devices, sys.argv[1:])
        if code:
            raise typer.Exit(code)
        return
    starting(f"fit: train and judge a model on {table}")
    with as_one_of_several() as first:
        run = fusetune.fit(
            table,
            label,
            **column_roles(inputs, kind, vectors, group, split, row_id, share, gather, weight),
            preset=preset,
            minutes=minutes,
            target=target,
            seed=seed,
            strategy=strategy,
            config=config,
            sets=[*(set_ or ()), *(["redact=true"] if redact else [])],
            out=out_folder,
            resume=resume,
            devices=devices,
            nodes=nodes,
            sharded=sharded,
        )
    if not first:
        return
    out.print(gain_grid(run.metrics))
    for line in [*rule_lines(run.metrics), *verdicts(run.metrics), *guide_lines(run.metrics)]:
        out.print(line, soft_wrap=True)
    out.print(f"model   {run.folder / 'model'}", soft_wrap=True)
    out.print(f"report  {run.report}", soft_wrap=True)
