"""The most certain mistakes of a run, with what can be shown of each row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from fusetune.data.images import ImageSource
from fusetune.data.source import Source
from fusetune.data.split import Rows
from fusetune.evaluate.explain import Pixels
from fusetune.evaluate.metrics import FloatArray, IntArray

_MOST = 24
_LETTERS = 280


@dataclass(frozen=True, eq=False)
class Mistake:
    """One row of the test part that the model decides wrongly.

    Attributes:
        row: Its id.
        group: Its group, or None.
        label: What it is.
        decision: What the model says.
        probability: How sure the model is of that.
        label_probability: What it gives the right class.
        pictures: Image modality -> its picture, uint8 [side, side, 3].
        words: What can be read in the row: column -> text.
        shares: Modality -> its share of the decision's probability (exact Shapley values).
        prior: Probability of the decision without any input: shares and prior sum to the probability.
    """

    row: str
    group: str | None
    label: str
    decision: str
    probability: float
    label_probability: float
    pictures: dict[str, Pixels]
    words: dict[str, str]
    shares: dict[str, float]
    prior: float


def most_certain_mistakes(
    frame: pd.DataFrame,
    rows: Rows,
    columns: list[str],
    sources: Mapping[str, Source],
    ids: pd.Series,
    groups: pd.Series | None,
    classes: list[str],
    labels: IntArray,
    probabilities: FloatArray,
    shares: Mapping[str, FloatArray],
    prior: FloatArray,
) -> list[Mistake]:
    """Return up to 24 wrongly decided rows, the surest first.

    Args:
        frame: The whole table.
        rows: Positions of the judged rows in it.
        columns: Its columns to show as text.
        sources: Inputs by modality; pictures come from those of images.
        ids: Row ids of the table.
        groups: Groups of the table, or None.
        classes: Class names.
        labels: Class indices of the judged rows.
        probabilities: Of the judged rows, ``float [rows, classes]``.
        shares: Shares of each modality in the judged rows' decisions.
        prior: Probabilities without any input.
    """
    decided, sure = probabilities.argmax(axis=1), probabilities.max(axis=1)
    wrong = np.flatnonzero(decided != labels)
    wrong = wrong[np.argsort(-sure[wrong], kind="stable")][:_MOST]
    return [
        Mistake(
            row=str(ids.iloc[rows[at]]),
            group=None if groups is None else str(groups.iloc[rows[at]]),
            label=classes[labels[at]],
            decision=classes[decided[at]],
            probability=float(sure[at]),
            label_probability=float(probabilities[at, labels[at]]),
            pictures=_pictures(sources, rows[at : at + 1]),
            words={name: _short(frame[name].iloc[rows[at]]) for name in columns},
            shares={name: float(share[at]) for name, share in shares.items()},
            prior=float(prior[at, decided[at]]),
        )
        for at in wrong
    ]


def _pictures(sources: Mapping[str, Source], row: Rows) -> dict[str, Pixels]:
    return {
        name: source.read(row)[0].permute(1, 2, 0).numpy()
        for name, source in sources.items()
        if isinstance(source, ImageSource) and source.present[row[0]]
    }


def _short(value: Any) -> str:
    """Return a cell's text, cut where it is long."""
    if pd.isna(value):
        return "missing"
    text = str(value)
    return text if len(text) <= _LETTERS else text[: _LETTERS - 1].rstrip() + "…"
