"""The processes of a server: started on one socket, and ended so that what was accepted is answered."""

from __future__ import annotations

import os
import signal
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import Multiprocess

from fusetune.errors import RunError, UserError
from fusetune.runtime import cores
from fusetune.serve.app import create
from fusetune.serve.counts import SHARED
from fusetune.serve.current import read_served
from fusetune.serve.options import ENVIRONMENT, Options

_BACKLOG = 2048
_SLOWEST = 60  # seconds after which a worker process that says nothing is replaced


class _Workers(Multiprocess):
    """The processes of a server; this one keeps no connection that the others no longer take."""

    def handle_term(self) -> None:
        """Let all of them leave."""
        for opened in self.sockets:
            opened.close()
        super().handle_term()


def listening(host: str, port: int) -> socket.socket:
    """Return a socket on which connections come in.

    Raises:
        UserError: If there can be none at that address.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        opened = socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except (OSError, OverflowError, UnicodeError) as error:
        said = getattr(error, "strerror", None) or str(error)
        raise UserError(f"cannot listen on {host}, port {port}: {said}; choose another --port or --host") from error
    # Connections inherit it. asyncio sets it only for sockets that name their protocol; without it the second packet of
    # each reply waits 40 ms for the client's acknowledgement of the first.
    opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return opened


def run(options: Options, opened: socket.socket, workers: int, access_log: bool) -> None:
    """Serve until SIGTERM or Ctrl-C.

    Args:
        options: What is served.
        opened: Where.
        workers: Processes, each with a model of its own.
        access_log: Write a line per request.

    Raises:
        BundleError: If the folder holds no usable model.
        RunError: If the worker processes cannot be started.
    """
    options = options.model_copy(update={"threads": max(1, cores() // workers)})
    served = read_served(options)  # here also where workers read it again: what is wrong is said once
    if workers == 1:
        # Uvicorn raises the signal that ended it once more; SIGTERM is the usual end of a server and no failure.
        before = signal.signal(signal.SIGTERM, lambda *_: None)
        try:
            uvicorn.Server(_config(create(options, served), options, access_log)).run(sockets=[opened])
        finally:
            signal.signal(signal.SIGTERM, before)
        return
    del served
    with tempfile.TemporaryDirectory(prefix="fusetune-serve-") as shared, _told(options, Path(shared)):
        config = _config("fusetune.serve.app:from_environment", options, access_log, workers)
        supervisor = _Workers(config, sockets=[opened])
        supervisor.run()
        if any(process.exitcode == STARTUP_FAILURE for process in supervisor.processes):
            raise RunError("a worker process could not be started; see above, or try --workers 1")


def _config(app: object, options: Options, access_log: bool, workers: int = 1) -> uvicorn.Config:
    return uvicorn.Config(
        app,  # type: ignore[arg-type]
        factory=isinstance(app, str),
        workers=workers,
        http="h11",
        ws="none",
        loop="asyncio",
        lifespan="on",
        log_level="info" if access_log else "warning",
        access_log=access_log,
        server_header=False,
        backlog=_BACKLOG,
        timeout_keep_alive=15,
        timeout_graceful_shutdown=int(options.seconds) + 5,
        timeout_worker_healthcheck=_SLOWEST,
    )


@contextmanager
def _told(options: Options, shared: Path) -> Iterator[None]:
    """Put into the environment what worker processes need, and take it out again."""
    bell = shared / "bell"
    bell.touch()
    given = {ENVIRONMENT: options.model_copy(update={"bell": str(bell)}).model_dump_json(), SHARED: str(shared)}
    before = {name: os.environ.get(name) for name in given}
    os.environ.update(given)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value
