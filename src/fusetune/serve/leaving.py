"""How a server process leaves: it says so first, and is still there for a moment."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import uvicorn

from fusetune.serve.counts import SHARED
from fusetune.serve.gate import Door

_LAST = 0.5  # seconds for requests of the connections that were taken last
_ROUND = 0.05  # seconds in which the system ends opening connections that it has begun to
_ATTACH_FILTER = 26  # SO_ATTACH_FILTER of Linux, which Python has no name for


@contextmanager
def drained(door: Door, seconds: float) -> Iterator[None]:
    """Let the signal handler that is there, uvicorn's, have SIGTERM some seconds later.

    Meanwhile connections are taken, requests answered, and each reply closes its connection: whoever asks again goes to
    another server, and no request is under way on a connection when it is closed. Then no more connections are taken,
    and those that were get time for their requests. A second SIGTERM does not wait.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop, before = asyncio.get_running_loop(), signal.getsignal(signal.SIGTERM)
    server = getattr(before, "__self__", None)

    def end(sign: int, frame: FrameType | None) -> None:
        if callable(before):
            before(sign, frame)

    def last(sign: int, frame: FrameType | None) -> None:
        if isinstance(server, uvicorn.Server):
            _take_no_more(server, loop)
        loop.call_later(_LAST, end, sign, frame)

    def begin(sign: int, frame: FrameType | None) -> None:
        if door.draining or not seconds:
            end(sign, frame)
            return
        door.draining = True
        # Threadsafe, since a signal comes at any place of the loop.
        loop.call_soon_threadsafe(loop.call_later, seconds, last, sign, frame)

    signal.signal(signal.SIGTERM, begin)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _take_no_more(server: uvicorn.Server, loop: asyncio.AbstractEventLoop) -> None:
    """Take every connection that the system has accepted for this process, and close the sockets they came in by.

    Closing alone would reset those that nobody took yet. So would it those that the system opens in the instant between
    the last accept and the close: where it can be told to, it opens none any more. Whoever asks then tries again a
    second later, and is refused.
    """
    for listener in server.servers:
        copies = [socket.socket(fileno=os.dup(opened.fileno())) for opened in listener.sockets]
        # A socket that other processes listen on as well stays open with them.
        last = [copy for copy in copies if SHARED not in os.environ and _open_no_more(copy)]
        if last:
            time.sleep(_ROUND)  # those that were being opened
        for copy in copies:
            copy.setblocking(False)
            copy.listen(0)
            _take_all(copy, server, loop)
        listener.close()
        for copy in copies:
            _take_all(copy, server, loop)
            copy.close()


def _open_no_more(opened: socket.socket) -> bool:
    """Let the system pass over packets that ask for a connection (those with SYN set); False where it cannot."""
    # What a classic BPF program does: load byte 13 of the TCP header, the flags; drop the packet if SYN is among them.
    steps = ((0x30, 0, 0, 13), (0x45, 0, 1, 0x02), (0x06, 0, 0, 0), (0x06, 0, 0, 0xFFFFFFFF))
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
    program = struct.pack("HP", len(steps), ctypes.addressof(code))
    if sys.platform != "linux":
        return False
    try:
        opened.setsockopt(socket.SOL_SOCKET, _ATTACH_FILTER, program)
    except OSError:
        return False
    return True


def _take_all(opened: socket.socket, server: uvicorn.Server, loop: asyncio.AbstractEventLoop) -> None:
    def protocol() -> Any:
        kind: Any = server.config.http_protocol_class
        return kind(config=server.config, server_state=server.server_state, app_state=server.lifespan.state)

    while True:
        try:
            connection, _ = opened.accept()
        except OSError:  # there is none left
            return
        connection.setblocking(False)
        task = loop.create_task(loop.connect_accepted_socket(protocol, connection))
        server.server_state.tasks.add(task)  # type: ignore[arg-type]  # which are waited for
        task.add_done_callback(server.server_state.tasks.discard)
