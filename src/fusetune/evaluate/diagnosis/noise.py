"""How a model fares as its inputs get noisier, each modality for itself and all of them at once.

The protocol of QMF (arXiv 2306.02050) at levels 0 to 1, where level 1 means

- of pictures: Gaussian noise of deviation 0.4 on every pixel value from 0 to 1, which is then cut to that range;
- of texts: each word is left out with probability 0.8, but one always stays;
- of cells and vectors: Gaussian noise on the features that their encoder makes of them, of twice each feature's own
  deviation over the rows.

Half the level means half the deviation, or half the probability. What is drawn is a function of the row's key and the
seed; the same draw is used at every level, so that only its size changes along a curve.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fusetune.augment.random import Moment, each_key, normal, uniform
from fusetune.data.images import ImageInput
from fusetune.data.schema import free_name
from fusetune.data.several import as_objects
from fusetune.data.source import Bag
from fusetune.data.split import Rows
from fusetune.data.table import Table, with_columns
from fusetune.data.tokens import TextInput
from fusetune.evaluate.diagnosis.asked import ALL, Asked, Diagnosed, as_it_is, plain_answers
from fusetune.evaluate.diagnosis.curves import Curve, curves, judged_rows
from fusetune.evaluate.metrics import IntArray

LEVELS = (0.0, 0.25, 0.5, 0.75, 1.0)
PIXELS, WORDS, FEATURES = 0.4, 0.8, 2.0  # at level 1


def noise_curves(model: Diagnosed, asked: Asked, *, resamples: int, seed: int) -> list[Curve]:
    """Return one curve per modality, and with several one for all of them together, called `ALL`.

    Args:
        model: The saved model.
        asked: The rows.
        resamples: Bootstrap samples behind each interval.
        seed: Of noise and resamples.
    """
    probe, present = model.probe(asked), asked.judged.outputs.present
    noisy = {name: noisy_features(model, name, asked, seed) for name in model.modalities}
    targets: dict[str, list[str]] = {name: [name] for name in noisy}
    if len(noisy) > 1:
        targets[free_name(ALL, noisy)] = list(noisy)
    plain, right, lost = plain_answers(probe), {}, {}
    for title, names in targets.items():
        changed = [probe.again(present, {name: noisy[name][at] for name in names}) for at in range(1, len(LEVELS))]
        right[title], lost[title] = judged_rows([plain, *changed], asked.judged.labels, probe.measure)
    told = asked.judged
    return curves(LEVELS, right, lost, told.labels, told.groups, told.measure, resamples=resamples, seed=seed)


def noisy_features(model: Diagnosed, name: str, asked: Asked, seed: int) -> list[Tensor]:
    """Return a modality's features at each of `LEVELS`, float32 [rows, dim]; those at level 0 are the stored ones."""
    z, fitted = asked.judged.outputs.z[name], model.readers[name].fitted
    what = f"adding noise to {name}"
    match fitted:
        case ImageInput():
            keys = dict(zip(asked.where.tolist(), np.asarray(asked.judged.keys).tolist(), strict=True))
            changes = [partial(noisy_pixels, keys=keys, deviation=PIXELS * level, seed=seed) for level in LEVELS[1:]]
            return [z, *model.encode(name, asked, list(changes), what)]
        case TextInput():
            found = [z]
            for level in LEVELS[1:]:
                fewer = asked.table
                for column in model.readers[name].columns:
                    fewer = fewer_words(fewer, column, asked.where, asked.judged.keys, WORDS * level, seed)
                found += model.encode(name, asked, [as_it_is], what, source=model.readers[name].bind(fewer))
            return found
        case _:
            has = asked.has(name)
            spread = z[torch.from_numpy(has)].std(0, correction=0) if has.any() else torch.zeros(z.shape[1])
            drawn = normal(Moment(seed), torch.from_numpy(np.asarray(asked.judged.keys)), f"noise {name}", z.shape[1])
            return [z, *(z + FEATURES * level * spread * drawn for level in LEVELS[1:])]


def noisy_pixels(pictures: Any, rows: Rows, *, keys: Mapping[int, int], deviation: float, seed: int) -> Any:
    """Return pictures with Gaussian noise, cut to 0..1.

    Args:
        pictures: float32 [rows, 3, side, side] in 0..1, or a bag of such pictures.
        rows: Their positions in the table.
        keys: Row key by position.
        deviation: Of the noise.
        seed: Of the noise.
    """
    own = torch.tensor(
        [keys[int(row)] for row in rows],
        dtype=torch.int64,
        device=(pictures.row if isinstance(pictures, Bag) else pictures).device,
    )
    if isinstance(pictures, Bag):
        return _noisy_bag(pictures, each_key(own[pictures.row], pictures.rank), deviation, seed)
    return _noisy(pictures, own, deviation, seed)


def _noisy(pictures: Tensor, keys: Tensor, deviation: float, seed: int) -> Tensor:
    drawn = normal(Moment(seed), keys, "pixel noise", pictures[0].numel()).view(pictures.shape)
    return (pictures + deviation * drawn).clamp(0, 1)


def _noisy_bag(bag: Bag, keys: Tensor, deviation: float, seed: int) -> Bag:
    """Return a bag of elements that stand at one place each, made noisy as they are read; `keys` are theirs."""

    def noisy(some: dict[str, Tensor]) -> Tensor:
        seen = some["pixels"] if bag.see is None else bag.see(some["pixels"])
        return _noisy(seen, some["keys"], deviation, seed)

    return replace(bag, elements={"pixels": bag.elements, "keys": keys}, see=noisy)


def fewer_words(table: Table, column: str, rows: Rows, keys: IntArray, share: float, seed: int) -> Table:
    """Return a table in whose texts each word is left out with some probability; at least one word stays.

    Words are what stands between blanks. The texts of other rows stay as they are.

    Args:
        table: The table.
        column: Its column of texts.
        rows: Positions of the rows.
        keys: Their keys, ``int64 [rows]``.
        share: The probability.
        seed: Of what is left out.
    """
    cells: list[Any] = table.column(column).astype(object).tolist()

    def fewer(text: Any, key: Tensor) -> Any:
        words = text.split() if isinstance(text, str) else []
        if not words:
            return text
        chance = uniform(Moment(seed), key[None], "word noise", len(words))[0].numpy()
        stays = (chance >= share) | (np.arange(len(words)) == chance.argmax())
        return " ".join(word for word, kept in zip(words, stays, strict=True) if kept)

    for row, key in zip(rows.tolist(), torch.from_numpy(np.asarray(keys)), strict=True):
        cell = cells[row]
        if isinstance(cell, tuple):  # several texts
            own = each_key(key.repeat(len(cell)), torch.arange(len(cell)))
            cells[row] = tuple(map(fewer, cell, own))
        else:
            cells[row] = fewer(cell, key)
    return replace(table, frame=with_columns(table.frame, {column: as_objects(cells)}))
