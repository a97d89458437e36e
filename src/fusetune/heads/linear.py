"""The linear head: late linear fusion, with a constant in the place of what is absent."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fusetune.encoders.layers import blank_linear
from fusetune.heads.base import Head


class LinearHead(Head):
    """f = b + sum_m (W_m z_m if present, else c_m)."""

    kind = "linear"

    def __init__(self, dims: Mapping[str, int], classes: int) -> None:
        super().__init__(dims, classes)
        self.linear = blank_linear(self.width, classes)

    def forward(self, z: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
        """Return logits [batch, classes]."""
        logits: Tensor = self.linear(self.joined(z, present))
        return logits

    def shares(self, z: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
        """Return what each block adds to the logits, [blocks, batch, classes]: W_m z_m + b / M; absent: c_m + b / M."""
        *weights, constants = torch.split(self.linear.weight, [*self.dims.values(), len(self.dims)], 1)
        absent, bias = self.absent(present), self.linear.bias / len(self.dims)
        parts = [
            block @ weight.T + absent[:, at : at + 1] * constants[:, at] + bias
            for at, (block, weight) in enumerate(zip(self.blocks(z, present), weights, strict=True))
        ]
        return torch.stack(parts)

    def as_linear(self) -> nn.Linear:
        """Return the same function of one present modality's raw features as a plain linear layer."""
        (dim,) = self.dims.values()
        mean, scale = self.get_buffer("mean_0"), self.get_buffer("scale_0")
        plain = blank_linear(dim, self.classes)
        with torch.no_grad():
            plain.weight.copy_(self.linear.weight[:, :dim] * scale)
            plain.bias.copy_(self.linear.bias - plain.weight @ mean)
        return plain
