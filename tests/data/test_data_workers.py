"""The number of reading threads follows the cores, the addresses and the user, and says why."""

from __future__ import annotations

import pandas as pd
import pytest

from fusetune.data import workers
from fusetune.data.workers import choose_workers

LOCAL, REMOTE = pd.Series(["a.png", None, "b.png"]), pd.Series(["a.png", "s3://bucket/b.png"])


@pytest.mark.parametrize(
    ("cores", "asked", "paths", "count", "words"),
    [
        (2, None, LOCAL, 2, "2 threads (2 cores; decoding releases the lock)"),
        (1, None, LOCAL, 1, "1 thread (1 core; decoding releases the lock)"),
        (2, None, REMOTE, 8, "8 threads (2 cores; addresses keep threads waiting)"),
        (64, None, REMOTE, 32, "32 threads (64 cores; addresses keep threads waiting)"),
        (2, 5, REMOTE, 5, "5 threads (data.workers=5)"),
    ],
)
def test_the_number_and_its_reason(
    cores: int, asked: int | None, paths: pd.Series, count: int, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "cores", lambda: cores)
    assert choose_workers(asked, paths) == (count, words)
