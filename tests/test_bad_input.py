"""Whatever is wrong with the input or the machine ends in work that goes on, or in one error that says what to do.

The faults and what counts as survived are in `benchmarks/`, where `faults.py` prints them as a table.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import _workshop
import pandas as pd
import pytest
from _fuzz import fuzz_images, fuzz_tables
from _workshop import CannotTryError, Fault, Workshop, open_workshop, went_wrong
from faults import FAULTS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from odd import columns, tables

import fusetune
from fusetune.cli.words import without_formulas
from fusetune.errors import FusetuneError

FAST: dict[str, Any] = {"deadline": None, "derandomize": True, "suppress_health_check": list(HealthCheck)}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return open_workshop(tmp_path_factory.mktemp("faults"))


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault.name}: {fault.case}")
def test_a_fault_is_survived(fault: Fault, shop: Workshop, tmp_path: Path) -> None:
    try:
        reason = went_wrong(fault, replace(shop, folder=tmp_path))
    except CannotTryError as error:
        pytest.skip(str(error))
    assert not reason, reason


def test_what_was_not_survived_is_noticed(shop: Workshop, tmp_path: Path) -> None:
    """The judge of all the above is not blind."""

    def breaks(_: Workshop) -> None:
        raise ZeroDivisionError("by chance")

    def leaves_half(place: Workshop) -> None:
        place.file(b"half", ".table.csv.0123abcd.csv")

    here = replace(shop, folder=tmp_path)
    absent = next(fault for fault in FAULTS if fault.case == "absent")
    for fault, reason in (
        (Fault("", "", breaks), "ZeroDivisionError: by chance"),
        (Fault("", "", breaks, "by chance"), "ZeroDivisionError: by chance"),
        (replace(absent, message=""), "TableError with exit code 2"),
        (replace(absent, message="something else"), "TableError with exit code 2"),
        (replace(absent, code=1), "TableError with exit code 2"),
        (Fault("", "", lambda _: None, "an error"), "nothing was said"),
        (Fault("", "", leaves_half), "left behind: "),
    ):
        assert went_wrong(fault, here).startswith(reason)


def test_damaged_bytes_end_in_a_result_or_a_clear_error() -> None:
    for found in (fuzz_images(60, seed=1) | fuzz_tables(150, seed=1)).values():
        assert found["clear error"] > 0
        assert found.keys() <= {"ok", "clear error"}


@settings(max_examples=20, **FAST)
@given(tables(st.integers(20, 30)), st.integers(1, 4))
def test_any_table_is_trained_on_or_refused(
    tmp_path_factory: pytest.TempPathFactory, frame: pd.DataFrame, every: int
) -> None:
    folder = tmp_path_factory.mktemp("odd")
    frame = frame.assign(y=[row // every % 2 for row in range(len(frame))])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pandas about overflows of absurd dates and numbers
        try:
            run = fusetune.fit(frame, "y", config=_workshop.settings(folder / "store"), out=folder / "run", quiet=True)
        except FusetuneError as error:
            assert len(str(error)) > 15
        else:
            assert len(run.model.predict(frame)) == len(frame)


@settings(max_examples=40, **FAST)
@given(frame=columns(["scan", "note", "age", "site"], st.integers(1, 4)))
def test_any_table_is_predicted_or_refused(shop: Workshop, frame: pd.DataFrame) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            told = shop.model().predict_table(frame)
        except FusetuneError as error:
            assert len(str(error)) > 15
        else:
            assert told["probability"].between(0.5, 1).all()


def test_formulas_get_an_apostrophe_and_nothing_else_does() -> None:
    words = ["=1+1", "+cmd", "-2+3", "@SUM(A1)", "\t=1", "-1.5e-3", "+7", "a=b", "", None, "'=x"]
    frame = pd.DataFrame({"row_id": words, "probability": [-0.5] * len(words)})
    tamed, changed = without_formulas(frame)
    assert changed == 5
    assert tamed["row_id"].tolist()[:9] == ["'=1+1", "'+cmd", "'-2+3", "'@SUM(A1)", "'\t=1", *words[5:9]]
    assert tamed["probability"].tolist() == frame["probability"].tolist()
    assert frame["row_id"].tolist()[:2] == words[:2]
