"""How many threads read images, and why.

Decoding, resizing, hashing and reading release Python's lock, so threads keep all cores busy without copying the table
into processes and the pixels back.
"""

from __future__ import annotations

import pandas as pd

from fusetune.runtime import cores

# A thread that waits for a network does not use a core; more than this at once is unfriendly to most servers.
_PER_CORE, _MOST = 4, 32


def choose_workers(asked: int | None, paths: pd.Series) -> tuple[int, str]:
    """Choose the number of threads: what was asked for, else one per core, else more where they wait for a network.

    Args:
        asked: `data.workers`.
        paths: Where the images are.

    Returns:
        The number, and the number in words with its reason.
    """
    machine = f"{cores()} core{'s' if cores() > 1 else ''}"
    if asked is not None:
        count, reason = asked, f"data.workers={asked}"
    elif paths.astype("str").str.contains("://", regex=False).any():
        count, reason = min(_PER_CORE * cores(), _MOST), f"{machine}; addresses keep threads waiting"
    else:
        count, reason = cores(), f"{machine}; decoding releases the lock"
    return count, f"{count} thread{'s' if count > 1 else ''} ({reason})"
