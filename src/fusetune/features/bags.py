"""Features of rows with several elements: the store keeps those of elements, and rows are pooled from them.

A picture that is in several rows, or several times in one, is encoded once. Views of it differ, and are encoded each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import torch

from fusetune.augment.bags import BagAugment, place_keys
from fusetune.augment.random import Moment
from fusetune.data.bags import BagSource
from fusetune.data.several import Places
from fusetune.data.source import Inputs, Source
from fusetune.data.split import Rows
from fusetune.encoders import Bagged
from fusetune.features.store import Array, Encoding, FeatureStore


@dataclass
class _Placed:
    """The elements at some places, as rows of a source of their own."""

    elements: Source
    index: Places
    present: npt.NDArray[np.bool_]
    digests: npt.NDArray[np.uint64]
    problems: dict[int, str] = field(default_factory=dict)
    unseen: dict[int, str] = field(default_factory=dict)

    @classmethod
    def of(cls, elements: Source, index: Places) -> _Placed:
        return cls(elements, index, elements.present[index], elements.digests[index])

    @property
    def lengths(self) -> npt.NDArray[np.int64] | None:
        own = self.elements.lengths
        return None if own is None else own[self.index]

    def read(self, rows: Rows) -> Inputs:
        return self.elements.read(self.index[rows])

    def some(self, rows: Rows) -> Source:
        return self.elements.some(self.index[rows])


def encode_bags(
    store: FeatureStore,
    what: Encoding,
    encoder: Bagged,
    source: BagSource,
    rows: Rows,
    views: Sequence[Moment] | None,
) -> Array:
    """Return the features of rows, from those of their elements.

    Args:
        store: Keeps the features of elements.
        what: As for `FeatureStore.encode`.
        encoder: The encoder of `what`.
        source: The source of `what`.
        rows: Row positions; rows without any element get zeros.
        views: One augmented view of every element per moment, or None for the plain inputs.

    Returns:
        float32 [views or 1, rows, dim].
    """
    have = source.present[rows]
    places = source.places(rows[have])
    assert isinstance(what.augment, BagAugment)
    placed = _Placed.of(source.elements, source.index[places])
    keys = place_keys(source, places, what.keys).numpy()
    each = replace(what, encoder=encoder.base, source=placed, augment=what.augment.one, keys=keys)
    z = store.encode(each, np.arange(len(places)), views)
    result = np.zeros((len(z), len(rows), encoder.dim), dtype=np.float32)
    if not have.any():
        return result
    count, device = int(have.sum()), store.runtime.device
    row = torch.from_numpy(np.repeat(np.arange(count), source.counts[rows[have]])).to(device)
    encoder.eval()
    with torch.inference_mode():
        for view, own in enumerate(z):
            pooled = encoder.pooled(torch.from_numpy(np.array(own)).to(device), row, count)
            result[view, have] = pooled.cpu().numpy()
    return result
