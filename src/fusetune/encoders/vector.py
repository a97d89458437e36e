"""Encoders of ready-made vectors: hand them on unchanged, project them, or pass them through dense layers."""

from __future__ import annotations

import torch
from torch import Tensor

from fusetune.encoders.base import Encoder
from fusetune.encoders.layers import dense, full


class Identity(Encoder):
    """The vector itself is the feature; there is nothing to train.

    Args:
        inputs: Width of the vectors.
    """

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.dim = inputs

    def forward(self, inputs: Tensor) -> Tensor:
        """Return ``[batch, inputs]`` in float32, otherwise unchanged."""
        return full(inputs)


class VectorMLP(Encoder):
    """Dense layers on a vector.

    Args:
        inputs: Width of the vectors.
        width: Width of the hidden layers and of the feature vector.
        depth: Number of layers.
        dropout: Share of values dropped in training.
    """

    def __init__(self, inputs: int, width: int = 128, depth: int = 2, dropout: float = 0.2) -> None:
        super().__init__()
        self.dim = width
        self.layers = dense([inputs, *[width] * depth], dropout)

    def forward(self, inputs: Tensor) -> Tensor:
        """Encode ``[batch, inputs]`` to ``[batch, width]``."""
        features: Tensor = self.layers(full(inputs))
        return full(features)


class Projection(Encoder):
    """A fixed linear map of a vector, such as that on principal components; there is nothing to train.

    Args:
        inputs: Width of the vectors.
        outputs: Width of the feature vector.
    """

    weight: Tensor

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.dim = outputs
        self.register_buffer("weight", torch.zeros(outputs, inputs))

    def forward(self, inputs: Tensor) -> Tensor:
        """Encode ``[batch, inputs]`` to ``[batch, outputs]``."""
        features: Tensor = full(inputs) @ self.weight.T
        return full(features)
