"""Texts that are missing, and texts without a word."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest
from planted import ALWAYS, check, kinds, look, named, plain_table


def with_notes(*notes: Any) -> pd.DataFrame:
    frame = plain_table(20).astype({"note": object})
    frame.loc[: len(notes) - 1, "note"] = list(notes)
    return frame


@pytest.mark.parametrize("cell", [None, "", "   ", "\t\n"])
def test_an_empty_cell_is_a_missing_text(cell: Any) -> None:
    examination = look(with_notes("one word", cell, "another word"), kinds={"note": "text"})
    finding = named(examination, "text_missing")
    check(finding, "info", {"r001"}, ("note",), "nothing")
    assert finding.evidence["what"] == "1 of 20 cells in 'note' are empty"
    assert "text_empty" not in kinds(examination)


@pytest.mark.parametrize("cell", ["...", "-", " ? ", "***", "___", "—", "🙂"])
def test_a_text_without_a_word_is_empty(cell: str) -> None:
    examination = look(with_notes("one word", cell, "another word"), kinds={"note": "text"})
    finding = named(examination, "text_empty")
    check(finding, "warn", {"r001"}, ("note",), "empty the cells")
    assert finding.evidence["texts"] == [cell]
    assert "text_missing" not in kinds(examination)


@pytest.mark.parametrize("cell", ["a", "0", "胸", "ß", "- x -", "None"])
def test_one_letter_or_digit_is_a_text(cell: str) -> None:
    assert kinds(look(with_notes(cell), kinds={"note": "text"})) <= {*ALWAYS, "label_errors"}


def test_a_column_of_missing_texts_is_examined() -> None:
    examination = look(plain_table(20).assign(note=None), kinds={"note": "text"})
    assert len(named(examination, "text_missing").rows) == 20
    assert named(examination, "column_constant").columns == ("note",)
    assert "duplicate_texts" not in kinds(examination)
