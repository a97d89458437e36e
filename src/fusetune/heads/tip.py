"""TIP's multimodal module and its linear classifiers, whose mean logits are the prediction (arXiv 2407.07582)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fusetune.encoders.columns import CrossBlock
from fusetune.encoders.layers import blank_linear
from fusetune.heads.base import Head


class TIPHead(Head):
    """f = mean of the logits of all classifiers that a row gives something to read; class frequencies where none is.

    There is one classifier on each modality beside the columns, one on the columns' class token, and one on the class
    token of the multimodal module, which reads rows that have columns and something beside them. In that module the
    columns' tokens look at themselves and then at one token per other modality, a projection of its features.

    Args:
        dims: Width of each modality's features; those of the columns are tokens side by side (`ColumnTokens`).
        classes: Number of classes.
        columns: The modality that the columns are.
        width: Width of a token.
        depth: Layers of the multimodal module.
        heads: Attention heads.
        dropout: Share of hidden values dropped in training.
    """

    kind = "tip"

    def __init__(
        self,
        dims: Mapping[str, int],
        classes: int,
        *,
        columns: str,
        width: int = 32,
        depth: int = 2,
        heads: int = 4,
        dropout: float = 0.1,
    ) -> None:
        super().__init__(dims, classes)
        if columns not in self.dims or self.dims[columns] % width or len(self.dims) < 2:
            raise ValueError("TIP reads columns, as tokens of one width, and something beside them")
        self.columns, self.token = columns, width
        self.more = {"depth": depth, "heads": heads, "dropout": dropout}
        self.others = [name for name in self.dims if name != columns]
        self.project = nn.ModuleList(nn.Linear(self.dims[name], width) for name in self.others)
        self.layers = nn.ModuleList(CrossBlock(width, heads, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        # Of the other modalities in their order, of the columns, of both together.
        widths = [self.dims[name] for name in self.others] + [width, width]
        self.linears = nn.ModuleList(blank_linear(inputs, classes) for inputs in widths)
        self.register_buffer("prior", torch.zeros(classes))

    def tokens(self, z: Tensor) -> Tensor:
        """Return features of columns, [batch, dim], as tokens, [batch, 1 + columns, width], the class token first."""
        return z.reshape(z.shape[0], -1, self.token)

    def beside(self, z: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return one token per modality beside the columns, [batch, others, width], and which are there, bool."""
        scaled = [self.block(name, z[name], present[name]) * self.dims[name] ** 0.5 for name in self.others]
        tokens = [layer(block) for layer, block in zip(self.project, scaled, strict=True)]
        return torch.stack(tokens, 1), torch.stack([present[name] for name in self.others], 1)

    def across(self, tokens: Tensor, others: Tensor, seen: Tensor) -> Tensor:
        """Run the multimodal module; arguments and result as `CrossBlock.across` has them."""
        for layer in self.layers:
            assert isinstance(layer, CrossBlock)
            tokens = layer.across(tokens, others, seen)
        fused: Tensor = self.norm(tokens)
        return fused

    def read(self, z: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
        """Return what each classifier reads, [batch, width], and of which rows, bool [batch]."""
        others, seen = self.beside(z, present)
        has = present[self.columns]
        # Not a product: what is stored for an absent modality may be anything, NaN included.
        plain = {name: block.masked_fill(~present[name][:, None], 0.0) for name, block in z.items()}
        tokens = self.tokens(plain[self.columns])
        fused = self.across(tokens, others, seen)[:, 0]
        alone = [(plain[name], present[name]) for name in self.others]
        return [*alone, (tokens[:, 0], has), (fused, has & seen.any(1))]

    def forward(self, z: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
        """Return logits [batch, classes]."""
        total = torch.zeros(present[self.columns].shape[0], self.classes, device=self.get_buffer("prior").device)
        count = total.new_zeros(total.shape[0], 1)
        for layer, (block, has) in zip(self.linears, self.read(z, present), strict=True):
            total = total + layer(block).masked_fill(~has[:, None], 0.0)
            count = count + has[:, None]
        return torch.where(count > 0, total / count.clamp(min=1), self.get_buffer("prior"))

    def describe(self) -> dict[str, Any]:
        """Return what `build_head` needs to make this head again."""
        return super().describe() | {"columns": self.columns, "width": self.token, **self.more}
