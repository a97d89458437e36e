"""The most certain mistakes of a run, with what can be shown of each row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from fusetune.data.images import ImageSource
from fusetune.data.source import Source
from fusetune.data.split import Rows
from fusetune.evaluate.metrics import FloatArray, IntArray
from fusetune.report.explanation import data_uri
from fusetune.report.facts import Mistake

_MOST = 24
_SIDE = 96
_LETTERS = 280


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
            picture=_pictures(sources, rows[at : at + 1]),
            words={name: _short(frame[name].iloc[rows[at]]) for name in columns},
            shares={name: float(share[at]) for name, share in shares.items()},
            prior=float(prior[at, decided[at]]),
        )
        for at in wrong
    ]


def _pictures(sources: Mapping[str, Source], row: Rows) -> dict[str, str]:
    return {
        name: data_uri(source.read(row)[0].permute(1, 2, 0).numpy(), _SIDE)
        for name, source in sources.items()
        if isinstance(source, ImageSource) and source.present[row[0]]
    }


def _short(value: Any) -> str:
    """Return a cell's text, cut where it is long."""
    if pd.isna(value):
        return "missing"
    text = str(value)
    return text if len(text) <= _LETTERS else text[: _LETTERS - 1].rstrip() + "…"
