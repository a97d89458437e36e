"""What a table's columns suggest is tried on rows that the head did not learn from, and followed where it helps."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image, ImageDraw
from strategies_context import make_context
from tiny import settings, untold_table

import fusetune
from fusetune import trials
from fusetune.config import Config
from fusetune.heads.folds import make_folds
from fusetune.strategies import one_fold
from fusetune.strategies.one_fold import OneFold
from fusetune.train import loop

ROWS = 120


def discs(folder: Path, seed: int = 0) -> pd.DataFrame:
    """Discs of three sizes in millimetres, drawn by pixels of many sizes: as many pixels may be any of the discs."""
    folder.mkdir()
    random = np.random.default_rng(seed)
    kind, spacing = np.arange(ROWS) % 3, 2 ** random.uniform(0, 1, ROWS)
    frame = pd.DataFrame({"id": [f"r{row}" for row in range(ROWS)], "pixel_size": spacing, "size": kind})
    frame["scan"] = [f"{row}.png" for row in range(ROWS)]
    for row in range(ROWS):
        radius = (16 * 1.35 ** kind[row] + random.normal(0, 0.5)) / spacing[row]
        picture = Image.new("L", (64, 64), 0)
        middle = random.uniform(radius, 64 - radius, 2) if radius < 32 else np.array([32.0, 32.0])
        box = [*(middle - radius), *(middle + radius)]
        ImageDraw.Draw(picture).ellipse(box, fill=255)
        picture.save(folder / f"{row}.png")
    frame.to_csv(folder / "table.csv", index=False)
    return frame


def fit(
    folder: Path, table: Path, resume: bool = False, inputs: tuple[str, ...] = ("scan", "pixel_size"), **more: Any
) -> Any:
    how = (
        settings(folder / "store", views=1, image__size=64, crossfit__how="k", train__epochs=0) | {"tries": True} | more
    )
    how["evaluate"] = {"resamples": 100, "baselines": False}
    how["image"] = {name: value for name, value in how["image"].items() if name != "encode_size"}
    given: dict[str, Any] = {"inputs": list(inputs), "row_id": "id", "quiet": True, "resume": resume}
    return fusetune.fit(table, "size", config=how, out=folder / "run", **given)


def events(folder: Path, name: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "run" / "log.jsonl").read_text("utf-8").splitlines()]
    return [line for line in lines if line["event"] == name]


def test_a_column_with_the_size_of_a_pixel_is_used_where_that_helps(tmp_path: Path) -> None:
    discs(tmp_path / "data")
    run = fit(tmp_path, tmp_path / "data" / "table.csv")
    (tried,) = events(tmp_path, "tried")  # on one scale, pictures keep their shape: nothing is left to try
    # Pictures are dark, and so are the edges beside smaller ones.
    assert tried["settings"] == "image.spacing=pixel_size, image.augment=scan, image.background=0"
    assert tried["kept"]
    assert tried["after"] < tried["before"]
    assert run.model.config.image.spacing == "pixel_size"
    assert "image.spacing=pixel_size, image.augment=scan, image.background=0 followed (NLL" in json.dumps(
        run.metrics["notes"]
    )
    assert not any("sounds like the size of a pixel" in text for text in run.metrics["warnings"])
    # The pictures of a finished run are compared as it read them.
    assert fit(tmp_path, tmp_path / "data" / "table.csv", resume=True).metrics == run.metrics


def test_a_column_that_only_sounds_so_is_left_alone(tmp_path: Path) -> None:
    frame = discs(tmp_path / "data")
    frame["pixel_size"] = np.random.default_rng(1).permutation(frame["pixel_size"])
    frame.to_csv(tmp_path / "data" / "table.csv", index=False)
    run = fit(tmp_path, tmp_path / "data" / "table.csv")
    # Square pictures are the same with edges, so that this is not tried.
    assert [(one["settings"].split("=")[0], one["kept"]) for one in events(tmp_path, "tried")] == [
        ("image.spacing", False)
    ]
    assert run.model.config.image.spacing is None
    assert run.model.config.image.fit == "stretch"


def same(suggestion: Any, ctx: Any, before: Any, after: Any) -> Any:
    """Stand in for a comparison of frozen encoders that tells nothing."""
    del after
    return trials._difference(suggestion, ctx, before.rows, np.ones(len(before.rows)), np.ones(len(before.rows)))


def undecided(monkeypatch: pytest.MonkeyPatch, helps: float) -> list[str]:
    """Let frozen encoders tell nothing, and fine-tuned ones that a suggestion lowers the loss by so much."""
    stages: list[str] = []

    def losses(fold: Any, stage: str) -> tuple[Any, Any]:
        stages.append(stage)
        rows = make_folds(fold.ctx).rows
        rows = rows[make_folds(fold.ctx).encoder == 0]
        noise = np.random.default_rng(0).normal(1, 0.1, len(rows))
        return rows, noise - (helps + noise / 10 if " with " in stage else 0)

    monkeypatch.setattr(OneFold, "losses", losses)
    monkeypatch.setattr(trials, "_compared", same)
    return stages


@pytest.mark.parametrize(("helps", "kept"), [(0.3, True), (-0.3, False)])
def test_what_frozen_encoders_do_not_decide_fine_tuned_ones_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, helps: float, kept: bool
) -> None:
    discs(tmp_path / "data")
    stages = undecided(monkeypatch, helps)
    run = fit(tmp_path, tmp_path / "data" / "table.csv", train={"epochs": 1, "batch_size": 32})
    told = [(one["settings"].split("=")[0], one["tuned"], one["kept"]) for one in events(tmp_path, "tried")]
    assert told[:2] == [("image.spacing", False, False), ("image.spacing", True, kept)]
    assert stages == [f"scan, {how} image.spacing=pixel_size, image.augment=scan, image.background=0"
                      for how in ("without", "with")]  # fmt: skip
    assert run.model.config.image.spacing == ("pixel_size" if kept else None)
    assert "fine-tuned on one fold" in json.dumps(run.metrics["notes"])


def test_a_run_that_is_killed_while_it_decides_ends_with_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, again = tmp_path / "plain", tmp_path / "again"
    for folder in (plain, again):
        folder.mkdir()
        discs(folder / "data")
    monkeypatch.setattr(trials, "_compared", same)
    how: dict[str, Any] = {"train": {"epochs": 2, "batch_size": 32}}
    whole = fit(plain, plain / "data" / "table.csv", **how)
    trained, run_epoch = [], loop._run_epoch

    def killed(*args: Any, **more: Any) -> Any:
        trained.append(args[2].name)
        if len(trained) == 2:  # with it, after an epoch without it
            raise KeyboardInterrupt
        return run_epoch(*args, **more)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(loop, "_run_epoch", killed)
        fit(again, again / "data" / "table.csv", **how)
    assert [stage.split(" image")[0] for stage in trained] == ["scan, without", "scan, with"]
    run = fit(again, again / "data" / "table.csv", resume=True, **how)
    assert [one["tuned"] for one in events(again, "tried")][-1]
    assert run.metrics["gain"] == whole.metrics["gain"]
    weights = "model/weights.safetensors"
    assert (again / "run" / weights).read_bytes() == (plain / "run" / weights).read_bytes()


def test_fine_tuning_decides_nothing_where_the_time_is_short_or_nothing_is_fine_tuned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    discs(tmp_path / "data")
    stages = undecided(monkeypatch, 0.3)
    monkeypatch.setattr(OneFold, "seconds", lambda fold: 1e9)
    run = fit(tmp_path, tmp_path / "data" / "table.csv", train={"epochs": 1, "batch_size": 32}, minutes=5)
    assert run.model.config.image.spacing is None
    fit(tmp_path / "frozen", tmp_path / "data" / "table.csv")
    assert stages == []


def test_one_fold_is_judged_by_what_did_not_learn_from_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers that tell rows apart and nothing of their class: only memory would score well."""
    frame = untold_table(tmp_path / "data")
    frame["scan"] = [str(tmp_path / "data" / "0.png")] * len(frame)
    ctx = make_context(tmp_path, frame, ["scan", "genes"], crossfit__how="k")
    folds, taught = make_folds(ctx), []
    plain = one_fold.fine_tune

    def spied(ctx: Any, name: str, rows: Any, stage: str, held: Any, settings: Any) -> Any:
        taught.append((rows, held))
        return plain(ctx, name, rows, stage, held, settings)

    monkeypatch.setattr(one_fold, "fine_tune", spied)
    fold = OneFold.of(ctx)
    assert fold is not None
    assert fold.epochs == 1
    rows, losses = fold.losses("scan, once")
    np.testing.assert_array_equal(rows, folds.rows[folds.encoder == 0])
    np.testing.assert_array_equal(taught[0][1], rows)
    assert not np.isin(taught[0][0], rows).any()
    assert losses.mean() > np.log(3) - 0.15


