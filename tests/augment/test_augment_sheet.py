"""Contact sheets: what stands where, what is marked, and that nothing overlaps."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pandas as pd
import torch
from PIL import ImageFont
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from fusetune.augment.cell_noise import CellAugment
from fusetune.augment.image import ImageAugment
from fusetune.augment.random import Moment
from fusetune.augment.sheet import (
    Cell,
    _fitting,
    caption,
    column_cells,
    draw_sheet,
    image_cells,
    small_sheet,
    text_cells,
)
from fusetune.augment.token_noise import TextAugment
from fusetune.config import IMAGE_POLICIES, ColumnPolicy, ImagePolicy, TextPolicy
from fusetune.data.cells import CellInput
from fusetune.data.choices import Kind
from fusetune.data.table import read_table

KEYS = torch.arange(3) * 7919
MOMENTS = [Moment(0, 0, view) for view in range(2)]
IMAGES = torch.full((3, 3, 24, 24), 200, dtype=torch.uint8)


def test_captions_name_what_did_something() -> None:
    parameters = {"angle": -7.25, "zoom": 1.0, "flip_x": 1.0, "brightness": 0.0, "contrast": 1.2, "erase_width": 0.25}
    assert caption(parameters) == ["turn -7.2°", "flip left-right", "contrast 1.20", "erase 25% wide"]
    assert caption({"erase_width": 0.25, "erase_height": 0.5}) == ["erase 25% wide", "and 50% high"]


def test_shifts_are_shown_as_they_are_seen() -> None:
    bright = torch.zeros(1, 3, 40, 40, dtype=torch.uint8)
    bright[..., 19:21, 19:21] = 255
    for key in range(8):
        augment, keys = ImageAugment(ImagePolicy(translate=0.3), 40), torch.tensor([key])
        seen = augment.draw(bright, keys, Moment(0))[0, 0].double()
        places = torch.arange(40) - 19.5
        for name, weights in (("shift x", seen.sum(0)), ("shift y", seen.sum(1))):
            moved = float((weights * places).sum() / weights.sum()) / 40
            words = caption({key: float(value) for key, value in augment.parameters(keys, Moment(0)).items()})
            (word,) = [word for word in words if word.startswith(name)]
            assert abs(float(word.split()[-1].rstrip("%")) / 100 - moved) < 0.01


def test_pictures_stand_beside_their_original() -> None:
    cells = image_cells(ImageAugment(IMAGE_POLICIES["light"], 20), IMAGES, KEYS, MOMENTS)
    assert [len(row) for row in cells] == [3, 3, 3]
    assert cells[0][0].words == [("original", "")]
    expected = ImageAugment(IMAGE_POLICIES["light"], 20).draw(IMAGES, KEYS, MOMENTS[1])[2]
    assert np.abs(cells[2][2].picture / 255 - expected.permute(1, 2, 0).numpy()).max() <= 0.5 / 255 + 1e-6
    assert cells[0][1].words[0][0].startswith("turn ")
    assert image_cells(ImageAugment(ImagePolicy(), 20), IMAGES, KEYS, MOMENTS)[0][1].words == [("unchanged", "")]


def test_tokens_that_went_are_marked() -> None:
    tokenizer = Tokenizer(WordLevel({"[PAD]": 0, "[CLS]": 1, "a": 2, "b": 3, "c": 4, "d": 5}, unk_token="[PAD]"))
    tokenizer.pre_tokenizer = Whitespace()
    inputs = {"ids": torch.tensor([[1, 2, 3, 4, 5], [1, 5, 4, 0, 0]]), "mask": torch.tensor([[1] * 5, [1, 1, 1, 0, 0]])}
    inputs["mask"] = inputs["mask"].bool()
    augment = TextAugment(TextPolicy(drop=0.5), (1,), 0)
    cells = text_cells(augment, inputs, tokenizer, KEYS[:2], MOMENTS)
    assert cells[0][0].words == [(word, "") for word in ("[CLS]", "a", "b", "c", "d")]
    for row in (0, 1):
        view = augment.draw(inputs, KEYS[:2], MOMENTS[0])
        kept = [tokenizer.id_to_token(int(i)) for i in view["ids"][row][view["mask"][row]]]
        assert [word for word, mark in cells[row][1].words if mark != "gone"] == kept
        assert [word for word, mark in cells[row][1].words if mark != "new"] == [w for w, _ in cells[row][0].words]


def test_cells_that_changed_are_marked() -> None:
    frame = pd.DataFrame({"age": [20.0, 50.0, 80.0, np.nan], "sex": ["f", "m", "f", "m"]})
    fitted = CellInput.fit(read_table(frame), {"age": Kind.NUMBER, "sex": Kind.CATEGORY}, np.arange(4))
    inputs = fitted.bind(read_table(frame)).read(np.arange(4))
    keys = torch.arange(4)
    cells = column_cells(CellAugment(ColumnPolicy(corrupt=0.9), inputs), inputs, fitted, keys, MOMENTS)
    assert [word for word, _ in cells[0][0].words] == ["age: 20", "sex: f"]
    assert [word for word, _ in cells[3][0].words] == ["age: missing", "sex: m"]
    seen = {word for row in cells for cell in row[1:] for word, mark in cell.words if mark == "new"}
    assert seen
    assert seen <= {"age: 20", "age: 50", "age: 80", "age: missing", "sex: f", "sex: m"}


def test_rare_categories_are_shown_by_their_name() -> None:
    frame = pd.DataFrame({"city": ["Rome", "Oslo", "Oslo", "Oslo"]})
    fitted = CellInput.fit(read_table(frame), {"city": Kind.CATEGORY}, np.arange(4))
    inputs = fitted.bind(read_table(frame)).read(np.arange(4))
    rare = frame.to_dict("records")
    cells = column_cells(CellAugment(ColumnPolicy(corrupt=0), inputs), inputs, fitted, torch.arange(4), MOMENTS, rare)
    assert [row[0].words for row in cells[:2]] == [[("city: Rome (rare)", "")], [("city: Oslo", "")]]
    assert cells[0][1].words == [("unchanged", "")]


def test_words_fit_into_their_cell() -> None:
    font = ImageFont.load_default(13)
    for word in ("short", "two words that are long", "abcdefghijklmnopqrstuvwxyz" * 2):
        parts = [part for part, _ in _fitting(word, font, 90)]
        assert all(font.getlength(part) <= 90 for part in parts)
        assert "".join(parts).replace(" ", "") == word.replace(" ", "")


def test_nothing_overlaps_in_a_sheet() -> None:
    picture = np.zeros((8, 8, 3), np.uint8)
    words = [("word", ""), ("gone", "gone"), ("a much longer sentence than fits into one line", "new")]
    sheet = np.asarray(draw_sheet([[Cell(words, picture)] * 3, [Cell(words)] * 3], width=60))
    assert sheet.shape[1] == 10 + 3 * 70
    # Columns between cells stay white, and so do the lines between rows of the grid.
    for left in (0, 70, 140, 210):
        assert (sheet[:, left + 1 : left + 9] == 255).all()
    ink = (sheet < 128).all(2).any(1)
    assert int(ink[10:70].sum()) == 60
    starts = [y for y, (before, after) in enumerate(pairwise(ink)) if after and not before]
    assert len(starts) >= 6


def test_reports_get_a_small_sheet() -> None:
    sheet = small_sheet(ImageAugment(IMAGE_POLICIES["medium"], 20), IMAGES, KEYS, [Moment(3), Moment(4)], width=40)
    assert sheet.shape[1:] == (10 + 3 * 50, 3)
