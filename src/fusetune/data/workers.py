"""How many threads read images, and why.

Decoding, resizing, hashing and reading release Python's lock, so threads keep all cores busy without copying the table
into processes and the pixels back.
"""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from fusetune.runtime import cores

# A thread that waits for a network does not use a core; more than this at once is unfriendly to most servers.
_PER_CORE, _MOST = 4, 32


@dataclass(frozen=True)
class Workers:
    """A number of threads and its reason."""

    count: int
    reason: str

    def describe(self) -> str:
        """Return both in words."""
        return f"{self.count} thread{'s' if self.count > 1 else ''} ({self.reason})"


def choose_workers(asked: int | None, paths: pd.Series) -> Workers:
    """Choose the number of threads: what was asked for, else one per core, else more where they wait for a network.

    Args:
        asked: `data.workers`.
        paths: Where the images are.
    """
    if asked is not None:
        return Workers(asked, f"data.workers={asked}")
    count = cores()
    known = f"{count} core{'s' if count > 1 else ''}"
    if paths.astype("str").str.contains("://", regex=False).any():
        return Workers(min(_PER_CORE * count, _MOST), f"{known}; addresses keep threads waiting")
    return Workers(count, f"{known}; decoding releases the lock")
