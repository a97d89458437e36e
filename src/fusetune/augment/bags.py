"""Augmentation of rows with several elements: each element has draws of its own, and of many some are drawn.

The elements of a row are told apart by their number in the row (in order of their content); the first has the row's own
key. A row with one element is thus augmented as a plain row is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fusetune.augment import Augment
from fusetune.augment.random import Moment, each_key, uniform
from fusetune.data.bags import BagSource
from fusetune.data.several import Places
from fusetune.data.source import Bag
from fusetune.data.split import Rows


@dataclass(frozen=True)
class BagAugment(Augment):
    """Turns bags of raw inputs into bags of what an encoder sees.

    Attributes:
        one: What happens to each element.
    """

    one: Augment

    @property
    def varies(self) -> bool:
        """Can two views of the same input differ?"""
        return self.one.varies

    @property
    def fleeting(self) -> str | None:
        """A word that no other run has, where nobody can tell all that the views depend on."""
        return self.one.fleeting

    def describe(self) -> dict[str, object]:
        """Return what the results depend on, for the feature store's key."""
        return {"each element": self.one.describe()}

    def plain(self, inputs: Bag) -> Bag:
        """Return the bag without randomness; its elements are made ready when an encoder takes them."""
        return replace(inputs, see=self.one.plain)

    def draw(self, inputs: Bag, keys: Tensor, moment: Moment) -> Bag:
        """Return one random view of every element; `keys` are those of the rows, int64 [rows]."""
        return self.draw_views(inputs, keys, [moment])

    def draw_views(self, inputs: Bag, keys: Tensor, moments: Sequence[Moment]) -> Bag:
        """Return a bag for all views: row r of view v is at place ``v * rows + r``."""
        own = each_key(keys[inputs.row], inputs.rank)
        seen: Any = self.one.draw_views(inputs.seen(inputs.index), own, moments)
        views = torch.arange(len(moments), device=keys.device).repeat_interleave(len(own))
        row = inputs.row.repeat(len(moments)) + views * inputs.count
        places = torch.arange(len(row), device=keys.device)
        return Bag(seen, places, row, inputs.rank.repeat(len(moments)), inputs.count * len(moments))


def place_keys(source: BagSource, places: Places, keys: npt.NDArray[np.int64]) -> Tensor:
    """Return the key of each place, int64 [places]; `keys` are those of all rows of the table."""
    row = source.row[places]
    return each_key(torch.from_numpy(keys[row]), torch.from_numpy(places - source.offsets[row]))


def drawn_places(source: BagSource, rows: Rows, keys: npt.NDArray[np.int64], moment: Moment, most: int) -> Places:
    """Return the places of some rows, of rows with more than `most` elements so many that are drawn by chance.

    Args:
        source: The bags.
        rows: Row positions.
        keys: Row key per row of the table.
        moment: Decides what is drawn.
        most: Elements of a row.
    """
    places = source.places(rows)
    if not len(places) or source.counts[rows].max() <= most:
        return places
    chance = uniform(moment, place_keys(source, places, keys), "which elements", 1)[:, 0].numpy()
    owner = np.repeat(np.arange(len(rows)), source.counts[rows])
    order = np.lexsort((chance, owner))
    starts = np.concatenate([[0], np.cumsum(source.counts[rows])])[owner[order]]
    kept: Places = places[np.sort(order[np.arange(len(order)) - starts < most])]
    return kept
