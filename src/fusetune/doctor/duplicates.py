"""Copies: rows, pictures and texts that occur more than once, within a part or, which spoils scores, across parts.

A split that is made afterwards keeps rows together that are equal in every input or share a picture (`numbered`).
"""

from __future__ import annotations

from dataclasses import replace
from hashlib import blake2b, file_digest
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from fusetune.data.carried import are_pictures
from fusetune.data.choices import Kind
from fusetune.data.imprint import content_of
from fusetune.data.paths import FRAME
from fusetune.data.spelling import as_words
from fusetune.data.split import PARTS
from fusetune.data.words import finite_numbers
from fusetune.doctor.examined import Codes, Examined, Names
from fusetune.doctor.findings import Finding, Severity
from fusetune.doctor.hashes import Hashes, column_hashes, combined, equal_sets
from fusetune.doctor.images import Pictures
from fusetune.doctor.near import Set, linked, near_sets
from fusetune.doctor.several import apart, row_hashes, sharing_same
from fusetune.doctor.texts import Texts, look_at_texts

# Kind of finding -> columns -> sets of rows that are copies of each other there; whole rows have no column.
Copies = dict[str, dict[Names, list[Set]]]
# Shorter texts ("chest pain", "red shoes") are the same in many rows without being copies of one another.
_WORDS = 5
# With more repeats than this, cells are so coarse that rows agree by chance: (age, sex) alone makes no copy.
_COARSE = 0.05
# Rows that are equal in every input, of whatever kind: no finding, but kept together. And all that is.
_EQUAL = "equal_inputs"
_TOGETHER = (_EQUAL, "duplicate_rows", "duplicate_images", "near_duplicate_images", "similar_images")
# Sets of rows that evidence spells out, and those whose parts or labels it does; `rows` always holds every one.
_SETS, _DETAILS = 100, 20
_DIFFER = " and differ in other inputs"
_UNFAIR = "the model has seen the answer: drop one side, or put both on the same side of the split"
_SIMILAR = "look at them: if they show the same thing, put both on the same side of the split; else leave them"
_OFTEN = "keep one of each; otherwise it counts more than once, and a split by row puts it on both sides"


# What is said of a kind everywhere, and added of rows in one part that are no copies in whole; severity and remedy
# there; and severity and remedy across parts.
_FAMILIES: dict[str, tuple[str, str, Severity, str, Severity, str]] = {
    "duplicate_rows": ("rows are equal in every input", "", "warn", _OFTEN, "error", _UNFAIR),
    "duplicate_images": ("rows share a picture in '{}', pixel for pixel,", _DIFFER, "warn", _OFTEN, "error", _UNFAIR),
    "near_duplicate_images": ("rows have almost the same picture in '{}'", "", "warn", _OFTEN, "error", _UNFAIR),
    "similar_images": (
        "rows have similar pictures in '{}'",
        "",
        "info",
        _SIMILAR,
        "warn",
        _SIMILAR,
    ),
    "duplicate_texts": ("rows share their text in '{}'", _DIFFER, "info", "look at the examples", "warn", _UNFAIR),
}


def find_copies(examined: Examined, pictures: list[Pictures], texts: list[Texts]) -> Copies:
    """Find all copies; nothing here depends on the split."""
    near = {(p.column,): p.alike(near_sets, examined.labels) for p in pictures}
    return {
        "duplicate_rows": {(): _equal_rows(examined, pictures, texts)},
        "duplicate_images": {(p.column,): p.equal() for p in pictures},
        "near_duplicate_images": {column: sets for column, (sets, _) in near.items()},
        "similar_images": {column: sets for column, (_, sets) in near.items()},
        "duplicate_texts": {(t.column,): equal_sets(t.hashes, t.words >= _WORDS) for t in texts},
        _EQUAL: {(): _equal_inputs(examined, [p.contents for p in pictures], texts)},
    }


def find_plain_copies(examined: Examined) -> Copies:
    """Find rows that are equal in every input or share a picture's file, without decoding any picture."""
    texts = [look_at_texts(examined, name) for name in examined.columns(Kind.TEXT)]
    files: dict[str, Hashes] = {}
    sets: dict[Names, list[Set]] = {}
    for name in examined.columns(Kind.IMAGE):
        if name in examined.several:
            places = apart(examined, name)
            each = replace(examined, table=places.table)
            hashes = _file_hashes(each, name)
            files[name], sets[(name,)] = row_hashes(places, hashes), sharing_same(places, hashes, _there(each, name))
        else:
            files[name] = _file_hashes(examined, name)
            sets[(name,)] = equal_sets(files[name], _there(examined, name))
    return {"duplicate_images": sets, _EQUAL: {(): _equal_inputs(examined, list(files.values()), texts)}}


def numbered(copies: Copies, rows: int) -> Codes:
    """Return the number of the set of copies that each row is in, -1 for none; copies of copies are in one set."""
    sets = [members for kind in _TOGETHER for family in copies.get(kind, {}).values() for members in family]
    numbers = np.full(rows, -1, dtype=np.int64)
    if sets:
        pairs = np.concatenate([np.stack([np.full(len(rest := members[1:]), members[0]), rest], 1) for members in sets])
        for number, members in enumerate(linked(pairs, rows)):
            numbers[members] = number
    return numbers


