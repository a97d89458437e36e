"""`fusetune fit`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import fusetune
from fusetune.cli.frame import Debug, app, guarded, out
from fusetune.cli.words import commas, gain_grid, pairs, verdicts

_KINDS = ("image", "text", "number", "category", "boolean", "date", "vector")


@app.command(
    short_help="Train and judge a classifier; write a report and a model.",
    epilog="Example:  fusetune fit scans.csv --label region --inputs image,history,age,sex --group patient "
    "--set image.train.epochs=5 --out runs/scans",
)
@guarded
def fit(
    table: Annotated[
        str,
        typer.Argument(metavar="TABLE", help="CSV, TSV, Parquet or JSON Lines file; image paths start at its folder."),
    ],
    label: Annotated[str, typer.Option(metavar="COLUMN", help="Column to predict.")],
    inputs: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN,...",
            help="Columns to use, separated by commas (a name with a comma in double quotes). Default: all but label, "
            "group, split and ids.",
        ),
    ] = None,
    kind: Annotated[
        list[str] | None,
        typer.Option(metavar="COLUMN=KIND", help=f"Where the guess is wrong (repeatable). Kinds: {', '.join(_KINDS)}."),
    ] = None,
    vectors: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=PATTERN", help="Number columns that form one vector, such as 'mrna=mrna__*' (repeatable)."
        ),
    ] = None,
    group: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="Column whose rows belong together (patient, video); never split apart."),
    ] = None,
    split: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Column with train / valid (val, dev) / test.")
    ] = None,
    row_id: Annotated[str | None, typer.Option("--id", metavar="COLUMN", help="Column that names the rows.")] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="sound (default): every fix; fast: frozen encoders; paper: the published settings."
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(metavar="N", help="Decides split, augmentation and training.")] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="YAML file with any setting; see `fusetune show config`. The file named by FUSETUNE_CONFIG, "
            "if set, holds your own defaults.",
        ),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="One setting, such as train.epochs=3 (repeatable)."),
    ] = None,
    out_folder: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Folder for the results. Default: runs/<table>-<label>.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue a run that was stopped.")] = False,
    debug: Debug = False,
) -> None:
    """Train a classifier, judge it on locked test rows, and write a report and a portable model.

    The results folder holds report.html (open it in a browser), metrics.json, predictions.parquet, model/ (the portable
    model), and config.yaml, schema.json, split.parquet (what exactly was done).
    """
    del debug
    run = fusetune.fit(
        table,
        label,
        inputs=commas(inputs),
        kinds=pairs(kind, "--kind", "age=number"),
        vectors=pairs(vectors, "--vectors", "mrna=mrna__*"),
        group=group,
        split=split,
        row_id=row_id,
        recipe=recipe,
        seed=seed,
        config=config,
        sets=set_ or (),
        out=out_folder,
        resume=resume,
    )
    out.print(gain_grid(run.metrics))
    for line in verdicts(run.metrics):
        out.print(line, soft_wrap=True)
    out.print(f"model   {run.folder / 'model'}", soft_wrap=True)
    out.print(f"report  {run.report}", soft_wrap=True)
