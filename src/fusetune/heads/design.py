"""The design matrix of a linear head, read in pieces: standardised features of rows that need not fit into memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse
from torch import Tensor

from fusetune.errors import TableError
from fusetune.heads.base import CPU, Head, HeadData

PIECE = 4096  # rows at a time
_KEPT = 1 << 30  # bytes: what is smaller is standardised once and kept
_THIN, _WIDE, _LOOKED_AT = 0.1, 256, 1024  # share of numbers that are no zero, least width, and rows that are looked at


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
    _thin: tuple[sparse.csr_array, npt.NDArray[np.float64]] | Literal[False] | None = None

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

    def thin(self) -> tuple[sparse.csr_array, npt.NDArray[np.float64]] | None:
        """Return the matrix without its means, most of it zeros, and the means; None where it is not of that kind.

        That is so of the counts of words: one block, scaled as a whole, of rows that all have it.
        """
        if self._thin is False:
            return None
        if self._thin is None:
            self._thin = self._thinned() or False
        return self._thin or None

    def _thinned(self) -> tuple[sparse.csr_array, npt.NDArray[np.float64]] | None:
        if len(self.head.dims) != 1 or len(self.copies) != 1 or self.device.type != "cpu":
            return None
        (name,), (view, present) = self.head.dims, self.copies[0]
        scale = self.head.get_buffer("scale_0").double().numpy()
        block = self.data.z[name][view]
        if not present[name].all() or np.ptp(scale) > 0 or not _is_thin(np.array(block[:_LOOKED_AT])):
            return None
        parts = [sparse.csr_array(np.array(block[at : at + PIECE])) for at in range(0, len(block), PIECE)]
        if not all(np.isfinite(part.data).all() for part in parts):
            return None  # said better where features are read one by one
        bits = sparse.csr_array((len(block), 1))
        matrix = sparse.hstack([sparse.vstack(parts).astype(np.float64) * float(scale[0]), bits], format="csr")
        return matrix, np.append(self.head.get_buffer("mean_0").double().numpy() * scale, 0.0)

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


def _is_thin(rows: npt.NDArray[np.float32]) -> bool:
    return rows.shape[1] >= _WIDE and bool(np.count_nonzero(rows) < _THIN * rows.size)
