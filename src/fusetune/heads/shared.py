"""A head that is one classifier for all modalities, and trusts in every row those that are sure of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from fusetune.heads.base import Head


class SharedHead(Head):
    """f_m = g(P_m z_m) with one linear g;  f = sum_m w_m f_m, by `certainty`; the prior where nothing is present.

    Args:
        dims: Width of each modality's features, by name.
        classes: Number of classes.
        width: Width that all features are projected to.
    """

    kind = "shared"

    def __init__(self, dims: Mapping[str, int], classes: int, width: int = 64) -> None:
        super().__init__(dims, classes)
        self.arguments = {"width": width}
        self.project = nn.ModuleList(nn.Linear(dim, width) for dim in self.dims.values())
        self.shared = nn.Linear(width, classes)
        self.register_buffer("prior", torch.zeros(classes))

    @torch.no_grad()
    def start_from(self, classifiers: Sequence[nn.Linear]) -> None:
        """Make f_m what classifiers on raw features say, or, with fewer dimensions than classes, come close to it.

        The dimensions that this does not need keep their random projections, and g starts without them.

        Args:
            classifiers: Linear(dim, classes) for each block, in order.
        """
        scaled = []
        for index, layer in enumerate(classifiers):
            mean, scale = self.get_buffer(f"mean_{index}"), self.get_buffer(f"scale_{index}")
            bias = layer.bias + layer.weight @ mean
            scaled.append(torch.cat([layer.weight / scale, bias[:, None]], 1).double())
        basis = torch.linalg.svd(torch.cat(scaled, 1), full_matrices=False).U[:, : self.arguments["width"]]
        used = basis.shape[1]
        self.shared.weight.zero_()
        self.shared.bias.zero_()
        self.shared.weight[:, :used] = basis.to(self.shared.weight)
        for projection, whole in zip(self.project, scaled, strict=True):
            assert isinstance(projection, nn.Linear)
            inner = (basis.T @ whole).to(projection.weight)
            projection.weight[:used], projection.bias[:used] = inner[:, :-1], inner[:, -1]

    def projected(self, z: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return what the classifier reads of each block, [batch, `width`]."""
        triples = zip(self.dims, self.project, self.blocks(z, present), strict=True)
        return {name: layer(block) for name, layer, block in triples}

    def alone(self, z: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return f_m, [batch, classes] by block."""
        return {name: self.shared(own) for name, own in self.projected(z, present).items()}

    def forward(self, z: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
        """Return logits [batch, classes]."""
        logits = torch.stack(list(self.alone(z, present).values()))
        has = torch.stack([present[name] for name in self.dims])
        fused = (certainty(logits, has)[:, :, None] * logits).sum(0)
        return torch.where(has.any(0)[:, None], fused, self.get_buffer("prior"))


def certainty(logits: Tensor, has: Tensor) -> Tensor:
    """Return w_m = exp(max H - H_m) / sum_n exp(max H - H_n), H_m the entropy of softmax(f_m) in that row.

    Args:
        logits: [modalities, batch, classes].
        has: bool [modalities, batch]; what is absent weighs nothing.

    Returns:
        [modalities, batch].
    """
    logp = torch.log_softmax(logits, -1)
    entropy = -(logp.exp() * logp).sum(-1)
    return torch.softmax((-entropy).masked_fill(~has, -1e9), 0) * has
