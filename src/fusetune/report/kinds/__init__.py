"""What of the page hangs on what is predicted: one class for each kind of target, found by `kind_of`."""

from __future__ import annotations

from fusetune.data.choices import TargetKind
from fusetune.report.kinds.base import Kind
from fusetune.report.kinds.classes import ClassKind
from fusetune.report.kinds.labels import LabelKind
from fusetune.report.kinds.numbers import NumberKind
from fusetune.result import Result

KINDS: dict[TargetKind, type[Kind]] = {one.kind: one for one in (ClassKind, LabelKind, NumberKind)}

__all__ = ["KINDS", "Kind", "kind_of"]


def kind_of(result: Result) -> Kind:
    """Return what of a result's page hangs on what it predicts."""
    return KINDS[result.judged.measure.kind](result)
