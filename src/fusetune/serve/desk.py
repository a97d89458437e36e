"""What the routes of one application share: the model, threads for what takes time, and the key."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from starlette.requests import Request

from fusetune.errors import clipped, did_you_mean, listed
from fusetune.runtime import cores
from fusetune.serve.batcher import Batcher
from fusetune.serve.counts import Counts
from fusetune.serve.current import Current
from fusetune.serve.gate import Door
from fusetune.serve.options import Options
from fusetune.serve.refusal import RefusedError

T = TypeVar("T")
_MOST = 4  # threads that read requests: more of them only wait for each other
_FETCHES = 8  # requests that may wait for pictures of other hosts at a time


@dataclass(eq=False)
class Desk:
    """What the routes of one application share.

    Attributes:
        options: How it was started.
        current: The model at work.
        batcher: Runs its network.
        door: Who is inside.
        counts: What was counted.
        reading: Threads that parse requests, decode pictures and write replies.
        fetching: Threads for requests that may wait for other hosts.
        explaining: One thread: an explanation asks the network a hundred times.
    """

    options: Options
    current: Current
    batcher: Batcher
    door: Door
    counts: Counts

    def __post_init__(self) -> None:
        self.reading = ThreadPoolExecutor(max(1, min(_MOST, cores())), "reading")
        self.fetching = ThreadPoolExecutor(_FETCHES, "fetching")
        self.explaining = ThreadPoolExecutor(1, "explaining")
        self.explanations = 0  # at work or waiting

    def close(self) -> None:
        """End the threads."""
        for pool in (self.reading, self.fetching, self.explaining):
            pool.shutdown(wait=False, cancel_futures=True)

    async def read(self, work: Callable[..., T], *given: Any) -> T:
        """Let another thread do something, while this one takes further requests."""
        pool = self.fetching if self.options.hosts else self.reading
        return await asyncio.get_running_loop().run_in_executor(pool, partial(work, *given))

    def check_options(self, request: Request) -> None:
        """Refuse an option that a route does not have: a slip in its name would be an answer without it.

        Raises:
            RefusedError: 422.
        """
        known = [field.alias for field in request.scope["route"].dependant.query_params]
        for name in request.query_params:
            if name not in known:
                shown = clipped(name, 60)
                there = f"; it takes {listed(known)}" if known else "; it takes none"
                raise RefusedError(422, f"this address has no option '{shown}'{did_you_mean(shown, known) or there}")

    def check_key(self, request: Request) -> None:
        """Refuse who does not show the key, in a time that does not depend on how much of it is right.

        Raises:
            RefusedError: 401.
        """
        if self.options.key is None:
            return
        shown = request.headers.get("x-api-key", "")
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if not shown and scheme.lower() == "bearer":
            shown = token.strip()
        if not hmac.compare_digest(shown.encode(), self.options.key.encode()):
            reason = "the key is missing or wrong; send it as 'Authorization: Bearer KEY' or 'X-API-Key: KEY'"
            raise RefusedError(401, reason, {"WWW-Authenticate": "Bearer"})
