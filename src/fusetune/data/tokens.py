"""Texts as token ids: tokenised once into one flat array, cut at a length that is reported, read as padded batches."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from hashlib import blake2b

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer
from torch import Tensor

from fusetune.data.several import holds_lists, is_list
from fusetune.data.source import notes_of
from fusetune.data.split import Rows
from fusetune.data.table import Table
from fusetune.errors import BundleError
from fusetune.progress import track

_CHUNK = 1000
_LIST = "a list, where the model has learnt from one text a row"


@dataclass(frozen=True)
class TextInput:
    """Pre-processing of one text column.

    Attributes:
        column: The table's column.
        tokenizer: Turns text into ids, special tokens included.
        pad: Id that fills up shorter texts of a batch.
        max_tokens: Longer texts are cut here (special tokens are kept).
    """

    column: str
    tokenizer: Tokenizer
    pad: int
    max_tokens: int

    def bind(self, table: Table) -> TextSource:
        """Tokenise a table's texts. Empty and missing texts count as absent."""
        texts = table.column(self.column)
        lists = texts.map(is_list).to_numpy(dtype=bool) if holds_lists(texts) else np.zeros(len(texts), dtype=bool)
        clean = texts.astype("str").where(texts.notna() & ~lists, "").str.strip()
        present = (clean.str.len() > 0).to_numpy(dtype=bool)
        tokenizer = self._cutting
        lengths, digests = np.zeros(len(clean), np.int64), np.zeros(len(clean), np.uint64)
        pieces, truncated = [np.zeros(0, np.int32)], 0
        for start in track(range(0, len(clean), _CHUNK), f"tokenising {self.column}"):
            encoded = tokenizer.encode_batch_fast(clean.iloc[start : start + _CHUNK].tolist())
            truncated += sum(bool(text.overflowing) for text in encoded)
            ids = [np.asarray(text.ids, np.int32) for text in encoded]
            # Of the ids, not of the text: what the encoder sees also depends on the tokenizer and on the cut.
            hashes = [blake2b(text.tobytes(), digest_size=8).digest() for text in ids]
            digests[start : start + _CHUNK] = np.frombuffer(b"".join(hashes), "<u8")
            lengths[start : start + _CHUNK] = list(map(len, ids))
            pieces.append(np.concatenate(ids))
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        problems = dict.fromkeys(np.flatnonzero(lists).tolist(), _LIST)
        return TextSource(np.concatenate(pieces), offsets, self.pad, present, digests, truncated, problems)

    @cached_property
    def _cutting(self) -> Tokenizer:
        """A tokenizer whose cut nobody else sees; made once, since reading its words takes long."""
        try:
            own = Tokenizer.from_str(self.tokenizer.to_str())
            own.no_padding()
            own.enable_truncation(self.max_tokens)
        except Exception as error:  # the library raises nothing more special, of what it has read itself before
            raise BundleError(
                f"the tokenizer of '{self.column}' contradicts itself ({error}); copy the model again"
            ) from error
        return own


@dataclass
class TextSource:
    """The texts of one table as ids.

    Attributes:
        ids: All ids, one row after the other, int32.
        offsets: Where each row starts, int64 [rows + 1].
        truncated: How many texts were cut.
    """

    ids: npt.NDArray[np.int32]
    offsets: npt.NDArray[np.int64]
    pad: int
    present: npt.NDArray[np.bool_]
    digests: npt.NDArray[np.uint64]
    truncated: int
    problems: dict[int, str] = field(default_factory=dict)
    unseen: dict[int, str] = field(default_factory=dict)

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens per row."""
        return np.diff(self.offsets)

    def text(self, row: int) -> npt.NDArray[np.int64]:
        """Return the ids of one row."""
        return self.ids[self.offsets[row] : self.offsets[row + 1]].astype(np.int64)

    def read(self, rows: Rows) -> dict[str, Tensor]:
        """Return ids int64 [rows, longest] and mask bool [rows, longest] (True on real tokens)."""
        lengths = self.lengths[rows]
        positions = np.arange(int(lengths.max(initial=1)))
        mask = positions < lengths[:, None]
        where = np.minimum(self.offsets[rows][:, None] + positions, max(len(self.ids) - 1, 0))
        ids = np.where(mask, self.ids[where], self.pad).astype(np.int64)
        return {"ids": torch.from_numpy(ids), "mask": torch.from_numpy(mask)}

    def some(self, rows: Rows) -> TextSource:
        """Return some rows; see `Source`."""
        offsets = np.concatenate([[0], np.cumsum(self.lengths[rows])])
        texts = [self.ids[self.offsets[row] : self.offsets[row + 1]] for row in rows.tolist()]
        return TextSource(
            np.concatenate([np.zeros(0, np.int32), *texts]), offsets, self.pad, self.present[rows], self.digests[rows],
            self.truncated, notes_of(self.problems, rows), notes_of(self.unseen, rows),
        )  # fmt: skip
