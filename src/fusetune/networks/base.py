"""What every network is: encoders, and what is made of their features; and what a network says of some rows.

A network has two halves. `encode` runs the encoders, which takes the time; `fuse` makes logits from their features, and
can be asked again, with less present or other features, without encoding anything.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from fusetune.data.source import as_double
from fusetune.encoders import Encoder, build_encoder
from fusetune.encoders.layers import full

# In the place of an encoder's description: its weights are those of the encoder at this place.
SAME = "same"


@dataclass(frozen=True)
class Outputs:
    """What a network says of some rows.

    Attributes:
        z: Features by modality, [rows, dim], those of all its encoders side by side; zero where absent.
        f_m: Logits of each modality alone, [rows, classes].
        f: Fused logits, [rows, classes].
        present: Whether the row has the modality, by modality, bool [rows].
    """

    z: dict[str, Tensor]
    f_m: dict[str, Tensor]
    f: Tensor
    present: dict[str, Tensor]

    def some(self, rows: Any) -> Outputs:
        """Keep some rows, by position, mask or slice."""
        return self._each(lambda tensor: tensor[rows])

    def to_float(self) -> Outputs:
        """Return the same in float32, or in float64 where it is so."""
        return self._each(lambda tensor: tensor if tensor.dtype == torch.bool else full(tensor))

    def to_cpu(self) -> Outputs:
        """Return the same on the CPU, in float32."""
        return self.to_float()._each(lambda tensor: tensor.cpu())

    def _each(self, change: Any) -> Outputs:
        def mapped(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
            return {name: change(tensor) for name, tensor in tensors.items()}

        return Outputs(mapped(self.z), mapped(self.f_m), change(self.f), mapped(self.present))

    @classmethod
    def joined(cls, parts: Sequence[Outputs]) -> Outputs:
        """Put the outputs of several batches one after the other."""

        def cat(field: str) -> dict[str, Tensor]:
            return {name: torch.cat([getattr(p, field)[name] for p in parts]) for name in getattr(parts[0], field)}

        return cls(cat("z"), cat("f_m"), torch.cat([part.f for part in parts]), cat("present"))


class Network(nn.Module, ABC):
    """Encoders, each of one modality, and what is made of their features.

    Args:
        encoders: All encoders.
        owners: The modality of each.
        classes: Number of classes.
    """

    kind: ClassVar[str]

    def __init__(self, encoders: Sequence[Encoder], owners: Sequence[str], classes: int) -> None:
        super().__init__()
        if len(encoders) != len(owners):
            raise ValueError(f"{len(encoders)} encoders, and {len(owners)} names of the modalities that they belong to")
        # Modality names may hold dots, which module names may not: modules are kept by position.
        self.encoders = nn.ModuleList(encoders)
        self.owners, self.classes = list(owners), classes
        # What runs an encoder in its place where no gradient is wanted.
        self.engines: Mapping[Encoder, Callable[[Any], Tensor]] = {}

    @abstractmethod
    def fuse(self, z: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Outputs:
        """Return logits for features [rows, dim] by modality, as `encode` returns them, on the network's device."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Return the JSON description from which `build_network` makes this network again, with random weights."""

    @classmethod
    @abstractmethod
    def build(cls, description: Mapping[str, Any]) -> Self:
        """Make a network from what `describe` returned, with untrained weights."""

    def encode(
        self, inputs: Mapping[str, Any], present: Mapping[str, Tensor], memory: dict[int, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Run the encoders.

        Args:
            inputs: Encoder inputs by modality, for the rows that have it only (first dimension = present.sum()).
            present: bool [rows] by modality.
            memory: Features of this batch by encoder (its `id`): what is there is not encoded again, and what is
                encoded is put there. Networks that share encoders share it.

        Returns:
            Features by modality, [rows, dim], those of all its encoders side by side; zero where absent.
        """
        memory = {} if memory is None else memory
        engines = {} if torch.is_grad_enabled() else self.engines
        for name, encoder in self.members:
            if id(encoder) not in memory:
                forward = engines.get(encoder, encoder)
                memory[id(encoder)] = _features(encoder, inputs.get(name), present[name], forward)
        z = {
            name: torch.cat([memory[id(encoder)] for encoder in self.of(name)], 1)
            for name in dict.fromkeys(self.owners)
        }
        # Encoders without weights say nothing of the precision that they are in.
        wide = next((p.dtype for p in self.parameters()), None) == torch.float64
        return {name: own.double() for name, own in z.items()} if wide else z

    def forward(self, inputs: Mapping[str, Any], present: Mapping[str, Tensor]) -> Outputs:
        """Return features, unimodal logits and fused logits; arguments as for `encode`."""
        return self.fuse(self.encode(inputs, present), present)

    def by_encoder(self, z: Mapping[str, Tensor]) -> list[Tensor]:
        """Return the features of each encoder, [rows, dim], from those of each modality."""
        parts = {}
        for name in z:
            widths = [encoder.dim for owner, encoder in self.members if owner == name]
            parts[name] = iter(torch.split(z[name], widths, 1))
        return [next(parts[owner]) for owner in self.owners]

    def again(self, outputs: Outputs, present: Mapping[str, Tensor], z: Mapping[str, Tensor] | None = None) -> Outputs:
        """Return what the network says with less present, or other features, without encoding anything.

        Args:
            outputs: What it said.
            present: bool [rows] by modality; what was absent before stays absent.
            z: Features to use in place of `outputs.z`, for some modalities.
        """
        has = {name: (bits & outputs.present[name]).to(self.device) for name, bits in present.items()}
        features = {name: (z or {}).get(name, own).to(self.device) for name, own in outputs.z.items()}
        with torch.inference_mode():
            return self.fuse({name: torch.where(has[name][:, None], own, 0.0) for name, own in features.items()}, has)

    @property
    def members(self) -> list[tuple[str, Encoder]]:
        """Each encoder with the modality that it belongs to."""
        return list(zip(self.owners, self.encoders, strict=True))  # type: ignore[arg-type]

    def of(self, modality: str) -> list[Encoder]:
        """Return the encoders of a modality, in the order of its features."""
        return [encoder for owner, encoder in self.members if owner == modality]

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(tensor.device for tensor in chain(self.parameters(), self.buffers()))


def encoded(encoders: Sequence[Encoder], inputs: Any, has: Tensor) -> Tensor:
    """Return the features of several encoders of one modality side by side, [rows, dim], zero where absent.

    Args:
        encoders: The encoders.
        inputs: Their inputs, for the rows that have the modality only; None where none has.
        has: Which rows have it, bool [rows].
    """
    return torch.cat([_features(encoder, inputs, has) for encoder in encoders], 1)


def _features(encoder: Encoder, inputs: Any, has: Tensor, forward: Callable[[Any], Tensor] | None = None) -> Tensor:
    forward = encoder if forward is None else forward
    if next((p.dtype for p in encoder.parameters()), None) == torch.float64:
        inputs = None if inputs is None else as_double(inputs)
    if bool(has.all()) and len(has):
        return full(forward(inputs))
    if not bool(has.any()):
        return torch.zeros(len(has), encoder.dim, device=has.device)
    own = full(forward(inputs))
    z = torch.zeros(len(has), encoder.dim, device=has.device, dtype=own.dtype)
    z[has] = own
    return z


def build_encoders(descriptions: Sequence[Mapping[str, Any]]) -> list[Encoder]:
    """Make encoders from their descriptions, with random weights.

    A description `{SAME: place}` stands for an encoder of the same shape as the one at that place before it, and with
    the very same tensors: an encoder of its own, since it reads another input, whose weights are there once.
    """
    made: list[Encoder] = []
    for description in descriptions:
        if SAME not in description:
            made.append(build_encoder(dict(description)))
            continue
        place = description[SAME]
        if type(place) is not int or not 0 <= place < len(made) or len(description) > 1:
            raise ValueError(f"encoder {len(made)} is to be the same as number {place!r:.20}, which is none before it")
        kept = {id(tensor): tensor for tensor in chain(made[place].parameters(), made[place].buffers())}
        made.append(copy.deepcopy(made[place], kept))
    return made
