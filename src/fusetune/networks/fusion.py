"""Encoders, linear classifiers on them, and one head on all modalities that knows what is absent.

The head reads blocks. A block is either the features of one encoder or the mean logits of all networks of a modality,
of which there are several after k-fold cross-fitting.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor, nn

from fusetune.encoders import Encoder
from fusetune.encoders.layers import blank_linear
from fusetune.heads import build_head
from fusetune.heads.base import Head
from fusetune.networks.base import Network, Outputs, build_encoders


@dataclass(frozen=True)
class Wiring:
    """Which encoder serves what, by position in the network.

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

    def owner(self, block: str) -> str:
        """Return the modality of a block that the head reads, or of networks of a name."""
        return self.modality_of[self.networks[block][0] if block in self.networks else self.features[block]]

    def check(self, encoders: int) -> None:
        """Refuse a wiring that so many encoders cannot serve.

        Raises:
            ValueError: If it names what is not there.
        """
        places = [at for some in self.networks.values() for at in some] + list(self.features.values())
        if not all(0 <= at < encoders for at in places) or not set(self.logits) <= set(self.networks):
            raise ValueError("the wiring names encoders or networks that are not there")
        if not all(self.networks.values()):
            raise ValueError("the wiring has networks without an encoder")


class FusionNetwork(Network):
    """f = head(blocks), f_m = mean_k (W_mk z_mk + b_mk), or what the head says of a block alone.

    Args:
        encoders: All encoders.
        classifiers: Linear(dim, classes) for each encoder of `wiring.networks`, in that order.
        head: The fused head.
        wiring: What belongs to what.
    """

    kind = "fusion"

    def __init__(
        self, encoders: Sequence[Encoder], classifiers: Sequence[nn.Linear], head: Head, wiring: Wiring
    ) -> None:
        super().__init__(encoders, wiring.modality_of, head.classes)
        wiring.check(len(encoders))
        widths = {block: encoders[at].dim for block, at in wiring.features.items()}
        widths |= dict.fromkeys(wiring.logits, head.classes)
        if head.dims != widths or not widths:
            raise ValueError("the head reads other blocks than the wiring serves")
        self.classifiers = nn.ModuleList(classifiers)
        self.head, self.wiring = head, wiring

    def fuse(self, z: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Outputs:
        """Return all outputs for features [rows, dim] by modality."""
        features, layers = self.by_encoder(z), iter(self.classifiers)
        logits = {
            name: torch.stack([next(layers)(features[at]) for at in places]).mean(0)
            for name, places in self.wiring.networks.items()
        }
        blocks = {block: features[at] for block, at in self.wiring.features.items()}
        blocks |= {name: logits[name] for name in self.wiring.logits}
        has = {block: present[self.wiring.owner(block)] for block in blocks}
        f = self.head(blocks, has)
        f_m = {name: own for name, own in logits.items() if self.wiring.owner(name) == name}
        f_m |= self.head.alone(blocks, has)
        return Outputs(dict(z), f_m, f, dict(present))

    @property
    def linear_classifiers(self) -> list[nn.Linear]:
        """The classifiers of each encoder that has one."""
        return [layer for layer in self.classifiers if isinstance(layer, nn.Linear)]

    def describe(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            "kind": self.kind,
            "encoders": [encoder.describe() for _, encoder in self.members],
            "head": self.head.describe(),
            "wiring": asdict(self.wiring),
            # Weights know blocks and classifiers by their places, and JSON's mappings may come back in any order.
            "order": [list(self.head.dims), list(self.wiring.networks)],
        }

    @classmethod
    def build(cls, description: Mapping[str, Any]) -> Self:
        """Make a network from what `describe` returned, with untrained weights."""
        encoders, wiring = build_encoders(description["encoders"]), Wiring(**description["wiring"])
        wiring.check(len(encoders))
        dims, networks = description["head"]["dims"], wiring.networks
        blocks, names = description.get("order") or _order_of_encoders(dims, wiring)
        wiring = replace(wiring, networks={name: networks[name] for name in names})
        head = build_head({**description["head"], "dims": {block: dims[block] for block in blocks}})
        if len(networks) != len(wiring.networks):
            raise ValueError("the order leaves networks out")
        used = [at for places in wiring.networks.values() for at in places]
        return cls(encoders, [blank_linear(encoders[at].dim, head.classes) for at in used], head, wiring)


def _order_of_encoders(dims: Mapping[str, int], wiring: Wiring) -> tuple[list[str], list[str]]:
    """Return the blocks and networks of a description that does not state their order, as they must come in it."""
    first = wiring.features | {name: wiring.networks[name][0] for name in wiring.logits}
    if dims.keys() != first.keys():
        raise ValueError("the head reads other blocks than the wiring serves")
    blocks, names = sorted(dims, key=first.__getitem__), sorted(wiring.networks, key=wiring.networks.__getitem__)
    if blocks != list(dims) or names != list(wiring.networks):
        raise ValueError("blocks and networks are not in the order in which they were written")
    return blocks, names
