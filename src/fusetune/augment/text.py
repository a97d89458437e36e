"""Text augmentation on the whole batch: tokens are left out at random; special tokens never are."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fusetune.augment.random import Moment, uniform
from fusetune.config import TextPolicy


@dataclass(frozen=True)
class TextAugment:
    """Turns padded token ids into what a text encoder sees.

    Attributes:
        policy: What may happen.
        special: Ids that are never touched.
        pad: Id of the padding.
    """

    policy: TextPolicy
    special: tuple[int, ...]
    pad: int

    def describe(self) -> dict[str, object]:
        """Return what the results depend on, for the feature store's key."""
        return {**self.policy.model_dump(), "special": list(self.special)}

    def plain(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the texts as they are."""
        return inputs

    def draw(self, inputs: dict[str, Tensor], keys: Tensor, moment: Moment) -> dict[str, Tensor]:
        """Leave out tokens; the rest moves together, so that no gap tells where a token was.

        Args:
            inputs: ids int64 [rows, longest] and mask bool [rows, longest].
            keys: Row keys, int64 [rows].
            moment: Seed, epoch and view.
        """
        if not self.policy.drop:
            return inputs
        ids, mask = inputs["ids"], inputs["mask"]
        special = torch.isin(ids, torch.tensor(self.special, device=ids.device))
        drop = (uniform(moment, keys, "token drop", ids.shape[1]) < self.policy.drop) & ~special & mask
        # A text that would lose every ordinary token keeps them all.
        drop &= (mask & ~special & ~drop).any(1, keepdim=True)
        keep = mask & ~drop
        order = torch.argsort((~keep).to(torch.int8), dim=1, stable=True)
        longest = int(keep.sum(1).max())
        kept = torch.gather(keep, 1, order)[:, :longest]
        moved = torch.gather(ids, 1, order)[:, :longest]
        return {"ids": torch.where(kept, moved, self.pad), "mask": kept}
