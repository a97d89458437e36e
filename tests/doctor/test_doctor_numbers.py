"""The doctor on tables whose label is a number, or several labels a row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import fusetune
from fusetune.doctor.findings import Finding


def table(rows: int = 400, seed: int = 0) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    a, b = random.normal(size=rows), random.normal(size=rows)
    words = random.choice(["red", "green", "blue"], rows)
    y = 100 + 10 * a - 5 * b + 8 * (words == "red") + random.normal(0, 2, rows)
    return pd.DataFrame({"a": a, "b": b, "colour": words, "y": y})


def findings(frame: pd.DataFrame, **more: Any) -> dict[str, Finding]:
    found = fusetune.check(frame, label="y", **more).findings
    return {one.kind: one for one in found}


def test_a_sound_table_of_numbers_has_nothing_wrong() -> None:
    found = findings(table())
    assert not [one for one in found.values() if one.severity != "info"]
    assert not {"class_single_row", "class_too_small", "class_not_in_training"} & found.keys()
    assert "a predicts the tenth that the number lies in best" in found["column_scores"].evidence["what"]


def test_numbers_far_from_what_inputs_say_are_listed_the_farthest_first() -> None:
    frame = table()
    frame.loc[[7, 50], "y"] = [frame["y"][7] * 10, frame["y"][50] + 90]
    found = findings(frame)["label_errors"]
    assert found.rows[:2] == ("7", "50")
    assert len(found.rows) <= 6
    assert (found.severity, found.certainty) == ("info", "possible")
    assert found.evidence["suspects"][0]["label"] == pytest.approx(frame["y"][7])


def test_a_column_that_holds_the_number_gives_it_away() -> None:
    frame = table()
    found = findings(frame.assign(copy=(frame["y"] / 3).round(6)))
    assert {"column_gives_label"} <= found.keys()
    assert found["column_gives_label"].columns == ("copy",)


def test_sets_of_labels_are_examined_without_a_word_of_single_ones(tmp_path: Path) -> None:
    frame = table()
    noise = np.random.default_rng(1).normal(size=(2, len(frame)))
    y = np.where(frame["a"] > noise[0], "up", "down") + np.where(frame["b"] > noise[1], ";left", "")
    found = findings(frame.assign(y=y))
    assert not [one for one in found.values() if one.severity != "info"]
    assert "label_errors" not in found