def test_nothing_is_tried_where_a_user_chose(tmp_path: Path) -> None:
    discs(tmp_path / "data")
    how = {"image": settings(tmp_path)["image"] | {"augment": "scan", "fit": "pad"}}
    fit(tmp_path, tmp_path / "data" / "table.csv", **how)
    assert not events(tmp_path, "tried")


def test_the_error_of_a_mean_is_that_of_units() -> None:
    random = np.random.default_rng(0)
    values = random.normal(size=200)
    ones = np.ones(200)
    mean, error = trials._mean_of_units(values, ones, np.arange(200))
    assert mean == pytest.approx(values.mean())
    assert error == pytest.approx(values.std(ddof=1) / np.sqrt(200))
    # Rows of a group that say the same are no more evidence than one of them.
    groups = np.repeat(np.arange(200), 5)
    assert trials._mean_of_units(np.repeat(values, 5), np.ones(1000), groups) == pytest.approx((mean, error))
    assert trials._mean_of_units(values, ones, np.zeros(200, dtype=np.int64))[1] == np.inf


def test_large_tables_are_taken_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    discs(tmp_path / "data")
    monkeypatch.setitem(trials._MOST, "good", 50)
    run = fit(tmp_path, tmp_path / "data" / "table.csv")
    assert not events(tmp_path, "tried")
    # What was not tried is still warned of.
    assert any("sounds like the size of a pixel" in text for text in run.metrics["warnings"])


