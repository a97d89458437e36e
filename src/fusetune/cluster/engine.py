"""Ray: joining a cluster, and handing chunks to its workers through Ray Data.

Ray Data starts the pool of workers, keeps two chunks on the way to each, and starts anew what was lost with a process
or a node. Usage statistics are off, and nothing is fetched. Ray is imported by name, when a cluster is joined: it is an
extra.
"""

from __future__ import annotations

import importlib.util
import logging
import math
import os
import socket
import struct
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from fusetune.cluster.nodes import facts_here, refuse_unlike
from fusetune.cluster.place import Chunk, Place
from fusetune.cluster.work import FAILED, STOOD, UNWRITTEN, Task, Worker
from fusetune.errors import RunError, UserError, WriteError
from fusetune.progress import bar

AUTO, LOCAL = "auto", "local"
_SECONDS = 5.0  # until an address that does not answer is given up
_PATIENCE = 60.0  # seconds until a node that does not say its versions is given up
_WORST = 20  # chunks that may fail before the others are not tried any more
# What an HTTP/2 server, as Ray's is, answers with settings: the preface and empty settings.
_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + struct.pack(">IBI", 0, 4, 0)[1:] + b"\0"
_START = (
    "start one with `ray start --head --num-cpus=N` on one machine and `ray start --address=HOST:6379` on others, or "
    "give --address local for one that ends with the command"
)


@dataclass(frozen=True)
class Cluster:
    """Where work is done.

    Attributes:
        address: HOST:PORT of a running cluster; `auto`: the one that this machine belongs to; `local`: one of this
            machine alone, which ends with the work.
        workers: How many work at once; None: as many as there are cores.
        cores: Cores of each, which are also its threads.
        gpus: GPUs of each, or a share of one.
    """

    address: str = AUTO
    workers: int | None = None
    cores: int = 1
    gpus: float = 0

    def __post_init__(self) -> None:
        if (self.workers is not None and self.workers < 1) or self.cores < 1 or self.gpus < 0:
            raise UserError("workers and the cores of each must be at least 1, and GPUs not negative")


@dataclass
class Outcome:
    """What became of a job's chunks.

    Attributes:
        chunks: How many there are.
        stood: Of them, those whose results were there before.
        again: Those that Ray handed out again after they had been done, since what told so was lost.
        cpu: Seconds of CPU that chunks took, together.
        span: When the first of them was begun and the last one ended, by the clocks of the nodes.
        peaks: Most memory that each worker had, bytes by process.
    """

    chunks: int = 0
    stood: int = 0
    again: int = 0
    cpu: float = 0.0
    span: tuple[float, float] | None = None
    peaks: dict[tuple[str, int], int] = field(default_factory=dict)

    def __str__(self) -> str:
        before = f", {self.stood:,} of which stood from before" if self.stood else ""
        most = f", {max(self.peaks.values()) / 2**30:.2f} GB at most" if self.peaks else ""
        return f"{self.chunks:,} chunk(s){before}; {len(self.peaks):,} worker(s){most}"


