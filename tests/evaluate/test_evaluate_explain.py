"""Explanations against doing the change by hand, their sums, and the sanity check that they depend on the weights."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from tiny import CLASSES, settings, tiny_table
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

import fusetune
from fusetune.data.tokens import TextInput
from fusetune.errors import TableError
from fusetune.evaluate.attribution import word_tokens
from fusetune.evaluate.explain import Effect
from fusetune.model import Model
from fusetune.report.explanation import bars, overlay, render_explanation

Made = tuple[Model, pd.DataFrame, Path]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("explain")
    frame = tiny_table(folder / "data")
    path = folder / "data" / "table.csv"
    frame.to_csv(path, index=False)
    given = settings(folder / "store", train__epochs=1, views=1, evaluate__baselines=False)
    run = fusetune.fit(
        path, "organ", vectors={"genes": "v_*"}, group="patient", split="part", config=given, out=folder / "run",
        quiet=True,
    )  # fmt: skip
    return run.model, frame, path


def asked(made: Made, row: int, **changes: object) -> pd.DataFrame:
    """Write a table of one row beside the pictures."""
    return made[1].iloc[[row]].assign(**changes)


def predicted(made: Made, frame: pd.DataFrame) -> np.ndarray:
    path = made[2].with_name("asked.csv")
    frame.to_csv(path, index=False)
    return made[0].predict_proba(path).to_numpy()[0]


def test_shares_lead_from_no_input_to_the_probability(made: Made) -> None:
    model, frame, path = made
    found = model.explain(path, "case-040")
    p = predicted(made, frame.iloc[[40]])
    assert found.probability == pytest.approx(p.max(), abs=1e-5)
    assert found.decision == CLASSES[int(p.argmax())]
    assert list(found.shares) == ["scan", "note", "columns", "genes"]
    assert sum(found.shares.values()) == pytest.approx(found.probability - found.prior, abs=1e-6)
    assert sum(found.probabilities.values()) == pytest.approx(1)


def test_what_is_absent_has_no_share_and_no_parts(made: Made) -> None:
    path = made[2].with_name("absent.csv")
    asked(made, 40, note=None, scan=None).to_csv(path, index=False)
    found = made[0].explain(path, "case-040")
    assert found.absent == ["scan", "note"]
    assert found.shares["scan"] == found.shares["note"] == 0
    assert not found.pictures
    assert set(found.effects) == {"columns", "genes"}


def test_leaving_out_a_word_or_a_cell_equals_doing_it_by_hand(made: Made) -> None:
    model, frame, path = made
    found = model.explain(path, "case-040")
    whole = predicted(made, frame.iloc[[40]])
    top, text = int(whole.argmax()), str(frame["note"].iloc[40]).split()
    assert [word.name for word in found.effects["note"]] == text
    for place in (0, 3):
        without = " ".join(text[:place] + text[place + 1 :])
        drop = whole[top] - predicted(made, asked(made, 40, note=without))[top]
        assert found.effects["note"][place].effect == pytest.approx(drop, abs=1e-5)
    age = next(cell for cell in found.effects["columns"] if cell.name.startswith("age"))
    assert age.effect == pytest.approx(whole[top] - predicted(made, asked(made, 40, age=None))[top], abs=1e-5)
    mean = frame.loc[frame["part"] == "train", "age"].mean()
    assert age.typical == pytest.approx(whole[top] - predicted(made, asked(made, 40, age=mean))[top], abs=1e-4)
    assert [effect.name for effect in found.effects["genes"]] == ["v_0", "v_1", "v_2", "v_3"]


def test_the_map_covers_the_picture_and_depends_on_the_weights(made: Made) -> None:
    model, _, path = made
    found = model.explain(path, "case-040")
    assert found.maps["scan"].shape == found.pictures["scan"].shape[:2] == (32, 32)
    assert np.ptp(found.maps["scan"]) > 0
    again = model.explain(path, "case-040")
    assert (found.maps["scan"] == again.maps["scan"]).all()
    other = copy.deepcopy(model)
    torch.manual_seed(1)
    for index, name in enumerate(other.network.wiring.modality_of):
        if name == "scan":
            for weights in other.network.encoders[index].parameters():
                weights.copy_(weights[torch.randperm(len(weights))])
    shuffled = other.explain(path, "case-040")
    correlation = np.corrcoef(found.maps["scan"].ravel(), shuffled.maps["scan"].ravel())[0, 1]
    assert abs(correlation) < 0.9


def test_an_unknown_row_is_an_error(made: Made) -> None:
    with pytest.raises(TableError, match="no row 'case-04', did you mean"):
        made[0].explain(made[2], "case-04")


def test_words_of_several_tokens_stay_together_and_cut_ones_are_left_out() -> None:
    tokenizer = Tokenizer(WordLevel({"a": 0, "b": 1, "[UNK]": 2}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    fitted = TextInput("note", tokenizer, 2, max_tokens=3)
    assert word_tokens(fitted, " a b long a ") == [("a", [0]), ("b", [1]), ("long", [2])]


def test_the_page_shows_every_part_and_escapes_it(made: Made) -> None:
    model, frame, path = made
    nasty = path.with_name("nasty.csv")
    frame.iloc[[40]].assign(note="<b>beats</b> & valve", case_id="<i>").to_csv(nasty, index=False)
    html = render_explanation(model.explain(nasty, "<i>"))
    assert "<b>beats" not in html
    assert "<i>" not in html
    assert html.count('src="data:image/jpeg;base64,') == 2
    assert "://" not in html
    for text in ("genes", "age = ", "site = ", "v_3", "beats"):
        assert text in html


def test_bars_are_in_proportion_and_strongest_first() -> None:
    rows = bars([Effect("a", 0.1), Effect("b", -0.4), Effect("c", 0.0)])
    assert [(row.name, row.share) for row in rows] == [("b", -1.0), ("a", 0.25), ("c", 0.0)]
    assert [row.share for row in bars([Effect("a", 0.0)])] == [0.0]


def test_the_overlay_is_blue_for_and_ochre_against() -> None:
    grey = np.full((2, 2, 3), 100, np.uint8)
    shaded = overlay(grey, np.array([[1.0, -1.0], [0.0, 0.0]]))
    assert shaded[0, 0, 2] > shaded[0, 0, 0]
    assert shaded[0, 1, 0] > shaded[0, 1, 2]
    # What has no effect stays grey, lighter than it was so that colours show.
    assert (shaded[1] == 154).all()
    assert (overlay(grey, np.zeros((2, 2))) == 154).all()
    weak = overlay(grey, np.array([[1.0, 0.25], [0.0, 0.0]]))
    assert weak[0, 1, 2] > 154 > weak[0, 1, 0]
