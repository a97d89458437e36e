"""A cluster of this process alone: chunks go through the same folder and the same worker, without Ray."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fusetune.cluster.engine import Cluster, Engine
from fusetune.cluster.place import Chunk, Place
from fusetune.cluster.work import Task, Worker


class Here(Engine):
    """Works on chunks in the order of their names, backwards, as no order is promised."""

    def __init__(self) -> None:
        self.cluster, self.workers, self.worked = Cluster(), 1, 0

    def check(self, files: Sequence[Path]) -> None:
        assert all(file.exists() for file in files)

    def results(self, task: Task, place: Place, chunks: Sequence[Chunk]) -> Iterator[Mapping[str, Any]]:
        worker = Worker(pickle.loads(pickle.dumps(task)), place)
        for chunk in sorted(chunks, key=lambda one: one.name, reverse=True):
            self.worked += 1
            yield worker.work(chunk) | {"node": "here"}
