"""What FPUS23's labels give away without any picture: the same label nearby, and the stream's name.

A score on frames means something only beside these two. Needs the table alone (`fpus23_table`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd


@dataclass(frozen=True)
class Nearest:
    """How well the label of the nearest training frame of the same stream predicts held-out frames.

    Attributes:
        accuracy: Share of held-out frames with the same label; streams without training frames get the most common
            training label.
        rows: Number of held-out frames.
        distances: Frames to the nearest training frame, one per held-out frame whose stream has any.
    """

    accuracy: float
    rows: int
    distances: pd.Series


def constant_accuracy(labels: pd.Series, keys: pd.Series) -> float:
    """Return the accuracy of the best constant per key, fitted and judged on the same rows: an upper bound."""
    counts = pd.crosstab(keys, labels)
    return float(counts.max(axis=1).sum() / len(labels))


def fitted_constant(table: pd.DataFrame, task: str, key: str) -> float:
    """Return the test accuracy of the most common training label per value of a column."""
    train, test = table[table["split"] == "train"], table[table["split"] == "test"]
    best = pd.crosstab(train[key], train[task]).idxmax(axis=1)
    return float((test[key].map(best).fillna(train[task].mode()[0]) == test[task]).mean())


def consecutive_agreement(table: pd.DataFrame, task: str) -> float:
    """Return the share of pairs of consecutive frames of a stream that have the same label."""
    ordered = table.sort_values(["stream", "frame"])
    same = ordered["stream"].eq(ordered["stream"].shift())
    return float(ordered[task].eq(ordered[task].shift())[same].mean())


def nearest_frame(table: pd.DataFrame, task: str) -> Nearest:
    """Predict test frames by the nearest training frame of their stream; the earlier one where two are as near."""
    train, test = table[table["split"] == "train"], table[table["split"] == "test"]
    known = {stream: rows.sort_values("frame") for stream, rows in train.groupby("stream")}
    common = train[task].mode()[0]
    hits, distances = 0, [np.empty(0, dtype=np.int64)]
    for stream, rows in test.groupby("stream"):
        if stream not in known:
            hits += int((rows[task] == common).sum())
            continue
        place, away = _nearest(known[stream]["frame"].to_numpy(), rows["frame"].to_numpy())
        hits += int((known[stream][task].to_numpy()[place] == rows[task].to_numpy()).sum())
        distances.append(away)
    return Nearest(hits / len(test), len(test), pd.Series(np.concatenate(distances)))


def _nearest(sorted_numbers: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the position of, and the distance to, the nearest of the sorted numbers."""
    after = np.searchsorted(sorted_numbers, wanted).clip(1, max(len(sorted_numbers) - 1, 1))
    both = np.stack([after - 1, np.minimum(after, len(sorted_numbers) - 1)])
    away = np.abs(sorted_numbers[both] - wanted)
    first = away.argmin(0)
    rows = np.arange(len(wanted))
    return both[first, rows], away[first, rows]
