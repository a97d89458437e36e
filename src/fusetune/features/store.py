"""The feature store: every encoder output is computed once and kept, keyed by everything that it depends on.

The key hashes the encoder's architecture and weights, the rows' contents and keys, the augmentation, the views and the
precision. The same encoder on the same rows is therefore free in the next run, with the next seed or with another head.
Views that depend on more than can be told (a user's callable without a name) are kept for as long as the store itself.
Files are written whole or not at all, memory-mapped when read, and checked before use.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import weakref
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fusetune.augment import Augment
from fusetune.augment.random import Moment
from fusetune.data.bags import element_counts
from fusetune.data.batch import ordered_batches, prefetch
from fusetune.data.source import Source, to_device
from fusetune.data.split import Rows
from fusetune.encoders import Encoder
from fusetune.errors import ConfigError, RunError
from fusetune.features.onnx import TOLERANCE, OnnxEncoder, onnx_available
from fusetune.files import cache_folder
from fusetune.progress import Log, bar
from fusetune.ranks import is_sharded
from fusetune.runtime import Runtime
from fusetune.vault import GIGABYTE, Vault, checksum

Array = npt.NDArray[np.float32]
Forward = Callable[[Any], Tensor]
_FORMAT = 2
IN_MEMORY = 2**30  # bytes of features while they are made; more are on disk
_ROWS = 65_536
_FILES = ("features.npy", "features.json")


@dataclass(frozen=True)
class Encoding:
    """What is to be encoded, and how.

    Attributes:
        name: For messages and counts.
        encoder: The network; it is used in eval mode and left bit-equal.
        source: Where raw inputs come from.
        augment: What happens to them.
        keys: Row key per table row, int64 [table rows].
        batch_size: Rows per batch.
    """

    name: str
    encoder: Encoder
    source: Source
    augment: Augment
    keys: npt.NDArray[np.int64]
    batch_size: int


@dataclass(frozen=True)
class Work:
    """Rows that are to be encoded, divided into batches: the features hang on the division, in their last bits.

    Attributes:
        what: Encoder and inputs.
        rows: Row positions.
        moments: One augmented view per moment; None stands for the plain inputs.
        batches: Places in `rows`, a batch after the other.
        fast: May a faster form of the encoder be used?
        example: Two rows of the encoder's inputs, by which that form is made; None where it may not.
        runtime: Device and precision; None: those of the store.
    """

    what: Encoding
    rows: Rows
    moments: Sequence[Moment | None]
    batches: Sequence[Rows]
    fast: bool = False
    example: Any = None
    runtime: Runtime | None = None


# Encodes rows elsewhere, to float32 [moments, rows, dim].
Engine = Callable[[Work], Array]


@dataclass
class FeatureStore:
    """Encoded features on disk.

    Attributes:
        folder: Where they are.
        runtime: Device and precision to encode with.
        log: Told how features were made.
        limit_gb: The least recently used features go beyond this size, but for those that somebody still holds.
        onnx: May ONNX Runtime be used on CPU?
        engine: Encodes elsewhere; None: here.
        passes: Rows that went through an encoder, by name, since the store was opened.
        reused: Rows that did not have to.
    """

    folder: Path
    runtime: Runtime
    log: Log
    limit_gb: float = 20
    onnx: bool = True
    engine: Engine | None = None
    passes: Counter[str] = field(default_factory=Counter)
    reused: Counter[str] = field(default_factory=Counter)
    _mapped: dict[Path, weakref.ref[Any]] = field(default_factory=dict)

    def encode(self, what: Encoding, rows: Rows, views: Sequence[Moment] | None = None) -> Array:
        """Return features, from disk where they are known.

        Args:
            what: Encoder and inputs.
            rows: Row positions; rows without the modality get zeros and no encoder pass.
            views: One augmented view per moment, or None for the plain inputs.

        Returns:
            float32 [views or 1, rows, dim], memory-mapped and read-only.
        """
        if is_sharded(what.encoder):
            raise ConfigError(
                "this strategy asks for features while the encoder is trained, and with --sharded no device has whole "
                "weights then; leave it out, or take another strategy"
            )
        weights = weights_hash(what.encoder)
        key = self._key(what, weights, rows, views)
        path = self.folder / key[:2] / key
        if _fleeting(what, views):
            weakref.finalize(self, self._vault.remove, path)
        ranks, stored = self.runtime.ranks, self._read(path)
        if ranks.agree(stored is not None):
            stored = self._everywhere(stored)
            if ranks.first:
                self._vault.touch(path)
            self.reused[what.name] += int(what.source.present[rows].sum()) * stored.shape[0]
            return stored
        features = self._compute(what, rows, views)
        if weights_hash(what.encoder) != weights:
            raise RunError(
                f"encoding changed the frozen encoder '{what.name}'; its forward pass must not write to buffers"
            )
        if ranks.first:
            self._write(path, what.name, features)
            stored = self._read(path)
        return features if stored is None else stored

    def _everywhere(self, stored: Array | None) -> Array:
        """Return features that the first rank has, on ranks that cannot read its disk, too."""
        ranks = self.runtime.ranks
        if ranks.count > 1 and not all(ranks.merged([stored is not None])):
            found = ranks.agree(None if stored is None else np.array(stored))
            stored = found if stored is None else stored
        assert stored is not None
        return stored

    def _read(self, path: Path) -> Array | None:
        """Return features on disk, and remember what they are mapped through: every view of them holds that."""
        stored = self._vault.read(path, _opened)
        if stored is not None and stored.base is not None:
            self._mapped[path] = weakref.ref(stored.base)
        return stored

    def _in_use(self) -> set[Path]:
        """Return what somebody still holds."""
        return {path for path, mapped in self._mapped.items() if mapped() is not None}

    @property
    def _vault(self) -> Vault:
        return Vault(self.folder, 64, _FILES, int(self.limit_gb * GIGABYTE))

    def _write(self, path: Path, name: str, features: Array) -> None:
        """Write features, even if they alone are beyond the limit; where that fails, they are only made again."""
        facts = {"format": _FORMAT, "name": name, "shape": features.shape, "checksum": checksum(features)}
        try:
            room = self._vault.make_room(features.nbytes, self._in_use())
            if room.dropped:
                self.log.say(
                    f"  {room.dropped:,} set(s) of stored features dropped, the least recently used, "
                    f"{room.freed / GIGABYTE:.2f} GB: the store keeps to {self.limit_gb:g} GB (store.limit_gb)"
                )
            with self._vault.written(path) as folder:
                np.save(folder / "features.npy", features)
                (folder / "features.json").write_text(json.dumps(facts), encoding="utf-8")
        except OSError as error:
            if self._vault.read(path, _opened) is None:  # else another process was faster, with the same features
                self.log.warn(
                    f"features could not be kept in {self.folder} ({error}); the next run computes them again"
                )

    def _compute(self, what: Encoding, rows: Rows, views: Sequence[Moment] | None) -> Array:
        present = rows[what.source.present[rows]]
        result = blank((len(views or [None]), len(rows), what.encoder.dim), self.folder)
        where = np.flatnonzero(what.source.present[rows])
        what.encoder.eval()
        if views is None:
            # Equal contents have equal features: encode each once.
            _, first, copies = np.unique(what.source.digests[present], return_index=True, return_inverse=True)
            found = self._run(what, present[first], None)
            for start in range(0, len(where), _ROWS):  # a copy of some rows is in memory, not one of all
                result[:, where[start : start + _ROWS]] = found[:, copies[start : start + _ROWS]]
        else:
            result[:, where] = self._run(what, present, views)
        return result

    def _run(self, what: Encoding, rows: Rows, views: Sequence[Moment] | None) -> Array:
        """Return features [views or 1, rows, dim]; every row is read once, and encoded one view at a time."""
        moments: Sequence[Moment | None] = views or [None]
        lengths = None if what.source.lengths is None else what.source.lengths[rows]
        counts = element_counts([what.source])
        counts = None if counts is None else counts[rows]
        batches = ordered_batches(np.arange(len(rows)), what.batch_size, lengths, counts)
        pays = len(rows) * len(moments) >= 4 * what.batch_size and any(True for _ in what.encoder.parameters())
        fast = pays and self._may_use_onnx()
        example = what.augment.plain(what.source.read(rows[:2])) if fast else None
        work = Work(what, rows, moments, batches, fast, example, self.runtime)
        result = self.encoded(work) if self.engine is None else self.engine(work)
        self.passes[what.name] += len(rows) * len(moments)
        return result

    def encoded(self, work: Work, forward: Forward | None = None) -> Array:
        """Return features [moments, rows, dim], encoded here; `forward` is what `forward` returned for such work."""
        what, moments = work.what, work.moments
        result = blank((len(moments), len(work.rows), what.encoder.dim), self.folder)
        forward = self.forward(work) if forward is None else forward
        what.encoder.eval()
        ranks = self.runtime.ranks
        batches = ranks.mine(work.batches)
        steps = len(batches) * len(moments)
        with torch.inference_mode(), bar(f"encoding {what.name}", steps) as progress:
            for batch, raw in prefetch(batches, lambda batch: (batch, what.source.read(work.rows[batch]))):
                inputs = to_device(raw, self.runtime.device)
                keys = torch.from_numpy(what.keys[work.rows[batch]]).to(self.runtime.device)
                views = []
                for moment in moments:
                    seen = what.augment.plain(inputs) if moment is None else what.augment.draw(inputs, keys, moment)
                    with self.runtime.autocast():
                        views.append(forward(seen).float())
                    progress.advance()
                # One copy for all views: each waits until the GPU has done all that it was given.
                result[:, batch] = torch.stack(views).cpu().numpy()
        # What other ranks encode is zero here.
        return ranks.sum(torch.from_numpy(result)).numpy()

    def forward(self, work: Work) -> Forward:
        """Return the encoder, or a faster form of it where that is allowed and pays."""
        name, encoder = work.what.name, work.what.encoder
        if not work.fast:
            return encoder
        try:
            fast = OnnxEncoder(encoder, work.example)
        except Exception as error:  # any failure of an optional accelerator means: do without it
            self.log.record("onnx", encoder=name, used=False, reason=str(error)[:300])
            return encoder
        self.log.record("onnx", encoder=name, used=True, agreement=TOLERANCE)
        return fast

    def _may_use_onnx(self) -> bool:
        return self.onnx and self.runtime.device.type == "cpu" and self.runtime.precision == "32" and onnx_available()

    def _key(self, what: Encoding, weights: str, rows: Rows, views: Sequence[Moment] | None) -> str:
        digest = hashlib.sha256()
        facts = {
            "format": _FORMAT,
            "encoder": what.encoder.describe(),
            "weights": weights,
            "augment": what.augment.describe(),
            "views": None if views is None else [[m.seed, m.epoch, m.view] for m in views],
            "precision": self.runtime.precision,
            "engine": "onnx" if self._may_use_onnx() else self.runtime.device.type,
        }
        if fleeting := _fleeting(what, views):
            facts["run"] = fleeting
        digest.update(json.dumps(facts, sort_keys=True, default=str).encode())
        for array in (what.source.digests[rows], what.source.present[rows], what.keys[rows] if views else rows[:0]):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()


def _fleeting(what: Encoding, views: Sequence[Moment] | None) -> str | None:
    """Return a word of this run's own where its random views depend on more than can be told."""
    return None if views is None else what.augment.fleeting


