"""What the division of the rows gives away, without any network: leaks, nearest frames, side information."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import mean
from typing import Any

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier

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
        score: What the next accuracies are: accuracy, or where a row may have several labels, label_accuracy.
        nearest: Test accuracy of the nearest training frame's label.
        distance: Mean distance to that frame; NaN where no stream is shared.
        majority: Test scores of the answer that training labels suggest for every row.
        side_alone: Test scores of what the stream's name says, alone: a logistic regression of each label.
        constants: Accuracy of the best constant per stream and per location on all rows they were chosen on.
        findings: What the doctor says of the division.
    """

    shared: int
    streams: int
    score: str
    nearest: float
    distance: float
    majority: dict[str, Interval]
    side_alone: dict[str, Interval]
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
        scores = {
            name: {score: interval.as_dict() for score, interval in found.items()}
            for name, found in (("majority", self.majority), ("side_alone", self.side_alone))
        }
        return vars(self) | {"distance": distance, "findings": findings, **scores}


def facts_of(lab: Lab) -> Facts:
    """Return what the division of a lab's streams gives away; the test part is opened."""
    material, train, test = lab.material, lab.parts.split.rows("train"), lab.test()
    frame, numbers = material.table.frame, place_numbers(material, ordinal=False)
    model = OneVsRestClassifier(LogisticRegression(max_iter=1000)).fit(numbers[train], material.labels[train])
    alone = lab.scores(np.asarray(model.predict_proba(numbers[test])), test)
    prior = lab.measure.say(material.target.prior(material.labels[train])[None])
    majority = lab.scores(np.repeat(prior, len(test), 0), test)
    # One column per question: is it this class, or is this label there?
    answers = [pd.Series(column) for column in material.labels.reshape(len(frame), -1).T]
    constants = tuple(
        mean(constant_accuracy(answer, frame[key]) for answer in answers) for key in ("stream", "location")
    )
    divided = frame.assign(split=np.array(PARTS)[lab.parts.split.part])
    near = [nearest_frame(divided.assign(answer=answer), "answer") for answer in answers]
    distance = float(near[0].distances.mean()) if len(near[0].distances) else math.nan
    schema = infer_schema(material.table, Roles(material.task, inputs=PLACE_COLUMNS, group="stream", row_id="id"))
    schema = schema.model_copy(update={"target": material.target.kind})
    findings = examine_split(Examined.of(material.table, schema).with_split(lab.parts.split))
    nearest, shared = mean(one.accuracy for one in near), shared_groups(material, train, test)
    return Facts(*shared, lab.measure.score, nearest, distance, majority, alone, constants, findings)
