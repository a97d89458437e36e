"""Encoders of ready-made vectors."""

from __future__ import annotations

import torch

from fusetune.encoders import Identity, VectorMLP


def test_identity_hands_on_the_vector() -> None:
    x = torch.randn(3, 4, dtype=torch.float64)
    encoder = Identity(4)
    assert encoder.dim == 4
    assert torch.equal(encoder(x), x)
    assert list(encoder.parameters()) == []


def test_vector_mlp_is_its_formula() -> None:
    torch.manual_seed(0)
    encoder = VectorMLP(4, width=6, depth=3).eval()
    x = torch.randn(3, 4)
    expected = x
    for layer in encoder.layers:
        expected = (expected @ layer[0].weight.T + layer[0].bias).clamp(min=0)
    torch.testing.assert_close(encoder(x), expected)
    assert len(encoder.layers) == 3
