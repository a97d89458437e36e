"""Why one row is decided as it is: what the decision's probability loses when a part of the row is taken away.

Parts are image regions (occlusion, Zeiler and Fergus 2014, arXiv 1311.2901), words, cells and vector dimensions; whole
modalities get exact Shapley shares. An effect is the probability with everything less the probability without the part:
positive speaks for the decision. It says what the model uses, not what causes the label.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fusetune.evaluate.metrics import FloatArray
from fusetune.evaluate.modalities import Probe
from fusetune.progress import bar
from fusetune.telling import amount

_BATCH = 32
_GRID = 8  # windows per side; each covers a fifth of the side, so that neighbours overlap
_WINDOW = 0.2

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Effect:
    """One part of a row.

    Attributes:
        name: A word, or a column with its value.
        effect: Probability of the decision with everything less that without the part.
        typical: For a cell, the same when it is not missing but the training mean or the most frequent category.
    """

    name: str
    effect: float
    typical: float | None = None


@dataclass(frozen=True, eq=False)
class Explanation:
    """Why one row is decided as it is.

    Attributes:
        row: Its id.
        decision: What the model says.
        probability: How sure it is.
        prior: Probability of the decision without any input.
        shares: Modality -> exact Shapley share; shares and prior sum to the probability. Absent modalities have 0.
        probabilities: Class -> probability.
        absent: Modalities that the row lacks.
        pictures: Image modality -> what the encoder sees, uint8 [side, side, 3]. Of rows with several pictures, the
            strongest ones are there by their names.
        maps: Image modality -> mean effect of the windows over each pixel, float [side, side].
        effects: Other modality -> effects of its words, cells or dimensions, or of the elements of a row with several.
        size: Of a number, the size by which it and effects are printed, in its unit: then `probability`, `prior` and
            `probabilities` are numbers, and `decision` is what the number is called. None: they are shares.
    """

    row: str
    decision: str
    probability: float
    prior: float
    shares: dict[str, float]
    probabilities: dict[str, float]
    absent: list[str]
    pictures: dict[str, Pixels] = field(default_factory=dict)
    maps: dict[str, FloatArray] = field(default_factory=dict)
    effects: dict[str, list[Effect]] = field(default_factory=dict)
    size: float | None = None

    def shown(self, answer: float) -> str:
        """Print the answer, or what it would be without inputs: a share in percent, or a number in its unit."""
        return f"{answer:.1%}" if self.size is None else amount(answer, self.size)

    def changed(self, effect: float, unit: str = " points") -> str:
        """Print an effect with its sign: percentage points, whose unit follows, or an amount in the number's unit."""
        if self.size is None:
            return f"{100 * effect:+.1f}{unit}"
        text = amount(effect, self.size)
        return text if text.startswith("-") else f"+{text}"

    @property
    def most_probable(self) -> bool:
        """Is the decision the most probable class? A threshold may say otherwise; of a number there is nothing else."""
        return self.probability >= max(self.probabilities.values(), default=0.0)


def effects(probe: Probe, modality: str, changed: Iterator[Any], count: int) -> FloatArray:
    """Return how much the decision's probability loses by each change of one modality, ``float [changes]``.

    `changed` yields `count` batches of inputs of its encoders, on their device. Only these run; all else is kept.
    """
    probabilities, decision, network = [], int(probe.decide(probe.p)[0]), probe.network
    encoders = [e for e, owner in zip(network.encoders, network.owners, strict=True) if owner == modality]
    with torch.inference_mode(), bar(f"explaining {modality}", count) as progress:
        for inputs in changed:
            z = torch.cat([encoder(inputs).float() for encoder in encoders], 1).cpu()
            copies = replace(probe, outputs=probe.outputs.some([0] * len(z)))
            probabilities.append(copies.again(copies.outputs.present, {modality: z})[:, decision])
            progress.advance()
    return np.asarray(probe.p[0, decision] - np.concatenate(probabilities))


def _as_it_is(inputs: Any) -> Any:
    return inputs


