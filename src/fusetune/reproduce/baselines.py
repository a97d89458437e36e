"""What can be had without any network: a constant per stream or place, and the nearest frame's label (L1, L2)."""

from __future__ import annotations

import numpy as np
import pandas as pd

from fusetune.data.split import Rows
from fusetune.reproduce.material import Material


def constant_by(material: Material, column: str) -> float:
    """Return the accuracy of the best constant per value of a column, fitted and judged on all rows: an upper bound."""
    values = material.table.frame[column].astype("str")
    counts = pd.crosstab(values.to_numpy(), material.labels)
    return float(counts.max(axis=1).sum() / len(values))


def nearest_frame(material: Material, train: Rows, test: Rows) -> tuple[float, float]:
    """Return how often the label of the nearest training frame of the same stream is the test frame's own.

    Frames of a stream without any training frame get the most frequent training label.

    Returns:
        Accuracy, and the mean distance in frames where there is a training frame of the same stream (NaN: nowhere).
    """
    frame = material.table.frame
    streams, numbers = frame["stream"].astype("str").to_numpy(), frame["frame"].to_numpy(dtype=np.float64)
    guess = np.full(len(frame), np.bincount(material.labels[train]).argmax())
    distance = np.full(len(frame), np.nan)
    for stream in np.unique(streams[test]):
        near, asked = train[streams[train] == stream], test[streams[test] == stream]
        if len(near):
            gaps = np.abs(numbers[asked][:, None] - numbers[near])
            guess[asked] = material.labels[near[gaps.argmin(1)]]
            distance[asked] = gaps.min(1)
    known = distance[test][np.isfinite(distance[test])]
    accuracy = float((guess[test] == material.labels[test]).mean())
    return accuracy, float(known.mean()) if len(known) else float("nan")


def shared_groups(material: Material, train: Rows, test: Rows) -> tuple[int, int]:
    """Return how many of the test rows' streams also have training rows, and how many streams the test rows have."""
    assert material.groups is not None
    found = set(material.groups.iloc[test])
    return len(found & set(material.groups.iloc[train])), len(found)
