"""Augmentation through whole runs and the command line: own callables, refused policies, contact sheets."""

from __future__ import annotations

import gc
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import settings, tiny_table
from torch import Tensor

import fusetune
from fusetune import cli
from fusetune.augment.own import Own
from fusetune.errors import ConfigError, UserError

HOW: dict[str, Any] = {"inputs": ["scan"], "group": "patient", "split": "part", "quiet": True}
CALLS: list[int] = []


def darker(batch: Tensor) -> Tensor:
    CALLS.append(len(batch))
    return batch * (1 - 0.3 * torch.rand(()))


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    tiny_table(folder).to_csv(folder / "table.csv", index=False)
    return folder / "table.csv"


def test_a_run_with_an_own_callable_is_saved_and_loaded(table: Path, tmp_path: Path) -> None:
    CALLS.clear()
    config = settings(tmp_path / "store")
    run = fusetune.fit(table, "organ", config=config, out=tmp_path / "run", augment={"image": darker}, **HOW)
    # Six trials; two epochs and two views for the head, each training row by itself; four views of four rows in the
    # report.
    assert len(CALLS) == 6 + 72 * (2 + 2) + 4 * 4
    assert set(CALLS) == {1}
    assert "given:" in (tmp_path / "run" / "config.yaml").read_text()
    CALLS.clear()
    model = fusetune.load(tmp_path / "run")
    assert np.allclose(model.predict_proba(table), run.model.predict_proba(table))
    assert not CALLS
    # What it drew belonged to that run; without it the configuration cannot be used again.
    gc.collect()
    assert {len(np.load(path)) for path in (tmp_path / "store").rglob("features.npy")} == {1}  # plain ones
    with pytest.raises(ConfigError, match="give the same one again"):
        fusetune.fit(table, "organ", config=tmp_path / "run" / "config.yaml", out=tmp_path / "third", **HOW)


def test_only_a_name_lets_another_run_find_the_features(table: Path, tmp_path: Path) -> None:
    def calls(value: Any, out: str, **more: Any) -> int:
        CALLS.clear()
        config = settings(tmp_path / "store")
        fusetune.fit(table, "organ", config=config, out=tmp_path / out, augment={"image": value}, **HOW, **more)
        return len(CALLS)

    afresh, found_again = 6 + 72 * (2 + 2) + 4 * 4, 6 + 72 * 2 + 4 * 4
    assert [calls(darker, out) for out in "ab"] == [afresh, afresh]
    own = Own(darker)
    assert [calls(own, out) for out in "cd"] == [afresh, afresh]  # the same object may do something else by now
    assert [calls(Own(darker, name=name), out) for name, out in zip("xxy", "efg", strict=True)] == [
        afresh, found_again, afresh,
    ]  # fmt: skip


def test_a_resumed_run_warns_where_its_callable_has_no_name(table: Path, tmp_path: Path) -> None:
    def warned(value: Any, out: str) -> bool:
        config = settings(tmp_path / "store")
        fusetune.fit(table, "organ", config=config, out=tmp_path / out, augment={"image": value}, resume=True, **HOW)
        return "has no name" in (tmp_path / out / "log.jsonl").read_text()

    assert warned(darker, "unnamed")
    assert not warned(Own(darker, name="darker"), "named")


def test_only_images_can_be_given_a_callable(table: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="only 'image' can be given, not text"):
        fusetune.fit(table, "organ", augment={"text": darker}, out=tmp_path / "run", **HOW)
    with pytest.raises(ConfigError, match="3 cannot be called"):
        fusetune.fit(table, "organ", augment={"image": 3}, out=tmp_path / "run", **HOW)


def test_a_flip_beside_an_orientation_is_refused_before_images_are_read(table: Path, tmp_path: Path) -> None:
    config = settings(tmp_path / "store", image__orientation="site")
    with pytest.raises(ConfigError, match=r"image\.augment\.flip_horizontal.*image\.orientation=site"):
        fusetune.fit(table, "organ", config=config, augment={"image": "medium"}, out=tmp_path / "run", **HOW)
    with pytest.raises(ConfigError, match=r"image\.augment\.flip_vertical"):
        fusetune.fit(table, "organ", config=config, augment={"image": "paper"}, out=tmp_path / "other", **HOW)


def test_the_command_draws_a_sheet(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "policy.yaml").write_text("rotate: 10\nflip_horizontal: 0.5\n")
    (tmp_path / "settings.yaml").write_text("image: {augment: {rotate: 3}}\ncolumns: {augment: {corrupt: 0.5}}\n")
    (tmp_path / "broken.yaml").write_text("rotate: [")

    def ask(*words: object) -> int:
        monkeypatch.setattr(sys, "argv", ["fusetune", "augment", str(table), *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return int(stop.value.code or 0)

    size = {"--size": 40, "--rows": 2, "--views": 3}
    options = [word for pair in size.items() for word in pair]
    out = tmp_path / "sheet.png"
    assert (
        ask("--policy", tmp_path / "policy.yaml", "--image", "scan", "--columns", "age,site", *options, "--out", out)
        == 0
    )
    assert "2 rows, 3 views" in capsys.readouterr().out
    with Image.open(out) as sheet:
        assert sheet.size[0] == 10 + 4 * 170
    for policy in (tmp_path / "settings.yaml", f"import:{__name__}:darker"):
        assert ask("--policy", policy, *options, "--out", out) == 0
    for words, message in (
        (("--policy", "mediun"), "did you mean 'medium'"),
        (("--policy", tmp_path / "none.yaml"), "cannot read the configuration"),
        (("--policy", tmp_path / "broken.yaml"), "is not valid YAML"),
        (("--image", "skan"), "no column 'skan'"),
        (("--policy", "paper", "--out", tmp_path / "sheet.jpg"), "must end in .png"),
    ):
        assert ask("--out", out, *options, *words) == 2
        assert message in capsys.readouterr().err
