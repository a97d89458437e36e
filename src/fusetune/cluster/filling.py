"""Pictures opened and rows encoded on a cluster, for `encode` and `check`, to what one process makes of them."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from fusetune.cluster.engine import Engine
from fusetune.cluster.place import Chunk, Place
from fusetune.cluster.tasks import Batches, Encode, Look, Open, read_arrays
from fusetune.cluster.work import Task
from fusetune.config import Config
from fusetune.data.images import ImageInput, Keeper, Reading, Scan
from fusetune.data.imprint import column_hash
from fusetune.data.table import Table
from fusetune.doctor.images import Pictures
from fusetune.encoding import Elsewhere
from fusetune.features.store import Array, Work, blank, default_folder, weights_hash
from fusetune.files import expanded, facts_hash
from fusetune.prepare import reading_of
from fusetune.version import VERSION

T = TypeVar("T")
PICTURES = 512  # of a chunk: their pixels are in memory together
BATCHES = 16  # of a chunk


@dataclass(frozen=True)
class Filling:
    """Lets a cluster open pictures and encode.

    Attributes:
        engine: The cluster.
        config: The settings of the run.
        pictures: How many are in a chunk.
        batches: How many are in a chunk.
    """

    engine: Engine
    config: Config
    pictures: int = PICTURES
    batches: int = BATCHES

    @property
    def home(self) -> Path:
        """Where chunks go until their results are kept: beside the stored features."""
        store = self.config.store.folder
        return (expanded(store) if store else default_folder()).resolve().with_name("chunks")

    def elsewhere(self) -> Elsewhere:
        """Return who does what; pixels that nobody may keep are better opened where they are used."""
        return Elsewhere(self.look, self.scan, self.encode)

    def look(self, table: Table, reader: ImageInput, keeper: Keeper | None = None) -> Pictures:
        """Look at pictures as `look_at_pictures` does."""
        cores = self.engine.cluster.cores
        task = Look(reader, cores) if keeper is None else Look(reader, cores, keeper.settings, _place_of(keeper))
        pictures = Pictures.unopened(table.column(reader.column), reader.column)

        def gather(place: Place, chunks: Sequence[Chunk]) -> Pictures:
            for chunk in chunks:
                arrays, problems = read_arrays(place.done(chunk))
                for name, found in arrays.items():
                    getattr(pictures, name)[chunk.start : chunk.stop] = found
                pictures.problems.update({row + chunk.start: text for row, text in problems.items()})
            return pictures

        facts = {"reader": reader.model_dump(mode="json"), "kept": None if keeper is None else str(task.cache)}
        return self._done(f"looking at {reader.column}", task, table, reader, facts, gather)

    def scan(self, settings: ImageInput, table: Table) -> Scan:
        """Open pictures as an `ImageSource` does, and keep their pixels where it looks for them."""
        reading = reading_of(self.config)
        task = Open(settings, Reading(self.engine.cluster.cores, reading.cache, reading.cache_gb))

        def gather(place: Place, chunks: Sequence[Chunk]) -> Scan:
            scans = []
            for chunk in chunks:
                arrays, problems = read_arrays(place.done(chunk))
                scans.append(Scan(arrays["present"], arrays["digests"], arrays["several"], problems))
            return Scan.joined(scans)

        facts = {"settings": settings.model_dump(mode="json"), "cache": str(reading.cache)}
        return self._done(f"opening {settings.column}", task, table, settings, facts, gather)

    def encode(self, work: Work) -> Array:
        """Encode rows as `FeatureStore.encoded` does, in the same batches."""
        what = work.what
        assert work.runtime is not None
        encoder = copy.deepcopy(what.encoder).cpu().eval()
        task = Encode(
            what.name, encoder, what.augment, work.moments, what.batch_size, work.fast, work.example,
            work.runtime, self.engine.cluster.cores,
        )  # fmt: skip
        groups = [work.batches[at : at + self.batches] for at in range(0, len(work.batches), self.batches)]
        facts = {
            "encoder": encoder.describe(),
            "weights": weights_hash(encoder),
            "augment": what.augment.describe(),
            "moments": [None if m is None else [m.seed, m.epoch, m.view] for m in work.moments],
            "fast": work.fast,
            "precision": task.runtime.precision,
            "device": task.runtime.device.type,
        }
        pieces = []
        for group in groups:
            places = np.concatenate(group)
            starts = np.cumsum([0, *map(len, group)])
            batches = [np.arange(start, stop) for start, stop in pairwise(starts.tolist())]
            rows = work.rows[places]
            pieces.append(Batches(what.source.some(rows), what.keys[rows], batches, rows))
        order = np.concatenate(work.batches) if groups else np.zeros(0, dtype=np.int64)

        def gather(place: Place, chunks: Sequence[Chunk]) -> Array:
            result = blank((len(work.moments), len(work.rows), encoder.dim), self.home)
            for chunk in chunks:
                result[:, order[chunk.start : chunk.stop]] = read_arrays(place.done(chunk))[0]["features"]
            return result

        return self._run(f"encoding {what.name}", task, pieces, facts | {"rows": _hash(work.rows)}, gather)

    def _done(
        self,
        what: str,
        task: Task,
        table: Table,
        reader: ImageInput,
        facts: dict[str, Any],
        gather: Callable[[Place, Sequence[Chunk]], T],
    ) -> T:
        """Let the pictures of a table be worked on; what else is in it stays here."""
        columns = [name for name in (reader.column, reader.spacing) if name is not None]
        bare = Table(table.frame[columns], table.name, table.root, unit=table.unit)
        pieces = []
        for start in range(0, len(table), self.pictures):
            rows = np.arange(start, min(start + self.pictures, len(table)))
            pieces.append((start, bare.take(rows)))
        facts |= {"table": column_hash(bare.frame[reader.column]), "root": str(table.root)}
        return self._run(what, task, pieces, facts, gather)

    def _run(
        self,
        what: str,
        task: Task,
        pieces: Sequence[Any],
        facts: dict[str, Any],
        gather: Callable[[Place, Sequence[Chunk]], T],
    ) -> T:
        how = facts_hash({"version": VERSION, "task": type(task).__name__} | facts)
        place = Place(self.home / how[:32], task.suffix)
        with place.held(what):
            self.engine.check([place.mark])
            chunks, start = [], 0
            for piece in pieces:
                stop = start + _length(piece)
                chunks.append(place.hand(start, stop, piece, how))
                start = stop
            self.engine.run(task, place, chunks, what)
            place.seal(chunks, start)
            found = gather(place, chunks)
        place.discard()
        return found


def _length(piece: Any) -> int:
    return len(piece.keys) if isinstance(piece, Batches) else len(piece[1])


def _place_of(keeper: Keeper) -> tuple[Path, int]:
    return keeper.cache.home, keeper.cache.vault.limit


def _hash(rows: Any) -> str:
    return hashlib.sha256(np.ascontiguousarray(rows).tobytes()).hexdigest()
