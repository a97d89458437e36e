"""Several random views of the same inputs, which are read once (Hoffer et al. 2020, arXiv 1901.09335)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fusetune.augment import Augment
from fusetune.augment.random import Moment


def draw_views(augment: Augment, inputs: Any, keys: Tensor, moments: Sequence[Moment]) -> Any:
    """Return one view per moment, one after the other: row r of view v is at place ``v * rows + r``.

    An augmentation that has a `draw_views` of its own is faster, or knows how views of different width are put
    together; of any other one, the views of `draw` are concatenated.

    Args:
        augment: What happens to the inputs.
        inputs: Raw inputs, [rows, ...].
        keys: Row keys, int64 [rows].
        moments: One per view.
    """
    own = getattr(augment, "draw_views", None)
    if len(moments) == 1:
        return augment.draw(inputs, keys, moments[0])
    if own is not None:
        return own(inputs, keys, moments)
    views = [augment.draw(inputs, keys, moment) for moment in moments]
    if isinstance(views[0], Tensor):
        return torch.cat(views)
    return {name: torch.cat([view[name] for view in views]) for name in views[0]}
