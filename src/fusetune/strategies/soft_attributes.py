"""Soft attributes: beside the class, the features must tell yes-or-no facts about a row (MaKD, arXiv 2501.13341).

    L = CE(f, y) + alpha * mean over known (row, q) of BCE(sigmoid(o_q), a_q),  o = U [z_1 .. z_M] + c

The paper asks a language model Q yes-or-no questions about every picture and keeps its probabilities a_q; the answers
of any such teacher are read from a file (`file`): a column `row_id` and a column of probabilities per attribute.
Without a file, the run's own cells are the attributes: truth values as 0 and 1, and numbers as the share of the
training rows below them. Then o reads all modalities but the cells, in which the answers stand. Attributes are read of
training rows only, and where one is missing it is not asked for. The head for them is not part of the network that is
left.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from fusetune.context import Context
from fusetune.data.cells import CellInput, CellSource
from fusetune.data.choices import Kind
from fusetune.data.split import Rows
from fusetune.data.table import read_table
from fusetune.data.words import finite_numbers
from fusetune.errors import ConfigError, TableError, did_you_mean, listed
from fusetune.networks import Outputs
from fusetune.strategies.batch import Batch
from fusetune.strategies.end_to_end import EndToEndSettings
from fusetune.strategies.joint import Joint

_ID = "row_id"  # as in a run's own files


class SoftAttributesSettings(EndToEndSettings):
    """The loop of joint training, what the attributes are, and how much they count."""

    weight: float = Field(4.0, ge=0, description="alpha, of the attributes' mean binary cross-entropy")
    file: str | None = Field(None, description=f"table with {_ID} and a column of probabilities per attribute")
    columns: list[str] | None = Field(
        None, description="without a file: which number and truth columns of the cells are attributes; default: all"
    )

    @model_validator(mode="after")
    def _one_of_the_two(self) -> Self:
        if self.file is not None and self.columns is not None:
            raise ValueError("attributes come from a file or from columns of the table: leave out one of the two")
        return self


class SoftAttributes(Joint):
    """Joint training with a head for attributes beside that for classes."""

    name, title, paper = "soft-attributes", "soft-attribute", "Multi-aspect distillation (MaKD), arXiv 2501.13341"
    Settings = SoftAttributesSettings

    def __init__(self, ctx: Context, settings: Any) -> None:
        super().__init__(ctx, settings)
        train = ctx.split.rows("train")
        cells = [name for name, modality in ctx.modalities.items() if modality.kind == "columns"]
        self.asked = [name for name in ctx.modalities if settings.file or name not in cells]
        if settings.file:
            values = stored_attributes(ctx, settings.file, train)
        else:
            if not cells or not self.asked:
                raise ConfigError(
                    "strategy 'soft-attributes' takes its attributes from the table's cells, and asks other inputs for "
                    f"them, but this run has {'no cells' if not cells else 'nothing but cells'}; name a file of "
                    "attributes with strategy.file, or other inputs"
                )
            values = cell_attributes(ctx, cells[0], settings.columns, train)
        # Buffers, so that a resumed run goes on with the answers that it began with.
        self.register_buffer("known", torch.from_numpy(~np.isnan(values)))
        self.register_buffer("answers", torch.from_numpy(np.nan_to_num(values).astype(np.float32)))
        width = sum(self.network.head.dims[name] for name in self.asked)
        self.attributes = nn.Linear(width, values.shape[1]).to(ctx.runtime.device)

    def loss(self, batch: Batch, outputs: Outputs) -> Tensor:
        """Return the cross-entropy of the class and that of the attributes."""
        blocks = dict(zip(self.network.head.dims, self.network.head.blocks(outputs.z, batch.present), strict=True))
        said = self.attributes(torch.cat([blocks[name] for name in self.asked], 1))
        has = torch.stack([batch.present[name] for name in self.asked]).any(0)
        told = attribute_loss(said, *self.asked_of(batch, has))
        total: Tensor = batch.loss(outputs.f) + self.settings.weight * told
        return total

    def asked_of(self, batch: Batch, has: Tensor) -> tuple[Tensor, Tensor]:
        """Return what should be said and where that is known, [rows, attributes], mixed as the inputs are."""
        views = len(batch.target) // len(batch.rows)
        rows = torch.from_numpy(np.tile(batch.rows, views)).to(batch.target.device)
        answers, known = self.get_buffer("answers")[rows], self.get_buffer("known")[rows] & has[:, None]
        if batch.mixing is None:
            return answers, known
        return batch.mixing.blend(answers), known & known[batch.mixing.partner]


def attribute_loss(said: Tensor, answers: Tensor, known: Tensor) -> Tensor:
    """Return the mean binary cross-entropy of logits [rows, attributes] where the answer is known; 0 if nowhere."""
    losses = F.binary_cross_entropy_with_logits(said, answers, reduction="none")
    return (losses * known).sum() / known.sum().clamp(min=1)


def cell_attributes(ctx: Context, name: str, columns: list[str] | None, rows: Rows) -> npt.NDArray[np.float64]:
    """Return attributes of some rows from a table's cells, NaN elsewhere and where missing, [rows of the table, Q].

    Raises:
        ConfigError: If there are none, or a column that is named is none.
    """
    fitted, source = ctx.readers[name].fitted, ctx.sources[name]
    assert isinstance(fitted, CellInput)
    assert isinstance(source, CellSource)
    places = {
        scale.column: at
        for at, scale in enumerate(fitted.numbers)
        if fitted.kinds[scale.column] in (Kind.NUMBER, Kind.BOOLEAN)
    }
    for column in columns or ():
        if column not in places:
            raise ConfigError(
                f"strategy.columns: '{column}' is no number or truth value among the inputs"
                f"{did_you_mean(column, places)}; these are {listed(places) or 'none'}"
            )
    wanted = list(places) if columns is None else columns
    if not wanted:
        raise ConfigError(
            "strategy 'soft-attributes' needs number or truth columns among the inputs; name a file of attributes with "
            "strategy.file, or take another strategy"
        )
    values = np.full((len(ctx.labels), len(wanted)), np.nan)
    for q, column in enumerate(wanted):
        at = places[column]
        some = rows[~source.missing[rows, at]]
        own = source.numbers[some, at].astype(np.float64)
        if fitted.kinds[column] is Kind.BOOLEAN:
            values[some, q] = (own * fitted.numbers[at].std + fitted.numbers[at].mean).round()
        elif len(own):
            order = np.sort(own)
            values[some, q] = (np.searchsorted(order, own) + np.searchsorted(order, own, "right")) / (2 * len(own))
    return values.clip(0, 1)


def stored_attributes(ctx: Context, file: str, rows: Rows) -> npt.NDArray[np.float64]:
    """Return attributes of some rows from a file, NaN elsewhere and where it does not say, [rows of the table, Q].

    Raises:
        TableError: If the file cannot be read, has no attributes, or none of these rows, or a value is no probability.
    """
    table = read_table(file)
    names = [str(column) for column in table.frame.columns if column != _ID]
    if _ID not in table.frame.columns or not names:
        raise TableError(f"{table.name}: attributes need a column '{_ID}' and at least one other")
    places = dict(zip(table.ids(_ID), range(len(table)), strict=True))
    found = [(row, places[one]) for row, one in zip(rows, ctx.ids.iloc[rows].astype(str), strict=True) if one in places]
    if not found:
        raise TableError(f"{table.name}: its column '{_ID}' names none of the training rows; is it of another table?")
    mine, theirs = np.array(found).T
    values = np.full((len(ctx.labels), len(names)), np.nan)
    for q, name in enumerate(names):
        cells = table.column(name)
        numbers = finite_numbers(cells)
        odd = np.flatnonzero((np.isnan(numbers) & cells.notna().to_numpy()) | (numbers < 0) | (numbers > 1))
        if len(odd):
            raise TableError(
                f"{table.name}: '{cells.iloc[odd[0]]}' in column '{name}' is no probability; write numbers from 0 to "
                "1, and nothing where it is not known"
            )
        values[mine, q] = numbers[theirs]
    return values
