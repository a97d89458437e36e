"""A moving average of the weights: less noisy than any single epoch's, at the cost of one addition per step."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


class Average:
    """The exponential moving average of a model's parameters and floating-point buffers; others are the newest ones.

    Args:
        model: The model that is trained.
        decay: Weight of the past; early on it is (1 + steps) / (10 + steps), so that the start is forgotten quickly.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model, self.decay = model, decay
        self.averaged = AveragedModel(model, multi_avg_fn=self._mix, use_buffers=True)
        self.averaged.n_averaged += 1  # the start counts as the first: PyTorch would replace it by the first step

    def update(self) -> None:
        """Take in the weights after an optimiser step."""
        self.averaged.update_parameters(self.model)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Give the model the averaged weights inside the block, its own after it."""
        own = copy.deepcopy(self.model.state_dict())
        self.model.load_state_dict(self.averaged.module.state_dict())
        try:
            yield
        finally:
            self.model.load_state_dict(own)

    def state(self) -> dict[str, object]:
        """Return what a checkpoint needs."""
        return {"averaged": self.averaged.state_dict()}

    def restore(self, averaged: dict[str, Any]) -> None:
        """Continue from a checkpoint's state."""
        self.averaged.load_state_dict(averaged)

    def _mix(self, averaged: Any, current: Any, _: Tensor | int) -> None:
        count = int(self.averaged.n_averaged)
        decay = min(self.decay, count / (count + 9)) if averaged[0].is_floating_point() else 0.0
        get_ema_multi_avg_fn(decay)(averaged, current, count)  # type: ignore[no-untyped-call]
