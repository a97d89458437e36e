"""Words in pictures, as a text column beside them: optical character recognition (OCR) by RapidOCR's PP-OCR models.

A meme, a product's packaging, a slide or a screenshot says in words what an image encoder made for objects does not
read. The words become a column of texts like any other; where a table has that column, its cells count, and only empty
ones are filled.
"""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from hashlib import blake2b
from importlib import import_module
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import pandas as pd
import torch

from fusetune.data.carried import is_absent
from fusetune.data.decode import load_pixels, opened
from fusetune.data.images import ImageInput
from fusetune.data.schema import Column, Schema
from fusetune.data.spread import Pixels
from fusetune.data.stored import Encoded
from fusetune.data.table import Table, with_columns
from fusetune.errors import ImageError, UserError
from fusetune.files import write_text
from fusetune.progress import Bar, bar

PACKAGE = "rapidocr"
# Rows whose words are kept in one file; and pixels on each side that a picture is decoded to at least, where it has
# them: small print needs more of them than an image encoder does.
_PIECE, _SIDE = 64, 1280
_FORMAT = 1
# A picture is no more times as long as wide than this for what reads words, which refuses strips; and pictures whose
# words are remembered, since a table that is judged is read more than once.
_STRIP, _REMEMBERED = 20, 50_000
# One reader for all: it keeps what it is asked for while it answers.
_ASKED = Lock()
_RECENT: dict[bytes, str] = {}


def with_words(table: Table, schema: Schema, inputs: Mapping[str, ImageInput], folder: Path | None = None) -> Table:
    """Return a table whose text columns that are read in pictures are filled, where their cells are empty.

    A picture without words, and one that cannot be decoded, leave the cell empty; what is wrong with the latter is said
    where pictures are read.

    Args:
        table: As the schema reads it.
        schema: Its columns; those with `read_in` are filled.
        inputs: How the pictures of each column are fetched.
        folder: Where words are kept for the next run; None: nowhere.

    Raises:
        UserError: If the reader of words is not installed.
    """
    columns = {}
    for column in schema.inputs:
        if column.read_in is not None and column.read_in in table.frame.columns:
            columns[column.name] = _filled(table, column, inputs[column.read_in], folder)
    return replace(table, frame=with_columns(table.frame, columns)) if columns else table


def _filled(table: Table, column: Column, pictures: ImageInput, folder: Path | None) -> pd.Series:
    """Return the texts of a column, those that are missing read in the pictures of another."""
    cells = table.column(str(column.read_in))
    texts: list[str | None] = [None] * len(table)
    if column.name in table.frame.columns:
        texts = [_joined(cell) for cell in table.frame[column.name]]
    asked = np.array([row for row, text in enumerate(texts) if text is None or not text.strip()], dtype=np.int64)
    with bar(f"reading the words in {column.read_in}", len(asked)) as progress:
        for start in range(0, len(asked), _PIECE):
            rows = asked[start : start + _PIECE]
            found = [_encoded(cell, pictures, table.root) for cell in cells.iloc[rows]]
            for row, words in zip(rows.tolist(), _kept(found, pictures.pixel_limit, folder, progress), strict=True):
                texts[row] = words
    return pd.Series(texts, dtype="str", index=table.frame.index)


def _joined(cell: object) -> str | None:
    """Return the text of a cell, or None; where rows that were gathered have several, one after the other."""
    parts = [str(one) for one in (cell if isinstance(cell, tuple) else (cell,)) if not is_absent(one)]
    return "\n".join(parts) or None


def _encoded(cell: object, pictures: ImageInput, root: Path) -> list[Encoded]:
    """Return the pictures of a cell as they are stored, without those that cannot be read."""
    found = []
    for one in cell if isinstance(cell, tuple) else (cell,):
        if not is_absent(one):
            try:
                found.append(pictures.fetch(one, root))
            except ImageError:
                continue
    return found


def _kept(rows: Sequence[list[Encoded]], pixel_limit: int, folder: Path | None, progress: Bar) -> list[str | None]:
    """Return the words in the pictures of each row, from the folder where they are known."""
    if not any(rows):
        progress.advance(len(rows))
        return [None] * len(rows)
    path = None if folder is None else folder / f"{_key(rows)}.json"
    words = None if path is None else _read(path, len(rows))
    if words is None:
        words = []
        for row in rows:
            words.append("\n".join(filter(None, (_words(picture, pixel_limit) for picture in row))) or None)
            progress.advance()
        if path is not None:
            with suppress(OSError):  # a cache that cannot be written costs time, and no run
                path.parent.mkdir(parents=True, exist_ok=True)
                write_text(path, json.dumps(words, ensure_ascii=False))
    else:
        progress.advance(len(rows))
    return words


def _key(rows: Sequence[list[Encoded]]) -> str:
    """Return what is hashed of pictures, and of what reads them."""
    digest = blake2b(f"{_FORMAT} {_SIDE} {_version()}".encode(), digest_size=16)
    for row in rows:
        digest.update(f"row {len(row)}".encode())
        for picture in row:
            digest.update(_digest(picture))
    return digest.hexdigest()


def _digest(picture: Encoded) -> bytes:
    """Return what is hashed of a picture."""
    return blake2b(picture.content, key=str(picture.frame).encode(), digest_size=16).digest()


def _read(path: Path, count: int) -> list[str | None] | None:
    try:
        words = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    alike = isinstance(words, list) and len(words) == count and all(w is None or isinstance(w, str) for w in words)
    return words if alike else None


def _words(picture: Encoded, pixel_limit: int) -> str:
    """Return the words in a picture, from top to bottom, or nothing."""
    digest = _digest(picture)
    with _ASKED:
        if (known := _RECENT.get(digest)) is not None:
            return known
        try:
            with opened(picture, pixel_limit) as image:
                pixels = load_pixels(image, picture, (_SIDE, _SIDE), 255)
        except ImageError:
            return ""
        said = _reader(torch.get_num_threads())(np.ascontiguousarray(_no_strip(pixels)[..., ::-1]))  # blue first
        if len(_RECENT) >= _REMEMBERED:
            _RECENT.clear()
        words = _RECENT[digest] = " ".join(said.txts or ())
    return words


def _no_strip(pixels: Pixels) -> Pixels:
    """Return a picture with white below or beside it, where it is a strip."""
    height, width = pixels.shape[:2]
    least = -(-max(height, width) // _STRIP)
    more = (max(0, least - height), max(0, least - width))
    return np.pad(pixels, ((0, more[0]), (0, more[1]), (0, 0)), constant_values=255) if any(more) else pixels


@lru_cache(maxsize=1)
def _version() -> str:
    """Return the installed version of what reads words.

    Raises:
        UserError: If there is none.
    """
    try:
        return importlib.metadata.version(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        raise UserError(
            "words in pictures are read by RapidOCR, which is not installed: pip install 'fusetune[ocr]'"
        ) from None


@lru_cache(maxsize=1)
def _reader(threads: int) -> Any:
    _version()
    library: Any = import_module(PACKAGE)  # two seconds that only those pay who ask for it
    how = {
        "Global.log_level": "critical",
        # Small pictures are not enlarged, which made them four times as dear.
        "Det.limit_type": "max",
        "Det.limit_side_len": _SIDE,
        "EngineConfig.onnxruntime.intra_op_num_threads": threads,
        "EngineConfig.onnxruntime.inter_op_num_threads": 1,
    }
    return library.RapidOCR(params=how)
