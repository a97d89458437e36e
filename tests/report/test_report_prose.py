"""How numbers are printed, and when the first screen says what."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from made_up import comparison, result

from fusetune.evaluate import Interval
from fusetune.evaluate.miscalibration import Miscalibration
from fusetune.report import prose
from fusetune.report.prose import certainty, verdict
from fusetune.result import Comparison


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


def told(**changes: Any) -> tuple[str, str]:
    return verdict(result(**changes))


def against(name: str, low: float, high: float, p_nll: float = 1.0) -> Comparison:
    return replace(
        comparison(low=low, high=high), against=name, nll=Interval(-0.2, -0.3, -0.1), p_nll=p_nll, p_nll_holm=p_nll
    )


def test_a_model_must_beat_the_most_frequent_class() -> None:
    worse, same = against("always", -0.1, -0.02), against("always", -0.1, 0.02)
    assert told(frequent=worse)[0] == "bad"
    assert "do not use it" in told(frequent=worse)[1]
    assert told(frequent=same) == ("bad", "Not shown to be right more often than always answering “class 1”.")
    assert "probabilities are shown to be better" in told(frequent=replace(same, p_nll_holm=0.01))[1]
    assert told(frequent=None)[0] == "open"


def test_combining_pays_where_every_input_alone_is_beaten() -> None:
    image, text = against("image alone", 0.02, 0.1), against("text alone", 0.02, 0.1)
    tone, words = told(comparisons=[image, text])
    assert tone == "good"
    assert "Combining the inputs pays" in words
    assert "better than each input alone" in words
    level = against("text alone", -0.02, 0.1)
    assert told(comparisons=[image, level])[0] == "open"
    assert "not shown to be better than text alone" in told(comparisons=[image, level])[1]
    tone, words = told(comparisons=[image, replace(level, p_nll_holm=0.01)])
    assert tone == "good"
    assert "its probabilities are better than those of each input alone" in words
    tone, words = told(comparisons=[image, against("text alone", -0.1, -0.02)])
    assert tone == "bad"
    assert "worse than text alone" in words


def test_certainty_is_called_off_only_where_chance_does_not_explain_it() -> None:
    error = Interval(0.05, 0.02, 0.08)
    by_chance = Miscalibration(error, 0.19, 0.18, 0.4)
    assert certainty(result(miscalibration=by_chance)).startswith("No miscalibration is shown")
    shown = certainty(result(miscalibration=replace(by_chance, p=0.01)))
    assert "off by 5.0 percentage points" in shown
    assert "2.0 to 8.0" in shown
    assert "not measured" in certainty(result(miscalibration=None))
