"""A run that may take so many minutes: what earlier sessions took counts, and epochs are left out before they begin."""

from __future__ import annotations

import copy
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from strategies_context import make_context
from tiny import tiny_table

import fusetune
from fusetune.context import Context
from fusetune.heads.folds import make_folds
from fusetune.networks import EnsembleNetwork
from fusetune.progress import Log
from fusetune.strategies import crossfit, unimodal
from fusetune.strategies.crossfit import tuned
from fusetune.strategies.unimodal import affordable, relative_cost
from fusetune.train.loop import EpochRecord, History


@pytest.fixture
def ctx(tmp_path: Path) -> Context:
    frame = tiny_table(tmp_path / "data")
    frame["scan"] = [str(tmp_path / "data" / file) for file in frame["scan"]]
    return make_context(tmp_path, frame, ["scan", "genes"], crossfit__how="k", vector__encoder="mlp", train__epochs=6)


def test_earlier_sessions_count(tmp_path: Path) -> None:
    log = Log(tmp_path / "log.jsonl", quiet=True)
    assert log.spent() == 0
    times = [("start", "00:00"), ("epoch", "00:40"), ("start", "10:00"), ("epoch", "10:05"), ("done", "10:15")]
    lines = [json.dumps({"time": f"2026-01-01T00:{at}+00:00", "event": event}) for event, at in times]
    (tmp_path / "log.jsonl").write_text("\n".join([*lines, '{"time": "2026-01-01T0']), encoding="utf-8")
    assert log.spent() == 55


def test_training_ends_with_its_share_of_the_time(ctx: Context) -> None:
    with ctx.within(0.0):
        assert not ctx.over()
    ctx.deadline = time.monotonic() + 1000
    with ctx.within(0.5):
        assert not ctx.over()
    with ctx.within(0.0):
        assert ctx.over()
    assert not ctx.over()
    ctx.deadline = time.monotonic() - 1
    with ctx.within(1.0):
        assert ctx.over()


@pytest.mark.parametrize(("minutes", "after"), [(3, 45), (4, 60), (20, 60 + 96)])
def test_what_comes_after_training_keeps_its_time(ctx: Context, minutes: float, after: float) -> None:
    ctx.limit(minutes, 60 * minutes)
    assert ctx.minutes == minutes
    assert ctx.deadline - time.monotonic() == pytest.approx(60 * minutes - after, abs=1)


def test_rows_that_an_epoch_is_chosen_on_cost_less_than_those_it_learns_from(
    ctx: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unimodal, "seconds_a_row", lambda ctx, what, rows, limit: 4.0)
    rows = make_folds(ctx).rows
    some = int(ctx.sources["scan"].present[rows].sum())
    # The rows of a fold are encoded after training, in two views and without any.
    for held, epoch, after in ((0.0, 4 * some, 0), (1 / 3, 3 * some, some)):
        for time_for, epochs in ((2.5, 2), (1.5, 0)):  # one epoch of six is worth nothing
            (ctx.folder / "epochs.json").unlink(missing_ok=True)  # type: ignore[operator]
            ctx.minutes, ctx.deadline = 1.0, time.monotonic() + time_for * epoch + after
            assert affordable(ctx, "scan", rows, 1.0, held).epochs == epochs
            assert f"{epochs} of 6 epochs" in ctx.log.warnings[-1]
            assert f"each takes about {epoch} s" in ctx.log.warnings[-1]


def test_epochs_that_would_end_too_late_are_left_out_and_a_resumed_run_decides_alike(ctx: Context) -> None:
    rows = make_folds(ctx).rows
    assert affordable(ctx, "scan", rows, 1.0) == ctx.settings("scan")
    ctx.minutes, ctx.deadline = 60.0, time.monotonic() + 3600
    assert affordable(ctx, "scan", rows, 1.0).epochs == 6
    assert not ctx.log.warnings
    ctx.minutes, ctx.deadline = 1e-3, time.monotonic() + 1e-3
    assert affordable(ctx, "scan", rows, 1.0).epochs == 0
    assert "0 of 6 epochs" in ctx.log.warnings[-1]
    assert "minutes=0.001" in ctx.log.warnings[-1]
    ctx.deadline = time.monotonic() + 3600
    assert affordable(ctx, "genes", rows, 1.0).epochs == 6
    assert affordable(ctx, "scan", rows, 1.0).epochs == 0  # as it was decided, also after the other input's turn
    ctx.minutes = 60.0
    assert affordable(ctx, "scan", rows, 1.0).epochs == 6  # more is asked for


