"""The report page: complete, self-contained, escaped, repeatable, and careful with its words."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import math
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_up import BARE, changed, comparison, epochs, mistakes, result

from fusetune.context import Cost
from fusetune.doctor.exhibits import Exhibit, Shown
from fusetune.doctor.findings import FIRST, Finding
from fusetune.evaluate import Interval
from fusetune.evaluate.analysis import Analysis
from fusetune.evaluate.calibration import Calibration
from fusetune.evaluate.selective import Recall
from fusetune.report.page import class_rows, confused_pairs, render, write_report
from fusetune.result import Column, GainRow
from fusetune.strategies import STRATEGIES, WHOLE

SECTIONS = [
    "answer", "card", "words", "gain", "method", "modalities", "missing", "scores", "classes", "calibration", "sets",
    "selective", "mistakes", "curves", "findings", "data", "cost", "warnings", "configuration", "terms",
]  # fmt: skip
VOID = {"meta", "br", "hr", "img", "input", "link"}
NASTY = '<script>alert("x")</script>&'


class Page(HTMLParser):
    """Collects identifiers, tags and text, and checks that every element is closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(html)
        self.close()
        assert not self.open, f"left open: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("style", "script"):
            self.text.append(data)

    def words(self) -> str:
        return " ".join(" ".join(self.text).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.mark.parametrize("changes", [{}, BARE], ids=["complete", "bare"])
@pytest.mark.parametrize("classes", [2, 5, 101])
def test_every_section_is_there_and_well_formed(classes: int, changes: dict[str, Any]) -> None:
    page = Page(render(result(classes, **changes)))
    assert [section["id"] for section in page.all("section")] == SECTIONS
    identifiers = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))
    assert {section["aria-labelledby"] for section in page.all("section")} <= set(identifiers)
    assert len(page.all("h1")) == 1
    assert "nan" not in page.words().lower().split()


def test_learning_curves_say_which_epoch_was_kept_or_that_none_was() -> None:
    words = Page(
        render(result(curves={"image": epochs(5), "text": epochs(1)}, best_epochs={"image": 4, "text": 0}))
    ).words()
    assert "Epoch 4 of 5 was kept." in words
    assert "None of its 1 epoch was kept: the weights are those from before." in words
    assert "Epoch 0" not in words


