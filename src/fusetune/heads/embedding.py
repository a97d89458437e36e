"""A head that first brings all modalities into one space, where the same row's embeddings can be compared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fusetune.heads.base import Head
from fusetune.heads.linear import LinearHead

_MEAN = "mean"


class EmbeddingHead(Head):
    """e_m = P_m z_m + q_m at length 1; f is linear in the mean of the e_m that are present, or in all of them.

    Args:
        dims: Width of each modality's features, by name.
        classes: Number of classes.
        width: Width of the common space.
        fusion: What the classifier `outer` reads: their `mean`, or `concat`, all side by side.
    """

    kind = "embedding"

    def __init__(self, dims: Mapping[str, int], classes: int, width: int = 128, fusion: str = _MEAN) -> None:
        super().__init__(dims, classes)
        if fusion not in (_MEAN, "concat"):
            raise ValueError(f"embeddings are joined by '{_MEAN}' or 'concat', not by '{fusion}'")
        self.joint, self.fusion = width, fusion
        self.project = nn.ModuleList(nn.Linear(dim, width) for dim in self.dims.values())
        self.outer = LinearHead({_MEAN: width} if fusion == _MEAN else dict.fromkeys(self.dims, width), classes)

    def embed(self, z: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the embeddings e_m by modality, [batch, width], of length 1, and zero where absent."""
        pairs = zip(self.dims, self.project, self.blocks(z, present), strict=True)
        return {name: F.normalize(layer(block), dim=1) * present[name][:, None] for name, layer, block in pairs}

    def read(
        self, embeddings: Mapping[str, Tensor], present: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return what `outer` reads of embeddings: its blocks, and whether each is there."""
        if self.fusion != _MEAN:
            return dict(embeddings), {name: present[name] for name in embeddings}
        mean, some = mean_embedding(embeddings, present)
        return {_MEAN: mean}, {_MEAN: some}

    def forward(self, z: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
        """Return logits [batch, classes]; a row without any modality gets constants."""
        logits: Tensor = self.outer(*self.read(self.embed(z, present), present))
        return logits

    def describe(self) -> dict[str, Any]:
        """Return what `build_head` needs to make this head again."""
        return super().describe() | {"width": self.joint, "fusion": self.fusion}


def mean_embedding(embeddings: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return the mean of the embeddings that a row has, [batch, width], and whether it has any, bool [batch]."""
    has = torch.stack([present[name] for name in embeddings])
    total = torch.stack(list(embeddings.values())) * has[:, :, None]
    return total.sum(0) / has.sum(0).clamp(min=1)[:, None], has.any(0)
