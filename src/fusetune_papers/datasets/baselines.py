"""What FPUS23's labels give away without any picture: the same label nearby, and the stream's name.

A score on frames means something only beside these two. Needs the table alone (`fpus23_table`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from fusetune.data.neighbours import nearest_numbers


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


def nearest_frame(table: pd.DataFrame, task: str) -> Nearest:
    """Predict test frames by the nearest training frame of their stream; the earlier one where two are as near."""
    part, labels = table["split"].to_numpy(), table[task].to_numpy()
    streams, numbers = pd.factorize(table["stream"])[0].astype(np.int64), table["frame"].to_numpy(dtype=np.float64)
    train, test = np.flatnonzero(part == "train"), np.flatnonzero(part == "test")
    alone = ~np.isin(streams[test], streams[train])
    near, away = nearest_numbers(streams, numbers, test[~alone], train)
    hits = (labels[near] == labels[test[~alone]]).sum() + (
        labels[test[alone]] == table[task].iloc[train].mode()[0]
    ).sum()
    return Nearest(float(hits / len(test)), len(test), pd.Series(away))
