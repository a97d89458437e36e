"""`fusetune augment`: a contact sheet of what a policy does to a table's rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer

from fusetune.augment.random import Moment
from fusetune.augment.sheet import Cell, column_cells, draw_sheet, image_cells, text_cells
from fusetune.cli.frame import Debug, app, guarded, out
from fusetune.cli.outputs import refuse_loss
from fusetune.cli.words import commas
from fusetune.config import IMAGE_POLICIES, Config, read_layer
from fusetune.config.tree import OWN
from fusetune.data.carried import is_absent
from fusetune.data.cells import CellInput
from fusetune.data.images import ImageSource, raise_for_problems
from fusetune.data.kinds import CELL_KINDS, Kind, infer_kind
from fusetune.data.schema import SEVERAL_KINDS, Column, Schema
from fusetune.data.several import as_lists, holds_several
from fusetune.data.split import Rows
from fusetune.data.table import Table, read_table, row_keys, with_columns
from fusetune.data.tokens import TextInput
from fusetune.errors import UserError, did_you_mean
from fusetune.files import written_aside
from fusetune.inputs import prepare_modality
from fusetune.progress import Log

_CELLS = 6


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
        typer.Option(metavar="COLUMN,...", help=f"Columns of cells. Default: the first {_CELLS} found."),
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
    data = _first_of_several(read_table(table))
    refuse_loss("--out", out_file, table, table=data)
    names = _columns(data, image, text, commas(columns))
    chosen = np.unique(np.linspace(0, len(data) - 1, min(rows, len(data))).round().astype(np.int64))
    grids = _grids(data, names, config, chosen, [Moment(seed, 0, view) for view in range(views)])
    sheet = draw_sheet([cells for grouped in zip(*grids, strict=True) for cells in grouped], max(160, size))
    with written_aside(out_file) as aside:
        sheet.save(aside, format="PNG")
    out.print(f"{len(chosen)} rows, {views} views -> {out_file}", soft_wrap=True)


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


def _first_of_several(table: Table) -> Table:
    """Return a table in which cells that hold several pictures or texts hold the first of them."""
    first = {}
    for name in table.frame.columns:
        kind, _, _ = infer_kind(table.column(name))
        if kind in SEVERAL_KINDS and holds_several(table.column(name), kind is Kind.IMAGE, table.root):
            lists = as_lists(table, name, kind is Kind.IMAGE)
            first[name] = lists.map(lambda cell: next(one for one in cell if not is_absent(one)), na_action="ignore")
    return replace(table, frame=with_columns(table.frame, first))


def _columns(table: Table, image: str | None, text: str | None, cells: list[str] | None) -> dict[str, list[str]]:
    """Return the columns to show by kind of input."""
    kinds = {name: infer_kind(table.column(name)) for name in table.frame.columns}

    def first(kind: Kind) -> str | None:
        return next((name for name, (its, _, usable) in kinds.items() if its is kind and usable), None)

    image, text = image or first(Kind.IMAGE), text or first(Kind.TEXT)
    if cells is None:
        cells = [name for name, (kind, _, usable) in kinds.items() if kind in CELL_KINDS and usable][:_CELLS]
    names = {"image": [image] if image else [], "text": [text] if text else [], "columns": cells}
    for name in (*names["image"], *names["text"], *cells):
        table.column(name)
    if not any(names.values()):
        raise UserError(f"{table.name} has no image, text or table column to show; name one with --image or --text")
    return {kind: columns for kind, columns in names.items() if columns}


def _grids(
    table: Table, names: dict[str, list[str]], config: Config, chosen: Rows, moments: Sequence[Moment]
) -> list[list[list[Cell]]]:
    every = np.arange(len(table))
    few = replace(table.take(chosen), index=None)
    ids = table.ids(None).iloc[chosen].reset_index(drop=True)
    keys, here = torch.from_numpy(row_keys(ids)), np.arange(len(chosen))
    grids = []
    for what, columns in names.items():
        kind = {"image": Kind.IMAGE, "text": Kind.TEXT}.get(what)
        kinds = {name: kind or infer_kind(table.column(name))[0] for name in columns}
        schema = Schema(columns=[Column(name=n, kind=k, role="input", reason="shown") for n, k in kinds.items()])
        modality = next(iter(schema.modalities().values()))
        reader, _ = prepare_modality(modality, table, schema, every, config, Log(None, quiet=True))
        source = reader.bind(few)
        if isinstance(source, ImageSource):
            raise_for_problems(source, ids)
        raw: Any = source.read(here)
        if isinstance(reader.fitted, CellInput):
            augment = reader.augment(config, reader.bind(table), every)
            rare = [dict(zip(columns, map(str, row), strict=True)) for row in few.frame[columns].to_numpy()]
            grids.append(column_cells(augment, raw, reader.fitted, keys, moments, rare))
            continue
        augment = reader.augment(config, source, here)
        if isinstance(reader.fitted, TextInput):
            cells = text_cells(augment, raw, reader.fitted.tokenizer, keys, moments)
        else:
            cells = image_cells(augment, raw, keys, moments)
        absent = [Cell([(f"no {what}", "")])]
        grids.append([row if has else absent for row, has in zip(cells, source.present, strict=True)])
    return grids
