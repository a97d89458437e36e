"""Why a request gets no answer, as a status and a sentence."""

from __future__ import annotations

from collections.abc import Mapping


class RefusedError(Exception):
    """A request that is not answered.

    Args:
        status: The HTTP status: 4xx where the request is at fault, 503 where there is too much to do.
        reason: A sentence for who sent it.
        headers: Further headers of the reply.
    """

    def __init__(self, status: int, reason: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(reason)
        self.status, self.reason, self.headers = status, reason, dict(headers or {})


def busy(reason: str) -> RefusedError:
    """Return the refusal of a server that has too much to do for now."""
    return RefusedError(503, reason, {"Retry-After": "1"})
