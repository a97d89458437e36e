"""A contest: several strategies, or finished runs, fitted and judged under one protocol (`compare`)."""

from fusetune.contest.contest import Contest, compare

__all__ = ["Contest", "compare"]