def _equal_inputs(examined: Examined, pictures: list[Hashes], texts: list[Texts]) -> list[Set]:
    """Return sets of rows that are equal in every input, unless inputs are so coarse that many agree by chance."""
    names = [*examined.cells, *(name for vector in examined.vectors for name in vector)]
    cells = {name: _cell_hashes(examined, name) for name in names}
    parts = [*pictures, *(text.hashes for text in texts), *cells.values()]
    if not parts:
        return []
    hashes, rows = combined(parts), len(examined.ids)
    sets = equal_sets(hashes, np.ones(rows, dtype=bool))
    if not sets:
        return []
    # Each set once, or copies would vouch for being chance. Of two rows, columns are taken to agree independently.
    once = np.unique(hashes, return_index=True)[1]
    chance = np.prod([_agreement(part[once]) for part in [*pictures, *(text.hashes for text in texts)]])
    for name, part in cells.items():
        number = examined.schema.kind_of(name) is Kind.NUMBER
        chance *= _agreement(part[once], finite_numbers(examined.table.column(name)) if number else None)
    return sets if chance * rows * (rows - 1) / 2 <= _COARSE * rows else []


def _agreement(hashes: Hashes, numbers: npt.NDArray[np.float64] | None = None) -> float:
    """Return how probably two rows agree in a column: as often as pairs do, and as there are values to choose from."""
    counts = np.unique(hashes, return_counts=True)[1].astype(np.float64)
    values = float(len(counts))
    if numbers is not None and len(steps := np.diff(np.unique(numbers[np.isfinite(numbers)]))):
        values = max(1.0, float(steps.sum() / steps.min()))  # as many as fit in at the finest step that is seen
    rows = max(2, len(hashes))
    return max(float((counts * (counts - 1)).sum() / (rows * (rows - 1))), 1 / values)


def _cell_hashes(examined: Examined, name: str) -> Hashes:
    """Return a hash per cell of what it means: numbers as numbers, others as tidy words, whatever carries them."""
    series, kind = examined.table.column(name), examined.schema.kind_of(name)
    if kind is Kind.VECTOR or (series.dtype == object and series.map(np.ndim).gt(0).any()):
        return column_hashes(series)
    numbers = finite_numbers(series) if kind is Kind.NUMBER else np.full(len(series), np.nan)
    words = as_words(series[np.isnan(numbers)].reset_index(drop=True))
    hashes = column_hashes(pd.Series(numbers))
    hashes[np.isnan(numbers)] = column_hashes(words)
    return hashes


def _file_hashes(examined: Examined, name: str) -> Hashes:
    """Return a hash of what each path leads to; only files of equal size can be equal, so only these are read."""
    words, root = _files(examined, name), examined.table.root
    size = pd.Series({word: _size(root / word) for word in words.dropna().unique()}, dtype="int64")
    shared = size[size.duplicated(keep=False) & (size >= 0)].index
    contents = {word: _content(root / word) or word for word in shared}
    return column_hashes(words.map(lambda word: contents.get(word, word), na_action="ignore").astype("str"))


def _there(examined: Examined, name: str) -> npt.NDArray[np.bool_]:
    """Return which rows name a picture that there may be: nobody knows what a lost file showed."""
    words, root = _files(examined, name), examined.table.root
    lost = [word for word in words.dropna().unique() if ":" not in word and _size(root / FRAME.sub("", word)) < 0]
    return (words.notna() & ~words.isin(lost)).to_numpy(dtype=bool)


def _files(examined: Examined, name: str) -> pd.Series:
    """Return the path of each picture, or, where the cells are pictures themselves, a hash of its content."""
    cells = examined.table.column(name)
    if are_pictures(cells):
        hashed = cells.map(lambda cell: cell if isinstance(cell, str) else blake2b(content_of(cell)).hexdigest() + ":")
        return hashed.where(cells.notna()).astype("str")
    return as_words(cells)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size if path.is_file() else -1
    except (OSError, ValueError):  # no path, or none that may be looked at
        return -1


