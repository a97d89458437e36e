"""`fusetune augment`: a contact sheet of what a policy does to a table's rows."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from fusetune.cli.frame import Debug, app, guarded, out, starting
from fusetune.cli.given import check_table
from fusetune.cli.outputs import refuse_loss
from fusetune.cli.words import commas
from fusetune.config import IMAGE_POLICIES, Config, read_layer
from fusetune.config.tree import OWN
from fusetune.errors import UserError, did_you_mean
from fusetune.files import written_aside


@app.command(
    short_help="Draw a contact sheet of what a policy does.",
    epilog="Example:  fusetune augment scans.csv --policy medium --rows 8 --views 6 --out sheet.png",
)
@guarded
def augment(
    table: Annotated[str, typer.Argument(metavar="TABLE", help="CSV, TSV, Parquet or JSON Lines file.")],
    out_file: Annotated[Path, typer.Option("--out", metavar="FILE", help="Where to write the picture (PNG).")],
    policy: Annotated[
        str,
        typer.Option(
            metavar="NAME|FILE|import:M:N",
            help=f"One of: {', '.join(IMAGE_POLICIES)}; a YAML file (an image policy, or settings as fit takes them); "
            "or import:package.module:name for a callable of your own.",
        ),
    ] = "light",
    rows: Annotated[int, typer.Option(min=1, max=100, metavar="N", help="Rows, spread over the table.")] = 8,
    views: Annotated[int, typer.Option(min=1, max=50, metavar="N", help="Random views per row.")] = 6,
    image: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Column with image paths. Default: the first one found.")
    ] = None,
    text: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Text column. Default: the first one found.")
    ] = None,
    columns: Annotated[
        str | None,
        typer.Option(metavar="COLUMN,...", help="Columns of cells. Default: the first six found."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Decides what is drawn.")] = 0,
    size: Annotated[int, typer.Option(min=32, max=1024, metavar="N", help="Side of the pictures in pixels.")] = 224,
    debug: Debug = False,
) -> None:
    """Draw each row as it is and some random views of it, with what was drawn below each.

    Beside images, texts are shown with the tokens that went struck out and new ones underlined, and cells that changed.
    """
    del debug
    if out_file.suffix.lower() != ".png":
        raise UserError(f"--out {out_file}: the name must end in .png")
    config = Config.build(_policy(policy), {"image": {"size": size, "encode_size": size}})
    check_table(table)
    starting(f"augment: draw what {policy} does to rows of {table}")
    from fusetune.cli.contact import first_of_several, sheet_of
    from fusetune.data.table import read_table

    data = first_of_several(read_table(table))
    refuse_loss("--out", out_file, table, table=data)
    sheet, drawn = sheet_of(data, (image, text, commas(columns)), config, rows=rows, views=views, seed=seed, size=size)
    with written_aside(out_file) as aside:
        sheet.save(aside, format="PNG")
    out.print(f"{drawn} rows, {views} views -> {out_file}", soft_wrap=True)


def _policy(name: str) -> dict[str, Any]:
    """Return the settings that a policy's name, address or file stands for."""
    if name in IMAGE_POLICIES or name.startswith(OWN):
        return {"image": {"augment": name}}
    if Path(name).suffix not in (".yaml", ".yml"):
        raise UserError(
            f"--policy {name}: no policy has this name{did_you_mean(name, IMAGE_POLICIES)}; name a YAML file or one of "
            f"{', '.join(IMAGE_POLICIES)}"
        )
    layer = read_layer(Path(name))
    return layer if set(layer) & set(Config.model_fields) else {"image": {"augment": layer}}
