"""Classes and their confusions as rows of tables."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from fusetune.evaluate.metrics import IntArray


@dataclass(frozen=True)
class ClassRow:
    """Test rows of one class and how they were decided; NaN where a ratio has no rows."""

    name: str
    rows: int
    recall: float
    precision: float
    f1: float


@dataclass(frozen=True)
class Confusion:
    """How often one class was taken for another."""

    actual: str
    decided: str
    rows: int
    share: float


def class_rows(names: list[str], table: IntArray) -> list[ClassRow]:
    """Return recall, precision and F1 per class from the confusion matrix ``int [classes, classes]``."""
    hits, actual, decided = np.diag(table), table.sum(axis=1), table.sum(axis=0)
    ratios = ((hits, actual), (hits, decided), (2 * hits, actual + decided))
    return [
        ClassRow(name, int(actual[k]), *(_share(above[k], below[k]) for above, below in ratios))
        for k, name in enumerate(names)
    ]


def confused_pairs(names: list[str], table: IntArray) -> list[Confusion]:
    """Return the confusions that occur, the most frequent first, from the matrix ``int [classes, classes]``."""
    mistakes = table - np.diag(np.diag(table))
    pairs = [(int(a), int(d)) for a, d in np.argwhere(mistakes)]
    pairs.sort(key=lambda pair: (-mistakes[pair], pair))
    return [
        Confusion(names[a], names[d], int(mistakes[a, d]), _share(mistakes[a, d], table[a].sum())) for a, d in pairs
    ]


def _share(part: int, whole: int) -> float:
    return float(part / whole) if whole else math.nan
