"""The report: one self-contained HTML page from the facts of a finished run."""

from __future__ import annotations

from fusetune.report.facts import Comparison, Facts, GainRow, Input, Mistake
from fusetune.report.page import write_report
from fusetune.train.loop import EpochRecord

__all__ = ["Comparison", "EpochRecord", "Facts", "GainRow", "Input", "Mistake", "write_report"]
