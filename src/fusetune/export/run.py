"""Predict rows with an exported model: python run.py rows.csv   (or rows.json, rows.jsonl; see README.md beside this).

Needs Python 3.11, numpy and onnxruntime, for texts tokenizers, for pictures Pillow, and the files beside it:
`model.onnx` turns prepared inputs, and which of them are present, into probabilities; `preprocess.json` says how they
are prepared; `pictures.py` prepares pictures. What cannot be prepared as it was for training is refused, never guessed.
"""

import argparse
import csv
import importlib
import importlib.util
import io
import json
import math
import re
import sys
import unicodedata
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
DATE = re.compile(r"\d{4}-\d\d-\d\d([ T]\d\d:\d\d(:\d\d(\.\d{1,6})?)?(Z|[+-]\d\d:\d\d)?)?", re.ASCII)
YES, NO = {"true", "yes", "y", "t", "1", "1.0"}, {"false", "no", "n", "f", "0", "0.0"}
Row = dict[str, Any]
csv.field_size_limit(2**31 - 1)  # of a cell; the usual 131,072 letters are fewer than texts may have
FEW = 8  # rows at a time: of more, one long text makes all others wait, and a core has no room for their pixels
FARTHEST = 1e9  # standard deviations; a number beyond says nothing


class RefusedError(ValueError):
    """What stands in a row cannot be prepared as the model was trained."""


class Runner:
    """An exported model: `predict` takes rows as dictionaries; `folder` is where relative paths of pictures start."""

    def __init__(self, home: Path, threads: int = 0) -> None:
        facts: dict[str, Any] = json.loads((home / "preprocess.json").read_text("utf-8"))
        self.facts, self.inputs, self.classes = facts, facts["inputs"], facts["classes"]
        self.texts = {one["name"]: _tokenizer(home, one) for one in self.inputs if one["kind"] == "text"}
        self.pictures: Any = _pictures(home) if any(one["kind"] == "image" for one in self.inputs) else None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self.session = onnxruntime.InferenceSession(str(home / "model.onnx"), options)
        self.wanted = [node.name for node in self.session.get_inputs()]

    def predict(self, rows: list[Row], folder: Path = Path(), csv_words: bool = False) -> list[Row]:
        """Return a prediction per row; `csv_words`: the cells come from a file that has no other way to say nothing."""
        pieces = [self._some(rows[at : at + FEW], at, folder, csv_words) for at in range(0, len(rows), FEW)]
        return [line for piece in pieces for line in piece]

    def _some(self, rows: list[Row], start: int, folder: Path, csv_words: bool) -> list[Row]:
        fed: dict[str, Any] = {}
        notes: list[list[str]] = [[] for _ in rows]
        for place, one in enumerate(self.inputs):
            read = getattr(self, f"_{one['kind']}")
            cells = [{name: self._cell(row.get(name), csv_words) for name in one["columns"]} for row in rows]
            parts = []
            for number, (values, row, said) in enumerate(zip(cells, rows, notes, strict=True)):
                try:
                    parts.append(read(one, values, row, folder, said))
                except (ValueError, OverflowError) as error:
                    raise RefusedError(f"row {start + number}, input '{one['name']}': {error}") from error
            named = _texts_together(one, parts) if one["kind"] == "text" else _together(parts)
            fed |= {f"{name}_{place}": values for name, values in named.items()}
        bare = ~np.any([fed[f"present_{place}"] for place in range(len(self.inputs))], axis=0)
        for at in np.flatnonzero(bare):
            notes[at].append("no input is present, only class frequencies are left")
        found = self.session.run(["probabilities"], {name: fed[name] for name in self.wanted})[0]
        for at in np.flatnonzero(~np.isfinite(found).all(1)):
            raise RefusedError(f"row {start + int(at)}: the model gives no finite answer")
        return [self._line(*three) for three in zip(rows, found, notes, strict=True)]

    def _line(self, row: Row, p: Any, said: list[str]) -> Row:
        first = {"row_id": row.get(self.facts["id"])} if self.facts["id"] else {}
        if self.facts.get("target") == "regression":
            return {**first, "prediction": float(p[0]), "problem": "; ".join(said)}
        rule, best = self.facts["decision"] or {}, int(p.argmax())
        if "positive" in rule:  # of two classes, judged with a threshold
            best = rule["positive"] if p[rule["positive"]] >= rule["threshold"] else 1 - rule["positive"]
        shares = {f"p({label})": float(share) for label, share in zip(self.classes, p, strict=True)}
        top = {"prediction": self.classes[best], "probability": float(p[best])}
        if self.facts.get("target") == "multilabel":
            limits = rule.get("thresholds") or [math.nextafter(0.5, 1)] * len(p)
            named = zip(self.classes, p, limits, strict=True)
            top = {"prediction": ";".join(str(name) for name, own, limit in named if own >= limit)}
        return {**first, **top, **shares, "problem": "; ".join(said)}

    def _cell(self, value: Any, csv_words: bool) -> Any:
        empty = _is_missing(value) or (csv_words and value in self.facts["missing_words"])
        return None if empty else value

    def _text(self, one: Any, cells: Any, row: Any, folder: Path, said: list[str]) -> Any:
        value = cells[one["columns"][0]]
        if value is not None and not isinstance(value, str):
            raise RefusedError(f"{value!r:.60} is no text")
        return self.texts[one["name"]].encode(value.strip()).ids if value else []

    def _vector(self, one: Any, cells: Any, row: Any, folder: Path, said: list[str]) -> Any:
        values = list(cells.values())
        if len(values) == 1 and not isinstance(values[0], int | float):
            words = values[0].strip("[] \n").replace(",", " ").split() if isinstance(values[0], str) else values[0]
            values = words or [None] * len(one["mean"])
        if len(values) != len(one["mean"]):
            raise RefusedError(f"{len(values)} numbers, the model knows {len(one['mean'])}")
        scaled = (np.array([_number(value) for value in values]) - one["mean"]) / np.array(one["std"])
        here = bool((np.abs(scaled) <= FARTHEST).all())
        if not here and any(value is not None for value in cells.values()):
            said.append(f"{one['name']}: numbers are missing or far from any learnt, so it counts as absent")
        return {"values": np.where(here, scaled, 0).astype(np.float32), "present": here}

    def _columns(self, one: Any, cells: Any, row: Any, folder: Path, said: list[str]) -> Any:
        numbers = []
        for scale in one["numbers"]:
            value, what = cells[scale["column"]], scale["kind"]
            number = math.nan if value is None else {"number": _number, "boolean": _truth, "date": _day}[what](value)
            angle = 2 * np.pi * number / 365.2425
            number = {"season, sine": np.sin(angle), "season, cosine": np.cos(angle)}.get(scale["part"], number)
            scaled = (number - scale["mean"]) / scale["std"]
            numbers.append(scaled if abs(scaled) <= FARTHEST else math.nan)
            if value is not None and math.isnan(numbers[-1]) and not scale["part"].startswith("season"):
                said.append(f"{scale['column']}: {value!r:.60} is no {what} near those learnt and counts as missing")
        names = self.facts["missing_words"]
        codes = [_code(words, row.get(words["column"]), names, said) for words in one["categories"]]
        scaled, missing = np.array(numbers, np.float32), np.isnan(np.array(numbers, float))
        parts = {"numbers": np.where(missing, np.float32(0), scaled), "missing": missing}
        present = bool((~missing).any() or any(codes))
        return {**parts, "codes": np.array(codes, np.int64), "present": present}

    def _image(self, one: Any, cells: Any, row: Any, folder: Path, said: list[str]) -> Any:
        blank, path = np.zeros((one["side"], one["side"], 3), np.uint8), cells[one["columns"][0]]
        if path is None:
            return {"pixels": blank, "present": False}
        if not isinstance(path, str) or "://" in path or "#frame=" in path or path.startswith("data:"):
            raise RefusedError(f"{path!r:.80}: only paths of picture files are read here")
        place = (folder / path.strip()).resolve()
        if one["confined"] and not place.is_relative_to(folder.resolve()):
            said.append(f"{one['name']}: {path}: it is outside the table's folder")
            return {"pixels": blank, "present": False}
        try:
            pixels = self.pictures.square(place, one, _number(row.get(one["spacing"])))
        except (self.pictures.RefusedError, MemoryError):
            raise
        except Exception as error:  # damaged files raise whatever the parser of their format happens to raise
            said.append(f"{one['name']}: {path}: {error}")
            return {"pixels": blank, "present": False}
        return {"pixels": pixels, "present": True}


