"""Whether a network's encoders have learnt less than their modality would have taught them alone.

A network that is trained on all modalities together may leave encoders behind, since the strong modality already lowers
the loss ("modality laziness": Du et al. 2023, arXiv 2305.01233; the same group's arXiv 2106.11059). It shows when
a linear classifier on the frozen features phi_m(x_m) of the saved network, solved on training rows with the penalty
chosen on validation rows, is worse than what the modality reaches by itself:

    laziness_m = accuracy(modality m alone) - accuracy(probe on phi_m)

Positive values speak of laziness. `alone` is a network that was trained on modality m only. Beside it, or where there
is none, stands the probe on the features of the same encoder as it was before training, which costs no training.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fusetune.config import Config, HeadConfig
from fusetune.encoders import Encoder, Stacked
from fusetune.errors import WeightsError
from fusetune.evaluate.diagnosis.asked import Asked, Diagnosed, as_it_is
from fusetune.evaluate.intervals import Interval
from fusetune.evaluate.metrics import FloatArray
from fusetune.heads.base import HeadData, logits_of
from fusetune.heads.solver import fit_logistic
from fusetune.inputs import before_training

BEFORE, ALONE = "before training", "alone"
_BLOCK = "features"


@dataclass(frozen=True)
class Parts:
    """The rows of a probe: solved on `learn`, its penalty chosen on `choose`, judged on `judged`."""

    learn: Asked
    choose: Asked
    judged: Asked


@dataclass(frozen=True)
class Reference:
    """What a modality reaches without the network, and how far its probe is behind.

    Attributes:
        name: `before training`: a probe on the encoder as it was; `alone`: a network trained on the modality only.
        accuracy: Score of the reference.
        nll: Its loss.
        laziness: Its score less the probe's, paired; positive: the network's encoder knows less.
        laziness_nll: The probe's loss less that of the reference; positive: the same.
    """

    name: str
    accuracy: Interval
    nll: Interval
    laziness: Interval
    laziness_nll: Interval


@dataclass(frozen=True)
class Laziness:
    """The probe of one modality.

    Attributes:
        modality: Its name.
        rows: Judged rows that have it.
        groups: Their groups; None where rows are not grouped.
        learnt: Rows that the probe was solved on.
        chosen: Rows that its penalty was chosen on.
        choice: The penalty, in words.
        accuracy: Score of the probe on the network's features.
        nll: Loss of the same.
        references: What it is compared with.
    """

    modality: str
    rows: int
    groups: int | None
    learnt: int
    chosen: int
    choice: str
    accuracy: Interval
    nll: Interval
    references: list[Reference]


def probe_laziness(
    model: Diagnosed, parts: Parts, alone: Mapping[str, FloatArray], config: Config, *, resamples: int, seed: int
) -> tuple[list[Laziness], list[str]]:
    """Return the probe of every modality, and what could not be asked.

    Args:
        model: The saved model.
        parts: The rows.
        alone: By modality, answers about the judged rows by an independently trained unimodal network, ``float
            [rows, width]``.
        config: The run's settings: which encoders it started from.
        resamples: Bootstrap samples behind each interval.
        seed: Of the resamples.
    """
    found, notes, how = [], [], {"resamples": resamples, "seed": seed}
    for name in model.modalities:
        some = Parts(*(asked.some(asked.has(name)) for asked in (parts.learn, parts.choose, parts.judged)))
        if not (len(some.learn) and len(some.choose) and len(some.judged)):
            notes.append(f"{name}: no probe, since no row to learn from, to choose on or to judge has it")
            continue
        y, groups = some.judged.judged.labels, some.judged.judged.groups
        own = [asked.judged.outputs.z[name].numpy() for asked in (some.learn, some.choose, some.judged)]
        p, choice = solved(own, some, model.network.classes)
        measure, others = some.judged.judged.measure, {}
        try:
            others[BEFORE], _ = solved(_before(model, name, some, config), some, model.network.classes)
        except WeightsError as error:
            notes.append(f"{name}: no probe on the encoder as it was before training, since {error}")
        if name in alone:
            others[ALONE] = alone[name][parts.judged.has(name)]
        (score, loss), *scores = measure.pairs([p, *others.values()], y, groups, **how)
        references = []
        for (title, other), of in zip(others.items(), scores, strict=True):
            behind, _ = measure.difference(other, p, y, groups, **how)
            _, higher = measure.difference(p, other, y, groups, **how)
            references.append(Reference(title, *of, behind, higher))
        found.append(
            Laziness(
                modality=name,
                rows=len(some.judged),
                groups=some.judged.group_count,
                learnt=len(some.learn),
                chosen=len(some.choose),
                choice=choice,
                accuracy=score,
                nll=loss,
                references=references,
            )
        )
    return found, notes


def solved(z: list[NDArray[np.float32]], parts: Parts, classes: int) -> tuple[FloatArray, str]:
    """Solve the target's linear model on standardised features, its L2 penalty chosen by validation NLL.

    Of classes it is multinomial logistic regression, of labels one logistic regression each, of a number ridge
    regression.

    Args:
        z: Features of the rows of each part, ``float32 [rows, dim]``.
        parts: The rows; all of them have the modality.
        classes: How many numbers are said of a row.

    Returns:
        Answers about the judged rows, ``float [rows, classes]``, and the choice in words.
    """
    learn, choose, judged = (
        _data(own, asked) for own, asked in zip(z, (parts.learn, parts.choose, parts.judged), strict=True)
    )
    fit = fit_logistic(learn, choose, HeadConfig(modality_dropout=0), classes, seed=0)
    return parts.judged.judged.measure.say(logits_of(fit.head, judged).double().numpy()), fit.choice


def _data(z: NDArray[np.float32], asked: Asked) -> HeadData:
    ones = np.ones(len(asked))
    labels, keys = asked.judged.labels, np.asarray(asked.judged.keys, dtype=np.int64)
    blocks, target = {_BLOCK: np.asarray(z)[None]}, type(asked.judged.measure.target)
    return HeadData(blocks, {_BLOCK: ones.astype(bool)}, labels, ones, keys, target=target)


def _before(model: Diagnosed, name: str, parts: Parts, config: Config) -> list[NDArray[np.float32]]:
    encoder = _encoder_before(model, name, config).to(model.runtime.device).eval().requires_grad_(False)
    what = f"encoding {name} as before training"
    asked = (parts.learn, parts.choose, parts.judged)
    return [model.encode(name, some, [as_it_is], what, encoders=[encoder])[0].numpy() for some in asked]


def _encoder_before(model: Diagnosed, name: str, config: Config) -> Encoder:
    """Return the modality's encoder as it was; what was trained on stored features stands on it as it was."""
    kept = [encoder for encoder in model.network.of(name) if isinstance(encoder, Stacked)]
    return kept[0].base if kept else before_training(model.readers[name], config)
