"""One examination of a table: look at every input once, then ask each family of checks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from fusetune.data.choices import Kind
from fusetune.data.images import ImageInput, Keeper
from fusetune.data.schema import Schema
from fusetune.data.split import Split
from fusetune.data.table import Table
from fusetune.doctor.columns import column_findings, leak_findings, score_columns
from fusetune.doctor.duplicates import (
    Copies,
    copy_findings,
    copy_findings_across,
    find_copies,
    find_plain_copies,
    numbered,
)
from fusetune.doctor.examined import Codes, Examined
from fusetune.doctor.findings import Finding, by_severity
from fusetune.doctor.groups import group_findings, group_findings_across
from fusetune.doctor.hashes import SIDE
from fusetune.doctor.images import Look, Pictures, look_at_pictures
from fusetune.doctor.labels import label_findings
from fusetune.doctor.leaks import neighbour_findings
from fusetune.doctor.several import look_at_rows, rows_findings
from fusetune.doctor.sketch import Features, sketch
from fusetune.doctor.texts import look_at_texts, text_findings
from fusetune.doctor.written import written_findings
from fusetune.progress import bar

_STEPS = 5


@dataclass(eq=False)
class Examination:
    """What was found in a table, and what it takes to check a split that is made later.

    Attributes:
        examined: The table as it was looked at.
        findings: What was found, errors first.
        pictures: One entry per image column.
        copies: Rows that are copies of each other.
        features: Cheap features of the sampled rows.
        readers: How the pictures of each column were read.
    """

    examined: Examined
    findings: list[Finding]
    pictures: list[Pictures]
    copies: Copies
    features: Features
    readers: dict[str, ImageInput]

    def check_split(self, split: Split | None = None) -> None:
        """Add what can only be said about a split: the table's own, or one that was made after it was looked at."""
        if split is not None:
            self.examined = self.examined.with_split(split)
        across = [*group_findings_across(self.examined), *copy_findings_across(self.examined, self.copies)]
        across += neighbour_findings(self.examined, self.features)
        self.findings = by_severity([*self.findings, *across])


def examine(
    table: Table,
    schema: Schema,
    *,
    pixel_limit: int,
    allow_remote: bool = False,
    outside: Literal["allow", "refuse"] = "allow",
    keeper: Keeper | None = None,
    look: Look = look_at_pictures,
) -> Examination:
    """Check a table.

    Args:
        table: The table.
        schema: What its columns are. Checks of the split are made where it names a split column.
        pixel_limit: Larger images are reported unread.
        allow_remote: May images be opened that need a network?
        outside: May images be opened that are not in the table's folder?
        keeper: Keeps what a run on this table can use of the decoded images.
        look: Opens the pictures of a column.

    Raises:
        TableError: If the id column has missing or repeated values.
    """
    examined = Examined.of(table, schema)
    limits: dict[str, Any] = {"pixel_limit": pixel_limit, "allow_remote": allow_remote, "outside": outside}
    readers = [ImageInput(column=name, size=SIDE, fit="stretch", **limits) for name in examined.columns(Kind.IMAGE)]
    pictures = [look_at_rows(examined, reader, keeper, look) for reader in readers]
    if keeper is not None:
        keeper.cache.flush()
    with bar("checking", _STEPS, "texts") as progress:
        texts = [look_at_texts(examined, name) for name in examined.columns(Kind.TEXT)]
        progress.advance(note="copies")
        copies = find_copies(examined, pictures, texts)
        findings = [finding for column in pictures for finding in rows_findings(examined, column)]
        findings += [finding for column in texts for finding in text_findings(examined, column)]
        findings += [*group_findings(examined), *copy_findings(examined, copies)]
        progress.advance(note="columns")
        findings += [*column_findings(examined), *written_findings(examined)]
        leaks = leak_findings(examined, score_columns(examined))
        progress.advance(note="labels")
        # A column that holds the label would vouch for every label, wrong ones included.
        telling = frozenset(name for leak in leaks if leak.kind.endswith("_gives_label") for name in leak.columns)
        features = sketch(examined, pictures, telling)
        findings += [*leaks, *label_findings(examined, features)]
        progress.advance(note="split")
        examination = Examination(
            examined, by_severity(findings), pictures, copies, features, {one.column: one for one in readers}
        )
        if examined.parts is not None:
            examination.check_split()
    return examination


def copy_numbers(table: Table, schema: Schema, examination: Examination | None = None) -> Codes:
    """Return the number of the set of copies that each row is in, -1 for none: what a split has to keep together.

    Args:
        table: The table, or what is left of the one that was examined.
        schema: What its columns are.
        examination: Of this table; without one, pictures count as copies where their files are equal.
    """
    if examination is None:
        return numbered(find_plain_copies(Examined.of(table, schema)), len(table))
    ids = examination.examined.ids
    numbers = pd.Series(numbered(examination.copies, len(ids)), pd.Index(ids))
    return numbers.loc[table.ids(schema.named("id"))].to_numpy()


def examine_split(examined: Examined) -> list[Finding]:
    """Check a split by groups, the numbers of rows within them and the columns, without opening any picture."""
    return by_severity([*group_findings_across(examined), *neighbour_findings(examined, sketch(examined, []))])
