"""Networks as they are trained, judged, saved and served: inputs of all modalities -> features and logits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fusetune.networks.base import SAME, Network, Outputs
from fusetune.networks.ensemble import EnsembleNetwork
from fusetune.networks.fusion import FusionNetwork, Wiring
from fusetune.networks.weighted import WeightedNetwork

NETWORKS: dict[str, type[Network]] = {
    network.kind: network for network in (FusionNetwork, EnsembleNetwork, WeightedNetwork)
}


def build_network(description: Mapping[str, Any]) -> Network:
    """Make a network from its description, with untrained weights."""
    if description["kind"] not in NETWORKS:
        raise ValueError(f"there is no kind of network called '{description['kind']}'")
    return NETWORKS[description["kind"]].build(description)


__all__ = [
    "NETWORKS",
    "SAME",
    "EnsembleNetwork",
    "FusionNetwork",
    "Network",
    "Outputs",
    "WeightedNetwork",
    "Wiring",
    "build_network",
]