def _content(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file_digest(file, "blake2b").hexdigest()
    except OSError:
        return ""


def _equal_rows(examined: Examined, pictures: list[Pictures], texts: list[Texts]) -> list[Set]:
    """Return sets of rows with equal inputs, of which at least one is too rich to be equal by chance."""
    table, vectors = examined.table, examined.vectors
    parts = [p.contents for p in pictures] + [t.hashes for t in texts]
    parts += [combined([_cell_hashes(examined, name) for name in names]) for names in vectors]
    # Nobody knows what a broken file showed: two rows that name one are not known to be copies.
    rich = [p.read for p in pictures] + [t.words >= _WORDS for t in texts]
    rich += [table.frame[names].notna().any(axis=1).to_numpy() for names in vectors]
    # Of cells alone, the whole record must be equal, also in columns that are no input.
    record = [c.name for c in examined.schema.columns if c.role not in ("id", "split", "label", "weight")]
    parts += [_cell_hashes(examined, name) for name in (examined.cells if rich else record)]
    if not parts:
        return []
    sets = equal_sets(combined(parts), np.any(rich, axis=0) if rich else np.ones(len(table), dtype=bool))
    return sets if rich or sum(len(rows) - 1 for rows in sets) <= _COARSE * len(table) else []


def copy_findings(examined: Examined, copies: Copies) -> list[Finding]:
    """Return findings about copies within a part, or anywhere while there is no split."""
    findings = []
    for kind in _FAMILIES:
        for columns, sets in _telling(copies, kind).items():
            # Of copies with different labels nobody knows which one to keep: they are the finding `conflicting_labels`.
            agreeing = [rows for rows in sets if kind != "duplicate_rows" or not _differ(examined.labels, rows)]
            findings += _within(examined, agreeing, kind, columns)
    return findings + _conflicts(examined, copies)


def copy_findings_across(examined: Examined, copies: Copies) -> list[Finding]:
    """Return findings about copies that are on both sides of the split."""
    parts, findings = examined.parts, []
    assert parts is not None  # callers ask only where there is a split
    for kind, (shared, _, _, _, severity, remedy) in _FAMILIES.items():
        for columns, sets in _telling(copies, kind).items():
            inside = [rows[parts[rows] >= 0] for rows in sets]
            apart = [rows for rows in inside if len(np.unique(parts[rows])) > 1]
            what = f"{shared.format(*columns)} and are in different parts"
            across = _about(examined, apart, f"{kind}_across_parts", columns, what, severity, remedy)
            for finding in across:
                finding.evidence["parts"] = [[PARTS[parts[row]] for row in rows] for rows in apart[:_DETAILS]]
            findings += across
    return findings


def _within(examined: Examined, sets: list[Set], kind: str, columns: Names) -> list[Finding]:
    parts, groups, (shared, beyond, severity, remedy, *_) = examined.parts, examined.groups, _FAMILIES[kind]
    what = shared.format(*columns) + beyond
    if parts is not None:
        sets = [some for rows in sets for code in (-1, 0, 1, 2) if len(some := rows[parts[rows] == code]) > 1]
    if groups is None or kind == "duplicate_rows":
        return _about(examined, sets, kind, columns, what, severity, remedy)
    # Pictures and texts of one patient or video belong together, and the split keeps them together.
    one = [len(np.unique(groups[rows])) == 1 for rows in sets]
    apart, same = ([rows for rows, alone in zip(sets, one, strict=True) if alone == it] for it in (False, True))
    other, nothing = f"{what}, though they are of different groups", "nothing: whole groups are split together"
    return [
        *_about(examined, apart, kind, columns, other, severity, remedy),
        *_about(examined, same, kind, columns, f"{what}, within one group", "info", nothing),
    ]


def _about(
    examined: Examined, sets: list[Set], kind: str, columns: Names, what: str, severity: Severity, remedy: str
) -> list[Finding]:
    # A row may contradict others in several pictures.
    rows = list(dict.fromkeys(row for members in sets for row in members.tolist()))
    evidence = {"sets": [list(examined.names(members)) for members in sets[:_SETS]], "set_count": len(sets)}
    return examined.about(kind, severity, what, remedy, rows, columns, **evidence)


def _conflicts(examined: Examined, copies: Copies) -> list[Finding]:
    labels = examined.labels
    if labels is None:
        return []
    families = [*copies["duplicate_rows"].values(), *_telling(copies, "duplicate_images").values()]
    sets = [rows for family in families for rows in family if _differ(labels, rows)]
    what = "rows are equal in every input or in a picture, and have different labels"
    remedy = "correct the labels that are wrong; a model can only be right about one of them"
    findings = _about(examined, sets, "conflicting_labels", examined.column_of("label"), what, "warn", remedy)
    for finding in findings:
        finding.evidence["labels"] = [[examined.classes[labels[row]] for row in rows] for rows in sets[:_DETAILS]]
    return findings


def _differ(labels: Codes | None, rows: Set) -> bool:
    return labels is not None and len(np.unique(labels[rows][labels[rows] >= 0])) > 1


def _telling(copies: Copies, kind: str) -> dict[Names, list[Set]]:
    """Return the sets that say more than that whole rows are copies, where that is asked of a kind."""
    if not _FAMILIES[kind][1]:
        return copies[kind]
    whole = {row for rows in copies["duplicate_rows"][()] for row in rows}
    return {names: [rows for rows in sets if not whole.issuperset(rows)] for names, sets in copies[kind].items()}


def spare(examined: Examined, sets: list[Set]) -> Set:
    """Return all rows of sets but one each: the one that stays is a test row, else a validation row, else the first."""
    parts = np.zeros(len(examined.ids), dtype=np.int64) if examined.parts is None else examined.parts
    kept = [rows[np.argmax(parts[rows])] for rows in sets]
    return np.setdiff1d(np.concatenate(sets), np.array(kept)) if sets else np.empty(0, dtype=np.int64)
