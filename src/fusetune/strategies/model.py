"""The fused model: encoders, a linear classifier per modality, and a head on all features that knows what is absent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fusetune.encoders import Encoder
from fusetune.strategies.heads import Head


@dataclass(frozen=True)
class Outputs:
    """What a fused model says about a batch.

    Attributes:
        z: Features by modality, [batch, dim]; zero where absent.
        f_m: Logits of each modality alone, [batch, classes].
        f: Fused logits, [batch, classes].
        present: Whether the row has the modality, by modality, bool [batch].
    """

    z: dict[str, Tensor]
    f_m: dict[str, Tensor]
    f: Tensor
    present: dict[str, Tensor]


class FusionModel(nn.Module):
    """Encoders, unimodal classifiers and a head.

    Args:
        encoders: By modality.
        classifiers: Linear(dim, classes) by modality.
        head: The fused head.
        on_logits: Does the head read the classifiers' logits instead of the features?
    """

    def __init__(
        self,
        encoders: Mapping[str, Encoder],
        classifiers: Mapping[str, nn.Linear],
        head: Head,
        on_logits: bool = False,
    ) -> None:
        super().__init__()
        self.names = list(encoders)
        # Modality names may hold dots, which module names may not: modules are kept by position.
        self.encoders = nn.ModuleList(encoders[name] for name in self.names)
        self.classifiers = nn.ModuleList(classifiers[name] for name in self.names)
        self.head, self.on_logits = head, on_logits

    def forward(self, inputs: Mapping[str, Any], present: Mapping[str, Tensor]) -> Outputs:
        """Return features, unimodal logits and fused logits.

        Args:
            inputs: Encoder inputs by modality, for the rows that have it only (first dimension = present.sum()).
            present: bool [batch] by modality.
        """
        z = {}
        for name, encoder in zip(self.names, self.encoders, strict=True):
            has = present[name]
            z[name] = torch.zeros(len(has), encoder.dim, device=has.device)
            if bool(has.any()):
                z[name][has] = encoder(inputs[name]).float()
        return self.fuse(z, present)

    def fuse(self, z: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Outputs:
        """Return all outputs for features that were encoded before."""
        f_m = {name: layer(z[name]) for name, layer in zip(self.names, self.classifiers, strict=True)}
        return Outputs(dict(z), f_m, self.head(f_m if self.on_logits else z, present), dict(present))
