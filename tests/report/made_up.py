"""A made-up run with everything that a report shows."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from fusetune.context import Cost
from fusetune.doctor.exhibits import Exhibit, Shown
from fusetune.doctor.findings import Finding
from fusetune.evaluate import Interval, metrics
from fusetune.evaluate.analysis import Analysis
from fusetune.evaluate.calibration import Calibration, TemperatureScore
from fusetune.evaluate.conformal import Sets, SetScore
from fusetune.evaluate.explain import Effect, Explanation
from fusetune.evaluate.intervals import GroupSpread
from fusetune.evaluate.miscalibration import miscalibration
from fusetune.evaluate.modalities import MisledScore, MissingScore, Share, SubsetScore
from fusetune.evaluate.selective import Lowest, RiskCoverage, RiskPoint, Worst, recalls
from fusetune.evaluate.threshold import Rates, ThresholdScore
from fusetune.result import Case, Column, Comparison, Data, GainRow, Judgement, Method, Origin, Result, Training
from fusetune.strategies import STRATEGIES, WHOLE
from fusetune.train.loop import EpochRecord

FINDING = Finding(
    "near_duplicate",
    "warn",
    tuple(str(k) for k in range(12)),
    ("picture",),
    {"what": "Six pairs of pictures are nearly equal.", "pairs": 6},
    "Look at them.",
)
EXHIBIT = Exhibit(
    FINDING,
    [
        [
            Shown(
                str(row),
                "class 1",
                "in the test part",
                {"picture": np.full((9, 12, 3), 90, np.uint8)},
                {"note": "beats"},
            )
            for row in (0, 1)
        ]
    ],
    [3],
    5,
)


def bounds(value: float) -> Interval:
    return Interval(value, value - 0.05, value + 0.05)


def analysis(classes: int, method: str = "two-stage") -> Analysis:
    """Everything that is asked of a run's model."""
    names: list[list[str]] = [[], ["image"], ["text"], ["image", "text"]]
    both = (bounds(0.6), bounds(0.9))
    held = (0.9, bounds(0.91), bounds(1.4), 0.0, 0.7, {}, GroupSpread(9, 0.9, 0.6))
    worst = (20, bounds(0.4), 3, 9)
    scores = {key: bounds(0.3) for key in ("nll", "brier", "ece", "classwise_ece")}
    rates = Rates(*[bounds(0.5)] * 4, counts={})
    return Analysis(
        subsets=[SubsetScore(some, *both) for some in names],
        shapley=[Share(name, *both) for name in ("image", "text")],
        missing=[
            MissingScore(rate / 10, name, bounds(0.9 - rate / 20), bounds(1.0))
            for rate in range(10)
            for name in (method, "image alone", "ensemble")
        ],
        interference=[MisledScore("image", "blank", *both)],
        conformal=Sets(
            [SetScore(m, by, *held) for m in ("lac", "aps") for by in (False, True)], "Rows of one group are alike."
        ),
        risk_coverage=RiskCoverage(bounds(0.1), 0.05, [RiskPoint(k / 10, bounds(0.05 + k / 40)) for k in range(1, 11)]),
        worst_group=Worst(Lowest("class 1", *worst), Lowest("p7", *worst), GroupSpread(9, 0.6, 0.2)),
        threshold=ThresholdScore("sensitivity >= 0.9", "class 1", 0.3, rates) if classes == 2 else None,
        calibration=TemperatureScore(1.3, True, 50, True, {}, {"before": scores, "after": scores}),
    )


def mistakes() -> list[Case]:
    return [
        Case(
            row=f"row {k}", group="p3", label=f"class {k % 2}", decision=f"class {1 - k % 2}",
            probability=0.97 - k / 50,
            label_probability=0.02, pictures={"image": np.full((120, 90, 3), 140, np.uint8)},
            words={"note": "A sentence about the picture."}, shares={"image": 0.5, "text": -0.1}, prior=0.4,
        )
        for k in range(3)
    ]  # fmt: skip


def epochs(count: int) -> list[EpochRecord]:
    return [EpochRecord(k, 1.0 / k, 0.5 + 1.0 / k, 0.7, 1e-4, 2.0) for k in range(1, count + 1)]


def comparison(p: float = 0.01, low: float = 0.02, high: float = 0.1) -> Comparison:
    accuracy = Interval((low + high) / 2, low, high)
    return Comparison("the ensemble", 30, 15, p, p, accuracy, Interval(-0.1, -0.2, 0.01), p, p)


