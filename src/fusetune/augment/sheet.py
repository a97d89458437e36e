"""Contact sheets: each row as it is at the left, its random views beside it, and what was drawn below each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont
from tokenizers import Tokenizer
from torch import Tensor

from fusetune.augment import Augment
from fusetune.augment.draws import NEUTRAL
from fusetune.augment.random import Moment
from fusetune.data.cells import FIRST, CellInput

Mark = Literal["", "gone", "new"]
_UNSEEN = "unseen"
_FONT = 13
_LINE = 17
_GAP = 10
_INK = {"": (40, 40, 40), "gone": (190, 30, 30), "new": (0, 110, 60)}
# How each drawn parameter is shown: a word, and how to write its value.
_WORDS = {
    "angle": "turn {:+.1f}°", "zoom": "zoom {:.2f}", "shift_x": "shift x {:+.1%}", "shift_y": "shift y {:+.1%}",
    "shear_x": "shear x {:+.2f}", "shear_y": "shear y {:+.2f}", "crop_x": "crop x {:+.1%}", "crop_y": "crop y {:+.1%}",
    "flip_x": "flip left-right", "flip_y": "flip up-down", "brightness": "brightness {:+.2f}",
    "contrast": "contrast {:.2f}", "saturation": "saturation {:.2f}", "gamma": "gamma {:.2f}", "blur": "blur {:.1f} px",
    "sharpness": "sharpness {:.2f}", "posterize": "{:.0f} bits", "solarize": "solarize {:.2f}",
    "autocontrast": "autocontrast", "equalize": "equalize", "speckle": "speckle {:.2f}", "noise": "noise {:.3f}",
    "erase_width": "erase {:.0%} wide", "erase_height": "and {:.0%} high",
}  # fmt: skip
# Drawn is where an output pixel is taken from; shown is where the picture goes: to the right and down.
_OPPOSITE = ("shift_x", "shift_y")


@dataclass(frozen=True)
class Cell:
    """One place of a sheet: a picture, if there is one, and words below it, each with how it changed."""

    words: Sequence[tuple[str, Mark]]
    picture: npt.NDArray[np.uint8] | None = None


def image_cells(augment: Any, images: Tensor, keys: Tensor, moments: Sequence[Moment]) -> list[list[Cell]]:
    """Return one list per row: the plain picture and its views.

    Args:
        augment: An `ImageAugment`, or another that has `plain` and `draw`; parameters are shown where it has them.
        images: uint8 [rows, 3, side, side].
        keys: Row keys, int64 [rows].
        moments: One per view.
    """
    grid = [[Cell([("original", "")], _pixels(picture))] for picture in augment.plain(images)]
    for moment in moments:
        draws = augment.parameters(keys, moment) if hasattr(augment, "parameters") else {}
        for row, picture in enumerate(augment.draw(images, keys, moment)):
            words = [(word, "") for word in caption({name: float(values[row]) for name, values in draws.items()})]
            grid[row].append(Cell(words or [("unchanged" if draws else "", "")], _pixels(picture)))  # type: ignore[arg-type]
    return grid


def caption(parameters: dict[str, float]) -> list[str]:
    """Return the parameters that did something, in words."""
    return [
        text.format(-parameters[name] if name in _OPPOSITE else parameters[name])
        for name, text in _WORDS.items()
        if name in parameters and parameters[name] != NEUTRAL[name]
    ]


def text_cells(
    augment: Augment, inputs: dict[str, Tensor], tokenizer: Tokenizer, keys: Tensor, moments: Sequence[Moment]
) -> list[list[Cell]]:
    """Return one list per row: the tokens, and per view the tokens with those that went and those that came."""
    before = _tokens(inputs, tokenizer)
    grid = [[Cell([(token, "") for token in tokens])] for tokens in before]
    for moment in moments:
        for row, tokens in enumerate(_tokens(augment.draw(inputs, keys, moment), tokenizer)):
            grid[row].append(Cell(list(_compared(before[row], tokens))))
    return grid


def column_cells(
    augment: Augment,
    inputs: dict[str, Tensor],
    fitted: CellInput,
    keys: Tensor,
    moments: Sequence[Moment],
    rare: Sequence[Mapping[str, str]] | None = None,
) -> list[list[Cell]]:
    """Return one list per row: the cells, and per view the cells that changed.

    Args:
        augment: What changes cells.
        inputs: Encoded cells.
        fitted: How they were encoded.
        keys: Row keys, int64 [rows].
        moments: One per view.
        rare: Per row, by column, what stands in the table; shown for categories that have no code of their own.
    """
    before = _cells(inputs, fitted)
    grid = []
    for row, cells in enumerate(before):
        names = {name: f"{rare[row][name]} (rare)" for name in cells if rare and cells[name] == _UNSEEN}
        grid.append([Cell([(f"{name}: {names.get(name, value)}", "") for name, value in cells.items()])])
    for moment in moments:
        for row, after in enumerate(_cells(augment.draw(inputs, keys, moment), fitted)):
            changes = [(f"{name}: {value}", "new") for name, value in after.items() if value != before[row][name]]
            grid[row].append(Cell(changes or [("unchanged", "")]))  # type: ignore[arg-type]
    return grid


def draw_sheet(rows: Sequence[Sequence[Cell]], width: int = 200) -> Image.Image:
    """Draw cells as a grid.

    Args:
        rows: Cells, from the top and the left.
        width: Width of a cell in pixels; pictures are shown at this size.
    """
    font = ImageFont.load_default(_FONT)
    laid = [[_lines(cell, font, width) for cell in row] for row in rows]
    pictured = [any(cell.picture is not None for cell in row) * (width + 4) for row in rows]
    heights = [max(map(len, lines)) * _LINE + above for lines, above in zip(laid, pictured, strict=True)]
    columns = max(map(len, rows))
    size = (_GAP + columns * (width + _GAP), _GAP + sum(heights) + _GAP * len(rows))
    sheet = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(sheet)
    top = _GAP
    for row, lines, height in zip(rows, laid, heights, strict=True):
        for place, cell in enumerate(row):
            _draw_cell(sheet, pen, font, cell, lines[place], (_GAP + place * (width + _GAP), top), width)
        top += height + _GAP
    return sheet


def small_sheet(
    augment: Any, images: Tensor, keys: Tensor, moments: Sequence[Moment], width: int = 130
) -> npt.NDArray[np.uint8]:
    """Return a small sheet of image views for a report, uint8 [height, width, 3]; see `image_cells`."""
    return np.asarray(draw_sheet(image_cells(augment, images, keys, moments), width))


def _pixels(picture: Tensor) -> npt.NDArray[np.uint8]:
    return (picture.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()


def _tokens(inputs: dict[str, Tensor], tokenizer: Tokenizer) -> list[list[str]]:
    return [
        [str(tokenizer.id_to_token(int(token))) for token in ids[mask]]
        for ids, mask in zip(inputs["ids"], inputs["mask"], strict=True)
    ]


def _compared(before: list[str], after: list[str]) -> Iterator[tuple[str, Mark]]:
    for what, a, b, c, d in SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        yield from ((token, "" if what == "equal" else "gone") for token in before[a:b])
        if what != "equal":
            yield from ((token, "new") for token in after[c:d])


def _cells(inputs: dict[str, Tensor], fitted: CellInput) -> list[dict[str, str]]:
    rows = []
    for row in range(len(inputs["numbers"])):
        cells = {}
        for place, scale in enumerate(fitted.numbers):
            name = scale.column if scale.part == "value" else f"{scale.column} ({scale.part})"
            value = float(inputs["numbers"][row, place]) * scale.std + scale.mean
            cells[name] = "missing" if bool(inputs["missing"][row, place]) else f"{value:.4g}"
        for place, vocabulary in enumerate(fitted.categories):
            code = int(inputs["codes"][row, place])
            words = ["missing", _UNSEEN, *vocabulary.categories]
            cells[vocabulary.column] = words[code] if code < FIRST + len(vocabulary.categories) else str(code)
        rows.append(cells)
    return rows


def _lines(cell: Cell, font: Any, width: int) -> list[list[tuple[str, Mark]]]:
    """Break words into lines that fit; a caption's parameters and a text's tokens alike."""
    lines: list[list[tuple[str, Mark]]] = [[]]
    used = 0.0
    for word, mark in cell.words:
        for part, more in _fitting(word, font, width):
            if lines[-1] and used + more > width:
                lines.append([])
                used = 0
            lines[-1].append((part, mark))
            used += more
    return lines


def _fitting(word: str, font: Any, width: int) -> Iterator[tuple[str, float]]:
    """Cut a word that is longer than a line."""
    while word:
        count = len(word)
        while count > 1 and font.getlength(word[:count]) > width:
            count -= 1
        if count < len(word) and " " in word[1:count]:
            count = word.rindex(" ", 1, count)
        yield word[:count], font.getlength(word[:count]) + 9
        word = word[count:].lstrip()


def _draw_cell(
    sheet: Image.Image,
    pen: ImageDraw.ImageDraw,
    font: Any,
    cell: Cell,
    lines: list[list[tuple[str, Mark]]],
    at: tuple[int, int],
    width: int,
) -> None:
    left, top = at
    if cell.picture is not None:
        picture = Image.fromarray(cell.picture).resize((width, width), Image.Resampling.LANCZOS)
        sheet.paste(picture, at)
        top += width + 4
    for line in lines:
        x = float(left)
        for word, mark in line:
            pen.text((x, top), word, fill=_INK[mark], font=font)
            length = font.getlength(word)
            if mark == "gone":
                pen.line((x, top + _LINE / 2, x + length, top + _LINE / 2), fill=_INK[mark])
            elif mark == "new":
                pen.line((x, top + _LINE - 2, x + length, top + _LINE - 2), fill=_INK[mark])
            x += length + 9
        top += _LINE
