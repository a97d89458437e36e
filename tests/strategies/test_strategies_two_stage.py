"""Cross-fitting where a class cannot be on both sides."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import fusetune


@pytest.mark.parametrize("how", ["k", "holdout"])
def test_a_class_in_one_group_switches_cross_fitting_off_with_a_warning(how: str, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    code = np.arange(90) % 3
    table = pd.DataFrame({"x": code + random.normal(0, 0.3, 90), "y": random.normal(size=90), "kind": code})
    table["part"] = np.select([np.arange(90) >= 75, np.arange(90) >= 60], ["test", "valid"], "train")
    # Outside the test part, all rows of class 2 belong to one group; the other classes have a group per row.
    table.loc[(table["kind"] == 2) & (table["part"] == "valid"), "part"] = "test"
    single = (table["kind"] == 2) & (table["part"] == "train")
    table["unit"] = np.where(single, "one", [f"u{i}" for i in range(90)])
    settings = {"train": {"epochs": 1}, "views": 1, "crossfit": {"how": how}, "evaluate": {"resamples": 100}}
    settings["store"] = {"folder": str(tmp_path / "store")}
    settings["strategy"] = {"name": "two-stage"}
    run = fusetune.fit(table, "kind", group="unit", split="part", config=settings, out=tmp_path / "run", quiet=True)
    assert any("class '2' has too few groups" in text for text in run.metrics["warnings"])
    assert run.model.network.wiring.networks == {"columns": [0]}
