"""What the tests of a server share: a small model with every kind of input, and a server in a thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import uvicorn
from tiny import settings, tiny_table

import fusetune
from fusetune.serve.server import listening

KEY = "a key of the tests"


@dataclass
class Made:
    """A model's folder, rows that it was not trained on, and the folder of their pictures."""

    folder: Path
    rows: pd.DataFrame
    pictures: Path
    model: fusetune.Model

    def bytes_of(self, row: int) -> bytes:
        return (self.pictures / str(self.rows["scan"].iloc[row])).read_bytes()

    def cells(self, row: int) -> dict[str, Any]:
        """Return a row as JSON without its picture."""
        line = self.rows.iloc[row]
        found: dict[str, Any] = {"case_id": line["case_id"], "note": line["note"], "age": float(line["age"])}
        found |= {"site": line["site"], "seen_on": line["seen_on"], "urgent": bool(line["urgent"])}
        return found | {f"v_{i}": float(line[f"v_{i}"]) for i in range(4)}

    def table(self, rows: list[int]) -> pd.DataFrame:
        """Return rows as a table whose pictures are files of this machine."""
        some = self.rows.iloc[rows].reset_index(drop=True)
        return some.assign(scan=[str(self.pictures / name) for name in some["scan"]])


def with_more(frame: pd.DataFrame) -> pd.DataFrame:
    """Add a column of dates and one of truth values."""
    days = pd.to_datetime("2024-01-01") + pd.to_timedelta((frame["age"] * 7).round().astype(int), unit="D")
    return frame.assign(seen_on=days.dt.strftime("%Y-%m-%d"), urgent=frame["age"] > 50)


def fitted(folder: Path, seed: int = 0, classes: tuple[str, ...] = ("heart", "liver", "lung")) -> fusetune.Model:
    """Fit a small model on a tiny table."""
    frame = with_more(tiny_table(folder / "data", rows=240, seed=seed, classes=classes))
    frame.to_csv(folder / "data" / "table.csv", index=False)
    given = settings(folder / "store", views=1, evaluate__baselines=False, train__epochs=1)
    how: dict[str, Any] = {"vectors": {"genes": "v_*"}, "group": "patient", "split": "part", "row_id": "case_id"}
    table = folder / "data" / "table.csv"
    return fusetune.fit(table, "organ", config=given, out=folder / "run", quiet=True, **how).model


@contextmanager
def running(app: Any) -> Iterator[str]:
    """Serve an application on a free port of this machine from another thread; the value is its address."""
    opened = listening("127.0.0.1", 0)
    config = uvicorn.Config(app, http="h11", ws="none", lifespan="on", log_level="error")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [opened]}, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    try:
        yield f"127.0.0.1:{opened.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()
