"""A made-up run with everything that a report shows."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fusetune.evaluate import Interval, metrics
from fusetune.evaluate.explain import Effect, Explanation
from fusetune.report import Comparison, EpochRecord, Facts, GainRow, Input, Mistake
from fusetune.report.explanation import data_uri


@dataclass(frozen=True)
class Found:
    """What a check of a table found; the report reads these names."""

    kind: str
    severity: str
    rows: list[str]
    columns: list[str]
    evidence: dict[str, Any]
    remedy: str


FINDING = Found(
    "near_duplicate",
    "warn",
    [str(k) for k in range(12)],
    ["picture"],
    {"what": "Six pairs of pictures are nearly equal.", "pairs": 6},
    "Look at them.",
)


def bounds(value: float) -> dict[str, float | None]:
    return Interval(value, value - 0.05, value + 0.05).as_dict()


def analysis(classes: int) -> dict[str, Any]:
    """Everything that `evaluate.analysis.analyse` returns, and the calibration."""
    names: list[list[str]] = [[], ["image"], ["text"], ["image", "text"]]
    both = {"accuracy": bounds(0.6), "nll": bounds(0.9)}
    held = {
        "target": 0.9, "coverage": bounds(0.91), "size": bounds(1.4), "single": 0.7, "empty": 0.0, "by_pattern": {},
        "by_group": {"mean": 0.9, "lowest_decile": 0.6},
    }  # fmt: skip
    worst = {"rows": 20, "accuracy": bounds(0.4), "judged": 3, "of": 9}
    scores = {key: bounds(0.3) for key in ("nll", "brier", "ece", "classwise_ece")}
    rates = {rate: bounds(0.5) for rate in ("sensitivity", "specificity", "ppv", "npv")}
    limit = {"aim": "sensitivity >= 0.9", "positive": "class 1", "threshold": 0.3, **rates}
    return {
        "subsets": [{"modalities": some, **both} for some in names],
        "shapley": [{"modality": name, **both} for name in ("image", "text")],
        "missing": [
            {"rate": rate / 10, "method": method, "accuracy": bounds(0.9 - rate / 20), "nll": bounds(1.0)}
            for rate in range(10)
            for method in ("two-stage", "image alone", "ensemble")
        ],
        "interference": [{"modality": "image", "kind": "blank", **both}],
        "conformal": {
            "sets": [{"method": m, "mondrian": by, **held} for m in ("lac", "aps") for by in (False, True)],
            "caveat": "Rows of one group are alike.",
        },
        "risk_coverage": {
            "aurc": bounds(0.1), "best": 0.05,
            "points": [{"coverage": k / 10, "error": bounds(0.05 + k / 40)} for k in range(1, 11)],
        },
        "worst_group": {
            "class": {"name": "class 1", **worst}, "group": {"name": "p7", **worst},
            "groups": {"count": 9, "mean": 0.6, "lowest_decile": 0.2},
        },
        "threshold": limit if classes == 2 else None,
        "calibration": {
            "temperature": 1.3, "applied": True, "rows": 50, "crossfitted": True, "valid_nll": {},
            "test": {"before": scores, "after": scores},
        },
    }  # fmt: skip


def mistakes() -> list[Mistake]:
    picture = data_uri(np.full((120, 90, 3), 140, np.uint8), 96)
    return [
        Mistake(
            row=f"row {k}", group="p3", label=f"class {k % 2}", decision=f"class {1 - k % 2}",
            probability=0.97 - k / 50,
            label_probability=0.02, picture={"image": picture}, words={"note": "A sentence about the picture."},
            shares={"image": 0.5, "text": -0.1}, prior=0.4,
        )
        for k in range(3)
    ]  # fmt: skip


def epochs(count: int) -> list[EpochRecord]:
    return [EpochRecord(k, 1.0 / k, 0.5 + 1.0 / k, 0.7, 1e-4, 2.0) for k in range(1, count + 1)]


PIXEL = data_uri(np.full((4, 12, 3), 128, np.uint8))


def comparison(p: float = 0.01, low: float = 0.02, high: float = 0.1) -> Comparison:
    accuracy = Interval((low + high) / 2, low, high)
    return Comparison("the ensemble", 30, 15, p, p, accuracy, Interval(-0.1, -0.2, 0.01), p, p)


def facts(classes: int = 3, rows: int = 60, **changes: Any) -> Facts:
    random = np.random.default_rng(0)
    labels = random.integers(0, classes, rows)
    p = random.dirichlet(np.ones(classes), rows)
    p[np.arange(rows), labels] += 0.1
    p /= p.sum(axis=1, keepdims=True)
    scores = {name: Interval(value, value * 0.9, value * 1.05) for name, value in metrics.score(p, labels).items()}
    counts = np.bincount(labels, minlength=classes).tolist()
    complete = Facts(
        title="Where is it?", table="table.csv", label="region", command="fusetune fit table.csv", created="2025-01-02",
        recipe="sound", seed=3, classes=[f"class {k}" for k in range(classes)],
        rows={"train": 300, "valid": 50, "test": rows}, groups={"train": 90, "valid": 20, "test": 21},
        group_column="patient", split_how="Split by patient.",
        class_counts={"train": counts, "valid": counts, "test": counts},
        inputs=[Input("picture", "image", "image", "paths of images"), Input("note", "text", "text", "many words")],
        left_out=[Input("patient", "category", "", "names the group")],
        probabilities=p, labels=labels, test=scores, valid=scores,
        gain=[
            GainRow("Majority", "the most frequent class", Interval(0.4, 0.3, 0.5), None, None),
            GainRow("Two-stage", "", scores["accuracy"], scores["nll"], 0.5),
        ],
        comparisons=[comparison()], curves={"image": epochs(5), "text": epochs(1)}, best_epochs={"image": 4, "text": 1},
        seconds={"stage_u": 75.0, "stage_m": 0.5, "total": 75.5}, encoder_passes={"image": 1200},
        encoder_passes_paper=36000, warnings=["7 images could not be read."],
        config={"train": {"epochs": 5, "folder": Path("runs")}}, versions={"torch": "2.9"}, hashes={"table": "abc123"},
        analysis=analysis(classes), mistakes=mistakes(), findings=[FINDING], sheets={"image": PIXEL},
    )  # fmt: skip
    return dataclasses.replace(complete, **changes)


BARE: dict[str, Any] = {
    "groups": None, "group_column": None, "class_counts": {}, "left_out": [], "valid": {}, "comparisons": [],
    "curves": {}, "best_epochs": {}, "seconds": {}, "encoder_passes": {}, "encoder_passes_paper": None,
    "warnings": [], "analysis": {}, "mistakes": [], "findings": [], "config": {}, "versions": {}, "hashes": {},
    "inputs": [], "sheets": {},
}  # fmt: skip


def explanation() -> Explanation:
    """Why a made-up row is decided as it is."""
    picture = np.full((40, 40, 3), 120, np.uint8)
    effects = np.linspace(-0.1, 0.3, 1600).reshape(40, 40)
    return Explanation(
        row="case-1", decision="class 1", probability=0.8, prior=0.3,
        shares={"image": 0.6, "note": -0.1, "columns": 0.0},
        probabilities={"class 1": 0.8, "class 2": 0.2}, absent=["columns"], pictures={"image": picture},
        maps={"image": effects}, parts={"note": [Effect("beats", 0.2), Effect("the", -0.1)]},
    )  # fmt: skip