def _is_missing(value: Any) -> bool:
    return (
        value is None
        or (isinstance(value, float) and math.isnan(value))
        or (isinstance(value, str) and not value.strip())
    )


def _number(value: Any) -> float:
    if isinstance(value, str):
        value = float(value) if NUMBER.fullmatch(value.strip()) else math.nan
    number = float(value) if isinstance(value, int | float) else math.nan
    return number if abs(number) <= float(np.finfo(np.float32).max) else math.nan


def _truth(value: Any) -> float:
    word = str(value).strip().lower()
    return 1.0 if word in YES else 0.0 if word in NO else math.nan


def _day(value: Any) -> float:
    if not isinstance(value, str) or not DATE.fullmatch(value.strip()):
        raise RefusedError(f"{value!r:.60}: dates are read as year-month-day here, such as 2020-12-31")
    moment = datetime.fromisoformat(value.strip().replace("Z", "+00:00"))
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    days = (moment - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() / 86400
    return days if abs(days) <= 106751 else math.nan


def _code(words: Any, value: Any, missing: list[str], said: list[str]) -> int:
    """Return the code of a category: 0 missing, 1 never learnt, from 2 on those that were."""
    known, name = words["categories"], words["column"]
    if _is_missing(value):
        return 0
    if isinstance(value, list | dict):
        raise RefusedError(f"'{name}' holds a {type(value).__name__}, which is no category")
    if words["exact"] and isinstance(value, int | float) and not isinstance(value, bool):
        raise RefusedError(
            f"'{name}' holds the number {value}, but its categories are words such as {known[:3]}; quote it"
        )
    value = int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 2**53 else value
    word = tidy(str(value))
    if known and all(one.lower() in ("true", "false") for one in known):
        word = word.capitalize()
    elif not words["exact"]:
        word = re.sub(r"^(-?\d+)\.0+$", r"\1", word)
    if word in known:
        return int(known.index(word)) + 2
    if not word or word in missing:
        return 0
    twin = [one for one in known if NUMBER.fullmatch(word) and NUMBER.fullmatch(one) and float(one) == float(word)]
    if twin and words["exact"] is not None and not words["twins"]:
        raise RefusedError(f"'{name}' holds '{word}', but the model learnt '{twin[0]}': zeros were lost or added")
    said.append(f"{name}: '{word:.60}' is no category that was learnt")
    return 1


def tidy(word: str) -> str:
    """Return a word without what nobody sees: accents composed, no spaces at its ends."""
    plain = unicodedata.normalize("NFC", re.sub("[\u200b\u2060\ufeff]", "", word))
    return plain.replace("\u00a0", " ").strip()


def _pictures(home: Path) -> Any:
    spec: Any = importlib.util.spec_from_file_location("pictures", home / "pictures.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _tokenizer(home: Path, one: Any) -> Any:
    tokenizer = importlib.import_module("tokenizers").Tokenizer.from_file(str(home / one["tokenizer"]))
    tokenizer.no_padding()
    tokenizer.enable_truncation(one["max_tokens"])
    return tokenizer


def _texts_together(one: Any, texts: list[list[int]]) -> dict[str, Any]:
    longest = max(1, *map(len, texts))
    ids = np.array([text + [one["pad"]] * (longest - len(text)) for text in texts], np.int64)
    mask = np.arange(longest) < np.array([len(text) for text in texts])[:, None]
    return {"ids": ids, "mask": mask, "present": mask.any(1)}


def _together(parts: list[dict[str, Any]]) -> dict[str, Any]:
    return {name: np.stack([np.asarray(part[name]) for part in parts]) for name in parts[0]}


def read_rows(path: Path) -> tuple[list[dict[str, Any]], bool]:
    """Return the rows of a CSV, JSON (a list of objects) or JSON Lines file, and whether all its cells are words."""
    if path.suffix.lower() not in (".csv", ".json", ".jsonl"):
        raise RefusedError(f"{path}: a table ends in .csv, .json or .jsonl")
    text = path.read_text("utf-8-sig")
    if path.suffix.lower() == ".csv":
        table = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        rows: list[dict[str, Any]] = list(table)
        names = [tidy(name) for name in table.fieldnames or []]
        if len(set(names)) < len(names) or any(None in row or None in row.values() for row in rows):
            raise RefusedError(f"{path}: two columns share a name, or a row has more or fewer cells than the header")
    elif path.suffix.lower() == ".json":
        rows = json.loads(text)
    else:
        rows = [json.loads(line) for line in text.split("\n") if line.strip()]
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise RefusedError(f"{path} holds no rows: a header and lines, or a list of JSON objects")
    return [{tidy(name): value for name, value in row.items()} for row in rows], path.suffix.lower() == ".csv"


def _tamed(value: Any) -> Any:
    """Put an apostrophe before words that a spreadsheet would run as a formula."""
    runs = isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) and not NUMBER.fullmatch(value)
    return f"'{value}" if runs else value


def main() -> int:
    """Read a table, print predictions; 0 done, 2 wrong input."""
    parser = argparse.ArgumentParser(description="Predict the rows of a table with this exported model.")
    parser.add_argument(
        "table", type=Path, help=".csv, .json (list of objects) or .jsonl; pictures by path from its folder"
    )
    parser.add_argument("--json", action="store_true", help="print JSON Lines in the place of CSV")
    parser.add_argument("--threads", type=int, default=0, help="0: as many as ONNX Runtime chooses")
    asked = parser.parse_args()
    try:
        rows, csv_words = read_rows(asked.table)
        runner = Runner(Path(__file__).resolve().parent, asked.threads)
        columns = [name for one in runner.inputs for name in one["columns"]]
        columns += [one["spacing"] for one in runner.inputs if one.get("spacing") and one["spacing"] not in columns]
        if absent := [name for name in columns if not any(name in row for row in rows)]:
            if len(absent) == len(columns):
                raise RefusedError(f"{asked.table} has none of the columns {', '.join(columns)}")
            print(f"warning: no column {', '.join(absent)}: it counts as missing in every row", file=sys.stderr)
        found = runner.predict(rows, asked.table.resolve().parent, csv_words)
    except (ValueError, OverflowError, OSError, csv.Error) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if asked.json:
        print("\n".join(json.dumps(line, ensure_ascii=False) for line in found))
    else:
        writer = csv.DictWriter(sys.stdout, list(found[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: _tamed(value) for name, value in line.items()} for line in found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
