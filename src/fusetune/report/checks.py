"""The doctor's findings as one HTML page that needs nothing else, with thumbnails where a finding is about pictures."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from fusetune.doctor.examine import Examination
from fusetune.doctor.findings import Finding, counts
from fusetune.files import write_text
from fusetune.report.template import page, style

# A page is for looking: the JSON file has every row.
_ROWS, _SETS, _EVIDENCE = 60, 8, 24
_PICTURED = ("image", "duplicate", "conflicting", "label_errors")
_SIDE = 72


@dataclass(frozen=True)
class Entry:
    """A finding as it is printed.

    Attributes:
        finding: The finding.
        title: Its kind in words.
        sets: Rows that belong together: (row id, note, thumbnail as a data address or empty).
        facts: The rest of the evidence, name and value.
    """

    finding: Finding
    title: str
    sets: list[list[tuple[str, str, str]]]
    facts: list[tuple[str, str]]


def write_checks(path: Path, examination: Examination, done: Sequence[str] = ()) -> None:
    """Write the page; raises `OSError` if that is not possible."""
    write_text(path, render_checks(examination, done))


def render_checks(examination: Examination, done: Sequence[str] = ()) -> str:
    """Return the page as HTML; `done` are lines about what was changed because of the findings."""
    examined = examination.examined
    return page(
        "checks.html",
        css=style(),
        table=examined.table.name,
        rows=len(examined.ids),
        roles=[(role, examined.schema.named(role)) for role in ("label", "group", "split")],
        inputs=[column.name for column in examined.schema.inputs],
        counts=counts(examination.findings),
        done=done,
        entries=[_entry(examination, finding) for finding in examination.findings],
        most=_ROWS,
    )


def _entry(examination: Examination, finding: Finding) -> Entry:
    evidence = dict(finding.evidence)
    evidence.pop("what", None)
    sets = evidence.pop("sets", None) or [[row] for row in finding.rows[: _SETS * 2]]
    notes = {str(item["row"]): _suspicion(item) for item in evidence.pop("suspects", [])}
    notes |= evidence.pop("files", {})
    for words in (evidence.pop("parts", []), evidence.pop("labels", [])):
        for members, own in zip(sets, words, strict=False):
            notes |= dict(zip(members, own, strict=True))
    pictured = finding.kind.startswith(_PICTURED) or "duplicate" in finding.kind
    rows = [
        [
            (row, notes.get(row, ""), _thumbnail(examination, row, finding.columns) if pictured else "")
            for row in members[:6]
        ]
        for members in sets[: _SETS if finding.evidence.get("sets") else _SETS * 2]
    ]
    facts = [(name.replace("_", " "), _value(value)) for name, value in evidence.items() if name not in ("count",)]
    return Entry(finding, finding.kind.replace("_", " "), rows, facts[:_EVIDENCE])


def _suspicion(item: dict[str, Any]) -> str:
    return f"{item['label']} (p {item['p_label']:.2f}), rather {item['likely']} (p {item['p_likely']:.2f})"


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return "; ".join(f"{name}: {_value(inner)}" for name, inner in list(value.items())[:_EVIDENCE])
    if isinstance(value, list):
        return "; ".join(_value(inner) for inner in value[:_SETS])
    return "–" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def _thumbnail(examination: Examination, row: str, columns: tuple[str, ...]) -> str:
    """Return a row's picture as a data address: that of the columns meant, if there is one, else of any."""
    place = int(pd.Index(examination.examined.ids).get_loc(row))
    for pictures in sorted(examination.pictures, key=lambda it: it.column not in columns):
        if pictures.having("fine", "image_tiny", "image_blank")[place]:
            grey = Image.fromarray(np.asarray(pictures.thumbs[place])).resize((_SIDE, _SIDE), Image.Resampling.BICUBIC)
            file = io.BytesIO()
            grey.save(file, "PNG")
            return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    return ""