def test_nothing_is_loaded_from_elsewhere() -> None:
    html = render(result())
    assert "://" not in html
    assert "url(" not in html
    assert "@import" not in html
    page = Page(html)
    for tag in ("link", "iframe", "object"):
        assert not page.all(tag)
    assert all(str(picture["src"]).startswith("data:image/jpeg;base64,") for picture in page.all("img"))
    assert page.all("script") == [{}]
    policy = next(meta for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy")
    assert str(policy["content"]).startswith("default-src 'none'")
    code = html[html.index("<script>") + 8 : html.index("</script>")]
    seal = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    assert f"script-src 'sha256-{seal}'" in str(policy["content"])


def test_tables_and_drawings_can_be_read_aloud() -> None:
    page = Page(render(result()))
    assert len(page.all("caption")) == len(page.all("table"))
    assert all("scope" in cell for cell in page.all("th"))
    assert all(drawing["role"] == "img" and drawing["aria-label"] for drawing in page.all("svg"))
    assert len(page.all("svg")) == 5
    assert all(picture["alt"] for picture in page.all("img"))


def test_text_from_the_user_is_escaped_everywhere() -> None:
    nasty = changed(
        result(2), table=NASTY, label=NASTY, command=NASTY, created=NASTY, preset=NASTY, split_how=NASTY,
        classes=[NASTY, "b" + NASTY], group_column=NASTY, inputs=[Column(NASTY, NASTY, NASTY, NASTY)],
        left_out=[Column(NASTY, NASTY, NASTY, NASTY)], curves={NASTY: epochs(3)}, best_epochs={NASTY: 2},
        gain=[GainRow(NASTY, NASTY, Interval(0.5, 0.4, 0.6), Interval(1.0, 0.9, 1.1), 1.0)], seconds={NASTY: 1.0},
        comparisons=[dataclasses.replace(comparison(), against=NASTY)], passes={NASTY: 3}, warnings=[NASTY],
        config={NASTY: NASTY}, versions={NASTY: NASTY}, hashes={NASTY: NASTY}, settings={NASTY: NASTY},
        notes={NASTY: NASTY, WHOLE: NASTY}, cost=Cost({NASTY: 1.0}, {NASTY: 2.0}),
        mistakes=[
            dataclasses.replace(
                mistakes()[0], row=NASTY, group=NASTY, label=NASTY, decision=NASTY, words={NASTY: NASTY},
                shares={NASTY: 1},
            )
        ],
        findings=[
            Exhibit(
                Finding(NASTY, "error", (NASTY,), (NASTY,), {NASTY: NASTY, "what": NASTY}, NASTY),
                [[Shown(NASTY, NASTY, NASTY, {NASTY: np.zeros((2, 2, 3), np.uint8)}, {NASTY: NASTY})]], [1],
            )
        ],
    )  # fmt: skip
    html = render(nasty)
    assert html.count("<script") == html.count("</script") == 1
    page = Page(html)
    (listed,) = [row for row in page.all("li") if "data-classes" in row]
    assert json.loads(str(listed["data-classes"])) == [NASTY, NASTY]
    assert page.words().count("<script>") > 20
    assert any(NASTY in str(drawing["aria-label"]) for drawing in page.all("svg"))


def test_same_result_same_bytes(tmp_path: Path) -> None:
    write_report(tmp_path / "a.html", result())
    write_report(tmp_path / "b.html", result())
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.html", "b.html"]


def test_a_failed_report_leaves_the_old_one(tmp_path: Path) -> None:
    target = tmp_path / "report.html"
    write_report(target, result())
    before = target.read_bytes()
    with pytest.raises(KeyError):
        write_report(target, result(test={}))
    assert target.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


@pytest.mark.parametrize(
    ("p", "low", "high", "verdict"),
    [
        (0.01, 0.02, 0.10, "better"),
        (0.06, 0.02, 0.10, "not shown"),
        (0.05, 0.02, 0.10, "not shown"),
        (0.01, 0.00, 0.10, "not shown"),
        (0.01, -0.01, 0.10, "not shown"),
        (0.01, -0.10, -0.02, "worse"),
        (0.01, math.nan, math.nan, "not shown"),
    ],
)
def test_better_is_said_only_when_it_is_shown(p: float, low: float, high: float, verdict: str) -> None:
    one = comparison(p, low, high)
    assert one.verdict == verdict
    page = Page(render(result(comparisons=[dataclasses.replace(one, accuracy=Interval(0.05, low, high))])))
    words = page.words()
    assert ("The two-stage model is better than the ensemble" in words) == (verdict == "better")
    assert ("The two-stage model is worse than the ensemble" in words) == (verdict == "worse")
    assert ("is not shown to be better than the ensemble" in words) == (verdict == "not shown")


def test_the_answer_states_value_interval_rows_and_groups() -> None:
    sure = {**result().judged.test, "accuracy": Interval(0.885, 0.831, 0.9244)}
    words = Page(render(result(test=sure))).words().replace("\N{NO-BREAK SPACE}", " ")
    assert "On 60 test rows from 21 groups (column “patient”)" in words
    assert "88.5 % (95 % interval 83.1 to 92.4 %)" in words
    assert "it corrects 30 rows and spoils 15" in words


def test_both_tests_must_speak_for_a_difference_where_there_are_groups() -> None:
    one = dataclasses.replace(comparison(), p_group=0.2, p_group_holm=0.2)
    assert comparison().verdict == "better"
    assert one.verdict == "not shown"
    assert '<th scope="col">Groups swapped' in render(result(comparisons=[one]))
    alone = dataclasses.replace(comparison(), p_group=None, p_group_holm=None)
    assert '<th scope="col">Groups swapped' not in render(result(comparisons=[alone]))


def test_what_was_not_measured_is_said() -> None:
    words = Page(render(result(**BARE))).words()
    for text in (
        "Subsets of the inputs were not measured", "Missing inputs were not measured",
        "Prediction sets were not measured",
        "Risk and coverage were not measured", "No test row was decided wrongly", "Nothing was found",
    ):  # fmt: skip
        assert text in words
        assert text not in Page(render(result())).words()


def test_findings_come_with_sentence_rows_and_remedy() -> None:
    html = render(result())
    section = Page(html[html.index('<section id="findings"') : html.index('<section id="data"')]).words()
    for text in (
        "Near duplicate",
        "Six pairs of pictures",
        "pairs 6",
        "12\N{NO-BREAK SPACE}rows 0, 1,",
        "Look at them. Sure: read off the table or its files, it cannot be otherwise.",
        "Row 0 class 1 in the test part note beats Row 1 class 1",
        "and 1 row more like them",
        "5 more sets of rows like these",
    ):
        assert text.replace("\N{NO-BREAK SPACE}", " ") in section


def test_thresholds_are_for_two_classes() -> None:
    assert "Threshold for “class 1”" in Page(render(result(2))).words()
    assert "Threshold for" not in Page(render(result(3))).words()


def test_what_hangs_on_a_decision_follows_the_threshold() -> None:
    """Number, matrix and classes of the first screen are those of the model as it acts."""
    plain = result(2)
    acted = {"accuracy": Interval(0.4321, 0.4, 0.5)}
    strict = changed(plain, calibration=Calibration(aim="sensitivity >= 0.9", positive=0, threshold=0.0), acted=acted)
    words, other = Page(render(strict)).words(), Page(render(plain)).words()
    assert "43.2" in words
    assert "It decides 'class 0' from a probability of 0, for sensitivity >= 0.9." in words
    assert "Models are compared by their most probable class" in words
    assert "Models are compared by" not in other
    rows = int((plain.judged.labels["test"] == 1).sum())
    assert f'title="class 1 decided as class 0: {rows} of {rows}"' in render(strict)
    assert strict.metrics()["acted"]["accuracy"]["value"] == 0.4321
    assert strict.metrics()["rule"] == "'class 0' from a probability of 0, for sensitivity >= 0.9"
    assert plain.metrics()["acted"] is None


def test_an_unused_temperature_is_said_to_be_unused() -> None:
    analysis = result().judged.analysis
    assert analysis.calibration is not None
    heat = dataclasses.replace(analysis.calibration, applied=False, crossfitted=False)
    unused = result(analysis=dataclasses.replace(analysis, calibration=heat))
    words = Page(render(unused)).words()
    assert "the model does without it" in words
    assert "The same rows chose what was kept" in words
    assert "The same rows chose the head" in Page(render(changed(unused, cost=Cost({"stage_m": 1.0}, {})))).words()


def test_the_card_names_warnings_and_small_classes() -> None:
    given = result(labels={"test": np.repeat([0, 1, 2], [50, 8, 2])})
    card = Page(
        render(given)[render(given).index('<section id="card"') :].split('<details id="statisticians"')[0]
    ).words()
    assert "1 warning at the top of this page." in card
    assert "Fewer than 10 test rows are of class class 1, class 2" in card


def test_missing_bounds_are_said_not_drawn() -> None:
    alone = Interval(0.5, math.nan, math.nan)
    gain, scores = [GainRow("two-stage", "", alone, alone, math.nan)], dict.fromkeys(result().judged.test, alone)
    html = render(result(test=scores, gain=gain, analysis=Analysis(), recalls=[Recall("class 0", 1, alone)]))
    assert "no interval, because that takes at least two groups" in html
    assert 'class="whisker"' not in html


def test_few_classes_show_a_matrix_and_many_their_confusions() -> None:
    few, many = render(result(20, rows=300)), render(result(21, rows=300))
    assert 'class="heat"' in few
    assert "The most frequent confusions" not in few
    assert 'class="heat"' not in many
    assert "The most frequent confusions" in many
    assert "All 21 classes" in many


def test_class_rows_follow_from_the_confusion_matrix() -> None:
    first, second, third = class_rows(["a", "b", "c"], np.array([[3, 1, 0], [2, 4, 0], [0, 0, 0]]))
    assert (first.rows, first.recall, first.precision) == (4, 0.75, 0.6)
    assert first.f1 == pytest.approx(2 * 0.75 * 0.6 / (0.75 + 0.6))
    assert (second.rows, second.precision) == (6, 0.8)
    assert third.rows == 0
    assert math.isnan(third.recall)


def test_confused_pairs_come_most_frequent_first() -> None:
    pairs = confused_pairs(["a", "b", "c"], np.array([[3, 1, 0], [2, 4, 0], [0, 5, 5]]))
    assert [(pair.actual, pair.decided, pair.rows) for pair in pairs] == [("c", "b", 5), ("b", "a", 2), ("a", "b", 1)]
    assert pairs[0].share == 0.5


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_is_called_by_its_own_name(name: str) -> None:
    strategy, page = STRATEGIES[name], Page(render(result(strategy=name)))
    words = page.words()
    for text in (
        f"Report of a model: {strategy.title}", f"{name}: {strategy.paper}",
        f"The {strategy.title} model is better than the ensemble", f"Scores of the {strategy.title} model",
        f"interval of the {strategy.title} model", f"Differences are {strategy.title} minus other",
        f"The {strategy.title} model: note on the whole. Making it took 1 min 10 s and 1,200 rows",
        "image note on image", "text note on text", "Training all encoders and the head together 9.5 s",
        "Fine-tuning of all encoders and the head together.",
    ):  # fmt: skip
        assert text in words.replace("\N{NO-BREAK SPACE}", " ")
    for other in STRATEGIES.values():
        if other is not strategy:
            assert f"{other.title} model".lower() not in words.lower()
            assert f"{other.name}: {other.paper}" not in words
    # The weighted ensemble names what it weighs among its settings.
    assert ("two-stage" in words) == (name in ("two-stage", "weighted-ensemble"))
    key = next(item for item in page.all("span") if str(item.get("class", "")).startswith("key series-a"))
    assert key
    assert f"{name} ensemble" in words  # the legend of the missing rates names the judged model first


def test_settings_of_the_strategy_are_shown_where_it_has_some() -> None:
    assert "scale_free: null" in Page(render(result(strategy="umt"))).words()
    assert "Settings of the strategy" not in render(result())


def test_the_price_of_encoding_anew_is_named_where_a_head_was_fitted_on_stored_features() -> None:
    anew = "Running the encoders anew in every epoch of the head"
    assert anew not in Page(render(result(strategy="joint"))).words()
    assert anew in Page(render(result(cost=Cost({"stage_m": 1.0}, {})))).words()


def test_metrics_hold_the_sections_and_what_was_done_per_input() -> None:
    whole = result(2, strategy="umt")
    told = whole.metrics()
    assert json.loads(json.dumps(told, allow_nan=False)) == told
    assert told["strategy"]["name"] == "umt"
    assert told["strategy"]["settings"]["weight"] == 10.0
    assert told["notes"] == {"image": "note on image", "text": "note on text", "whole": "note on the whole"}
    assert told["gain"][0]["note"] == "fine-tuned"
    assert told["cost"] == {"seconds": {"stage_u": 61.0, "umt": 9.5}, "passes": {"image, training": 1200.0}}
    assert told["encoder_passes"] == {"image": 1200, "image, reused from the store": 7}
    assert told["comparisons"][0]["verdict"] == "better"
    assert told["threshold"].keys() == {
        "aim", "positive", "threshold", "sensitivity", "specificity", "ppv", "npv", "counts",
    }  # fmt: skip
    assert told["worst_group"]["class"]["name"] == "class 1"


def test_a_redacted_report_shows_nothing_of_a_row() -> None:
    case = dataclasses.replace(
        mistakes()[0], row="secret-id", group="secret-group", words={"note": "secret-text"},
    )  # fmt: skip
    told = f"Look at them{FIRST}secret.png"
    finding = Finding("near_duplicate", "warn", ("secret-id",), ("picture",), {"what": "secret-cell"}, told)
    row = Shown("secret-id", "class 1", "secret", {"picture": np.zeros((2, 2, 3), np.uint8)}, {"note": "secret"})
    whole = result(
        mistakes=[case], examples={"Its surest mistake": case}, findings=[Exhibit(finding, [[row]], [1])],
        warnings=["row secret-id is odd"],
        command="fusetune fit secret.csv",
    )  # fmt: skip
    lows = whole.judged.analysis.worst_group
    assert lows is not None
    assert lows.group is not None
    named = dataclasses.replace(lows, group=dataclasses.replace(lows.group, name="secret-group"))
    whole = changed(whole, analysis=dataclasses.replace(whole.judged.analysis, worst_group=named))
    assert render(whole).count("secret") > 8
    html = render(whole.redacted())
    assert "secret" not in html
    assert "data:image" not in html
    assert Page(html).words().count("said") >= 2
