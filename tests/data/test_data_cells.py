"""Cells: fitted on training rows only, with codes of their own for missing and unseen."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from fusetune.data.cells import MISSING, UNSEEN, CellInput
from fusetune.data.choices import Kind
from fusetune.data.kinds import fits
from fusetune.data.table import Table
from fusetune.errors import TableError

TRAIN = np.array([0, 1, 2, 3])


def table(**columns: Any) -> Table:
    return Table(pd.DataFrame(columns), "t.csv", Path())


def fitted(kind: Kind, values: Any, train: Any = TRAIN) -> CellInput:
    return CellInput.fit(table(x=values), {"x": kind}, train)


def codes(cells: CellInput, values: Any) -> list[int]:
    return cells.bind(table(x=values)).codes[:, 0].tolist()


def numbers(cells: CellInput, values: Any) -> list[float | None]:
    source = cells.bind(table(x=values))
    raw = [n * cells.numbers[0].std + cells.numbers[0].mean for n in source.numbers[:, 0].astype(float)]
    return [None if gone else pytest.approx(n, abs=1e-4) for n, gone in zip(raw, source.missing[:, 0], strict=True)]


def test_scale_and_vocabulary_come_from_the_training_rows_alone() -> None:
    kinds = {"x": Kind.NUMBER, "c": Kind.CATEGORY, "d": Kind.DATE}
    days = pd.date_range("2020-01-01", periods=6).strftime("%Y-%m-%d").tolist()
    base = {"x": [1.0, 2, 3, 6, 9, 9], "c": list("aabbcc"), "d": days}
    other = {"x": [1.0, 2, 3, 6, -1e9, np.nan], "c": [*"aabb", "zz", None], "d": [*days[:4], "1900-01-01", None]}
    cells = CellInput.fit(table(**base), kinds, TRAIN)
    assert cells == CellInput.fit(table(**other), kinds, TRAIN)
    assert cells.numbers[0].mean == 3
    assert cells.numbers[0].std == pytest.approx(np.std([1, 2, 3, 6]))
    assert CellInput.model_validate_json(cells.model_dump_json()) == cells


def test_numbers_are_standardised_and_gaps_are_flagged() -> None:
    cells = fitted(Kind.NUMBER, [1.0, 2, 3, 6])
    source = cells.bind(table(x=[1.0, None, np.inf, -np.inf, 3]))
    expected = (np.array([1, 3, 3, 3, 3]) - 3) / np.std([1, 2, 3, 6])
    assert source.numbers[:, 0] == pytest.approx(expected)
    assert source.missing[:, 0].tolist() == [False, True, True, True, False]
    assert source.present.tolist() == [True, False, False, False, True]
    assert source.numbers.dtype == np.float32


def test_infinite_and_missing_numbers_do_not_spoil_the_scale() -> None:
    cells = fitted(Kind.NUMBER, [1.0, np.inf, None, 3])
    assert (cells.numbers[0].mean, cells.numbers[0].std) == (2, 1)
    empty = fitted(Kind.NUMBER, [None, None, None, None, 7.0])
    assert (empty.numbers[0].mean, empty.numbers[0].std) == (0, 1)


@pytest.mark.parametrize("value", [0.1, 1e9 + 0.1, 7])
def test_equal_numbers_are_not_blown_up_by_rounding(value: float) -> None:
    cells = fitted(Kind.NUMBER, [value] * 7, np.arange(7))
    assert cells.numbers[0].std == 1


def test_words_that_are_no_numbers_are_missing() -> None:
    assert numbers(fitted(Kind.NUMBER, ["1", "2", "x", "3"]), ["4", " 5 ", "x", None, "1e2"]) == [4, 5, None, None, 100]
    nullable = pd.array([1, None, 3, 4], dtype="Int64")
    assert numbers(fitted(Kind.NUMBER, nullable), nullable) == [1, None, 3, 4]


def test_categories_have_codes_for_missing_and_unseen() -> None:
    cells = fitted(Kind.CATEGORY, ["b", "a", "b", "a", "c"], np.arange(5))
    assert cells.categories[0].categories == ["a", "b"]
    assert cells.cardinalities == [4]
    assert codes(cells, ["a", "b", "c", "new", None, ""]) == [2, 3, UNSEEN, UNSEEN, MISSING, MISSING]
    frequent = fitted(Kind.CATEGORY, list("abbbcc"), np.arange(6))
    assert frequent.categories[0].categories == ["b", "c"]


def test_codes_do_not_depend_on_the_order_of_the_rows() -> None:
    words = np.array(list("zzyyxxwwvv"))
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(10)
        assert fitted(Kind.CATEGORY, words[order], np.arange(10)).categories[0].categories == list("vwxyz")


def test_whole_numbers_are_the_same_category_beside_gaps_and_without() -> None:
    for values in ([1, 2, 1, 2], [1.0, 2.0, 1, 2, np.nan], ["1", "2", "1", "2"], ["1.0", "2.0", "1.0", "2.0"]):
        cells = fitted(Kind.CATEGORY, values)
        for same in ([1, 2], [1.0, 2.0, np.nan], ["1", "2"], ["1.0", "2.0"], pd.array([1, 2], dtype="Int64")):
            assert codes(cells, same)[:2] == [2, 3], (values, same)
    assert codes(fitted(Kind.CATEGORY, [1.5, 1.5, 10.0, 10.0]), [1.5, 10, 1]) == [2, 3, UNSEEN]
    for truths in ([True, False, True, False], ["true", "FALSE", "True", "false"]):
        for same in (["True", False], ["true", "false"], [True, False]):
            assert codes(fitted(Kind.CATEGORY, truths), same) == [3, 2]


def test_codes_are_words_whose_zeros_are_not_lost_silently() -> None:
    exact = fitted(Kind.CATEGORY, ["3.1", "3.10", "3.1", "3.10"])
    assert exact.categories[0].categories == ["3.1", "3.10"]
    assert codes(exact, ["3.10", "3.1", " 3.10 ", "3.100"[:4]]) == [3, 2, 3, 3]
    with pytest.raises(TableError, match=r"column 'x' holds numbers such as 3.1, but its categories are words.*3.10"):
        codes(exact, [3.1, 3.1])
    zips = fitted(Kind.CATEGORY, ["02134", "01010"] * 2)
    for changed in ([2134, 1010], ["2134", "1010"]):
        with pytest.raises(TableError, match=r"zeros|numbers"):
            codes(zips, changed)
    plain = fitted(Kind.CATEGORY, [2134, 1010] * 2)
    assert codes(plain, ["2134", "1010"]) == codes(plain, [2134.0, 1010.0]) == [3, 2]
    with pytest.raises(TableError, match="holds '02134' in row 0, but the model learnt '2134'"):
        codes(plain, ["02134", "1010"])


def test_a_rare_word_that_means_the_number_of_another_is_no_loss() -> None:
    cells = fitted(Kind.CATEGORY, ["7", "7", "007", "x", "x"], np.arange(5))
    assert codes(cells, ["7", "007", "x"]) == [2, UNSEEN, 3]


def test_a_word_that_pandas_reads_as_missing_is_not_lost_silently() -> None:
    cells = fitted(Kind.CATEGORY, ["None", "mild", "None", "mild"])
    assert codes(cells, ["None", "mild"]) == [2, 3]
    frame = replace(table(x=[None, "mild"]), index=pd.RangeIndex(2))
    with pytest.raises(TableError, match="the model knows the word None, which pandas reads as missing"):
        cells.bind(frame)
    assert cells.bind(replace(table(x=["", "mild"]), index=pd.RangeIndex(2))).codes[:, 0].tolist() == [MISSING, 3]


def test_unseen_categories_are_said_by_row_with_what_looks_alike() -> None:
    source = fitted(Kind.CATEGORY, ["site a", "site b"] * 2).bind(table(x=["SITE A", "site b", None, "other"]))
    assert source.unseen == {
        0: "x: 'SITE A' is no category that was learnt; it knows 'site a'",
        3: "x: 'other' is no category that was learnt",
    }
    assert source.problems == {}


@pytest.mark.parametrize("value", [1e39, -1.7976931348623157e308, 1e15, np.inf])
def test_numbers_too_large_for_a_network_count_as_missing_and_are_said(value: float) -> None:
    cells = fitted(Kind.NUMBER, [1.0, 2, 3, 6])
    source = cells.bind(table(x=[2.0, value]))
    assert source.missing[:, 0].tolist() == [False, True]
    assert np.isfinite(source.numbers).all()
    assert list(source.problems) == [1]
    assert fits(pd.Series([2.0, value, value]), Kind.NUMBER)  # they are numbers, and no reason to refuse a table
    # Nor do they spoil the scale.
    assert fitted(Kind.NUMBER, [1.0, 1e300, None, 3]).numbers[0].mean == 2


def test_one_and_two_are_no_truth_values() -> None:
    source = fitted(Kind.BOOLEAN, [True, False, True, False]).bind(table(x=[1, 2, 1, 0]))
    assert source.missing[:, 0].tolist() == [False, True, False, False]
    assert "'2' is no boolean" in source.problems[1]


def test_durations_are_days_however_they_are_written() -> None:
    spans = pd.to_timedelta([1, 2.5, 3, 6], unit="D")
    cells = fitted(Kind.NUMBER, spans)
    assert cells.numbers[0].mean == pytest.approx(3.125)
    for same in (spans, pd.Series(spans).astype("str")):
        assert numbers(cells, same) == [1, 2.5, 3, 6]


def test_a_number_is_no_duration() -> None:
    spans, plain = pd.to_timedelta([1, 2.5, 3, 6], unit="D"), [1.0, 2.5, 3, 6]
    for learnt, asked, why in (
        (spans, plain, "is no duration"),
        (plain, spans, "is no number"),
        (plain, pd.Series(spans).astype("str"), "is no number"),
    ):
        source = fitted(Kind.NUMBER, learnt).bind(table(x=asked))
        assert source.missing.all()
        assert [why in text for text in source.problems.values()] == [True] * 4
    old = fitted(Kind.NUMBER, plain).model_copy(update={"durations": None})
    assert numbers(old, spans) == plain


ISO = [f"2020-{1 + i % 12:02d}-{1 + i % 28:02d}" for i in range(40)]


@pytest.mark.parametrize(
    ("learnt", "asked", "expected"),
    [
        (ISO, ["05/01/2020", "25/12/2020"], ["2020-01-05", "2020-12-25"]),
        (ISO, ["01/05/2020", "12/25/2020"], ["2020-01-05", "2020-12-25"]),
        (ISO, ["03.04.2020"], ["2020-04-03"]),
        (ISO, ["04/04/2020"], ["2020-04-04"]),
        (ISO, ["12.25.2020", "04.03.2020"], [None, "2020-03-04"]),  # with dots, there is no 25th month
        (ISO, ["03/04/2020"], [None]),  # no row tells, and nothing was learnt
        (["25/12/2020", *ISO], ["03/04/2020"], ["2020-04-03"]),
        (["12/25/2020", *ISO], ["03/04/2020"], ["2020-03-04"]),
        (["25/12/2020", *ISO], ["03/04/2020", "12/25/2020"], ["2020-03-04", "2020-12-25"]),  # its own rows tell
        (ISO, ["9999-12-31", "0001-01-01", "2020-03-04"], [None, None, "2020-03-04"]),
        (ISO, ["2020-03-04T23:00:00-02:00"], ["2020-03-05T01:00"]),
    ],
)
def test_dates_are_read_in_the_order_that_their_table_shows(
    learnt: list[str], asked: list[str], expected: list[str | None]
) -> None:
    source = CellInput.fit(table(x=learnt), {"x": Kind.DATE}, np.arange(len(learnt))).bind(table(x=asked))
    cells = fitted(Kind.DATE, learnt, np.arange(len(learnt)))
    read = source.numbers[:, 0].astype(float) * cells.numbers[0].std + cells.numbers[0].mean
    for day, expect, missing in zip(read, expected, source.missing[:, 0], strict=True):
        assert missing == (expect is None)
        assert missing or day == pytest.approx(pd.Timestamp(expect).timestamp() / 86_400, abs=1e-2)
    assert sorted(source.problems) == [row for row, day in enumerate(expected) if day is None]


def test_the_order_of_dates_is_learnt_from_all_rows_of_the_table() -> None:
    dates = [*[f"{1 + i % 12:02d}/{1 + i // 3 % 12:02d}/2020" for i in range(40)], "25/12/2020"]
    assert fitted(Kind.DATE, dates, np.arange(40)).day_first == ["x"]
    assert fitted(Kind.DATE, dates[:40], np.arange(40)).month_first == ["x"]


def test_dates_in_two_orders_are_refused_by_row() -> None:
    cells = fitted(Kind.DATE, ISO, np.arange(40))
    with pytest.raises(TableError, match=r"'25/12/2020' in row 1 begins with the day and '12/25/2020' in row 2"):
        cells.bind(table(x=["01/02/2020", "25/12/2020", "12/25/2020"]))
    with pytest.raises(TableError, match="two orders"):
        fitted(Kind.DATE, ["25/12/2020", "12/25/2020"], np.arange(2))


def test_a_model_of_an_earlier_version_reads_dates_as_it_did() -> None:
    old = fitted(Kind.DATE, ISO, np.arange(40)).model_copy(update={"month_first": None})
    assert old.bind(table(x=["03/04/2020"])).digests == old.bind(table(x=["2020-03-04"])).digests


def test_an_empty_cell_of_every_kind_is_missing() -> None:
    for kind, values in (
        (Kind.NUMBER, [1.0, 2, 3, 4]),
        (Kind.CATEGORY, list("aabb")),
        (Kind.BOOLEAN, [True, False] * 2),
    ):
        source = fitted(kind, values).bind(table(x=[None, None]))
        assert not source.present.any()


@pytest.mark.parametrize(
    "values",
    [
        [True, False, None], ["yes", "No", None], [" TRUE ", "false", None], ["y", "N", None], ["1", "0", "maybe"],
        [1, 0, None], [1.0, 0.0, np.nan], pd.array([True, False, None], dtype="boolean"),
        pd.Series([np.bool_(True), np.bool_(False), None], dtype=object),
    ],
)  # fmt: skip
def test_every_way_to_say_yes_and_no(values: Any) -> None:
    cells = fitted(Kind.BOOLEAN, [True, False, True, False])
    assert numbers(cells, values) == [1, 0, None]


def test_a_date_is_a_day_and_a_season() -> None:
    dates = ["1970-01-01", "1971-01-01", "1970-07-02T12:00:00Z", "2000-01-01"]
    cells = fitted(Kind.DATE, dates)
    assert [scale.part for scale in cells.numbers] == ["days since 1970", "season, sine", "season, cosine"]
    source = cells.bind(table(x=dates))
    raw = source.numbers * [s.std for s in cells.numbers] + [s.mean for s in cells.numbers]
    assert raw[:, 0] == pytest.approx([0, 365, 182.5, 10957], abs=0.01)
    turn = 2 * np.pi * np.array([0, 365, 182.5, 10957]) / 365.2425
    assert raw[:, 1] == pytest.approx(np.sin(turn), abs=1e-3)
    assert raw[:, 2] == pytest.approx(np.cos(turn), abs=1e-3)
    assert raw[2, 2] < -0.99  # midsummer is opposite to New Year


def test_dates_with_and_without_zone_and_gaps() -> None:
    cells = fitted(Kind.DATE, ["2020-01-01", "2020-01-02", "2020-01-03", "2020-01-04"])
    days = numbers(cells, ["2020-01-01T02:00:00+02:00", "2020-01-01", "2020-01-01T12:00", "never", None])
    assert days == [18262, 18262, 18262.5, None, None]
    assert numbers(cells, pd.to_datetime(["2020-01-01", None])) == [18262, None]
    assert numbers(cells, pd.to_datetime(["2020-01-01"]).tz_localize("Asia/Tokyo")) == [18261.625]


def test_the_order_of_day_and_month_is_learned_and_kept() -> None:
    cells = fitted(Kind.DATE, ["13/02/2020", "01/02/2020", "02/02/2020", "03/02/2020"])
    assert cells.day_first == ["x"]
    assert numbers(cells, ["03/04/2020"]) == [pd.Timestamp("2020-04-03").timestamp() / 86400]
    assert numbers(cells, ["2020-04-03"]) == [pd.Timestamp("2020-04-03").timestamp() / 86400]
    american = fitted(Kind.DATE, ["02/13/2020", "01/02/2020", "02/02/2020", "03/02/2020"])
    assert numbers(american, ["03/04/2020"]) == [pd.Timestamp("2020-03-04").timestamp() / 86400]


def test_cells_are_read_by_row_and_digests_tell_them_apart() -> None:
    cells = CellInput.fit(table(x=[1.0, 2, 3, 4], c=list("aabb")), {"x": Kind.NUMBER, "c": Kind.CATEGORY}, TRAIN)
    source = cells.bind(table(x=[1.0, 1.0, None, None, 3.0, 1.0], c=["a", "b", None, "zz", None, "a"]))
    assert source.present.tolist() == [True, True, False, True, True, True]
    read = source.read(np.array([4, 0]))
    assert read["codes"].tolist() == [[MISSING], [2]]
    assert read["missing"].tolist() == [[False], [False]]
    assert read["numbers"].shape == (2, 1)
    assert len(set(source.digests.tolist())) == 5
    assert source.digests[0] == source.digests[5]
    # A missing number is stored as zero, which is also the mean: their digests still differ.
    mean = cells.bind(table(x=[2.5, None], c=["a", "a"]))
    assert mean.digests[0] != mean.digests[1]


def test_cells_without_numbers_or_categories() -> None:
    only = CellInput.fit(table(x=[1.0, 2, 3, 4]), {"x": Kind.NUMBER}, TRAIN).bind(table(x=[1.0]))
    assert only.codes.shape == (1, 0)
    other = CellInput.fit(table(x=list("aabb")), {"x": Kind.CATEGORY}, TRAIN).bind(table(x=["a"]))
    assert other.numbers.shape == (1, 0)
