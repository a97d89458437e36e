"""A moving average of the weights: less noisy than any single epoch's, at the cost of one addition per step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Average:
    """The exponential moving average of a model's parameters and floating-point buffers.

    Args:
        model: The model that is trained.
        decay: Weight of the past; early on it is (1 + steps) / (10 + steps), so that the start is forgotten quickly.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model, self.decay, self.steps = model, decay, 0
        self.shadow = {name: tensor.detach().clone() for name, tensor in self._tensors().items()}

    def update(self) -> None:
        """Take in the weights after an optimiser step."""
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        self.steps += 1
        current = self._tensors()
        torch._foreach_lerp_([self.shadow[name] for name in current], list(current.values()), 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Give the model the averaged weights inside the block, its own after it."""
        own = {name: tensor.clone() for name, tensor in self._tensors().items()}
        self._write(self.shadow)
        try:
            yield
        finally:
            self._write(own)

    def state(self) -> dict[str, object]:
        """Return what a checkpoint needs."""
        return {"shadow": self.shadow, "steps": self.steps}

    def restore(self, shadow: dict[str, Tensor], steps: int) -> None:
        """Continue from a checkpoint's state."""
        for name, tensor in shadow.items():
            self.shadow[name].copy_(tensor)
        self.steps = steps

    def _tensors(self) -> dict[str, Tensor]:
        return {name: tensor for name, tensor in self.model.state_dict().items() if tensor.is_floating_point()}

    def _write(self, source: dict[str, Tensor]) -> None:
        for name, tensor in self._tensors().items():
            tensor.copy_(source[name])
