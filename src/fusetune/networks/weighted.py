"""Several networks on shared encoders, and one answer of them all: a weighted sum of what they say."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

import fusetune.networks as known  # and it knows this one, so that kinds are looked up when they are needed
from fusetune.data.choices import TargetKind
from fusetune.encoders import Encoder, Identity
from fusetune.networks.base import Network, Outputs, build_encoders
from fusetune.targets import TARGETS, Classification, Target


class WeightedNetwork(Network):
    """f = sum_k a_k s(f_k / T_k), over the networks k that read anything of what a row has; s = log softmax of classes.

    Where some of them do not, the weights of the others are raised so that they add up to as much. A row that none of
    them can read is given the log prior. f_m is the mean of what the networks say of modality m alone, by weight.

    Args:
        encoders: All encoders, each once.
        owners: The modality of each.
        parts: The networks, each with `Identity` in the place of its encoders.
        places: For each of them, where its encoders stand among `encoders`.
        weights: a_k, not negative, one of them at least positive.
        temperatures: T_k.
        prior: What is said of a row of which nothing is known, such as log class frequencies, float [classes].
        target: What is predicted, which says what can be summed: of labels log-odds, of a number the number itself.
    """

    kind = "weighted"

    def __init__(
        self,
        encoders: Sequence[Encoder],
        owners: Sequence[str],
        parts: Sequence[Network],
        places: Sequence[Sequence[int]],
        weights: Sequence[float],
        temperatures: Sequence[float],
        prior: Tensor,
        target: TargetKind = Classification.kind,
    ) -> None:
        super().__init__(encoders, owners, len(prior))
        self.target = TARGETS[target]
        self.parts, self.places = nn.ModuleList(parts), [list(some) for some in places]
        self.weights, self.temperatures = list(map(float, weights)), list(map(float, temperatures))
        if not len(parts) == len(places) == len(weights) == len(temperatures) > 0:
            raise ValueError("there are not as many weights, temperatures and places as networks")
        if not all(0 <= weight < math.inf for weight in self.weights) or not sum(self.weights) > 0:
            raise ValueError("weights are numbers that are not negative, and not all 0")
        if not all(0 < heat < math.inf for heat in self.temperatures):
            raise ValueError("temperatures must be positive numbers")
        for part, some in zip(parts, self.places, strict=True):
            if not all(0 <= at < len(encoders) for at in some) or part.classes != self.classes:
                raise ValueError("a network reads encoders that are not there, or tells other classes apart")
            if [owners[at] for at in some] != part.owners:
                raise ValueError("a network reads encoders of another modality")
        self.register_buffer("prior", prior.clone())

    @classmethod
    def gathered(
        cls,
        networks: Sequence[Network],
        weights: Sequence[float],
        temperatures: Sequence[float],
        prior: Tensor,
        target: TargetKind = Classification.kind,
    ) -> Self:
        """Gather networks, whose encoders are used as they are, and kept once where several read one."""
        encoders, owners, places = list[Encoder](), list[str](), list[list[int]]()
        for network in networks:
            places.append([])
            for owner, encoder in network.members:
                if not any(encoder is one for one in encoders):
                    encoders.append(encoder)
                    owners.append(owner)
                places[-1].append(next(at for at, one in enumerate(encoders) if one is encoder))
        return cls(encoders, owners, [_halved(one) for one in networks], places, weights, temperatures, prior, target)

    @property
    def networks(self) -> list[Network]:
        """The networks, without their encoders."""
        return [part for part in self.parts if isinstance(part, Network)]

    def fuse(self, z: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Outputs:
        """Return all outputs for features [rows, dim] by modality."""
        features, said = self.by_encoder(z), list[Outputs]()
        for part, places in zip(self.networks, self.places, strict=True):
            own: dict[str, list[Tensor]] = {name: [] for name in part.owners}
            for at in places:
                own[self.owners[at]].append(features[at])
            said.append(part.fuse({name: torch.cat(some, 1) for name, some in own.items()}, present))
        reads = torch.stack([torch.stack([present[name] for name in part.owners]).any(0) for part in self.networks])
        logits = torch.stack([one.f for one in said])
        f = pooled(logits, reads, self.weights, self.temperatures, self.get_buffer("prior"), self.target)
        f_m = dict[str, Tensor]()
        for name in dict.fromkeys(name for one in said for name in one.f_m):
            speak = [at for at, one in enumerate(said) if name in one.f_m]
            share = logits.new_tensor([self.weights[at] for at in speak])
            share = share / share.sum() if share.sum() > 0 else torch.full_like(share, 1 / len(speak))
            f_m[name] = torch.einsum("k,krc->rc", share, torch.stack([said[at].f_m[name] for at in speak]))
        return Outputs(dict(z), f_m, f, dict(present))

    def describe(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            "kind": self.kind,
            "encoders": [encoder.describe() for _, encoder in self.members],
            "owners": self.owners,
            "classes": self.classes,
            "parts": [part.describe() for part in self.networks],
            "places": self.places,
            "weights": self.weights,
            "temperatures": self.temperatures,
            **({} if self.target is Classification else {"target": self.target.kind}),
        }

    @classmethod
    def build(cls, description: Mapping[str, Any]) -> Self:
        """Make a network from what `describe` returned, with untrained weights."""
        if any(part["kind"] == cls.kind for part in description["parts"]):
            raise ValueError("a weighted network of weighted networks")
        return cls(
            build_encoders(description["encoders"]),
            description["owners"],
            [known.build_network(part) for part in description["parts"]],
            description["places"],
            description["weights"],
            description["temperatures"],
            torch.zeros(int(description["classes"])),
            description.get("target", Classification.kind),
        )


def pooled(
    logits: Tensor,
    reads: Tensor,
    weights: Sequence[float] | Tensor,
    temperatures: Sequence[float],
    prior: Tensor,
    target: type[Target] = Classification,
) -> Tensor:
    """Return f, [rows, classes].

    Args:
        logits: f_k, [networks, rows, classes].
        reads: Which networks read anything of a row, bool [networks, rows].
        weights: a_k.
        temperatures: T_k.
        prior: What a row is given that nobody reads, [classes].
        target: What is predicted.
    """
    heats = torch.tensor(temperatures, dtype=logits.dtype, device=logits.device)[:, None, None]
    every = torch.as_tensor(weights, dtype=logits.dtype, device=logits.device)
    share = every[:, None] * reads
    total = share.sum(0)
    share = share * (every.sum() / total.clamp(min=1e-12))
    f = (share[:, :, None] * target.summable(logits / heats)).sum(0)
    return torch.where((total > 0)[:, None], f, prior.to(f))


def _halved(network: Network) -> Network:
    """Return a copy of a network that takes features in the place of inputs."""
    given = [Identity(encoder.dim).describe() for _, encoder in network.members]
    half = known.build_network({**network.describe(), "encoders": given})
    half.load_state_dict({name: own for name, own in network.state_dict().items() if not name.startswith("encoders.")})
    return half.to(network.device).eval().requires_grad_(False)
