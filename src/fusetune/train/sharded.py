"""Encoders whose weights, gradients and optimiser states are divided among ranks while they are trained (FSDP).

`shard` divides the encoders of a network in place, by PyTorch's `fully_shard`; each rank then holds its piece of every
weight, and whole weights for as long as a block runs. `Shards.restore` puts whole encoders back. In between, the loop
saves, loads and clips through the functions here, so that checkpoints hold whole weights: they are the same with one
rank, with several, sharded or not. A single device must still hold an encoder's weights once, for features and
predictions; in training, gradients and optimiser states take three times as much beside them.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fusetune.encoders import Encoder
from fusetune.ranks import Ranks, is_divided, is_sharded

# How networks call the list of their blocks, each of which is put together when it runs.
_BLOCKS = ("layer", "layers", "blocks", "h")


@dataclass(frozen=True)
class Shards:
    """The encoders that were divided, and whole ones to take their places.

    Attributes:
        encoders: The list that they are in.
        whole: A whole encoder for each place, on the CPU.
        device: Where they were.
    """

    encoders: nn.ModuleList
    whole: Sequence[Encoder]
    device: torch.device

    def restore(self) -> None:
        """Put whole encoders with the weights of the divided ones in their places."""
        for at, encoder in enumerate(self.whole):
            encoder.load_state_dict(whole(self.encoders[at].state_dict()))
            self.encoders[at] = encoder.to(self.device)


def shard(encoders: nn.ModuleList, ranks: Ranks, device: torch.device) -> Shards:
    """Divide the weights of encoders among the ranks, in place; optimisers must be made afterwards."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (ranks.count,))
    shards = Shards(encoders, [copy.deepcopy(encoder).cpu() for encoder in encoders], device)  # type: ignore[misc]
    for encoder in dict.fromkeys(encoders):
        for block in [*_blocks(encoder), encoder]:
            # Each rank's loss is its part of one mean: gradients are summed, not averaged.
            fully_shard(block, mesh=mesh).set_gradient_divide_factor(1.0)
    return shards


def _blocks(encoder: nn.Module) -> list[nn.Module]:
    lists = [
        module
        for name, module in encoder.named_modules()
        if name.rpartition(".")[2] in _BLOCKS and isinstance(module, nn.ModuleList | nn.Sequential)
    ]
    blocks = [block for several in lists for block in several if any(True for _ in block.parameters())]
    return blocks[::-1]  # inner ones first


def whole(state: Any) -> Any:
    """Return nested dicts in which every divided tensor is whole; all ranks must ask alike."""
    if is_divided(state):
        return state.full_tensor()
    if isinstance(state, Mapping) and _holds_divided(state):
        return {name: whole(value) for name, value in state.items()}
    return state


def _holds_divided(state: Mapping[Any, Any]) -> bool:
    return any(_holds_divided(one) if isinstance(one, Mapping) else is_divided(one) for one in state.values())


def load(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load a state, whole or divided as the module is, into a module that may be divided."""
    if is_sharded(module):
        own = module.state_dict()
        state = {name: _like(value, own.get(name)) for name, value in state.items()}
    module.load_state_dict(state)


def load_optimiser(optimiser: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load a whole state into an optimiser whose parameters may be divided."""
    optimiser.load_state_dict(state)
    for p, own in optimiser.state.items():
        for name, value in own.items():
            if isinstance(value, Tensor) and value.shape == p.shape:
                own[name] = _like(value, p)


def _like(value: Tensor, other: Any) -> Tensor:
    """Divide a whole tensor as another one is divided."""
    if not is_divided(other) or is_divided(value):
        return value
    from torch.distributed.tensor import distribute_tensor

    divided: Tensor = distribute_tensor(value.to(other.device), other.device_mesh, other.placements)
    return divided


def clip(parameters: Iterable[nn.Parameter], most: float) -> Tensor:
    """Scale gradients down to a norm of at most so much, and return the norm before; no limit: `math.inf`."""
    moving = [p for p in parameters if p.grad is not None]
    if not any(map(is_divided, moving)):
        norm: Tensor = nn.utils.clip_grad_norm_(moving, most)
        return norm
    gradients = [p.grad for p in moving if p.grad is not None]
    norms = [whole(torch.linalg.vector_norm(gradient)) for gradient in gradients]
    total: Tensor = torch.linalg.vector_norm(torch.stack(norms))
    factor = 1.0 if most == math.inf else min(1.0, most / (float(total) + 1e-6))
    if factor < 1:
        for gradient in gradients:
            gradient.mul_(factor)
    return total
