"""Copies: rows, pictures and texts that occur more than once, within a part or, which spoils scores, across parts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from fusetune.data.kinds import Kind
from fusetune.doctor.case import Case, Codes, part_name
from fusetune.doctor.findings import Finding, Severity, shown_sets
from fusetune.doctor.hashes import Pairs, column_hashes, combined, equal_sets, near_pairs
from fusetune.doctor.images import Pictures
from fusetune.doctor.texts import Texts

Set = npt.NDArray[np.int64]
# Thumbnails of a picture and of its re-encoded or resized copy correlate above .99; on medical scans of different
# people, whose difference hashes agree by chance of anatomy, they stayed below .97.
_ALIKE = 0.98
# A hash with few ones or zeros is that of an almost flat picture: such hashes agree without the pictures doing so.
_PLAIN = 6
# Shorter texts ("chest pain", "red shoes") are the same in many rows without being copies of one another.
_WORDS = 5
# With more repeats than this, cells are so coarse that rows agree by chance: (age, sex) alone makes no copy.
_COARSE = 0.05
_CHUNK = 50_000
_UNFAIR = "the model has seen the answer: drop one side, or put both on the same side of the split"
_OFTEN = "keep one of each; otherwise it counts more than once, and a split by row puts it on both sides"


@dataclass(frozen=True, eq=False)
class Copies:
    """Sets of rows that are copies of each other, in whole or in one input.

    Attributes:
        rows: Equal in every input.
        pictures: Equal in the pixels of an image column, by column.
        near: Almost equal in an image column, by column.
        texts: Equal in the words of a text column, by column.
    """

    rows: list[Set]
    pictures: dict[str, list[Set]]
    near: dict[str, list[Set]]
    texts: dict[str, list[Set]]


def find_copies(case: Case, pictures: list[Pictures], texts: list[Texts]) -> Copies:
    """Find all copies; nothing here depends on the split."""
    images = {p.column: equal_sets(p.pixels, p.usable) for p in pictures}
    return Copies(
        rows=_equal_rows(case, pictures, texts),
        pictures=images,
        near={p.column: _near_sets(p) for p in pictures},
        texts={t.column: equal_sets(t.hashes, t.words >= _WORDS) for t in texts},
    )


def _equal_rows(case: Case, pictures: list[Pictures], texts: list[Texts]) -> list[Set]:
    """Return sets of rows with equal inputs, of which at least one is too rich to be equal by chance."""
    vectors = [*case.schema.vectors.values(), *([name] for name in case.columns(Kind.VECTOR))]
    parts = [p.contents for p in pictures] + [t.hashes for t in texts]
    parts += [combined([column_hashes(case.table.column(name)) for name in names]) for names in vectors]
    # Nobody knows what a broken file showed: two rows that name one are not known to be copies.
    rich = [p.read for p in pictures] + [t.words >= _WORDS for t in texts]
    rich += [case.table.frame[names].notna().any(axis=1).to_numpy() for names in vectors]
    # Of cells alone, the whole record must be equal, also in columns that are no input.
    record = [c.name for c in case.schema.columns if c.role not in ("id", "split", "label")]
    parts += [column_hashes(case.table.column(name)) for name in (case.cells if rich else record)]
    if not parts:
        return []
    sets = equal_sets(combined(parts), np.any(rich, axis=0) if rich else np.ones(len(case.ids), dtype=bool))
    if not rich and sum(len(members) - 1 for members in sets) > _COARSE * len(case.ids):
        return []
    return sets


def _near_sets(pictures: Pictures) -> list[Set]:
    """Return sets of pictures that are alike but not equal, linked through pairs whose thumbnails agree as well."""
    ones = np.bitwise_count(pictures.hashes)
    rows = np.flatnonzero(pictures.usable & (ones >= _PLAIN) & (ones <= 64 - _PLAIN))
    # One row for each of equal pictures, so that copies do not multiply the pairs.
    _, first = np.unique(pictures.pixels[rows], return_index=True)
    rows = rows[np.sort(first)]
    pairs = rows[near_pairs(pictures.hashes[rows])]
    return _linked(pairs[_alike(pictures.thumbs, pairs)], len(pictures.hashes))


def _alike(thumbs: npt.NDArray[np.uint8], pairs: Pairs) -> npt.NDArray[np.bool_]:
    found = np.zeros(len(pairs), dtype=bool)
    for start in range(0, len(pairs), _CHUNK):
        chunk = pairs[start : start + _CHUNK]
        sides = [thumbs[chunk[:, side]].reshape(len(chunk), -1).astype(np.float32) for side in (0, 1)]
        left, right = (side - side.mean(1, keepdims=True) for side in sides)
        scale = np.sqrt((left**2).sum(1) * (right**2).sum(1))
        found[start : start + len(chunk)] = (left * right).sum(1) >= _ALIKE * np.maximum(scale, 1e-9)
    return found


def _linked(pairs: Pairs, rows: int) -> list[Set]:
    if not len(pairs):
        return []
    graph = coo_array((np.ones(len(pairs), dtype=np.int8), (pairs[:, 0], pairs[:, 1])), shape=(rows, rows))
    names = connected_components(graph, directed=False)[1].astype(np.uint64)
    use = np.zeros(rows, dtype=bool)
    use[pairs.ravel()] = True
    return equal_sets(names, use)


def copy_findings(case: Case, copies: Copies) -> list[Finding]:
    """Return findings about copies within a part, or anywhere while there is no split."""
    # Of copies with different labels nobody knows which one to keep: they are the finding `conflicting_labels`.
    agreeing = [rows for rows in copies.rows if case.labels is None or not _differ(case.labels[rows])]
    found = _within(case, agreeing, "duplicate_rows", (), "rows are equal in every input", "warn", _OFTEN)
    whole = {int(row) for members in copies.rows for row in members}
    for column, sets in copies.pictures.items():
        what = f"rows share a picture in '{column}', pixel for pixel, and differ in other inputs"
        found += _within(case, _beyond(sets, whole), "duplicate_images", (column,), what, "warn", _OFTEN)
    for column, sets in copies.near.items():
        what = f"rows have almost the same picture in '{column}'"
        found += _within(case, sets, "near_duplicate_images", (column,), what, "warn", _OFTEN)
    for column, sets in copies.texts.items():
        what = f"rows share their text in '{column}' and differ in other inputs"
        found += _within(case, _beyond(sets, whole), "duplicate_texts", (column,), what, "info", "look at the examples")
    return found + _conflicts(case, copies)


def copy_findings_across(case: Case, copies: Copies) -> list[Finding]:
    """Return findings about copies that are on both sides of the split."""
    found = _across(case, copies.rows, "duplicate_rows_across_parts", (), "rows are equal in every input", "error")
    whole = {int(row) for members in copies.rows for row in members}
    for column, sets in copies.pictures.items():
        what = f"rows share a picture in '{column}', pixel for pixel,"
        found += _across(case, _beyond(sets, whole), "duplicate_images_across_parts", (column,), what, "error")
    for column, sets in copies.near.items():
        what = f"rows have almost the same picture in '{column}'"
        found += _across(case, sets, "near_duplicate_images_across_parts", (column,), what, "error")
    for column, sets in copies.texts.items():
        what = f"rows share their text in '{column}'"
        found += _across(case, _beyond(sets, whole), "duplicate_texts_across_parts", (column,), what, "warn")
    return found


def _within(
    case: Case, sets: list[Set], kind: str, columns: tuple[str, ...], what: str, severity: Severity, remedy: str
) -> list[Finding]:
    parts = case.parts
    if parts is not None:
        sets = [
            s for members in sets for s in (members[parts[members] == code] for code in (-1, 0, 1, 2)) if len(s) > 1
        ]
    groups = case.groups
    if groups is not None and kind != "duplicate_rows":
        # Pictures and texts of one patient or video belong together, and the split keeps them together.
        apart = [members for members in sets if len(np.unique(groups[members])) > 1]
        same = [members for members in sets if len(np.unique(groups[members])) == 1]
        found = _finding(case, apart, kind, columns, f"{what}, though they are of different groups", severity, remedy)
        return found + _finding(
            case, same, kind, columns, f"{what}, within one group", "info", "nothing: whole groups are split together"
        )
    return _finding(case, sets, kind, columns, what, severity, remedy)


def _across(
    case: Case, sets: list[Set], kind: str, columns: tuple[str, ...], what: str, severity: Severity
) -> list[Finding]:
    parts = case.parts
    assert parts is not None  # callers ask only where there is a split
    known = [members[parts[members] >= 0] for members in sets]
    apart = [members for members in known if len(np.unique(parts[members])) > 1]
    return _finding(case, apart, kind, columns, f"{what} and are in different parts", severity, _UNFAIR)


def _finding(
    case: Case, sets: list[Set], kind: str, columns: tuple[str, ...], what: str, severity: Severity, remedy: str
) -> list[Finding]:
    if not sets:
        return []
    # A row may contradict others in several pictures.
    rows = np.array(list(dict.fromkeys(np.concatenate(sets).tolist())))
    evidence: dict[str, Any] = {"what": f"{len(rows):,} {what}", "count": len(rows)}
    evidence |= shown_sets([case.names(members) for members in sets[:200]]) | {"set_count": len(sets)}
    if case.parts is not None and kind.endswith("parts"):
        evidence["parts"] = [[part_name(int(case.parts[row])) for row in members] for members in sets[:20]]
    return [Finding(kind, severity, case.names(rows), columns, evidence, remedy)]


def _conflicts(case: Case, copies: Copies) -> list[Finding]:
    labels = case.labels
    if labels is None:
        return []
    sets = [members for members in copies.rows if _differ(labels[members])]
    whole = {int(row) for members in copies.rows for row in members}
    sets += [s for found in copies.pictures.values() for s in _beyond(found, whole) if _differ(labels[s])]
    found = _finding(
        case,
        sets,
        "conflicting_labels",
        (str(case.schema.named("label")),),
        "rows are equal in every input or in a picture, and have different labels",
        "warn",
        "correct the labels that are wrong; a model can only be right about one of them",
    )
    for finding in found:
        finding.evidence["labels"] = [[case.classes[labels[row]] for row in members] for members in sets[:20]]
    return found


def _differ(labels: Codes) -> bool:
    return len(np.unique(labels[labels >= 0])) > 1


def _beyond(sets: list[Set], whole: set[int]) -> list[Set]:
    """Return the sets that say more than that whole rows are copies."""
    return [members for members in sets if not whole.issuperset(map(int, members))]


def spare(case: Case, sets: list[Set]) -> Set:
    """Return all rows of sets but one each: the one that stays is a test row, else a validation row, else the first."""
    parts = np.zeros(len(case.ids), dtype=np.int64) if case.parts is None else case.parts
    kept = [members[np.argmax(parts[members])] for members in sets]
    return np.setdiff1d(np.concatenate(sets), np.array(kept)) if sets else np.empty(0, dtype=np.int64)
