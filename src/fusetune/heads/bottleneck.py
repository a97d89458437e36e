"""A head that reads one modality, and what a chain of information bottlenecks has learnt to keep of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fusetune.encoders.layers import blank_linear
from fusetune.heads.base import Head

_LARGEST = 10.0  # of a log variance: beyond it, float32 has nothing left of the mean


@dataclass(frozen=True)
class Narrowed:
    """One bottleneck of a chain.

    Attributes:
        mean: Of the Gaussian, [batch, width].
        log_variance: Of each of its values, [batch, width].
        sample: What goes on from here, [batch, width]: a draw in training, the mean else.
    """

    mean: Tensor
    log_variance: Tensor
    sample: Tensor


class BottleneckHead(Head):
    """f = A [x + shift h(b)] + a, with the prime modality's standardised features x and the last bottleneck b.

    Other modalities are not read, and none of their features is needed. Where the prime modality is absent, f is a
    constant.

    Args:
        dims: Width of each modality's features, by name.
        classes: Number of classes.
        prime: The modality that is read.
        width: Width of the bottlenecks and of the layers before them.
        shift: Weight of what comes out of the chain.
    """

    kind = "bottleneck"

    def __init__(
        self, dims: Mapping[str, int], classes: int, prime: str = "", width: int = 64, shift: float = 1.0
    ) -> None:
        super().__init__(dims, classes)
        if prime not in self.dims:
            raise ValueError(f"there is no block '{prime}' that the chain could begin with")
        self.prime, self.joint, self.shift = prime, width, shift
        widths = [self.dims[prime], *[width] * (len(self.dims) - 2)]
        self.narrow = nn.ModuleList(
            nn.Sequential(nn.Linear(one, width), nn.ReLU(), nn.Linear(width, 2 * width))
            for one in widths[: len(self.dims) - 1]
        )
        # It begins with nothing, so that training begins with the linear classifier on the prime modality.
        self.back = blank_linear(width, self.dims[prime])
        self.linear = blank_linear(self.dims[prime] + 1, classes)

    def chain(self, z: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> list[Narrowed]:
        """Return the bottlenecks in their order, one per modality beside the prime one; draws noise in training."""
        states, x = [], self._standardised(z, present) * self.dims[self.prime] ** 0.5
        for layer in self.narrow:
            mean, log_variance = layer(x).chunk(2, 1)
            log_variance = log_variance.clamp(-_LARGEST, _LARGEST)
            noise = torch.randn_like(mean) * (log_variance / 2).exp() if self.training else 0.0
            x = mean + noise
            states.append(Narrowed(mean, log_variance, x))
        return states

    def forward(self, z: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
        """Return logits [batch, classes]."""
        has, x = present[self.prime][:, None], self._standardised(z, present)
        states = self.chain(z, present)
        if states:
            x = x + self.shift * self.back(states[-1].sample) * has
        logits: Tensor = self.linear(torch.cat([x, (~has).float()], 1))
        return logits

    def describe(self) -> dict[str, Any]:
        """Return what `build_head` needs to make this head again."""
        return super().describe() | {"prime": self.prime, "width": self.joint, "shift": self.shift}

    def _standardised(self, z: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
        return self.blocks(z, present)[list(self.dims).index(self.prime)]
