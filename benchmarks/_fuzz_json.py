"""Made-up JSON Lines files, sound ones and damaged ones, with what was meant by them."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
from _fuzz_text import BYTES, DATES, NAMES, NUMBERS, WORDS, as_bytes, distinct, read_all
from _meant import equal, header_name
from _trials import Family, Generator, Trial, WrongError

_TOKENS: tuple[tuple[str, Any], ...] = (
    ("1", 1), ("-3", -3), ("40.5", 40.5), ("1.10", 1.1), ("1e3", 1000.0), ("9007199254740993", 9007199254740993),
    ("0.1", 0.1), ("-0.0", -0.0), ("1E400", float("inf")), ("12345678901234567890", 12345678901234567890),
    ("123456789012345678901234567890", 123456789012345678901234567890), ("0.30000000000000004", 0.30000000000000004),
    ("1577836800", 1577836800), ("1577836800000", 1577836800000), ("4.9e-324", 5e-324),
    ("-9223372036854775809", -(2**63) - 1), ("null", None), ("true", True), ("false", False), ("[1, 2, 3]", [1, 2, 3]),
    ("[0.5, null]", [0.5, None]), ("[]", []),
    ('{"a": 1}', {"a": 1}), ("{}", {}), ('["a"]', ["a"]), ("[[1], [2]]", [[1], [2]]),
    *(
        (json.dumps(word, ensure_ascii=plain), word)
        for word in (*WORDS, *NUMBERS, *DATES, "", "a\nb", "a\0b", "\x7f")
        for plain in (True, False)
    ),
)  # fmt: skip
_JSON_NAMES = (
    *NAMES,
    "date",
    "updated_at",
    "start_time",
    "timestamp",
    "modified",
    "a\nb",
    "",
    "été",
    "datetime",
    "created_on",
)
_ODD = {
    "broken off": '{"a": ', "no object": "[1, 2]", "only a word": '"word"', "a number": "3", "NaN": '{"id": NaN}',
    "infinity": '{"id": -Infinity}', "twice": '{"id": 1, "id": 2}', "surrogate": '{"id": "\\ud800"}',
    "comma": '{"id": 1},',
    "two": '{"id": 1}{"id": 2}', "array of rows": '[{"id": 1}, {"id": 2}]', "deep": "[" * 3000 + "]" * 3000,
    "single marks": "{'id': 1}", "comment": "// written by a program", "number": '{"id": 01}',
    "letters after": '{"id": 1} x',
}  # fmt: skip


def _scalars(kind: int) -> list[tuple[str, Any]]:
    kinds: list[Callable[[Any], bool]] = [
        lambda v: isinstance(v, str) or v is None,
        lambda v: isinstance(v, int | float) and not isinstance(v, bool) and -(2**53) < v < 2**53,
        lambda v: isinstance(v, bool) or v is None,
        lambda v: (isinstance(v, int) and not isinstance(v, bool)) or v is None,
        lambda v: isinstance(v, list),
    ]
    return [token for token in _TOKENS if kinds[kind](token[1])] if kind < len(kinds) else list(_TOKENS)


def open_json(folder: Path) -> Callable[[Generator], Trial]:
    """Return what makes a JSON Lines file."""
    pools = [_scalars(kind) for kind in range(6)]

    def make(generator: Generator) -> Trial:
        names = distinct([_JSON_NAMES[i] for i in generator.permutation(len(_JSON_NAMES))[: generator.integers(1, 5)]])
        kinds = {name: int(generator.choice([0, 0, 1, 1, 2, 3, 4, 5])) for name in names}
        missing = float(generator.choice([0, 0, 0.2]))
        lines, rows = [], list[dict[str, Any]]()
        for _ in range(generator.integers(1, 9)):
            chosen = {
                name: pools[kind][generator.integers(len(pools[kind]))]
                for name, kind in kinds.items()
                if generator.random() >= missing
            }
            chosen = chosen or {names[0]: ("1", 1)}
            lines.append("{" + ", ".join(f"{json.dumps(name)}: {text}" for name, (text, _) in chosen.items()) + "}")
            rows.append({name: value for name, (_, value) in chosen.items()})
        return _json_trial(generator, folder, lines, rows, kinds)

    return make


def _json_trial(
    generator: Generator, folder: Path, lines: list[str], rows: list[dict[str, Any]], kinds: dict[str, int]
) -> Trial:
    sound, note = all(kind in (0, 1, 2, 4) for kind in kinds.values()), "sound"
    sound = sound and "" not in kinds and not any(kind == 4 and name for name, kind in kinds.items())
    meant: list[dict[str, Any]] | None = rows
    if generator.random() < 0.3:
        note = list(_ODD)[generator.integers(len(_ODD))]
        lines.insert(int(generator.integers(len(lines) + 1)), _ODD[note])
        sound, meant = False, None
    if generator.random() < 0.2:
        lines.insert(int(generator.integers(len(lines) + 1)), ("", "  ")[generator.integers(2)])
        sound = False
    end = ("\n", "\n", "\r\n")[generator.integers(3)]
    data = (end.join(lines) + (end if generator.random() < 0.8 else "")).encode()
    if generator.random() < 0.15:
        how = [way for way in BYTES if way != "latin-1"][generator.integers(len(BYTES) - 1)]
        data, sound = as_bytes(data, data.decode(), how, generator, sound)
        meant, note = (meant if sound else None), f"{note}, {how}"
    path = folder / ("t.jsonl.gz" if ", gz" in note else ("t.jsonl", "t.ndjson")[generator.integers(2)])

    def use() -> None:
        path.write_bytes(data)
        _judge_json(path, data, meant)

    return Trial(use, sound, f"{note}; {data[:200]!r}")


def _judge_json(path: Path, data: bytes, meant: list[dict[str, Any]] | None) -> None:
    frame, said = read_all(path)
    if path.suffix == ".gz":
        data = gzip.decompress(data)
    try:
        lines = [line for line in data.decode("utf-8-sig").split("\n") if line.strip()]
        rows = meant if meant is not None else [json.loads(line) for line in lines]
    except ValueError as error:
        raise WrongError("read", f"no JSON Lines, and read without a word: {error}") from error
    if len(frame) != len(rows):
        raise WrongError("rows", f"{len(frame)} rows were read, the file has {len(rows)}")
    for place, row in enumerate(rows):
        if not isinstance(row, dict):
            raise WrongError("read", f"row {place} is no object, and was read without a word")
        if place not in said:
            _compare_row(frame, place, row)


def _compare_row(frame: pd.DataFrame, place: int, row: dict[str, Any]) -> None:
    truths = {header_name(name): truth for name, truth in row.items()}
    for name in {*map(header_name, frame.columns), *truths}:
        columns = [column for column in frame.columns if header_name(column) == name]
        value, truth = frame[columns[0]].iloc[place] if columns else None, truths.get(name)
        if not equal(value, truth):
            raise WrongError(
                "changed", f"row {place} of {name!r}: {truth!r} became {type(value).__name__} {str(value)[:80]!r}"
            )


JSON_LINES = [Family("json lines", open_json)]
