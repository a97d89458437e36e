"""The body of a request as rows and files: JSON that says nothing twice and no NaN, or a multipart form."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, NoReturn

from starlette.requests import Request

from fusetune.data.choices import Kind
from fusetune.data.schema import Schema
from fusetune.errors import clipped
from fusetune.serve.multipart import Part, parts_of
from fusetune.serve.refusal import RefusedError
from fusetune.serve.rows import Asked

_PLACE = re.compile(r"(.+)\[(\d{1,6})\]", re.DOTALL)
ROWS = "rows"


def parsed(content: bytes) -> Any:
    """Read one JSON value.

    Raises:
        RefusedError: If it is none, names a key of an object twice (one would be lost), or says NaN or Infinity.
    """
    try:
        return json.loads(content.decode("utf-8"), object_pairs_hook=_once, parse_constant=_no_number)
    except UnicodeDecodeError as error:
        raise RefusedError(400, f"the body is not UTF-8 (byte {error.start})") from error
    except RecursionError as error:
        raise RefusedError(400, "the JSON has too many lists within lists") from error
    except ValueError as error:
        raise RefusedError(400, f"the body is not the JSON that is needed: {clipped(str(error), 200)}") from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"an object names '{clipped(twice, 60)}' twice")
    return content


def _no_number(word: str) -> NoReturn:
    raise ValueError(f"{word} is no JSON; send null for what is missing")


def asked_in(content: bytes) -> Asked:
    """Return the rows of a JSON body ``{"rows": [{...}, ...]}``.

    Raises:
        RefusedError: If it is anything else.
    """
    body = parsed(content)
    if not isinstance(body, dict) or set(body) != {ROWS} or not isinstance(body[ROWS], list):
        raise RefusedError(422, 'the body must be {"rows": [{"COLUMN": VALUE, ...}, ...]} and nothing else')
    return Asked(body[ROWS], {})


def media_type(request: Request) -> str:
    """Return what the body is said to be, without parameters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def form_of(content: bytes, content_type: str, schema: Schema) -> Asked:
    """Return the rows of a multipart form.

    A part `rows` holds the JSON list of rows; without it each part is a cell of one row. A file is the picture of the
    column that it is called after, of the first row or of the row in brackets (`scan[2]`), or one that a cell names
    (`upload:NAME`).

    Raises:
        RefusedError: If the form cannot be read, or a part cannot be placed.
    """
    words: dict[str, str] = {}
    files: dict[str, bytes] = {}
    for part in parts_of(content, content_type):
        if part.name in words or part.name in files:
            raise RefusedError(422, f"the form has two parts called '{clipped(part.name, 60)}'")
        if part.file:
            files[part.name] = part.content
        else:
            words[part.name] = _word(part)
    return _arranged(words, files, schema)


def _word(part: Part) -> str:
    try:
        return part.content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RefusedError(400, f"the part '{clipped(part.name, 60)}' is not UTF-8 (byte {error.start})") from error


def _arranged(words: Mapping[str, str], files: Mapping[str, bytes], schema: Schema) -> Asked:
    said = files.get(ROWS, words[ROWS].encode() if ROWS in words else None)
    files = {name: content for name, content in files.items() if name != ROWS}
    if said is not None:
        rows = parsed(said)
        if others := sorted(set(words) - {ROWS}):
            raise RefusedError(422, f"beside the part 'rows' there can be files only, not '{clipped(others[0], 60)}'")
        rows = [rows] if isinstance(rows, dict) else rows
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise RefusedError(422, "the part 'rows' must be a JSON list of objects")
    else:
        rows = [{name: value if value.strip() else None for name, value in words.items()}]
    pictures = {column.name for column in schema.inputs if column.kind is Kind.IMAGE}
    placed = [dict(row) for row in rows]
    for name in files:
        column, row = name, 0
        if column not in pictures and (match := _PLACE.fullmatch(name)) is not None:
            column, row = match[1], int(match[2])
        if column not in pictures:
            continue  # a cell may name it
        if row >= len(placed):
            raise RefusedError(422, f"the file '{clipped(name, 60)}' is of row {row}, and there are {len(placed)}")
        if placed[row].get(column) is not None:
            raise RefusedError(422, f"row {row} has two pictures for column '{column}'")
        placed[row][column] = files[name] or None  # a browser sends an empty file where none was chosen
    named = {str(cell).removeprefix("upload:") for row in placed for cell in row.values() if isinstance(cell, str)}
    for name in files:
        base = match[1] if (match := _PLACE.fullmatch(name)) else name
        if name not in pictures and base not in pictures and name not in named:
            raise RefusedError(422, f"the file '{clipped(name, 60)}' is no column of pictures, and no cell names it")
    return Asked(placed, files)
