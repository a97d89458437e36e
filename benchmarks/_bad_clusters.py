"""Faults of work on many machines: what is wrong with a cluster, and workers, nodes and disks that give up."""

from __future__ import annotations

import errno
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pandas as pd
from _bad_places import mounted
from _workshop import CannotTryError, Fault, Workshop
from typer.testing import CliRunner

from fusetune.answers import Extras
from fusetune.cli.frame import app
from fusetune.cluster.engine import Cluster, Engine, Outcome, refuse_address
from fusetune.cluster.nodes import facts_here, refuse_unlike
from fusetune.cluster.place import Chunk, Place
from fusetune.cluster.predicting import Asked, predicted
from fusetune.cluster.tasks import Answer
from fusetune.cluster.work import MOST, Doing, Task, Worker
from fusetune.data.table import read_table
from fusetune.errors import RunError, UserError
from fusetune.handing import Handed

_CHUNK = 16


class _Here(Engine):
    """A worker in this process, so that no cluster has to be started for each fault."""

    def __init__(self) -> None:
        self.cluster, self.workers = Cluster(), 1

    def check(self, files: Sequence[Path]) -> None:
        """Find nothing wrong."""

    def results(self, task: Task, place: Place, chunks: Sequence[Chunk]) -> Iterator[Mapping[str, Any]]:
        """Yield what became of each chunk."""
        worker = Worker(task, place)
        for chunk in chunks:
            yield worker.work(chunk) | {"node": "here"}


class _Ending(_Here):
    """A worker whose process ends at a row, each time anew."""

    def results(self, task: Task, place: Place, chunks: Sequence[Chunk]) -> Iterator[Mapping[str, Any]]:
        """Yield what became of each chunk; one is begun in processes that end."""
        for _ in range(MOST):
            if not (child := os.fork()):
                with patch.object(Answer, "begin", _ends_at("case-20")):
                    Worker(task, place).work(chunks[1])
                os._exit(1)
            os.waitpid(child, 0)
        yield from super().results(task, place, chunks)


def _ends_at(name: str) -> Callable[[Answer], Doing]:
    def begin(_: Answer) -> Doing:
        def write(piece: Handed, path: Path) -> None:
            path.write_bytes(b"half")
            if name in piece.ids.tolist():
                os.kill(os.getpid(), signal.SIGKILL)

        return write

    return begin


def _predict(shop: Workshop, out: Path, there: Engine | None = None) -> None:
    """Predict the clean table in chunks, and compare with one process."""
    table, model = shop.file(shop.csv()), shop.model()
    asked = Asked(shop.made, model, Extras(), rows=_CHUNK)
    with predicted(asked, read_table(table), out, there or _Here()) as found:
        told = pd.concat(list(found.pieces), ignore_index=True)
    with patch("fusetune.answering.PIECE", _CHUNK):
        pd.testing.assert_frame_equal(told, model.predict_table(table), check_exact=True)
    found.place.discard()
    assert not out.exists()


def _full(shop: Workshop) -> None:
    """Once there is space, what stands is not done again."""
    with mounted(shop.folder / "disk", "size=40k") as disk:
        try:
            _predict(shop, disk / "chunks")
        finally:
            shutil.rmtree(disk / "chunks", ignore_errors=True)


def _full_worker(shop: Workshop) -> None:
    """The disk of one worker is full for its second chunk; the same command continues."""
    written, count = Answer.begin, 0

    def begin(task: Answer) -> Doing:
        doing = written(task)

        def write(piece: Handed, path: Path) -> None:
            nonlocal count
            count += 1
            if count == 2:
                path.write_bytes(b"half")
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            doing(piece, path)

        return write

    with patch.object(Answer, "begin", begin):
        try:
            _predict(shop, shop.folder / "chunks")
        except UserError as error:
            assert "No space left" in str(error)
        else:
            raise AssertionError("the disk was not full")
        _predict(shop, shop.folder / "chunks")
    assert count == 4, "three chunks, of which one was tried twice"


def _poison(shop: Workshop) -> None:
    """A row that no process bears is named; the same command works once it is mended."""
    try:
        _predict(shop, shop.folder / "chunks", _Ending())
    finally:
        done = len(list((shop.folder / "chunks" / "done").glob("[0-9]*")))
        _predict(shop, shop.folder / "chunks")
        assert done == 2


def _changed(name: str) -> Callable[[Workshop], object]:
    """Change what is handed out, or a result, before it is used."""

    class Changing(_Here):
        def run(self, task: Task, place: Place, chunks: Sequence[Chunk], what: str) -> Outcome:
            if name == "done":
                found = super().run(task, place, chunks, what)
            for file in sorted((place.folder / name).iterdir())[:1]:
                data = file.read_bytes()
                file.write_bytes(data[:40] + bytes([data[40] ^ 1]) + data[41:])
            return found if name == "done" else super().run(task, place, chunks, what)

    return lambda shop: _predict(shop, shop.folder / "chunks", Changing())


