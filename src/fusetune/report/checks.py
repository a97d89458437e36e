"""The doctor's findings as one HTML page that needs nothing else: sentences, and the rows that they are about."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fusetune.doctor.examine import Examination
from fusetune.doctor.exhibits import Exhibit, exhibits
from fusetune.doctor.findings import counts
from fusetune.files import write_text
from fusetune.report.found import found
from fusetune.report.template import page, style


def write_checks(path: Path, examination: Examination, done: Sequence[str] = ()) -> None:
    """Write the page; raises `OSError` if that is not possible."""
    write_text(path, render_checks(examination, done))


def render_checks(examination: Examination, done: Sequence[str] = (), *, redact: bool = False) -> str:
    """Return the page as HTML.

    Args:
        examination: What was found.
        done: Lines about what was changed because of the findings.
        redact: Leave ids, texts and pictures of rows out, and sentences that may quote them.
    """
    examined = examination.examined
    shown = [Exhibit(one).redacted() for one in examination.findings] if redact else exhibits(examination)
    return page(
        "checks.html",
        css=style(),
        table=examined.table.name,
        rows=len(examined.ids),
        roles=[(role, examined.schema.named(role)) for role in ("label", "group", "split")],
        inputs=[column.name for column in examined.schema.inputs],
        counts=counts(examination.findings),
        done=[] if redact else done,
        entries=found(shown),
    )
