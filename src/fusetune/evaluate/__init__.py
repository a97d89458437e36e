"""Honest judgement of predicted probabilities: metrics, their intervals, and paired tests between two models."""

from __future__ import annotations

from fusetune.evaluate.intervals import Interval, PairedTest, mcnemar, paired_difference, score_with_intervals
from fusetune.evaluate.metrics import score

__all__ = ["Interval", "PairedTest", "mcnemar", "paired_difference", "score", "score_with_intervals"]