def result(classes: int = 3, rows: int = 60, strategy: str = "two-stage", **changes: Any) -> Result:
    random = np.random.default_rng(0)
    labels = random.integers(0, classes, rows)
    p = random.dirichlet(np.ones(classes), rows)
    p[np.arange(rows), labels] += 0.1
    p /= p.sum(axis=1, keepdims=True)
    scores = {name: Interval(value, value * 0.9, value * 1.05) for name, value in metrics.score(p, labels).items()}
    counts = np.bincount(labels, minlength=classes).tolist()
    how = STRATEGIES[strategy]
    complete = Result(
        origin=Origin(
            table="table.csv", label="region", command="fusetune fit table.csv", created="2025-01-02", preset="good",
            seed=3, config={"train": {"epochs": 5, "folder": Path("runs")}}, versions={"torch": "2.9"},
            hashes={"split": "abc123", "rows": "def456", "weights": "789abc"},
        ),
        data=Data(
            rows={"train": 300, "valid": 50, "test": rows}, groups={"train": 90, "valid": 20, "test": 21},
            group_column="patient", split_how="Split by patient.", test_opened="2025-01-02T03:04:05",
            classes=[f"class {k}" for k in range(classes)],
            class_counts={"train": counts, "valid": counts, "test": counts},
            inputs=[
                Column("picture", "image", "image", "paths of images"), Column("note", "text", "text", "many words"),
            ],
            left_out=[Column("patient", "category", "", "names the group")], findings=[EXHIBIT],
        ),
        method=Method(
            name=how.name, title=how.title, paper=how.paper, settings=how.Settings().model_dump(mode="json"),
            notes={"image": "note on image", "text": "note on text", WHOLE: "note on the whole"},
            cost=Cost({"stage_u": 61.0, strategy: 9.5}, {"image, training": 1200.0}),
        ),
        judged=Judgement(
            chosen=strategy, test=scores, valid=scores,
            gain=[
                GainRow("image alone", "fine-tuned", Interval(0.4, 0.3, 0.5), Interval(1.1, 1.0, 1.2), 1.0),
                GainRow(strategy, "note on the whole", scores["accuracy"], scores["nll"], 0.5),
            ],
            comparisons=[comparison()], labels={"test": labels}, probabilities={"test": p},
            calibration=Calibration(), analysis=analysis(classes, strategy), shares={}, prior=p,
            frequent=dataclasses.replace(comparison(), against="always answering the most frequent class"),
            recalls=recalls(p, labels, [f"class {k}" for k in range(classes)]),
            miscalibration=miscalibration(p, labels),
        ),
        training=Training(
            curves={"image": epochs(5), f"strategy {strategy}": epochs(1)},
            best_epochs={"image": 4, f"strategy {strategy}": 1}, sheets={"image": np.full((4, 12, 3), 128, np.uint8)},
            seconds={"stage_u": 75.0, strategy: 0.5, "total": 75.5}, passes={"image": 1200}, reused={"image": 7},
            passes_paper=36000,
        ),
        mistakes=mistakes(), warnings=["7 images could not be read."], examples={"Its surest mistake": mistakes()[0]},
    )  # fmt: skip
    return changed(complete, **changes)


def changed(whole: Result, **changes: Any) -> Result:
    """Change fields of a result, wherever they are: in it or in one of its sections."""
    for name, value in changes.items():
        fields = {field.name: getattr(whole, field.name) for field in dataclasses.fields(whole)}
        if name in fields:
            whole = dataclasses.replace(whole, **{name: value})
            continue
        (section,) = (key for key, part in fields.items() if dataclasses.is_dataclass(part) and hasattr(part, name))
        whole = dataclasses.replace(whole, **{section: dataclasses.replace(fields[section], **{name: value})})
    return whole


BARE: dict[str, Any] = {
    "groups": None, "group_column": None, "left_out": [], "valid": {}, "comparisons": [], "curves": {},
    "best_epochs": {}, "seconds": {}, "passes": {}, "warnings": [], "analysis": Analysis(), "mistakes": [],
    "findings": [], "config": {}, "versions": {}, "hashes": {}, "inputs": [], "sheets": {}, "settings": {},
    "notes": {WHOLE: "nothing"}, "frequent": None, "recalls": [], "miscalibration": None, "examples": {},
    "cost": Cost({}, {}),
}  # fmt: skip


def explanation() -> Explanation:
    """Why a made-up row is decided as it is."""
    picture = np.full((40, 40, 3), 120, np.uint8)
    effects = np.linspace(-0.1, 0.3, 1600).reshape(40, 40)
    return Explanation(
        row="case-1", decision="class 1", probability=0.8, prior=0.3,
        shares={"image": 0.6, "note": -0.1, "columns": 0.0},
        probabilities={"class 1": 0.8, "class 2": 0.2}, absent=["columns"], pictures={"image": picture},
        maps={"image": effects}, effects={"note": [Effect("beats", 0.2), Effect("the", -0.1)]},
    )  # fmt: skip
