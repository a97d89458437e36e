"""`fusetune demo`: a first report from a table that comes with the library."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import fusetune
from fusetune.cli.frame import Debug, app, guarded, out, starting
from fusetune.cli.options import check_settings
from fusetune.cli.words import gain_grid

_INPUTS = ("picture", "name", "since")
# For a first look within two minutes: the pictures have 48 x 48 pixels, of which more only takes longer to encode; they
# are square, so that there is no other way to fit them to try beforehand.
_QUICK = ("image.size=112", "tries=false")


@app.command(
    short_help="Make a first report from a table that comes with fusetune.",
    epilog="Example:  fusetune demo --out fusetune-demo",
)
@guarded
def demo(
    folder: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for the table and the run.")] = Path(
        "fusetune-demo"
    ),
    preset: Annotated[
        str, typer.Option("--preset", metavar="NAME", help="As of `fit`; good also fine-tunes where that pays.")
    ] = "quick",
    minutes: Annotated[float | None, typer.Option(metavar="N", help="As of `fit`.")] = None,
    debug: Debug = False,
) -> None:
    """Write a small real table, train on it and judge the model: emoji, each a picture with a name, in 7 categories.

    Nothing is downloaded. Encoders come from the packages of pretrained weights. The same command goes on with a run
    that was stopped.
    """
    del debug
    check_settings(None, preset=preset, minutes=minutes)
    starting("demo: write a table of emoji, and train on it")
    from fusetune.datasets.emoji import write_emoji

    table = write_emoji(folder / "emoji")
    # A run that was stopped goes on; one that is finished is shown.
    begun = (folder / "run" / "run.json").exists()
    run = fusetune.fit(
        table, "category", inputs=list(_INPUTS), preset=preset, minutes=minutes,
        sets=_QUICK if preset == "quick" else (), out=folder / "run",
        resume=begun,
    )  # fmt: skip
    out.print(gain_grid(run.metrics))
    out.print(f"report  {run.report}", soft_wrap=True)
    out.print("Open the report in a browser. The same with your own table:")
    out.print("  fusetune fit TABLE --label COLUMN --group COLUMN")
    out.print("What the model says of new rows:")
    out.print(f"  fusetune predict {run.folder} {table} --out predictions.csv --sets 0.9", soft_wrap=True)
