"""Scales, ticks and curves of the report's drawings."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest

from fusetune.evaluate import Interval, metrics
from fusetune.report.plots import Line, Scale, learning_plot, losses_axis, reliability_plot, share_plot, ticks
from fusetune.train.loop import EpochRecord


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0.0, 1.0, [0, 0.2, 0.4, 0.6, 0.8, 1.0]), (0.31, 0.88, [0.2, 0.4, 0.6, 0.8, 1.0]), (1, 8, [0, 2, 4, 6, 8])],
)
def test_ticks_are_round_and_enclose_the_values(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high) == pytest.approx(expected)


@pytest.mark.parametrize("value", [0.0, 0.7, 1.0, 250.0])
def test_ticks_of_a_single_value_leave_room(value: float) -> None:
    found = ticks(value, value)
    assert found[0] <= value <= found[-1]
    assert found[-1] > found[0]


def test_scale_maps_ends_and_keeps_strays_inside() -> None:
    scale = Scale(0.5, 1.0, 100, 0)
    assert [scale(value) for value in (0.5, 0.75, 1.0, 2.0)] == [100, 50, 0, 0]


def record(epoch: int, loss: float) -> EpochRecord:
    return EpochRecord(epoch, loss, loss, 0.5, 1e-3, 1.0)


def test_curve_leaves_out_epochs_without_a_loss() -> None:
    drawing = learning_plot("image", [record(1, 1.0), record(2, math.nan), record(3, 0.5)], best=3, levels=[0.0, 1.0])
    lines = re.findall(r'polyline class="series-a" points="([^"]*)"', drawing)
    assert [len(line.split()) for line in lines] == [2]
    assert "nan" not in drawing


def test_chosen_epoch_is_marked_where_it_is() -> None:
    drawing = learning_plot("image", [record(k, 1.0 / k) for k in range(1, 4)], best=2, levels=[0.0, 1.0])
    kept = re.search(r'class="kept" cx="([^"]+)" cy="([^"]+)"', drawing)
    curve = re.search(r'class="series-a" points="([^"]*)"', drawing)
    assert kept is not None
    assert curve is not None
    assert curve[1].split()[1] == f"{kept[1]},{kept[2]}"
    assert "kept" not in learning_plot("image", [record(1, 1.0)], best=None, levels=[0.0, 1.0])


def test_share_plot_draws_lines_and_a_band_where_intervals_are_known() -> None:
    known, unknown = Interval(0.5, 0.4, 0.6), Interval(0.7, math.nan, math.nan)
    first = Line("a", "series-a", [(0.0, known), (0.5, unknown), (1.0, known)], True)
    drawing = share_plot("Shares", [first, Line("b", "series-b", [(0.0, known)], False)], "across", "up")
    (band,) = re.findall(r'polygon points="([^"]*)"', drawing)
    assert len(band.split()) == 4
    (line,) = re.findall(r'polyline class="series-a" points="([^"]*)"', drawing)
    assert len(line.split()) == 3
    assert "nan" not in drawing


def test_reliability_draws_each_filled_bin_once() -> None:
    p = np.array([[0.9, 0.1], [0.8, 0.2], [0.55, 0.45], [0.45, 0.55]])
    drawing = reliability_plot(metrics.reliability(p, np.array([0, 1, 0, 0]), bins=10))
    assert drawing.count("<circle") == drawing.count("<rect") == 3
    assert "2\N{NO-BREAK SPACE}rows: stated 55.0\N{NO-BREAK SPACE}%, right 50.0\N{NO-BREAK SPACE}%" in drawing


def test_all_learning_curves_share_an_axis_that_one_which_runs_away_does_not_stretch() -> None:
    calm, wild = [record(k, 1.0) for k in range(1, 20)], [record(1, 900.0)]
    levels = losses_axis([calm, wild])
    assert 1.0 <= levels[-1] <= 5.0
    assert losses_axis([]) == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
