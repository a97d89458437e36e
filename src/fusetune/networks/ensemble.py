"""Modalities that predict alone, and the mean of what they say: of several, of one, or of none (class frequencies)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from fusetune.encoders import Encoder
from fusetune.encoders.layers import blank_linear
from fusetune.networks.base import Network, Outputs, build_encoders


class EnsembleNetwork(Network):
    """f = sum_m f_m / T_m over the modalities that a row has, divided by their number; log prior where it has none.

    f_m is the mean of W z + b over the networks of the modality.

    Args:
        encoders: All encoders.
        owners: The modality of each.
        classifiers: Linear(dim, classes) for each encoder.
        prior: Log class frequencies, float [classes].
        temperatures: T_m by modality; default 1.
    """

    kind = "ensemble"

    def __init__(
        self,
        encoders: Sequence[Encoder],
        owners: Sequence[str],
        classifiers: Sequence[nn.Linear],
        prior: Tensor,
        temperatures: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__(encoders, owners, len(prior))
        self.classifiers = nn.ModuleList(classifiers)
        self.temperatures = {name: float((temperatures or {}).get(name, 1.0)) for name in dict.fromkeys(owners)}
        odd = [name for name, heat in self.temperatures.items() if not 0 < heat < math.inf]
        if odd or not set(temperatures or {}) <= set(owners):
            raise ValueError("temperatures must be positive numbers, one per modality of the encoders")
        self.register_buffer("prior", prior.clone())

    def fuse(self, z: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Outputs:
        """Return all outputs for features [rows, dim] by modality."""
        logits = [layer(block) for layer, block in zip(self.classifiers, self.by_encoder(z), strict=True)]
        f_m = {
            name: torch.stack([own for own, owner in zip(logits, self.owners, strict=True) if owner == name]).mean(0)
            for name in self.temperatures
        }
        rows = next(iter(present.values())).shape[0]
        return Outputs(
            dict(z), f_m, mean_logits(f_m, present, self.temperatures, self.get_buffer("prior"), rows), dict(present)
        )

    @property
    def only(self) -> tuple[Encoder, nn.Linear]:
        """Encoder and classifier of a network that has one."""
        ((_, encoder),) = self.members
        (classifier,) = self.classifiers
        assert isinstance(classifier, nn.Linear)
        return encoder, classifier

    def describe(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            "kind": self.kind,
            "encoders": [encoder.describe() for _, encoder in self.members],
            "owners": self.owners,
            "classes": self.classes,
            "temperatures": self.temperatures,
        }

    @classmethod
    def build(cls, description: Mapping[str, Any]) -> Self:
        """Make a network from what `describe` returned, with untrained weights."""
        encoders, classes = build_encoders(description["encoders"]), int(description["classes"])
        classifiers = [blank_linear(encoder.dim, classes) for encoder in encoders]
        return cls(encoders, description["owners"], classifiers, torch.zeros(classes), description["temperatures"])


def mean_logits(
    f_m: Mapping[str, Tensor],
    present: Mapping[str, Tensor],
    temperatures: Mapping[str, float | Tensor],
    prior: Tensor,
    rows: int,
) -> Tensor:
    """Return f = mean of f_m / T_m over the modalities that a row has, [rows, classes]; the prior where it has none.

    Args:
        f_m: Logits by modality, [rows, classes].
        present: bool [rows] by modality.
        temperatures: T_m, one number or one per row, [rows, 1].
        prior: Log class frequencies, float [classes].
        rows: Number of rows.
    """
    total = prior.new_zeros(rows, len(prior))
    count = prior.new_zeros(rows, 1)
    for name, logits in f_m.items():
        has = present[name][:, None]
        total = total + torch.where(has, logits / temperatures[name], 0.0)
        count = count + has
    return torch.where(count > 0, total / count.clamp(min=1), prior)
