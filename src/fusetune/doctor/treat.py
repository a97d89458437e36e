"""The policy applied: rows dropped, cells emptied, columns left out, or the run stopped; a line says each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from fusetune.config.checks import Action
from fusetune.data.schema import Schema
from fusetune.data.several import without_parts
from fusetune.data.table import Table, with_columns
from fusetune.doctor.duplicates import spare
from fusetune.doctor.examine import Examination
from fusetune.doctor.findings import Finding
from fusetune.errors import TableError, listed


@dataclass(frozen=True, eq=False)
class Treatment:
    """A table after the policy was applied.

    Attributes:
        table: Without the dropped rows, with masked cells empty.
        schema: Without the columns that were left out.
        dropped: Kind of finding -> ids of rows that were dropped for it.
        masked: Kind of finding -> ids of rows whose cells were emptied for it.
        lines: What was done, in words.
    """

    table: Table
    schema: Schema
    dropped: dict[str, list[str]]
    masked: dict[str, list[str]]
    lines: list[str]

    def as_dict(self) -> dict[str, Any]:
        """Return what was done as plain JSON values."""
        return {"dropped": self.dropped, "masked": self.masked, "done": self.lines}


def refuse(findings: list[Finding], policy: Mapping[str, Action]) -> None:
    """Stop where the policy of a finding's kind is `error`.

    Raises:
        TableError: Naming each such finding, its first rows and the remedy.
    """
    lines = [
        f"\n  - {f.kind}: {f.evidence['what']}{f' (rows {listed(f.rows)})' if f.rows else ''} "
        f"({f.certainty}); {f.remedy}"
        for f in findings
        if policy[f.kind] == "error" and f.severity != "info"
    ]
    if lines:
        raise TableError(f"the table was refused, as doctor.policy asks:{''.join(lines)}")


def treat(examination: Examination, policy: Mapping[str, Action]) -> Treatment:
    """Apply the policy to all findings that are more than information.

    Raises:
        TableError: If the policy of a finding's kind is `error`, or no row would be left.
    """
    findings = [finding for finding in examination.findings if finding.severity != "info"]
    refuse(findings, policy)
    examined = examination.examined
    table = examined.table if examined.given is None else examined.given
    frame, schema = table.frame, examined.schema
    gone = np.zeros(len(examined.ids), dtype=bool)
    dropped: dict[str, list[str]] = {}
    masked: dict[str, list[str]] = {}
    lines = []
    for finding in findings:
        kind, action = finding.kind, policy[finding.kind]
        rows = pd.Index(examined.ids).get_indexer(pd.Index(finding.rows)).astype(np.int64)
        why = f"for {kind}: {finding.evidence['what']}"
        if action == "drop":
            rows = _to_drop(examination, finding, rows)
            gone[rows] = True
            dropped.setdefault(kind, []).extend(examined.names(rows))
            lines.append(f"dropped {len(rows):,} row(s) {why}")
        elif action == "mask" and (places := finding.evidence.get("places")) and finding.kind.startswith("image_"):
            (name,) = finding.columns
            at = pd.Index(examined.ids).get_indexer(pd.Index([row for row, _ in places])).tolist()
            lost = [(row, place) for row, (_, place) in zip(at, places, strict=True)]
            frame = with_columns(frame, {name: without_parts(frame[name], lost)})
            masked.setdefault(kind, []).extend(finding.rows)
            lines.append(f"left out {len(places):,} picture(s) {why}")
        elif action == "mask" and len(rows):
            hidden = np.isin(np.arange(len(frame)), rows)
            frame = frame.copy(deep=False)
            for name in finding.columns:
                frame[name] = frame[name].mask(hidden)
            masked.setdefault(kind, []).extend(finding.rows)
            lines.append(f"emptied {len(rows):,} cell(s) {why}")
        elif action == "mask":
            schema = _without(schema, finding.columns)
            lines.append(f"left out {listed(finding.columns)} {why}")
    if gone.all():
        raise TableError("doctor.policy drops every row; choose keep or mask for some kinds")
    # Without ids, rows are called by their numbers in the table as it was given, also where some of it is left out.
    numbers = np.arange(len(frame)) if table.numbers is None else table.numbers
    kept = replace(table, frame=frame, numbers=numbers).take(~gone)
    return Treatment(kept, schema, dropped, masked, lines)


def _to_drop(examination: Examination, finding: Finding, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the rows to drop: all that were found, but of copies all but one."""
    copies = examination.copies.get(finding.kind.removesuffix("_across_parts"))
    if copies is None:
        return np.unique(rows)
    sets = [np.intersect1d(members, rows) for members in copies[finding.columns]]
    return spare(examination.examined, [members for members in sets if len(members) > 1])


def _without(schema: Schema, names: tuple[str, ...]) -> Schema:
    unused = {"role": "unused", "reason": "left out by doctor.policy"}
    columns = [c.model_copy(update=unused) if c.name in names else c for c in schema.columns]
    return schema.model_copy(update={"columns": columns})
