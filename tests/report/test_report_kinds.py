"""The report of runs that predict a number or labels: its words, its drawings, odd values, hostile names."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from typing import Any

import numpy as np
import pytest
from made_up import BARE, changed, epochs, explanation, result
from made_up_kinds import CONSTANT, HOW, compared, labels, numbers, verdict_of
from test_report_page import NASTY, SECTIONS, Page

from fusetune.data.choices import TargetKind
from fusetune.evaluate import Interval
from fusetune.evaluate.calibration import Calibration, TemperatureScore
from fusetune.evaluate.conformal import Conformal
from fusetune.evaluate.explain import Effect
from fusetune.evaluate.measures import MEASURES, Answered, measure_of
from fusetune.evaluate.reach import BAND, PLAIN, Reaches, Tried
from fusetune.evaluate.threshold import Limit
from fusetune.report import plots
from fusetune.report.explained import Explained
from fusetune.report.explanation import render_explanation
from fusetune.report.form import amounts, plain
from fusetune.report.kinds import KINDS, kind_of
from fusetune.report.kinds.numbers import bands
from fusetune.report.page import render
from fusetune.result import Result
from fusetune.targets import Regression

OWN = {"numbers": ["errors", "intervals"], "labels": ["labels", "calibration"]}
CLASSES = ["classes", "calibration", "sets", "selective"]
MADE = {"numbers": numbers, "labels": labels}


def words(whole: Result) -> str:
    text = Page(render(whole)).words()
    return text.replace("\N{NO-BREAK SPACE}", " ").replace("\N{MINUS SIGN}", "-")


def sections(kind: str) -> list[str]:
    at = SECTIONS.index("classes")
    return [*SECTIONS[:at], *OWN[kind], *SECTIONS[at + len(CLASSES) :]]


def test_every_kind_of_target_has_its_page() -> None:
    assert set(KINDS) == set(MEASURES)
    for kind, one in KINDS.items():
        assert one.kind == kind


@pytest.mark.parametrize("changes", [{}, BARE], ids=["complete", "bare"])
@pytest.mark.parametrize("kind", MADE)
@pytest.mark.parametrize("rows", [1, 2, 60, 500])
def test_every_section_is_there_and_well_formed(kind: str, changes: dict[str, Any], rows: int) -> None:
    page = Page(render(MADE[kind](rows=rows, **changes)))
    assert [section["id"] for section in page.all("section")] == sections(kind)
    identifiers = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))
    assert {section["aria-labelledby"] for section in page.all("section")} <= set(identifiers)
    targets = {str(link["href"])[1:] for link in page.all("a") if str(link.get("href")).startswith("#")}
    assert targets <= set(identifiers)
    text = page.words().lower().split()
    assert "nan" not in text
    assert "inf" not in text
    assert len(page.all("caption")) == len(page.all("table"))
    assert all("scope" in cell for cell in page.all("th"))
    assert all(drawing["role"] == "img" and drawing["aria-label"] for drawing in page.all("svg"))


@pytest.mark.parametrize("kind", MADE)
def test_nothing_of_classes_is_said(kind: str) -> None:
    text = words(MADE[kind](findings=[]))
    for word in ("classifier", "McNemar", "most frequent class", "Confusion matrix", "Prediction sets"):
        assert word.lower() not in text.lower(), word
    if kind == "numbers":
        assert not re.search(r"\baccuracy\b", text, re.IGNORECASE)
        # Made-up findings are of a table of classes.
        assert not re.search(r"\bclass(es)?\b(?! \d)", text.replace("other tenth", ""), re.IGNORECASE)


def test_the_first_screen_of_numbers_says_the_error_in_its_unit_and_how_much_is_explained() -> None:
    whole = numbers()
    test = whole.judged.test
    html = render(whole)
    first = html[html.index('<section id="answer"') : html.index('<section id="card"')]
    told = Page(first).words().replace("\N{NO-BREAK SPACE}", " ")
    assert told.startswith(f"The answer {test['mae'].value:.2f} mean error (MAE) on 60 test rows of 21 groups")
    assert f"95 % interval: {test['mae'].low:.2f} to {test['mae'].high:.2f}" in told
    assert f"R² {test['r2'].value:.3f} ({test['r2'].low:.3f} to {test['r2'].high:.3f})" in told
    assert "always the mean" in told
    assert "A usual error" in told
    assert "Its largest error" in told
    assert len(Page(first).all("svg")) == 2


def test_the_first_screen_of_labels_says_how_many_are_right_and_how_each_fares() -> None:
    whole = labels()
    test = whole.judged.test
    told = words(whole)
    assert f"{100 * test['label_accuracy'].value:.1f} % of the labels right (said or left out) on 60 test rows" in told
    assert f"{100 * test['subset_accuracy'].value:.1f} % of rows with all labels right" in told
    assert f"Macro F1 {test['macro_f1'].value:.3f}" in told
    for one in whole.judged.analysis.each:
        assert f"{one.name} {one.rows} {100 * one.precision.value:.1f} % {100 * one.recall.value:.1f} %" in told


def test_an_explanation_of_a_number_is_in_its_unit() -> None:
    one = dataclasses.replace(
        explanation(), decision="price", probability=5321.5, prior=4000.0, size=812.0,
        shares={"image": 1400.0, "note": -78.5, "columns": 0.0}, probabilities={"price": 5321.5},
        maps={"image": np.linspace(-20.0, 300.0, 1600).reshape(40, 40)}, effects={"note": [Effect("beats", 205.5)]},
    )  # fmt: skip
    told = Page(render_explanation(one)).words().replace("\N{MINUS SIGN}", "-")
    assert "price, 5,322" in told
    assert "Blue raises the number, ochre lowers it. Effects are in its unit." in told
    assert "Without any input the model says 4,000" in told
    assert "lead from there to 5,322" in told
    assert "image +1,400" in told
    assert "note -78" in told or "note -79" in told
    assert "beats +206" in told or "beats +205" in told
    assert "-20 to +300: blue raises" in told
    assert "%" not in told
    assert "What it could be" not in told
    held = Explained.of(one, {})
    assert "price 5,322" in repr(held)
    assert "points" not in repr(held)
    assert "4,000" in held._repr_html_()
    assert "%" not in held._repr_html_().partition("<img")[0].partition("</style>")[2]


def test_an_explanation_of_classes_is_in_points() -> None:
    told = Page(render_explanation(explanation())).words().replace("\N{NO-BREAK SPACE}", " ")
    assert "class 1, 80.0 %" in told
    assert "Effects are percentage points of its probability" in told
    assert "image +60.0" in told
    assert "What it could be" in told


def test_intervals_say_which_way_they_are_made() -> None:
    whole = numbers()
    found = whole.judged.analysis.intervals
    assert found is not None
    tried = [Tried(PLAIN, 0.912, 14.0), Tried(BAND, 0.904, 9.5)]
    for way in (PLAIN, BAND):
        one = dataclasses.replace(found, way=way, tried=tried)
        told = words(changed(whole, analysis=dataclasses.replace(whole.judged.analysis, intervals=one)))
        wide, narrow = map(kind_of(whole).loss.value, (14.0, 9.5))
        assert f"{PLAIN} held 91.2 % at a mean width of {wide}; {BAND} held 90.4 % at a mean width of {narrow}." in told
        assert f"The model uses {way}" in told
        assert ("was not shown to be narrower" in told) is (way == PLAIN)


def test_labels_with_thresholds_are_told_as_the_model_acts() -> None:
    whole = labels()
    measure, p, truth = whole.judged.measure, whole.judged.probabilities["test"], whole.judged.labels["test"]
    learnt = Calibration(limits=[Limit("f1", at) for at in (0.2, 0.3, 0.6, 0.8)])
    rule = learnt.rule(whole.data.classes, measure=measure)
    rows = Answered(p, truth, np.arange(60), np.array(["image"] * 60), None)
    heat = TemperatureScore(1.5, True, 60, True, {}, {"before": {}, "after": {}}, [(2.25, True), *[(1.5, False)] * 3])
    analysis = dataclasses.replace(
        whole.judged.analysis, calibration=heat, **measure.further(rows, Conformal(), Reaches(), rule=rule, **HOW)
    )
    acted = rule.score(p, truth, None, **HOW)
    page = render(changed(whole, calibration=learnt, acted=acted, analysis=analysis))
    told = Page(page).words().replace("\N{NO-BREAK SPACE}", " ")
    assert f"{100 * acted['label_accuracy'].value:.1f} % of the labels right (said or left out)" in told
    assert f"Macro F1 {acted['macro_f1'].value:.3f}" in told
    assert told.count("every label from its own probability on, chosen on validation rows for the largest F1") >= 3
    assert "Models are compared by the labels that are more probable than not" in told
    assert f"label 1 {analysis.each[1].rows} 1.50 (common) 0.300" in told
    assert "A temperature of its own is used for 1 label of 4" in told
    shares = " ".join(f"{100 * share:.0f}" for share in analysis.together[0])
    assert f"label 0 {shares} {analysis.each[0].rows}" in told
    assert "the share of which each label is said" in told


def test_many_labels_show_the_hardest_first() -> None:
    told = words(labels(count=25, rows=100))
    assert "the hardest labels, 15 more below" in told
    assert all(f"label {k}" in told for k in range(25))


def test_numbers_must_beat_the_mean_and_each_input_alone() -> None:
    whole = numbers()
    better, unshown = compared(CONSTANT, 0.1, 0.3), compared(CONSTANT, -0.1, 0.3, p=0.4)
    alone, open_ = compared("image alone", 0.1, 0.3), compared("text alone", -0.1, 0.3, p=0.4)
    assert verdict_of(whole, frequent=None)[0] == "open"
    assert verdict_of(whole, frequent=compared(CONSTANT, -0.3, -0.1)) == (
        "bad", "Worse than always answering the mean: do not use it."
    )  # fmt: skip
    assert verdict_of(whole, frequent=unshown) == ("bad", "Not shown to be better than always answering the mean.")
    surer = dataclasses.replace(unshown, p_nll_holm=0.001)
    assert verdict_of(whole, frequent=surer)[1].endswith("though its mean error is shown to be smaller.")
    assert verdict_of(whole, frequent=better, comparisons=[alone])[0] == "good"
    tone, told = verdict_of(whole, frequent=better, comparisons=[alone, open_])
    assert tone == "open"
    assert "not shown to be better than text alone" in told
    tone, told = verdict_of(whole, frequent=better, comparisons=[alone, dataclasses.replace(open_, p_nll_holm=0.001)])
    assert tone == "good"
    assert "its mean error is smaller than that of each input alone" in told
    worse = compared("text alone", -0.3, -0.1)
    assert "worse than text alone" in verdict_of(whole, frequent=better, comparisons=[alone, worse])[1]


def test_comparisons_of_numbers_say_both_differences() -> None:
    told = words(numbers(comparisons=[compared("image alone", 0.1, 0.3)]))
    assert "it is nearer to the true number in 40 rows and farther in 20" in told
    assert "a difference of +0.200 in R² (+0.100 to +0.300) and of -0.20 in MAE (-0.30 to -0.10;" in told
    assert "exact sign test p = 0.001" in told


def test_intervals_are_told_by_pattern_and_group() -> None:
    whole = numbers()
    found = whole.judged.analysis.intervals
    assert found is not None
    told = words(whole)
    assert f"hold it for {100 * found.coverage.value:.1f} % of the test rows" in told
    assert f"all test rows 60 90.0 % {100 * found.coverage.value:.1f} %" in told
    for pattern, row in found.by_pattern.items():
        assert f"{pattern} {row.rows} 90.0 % {100 * row.coverage:.1f} %" in told
    assert "Over the 20 groups, each counting alike" in told
    assert "Prediction intervals were not measured." in words(numbers(analysis=BARE["analysis"]))


def test_an_interval_without_an_end_is_said_to_have_none() -> None:
    whole = numbers()
    found = whole.judged.analysis.intervals
    assert found is not None
    endless = dataclasses.replace(found, width=Interval(math.inf, math.nan, math.nan))
    told = words(changed(whole, analysis=dataclasses.replace(whole.judged.analysis, intervals=endless)))
    assert "their mean width is unbounded." in told


@pytest.mark.parametrize(
    ("mean", "deviation"), [(0.0, 1e-7), (1e-9, 1e-12), (3e12, 1e12), (1e9, 1.0), (-5.0, 2.0), (0.0, 1e150)]
)
def test_huge_and_tiny_numbers_are_told_and_drawn(mean: float, deviation: float) -> None:
    html = render(numbers(mean=mean, deviation=deviation, noise=0.3))
    told = words(numbers(mean=mean, deviation=deviation, noise=0.3))
    assert not [one for one in re.findall(r"<svg.*?</svg>", html, re.DOTALL) if "nan" in one]
    assert len(max(told.split(), key=len)) < 60  # no number of two hundred digits
    r2 = re.search(r"R² (-?[\d.]+) \(", told)
    assert r2 is not None
    assert 0.8 < float(r2[1]) < 1
    assert "mean error (MAE)" in told
    for place in re.findall(r'c[xy]="([^"]*)"', html):
        assert -5 <= float(place) <= 400


def test_a_model_that_is_worse_than_the_mean_has_a_negative_r2() -> None:
    whole = numbers(noise=30.0)
    told = words(whole)
    assert whole.judged.test["r2"].value < -100
    assert f"R² {whole.judged.test['r2'].value:.3f}" in told
    html = render(whole)
    assert all(0 <= float(place) <= 100 for place in re.findall(r'class="dot" style="left:([-\d.]+)%', html))


def test_a_shown_bias_and_few_rows_are_limits() -> None:
    whole = numbers(rows=20)
    test = {**whole.judged.test, "bias": Interval(1.25, 0.5, 2.0)}
    told = words(changed(whole, test=test))
    assert "It was judged on 20 test rows only." in told
    assert "On average it says 1.25 too much (+0.50 to +2.00)." in told
    assert "too much" not in words(numbers()).split("Model card", 1)[1].split("For statisticians", 1)[0]


def test_equal_labels_have_no_r2() -> None:
    measure = measure_of(Regression("grade", 50.0, 8.0))
    whole = numbers(rows=12)
    truth = np.full(12, 0.1)
    scores = measure.scores(whole.judged.probabilities["test"], truth, **{"resamples": 50, "seed": 0})
    assert math.isnan(scores["r2"].value)
    told = words(changed(whole, test=scores, labels={"test": truth}))
    assert "All test rows have the same number, so that R² cannot be told." in told


@pytest.mark.parametrize("kind", MADE)
def test_bounds_that_are_not_known_are_said_not_drawn(kind: str) -> None:
    whole = MADE[kind]()
    test = {key: Interval(one.value, math.nan, math.nan) for key, one in whole.judged.test.items()}
    gain = [dataclasses.replace(whole.judged.gain[-1], accuracy=test[whole.judged.measure.score])]
    html = render(changed(whole, test=test, gain=gain, analysis=BARE["analysis"]))
    assert "no interval, because that takes at least two groups" in html
    assert 'class="whisker"' not in html


@pytest.mark.parametrize("kind", MADE)
def test_names_from_the_user_are_escaped(kind: str) -> None:
    whole = MADE[kind]()
    case = dataclasses.replace(
        whole.mistakes[0], row=NASTY, group=NASTY, label=NASTY, decision=NASTY, words={NASTY: NASTY},
        shares={NASTY: 1.0}, about=NASTY,
    )  # fmt: skip
    analysis = whole.judged.analysis
    analysis = dataclasses.replace(analysis, each=[dataclasses.replace(one, name=NASTY) for one in analysis.each])
    if analysis.intervals is not None:
        (row, *_) = analysis.intervals.by_pattern.values()
        analysis = dataclasses.replace(
            analysis, intervals=dataclasses.replace(analysis.intervals, by_pattern={NASTY: row}, caveat=NASTY)
        )
    html = render(
        changed(
            whole, label=NASTY, classes=[NASTY] * len(whole.data.classes), mistakes=[case], examples={NASTY: case},
            curves={NASTY: epochs(3)}, best_epochs={NASTY: 2}, analysis=analysis, group_column=NASTY,
        )
    )  # fmt: skip
    assert html.count("<script") == html.count("</script") == 1
    assert "&lt;script&gt;" in html


def test_cases_say_what_was_said_and_what_is() -> None:
    whole = numbers()
    worst = whole.mistakes[0]
    assert f"said {worst.decision} is {worst.label}" in words(whole)
    assert re.fullmatch(r"-?\d+\.\d\d", worst.decision)
    one = labels()
    worst = one.mistakes[0]
    assert f"said {worst.decision} is {worst.label}" in words(one)
    html = render(one)
    assert f"What each input adds to the probability of “{worst.about}”, in points" in html
    assert 'id="filter"' not in html


def test_bars_of_an_example_are_measured_against_its_largest() -> None:
    lengths = [float(one) for one in re.findall(r'class="effect \w+"[^>]*--share:([\d.]+)"', render(numbers()))]
    assert lengths
    assert max(lengths) == 1.0
    assert min(lengths) == 0.5


def test_learning_curves_name_the_loss_of_numbers() -> None:
    told = words(numbers())
    assert "validation MSE/2" in told
    assert "Validation R²" in told
    assert "validation NLL" not in told


def test_thousands_of_points_stay_a_small_drawing() -> None:
    random = np.random.default_rng(0)
    true = random.normal(size=50_000)
    said = true + 0.3 * random.normal(size=50_000)
    drawing = plots.agreement_plot(said, true, str)
    assert len(drawing) < 60_000
    assert "<circle" not in drawing
    assert len(plots.agreement_plot(said[:200], true[:200], str)) < 60_000
    assert plots.agreement_plot(said[:200], true[:200], str).count("<circle") == 200


def test_hexagons_hold_every_row_where_it_is() -> None:
    random = np.random.default_rng(3)
    for a, b in random.uniform(0, 300, size=(300, 2)):
        x, y = plots._hexagon(a, b)
        assert math.hypot(x - a, y - b) <= plots._HEXAGON * 2 / math.sqrt(3) + 0.01
        assert plots._hexagon(x, y) == (x, y)


def test_the_identity_is_drawn_from_corner_to_corner_and_dots_lie_where_they_should() -> None:
    drawing = plots.agreement_plot(np.array([0.0, 10.0]), np.array([0.0, 10.0]), str)
    line = re.search(r'class="ideal" points="([\d.]+),([\d.]+) ([\d.]+),([\d.]+)"', drawing)
    dots = re.findall(r'cx="([\d.]+)" cy="([\d.]+)"', drawing)
    assert line is not None
    assert dots == [(line[1], line[2]), (line[3], line[4])]


def test_a_far_point_does_not_squeeze_all_others() -> None:
    values = np.append(np.linspace(0, 1, 1000), 1e6)
    low, high = plots.span(values)
    assert low == 0
    assert high < 3
    assert plots.span(np.array([1.0, 4.0])) == (1.0, 4.0)


def test_bars_of_errors_hold_every_row() -> None:
    errors = np.append(np.random.default_rng(0).normal(size=999), 500.0)
    drawing = plots.error_plot(errors, "{:.2f}".format)
    rows = [int(one.replace(",", "")) for one in re.findall(r"<title>([\d,]+)\N{NO-BREAK SPACE}rows?:", drawing)]
    assert sum(rows) == 1000


def test_bands_go_from_the_least_to_the_largest_answer() -> None:
    said, true = np.arange(100.0), np.arange(100.0) + 2
    found = bands(said, true)
    assert [row.rows for row in found] == [10] * 10
    assert [row.low for row in found] == list(range(0, 100, 10))
    assert {(row.error, row.bias) for row in found} == {(2.0, -2.0)}
    assert len(bands(said[:15], true[:15])) == 1
    assert bands(said[:0], true[:0]) == []


@pytest.mark.parametrize(
    ("size", "value", "text"),
    [
        (8421.3, 11239.28, "11,239"), (84.21, 12.345, "12.3"), (0.5, -0.0001, "0.000"), (1.0, 1234.5, "1,234.50"),
        (1e-7, 1.23456e-7, "1.23e-07"), (3e12, 4.5678e12, "4.57e+12"), (1.0, math.nan, "–"),
        (1.0, math.inf, "unbounded"),
    ],
)  # fmt: skip
def test_amounts_have_the_digits_that_their_size_asks_for(size: float, value: float, text: str) -> None:
    assert amounts("MAE", "MAE", size).value(value).replace("\N{MINUS SIGN}", "-") == text


def test_differences_carry_a_sign_unless_zero() -> None:
    form, r2 = amounts("MAE", "MAE", 10.0), plain("R²", "R²")
    assert [form.change(one) for one in (1.25, -1.25, 0.001)] == ["+1.2", "\N{MINUS SIGN}1.2", "0.0"]
    assert [r2.change(one) for one in (0.25, -0.25, -0.0001)] == ["+0.250", "\N{MINUS SIGN}0.250", "0.000"]
    assert r2.value(-0.0001) == "0.000"


@pytest.mark.parametrize("kind", MADE)
def test_metrics_hold_scores_under_their_own_names(kind: str) -> None:
    whole = MADE[kind]()
    told = whole.metrics()
    assert json.loads(json.dumps(told, allow_nan=False)) == told
    measure = whole.judged.measure
    assert set(told["gain"][0]) == {"name", "note", measure.score, measure.loss, f"valid_{measure.loss}"}
    assert told["target"]["kind"] == measure.kind


def test_every_score_has_a_name_and_a_meaning() -> None:
    made: dict[TargetKind, Result] = {"regression": numbers(), "multilabel": labels(), "classification": result(3)}
    for kind, whole in made.items():
        assert set(whole.judged.test) <= set(KINDS[kind].meanings), kind
    told = words(numbers())
    for term in ("MAE", "RMSE", "R²", "Bias", "Prediction interval"):
        assert term in kind_of(numbers()).terms
        assert kind_of(numbers()).terms[term] in told


@pytest.mark.parametrize("kind", MADE)
def test_a_redacted_report_shows_nothing_of_a_row(kind: str) -> None:
    html = render(MADE[kind]().redacted())
    assert "A sentence." not in html
    assert "data:image" not in html
    assert "said" in html
