"""What is said of a run on many rows before it begins, and what is refused then."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fusetune import plan as module
from fusetune.config import Config
from fusetune.data.infer import infer_schema
from fusetune.data.roles import Roles
from fusetune.data.table import read_table
from fusetune.errors import UserError
from fusetune.plan import Plan, announce_plan
from fusetune.progress import Log
from fusetune.speed import Speed

ROWS = 40
SPEED = Speed(20, 100, "efficientnet-lite0", "all-MiniLM-L6-v2", 2, "cpu", 1280, 384)


def planned(folder: Path, *sets: str, rows: int = ROWS) -> Plan | None:
    frame = pd.DataFrame({"scan": [f"{row}.png" for row in range(rows)], "label": ["a", "b"] * (rows // 2)})
    frame["note"] = [f"words of row {row} that are a text" for row in range(rows)]
    frame.loc[3, "scan"] = None
    table = read_table(frame)
    config = Config.build({}, sets=[f"store.folder={folder}", "views=4", *sets])
    return announce_plan(table, infer_schema(table, Roles("label")), config, Log(quiet=True), lambda side: SPEED)


def test_a_small_table_is_not_worth_a_plan(tmp_path: Path) -> None:
    assert planned(tmp_path) is None


def test_a_plan_counts_what_a_run_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LARGE", 2 * ROWS - 1)
    found = planned(tmp_path)
    assert found is not None
    assert (found.rows, found.pictures, found.texts, found.passes) == (ROWS, ROWS - 1, ROWS, 5)
    assert found.features == 5 * ROWS * (1280 + 384) * 4
    assert found.memory >= 2 * 5 * ROWS * 1280 * 4
    assert found.seconds == pytest.approx(5 * ((ROWS - 1) / 20 + ROWS / 100))
    assert found.kept % (3 * (ROWS - 1)) == 0
    assert (found.scratch, found.disk) == (0, found.features + found.kept)
    limited = planned(tmp_path, "store.images_gb=0.001", "views=1")
    assert limited is not None
    assert limited.kept == int(0.001 * 2**30)
    assert limited.features == found.features * 2 // 5
    for word in ("40 rows", "39 pictures", "5 times", "hours", "20 pictures (efficientnet-lite0)", "2 thread(s)"):
        assert word in " ".join(found.lines())


def test_what_is_beyond_memory_while_it_is_made_is_asked_of_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LARGE", 0)
    before = planned(tmp_path)
    monkeypatch.setattr(module, "IN_MEMORY", 1000)
    after = planned(tmp_path)
    assert before is not None
    assert after is not None
    assert after.scratch == 2 * 5 * ROWS * 1280 * 4 - 2000 == after.disk - before.disk == before.memory - after.memory


def test_features_that_are_stored_are_not_asked_for_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LARGE", 0)
    before = planned(tmp_path)
    (tmp_path / "ab" / "abc").mkdir(parents=True)
    np.save(tmp_path / "ab" / "abc" / "features.npy", np.zeros(5 * ROWS * 2000, np.float32))
    after = planned(tmp_path)
    assert before is not None
    assert after is not None
    assert (after.disk, before.disk) == (after.kept, before.features + before.kept)
    assert after.memory < before.memory


def test_what_disk_or_memory_cannot_hold_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LARGE", 0)
    found = planned(tmp_path)
    assert found is not None
    replace(found, disk_free=found.disk, memory_free=None).refuse()
    with pytest.raises(UserError, match=r"needs .* GB of disk in .* where 0\.0 GB are free: take --preset quick"):
        replace(found, disk_free=found.disk - 1).refuse()
    with pytest.raises(UserError, match=r"GB of memory, of which .* are free: .*views=1.*--engine ray"):
        replace(found, memory_free=found.memory - 1).refuse()
    monkeypatch.setattr(module, "free_memory", lambda: 1000)
    with pytest.raises(UserError, match="of memory"):
        planned(tmp_path)