def test_a_suggestion_that_cannot_be_followed_is_no_error_of_the_run(tmp_path: Path) -> None:
    frame = discs(tmp_path / "data")
    frame.loc[[3, 50], "pixel_size"] = None
    frame.to_csv(tmp_path / "data" / "table.csv", index=False)
    run = fit(tmp_path, tmp_path / "data" / "table.csv")
    assert events(tmp_path, "tried") == []
    assert run.model.config.image.spacing is None
    assert any("sounds like the size of a pixel" in text for text in run.metrics["warnings"])


def framed(border: int, inside: int) -> Any:
    """Stand in for a run with one picture of 20 pixels that is of one grey value inside, and of another at its edge."""
    pixels = torch.full((1, 3, 20, 20), inside, dtype=torch.uint8)
    for side in (pixels[:, :, 0], pixels[:, :, -1], pixels[:, :, :, 0], pixels[:, :, :, -1]):
        side.fill_(border)
    source = SimpleNamespace(present=np.ones(1, dtype=bool), read=lambda rows: pixels[rows])
    return SimpleNamespace(
        config=Config(), modalities={"scan": SimpleNamespace(kind="image")}, sources={"scan": source},
        split=SimpleNamespace(rows=lambda part: np.arange(1)),
    )  # fmt: skip


def test_the_background_is_that_of_borders_not_of_whole_pictures() -> None:
    assert trials._edges(framed(border=5, inside=250)) == {"background": 0}
    assert trials._edges(framed(border=250, inside=5)) == {}


def test_square_pictures_are_not_tried_with_edges(tmp_path: Path) -> None:
    discs(tmp_path / "data")
    table = pd.read_csv(tmp_path / "data" / "table.csv").drop(columns="pixel_size")
    table.to_csv(tmp_path / "data" / "plain.csv", index=False)
    fit(tmp_path, tmp_path / "data" / "plain.csv", inputs=("scan",))
    assert events(tmp_path, "tried") == []
    assert len(events(tmp_path, "not tried")) == 1


def test_a_run_that_goes_on_decides_about_trials_as_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    discs(tmp_path / "data")
    table = tmp_path / "data" / "table.csv"

    def stopped(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as short, pytest.raises(KeyboardInterrupt):
        short.setattr(trials, "_SHARE", 0.0)  # there is no time
        short.setattr("fusetune.strategies.two_stage.TwoStage.fit", stopped)
        fit(tmp_path, table, minutes=60)
    run = fit(tmp_path, table, resume=True, minutes=60)
    assert events(tmp_path, "tried") == []
    assert run.model.config.image.spacing is None
    other = tmp_path / "other"
    other.mkdir()
    discs(other / "data")
    assert fit(other, other / "data" / "table.csv", minutes=60).model.config.image.spacing == "pixel_size"
