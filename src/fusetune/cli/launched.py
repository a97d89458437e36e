"""The processes behind `--devices N`: the same command N times on this machine, watched until all have ended.

The first one has the terminal. What the others say is kept, and shown where one of them was the first to fail.
"""

from __future__ import annotations

import math
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import IO, Any

import typer

from fusetune.cli.frame import INTERRUPTED
from fusetune.errors import RankError, RunError, UserError

# What a rank ends with where it ends because of another one.
LEFT = 113
# Seconds that the others are given to end by themselves when one has failed.
_GRACE = 10.0
_SHOWN = 2000


def wanted(devices: int | None, nodes: int | None) -> bool:
    """Return whether this process is to start others: several are asked for here, and no launcher made it one of them.

    Raises:
        UserError: If a number is not possible.
    """
    if devices is not None and devices < 1:
        raise UserError(f"--devices {devices}: at least 1 is needed")
    return devices is not None and devices > 1 and (nodes or 1) == 1 and "RANK" not in os.environ


@contextmanager
def as_one_of_several() -> Iterator[bool]:
    """Say whether this process is the first one of those that a launcher started, or alone: the one that prints.

    Where it ends because another one did, only that one's message counts.
    """
    try:
        yield os.environ.get("RANK", "0") == "0"
    except RankError:
        if "FUSETUNE_LAUNCHED" not in os.environ:
            raise
        raise typer.Exit(LEFT) from None


def launch(devices: int, arguments: Sequence[str]) -> int:
    """Run the command in so many processes; return the exit code of the first.

    Raises:
        RunError: If another one than the first failed first; with what it said.
    """
    common = {
        "WORLD_SIZE": str(devices),
        "LOCAL_WORLD_SIZE": str(devices),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
    }
    if sys.platform == "linux":  # the name of a machine may lead to no address of it
        common["GLOO_SOCKET_IFNAME"] = os.environ.get("GLOO_SOCKET_IFNAME", "lo")
    command, processes, said = [sys.executable, "-m", "fusetune", *arguments], list[Any](), list[IO[bytes]]()
    with ExitStack() as files, _terminated(processes):
        for rank in range(devices):
            own = {**os.environ, **common, "RANK": str(rank), "LOCAL_RANK": str(rank), "FUSETUNE_LAUNCHED": "1"}
            output: dict[str, Any] = {}
            if rank:
                said.append(files.enter_context(tempfile.TemporaryFile()))
                output = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": said[-1]}
            processes.append(subprocess.Popen(command, env=own, **output))
        codes = _watched(processes)
        _refuse_failed(codes, said)
    return codes[0] or 0


def _refuse_failed(codes: Sequence[int | None], said: Sequence[IO[bytes]]) -> None:
    """Say which rank failed first, unless it was the first one, and said so itself.

    A rank that ended because of another says so by its exit code; one that was killed says nothing.
    """
    guilty = next((rank for rank, code in enumerate(codes) if code not in (0, LEFT, None)), None)
    code = 0 if guilty is None else codes[guilty] or 0
    if not any(codes) or (guilty == 0 and code > 0):
        return
    how = f"was ended by signal {-code}" if code < 0 else f"failed with exit code {code}"
    what = "the processes lost each other" if guilty is None else f"rank {guilty} of {len(codes)} {how}"
    raise RunError(
        f"{what}, and the others were stopped. Nothing half-written is left, and finished epochs are kept: continue "
        f"with --resume{_last(said[guilty - 1]) if guilty else ''}"
    )


def _watched(processes: Sequence[subprocess.Popen[bytes]], seconds: float = math.inf) -> list[int | None]:
    """Wait until all have ended; where one fails, the others soon. None is the code of one that had to be stopped."""
    ends = time.monotonic() + seconds
    while any(process.poll() is None for process in processes) and time.monotonic() < ends:
        if any(process.poll() for process in processes):
            ends = min(ends, time.monotonic() + _GRACE)
        time.sleep(0.05)
    codes = [process.poll() for process in processes]
    _stop(processes)
    return codes


def _stop(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        if process.poll() is None:
            process.kill()
    for process in processes:
        process.wait()


@contextmanager
def _terminated(processes: Sequence[subprocess.Popen[bytes]]) -> Iterator[None]:
    """Leave no process behind, however the block ends; on Ctrl-C, which all of them hear, let them end themselves."""

    def leave(number: int, _: Any) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    except KeyboardInterrupt:  # the first rank says so
        _watched(processes, _GRACE)
        raise typer.Exit(INTERRUPTED) from None
    finally:
        _stop(processes)
        signal.signal(signal.SIGTERM, before)


def _last(file: IO[bytes]) -> str:
    """Return the last lines of what a process said."""
    length = file.seek(0, os.SEEK_END)
    file.seek(max(0, length - _SHOWN))
    text = file.read().decode("utf-8", "replace").strip()
    return f". It said:\n{text}" if text else ""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
