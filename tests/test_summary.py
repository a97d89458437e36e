"""Which mistakes are shown, in which order, and that they stay small."""

from __future__ import annotations

import base64
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from fusetune.data.images import ImageInput
from fusetune.data.table import Table
from fusetune.evaluate.measures import CLASSES, Classes
from fusetune.report.template import data_uri
from fusetune.summary import most_certain_mistakes
from fusetune.targets import Classification


def table(folder: Path, rows: int) -> Table:
    noise = np.random.default_rng(0).integers(0, 256, (200, 150, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "noise.png")
    frame = pd.DataFrame({"scan": ["noise.png"] * rows, "note": ["word " * 100] * rows, "age": [1.5] * rows})
    frame.loc[1, ["scan", "note"]] = None
    return Table(frame, "table", folder)


def test_the_surest_wrong_rows_come_first_with_what_they_have(tmp_path: Path) -> None:
    given = table(tmp_path, 40)
    source = ImageInput(column="scan", size=160, fit="stretch").bind(given)
    rows = np.arange(40)
    labels, sure = rows % 2, 0.5 + rows[::-1] / 100
    decided = np.where(rows == 5, labels, 1 - labels)  # row 5 is right, all others are wrong
    p = np.where(np.eye(2, dtype=bool)[decided], sure[:, None], 1 - sure[:, None])
    ctx: Any = SimpleNamespace(
        split=SimpleNamespace(rows={"test": rows}.get), ids=pd.Series([f"r{k}" for k in rows]),
        groups=pd.Series(["g"] * 40), classes=["a", "b"], sources={"scan": source},
    )  # fmt: skip
    judged: Any = SimpleNamespace(
        labels={"test": labels}, probabilities={"test": p}, shares={"scan": np.full(40, 0.2)},
        prior=np.full((40, 2), 0.5), measure=Classes(Classification(["a", "b"])), rule=lambda classes: CLASSES.plainly,
    )  # fmt: skip
    found = most_certain_mistakes(ctx, judged, given.frame[["note", "age"]])
    assert [row.row for row in found] == [f"r{k}" for k in rows if k != 5][:24]
    first, second = found[:2]
    assert (first.label, first.decision, first.group) == ("a", "b", "g")
    assert (first.probability, first.label_probability, first.prior) == (sure[0], 1 - sure[0], 0.5)
    assert first.shares == {"scan": 0.2}
    assert first.words["age"] == "1.5"
    assert len(first.words["note"]) <= 280
    assert first.words["note"].endswith("…")
    assert second.pictures == {}
    assert second.words["note"] == "missing"
    # 24 of the largest pictures are a small part of what a page may weigh.
    assert sum(len(uri) for row in found for uri in [data_uri(p, 96) for p in row.pictures.values()]) < 500_000


def test_pictures_are_small_jpegs() -> None:
    uri = data_uri(np.zeros((300, 200, 3), np.uint8), 96)
    path = base64.b64decode(uri.removeprefix("data:image/jpeg;base64,"))
    assert path.startswith(b"\xff\xd8")
    assert b"Exif" not in path
