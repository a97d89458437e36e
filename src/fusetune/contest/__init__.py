"""A contest: several strategies, or finished runs, fitted and judged under one protocol (`compare`)."""

from fusetune.contest.contest import compare
from fusetune.contest.finished import Contest

__all__ = ["Contest", "compare"]
