"""What every request passes: how many there may be, how large and how long, and what every reply says."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fusetune.serve.counts import Counts
from fusetune.serve.options import Options
from fusetune.serve.refusal import RefusedError, busy

_log = logging.getLogger("fusetune.serve")
_ALWAYS = ("/health", "/ready", "/metrics", "/v2/health/live", "/v2/health/ready")
_BODIES = 8  # of the largest size, that may be in memory at once
FAILED = "something failed that should not; the log of the server says what"
_SWALLOWED = 4  # as often the largest size is read and dropped, so that who sends too much can read why not
HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
    (
        b"content-security-policy",
        b"default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self' data: blob:; "
        b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
]


@dataclass
class Door:
    """Who is inside.

    Attributes:
        draining: Is the server about to stop? Requests are still answered, and connections closed after that.
        inside: Requests at work or waiting.
        held: Bytes of their bodies.
    """

    draining: bool = False
    inside: int = 0
    held: int = 0


class Gate:
    """Passes requests on to an application, within limits.

    Args:
        app: The application.
        options: The limits.
        door: Who is inside.
        counts: Where replies are counted.
    """

    def __init__(self, app: ASGIApp, options: Options, door: Door, counts: Counts) -> None:
        self.app, self._options, self._door, self._counts = app, options, door, counts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        visit = _Visit(self._options, self._door, scope, receive, send)
        started = time.perf_counter()
        self._door.inside += 1
        self._counts.inside(1)
        try:
            await self._within(visit)
        finally:
            self._door.inside -= 1
            self._counts.inside(-1)
            self._door.held -= visit.size
            route = getattr(scope.get("route"), "path", "none")
            self._counts.request(route, visit.status, time.perf_counter() - started)

    async def _within(self, visit: _Visit) -> None:
        options = self._options
        try:
            visit.check()
            async with asyncio.timeout(options.seconds):
                await self.app(visit.scope, visit.receive, visit.send)
        except RefusedError as refusal:
            await visit.refuse(refusal)
        except TimeoutError:
            slow = f"the request was not complete after {options.seconds:g} seconds"
            late = f"there was no answer after {options.seconds:g} seconds; try again later"
            await visit.refuse(busy(late) if visit.complete else RefusedError(408, slow))
        except Exception:
            _log.exception("a request failed")
            await visit.refuse(RefusedError(500, FAILED))


class _Visit:
    """One request: counts what comes in, and adds to what goes out."""

    def __init__(self, options: Options, door: Door, scope: Scope, receive: Receive, send: Send) -> None:
        self.options, self.door, self.scope = options, door, scope
        self._receive, self._send = receive, send
        self.size, self.status, self.begun = 0, 0, False
        names = {name for name, value in scope["headers"] if value != b"0"}
        self.complete = not names & {b"content-length", b"transfer-encoding"}

    def check(self) -> None:
        """Refuse one too many, and a body that says of itself that it is too large."""
        if self.door.inside > self.options.waiting and self.scope["path"] not in _ALWAYS:
            raise busy(f"{self.options.waiting:,} requests are at work or waiting; try again later")
        for name, value in self.scope["headers"]:
            if name == b"content-length" and value.isdigit() and int(value[:20]) > self.options.body:
                raise self._too_large()

    def _too_large(self) -> RefusedError:
        return RefusedError(413, f"the body has more than the {self.options.body:,} bytes that are allowed")

    async def receive(self) -> Message:
        """Pass on a piece of the body."""
        message = await self._receive()
        if message["type"] == "http.request":
            more = len(message.get("body", b""))
            self.size += more
            self.door.held += more
            self.complete = not message.get("more_body", False)
            if self.size > self.options.body:
                raise self._too_large()
            if self.door.held > _BODIES * self.options.body:
                raise busy("too many large requests at once; try again later")
        return message

    async def send(self, message: MutableMapping[str, Any]) -> None:
        """Pass on a piece of the reply."""
        if message["type"] == "http.response.start":
            await self._swallow()
            self.begun, self.status = True, message["status"]
            headers = list(message.get("headers", []))
            said = {name.lower() for name, _ in headers}
            headers += [(name, value) for name, value in HEADERS if name not in said]
            if self.door.draining or not self.complete:
                headers.append((b"connection", b"close"))
            message = {**message, "headers": headers}
        await self._send(message)

    async def refuse(self, refusal: RefusedError) -> None:
        """Say why there is no answer, unless one was begun."""
        if self.begun:
            return
        content = json.dumps({"error": refusal.reason}).encode()
        headers = [(name.lower().encode(), value.encode()) for name, value in refusal.headers.items()]
        headers += [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
        await self.send({"type": "http.response.start", "status": refusal.status, "headers": headers})
        await self._send({"type": "http.response.body", "body": content})

    async def _swallow(self) -> None:
        """Read what still comes, within limits: a connection that is closed before may lose the reply with it."""
        left = _SWALLOWED * self.options.body
        try:
            async with asyncio.timeout(2):
                while not self.complete and left > 0:
                    message = await self._receive()
                    if message["type"] != "http.request":
                        return
                    left -= len(message.get("body", b""))
                    self.complete = not message.get("more_body", False)
        except TimeoutError:
            return
