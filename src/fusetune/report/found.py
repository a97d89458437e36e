"""A finding of the doctor as it is printed: a title, sentences, what is shown of its rows, numbers that are left."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from fusetune.doctor.exhibits import Exhibit
from fusetune.doctor.findings import CERTAINTIES

# What the sentences, the pictures and the notes beside them say already.
_SAID = {
    "what", "sets", "set_count", "parts", "labels", "suspects", "files", "places", "count", "texts", "likely",
    "possible", "likely_and_right", "checked", "share", "interval", "at_most", "model_accuracy", "classes_too_rare",
}  # fmt: skip
_MOST = 24
# Row ids that are printed where no row is shown as a whole.
_IDS = 60


@dataclass(frozen=True)
class Found:
    """A finding as it is printed.

    Attributes:
        shown: The finding and its rows.
        title: Its kind in words.
        sentence: What was found.
        sure: How sure that is, as a sentence.
        remedy: What to do, as a sentence.
        facts: The rest of the evidence: name and value, values of several things by name.
        ids: Ids of rows where not all of them are shown, as many as fit, and how many more there are.
    """

    shown: Exhibit
    title: str
    sentence: str
    sure: str
    remedy: str
    facts: list[tuple[str, str | dict[str, str]]]
    ids: tuple[list[str], int]


def found(shown: Iterable[Exhibit]) -> list[Found]:
    """Return findings as they are printed, in their order."""
    return [_found(one) for one in shown]


def _found(shown: Exhibit) -> Found:
    finding = shown.finding
    seen = {row.row for members in shown.sets for row in members}
    rows = list(finding.rows) if set(finding.rows) - seen else []
    return Found(
        shown,
        _sentence(str(finding.kind).replace("_", " ")).removesuffix("."),
        _sentence(str(finding.evidence.get("what", ""))),
        f"{finding.certainty.capitalize()}: {CERTAINTIES[finding.certainty]}.",
        _sentence(finding.remedy),
        [(_name(name), _fact(value)) for name, value in finding.evidence.items() if name not in _SAID][:_MOST],
        (rows[:_IDS], len(rows) - len(rows[:_IDS])),
    )


def _sentence(words: str) -> str:
    """Return words with a capital and a full stop; a name in quotation marks stays as it is."""
    words = words.strip()
    return words[:1].upper() + words[1:] + ("" if not words or words.endswith((".", "!", "?", "…")) else ".")


def _name(name: object) -> str:
    return str(name).replace("_", " ")


def _fact(value: Any) -> str | dict[str, str]:
    if isinstance(value, dict):
        return {_name(name): _value(inner) for name, inner in list(value.items())[:_MOST]}
    return _value(value)


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{_name(name)} {_value(inner)}" for name, inner in list(value.items())[:_MOST])
    if isinstance(value, list | tuple):
        return "; ".join(_value(inner) for inner in value[:_MOST])
    if isinstance(value, float):
        return f"{value:.4g}"
    return "–" if value is None else f"{value:,}" if isinstance(value, int) else str(value)
