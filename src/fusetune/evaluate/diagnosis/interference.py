"""What it does to answers when one modality says something false while claiming to be present.

The ways are those of `modalities.INTERFERENCE`: all zero, the mean of the rows, the features of another row of the same
or of another class, or noise. A decision flips when it changes, whether right or wrong (of several labels: when any
does); harm is a wholly right one turned wrong, as a share of all rows. A number is nothing that is decided.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from numpy.typing import ArrayLike

from fusetune.evaluate.diagnosis.asked import Asked, Diagnosed, plain_answers
from fusetune.evaluate.intervals import Interval, proportion
from fusetune.evaluate.measures import Measure
from fusetune.evaluate.metrics import FloatArray
from fusetune.evaluate.modalities import misled
from fusetune.targets import Truth


@dataclass(frozen=True)
class Interference:
    """One modality misleading in one way.

    Attributes:
        modality: Its name.
        kind: The way, a word of `INTERFERENCE`.
        rows: Rows that have the modality: all others stay as they are, and do not count.
        groups: Their groups; None where rows are not grouped.
        accuracy: Score of these rows when misled.
        drop: Their score as they are, less that.
        flip: Share whose decision changes; None where nothing is decided.
        harm: Share decided rightly before and wrongly then; None likewise.
        nll: Loss when misled.
    """

    modality: str
    kind: str
    rows: int
    groups: int | None
    accuracy: Interval
    drop: Interval
    flip: Interval | None
    harm: Interval | None
    nll: Interval


def interference(model: Diagnosed, asked: Asked, *, resamples: int, seed: int) -> list[Interference]:
    """Judge every modality that the network reads, misleading in every way.

    Args:
        model: The saved model.
        asked: The rows.
        resamples: Bootstrap samples behind each interval.
        seed: Of donors, noise and resamples.
    """
    probe, every, measure = model.probe(asked), asked.judged.groups, asked.judged.measure
    y, plain, how = asked.judged.labels, plain_answers(probe), {"resamples": resamples, "seed": seed}
    found = []
    for (name, kind), p in zip(*misled(probe, y, seed), strict=True):
        has = asked.has(name)
        if not has.any():
            continue
        truth, groups = y[has], None if every is None else every[has]
        drop, _ = measure.difference(plain[has], p[has], truth, groups, **how)
        ((score, loss),) = measure.pairs([p[has]], truth, groups, **how)
        flip, harm = _turned(measure, plain[has], p[has], truth, groups)
        count = asked.some(has).group_count
        found.append(Interference(name, kind, int(has.sum()), count, score, drop, flip, harm, loss))
    return found


def _turned(
    measure: Measure[Any], plain: FloatArray, p: FloatArray, truth: Truth, groups: ArrayLike | None
) -> tuple[Interval | None, Interval | None]:
    """Return the share of decisions that change, and of wholly right ones that turn wrong."""
    called, then = measure.called(plain), measure.called(p)
    if called is None or then is None:
        return None, None
    rows = len(truth)
    was, now = ((each.reshape(rows, -1) == truth.reshape(rows, -1)).all(1) for each in (called, then))
    flipped = (called.reshape(rows, -1) != then.reshape(rows, -1)).any(1)
    return proportion(flipped, groups), proportion(was & ~now, groups)
