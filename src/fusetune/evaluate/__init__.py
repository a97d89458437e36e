"""Honest judgement of predicted probabilities: metrics, their intervals, and paired tests between two models."""

from __future__ import annotations

from fusetune.evaluate.intervals import Interval, means, paired_difference, proportion, score_with_intervals
from fusetune.evaluate.metrics import score
from fusetune.evaluate.paired import PairedTest, holm, mcnemar, permutation_test

__all__ = [
    "Interval",
    "PairedTest",
    "holm",
    "mcnemar",
    "means",
    "paired_difference",
    "permutation_test",
    "proportion",
    "score",
    "score_with_intervals",
]
