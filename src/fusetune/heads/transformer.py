"""A head that lets modalities look at each other: one token each, and a small Transformer over those that are there.

    e_m = P_m z_m + v_m for every present modality, e_0 a learnt token;  f = W norm(layer(e_0, ..., e_M))_0 + b

SimBaMM, the late-fusion Transformer that no method of arXiv 2512.22991 reliably beats. It is described there as one
token per modality with an embedding v_m of its own, absent ones left out of the attention, and a linear classifier on
the mean or a class token; here it is the class token, so that a row without any modality has an answer, too: a learnt
one. Depth, width and dropout are not published in what could be read.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fusetune.encoders.layers import PreNormBlock
from fusetune.heads.base import Head


class TransformerHead(Head):
    """Tokens of the present modalities -> pre-norm Transformer -> linear layer on the class token."""

    kind = "transformer"

    def __init__(self, dims: Mapping[str, int], classes: int, width: int = 64, depth: int = 1, heads: int = 4) -> None:
        super().__init__(dims, classes)
        self.project = nn.ModuleList(nn.Linear(dim, width) for dim in self.dims.values())
        self.modality = nn.Parameter(0.02 * torch.randn(len(self.dims), width))
        self.class_token = nn.Parameter(0.02 * torch.randn(width))
        self.layers = nn.ModuleList(PreNormBlock(width, heads, 0.1) for _ in range(depth))
        self.norm, self.outer = nn.LayerNorm(width), nn.Linear(width, classes)

    def forward(self, z: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
        """Return logits [batch, classes]; a row without any modality gets those of the class token alone."""
        # Blocks are divided by the root of their width, which the normalisation of tokens has no use for.
        blocks = [block * block.shape[1] ** 0.5 for block in self.blocks(z, present)]
        own = torch.stack([layer(block) for layer, block in zip(self.project, blocks, strict=True)], 1) + self.modality
        tokens = torch.cat([self.class_token.expand(own.shape[0], 1, -1), own], 1)
        has = torch.stack([torch.ones_like(present[next(iter(self.dims))]), *(present[name] for name in self.dims)], 1)
        for layer in self.layers:
            tokens = layer(tokens, has)
        logits: Tensor = self.outer(self.norm(tokens[:, 0]))
        return logits
