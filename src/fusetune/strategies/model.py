"""The fused model: encoders, linear classifiers on them, and one head on all modalities that knows what is absent.

The head reads blocks. A block is either the features of one encoder or the mean logits of all networks of a modality,
of which there are several after k-fold cross-fitting.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
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


@dataclass(frozen=True)
class Wiring:
    """Which encoder serves what, by position in the model.

    Attributes:
        modality_of: The modality of each encoder.
        networks: Modality (or block, for words) -> encoders that have a classifier; their logits are averaged.
        features: Block of the head -> the encoder whose features it is.
        logits: Blocks of the head that are the mean logits of the networks of that name.
    """

    modality_of: list[str]
    networks: dict[str, list[int]]
    features: dict[str, int]
    logits: list[str]

    def describe(self) -> dict[str, Any]:
        """Return JSON values."""
        return asdict(self)


class FusionModel(nn.Module):
    """Encoders, classifiers and a head.

    Args:
        encoders: All encoders.
        classifiers: Linear(dim, classes) for each encoder of `wiring.networks`, in that order.
        head: The fused head.
        wiring: What belongs to what.
    """

    def __init__(
        self, encoders: Sequence[Encoder], classifiers: Sequence[nn.Linear], head: Head, wiring: Wiring
    ) -> None:
        super().__init__()
        # Modality names may hold dots, which module names may not: modules are kept by position.
        self.encoders = nn.ModuleList(encoders)
        self.classifiers = nn.ModuleList(classifiers)
        self.head, self.wiring = head, wiring

    def forward(self, inputs: Mapping[str, Any], present: Mapping[str, Tensor]) -> Outputs:
        """Return features, unimodal logits and fused logits.

        Args:
            inputs: Encoder inputs by modality, for the rows that have it only (first dimension = present.sum()).
            present: bool [batch] by modality.
        """
        features = []
        for name, encoder in zip(self.wiring.modality_of, self.encoders, strict=True):
            assert isinstance(encoder, Encoder)
            has = present[name]
            z = torch.zeros(len(has), encoder.dim, device=has.device)
            if bool(has.any()):
                z[has] = encoder(inputs[name]).float()
            features.append(z)
        return self.fuse(features, present)

    def fuse(self, features: Sequence[Tensor], present: Mapping[str, Tensor]) -> Outputs:
        """Return all outputs for features that were encoded before, one tensor [batch, dim] per encoder."""
        layers = iter(self.classifiers)
        said = {
            name: torch.stack([next(layers)(features[index]) for index in indices]).mean(0)
            for name, indices in self.wiring.networks.items()
        }
        blocks = {block: features[index] for block, index in self.wiring.features.items()}
        blocks |= {name: said[name] for name in self.wiring.logits}
        f = self.head(blocks, {block: present[owner(block)] for block in blocks})
        f_m = {name: logits for name, logits in said.items() if owner(name) == name}
        owners = self.wiring.modality_of
        z = {
            name: torch.cat([z for z, modality in zip(features, owners, strict=True) if modality == name], 1)
            for name in f_m
        }
        return Outputs(z, f_m, f, dict(present))

    def again(self, outputs: Outputs, present: Mapping[str, Tensor], z: Mapping[str, Tensor] | None = None) -> Outputs:
        """Return what the model says with other inputs present, or other features, without encoding anything.

        Args:
            outputs: What it said.
            present: bool [batch] by modality; what was absent before stays absent.
            z: Features to use in place of `outputs.z`, for some modalities.
        """
        device = next(self.head.parameters()).device
        has = {name: (bits & outputs.present[name]).to(device) for name, bits in present.items()}
        blocks = {}
        for name, given in outputs.z.items():
            known = (z or {}).get(name, given).to(device)
            widths = [int(e.dim) for e, m in zip(self.encoders, self.wiring.modality_of, strict=True) if m == name]  # type: ignore[arg-type]
            blocks[name] = iter(torch.split(torch.where(has[name][:, None], known, 0.0), widths, 1))
        with torch.inference_mode():
            return self.fuse([next(blocks[name]) for name in self.wiring.modality_of], has)
