"""What is predicted: one class of several, any number of labels, or a number. One object for each: nobody asks which.

`Target` is what learning needs of it (losses, sums of models, boosters, the solver's link, what is known without
inputs), and `evaluate.measures` what judging needs. Everything between a table and a report goes through these two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fusetune.data.choices import TargetKind
from fusetune.targets.base import Boosted, Target, Truth
from fusetune.targets.classification import Classification
from fusetune.targets.logarithm import Logarithm
from fusetune.targets.multilabel import Multilabel
from fusetune.targets.regression import Regression

TARGETS: dict[TargetKind, type[Target]] = {one.kind: one for one in (Classification, Multilabel, Regression)}

__all__ = [
    "TARGETS",
    "Boosted",
    "Classification",
    "Logarithm",
    "Multilabel",
    "Regression",
    "Target",
    "Truth",
    "read_target",
]


def read_target(kind: TargetKind, names: Sequence[Any], facts: Mapping[str, Any]) -> Target:
    """Return the target that was described by `Target.names` and `Target.facts`.

    Raises:
        ValueError: If these are of none.
    """
    if kind == Regression.kind:
        (name,) = names
        return Regression(name, **facts)
    if facts:
        raise ValueError(f"{kind} with {sorted(facts)}")
    return TARGETS[kind](names)
