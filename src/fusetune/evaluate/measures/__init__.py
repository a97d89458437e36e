"""How answers about each kind of target are judged; `measure_of` finds it."""

from __future__ import annotations

from typing import Any

from fusetune.data.choices import TargetKind
from fusetune.evaluate.measures.base import Answered, Measure
from fusetune.evaluate.measures.classes import Classes
from fusetune.evaluate.measures.labels import Labels
from fusetune.evaluate.measures.numbers import Numbers
from fusetune.targets import Classification, Target

MEASURES: dict[TargetKind, type[Measure[Any]]] = {one.kind: one for one in (Classes, Labels, Numbers)}

# Of probabilities of classes whose names do not matter.
CLASSES = Classes(Classification([]))

__all__ = ["CLASSES", "MEASURES", "Answered", "Classes", "Labels", "Measure", "Numbers", "measure_of"]


def measure_of(target: Target) -> Measure[Any]:
    """Return how answers about a target are judged."""
    return MEASURES[target.kind](target)
