"""What the doctor has found: one record per kind, with the rows, the numbers behind it and what to do."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from fusetune.doctor.reasons import WHY

Severity = Literal["error", "warn", "info"]
SEVERITIES: tuple[Severity, ...] = ("error", "warn", "info")
# How sure a finding is that what it says is so, and what that means.
Certainty = Literal["sure", "very likely", "likely", "possible"]
CERTAINTIES: dict[Certainty, str] = {
    "sure": "read off the table or its files, it cannot be otherwise",
    "very likely": "such a finding is wrong less than once in twenty times",
    "likely": "such a finding is right more often than wrong",
    "possible": "worth a look, and often nothing",
}
# What begins the example that a remedy ends with.
FIRST = ". The first is "
# Kinds that infer something which they did not read; whoever finds them may know better in a single case.
INFERRED: dict[str, Certainty] = {
    "near_duplicate_images": "very likely",
    "near_duplicate_images_across_parts": "very likely",
    "similar_images": "possible",
    "similar_images_across_parts": "possible",
    "neighbours_across_parts": "very likely",
    "column_gives_label": "very likely",
    "columns_give_label": "likely",
    "text_gives_label": "very likely",
    "column_like_id": "likely",
    "numbers_as_words": "very likely",
    "column_by_heart": "likely",
    "column_looks_otherwise": "likely",
    "label_errors": "likely",
}


@dataclass(frozen=True)
class Finding:
    """One thing that was found.

    Attributes:
        kind: What it is, a key of `fusetune.config.checks.ACTIONS`.
        severity: error (results would be wrong), warn (look at it), info (good to know).
        rows: Ids of the rows it is about, the most certain or first ones first.
        columns: The columns it is about.
        evidence: Numbers and examples behind it, as plain JSON values; `what` says it in one sentence.
        remedy: What to do.
        certainty: How sure it is that what the finding says is so, a word of `CERTAINTIES`.
    """

    kind: str
    severity: Severity
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    evidence: dict[str, Any]
    remedy: str
    certainty: Certainty = "sure"

    def as_dict(self) -> dict[str, Any]:
        """Return the finding as plain JSON values."""
        return asdict(self) | {"rows": list(self.rows), "columns": list(self.columns)}

    @property
    def why(self) -> str:
        """Why it matters, in a sentence; nothing of a kind that is not known."""
        return WHY.get(self.kind, "")

    def redacted(self) -> Finding:
        """Return the same without ids and examples: how many rows of which columns, and what to do."""
        about = f"{len(self.rows):,} row{'' if len(self.rows) == 1 else 's'}; what it says of them is left out here"
        return replace(self, rows=(), evidence={"what": about}, remedy=self.remedy.partition(FIRST)[0])


def by_severity(findings: Iterable[Finding]) -> list[Finding]:
    """Return findings with errors first, in the order in which they were found otherwise."""
    return sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))


def counts(findings: Sequence[Finding]) -> dict[str, int]:
    """Return the number of findings per severity."""
    return {severity: sum(finding.severity == severity for finding in findings) for severity in SEVERITIES}
