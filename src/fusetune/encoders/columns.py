"""Encoders of table columns: a plain network of dense layers, FT-Transformer (arXiv 2106.11959), and TIP's tokens.

The former two treat a missing cell as information of its own, with a learned vector per column; the third looks past it
(arXiv 2407.07582). Whatever number happens to be stored in a missing cell never reaches any of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor, nn

from fusetune.encoders.base import Encoder
from fusetune.encoders.layers import SelfAttention, dense, full

RESERVED_CODES = 2  # code 0 is a missing cell, code 1 a category that training did not see


class CategoryEmbedding(nn.Module):
    """One learned vector per category of each column, all columns in one table.

    The vectors of "missing" and "unseen" start at zero: where training never meets such a cell, it stays neutral
    instead of adding the noise of a random start.

    Args:
        sizes: Number of codes of each column, the two reserved ones included.
        width: Width of a vector.
    """

    offsets: Tensor

    def __init__(self, sizes: Sequence[int], width: int) -> None:
        super().__init__()
        self.table = nn.Embedding(sum(sizes), width)
        nn.init.normal_(self.table.weight, std=width**-0.5)
        starts = [0, *accumulate(sizes)][:-1]
        self.register_buffer("offsets", torch.tensor(starts, dtype=torch.long), persistent=False)
        reserved = [start + code for start in starts for code in range(RESERVED_CODES)]
        with torch.no_grad():
            self.table.weight[reserved] = 0.0

    def forward(self, codes: Tensor) -> Tensor:
        """Look up codes ``[batch, columns]``; returns ``[batch, columns, width]``."""
        return self.table(codes + self.offsets)  # type: ignore[no-any-return]


class ColumnsMLP(Encoder):
    """Dense layers on the numbers, a missing flag per number, and an embedding per category.

    A missing number enters as 0 with its flag set; the flag's weights in the first layer are that column's learned
    vector for "missing".

    Args:
        numbers: Number of numeric columns.
        categories: Number of codes of each categorical column (known categories + 2).
        width: Width of the hidden layers and of the feature vector.
        depth: Number of layers.
        dropout: Share of values dropped in training.
        category_width: Width of a category's vector.
    """

    def __init__(
        self,
        numbers: int,
        categories: Sequence[int],
        *,
        width: int = 64,
        depth: int = 2,
        dropout: float = 0.1,
        category_width: int = 8,
    ) -> None:
        super().__init__()
        _check_columns(numbers, categories)
        self.dim = width
        self.embedding = CategoryEmbedding(categories, category_width) if categories else None
        self.layers = dense([2 * numbers + category_width * len(categories), *[width] * depth], dropout)

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        """Encode ``numbers``, ``missing`` (bool) and ``codes`` (long), ``[batch, columns]``, to ``[batch, width]``."""
        missing = inputs["missing"]
        parts = [inputs["numbers"].masked_fill(missing, 0.0), missing.float()]
        if self.embedding is not None:
            parts.append(self.embedding(inputs["codes"]).flatten(1))
        features: Tensor = self.layers(torch.cat(parts, dim=1))
        return full(features)


class CellIdentity(Encoder):
    """The cells themselves: numbers, missing flags and one-hot categories; there is nothing to train.

    Args:
        numbers: Number of numeric columns.
        categories: Number of codes of each categorical column (known categories + 2).
    """

    def __init__(self, numbers: int, categories: Sequence[int]) -> None:
        super().__init__()
        _check_columns(numbers, categories)
        self.dim = 2 * numbers + sum(categories)

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        """Return ``numbers``, ``missing`` and one-hot ``codes`` side by side, ``[batch, dim]``."""
        missing = inputs["missing"]
        parts = [inputs["numbers"].masked_fill(missing, 0.0), missing.float()]
        for column, size in enumerate(self.arguments["categories"]):
            parts.append(nn.functional.one_hot(inputs["codes"][:, column], size).float())
        return torch.cat(parts, dim=1)


class CellValues(Encoder):
    """The cells as trees read them: numbers, flags of missing ones, and codes of categories; there is nothing to train.

    Args:
        numbers: Number of numeric columns.
        categories: Number of codes of each categorical column (known categories + 2).
    """

    def __init__(self, numbers: int, categories: Sequence[int]) -> None:
        super().__init__()
        _check_columns(numbers, categories)
        self.dim = 2 * numbers + len(categories)

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        """Return ``numbers``, ``missing`` and ``codes`` side by side, ``[batch, dim]``."""
        missing = inputs["missing"]
        return torch.cat([inputs["numbers"].masked_fill(missing, 0.0), missing.float(), inputs["codes"].float()], 1)


class ColumnTokenizer(nn.Module):
    """Turn every column into one token (arXiv 2106.11959, section 3.3), with a vector of its own for "missing".

    A number x of column j becomes ``bias_j + x * weight_j``, a missing one ``bias_j + missing_j``; a category becomes
    ``bias_j + embedding_j[code]``. ``missing_j`` starts at zero, where a missing cell equals the column's mean.
    With ``shared``, one vector says "missing" in all columns, numbers and categories alike.
    """

    def __init__(self, numbers: int, categories: Sequence[int], width: int, *, shared: bool = False) -> None:
        super().__init__()
        bound = width**-0.5  # the paper's uniform start
        self.shared = shared
        self.weight = nn.Parameter(torch.empty(numbers, width).uniform_(-bound, bound))
        self.missing = nn.Parameter(torch.zeros(1 if shared else numbers, width))
        self.bias = nn.Parameter(torch.empty(numbers + len(categories), width).uniform_(-bound, bound))
        self.embedding = CategoryEmbedding(categories, width) if categories else None

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        """Return the tokens, ``[batch, columns, width]``."""
        missing = inputs["missing"].unsqueeze(-1)
        numbers = inputs["numbers"].unsqueeze(-1).masked_fill(missing, 0.0)
        tokens = numbers * self.weight + missing.float() * self.missing
        if self.embedding is not None:
            tokens = torch.cat([tokens, self.embedding(inputs["codes"])], dim=1)
        if self.shared:
            tokens = torch.where(known_cells(inputs).unsqueeze(-1), tokens, self.missing)
        return tokens + self.bias


def known_cells(inputs: dict[str, Tensor]) -> Tensor:
    """Return which cells are there, numbers first, bool ``[batch, columns]``."""
    return torch.cat([~inputs["missing"], inputs["codes"] > 0], dim=1)


class ColumnBlock(nn.Module):
    """One pre-norm layer of FT-Transformer: attention over the columns, then a ReGLU layer of 4/3 the width."""

    def __init__(self, width: int, heads: int, attention_dropout: float, dropout: float, *, first: bool) -> None:
        super().__init__()
        # The paper found it necessary to leave out the very first normalisation.
        self.attention_norm = nn.Identity() if first else nn.LayerNorm(width)
        self.attention = SelfAttention(width, heads, attention_dropout)
        self.dense_norm = nn.LayerNorm(width)
        hidden = width * 4 // 3
        self.expand = nn.Linear(width, 2 * hidden)
        self.dropout = nn.Dropout(dropout)
        self.shrink = nn.Linear(hidden, width)

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return tokens of the same shape ``[batch, columns, width]``; `mask` is as `SelfAttention` has it."""
        return self.inner(tokens + self.attention(self.attention_norm(tokens), mask))

    def inner(self, tokens: Tensor) -> Tensor:
        """Apply the ReGLU layer to each token, ``[batch, columns, width]``."""
        value, gate = self.expand(self.dense_norm(tokens)).chunk(2, dim=-1)
        return tokens + self.shrink(self.dropout(value * nn.functional.relu(gate)))  # type: ignore[no-any-return]


