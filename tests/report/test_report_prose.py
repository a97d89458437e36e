"""How numbers are printed."""

from __future__ import annotations

import math

import pytest

from fusetune.evaluate import Interval
from fusetune.report import prose


def plain(text: str) -> str:
    return text.replace("\N{NO-BREAK SPACE}", " ").replace("\N{MINUS SIGN}", "-")


@pytest.mark.parametrize(("share", "text"), [(0.8849, "88.5 %"), (1.0, "100.0 %"), (0.0, "0.0 %"), (math.nan, "–")])
def test_percent(share: float, text: str) -> None:
    assert plain(prose.percent(share)) == text


@pytest.mark.parametrize(
    ("p", "text"),
    [
        (0.0000001, "p < 0.001"),
        (0.0357, "p = 0.036"),
        (0.0497, "p = 0.0497"),
        (0.0502, "p = 0.0502"),
        (0.4321, "p = 0.432"),
        (1.0, "p = 1.000"),
    ],
)
def test_p_values_never_round_over_the_threshold(p: float, text: str) -> None:
    assert plain(prose.p_value(p)) == text


@pytest.mark.parametrize(
    ("difference", "text"), [(0.05, "+5.0"), (-0.051, "-5.1"), (0.0, "0.0"), (-0.0001, "0.0"), (0.0001, "0.0")]
)
def test_points_carry_a_sign_unless_zero(difference: float, text: str) -> None:
    assert plain(prose.points(difference)) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (9.96, "10 s"), (59.6, "1 min 00 s"), (3599.7, "1 h 00 min"), (3725, "1 h 02 min")],
)
def test_duration_uses_the_two_largest_units(seconds: float, text: str) -> None:
    assert plain(prose.duration(seconds)) == text


def test_bounds_and_counts() -> None:
    assert plain(prose.percent_bounds(Interval(0.5, 0.412, 0.588))) == "41.2 to 58.8 %"
    assert plain(prose.number_bounds(Interval(-0.1, -0.2, 0.01))) == "-0.200 to 0.010"
    assert plain(prose.point_bounds(Interval(0.0, -0.021, 0.03))) == "-2.1 to +3.0"
    assert prose.percent_bounds(Interval(0.5, math.nan, math.nan)) == "no interval"
    assert [plain(prose.count(value, "row")) for value in (1, 2500)] == ["1 row", "2,500 rows"]
    assert prose.number(None) == "–"
