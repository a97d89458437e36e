"""What it does to decisions when one modality says something false while claiming to be present.

The ways are those of `modalities.INTERFERENCE`: all zero, the mean of the rows, the features of another row of the same
or of another class, or noise. A decision flips when it changes, whether right or wrong; harm is a right one turned
wrong, as a share of all rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fusetune.evaluate import metrics
from fusetune.evaluate.diagnosis.asked import Asked, Diagnosed, plain_probabilities
from fusetune.evaluate.intervals import Interval, means, proportion
from fusetune.evaluate.modalities import misled


@dataclass(frozen=True)
class Interference:
    """One modality misleading in one way.

    Attributes:
        modality: Its name.
        kind: The way, a word of `INTERFERENCE`.
        rows: Rows that have the modality: all others stay as they are, and do not count.
        groups: Their groups; None where rows are not grouped.
        accuracy: Of these rows when misled.
        drop: Their accuracy as they are, less that.
        flip: Share whose decision changes.
        harm: Share decided rightly before and wrongly then.
        nll: NLL when misled.
    """

    modality: str
    kind: str
    rows: int
    groups: int | None
    accuracy: Interval
    drop: Interval
    flip: Interval
    harm: Interval
    nll: Interval


def interference(model: Diagnosed, asked: Asked, *, resamples: int, seed: int) -> list[Interference]:
    """Judge every modality that the network reads, misleading in every way.

    Args:
        model: The saved model.
        asked: The rows.
        resamples: Bootstrap samples behind each interval.
        seed: Of donors, noise and resamples.
    """
    probe, y, every = model.probe(asked), asked.judged.labels, asked.judged.groups
    plain = plain_probabilities(probe)
    found = []
    for (name, kind), p in zip(*misled(probe, y, seed), strict=True):
        has = asked.has(name)
        if not has.any():
            continue
        groups = None if every is None else every[has]
        before, then = metrics.correct_rows(plain, y)[has], metrics.correct_rows(p, y)[has]
        flipped = (metrics.decisions(plain) != metrics.decisions(p))[has]
        columns = np.stack([before.astype(float) - then, metrics.nll_rows(p, y)[has]], axis=1)
        drop, nll = means(columns, groups, resamples=resamples, seed=seed)
        flip, harm = proportion(flipped, groups), proportion(before & ~then, groups)
        count = asked.some(has).group_count
        found.append(Interference(name, kind, int(has.sum()), count, proportion(then, groups), drop, flip, harm, nll))
    return found
