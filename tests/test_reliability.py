"""Nothing is silently wrong: every case of `benchmarks/reliability.py` that takes no long time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from _kinds import KINDS, Case, Loud, became
from _page import renewed
from _workshop import CannotTryError, Workshop, open_workshop
from reliability import CASES, table_of

from fusetune.errors import RunError, TableError


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return open_workshop(tmp_path_factory.mktemp("kinds"))


@pytest.mark.parametrize(
    "case", [case for case in CASES if not case.slow], ids=lambda case: f"{case.kind}: {case.name!a}"
)
def test_nothing_is_silently_wrong(case: Case, shop: Workshop, tmp_path: Path) -> None:
    try:
        outcome, seen = became(case, replace(shop, folder=tmp_path))
    except CannotTryError as error:
        pytest.skip(str(error))
    assert outcome in ("right", "loud"), seen


def test_every_kind_has_cases() -> None:
    assert {case.kind for case in CASES} == set(range(1, len(KINDS) + 1))
    assert all(sum(case.kind == kind for case in CASES) >= 3 for kind in range(1, len(KINDS) + 1))
    assert len({(case.kind, case.name) for case in CASES}) == len(CASES)


def _raises(error: Exception) -> Case:
    def look(_: Workshop) -> str:
        raise error

    return Case(1, "made up", look, "row 3")


def test_what_is_silent_is_noticed(shop: Workshop) -> None:
    """The judge of all the above is not blind."""
    for case, outcome in (
        (Case(1, "right", lambda _: ""), "right"),
        (Case(1, "silent", lambda _: "27 of 60 rows"), "silent"),
        (_raises(Loud("it says so")), "loud"),
        (_raises(TableError("row 3 is empty")), "loud"),
        (_raises(TableError("something is wrong")), "failed"),
        (_raises(RunError("row 3 is empty")), "failed"),
        (_raises(KeyError("key")), "failed"),
        (replace(_raises(TableError("row 3 is empty")), says=None), "failed"),
    ):
        assert became(case, shop)[0] == outcome


def test_the_table_of_the_page_is_replaced() -> None:
    page = "before\n<!-- begin kinds -->\n\nold\n\n<!-- end kinds -->\nafter\n"
    found = [(case, outcome, "") for case, outcome in zip(CASES[:3], ("right", "loud", "silent"), strict=True)]
    table = table_of(found)
    assert "| all | 3 | 1 | 1 | 1 | 0 |" in table
    assert renewed(renewed(page, "kinds", table), "kinds", table) == page.replace("old", table)
    with pytest.raises(ValueError, match="begin fuzz"):
        renewed(page, "fuzz", table)
