"""What learners of tables read: cells as they are, and features, as one table of numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fusetune.heads.base import Head, HeadData

_ROUNDING = 1e-5  # singular values below this share of the largest


@dataclass(frozen=True)
class Cells:
    """How the cells of a block lie: numbers, as many flags of missing ones, then the codes of categories."""

    numbers: int
    categories: int

    @property
    def width(self) -> int:
        """Width of the block."""
        return 2 * self.numbers + self.categories


class TabularHead(Head):
    """Base of the heads that read one table: cells with missing ones as missing, other blocks as features.

    A block of features is read as it is, or by its first principal components. An absent block is missing in all its
    features.

    Args:
        dims: Width of each block, by name.
        classes: Number of classes.
        cells: Blocks of cells -> [numbers, categories].
        reduced: Blocks of which principal components are read -> how many.
    """

    def __init__(
        self,
        dims: Mapping[str, int],
        classes: int,
        cells: Mapping[str, Sequence[int]] | None = None,
        reduced: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__(dims, classes)
        self.cells = {name: Cells(*counts) for name, counts in (cells or {}).items()}
        self.reduced = dict(reduced or {})
        self.arguments = {
            "cells": {name: [block.numbers, block.categories] for name, block in self.cells.items()},
            "reduced": self.reduced,
        }
        if not self.cells.keys() | self.reduced.keys() <= self.dims.keys() or self.cells.keys() & self.reduced.keys():
            raise ValueError("the trees read blocks in two ways, or blocks that are not there")
        if any(block.width != self.dims[name] for name, block in self.cells.items()):
            raise ValueError("the cells of a block are more or fewer than it is wide")
        if not all(0 < count <= self.dims[name] for name, count in self.reduced.items()):
            raise ValueError("a block is reduced to more components than it is wide")
        for index, (name, dim) in enumerate(self.dims.items()):
            if name in self.reduced:
                self.register_buffer(f"projection_{index}", torch.zeros(dim, self.reduced[name]))

    def fit_reduction(self, z: Mapping[str, npt.NDArray[Any]], present: Mapping[str, npt.NDArray[np.bool_]]) -> None:
        """Learn mean and principal components of the blocks that are reduced, from rows [rows, dim] that have them."""
        for index, name in enumerate(self.dims):
            if name in self.reduced and present[name].any():
                rows = torch.from_numpy(z[name][present[name]].astype(np.float64))
                mean = rows.mean(0)
                _, sizes, axes = torch.linalg.svd(rows - mean, full_matrices=False)
                # Of fewer rows than components the rest is rounding: a learner would split by what no new row repeats.
                some = slice(0, self.reduced[name])
                found = axes[some].T * (sizes[some] > _ROUNDING * sizes[0])
                # Of two directions that an axis can have, the one whose largest weight is positive.
                found = found * torch.sign(found.gather(0, found.abs().argmax(0, keepdim=True)))
                self.get_buffer(f"mean_{index}").copy_(mean)
                self.get_buffer(f"projection_{index}")[:, : found.shape[1]] = found

    def table(self, z: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
        """Return the table, float64 [rows, features], NaN where missing."""
        parts = []
        for index, name in enumerate(self.dims):
            block = z[name].double()
            if name in self.cells:
                count = self.cells[name].numbers
                numbers = block[:, :count].masked_fill(block[:, count : 2 * count] > 0.5, math.nan)
                block = torch.cat([numbers, block[:, 2 * count :]], 1)
            elif name in self.reduced:
                # What is stored for an absent block may be anything.
                block = torch.where(present[name][:, None], block, 0.0)
                block = (block - self.get_buffer(f"mean_{index}")) @ self.get_buffer(f"projection_{index}").double()
            parts.append(block.masked_fill(~present[name][:, None], math.nan))
        return torch.cat(parts, 1)

    @property
    def features(self) -> int:
        """Width of the table."""
        cells = {name: block.numbers + block.categories for name, block in self.cells.items()}
        return sum(cells.get(name, self.reduced.get(name, dim)) for name, dim in self.dims.items())

    @property
    def categories(self) -> list[int]:
        """Places in `table` of the features that are codes of categories."""
        return list(self._categories())

    def _categories(self) -> Iterator[int]:
        at = 0
        for name, dim in self.dims.items():
            if name in self.cells:
                numbers, codes = self.cells[name].numbers, self.cells[name].categories
                yield from range(at + numbers, at + numbers + codes)
                at += numbers + codes
            else:
                at += self.reduced.get(name, dim)

    def remade(self, **arguments: Any) -> Self:
        """Return a head that reads the same table, with other arguments of its own."""
        new = type(self)(self.dims, self.classes, **(self.arguments | arguments))
        for name, buffer in self.named_buffers():
            if name.startswith(("mean", "scale", "projection")):
                new.get_buffer(name).copy_(buffer)
        return new

    def tabulated(self, data: HeadData) -> npt.NDArray[np.float64]:
        """Learn the reduction from rows, labels apart, and return their table, [rows, features]."""
        z = {name: np.array(block[0]) for name, block in data.z.items()}
        self.fit_reduction(z, data.present)
        with torch.inference_mode():
            return self.table(
                {name: torch.from_numpy(block) for name, block in z.items()},
                {name: torch.from_numpy(bits) for name, bits in data.present.items()},
            ).numpy()