def test_an_encoder_is_given_the_time_that_it_costs_beside_the_others(
    ctx: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network of a second must not take half of the time from one of an hour."""
    each = {"scan": 3.0, "genes": 0.01}
    monkeypatch.setattr(unimodal, "seconds_a_row", lambda ctx, what, rows, limit: each[what.stage])
    rows, order = make_folds(ctx).rows, list(ctx.modalities)
    assert relative_cost(ctx, order[0], order[1:], rows) == 0  # without a limit nobody is timed
    ctx.minutes, ctx.deadline = 60.0, time.monotonic() + 3600
    cost = {name: each[name] * len(rows) * ctx.settings(name).epochs for name in ctx.modalities}
    found = relative_cost(ctx, order[0], order[1:], rows)
    assert found == pytest.approx(sum(cost[name] for name in order[1:]) / cost[order[0]])
    assert relative_cost(ctx, order[-1], [], rows) == 0


def test_measuring_a_pace_leaves_everything_as_it_was(ctx: Context) -> None:
    rows, weights = make_folds(ctx).rows, copy.deepcopy(ctx.pristine["scan"].state_dict())
    drawn = torch.get_rng_state()
    pace = unimodal._pace(ctx, "scan", rows)
    assert pace.seconds > 0
    assert pace.rows == pace.asked == int(ctx.sources["scan"].present[rows].sum())
    assert torch.equal(torch.get_rng_state(), drawn)
    for name, weight in ctx.pristine["scan"].state_dict().items():
        assert torch.equal(weight, weights[name])
    assert not ctx.histories
    assert not ctx.trained_rows


def test_equal_texts_of_one_label_are_one_row_of_an_epoch(tmp_path: Path) -> None:
    frame = tiny_table(tmp_path / "data")
    frame["note"] = [f"seen from place {row // 2}" for row in range(len(frame))]
    ctx = make_context(tmp_path, frame, ["note", "genes"], crossfit__how="k")
    rows = make_folds(ctx).rows
    pace = unimodal._pace(ctx, "note", rows)
    assert pace.asked == len(rows)
    assert pace.rows == frame["note"].iloc[rows].nunique() < len(rows)


def test_what_is_stored_does_not_make_an_epoch_look_cheap(ctx: Context) -> None:
    rows = make_folds(ctx).rows
    ctx.minutes, ctx.deadline = 1.0, time.monotonic() + 1e-3
    for _ in "12":
        (ctx.folder / "epochs.json").unlink(missing_ok=True)  # type: ignore[operator]
        assert affordable(ctx, "scan", rows, 1.0).epochs == 0


def test_without_time_nothing_is_fine_tuned(ctx: Context) -> None:
    ctx.minutes, ctx.deadline = 1e-3, time.monotonic()
    part = tuned(ctx, "scan")
    assert not part.improved
    assert part.note == "linear classifier on its features, no time for fine-tuning"
    assert not ctx.histories


def told(ctx: Context, monkeypatch: pytest.MonkeyPatch, nll: dict[float, float]) -> list[tuple[str, float]]:
    """Let fine-tuning end at an NLL that depends on its rate, and note what is asked for."""
    asked: list[tuple[str, float]] = []

    def tune(ctx: Context, name: str, rows: Any, stage: str, held: Any, settings: Any) -> EnsembleNetwork:
        del rows, held
        asked.append((stage, settings.lr))
        best = nll[round(settings.lr, 9)]
        records = [EpochRecord(0, 1.0, best, 0.5, settings.lr, 1.0)]
        ctx.histories[stage] = History(records=records, start_nll=0.9, best_epoch=0, best_nll=best)
        return crossfit._untouched(ctx, name, make_folds(ctx)).networks[0]

    monkeypatch.setattr(crossfit, "fine_tune", tune)
    monkeypatch.setattr(crossfit, "is_pretrained", lambda encoder: True)
    return asked


def networks(ctx: Context) -> int:
    return len(crossfit._fold_networks(ctx, "scan", make_folds(ctx)))


def test_the_first_fold_is_a_probe(ctx: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    rate = ctx.settings("scan").lr
    asked = told(ctx, monkeypatch, {rate: 0.95})
    assert networks(ctx) == 0
    assert asked == [("scan, fold 1 of 3", rate)]


def test_fine_tuning_that_pays_goes_on(ctx: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    rate = ctx.settings("scan").lr
    asked = told(ctx, monkeypatch, {rate: 0.85})
    assert networks(ctx) == 3
    assert len(asked) == 3


@pytest.mark.parametrize(("after", "kept"), [(0.8, 3), (0.95, 0), (5.0, 0)])
def test_networks_that_fall_below_class_frequencies_are_tried_at_a_lower_rate(
    ctx: Context, monkeypatch: pytest.MonkeyPatch, after: float, kept: int
) -> None:
    rate = ctx.settings("scan").lr
    asked = told(ctx, monkeypatch, {rate: 3.4, round(rate / 5, 9): after})
    assert networks(ctx) == kept
    assert asked[:2] == [("scan, fold 1 of 3", rate), ("scan, fold 1 of 3, slower", rate / 5)]
    assert len(asked) == (4 if kept else 2)
    assert all(lr == rate / 5 for _, lr in asked[1:])
    assert "scan, fold 1 of 3" not in ctx.histories  # nobody uses what fell


def test_a_table_is_fitted_in_no_time_and_says_what_was_left_out(tmp_path: Path) -> None:
    frame = tiny_table(tmp_path / "data")
    frame.to_csv(tmp_path / "data" / "t.csv", index=False)
    how: dict[str, Any] = {"inputs": ["age", "site"], "group": "patient", "split": "part", "quiet": True}
    config = {"evaluate": {"resamples": 100, "baselines": False}, "store": {"folder": str(tmp_path / "store")}}
    run = fusetune.fit(
        tmp_path / "data" / "t.csv", "organ", minutes=1e-4, config=config, out=tmp_path / "run", **how
    )  # fmt: skip
    assert any("two-stage: left out, the time is up (minutes=0.0001)" in text for text in run.metrics["warnings"])
    assert math.isfinite(run.metrics["test"]["nll"]["value"])
    assert len(run.model.predict(frame)) == len(frame)
    assert np.isin(run.model.predict(frame), frame["organ"].unique()).all()
