"""What the division of the rows gives away, without any network: leaks, nearest frames, side information."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression

from fusetune.data.infer import infer_schema
from fusetune.data.roles import Roles
from fusetune.data.split import PARTS
from fusetune.doctor.examine import examine_split
from fusetune.doctor.examined import Examined
from fusetune.doctor.findings import Finding
from fusetune.evaluate.intervals import Interval
from fusetune_papers.datasets.baselines import constant_accuracy, nearest_frame
from fusetune_papers.reproduce.division import shared_groups
from fusetune_papers.reproduce.lab import Lab
from fusetune_papers.reproduce.material import PLACE_COLUMNS, place_numbers


@dataclass
class Facts:
    """What is known of a division into parts.

    Attributes:
        shared: How many of the test rows' streams have training rows too.
        streams: How many streams the test rows have.
        nearest: Test accuracy of the nearest training frame's label.
        distance: Mean distance to that frame; NaN where no stream is shared.
        side_alone: Test accuracy of what the stream's name says, alone.
        constants: Accuracy of the best constant per stream and per location on all rows they were chosen on.
        findings: What the doctor says of the division.
    """

    shared: int
    streams: int
    nearest: float
    distance: float
    side_alone: Interval
    constants: tuple[float, ...]
    findings: list[Finding]

    @property
    def errors(self) -> list[Finding]:
        """What makes results on such a division wrong."""
        return [finding for finding in self.findings if finding.severity == "error"]

    def as_dict(self) -> dict[str, Any]:
        """Return JSON values; an unknown distance is null."""
        distance = self.distance if math.isfinite(self.distance) else None
        findings = [finding.as_dict() for finding in self.findings]
        return vars(self) | {"distance": distance, "side_alone": self.side_alone.as_dict(), "findings": findings}


def facts_of(lab: Lab) -> Facts:
    """Return what the division of a lab's streams gives away; the test part is opened."""
    material, train, test = lab.material, lab.parts.split.rows("train"), lab.test()
    frame, numbers = material.table.frame, place_numbers(material, ordinal=False)
    model = LogisticRegression(max_iter=1000).fit(numbers[train], material.labels[train])
    alone = lab.scores(np.asarray(model.predict_proba(numbers[test])), test)["accuracy"]
    constants = tuple(constant_accuracy(frame[material.task], frame[key]) for key in ("stream", "location"))
    near = nearest_frame(frame.assign(split=np.array(PARTS)[lab.parts.split.part]), material.task)
    distance = float(near.distances.mean()) if len(near.distances) else math.nan
    schema = infer_schema(material.table, Roles(material.task, inputs=PLACE_COLUMNS, group="stream", row_id="id"))
    findings = examine_split(Examined.of(material.table, schema).with_split(lab.parts.split))
    return Facts(*shared_groups(material, train, test), near.accuracy, distance, alone, constants, findings)