def occlusion(probe: Probe, modality: str, image: Tensor, wrap: Callable[[Any], Any] = _as_it_is) -> FloatArray:
    """Return the occlusion map of one image ``[1, 3, side, side]``, as the encoder sees it.

    Windows of a fifth of the side take the image's mean colour, one at a time. The map holds the mean effect of the
    windows that cover each pixel, ``float [side, side]``. `wrap` makes what the modality's encoders take of the images,
    where these take more than that.
    """
    side = image.shape[-1]
    window = max(1, round(_WINDOW * side))
    starts = np.unique(np.linspace(0, side - window, _GRID).round().astype(int))
    corners = [(int(top), int(left)) for top in starts for left in starts]
    colour = image.mean((2, 3), keepdim=True)

    def covered(some: Sequence[tuple[int, int]]) -> Tensor:
        copies = image.repeat(len(some), 1, 1, 1)
        for at, (top, left) in enumerate(some):
            copies[at, :, top : top + window, left : left + window] = colour[0]
        return copies

    losses = effects(probe, modality, *batches(lambda some: wrap(covered(some)), corners))
    total, times = np.zeros((side, side)), np.zeros((side, side))
    for (top, left), effect in zip(corners, losses, strict=True):
        total[top : top + window, left : left + window] += effect
        times[top : top + window, left : left + window] += 1
    return np.asarray(total / np.maximum(times, 1))


def words(
    probe: Probe,
    modality: str,
    inputs: Mapping[str, Tensor],
    named: Sequence[tuple[str, Sequence[int]]],
    wrap: Callable[[Any], Any] = _as_it_is,
) -> list[Effect]:
    """Return the effect of leaving out each word; words come with the positions of their tokens ``[1, tokens]``.

    `wrap` is as for `occlusion`.
    """
    ids, mask = inputs["ids"], inputs["mask"]

    def without(some: Sequence[tuple[str, Sequence[int]]]) -> dict[str, Tensor]:
        keep = mask.repeat(len(some), 1)
        for at, (_, positions) in enumerate(some):
            keep[at, list(positions)] = False
        # What is left moves together, so that no gap tells where the word was.
        order = torch.argsort((~keep).to(torch.int8), dim=1, stable=True)
        return {"ids": torch.gather(ids.repeat(len(some), 1), 1, order), "mask": torch.gather(keep, 1, order)}

    if not named:
        return []
    losses = effects(probe, modality, *batches(lambda some: wrap(without(some)), named))
    return [Effect(word, float(effect)) for (word, _), effect in zip(named, losses, strict=True)]


def cells(
    probe: Probe,
    modality: str,
    inputs: Mapping[str, Tensor],
    numbers: Mapping[str, Sequence[int]],
    codes: Mapping[str, int],
    values: Mapping[str, str],
) -> list[Effect]:
    """Return the effect of each cell, made missing and made typical.

    Args:
        probe: The model and the row.
        modality: The cells' modality.
        inputs: numbers, missing and codes, ``[1, ...]``.
        numbers: Column -> its standardised numbers (a date has three); 0 is the training mean.
        codes: Column -> its category; 0 is missing, 2 the most frequent one.
        values: Column -> its value, in words.
    """
    versions = []
    for column in values:
        for missing in (True, False):
            copy = {name: tensor.clone() for name, tensor in inputs.items()}
            for at in numbers.get(column, ()):
                copy["numbers"][0, at], copy["missing"][0, at] = 0.0, missing
            if column in codes:
                copy["codes"][0, codes[column]] = 0 if missing else 2
            versions.append(copy)
    batch = {name: torch.cat([version[name] for version in versions]) for name in inputs}
    losses = effects(probe, modality, iter([batch]), 1).reshape(-1, 2)
    return [
        Effect(f"{column} = {value}", float(gone), float(typical))
        for (column, value), (gone, typical) in zip(values.items(), losses, strict=True)
    ]


def dimensions(probe: Probe, modality: str, vector: Tensor, names: Sequence[str]) -> list[Effect]:
    """Return the effect of setting each dimension of a standardised vector ``[1, dimensions]`` to its training mean."""

    def typical(some: Sequence[int]) -> Tensor:
        copies = vector.repeat(len(some), 1)
        copies[torch.arange(len(some)), torch.tensor(some)] = 0.0
        return copies

    losses = effects(probe, modality, *batches(typical, range(vector.shape[1])))
    return [Effect(name, float(effect)) for name, effect in zip(names, losses, strict=True)]


def batches(change: Callable[[Any], Any], items: Sequence[Any]) -> tuple[Iterator[Any], int]:
    """Return batches of changed inputs, and their number."""
    starts = range(0, len(items), _BATCH)
    return (change(items[start : start + _BATCH]) for start in starts), len(starts)