class FTTransformer(Encoder):
    """FT-Transformer (Gorishniy et al. 2021, arXiv 2106.11959): columns as tokens, read out at a class token.

    The feature vector is ``ReLU(LayerNorm(class token))``: what the paper's linear classifier sees.

    Args:
        numbers: Number of numeric columns.
        categories: Number of codes of each categorical column (known categories + 2).
        width: Width of a token and of the feature vector; the paper's default.
        depth: Number of layers; the paper's default.
        heads: Attention heads; the paper's default.
        attention_dropout: Share of attention weights dropped in training; the paper's default.
        dropout: Share of hidden values dropped in training; the paper's default.
    """

    def __init__(
        self,
        numbers: int,
        categories: Sequence[int],
        *,
        width: int = 192,
        depth: int = 3,
        heads: int = 8,
        attention_dropout: float = 0.2,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        _check_columns(numbers, categories)
        self.dim = width
        bound = width**-0.5
        self.class_token = nn.Parameter(torch.empty(width).uniform_(-bound, bound))
        self.tokenizer = ColumnTokenizer(numbers, categories, width)
        self.layers = nn.ModuleList(
            ColumnBlock(width, heads, attention_dropout, dropout, first=layer == 0) for layer in range(depth)
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        """Encode ``numbers``, ``missing`` (bool) and ``codes`` (long), ``[batch, columns]``, to ``[batch, width]``."""
        tokens = self.tokenizer(inputs)
        class_token = self.class_token.expand(tokens.shape[0], 1, -1)
        tokens = torch.cat([class_token, tokens], dim=1)  # [batch, 1 + columns, width]
        for layer in self.layers:
            tokens = layer(tokens)
        return full(nn.functional.relu(self.norm(tokens[:, 0])))


class ColumnTokens(Encoder):
    """TIP's encoder of columns (Du et al. 2024, arXiv 2407.07582): a class token and one token per column, all kept.

    A missing cell is one learnt token, the same for all columns, beside the column's own; as a key it is seen by nobody
    but itself, so that it tells the others nothing. The feature vector is the class token and then those of the
    columns, side by side. Layers are those of FT-Transformer, pre-norm throughout.

    Args:
        numbers: Number of numeric columns.
        categories: Number of codes of each categorical column (known categories + 2).
        width: Width of a token.
        depth: Number of layers.
        heads: Attention heads.
        dropout: Share of hidden values dropped in training.
    """

    def __init__(
        self,
        numbers: int,
        categories: Sequence[int],
        *,
        width: int = 32,
        depth: int = 2,
        heads: int = 4,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        _check_columns(numbers, categories)
        self.dim = width * (1 + numbers + len(categories))
        bound = width**-0.5
        self.class_token = nn.Parameter(torch.empty(width).uniform_(-bound, bound))
        self.tokenizer = ColumnTokenizer(numbers, categories, width, shared=True)
        self.tokens_norm = nn.LayerNorm(width)
        self.layers = nn.ModuleList(ColumnBlock(width, heads, 0.0, dropout, first=False) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        """Encode ``numbers``, ``missing`` (bool) and ``codes`` (long), ``[batch, columns]``, to ``[batch, dim]``."""
        tokens = self.tokenizer(inputs)
        class_token = self.class_token.expand(tokens.shape[0], 1, -1)
        tokens = self.tokens_norm(torch.cat([class_token, tokens], dim=1))
        known = nn.functional.pad(known_cells(inputs), (1, 0), value=True)
        places = torch.arange(known.shape[1], device=known.device)
        itself = places[:, None] == places
        for layer in self.layers:
            tokens = layer(tokens, known[:, None, :] | itself)
        features: Tensor = self.norm(tokens).flatten(1)
        return full(features)


class CrossBlock(ColumnBlock):
    """A layer of columns that look at themselves, then at the tokens of other modalities."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__(width, heads, 0.0, dropout, first=False)
        self.cross_norm = nn.LayerNorm(width)
        self.cross = SelfAttention(width, heads, 0.0)

    def across(self, tokens: Tensor, others: Tensor, seen: Tensor) -> Tensor:
        """Mix tokens.

        Args:
            tokens: Those of the columns, ``[batch, tokens, width]``.
            others: Those of the other modalities, ``[batch, others, width]``.
            seen: Which of these are there, bool ``[batch, others]``; where none is, nothing is added.

        Returns:
            ``[batch, tokens, width]``.
        """
        tokens = tokens + self.attention(self.attention_norm(tokens))
        some = seen.any(1, keepdim=True)
        looked = self.cross(self.cross_norm(tokens), seen | ~some, others)
        return self.inner(tokens + looked.masked_fill(~some[:, :, None], 0.0))


def _check_columns(numbers: int, categories: Sequence[int]) -> None:
    if numbers + len(categories) == 0:
        raise ValueError("an encoder of columns needs at least one column")
    too_small = [size for size in categories if size < RESERVED_CODES]
    if too_small:
        raise ValueError(f"a categorical column has at least {RESERVED_CODES} codes (missing, unseen), got {too_small}")
