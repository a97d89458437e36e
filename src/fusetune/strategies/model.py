"""The fused model: encoders, a linear classifier per modality, and a head on all features that knows what is absent.

With cross-fitting it has several members, each with encoders and a head of its own; their logits are averaged. Members
may share an encoder, which then runs once per batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fusetune.encoders import Encoder
from fusetune.strategies.heads import Head, owner


@dataclass(frozen=True)
class Outputs:
    """What a fused model says about a batch.

    Attributes:
        z: Features by modality, [batch, dim], those of all encoders of the modality side by side; zero where absent.
        f_m: Logits of each modality alone, [batch, classes].
        f: Fused logits, [batch, classes].
        present: Whether the row has the modality, by modality, bool [batch].
    """

    z: dict[str, Tensor]
    f_m: dict[str, Tensor]
    f: Tensor
    present: dict[str, Tensor]


class Member(nn.Module):
    """The classifiers and the head of one member.

    Args:
        uses: Which of the model's encoders each block of features comes from; see `heads.owner`.
        classifiers: Linear(dim, classes) by modality.
        head: The fused head.
        on_logits: Does the head read the classifiers' logits instead of the features?
    """

    def __init__(
        self, uses: Mapping[str, int], classifiers: Mapping[str, nn.Linear], head: Head, on_logits: bool = False
    ) -> None:
        super().__init__()
        self.uses, self.on_logits = dict(uses), on_logits
        # Modality names may hold dots, which module names may not: modules are kept by position.
        self.names = list(classifiers)
        self.classifiers = nn.ModuleList(classifiers.values())
        self.head = head

    def forward(self, features: Sequence[Tensor], present: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
        """Return unimodal and fused logits for the features of all encoders."""
        z = {block: features[index] for block, index in self.uses.items()}
        has = {block: present[owner(block)] for block in z}
        f_m = {name: layer(z[name]) for name, layer in zip(self.names, self.classifiers, strict=True)}
        return f_m, self.head(f_m if self.on_logits else z, has)

    def describe(self) -> dict[str, Any]:
        """Return what `build_model` needs to make this member again."""
        return {"uses": self.uses, "head": self.head.describe(), "on_logits": self.on_logits}


class FusionModel(nn.Module):
    """Encoders and members.

    Args:
        encoders: All encoders.
        modality_of: The modality of each encoder.
        members: At least one.
    """

    def __init__(self, encoders: Sequence[Encoder], modality_of: Sequence[str], members: Sequence[Member]) -> None:
        super().__init__()
        self.modality_of = list(modality_of)
        self.encoders = nn.ModuleList(encoders)
        self.members = nn.ModuleList(members)

    @property
    def names(self) -> list[str]:
        """The modalities."""
        return list(dict.fromkeys(self.modality_of))

    def forward(self, inputs: Mapping[str, Any], present: Mapping[str, Tensor]) -> Outputs:
        """Return features, unimodal logits and fused logits.

        Args:
            inputs: Encoder inputs by modality, for the rows that have it only (first dimension = present.sum()).
            present: bool [batch] by modality.
        """
        features = []
        for name, encoder in zip(self.modality_of, self.encoders, strict=True):
            has = present[name]
            z = torch.zeros(len(has), _dim(encoder), device=has.device)
            if bool(has.any()):
                z[has] = encoder(inputs[name]).float()
            features.append(z)
        return self.fuse(features, present)

    def fuse(self, features: Sequence[Tensor], present: Mapping[str, Tensor]) -> Outputs:
        """Return all outputs for features that were encoded before, one tensor [batch, dim] per encoder."""
        said = [member(features, present) for member in self.members]
        z = {
            name: torch.cat([z for z, owner in zip(features, self.modality_of, strict=True) if owner == name], 1)
            for name in self.names
        }
        f_m = {name: torch.stack([alone[name] for alone, _ in said]).mean(0) for name in self.names}
        return Outputs(z, f_m, torch.stack([fused for _, fused in said]).mean(0), dict(present))


def _dim(encoder: nn.Module) -> int:
    assert isinstance(encoder, Encoder)
    return encoder.dim
