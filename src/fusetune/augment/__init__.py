"""Fresh randomness for every sample of every batch, as a pure function of (seed, epoch, view, row)."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor

from fusetune.augment.random import Moment


class Augment(Protocol):
    """Turns raw inputs of one modality into what its encoder sees."""

    @property
    def varies(self) -> bool:
        """Can two views of the same input differ?"""
        ...

    def describe(self) -> dict[str, object]:
        """Return what the results depend on."""
        ...

    def plain(self, inputs: Any) -> Any:
        """Return the inputs without randomness."""
        ...

    def draw(self, inputs: Any, keys: Tensor, moment: Moment) -> Any:
        """Return one random view of the inputs."""
        ...
