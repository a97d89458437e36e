"""Text augmentation on the whole batch: tokens change places, are hidden or left out; special tokens never are.

Every decision belongs to a place in the original text and to the row's key, so a text gets the same view in any batch,
however far it is padded. An operation that would leave a text without any ordinary token does not happen in that text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from fusetune.augment import Augment
from fusetune.augment.random import Moment, uniform
from fusetune.config import TextPolicy
from fusetune.errors import ConfigError


@dataclass(frozen=True)
class TextAugment(Augment):
    """Turns padded token ids into what a text encoder sees.

    Attributes:
        policy: What may happen.
        special: Ids that are never touched.
        pad: Id of the padding.
        mask: Id that stands for a hidden token; None where the tokenizer has none.

    Raises:
        ConfigError: If the policy masks tokens and the tokenizer has no mask token.
    """

    policy: TextPolicy
    special: tuple[int, ...]
    pad: int
    mask: int | None = None

    def __post_init__(self) -> None:
        if self.policy.mask and self.mask is None:
            raise ConfigError(
                "text.augment.mask hides tokens behind the mask token, and this encoder's tokenizer has none "
                "(networks that predict the next word are trained without one); use text.augment.drop"
            )

    @property
    def varies(self) -> bool:
        """Can two views of the same input differ?"""
        return any(self.policy.model_dump(exclude={"span_share"}).values())

    def describe(self) -> dict[str, object]:
        """Return what the results depend on, for the feature store's key."""
        return {**self.policy.model_dump(), "special": list(self.special), "mask id": self.mask}

    def draw(self, inputs: dict[str, Tensor], keys: Tensor, moment: Moment) -> dict[str, Tensor]:
        """Swap, hide and leave out tokens; the rest moves together, so that no gap tells where a token was.

        Args:
            inputs: ids int64 [rows, longest] and mask bool [rows, longest], padded at the end.
            keys: Row keys, int64 [rows].
            moment: Seed, epoch and view.

        Returns:
            The same, as wide as the longest text that is left.
        """
        p, ids, real = self.policy, inputs["ids"], inputs["mask"]
        if not self.varies:
            return inputs
        ordinary = real & ~torch.isin(ids, torch.tensor(self.special, device=ids.device))
        if p.swap:
            ids = _swap(ids, ordinary, p.swap, keys, moment)
        visible = ordinary
        if p.mask and self.mask is not None:
            hidden = _spare(uniform(moment, keys, "token mask", ids.shape[1]) < p.mask, ordinary)
            ids, visible = ids.masked_fill(hidden, self.mask), ordinary & ~hidden
        gone = torch.zeros_like(real)
        if p.span:
            gone |= _spare(_span(ordinary, p.span, p.span_share, keys, moment), ordinary, visible)
        if p.drop:
            dropped = (uniform(moment, keys, "token drop", ids.shape[1]) < p.drop) & ~gone
            gone |= _spare(dropped, ordinary, visible & ~gone)
        return self._close_up(ids, real & ~gone)

    def draw_views(self, inputs: dict[str, Tensor], keys: Tensor, moments: Sequence[Moment]) -> dict[str, Tensor]:
        """Return one view per moment, one after the other, [moments * rows, longest]."""
        views = [self.draw(inputs, keys, moment) for moment in moments]
        longest = max(view["ids"].shape[1] for view in views)
        fill = {"ids": self.pad, "mask": False}
        return {
            name: torch.cat([F.pad(view[name], (0, longest - view[name].shape[1]), value=value) for view in views])
            for name, value in fill.items()
        }

    def _close_up(self, ids: Tensor, keep: Tensor) -> dict[str, Tensor]:
        order = torch.argsort((~keep).to(torch.int8), dim=1, stable=True)
        longest = int(keep.sum(1).max())
        kept = torch.gather(keep, 1, order)[:, :longest]
        moved = torch.gather(ids, 1, order)[:, :longest]
        return {"ids": torch.where(kept, moved, self.pad), "mask": kept}


def _spare(hit: Tensor, ordinary: Tensor, visible: Tensor | None = None) -> Tensor:
    """Keep hits on ordinary tokens, in rows where one of those that are still visible is not hit."""
    hit = hit & ordinary
    left = (ordinary if visible is None else visible) & ~hit
    return hit & left.any(1, keepdim=True)


def _swap(ids: Tensor, ordinary: Tensor, share: float, keys: Tensor, moment: Moment) -> Tensor:
    """Let ordinary neighbours exchange places.

    Places are paired, each text starting its pairs at an even or an odd place at random, so that every two neighbours
    can meet and no token moves twice.
    """
    width = ids.shape[1]
    first = uniform(moment, keys, "token swap start", 1) < 0.5
    place = torch.arange(width, device=ids.device) + first.long()
    partner = (place ^ 1) - first.long()
    inside = (partner >= 0) & (partner < width)
    partner = torch.where(inside, partner, torch.arange(width, device=ids.device))
    hit = uniform(moment, keys, "token swap", width // 2 + 1).gather(1, place // 2) < share
    both = ordinary & ordinary.gather(1, partner) & inside
    return torch.where(hit & both, ids.gather(1, partner), ids)


def _span(ordinary: Tensor, probability: float, share: float, keys: Tensor, moment: Moment) -> Tensor:
    """Mark one run of neighbouring ordinary tokens in some texts: 1 token up to a share of them, anywhere."""
    u = uniform(moment, keys, "token span", 3)
    count = ordinary.sum(1)
    length = 1 + (u[:, 1] * (count * share).floor()).floor()
    start = (u[:, 2] * (count - length + 1)).floor()
    rank = ordinary.cumsum(1) - 1
    run = (rank >= start[:, None]) & (rank < (start + length)[:, None])
    return run & ordinary & (u[:, :1] < probability)
