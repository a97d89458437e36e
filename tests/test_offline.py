from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny import no_network, settings, tiny_table

import fusetune
from fusetune.errors import ConfigError, ImageError, WeightsError


def test_fit_load_and_predict_open_no_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = no_network(monkeypatch)
    frame = tiny_table(tmp_path / "data")
    frame.to_csv(tmp_path / "data" / "table.csv", index=False)
    table = tmp_path / "data" / "table.csv"
    given = settings(tmp_path / "store", train__epochs=1, views=1)
    how: dict[str, Any] = {"vectors": {"genes": "v_*"}, "group": "patient", "split": "part", "quiet": True}
    fusetune.fit(table, "organ", config=given, out=tmp_path / "run", **how)
    model = fusetune.load(tmp_path / "run")
    model.predict(table)
    model.evaluate(table)
    assert tried == []


@pytest.mark.parametrize("setting", ["image.encoder=google/vit-base", "text.encoder=some/text-model"])
def test_weights_from_a_hub_need_leave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str) -> None:
    tried = no_network(monkeypatch)
    frame = tiny_table(tmp_path / "data")
    frame.to_csv(tmp_path / "data" / "table.csv", index=False)
    with pytest.raises(WeightsError, match="allow_download") as caught:
        fusetune.fit(
            tmp_path / "data" / "table.csv", "organ", inputs=["scan", "note"], split="part",
            config=settings(tmp_path / "store"), sets=[setting], out=tmp_path / "run", quiet=True,
        )  # fmt: skip
    assert setting.partition("=")[2] in str(caught.value)
    assert tried == []


def test_pictures_from_the_network_need_leave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = no_network(monkeypatch)
    frame = tiny_table(tmp_path / "data")
    frame["scan"] = [f"https://example.org/{name}" for name in frame["scan"]]
    frame.to_csv(tmp_path / "data" / "table.csv", index=False)
    with pytest.raises(ImageError, match="allow_download"):
        fusetune.fit(
            tmp_path / "data" / "table.csv", "organ", inputs=["scan", "age"], split="part",
            config=settings(tmp_path / "store"), out=tmp_path / "run", quiet=True,
        )  # fmt: skip
    assert tried == []


def test_a_device_that_is_not_there_is_refused(tmp_path: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has the device")
    frame = tiny_table(tmp_path / "data")
    with pytest.raises(ConfigError, match="'cuda' is not available here"):
        fusetune.fit(
            frame, "organ", inputs=["age"], split="part", config=settings(tmp_path / "store", device="cuda"),
            out=tmp_path / "run", quiet=True,
        )  # fmt: skip