class Engine:
    """A cluster that was joined; see `joined`.

    Args:
        cluster: Which, and how much of it.
    """

    def __init__(self, cluster: Cluster) -> None:
        self.ray: Any = importlib.import_module("ray")
        self.cluster, ray = cluster, self.ray
        there = ray.cluster_resources()
        fit = int(there.get("CPU", 0) // cluster.cores)
        if cluster.gpus:
            fit = min(fit, int(there.get("GPU", 0) / cluster.gpus))
        if not fit:
            raise UserError(
                f"the cluster has {there.get('CPU', 0):g} cores and {there.get('GPU', 0):g} GPUs, too few for a worker "
                f"with {cluster.cores} core(s) and {cluster.gpus:g} GPU(s); add nodes, or ask for less"
            )
        self.workers = min(fit, cluster.workers or fit)

    def check(self, files: Sequence[Path]) -> None:
        """Refuse a cluster whose nodes differ from this machine in versions or files.

        Raises:
            UserError: Naming the nodes and what differs.
        """
        strategy = importlib.import_module("ray.util.scheduling_strategies").NodeAffinitySchedulingStrategy
        nodes = [node for node in self.ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
        ask = self.ray.remote(num_cpus=0, max_retries=0)(facts_here)
        asked = {
            node["NodeID"]: ask.options(scheduling_strategy=strategy(node["NodeID"], soft=False)).remote(list(files))
            for node in nodes
        }
        found = {}
        for node in nodes:
            name = f"{node['NodeManagerAddress']} ({node['NodeID'][:8]})"
            try:
                found[name] = self.ray.get(asked[node["NodeID"]], timeout=_PATIENCE)
            except self.ray.exceptions.RayError as error:
                raise UserError(
                    f"node {name} cannot say what is installed there ({_first(error)}); install the same fusetune on "
                    "every node: pip install 'fusetune[cluster]'"
                ) from error
        refuse_unlike(facts_here(files), found)

    def run(self, task: Task, place: Place, chunks: Sequence[Chunk], what: str) -> Outcome:
        """Let workers do every chunk whose result does not stand.

        Args:
            task: What is done.
            place: Where chunks are.
            chunks: All of them.
            what: What the progress bar says.

        Raises:
            WriteError: If a result cannot be written.
            UserError: If chunks failed because of what is in them; the others are done then.
            RunError: If the cluster was lost.
        """
        waiting = [chunk for chunk in chunks if not place.done(chunk).exists()]
        outcome = Outcome(len(chunks), len(chunks) - len(waiting))
        failed: list[str] = []
        with bar(what, len(chunks)) as progress:
            progress.advance(outcome.stood)
            for one in self.results(task, place, waiting) if waiting else ():
                progress.advance()
                outcome.cpu += float(one["cpu"])
                began, ended = outcome.span or (math.inf, -math.inf)
                outcome.span = (min(began, float(one["began"])), max(ended, float(one["ended"])))
                outcome.again += one["state"] == STOOD
                worker = (str(one["node"]), int(one["pid"]))
                outcome.peaks[worker] = max(outcome.peaks.get(worker, 0), int(one["peak"]))
                if one["state"] == UNWRITTEN:
                    raise WriteError(f"{one['text']}; {_standing(place, chunks)}")
                if one["state"] == FAILED and str(one["text"]) not in failed:
                    failed.append(str(one["text"]))
                if len(failed) >= _WORST:
                    break
        if failed:
            listing = "".join(f"\n  - {text}" for text in failed)
            raise UserError(f"some rows could not be worked on:{listing}\n{_standing(place, chunks)}")
        return outcome

    def results(self, task: Task, place: Place, chunks: Sequence[Chunk]) -> Iterator[Mapping[str, Any]]:
        """Yield what became of each chunk, as `Worker.work` says it, in any order."""
        data: Any = importlib.import_module("ray.data")
        context = data.DataContext.get_current()
        context.enable_progress_bars = False
        items = [{"start": one.start, "stop": one.stop, "digest": one.digest, "name": one.name} for one in chunks]
        resources: dict[str, Any] = {"num_cpus": self.cluster.cores}
        if self.cluster.gpus:
            resources["num_gpus"] = self.cluster.gpus
        try:
            yield from (
                data.from_items(items, override_num_blocks=len(items))
                .map_batches(
                    RayWorker,
                    fn_constructor_args=(task, place),
                    compute=data.ActorPoolStrategy(size=min(self.workers, len(items))),
                    batch_size=None,
                    **resources,
                )
                .iter_rows()
            )
        except (self.ray.exceptions.RayError, ConnectionError) as error:
            raise RunError(f"the cluster was lost ({_first(error)}); {_standing(place, chunks)}") from error


class RayWorker(Worker):
    """A worker that says on which node it is."""

    def work(self, chunk: Chunk) -> dict[str, Any]:
        """Work on a chunk; see `Worker`."""
        ray: Any = importlib.import_module("ray")
        return super().work(chunk) | {"node": ray.get_runtime_context().get_node_id()}


@contextmanager
def joined(cluster: Cluster) -> Iterator[Engine]:
    """Join a cluster for as long as the block takes, or the one that this process has joined itself.

    Raises:
        UserError: Within seconds, if Ray is not installed, there is no such cluster, or it has another version.
    """
    refuse_without_ray()
    # Read when Ray is imported and by what it starts: no statistics, no words of workers among ours.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    ray: Any = importlib.import_module("ray")
    ours = not ray.is_initialized()
    if ours:
        with _unheard():
            _join(ray, cluster)
    importlib.import_module("ray.data")
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    try:
        yield Engine(cluster)
    finally:
        if ours:
            ray.shutdown()


def refuse_without_ray() -> None:
    """Refuse to go on where Ray is not installed.

    Raises:
        UserError: Saying how to get it.
    """
    if importlib.util.find_spec("ray") is None:
        raise UserError("--engine ray needs Ray, on this machine and on every node: pip install 'fusetune[cluster]'")


@contextmanager
def _unheard() -> Iterator[None]:
    """Keep what Ray's own code writes to the terminal away from it; what matters comes as an exception."""
    sys.stderr.flush()
    ours, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(ours, 2)
        os.close(ours)
        os.close(nowhere)


def _join(ray: Any, cluster: Cluster) -> None:
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    address = cluster.address
    if address == LOCAL:
        cores = None if cluster.workers is None else cluster.workers * cluster.cores
        ray.init(num_cpus=cores, include_dashboard=False, **quiet)
        return
    if address == AUTO:
        address = os.environ.get("RAY_ADDRESS") or AUTO
    if address != AUTO:
        refuse_address(address)
    try:
        ray.init(address=address, **quiet)
    except ConnectionError as error:
        raise UserError(f"there is no Ray cluster that this machine belongs to; {_START}") from error
    except RuntimeError as error:
        if "version mismatch" in str(error).lower():
            raise UserError(
                f"the cluster at {address} runs other versions than this machine: {_told(error)}; install the same "
                "Ray and Python everywhere"
            ) from error
        _refuse(address, error)
    except (Exception, SystemExit) as error:  # Ray ends the process where it finds no cluster behind an address
        _refuse(address, error)


def _refuse(address: str, error: BaseException) -> NoReturn:
    raise UserError(
        f"the cluster at {address} cannot be joined ({_first(error)}); the command must run on a machine that belongs "
        f"to it: `ray start --address={address} --num-cpus=0` makes this one belong, without working"
    ) from error


def refuse_address(address: str) -> None:
    """Refuse an address at which no Ray cluster answers within seconds; Ray itself waits for minutes.

    Raises:
        UserError: Saying what is there instead.
    """
    host, _, port = address.rpartition(":")
    if "://" in address or not host or not port.isdigit():
        raise UserError(f"--address {address}: an address is HOST:PORT, such as 10.0.0.1:6379, or auto, or local")
    try:
        with socket.create_connection((host, int(port)), timeout=_SECONDS) as connection:
            connection.settimeout(_SECONDS)
            connection.sendall(_HELLO)
            answer = connection.recv(9)
    except (OSError, OverflowError) as error:
        raise UserError(f"no Ray cluster answers at {address} ({error}); {_START}") from error
    if len(answer) < 4 or answer[3] != 4:  # the kind of a frame with settings
        raise UserError(f"what answers at {address} is no Ray cluster (its port is 6379 by default); {_START}")
    if not _is_head(address):
        raise UserError(
            f"what answers at {address} is no head of a Ray cluster (its port is 6379 by default, and neither that of "
            f"Ray's client, 10001, nor that of the dashboard, 8265); {_START}"
        )


def _is_head(address: str) -> bool:
    """Ask for the cluster's number in a thread that may be left waiting."""
    raylet: Any = importlib.import_module("ray._raylet")
    found: list[Any] = []

    def ask() -> None:
        try:
            found.append(raylet.GcsClient(address=address).cluster_id)
        except Exception:  # of whatever kind: it is none
            found.append(None)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(2 * _SECONDS)
    return bool(found and found[0] is not None)


def _standing(place: Place, chunks: Sequence[Chunk]) -> str:
    done = sum(place.done(chunk).exists() for chunk in chunks)
    return f"{done:,} of {len(chunks):,} chunks stand in {place.folder}: do the same again to continue"


def _told(error: BaseException) -> str:
    return "; ".join(line.strip() for line in str(error).splitlines() if line.strip())


def _first(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
    return f"{type(error).__name__}: {lines[0][:200]}"
