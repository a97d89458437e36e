"""The contact sheet of `fusetune augment`: rows of a table as they are, and random views of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from PIL import Image

from fusetune.augment.random import Moment
from fusetune.augment.sheet import Cell, column_cells, draw_sheet, image_cells, text_cells
from fusetune.config import Config
from fusetune.data.carried import is_absent
from fusetune.data.cells import CellInput
from fusetune.data.choices import CELL_KINDS, Kind
from fusetune.data.images import ImageSource, raise_for_problems
from fusetune.data.kinds import infer_kind
from fusetune.data.schema import SEVERAL_KINDS, Column, Schema
from fusetune.data.several import as_lists, holds_several
from fusetune.data.split import Rows
from fusetune.data.table import Table, row_keys, with_columns
from fusetune.data.tokens import TextInput
from fusetune.errors import UserError
from fusetune.inputs import prepare_modality
from fusetune.progress import Log

_CELLS = 6


def first_of_several(table: Table) -> Table:
    """Return a table in which cells that hold several pictures or texts hold the first of them."""
    first = {}
    for name in table.frame.columns:
        kind, _, _ = infer_kind(table.column(name))
        if kind in SEVERAL_KINDS and holds_several(table.column(name), kind is Kind.IMAGE, table.root):
            lists = as_lists(table, name, kind is Kind.IMAGE)
            first[name] = lists.map(lambda cell: next(one for one in cell if not is_absent(one)), na_action="ignore")
    return replace(table, frame=with_columns(table.frame, first))


def sheet_of(
    table: Table,
    named: tuple[str | None, str | None, list[str] | None],
    config: Config,
    *,
    rows: int,
    views: int,
    seed: int,
    size: int,
) -> tuple[Image.Image, int]:
    """Return the sheet, and how many rows are on it.

    Args:
        table: The table.
        named: Image column, text column and columns of cells; None: the first that are found.
        config: With the policies.
        rows: How many rows at most, spread over the table.
        views: Random views per row.
        seed: Decides what is drawn.
        size: Side of the pictures in pixels.

    Raises:
        UserError: If there is no column to show.
        ImageError: If a picture cannot be read.
    """
    names = _columns(table, *named)
    chosen = np.unique(np.linspace(0, len(table) - 1, min(rows, len(table))).round().astype(np.int64))
    grids = _grids(table, names, config, chosen, [Moment(seed, 0, view) for view in range(views)])
    return draw_sheet([cells for grouped in zip(*grids, strict=True) for cells in grouped], max(160, size)), len(chosen)


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