def blank(shape: tuple[int, ...], folder: Path) -> Array:
    """Return float32 zeros; beyond `IN_MEMORY` bytes in a file of a folder that nobody sees and that goes with them.

    Where the disk has no room for them, they are in memory: a mapped file that cannot grow would end the process.
    """
    size = 4 * math.prod(shape)
    if size > IN_MEMORY and hasattr(os, "posix_fallocate"):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with TemporaryFile(dir=folder) as file:
                os.posix_fallocate(file.fileno(), 0, size)
                return np.memmap(file, np.float32, "r+", shape=shape)
        except OSError:
            pass
    return np.zeros(shape, dtype=np.float32)


def weights_hash(module: torch.nn.Module) -> str:
    """Return the SHA-256 over all parameters and buffers, names included."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(str((tensor.dtype, tuple(tensor.shape))).encode())
        digest.update(_bytes(tensor))
    return digest.hexdigest()


def _bytes(tensor: Tensor) -> memoryview | bytes:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data if flat.numel() else b""


def _opened(folder: Path) -> Array:
    """Return the features in a folder; raise ValueError, among others, if they are not what was written."""
    facts = json.loads((folder / "features.json").read_text(encoding="utf-8"))
    features: Array = np.load(folder / "features.npy", mmap_mode="r", allow_pickle=False)
    if facts["format"] != _FORMAT or facts["checksum"] != checksum(features):
        raise ValueError("these are not the features that were written")
    return features


def default_folder() -> Path:
    """Return the user's cache folder for features."""
    return cache_folder("features")
