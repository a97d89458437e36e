"""What happens to a job on a cluster of three nodes: a worker and a node die in the middle of a chunk, a row fails.

Run as a program, it starts a cluster on this machine (Ray's own, for tests), does all of it, compares every result with
that of one process and prints what it saw as JSON; any difference ends it with an exit code.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pandas as pd

import fusetune
from fusetune.answers import Extras
from fusetune.cluster import nodes, predicting
from fusetune.cluster.engine import Cluster, Engine, Outcome, joined
from fusetune.cluster.filling import Filling
from fusetune.cluster.nodes import facts_here, refuse_unlike
from fusetune.cluster.predicting import Asked, predicted
from fusetune.cluster.tasks import Answer
from fusetune.cluster.work import Doing
from fusetune.config import Config
from fusetune.data.roles import Roles
from fusetune.data.table import read_table
from fusetune.encoding import Elsewhere, encoded
from fusetune.errors import FusetuneError, RunError
from fusetune.handing import Handed
from fusetune.progress import Log

MODEL = Path(__file__).parents[1] / "tests" / "bundles" / "format_4"
ROWS, CHUNK = 256, 8
# In the chunks of these rows something happens, once each.
WORKER, NODE, POISON = 43, 99, 205
_PATIENCE = 900.0  # seconds; machines that test can be slow to start what Ray takes


@dataclass(frozen=True)
class Cruel(Answer):
    """Answers rows, but ends its process at one, waits for its node to die at another, and fails at a third."""

    def begin(self) -> Doing:
        """Load the model."""
        doing, signs = super().begin(), Path(os.environ["SCENE"])

        def write(piece: Handed, path: Path) -> None:
            here = range(piece.start, piece.start + len(piece))
            if WORKER in here and first(signs / "worker"):
                os.kill(os.getpid(), signal.SIGKILL)
            if NODE in here and first(signs / "node"):
                doing(piece, path)  # half of the work is done: the file is there, and has no name yet
                time.sleep(_PATIENCE)
            if POISON in here and not (signs / "mended").exists():
                raise RunError(f"row {POISON} is poison")
            doing(piece, path)

        return write


def first(sign: Path) -> bool:
    """Return whether a sign is set for the first time; it says which node did."""
    if sign.exists():
        return False
    ray: Any = importlib.import_module("ray")
    sign.with_suffix(".new").write_text(ray.get_runtime_context().get_node_id())
    sign.with_suffix(".new").rename(sign)
    return True


@contextmanager
def cluster_of(nodes: int) -> Iterator[Any]:
    """Start a head without cores and some nodes with one each."""
    utils: Any = importlib.import_module("ray.cluster_utils")
    cluster = utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        for _ in range(nodes):
            cluster.add_node(num_cpus=1)
        yield cluster
    finally:
        cluster.shutdown()


def node_dies(cluster: Any, signs: Path) -> threading.Thread:
    """Kill the node that waits for it, as a power cut would."""

    def wait() -> None:
        until = time.monotonic() + _PATIENCE
        while not (signs / "node").exists() and time.monotonic() < until:
            time.sleep(0.02)
        dying = (signs / "node").read_text()
        (node,) = [one for one in cluster.worker_nodes if one.node_id == dying]
        cluster.remove_node(node, allow_graceful=False)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def table_of(folder: Path) -> Path:
    """Write many rows in the form of the model's own, each with an id."""
    rows = pd.read_csv(MODEL / "rows.csv", dtype=str, keep_default_na=False)
    many = pd.concat([rows] * (ROWS // len(rows) + 1), ignore_index=True).iloc[:ROWS]
    many["case_id"] = [f"row-{row}" for row in range(ROWS)]
    path = folder / "table.csv"
    many.to_csv(path, index=False)
    return path


def failing(work: Callable[[], object]) -> str:
    """Return what an attempt says that must fail."""
    try:
        work()
    except FusetuneError as error:
        return str(error)
    raise AssertionError("this should have failed")


def same_features(engine: Engine, folder: Path) -> bool:
    """Encode texts here and on what is left of the cluster; return whether the stores are equal byte by byte."""
    words = ["heart", "liver", "lung", "left", "right", "seen", "again", "not"]
    notes = [" ".join([f"case {row}", *(words[row * step % 8] for step in range(1, 2 + row % 5))]) for row in range(96)]
    frame = pd.DataFrame({"id": range(96), "note": notes, "organ": [words[row % 3] for row in range(96)]})
    frame.to_csv(folder / "notes.csv", index=False)
    stores = []
    for name, others in (("here", False), ("there", True)):
        text = {"encoder": "builtin", "max_tokens": 16, "augment": {"drop": 0}, "train": {"epochs": 0, "batch_size": 8}}
        store = folder / name / "store"
        config = Config.build({"threads": 1, "text": text, "store": {"folder": str(store)}})
        elsewhere = Filling(engine, config, batches=1).elsewhere() if others else Elsewhere()
        roles = Roles("organ", ["note"], row_id="id")
        encoded(read_table(folder / "notes.csv"), "organ", roles, config, None, Log(None, quiet=True), elsewhere)
        stores.append({file.relative_to(store): file.read_bytes() for file in store.rglob("features.npy")})
    return bool(stores[0]) and stores[0] == stores[1]


def usage_reported(engine: Engine) -> bool:
    """Return whether Ray means to send statistics of its use, here or from a process that it started."""

    def ask() -> bool:
        lib: Any = importlib.import_module("ray._common.usage.usage_lib")
        return bool(lib.usage_stats_enabled())

    return ask() or bool(engine.ray.get(engine.ray.remote(num_cpus=0)(ask).remote()))


def scene(folder: Path) -> dict[str, Any]:
    """Let all of it happen; return what was seen."""
    signs = folder / "signs"
    signs.mkdir()
    os.environ["SCENE"] = str(signs)
    seen: dict[str, Any] = {}
    model, table = fusetune.load(MODEL), table_of(folder)
    with patch("fusetune.answering.PIECE", CHUNK):
        whole = model.predict_table(table)
    asked = Asked(MODEL, model, Extras(), rows=CHUNK)
    with cluster_of(2) as cluster, joined(Cluster(cluster.address)) as engine:
        thread = node_dies(cluster, signs)

        def attempt() -> tuple[pd.DataFrame, Outcome]:
            chunks = folder / "out.chunks"
            with (
                patch.object(predicting, "Answer", Cruel),
                predicted(asked, read_table(table), chunks, engine) as found,
            ):
                return pd.concat(list(found.pieces), ignore_index=True), found.outcome

        seen["poison"] = failing(attempt)
        thread.join()
        seen["nodes"] = sum(node["Alive"] for node in engine.ray.nodes())
        (signs / "mended").touch()
        told, outcome = attempt()
        seen |= {"stood": outcome.stood, "chunks": outcome.chunks, "equal": bool(told.equals(whole))}
        seen["left"] = sorted(path.name for path in (folder / "out.chunks").rglob(".*") if path.name != ".lock")
        seen["features"] = same_features(engine, folder)
        with patch.object(nodes, "VERSION", "0.0.1"):
            nodes._versions.cache_clear()
            seen["unlike"] = failing(lambda: engine.check([]))
            nodes._versions.cache_clear()
        seen["unseen"] = failing(lambda: refuse_unlike(facts_here([table]), {"a": facts_here([])}))
        seen["statistics"] = usage_reported(engine)
    return seen


def main() -> None:
    sys.path.insert(0, str(Path(__file__).parent))
    # Under its own name, by which workers find it.
    print(json.dumps(importlib.import_module("_cluster_scene").scene(Path(sys.argv[1]))))


if __name__ == "__main__":
    main()