def _somebodys(shop: Workshop) -> None:
    mine = shop.file(b"mine", "chunks/thesis.txt")
    try:
        _predict(shop, shop.folder / "chunks")
    finally:
        assert mine.read_bytes() == b"mine"


def _nothing_there(_: Workshop) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    refuse_address(f"127.0.0.1:{port}")


def _missing(shop: Workshop) -> None:
    found = importlib.util.find_spec
    words = ["predict", str(shop.made), str(shop.file(shop.csv())), "--out", str(shop.folder / "x.csv")]
    with patch("importlib.util.find_spec", lambda name: None if name == "ray" else found(name)):
        answer = CliRunner().invoke(app, [*words, "--engine", "ray"])
    assert not (shop.folder / "x.csv").exists()
    if answer.exit_code == UserError.exit_code:
        raise UserError(" ".join(answer.output.split()))


def _unlike(_: Workshop) -> None:
    here = facts_here([])
    there = {**here, "versions": {**here["versions"], "torch": "1.0"}}
    refuse_unlike(here, {"10.0.0.2": here, "10.0.0.3": there})


def _unseen(shop: Workshop) -> None:
    file = shop.file(b"{}", "job.json")
    refuse_unlike(facts_here([file]), {"10.0.0.3": facts_here([])})


def _other_model(shop: Workshop) -> None:
    class Other(_Here):
        def run(self, task: Any, place: Place, chunks: Sequence[Chunk], what: str) -> Outcome:
            return super().run(replace(task, model="another"), place, chunks, what)

    _predict(shop, shop.folder / "chunks", Other())


def seen_in_scene(folder: Path) -> dict[str, Any]:
    """Let a worker and a node of a cluster die in a process of its own (`_cluster_scene`); return what it saw."""
    if importlib.util.find_spec("ray") is None:
        raise CannotTryError("the extra `cluster` is not installed")
    source = Path(__file__).parent
    paths = os.pathsep.join([str(source.parent / "src"), str(source), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, str(source / "_cluster_scene.py"), str(folder)],
        env={**os.environ, "PYTHONPATH": paths, "RAY_USAGE_STATS_ENABLED": "0"},
        capture_output=True, text=True, timeout=1800, check=False,
    )  # fmt: skip
    if done.returncode:
        raise RunError(f"the scene ended with {done.returncode}: {done.stderr[-4000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _scene(shop: Workshop) -> None:
    (shop.folder / "scene").mkdir()
    seen = seen_in_scene(shop.folder / "scene")
    wrong = {name: seen[name] for name, right in SCENE.items() if not right(seen[name])}
    assert not wrong, wrong


# What the scene must show: after both deaths all chunks but one were done, that one after its row was mended, and
# everything is what one process makes.
SCENE: dict[str, Callable[[Any], bool]] = {
    "nodes": lambda it: it == 2,
    "poison": lambda it: "row 205 is poison" in it and "31 of 32 chunks stand" in it,
    "stood": lambda it: it == 31,
    "chunks": lambda it: it == 32,
    "equal": lambda it: it is True,
    "left": lambda it: it == [],
    "features": lambda it: it is True,
    "unlike": lambda it: "(here 0.0.1" in it,
    "statistics": lambda it: it is False,
}

CLUSTERS = [
    Fault("cluster: address", "nothing answers", _nothing_there, "no Ray cluster answers at .*ray start"),
    Fault("cluster: address", "no address", lambda _: refuse_address("ray://a:10001"), "an address is HOST:PORT"),
    Fault("cluster: missing extra", "here", _missing, r"pip install 'fusetune\[cluster\]'"),
    Fault("cluster: nodes differ", "another version", _unlike, "node 10.0.0.3 has torch 1.0 "),
    Fault("cluster: nodes differ", "a folder that is not shared", _unseen, "node 10.0.0.3 does not see .*shared|share"),
    Fault("cluster: nodes differ", "another model in its place", _other_model, "another model here"),
    Fault("cluster: disk full", "for all chunks", _full, "No space left.*do the same again|No space left.*free some"),
    Fault("cluster: disk full", "for one chunk, then continued", _full_worker),
    Fault("cluster: poison row", "ends every process", _poison, "row 20: 3 processes .*2 of 3 chunks stand"),
    Fault("cluster: chunks", "changed before they are read", _changed("given"), "was changed since it was written"),
    Fault("cluster: chunks", "changed after they were written", _changed("done"), "changed after .* start again", 1),
    Fault("cluster: chunks", "a folder of somebody's", _somebodys, "holds something else"),
]
# It starts Ray's processes, and takes as long as all others together: a test of its own runs it once.
SCENES = [Fault("cluster: deaths", "a worker and a node in the middle of a chunk, a row fails, continued", _scene)]
