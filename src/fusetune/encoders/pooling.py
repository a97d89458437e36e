"""From tokens to one vector per text that does not depend on the padding."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def masked_mean(tokens: Tensor, mask: Tensor) -> Tensor:
    """Return the mean over the tokens where the mask is True; zeros for a row without any.

    Args:
        tokens: ``[batch, tokens, width]``.
        mask: ``[batch, tokens]`` bool.
    """
    weights = mask.unsqueeze(-1).to(tokens.dtype)
    return (tokens * weights).sum(1) / weights.sum(1).clamp(min=1.0)


def attended(mask: Tensor) -> Tensor:
    """Let a row without any token look at its first position: attention over nothing would be NaN."""
    first = torch.arange(mask.shape[1], device=mask.device) == 0
    return mask | (first & ~mask.any(1, keepdim=True))


def left_padded(ids: Tensor, mask: Tensor, width: int, pad: int) -> tuple[Tensor, Tensor]:
    """Move each row's tokens to its end, in their order, and fill up to a width from the left.

    Args:
        ids: ``[batch, tokens]`` long, padded anywhere.
        mask: ``[batch, tokens]`` bool.
        width: Least number of positions afterwards.
        pad: Id of the new positions.

    Returns:
        Ids and mask, ``[batch, max(tokens, width)]``.
    """
    order = mask.int().argsort(dim=1, stable=True)  # False before True, otherwise as they were
    more = (max(width - ids.shape[1], 0), 0)
    return F.pad(ids.gather(1, order), more, value=pad), F.pad(mask.gather(1, order), more, value=False)
