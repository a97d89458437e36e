"""How a server process leaves: it says so first, and is still there for a moment."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from fusetune.serve.gate import Door


@contextmanager
def drained(door: Door, seconds: float) -> Iterator[None]:
    """Let the signal handler that is there have SIGTERM some seconds later.

    Meanwhile connections are taken, requests answered, and each reply closes its connection: whoever asks again goes to
    another server, and no request is under way on a connection when it is closed. A second SIGTERM does not wait.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop, before = asyncio.get_running_loop(), signal.getsignal(signal.SIGTERM)

    def end(sign: int, frame: FrameType | None) -> None:
        if callable(before):
            before(sign, frame)

    def begin(sign: int, frame: FrameType | None) -> None:
        if door.draining or not seconds:
            end(sign, frame)
            return
        door.draining = True
        # Threadsafe, since a signal comes at any place of the loop.
        loop.call_soon_threadsafe(loop.call_later, seconds, end, sign, frame)

    signal.signal(signal.SIGTERM, begin)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
