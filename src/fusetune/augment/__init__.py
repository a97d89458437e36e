"""Fresh randomness for every sample of every batch, as a pure function of (seed, epoch, view, row)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fusetune.augment.random import Moment


class Augment(ABC):
    """Turns raw inputs of one modality into what its encoder sees."""

    @property
    @abstractmethod
    def varies(self) -> bool:
        """Can two views of the same input differ?"""

    @property
    def fleeting(self) -> str | None:
        """Where nobody can tell all that the random views depend on: a word that no other run has."""
        return None

    @abstractmethod
    def describe(self) -> dict[str, object]:
        """Return what the results depend on, for the feature store's key."""

    def plain(self, inputs: Any) -> Any:
        """Return the inputs without randomness."""
        return inputs

    @abstractmethod
    def draw(self, inputs: Any, keys: Tensor, moment: Moment) -> Any:
        """Return one random view of the inputs [rows, ...], whose row keys are int64 [rows]."""

    def draw_views(self, inputs: Any, keys: Tensor, moments: Sequence[Moment]) -> Any:
        """Return one view per moment of inputs that are read once (Hoffer et al. 2020, arXiv 1901.09335).

        Row r of view v is at place ``v * rows + r``.
        """
        views = [self.draw(inputs, keys, moment) for moment in moments]
        if isinstance(views[0], Tensor):
            return torch.cat(views)
        return {name: torch.cat([view[name] for view in views]) for name in views[0]}
