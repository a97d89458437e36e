"""What a model says of rows beyond probabilities: a decision, its margin, a set, and how unlike training they are."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fusetune.data.choices import By, refuse_margin
from fusetune.errors import UserError, listed
from fusetune.evaluate.calibration import Calibration
from fusetune.evaluate.conformal import patterns
from fusetune.evaluate.likeness import Likeness
from fusetune.evaluate.measures import Measure
from fusetune.evaluate.metrics import FloatArray, IntArray
from fusetune.evaluate.reference import Reference
from fusetune.networks import Outputs

NO_REFERENCE = (
    "this model keeps nothing of its training part that rows could be compared with: it was written by an earlier "
    "version, with evaluate.reference=0, or without rows that it was not trained on; fit it again for that"
)


@dataclass(frozen=True)
class Extras:
    """What is wanted of each row.

    Attributes:
        by: Which rule decides: the judged one, with its threshold, or the most probable class.
        sets: Coverage of prediction sets; None: no sets.
        margin: Rows closer than this to another decision are marked; None: no margins.
        unlike: Also how unlike the training rows it is.
    """

    by: By = "judged"
    sets: float | None = None
    margin: float | None = None
    unlike: bool = False

    def check(self, calibration: Calibration, reference: Reference | None, measure: Measure[Any]) -> None:
        """Refuse what makes no sense, or what a model cannot give, before anything is read.

        Raises:
            UserError: Naming it.
        """
        if self.by not in get_args(By):
            raise UserError(f"rows are decided by '{self.by}', but must be by one of {listed(get_args(By))}")
        if self.margin is not None and not measure.decides:
            raise UserError(f"a margin is the distance of a row from another class, and the answer is {measure.rule}")
        for name, value in (("margin", self.margin), ("sets", self.sets)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int | float | np.number)):
                raise UserError(f"{name} must be a number, such as {name}=0.9, not {value!r}")
        if self.margin is not None:
            refuse_margin(self.margin)
        if self.sets is not None:
            measure.check_coverage(self.sets, calibration.conformal, calibration.reaches)
        if self.unlike and (reference is None or not reference.likeness):
            raise UserError(NO_REFERENCE)


@dataclass(frozen=True, eq=False)
class Said:
    """What was found of some rows.

    Attributes:
        ids: Their ids.
        p: Probabilities, float [rows, classes].
        decided: Class indices, int [rows].
        outputs: What the network says.
        problems: What is wrong with each, empty where nothing is.
        distances: Modality -> distance to training rows, float32 [rows]; only where it was asked for.
    """

    ids: pd.Series
    p: FloatArray
    decided: IntArray
    outputs: Outputs
    problems: Sequence[str]
    distances: Mapping[str, NDArray[np.float32]]


def distances_of(outputs: Outputs, likeness: Mapping[str, Likeness]) -> dict[str, NDArray[np.float32]]:
    """Return each row's distance to training rows by modality, float32 [rows], NaN where it lacks the modality."""
    found = {}
    for name, one in likeness.items():
        has = outputs.present[name].numpy()
        found[name] = np.full(len(has), np.nan, dtype=np.float32)
        found[name][has] = one.distances(outputs.z[name].numpy()[has])
    return found


def as_table(
    said: Said, measure: Measure[Any], calibration: Calibration, extras: Extras, likeness: Mapping[str, Likeness]
) -> pd.DataFrame:
    """Return one line per row; see `Model.predict_table` for the columns."""
    rule = calibration.rule(measure.target.names, extras.by, measure)
    columns: dict[str, Any] = {
        "row_id": said.ids.to_numpy(),
        "prediction": measure.answers(said.p, rule),
        **measure.beside(said.p, said.decided),
    }
    if extras.margin is not None:
        columns["margin"] = rule.margin(said.p)
        columns["abstain"] = columns["margin"] < extras.margin
    if extras.sets is not None:
        pattern = _pattern(said.outputs)
        columns |= measure.held(extras.sets, said.p, pattern, calibration.conformal, calibration.reaches)
    shares = measure.shares(said.p)
    more: dict[str, Any] = {}
    if extras.unlike:
        far = {name: _shares(one, said.distances[name]) for name, one in likeness.items()}
        more = {f"as_far({name})": found for name, found in far.items()}
        more["unlike"] = _unlike(far, likeness)
    frames = [pd.DataFrame(columns), shares, pd.DataFrame(more, index=shares.index)]
    return pd.concat([*frames, pd.Series(said.problems, name="problem", dtype="str")], axis=1)


def _pattern(outputs: Outputs) -> NDArray[np.str_]:
    return patterns({name: bits.numpy() for name, bits in outputs.present.items()})


def _shares(one: Likeness, distances: NDArray[np.float32]) -> FloatArray:
    found = np.full(len(distances), math.nan)
    has = ~np.isnan(distances)
    found[has] = one.shares(distances[has])
    return found


def _unlike(shares: Mapping[str, FloatArray], likeness: Mapping[str, Likeness]) -> pd.Series:
    """Return in words which inputs of each row are unlike the training rows."""
    texts = [
        "; ".join(
            f"{name} ({share[row]:.2g} of held-out rows are as far)"
            for name, share in shares.items()
            if share[row] <= likeness[name].limit
        )
        for row in range(len(next(iter(shares.values()))))
    ]
    return pd.Series(texts, dtype="str")
