"""What every modality offers to the rest: which rows have it, and their raw inputs by row position.

A source is a table's column(s) after fitted pre-processing. Raw inputs are what augmentation starts from; nothing
random happens here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor

from fusetune.data.split import Rows

T = TypeVar("T")


@dataclass(frozen=True)
class Bag:
    """Inputs of rows that have any number of elements each: pictures or texts.

    Attributes:
        elements: Inputs of the elements, first dimension = elements.
        index: The element at each place, int64 [places].
        row: The row of each place, int64 [places], ascending; every row has a place.
        rank: The number of each place in its row when all of the row's places are there, int64 [places].
        count: How many rows there are.
        see: What is still to be done to elements before an encoder takes them; it is done to a few at a time.
        known: Features of the elements by encoder (its `id`), where these are encoded once for several bags.
    """

    elements: Any
    index: Tensor
    row: Tensor
    rank: Tensor
    count: int
    see: Callable[[Any], Any] | None = None
    known: dict[int, Tensor] | None = None

    def __len__(self) -> int:
        """Return the number of elements."""
        own = self.elements
        return len(own if isinstance(own, Tensor) else next(iter(own.values())))

    def seen(self, some: slice | Tensor) -> Any:
        """Return what an encoder takes of some elements, by slice or number."""
        elements = _each(self.elements, lambda tensor: tensor[some])
        return elements if self.see is None else self.see(elements)

    def each(self, change: Callable[[Tensor], Tensor]) -> Bag:
        """Return the bag with a change of every tensor, such as a move to a device."""
        index, row, rank = change(self.index), change(self.row), change(self.rank)
        return replace(self, elements=_each(self.elements, change), index=index, row=row, rank=rank)


Inputs = Tensor | dict[str, Tensor] | Bag


class Source(Protocol):
    """One modality of one table.

    Attributes:
        present: Whether the row has this modality, bool [rows].
        digests: 64-bit hash of each row's content [rows]; equal content, equal digest.
        problems: What could not be read, by row position.
        unseen: What was read and says nothing to the model, such as a category that no training row has.
    """

    present: npt.NDArray[np.bool_]
    digests: npt.NDArray[np.uint64]
    problems: dict[int, str]
    unseen: dict[int, str]

    @property
    def lengths(self) -> npt.NDArray[np.int64] | None:
        """Cost of each row (tokens) where it differs between rows, else None."""
        ...

    def read(self, rows: Rows) -> Inputs:
        """Return the raw inputs of some rows as CPU tensors, first dimension = len(rows)."""
        ...

    def some(self, rows: Rows) -> Source:
        """Return some rows as a source of their own, which holds nothing of the others and can be pickled."""
        ...


def notes_of(notes: Mapping[int, str], rows: Rows) -> dict[int, str]:
    """Return notes on some rows, by their place among these."""
    if not notes:
        return {}
    return {place: notes[row] for place, row in enumerate(rows.tolist()) if row in notes}


def row_digests(values: npt.NDArray[Any]) -> npt.NDArray[np.uint64]:
    """Return a 64-bit hash per row of numbers [rows, columns]."""
    return np.asarray(pd.util.hash_pandas_object(pd.DataFrame(values), index=False), dtype=np.uint64)


def to_device(inputs: Inputs, device: torch.device) -> Inputs:
    """Move inputs to a device; to a GPU of CUDA, from pinned memory, the program goes on while they are copied.

    To others it waits: nothing keeps the memory that they copy from until they are done.
    """
    moved: Inputs = _each(inputs, lambda tensor: tensor.to(device, non_blocking=device.type == "cuda"))
    return moved


def as_double(inputs: Inputs) -> Inputs:
    """Return inputs whose real numbers are float64."""
    wide: Inputs = _each(inputs, lambda tensor: tensor.double() if tensor.is_floating_point() else tensor)
    return wide


def _each(inputs: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(inputs, Bag):
        return inputs.each(change)
    return change(inputs) if isinstance(inputs, Tensor) else {name: change(own) for name, own in inputs.items()}


def pinned(batch: T) -> T:
    """Put the tensors of nested tuples and dicts into memory that a GPU can copy from on its own, if one is in use."""
    return _pinned(batch) if torch.cuda.is_initialized() else batch  # type: ignore[no-untyped-call]


def _pinned(batch: Any) -> Any:
    match batch:
        case Tensor():
            return batch.pin_memory()
        case Bag():
            return batch.each(Tensor.pin_memory)
        case dict():
            return {name: _pinned(value) for name, value in batch.items()}
        case tuple():
            return tuple(map(_pinned, batch))
        case _:
            return batch
