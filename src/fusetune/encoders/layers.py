"""The small layers that the built-in encoders share: a stack of dense layers and masked attention."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn


def full(x: Tensor) -> Tensor:
    """Return numbers in float32, or in float64 where they are: half precision is for what lies between."""
    return x if x.dtype == torch.float64 else x.float()


def dense(widths: Sequence[int], dropout: float) -> nn.Sequential:
    """Return one (linear, ReLU, dropout) layer for each pair of neighbouring widths."""
    return nn.Sequential(*(nn.Sequential(nn.Linear(a, b), nn.ReLU(), nn.Dropout(dropout)) for a, b in pairwise(widths)))


class _Blank(nn.Linear):
    """A linear layer that starts at zero."""

    def reset_parameters(self) -> None:
        """Draw no random number, and import nothing: on `meta`, PyTorch's own start imports its compiler."""
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)


def blank_linear(inputs: int, outputs: int) -> nn.Linear:
    """Return a linear layer of zeros, whose weights come from elsewhere: no random number is drawn for it."""
    return _Blank(inputs, outputs)


class SelfAttention(nn.Module):
    """Multi-head attention (arXiv 1706.03762) of tokens among themselves, or on others, that never looks at padding.

    Args:
        width: Width of a token, divisible by `heads`.
        heads: Number of heads.
        dropout: Share of attention weights dropped in training.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        if heads < 1 or width % heads:
            raise ValueError(f"{width} values of a token cannot be divided among {heads} heads")
        self.heads = heads
        self.dropout = dropout
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, tokens: Tensor, mask: Tensor | None = None, others: Tensor | None = None) -> Tensor:
        """Mix the tokens.

        Args:
            tokens: ``[batch, tokens, width]``.
            mask: bool, True where a token may be looked at, by all ``[batch, keys]`` or by each
                ``[batch, tokens, keys]``; None means everywhere. Every token needs one that it may look at.
            others: The tokens that are looked at, ``[batch, keys, width]``; default: the same tokens.

        Returns:
            ``[batch, tokens, width]``.
        """
        seen = tokens if others is None else others
        query, key, value = self._split(self.query(tokens)), self._split(self.key(seen)), self._split(self.value(seen))
        visible = mask if mask is None else (mask[:, None] if mask.ndim == 3 else mask[:, None, None, :])
        dropout = self.dropout if self.training else 0.0
        mixed = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=visible, dropout_p=dropout)
        return self.out(mixed.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]

    def _split(self, tokens: Tensor) -> Tensor:
        return tokens.view(*tokens.shape[:2], self.heads, -1).transpose(1, 2)  # [batch, heads, tokens, width / heads]


class PreNormBlock(nn.Module):
    """One pre-norm transformer layer (arXiv 2002.04745): attention, then a GELU layer of four times the width.

    Args:
        width: Width of a token, divisible by `heads`.
        heads: Number of heads.
        dropout: Share of attention weights, and of what the layers add, dropped in training.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = SelfAttention(width, heads, dropout)
        self.dense_norm = nn.LayerNorm(width)
        self.dense = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Return tokens of the same shape ``[batch, tokens, width]``; `mask` as for `SelfAttention`."""
        tokens = tokens + self.dropout(self.attention(self.attention_norm(tokens), mask))
        return tokens + self.dropout(self.dense(self.dense_norm(tokens)))  # type: ignore[no-any-return]
