"""Augmentation of stored features: noise and a random scale per feature (FroFA, arXiv 2403.10519, for pooled features).

FroFA changes brightness and contrast of frozen features channel by channel. Pooled features have one number per
channel: there, a change of contrast scales its distance to the channel's mean, and a change of brightness is noise.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from fusetune.augment.random import Moment, normal, uniform
from fusetune.config import FeaturePolicy


@dataclass(frozen=True)
class FeatureAugment:
    """Augments one block of features.

    Attributes:
        policy: What may happen.
        name: Of the block; different names give independent numbers.
        mean: Training mean of each feature, [dim].
        std: Training deviation of each feature, [dim].
    """

    policy: FeaturePolicy
    name: str
    mean: Tensor
    std: Tensor

    def draw(self, z: Tensor, keys: Tensor, moment: Moment) -> Tensor:
        """Return z + s (z - mean) + e std with s uniform in +-scale and e normal with deviation `noise`.

        Args:
            z: Features, float [rows, dim].
            keys: Row keys, int64 [rows].
            moment: Seed, epoch and view.
        """
        view, dim = z, z.shape[1]
        if self.policy.scale:
            turn = 2 * uniform(moment, keys, f"feature scale {self.name}", dim) - 1
            view = view + self.policy.scale * turn * (z - self.mean)
        if self.policy.noise:
            view = view + self.policy.noise * normal(moment, keys, f"feature noise {self.name}", dim) * self.std
        return view
