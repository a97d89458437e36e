"""The design matrix of a linear head, read in pieces: standardised features of rows that need not fit into memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fusetune.errors import TableError
from fusetune.heads.base import CPU, Head, HeadData

PIECE = 4096  # rows at a time
_KEPT = 1 << 30  # bytes: what is smaller is standardised once and kept


@dataclass
class Design:
    """Rows of features, standardised and masked as a head does it, with the bits of what is absent behind them.

    Attributes:
        head: Standardises.
        data: The rows. Their features may be memory-mapped.
        copies: Which rows the matrix has, one after the other: all rows, of a view, with what is present of them.
        device: Where pieces are wanted.
    """

    head: Head
    data: HeadData
    copies: Sequence[tuple[int, Mapping[str, npt.NDArray[np.bool_]]]]
    device: torch.device = CPU
    _kept: list[tuple[slice, Tensor]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.copies) * len(self.data.labels)

    @property
    def width(self) -> int:
        """Columns of the matrix."""
        return self.head.width

    def pieces(self) -> Iterator[tuple[slice, Tensor]]:
        """Yield which rows of the matrix, and float32 [rows, width].

        Raises:
            TableError: A feature is not finite.
        """
        if self._kept:
            yield from self._kept
            return
        keep = len(self) * self.width * 4 <= _KEPT
        made = []
        for copy in range(len(self.copies)):
            for start in range(0, len(self.data.labels), PIECE):
                rows = np.arange(start, min(start + PIECE, len(self.data.labels)))
                first = copy * len(self.data.labels) + start
                piece = slice(first, first + len(rows)), self._read(copy, rows)
                made += [piece] if keep else []
                yield piece
        self._kept = made

    def some(self, positions: npt.NDArray[np.int64]) -> Tensor:
        """Return some rows of the matrix, by ascending position, float32 [positions, width]."""
        copy, row = np.divmod(positions, len(self.data.labels))
        return torch.cat([self._read(one, row[copy == one]) for one in np.unique(copy)])

    def _read(self, copy: int, rows: npt.NDArray[np.int64]) -> Tensor:
        view, present = self.copies[copy]
        # Neighbouring rows are read as one stretch of the file.
        where = slice(int(rows[0]), int(rows[-1]) + 1) if len(rows) == rows[-1] - rows[0] + 1 else rows
        z = {
            name: torch.from_numpy(np.array(block[view, where])).to(self.device) for name, block in self.data.z.items()
        }
        has = {name: torch.from_numpy(bits[rows]).to(self.device) for name, bits in present.items()}
        blocks = self.head.blocks(z, has)
        for name, block in zip(self.head.dims, blocks, strict=True):
            if not torch.isfinite(block).all():
                raise TableError(
                    f"the features of the input '{self.data.owners.get(name, name)}' are not finite numbers; look for "
                    "extreme or broken values in it, or leave it out with --inputs"
                )
        return torch.cat([*blocks, self.head.absent(has)], 1).float()
