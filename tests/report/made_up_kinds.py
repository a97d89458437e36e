"""Made-up runs that predict a number, or any number of labels, with everything that a report shows of them."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from made_up import changed, result

from fusetune.evaluate import Interval
from fusetune.evaluate.analysis import Analysis
from fusetune.evaluate.conformal import Conformal
from fusetune.evaluate.measures import Answered, Measure, measure_of
from fusetune.evaluate.modalities import MisledScore, MissingScore, Share, SubsetScore
from fusetune.evaluate.reach import fit_reaches
from fusetune.report.kinds import kind_of
from fusetune.result import Case, Comparison, GainRow, Judgement, Result
from fusetune.targets import Multilabel, Regression, Truth

HOW: dict[str, int] = {"resamples": 100, "seed": 0}
CONSTANT = "always answering the mean"


def numbers(rows: int = 60, mean: float = 50.0, deviation: float = 8.0, noise: float = 0.5, **changes: Any) -> Result:
    """A run that predicts a number: labels around `mean`, errors of `noise` deviations."""
    random = np.random.default_rng(1)
    measure = measure_of(Regression("grade", mean, deviation))
    truth = random.normal(size=rows)
    p = np.asarray(measure.say(truth[:, None] + noise * random.normal(size=(rows, 1))))
    return _whole(measure, p, truth, ["grade"], {"train": [300], "valid": [50], "test": [rows]}, **changes)


def labels(count: int = 4, rows: int = 60, **changes: Any) -> Result:
    """A run that predicts labels."""
    random = np.random.default_rng(2)
    names = [f"label {k}" for k in range(count)]
    measure = measure_of(Multilabel(names))
    truth = (random.random((rows, count)) < 0.4).astype(np.float32)
    p = np.clip(0.5 + 0.35 * (2 * truth - 1) + 0.2 * random.normal(size=truth.shape), 0.01, 0.99).astype(np.float64)
    counts = {part: [int(n) for n in truth.sum(0)] for part in ("train", "valid", "test")}
    return _whole(measure, p, truth, names, counts, **changes)


def _whole(
    measure: Measure[Any], p: Any, truth: Truth, names: list[str], counts: dict[str, list[int]], **changes: Any
) -> Result:
    rows, rule = len(truth), measure.plainly
    groups = np.arange(rows) // 3
    scores = measure.scores(p, truth, groups, **HOW)
    constant = np.repeat(p.mean(0, keepdims=True), rows, axis=0)
    difference = measure.difference(p, constant, truth, groups, **HOW)
    against = Comparison(CONSTANT, 40, 20, 0.01, 0.01, *difference, 0.01, 0.01, 0.001, 0.001)
    pair = (scores[measure.score], scores[measure.loss])
    rates = [MissingScore(rate / 10, method, *pair) for rate in range(10) for method in ("two-stage", "image alone")]
    pattern = np.where(np.arange(rows) % 4, "image + text", "image")
    reaches = fit_reaches(measure.lost_rows(p, truth), pattern)
    judged = Answered(p, truth, np.arange(rows), pattern, groups)
    more = measure.further(judged, Conformal(), reaches, rule=rule, **HOW)
    found = Analysis(
        subsets=[SubsetScore(some, *pair) for some in ([], ["image"], ["image", "text"])],
        shapley=[Share(name, *difference) for name in ("image", "text")],
        missing=rates, interference=[MisledScore("image", "other class", *pair)],
        **more,
    )  # fmt: skip
    base = result(2)
    judged = Judgement(
        chosen="two-stage", test=scores, valid=scores,
        gain=[
            GainRow("majority", "mean of the training part", *measure.pairs([constant], truth, groups, **HOW)[0], 9.0),
            GainRow("image alone", "fine-tuned", *pair, 1.0), GainRow("text alone", "fine-tuned", *pair, 1.5),
            GainRow("two-stage", "note on the whole", *pair, 0.5),
        ],
        comparisons=[
            dataclasses.replace(against, against="image alone"), dataclasses.replace(against, against="text alone"),
        ],
        labels={"valid": truth, "test": truth}, probabilities={"valid": p, "test": p},
        calibration=base.judged.calibration, analysis=found, shares={}, prior=constant,
        frequent=dataclasses.replace(against, against=measure.constant), measure=measure,
    )  # fmt: skip
    whole = dataclasses.replace(
        base,
        judged=judged,
        data=dataclasses.replace(
            base.data, classes=names, class_counts=counts, rows={"train": 300, "valid": rows, "test": rows}
        ),
        mistakes=[case(measure, p, truth, at) for at in measure.mistakes(p, truth, rule)[:5]],
        examples={why: case(measure, p, truth, at) for why, at in measure.telling(p, truth, rule).items()},
    )
    return changed(whole, **changes)


def case(measure: Measure[Any], p: Any, truth: Truth, at: int) -> Case:
    """One test row."""
    rule = measure.plainly
    decided = rule.decide(p[at : at + 1])
    told = float(p[at, decided[0]])
    return Case(
        row=f"row {at}", group="p3", label=measure.shown(measure.truths(truth[at : at + 1])[0]),
        decision=measure.shown(measure.answers(p[at : at + 1], rule)[0]), probability=told, label_probability=told,
        pictures={"image": np.full((9, 9, 3), 140, np.uint8)}, words={"note": "A sentence."},
        shares={"image": told / 2, "text": -told / 4}, prior=3 * told / 4,
        about=str(measure.target.names[decided[0]]),
    )  # fmt: skip


def verdict_of(whole: Result, **changes: Any) -> tuple[str, str]:
    """Return the verdict on a run with other comparisons."""
    return kind_of(changed(whole, **changes)).verdict()


def compared(against: str, low: float, high: float, p: float = 0.001, p_nll: float = 1.0) -> Comparison:
    """A comparison with these bounds of the score's difference; a low `p_nll` shows the loss to be better."""
    difference, loss = Interval((low + high) / 2, low, high), Interval(-0.2, -0.3, -0.1)
    return Comparison(against, 40, 20, p, p, difference, loss, None, None, p_nll, p_nll)
