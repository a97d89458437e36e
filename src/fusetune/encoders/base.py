"""What every encoder is: a network that turns one modality's batch of inputs into feature vectors.

An encoder also knows its parameters in blocks ordered from input to output (for layer-wise learning rates and partial
freezing) and can describe itself in JSON, so that a saved model is rebuilt without the package its weights came from.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn


class Encoder(nn.Module, ABC):
    """One modality's network: a batch of inputs -> feature vectors.

    A subclass's constructor takes JSON values and, where there is one, the loaded network as `backbone`; the values
    are its description, from which `build_encoder` makes the same architecture.

    Attributes:
        dim: Width of the feature vector.
        arguments: Those values by name, defaults included.
    """

    dim: int
    arguments: dict[str, Any]

    def __new__(cls, *values: Any, **named: Any) -> Self:
        """Keep what the constructor is called with."""
        encoder = super().__new__(cls)
        call = inspect.signature(cls.__init__).bind_partial(encoder, *values, **named)
        call.apply_defaults()
        kept = {name: value for name, value in call.arguments.items() if name not in ("self", "backbone")}
        # As JSON has it; not by `setattr`, since PyTorch's own constructor has not run yet.
        encoder.__dict__["arguments"] = {n: list(v) if isinstance(v, tuple) else v for n, v in kept.items()}
        return encoder

    @abstractmethod
    def forward(self, inputs: Any) -> Tensor:
        """Return the features, shape ``[batch, dim]``, float32."""

    def blocks(self) -> list[list[nn.Parameter]]:
        """Return the parameters in blocks ordered from input to output, each once, but for those that are `fresh`."""
        return numbered_blocks(self)

    def fresh(self) -> list[nn.Parameter]:
        """Return parameters that are no part of a block, since they begin from nothing whatever the rest is."""
        return []

    @property
    def bottom(self) -> Encoder:
        """The encoder that takes what is read from the table: this one, unless it stands on another."""
        return self

    @property
    def takes_several(self) -> bool:
        """Does it take bags of elements (`Bag`), from which it makes one vector for each row?"""
        return False

    def describe(self) -> dict[str, Any]:
        """Return the JSON description from which `build_encoder` rebuilds the architecture with random weights."""
        return {"encoder": type(self).__name__, **self.arguments}


class ImageEncoder(Encoder):
    """An encoder of pixels that applies its backbone's own pixel statistics.

    Args:
        mean: Per-channel mean of RGB in 0..1.
        std: Per-channel standard deviation of RGB in 0..1.
        preferred_size: Pixels per side for which the weights were trained.
        statistics: Where mean and standard deviation come from, in words.
    """

    _mean: Tensor
    _std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float], preferred_size: int, statistics: str) -> None:
        super().__init__()
        self.mean, self.std = [float(value) for value in mean], [float(value) for value in std]
        self.preferred_size, self.statistics = preferred_size, statistics
        self.arguments |= {"mean": self.mean, "std": self.std, "preferred_size": preferred_size}
        # Rebuilt from the description, so they are no part of the weights.
        self.register_buffer("_mean", torch.tensor(self.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("_std", torch.tensor(self.std).view(1, 3, 1, 1), persistent=False)

    def normalise(self, pixels: Tensor) -> Tensor:
        """Return ``(pixels - mean) / std``, shape unchanged."""
        return standardise(pixels, self._mean, self._std)


def numbered_blocks(network: nn.Module) -> list[list[nn.Parameter]]:
    """Cut a network into the stem, one block per entry of its outermost layer lists, and what follows.

    The rule needs no knowledge of names: a parameter belongs to the outermost `ModuleList` or `Sequential` entry on
    its path; a run of parameters outside any list joins the entry before it only when it comes after the last entry
    of a list (a final normalisation, say), and is the stem when it comes first.

    Args:
        network: Any module that registers its children in the order in which they run.

    Returns:
        Non-empty blocks, input to output; shared parameters appear once, where they occur first.
    """
    blocks: dict[str, list[nn.Parameter]] = {}
    current = "stem"
    for name, parameter in network.named_parameters():
        current = _list_entry(network, name) or current
        blocks.setdefault(current, []).append(parameter)
    return list(blocks.values())


def _list_entry(network: nn.Module, name: str) -> str | None:
    """Return the path of the outermost list entry that holds the named parameter."""
    module, path = network, ""
    for part in name.split(".")[:-1]:
        inside_list = isinstance(module, nn.ModuleList | nn.Sequential)
        module, path = module.get_submodule(part), f"{path}.{part}"
        if inside_list:
            return path
    return None


def takes_argument(network: nn.Module, argument: str) -> bool:
    """Return whether the network's `forward` has an argument of this name."""
    return argument in inspect.signature(network.forward).parameters


def standardise(pixels: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Return ``(pixels - mean) / std``.

    Args:
        pixels: float [rows, 3, height, width].
        mean: Per channel, [1, 3, 1, 1].
        std: Per channel, [1, 3, 1, 1].
    """
    innermost = pixels.is_contiguous(memory_format=torch.channels_last) and not pixels.is_contiguous()
    if pixels.device.type != "cpu" or not innermost or torch.compiler.is_compiling():
        return (pixels - mean) / std
    # With the channels innermost, three numbers at a time keep a CPU's vector units idle: as one long line per row of
    # pixels the same sums take a quarter of the time (`benchmarks/warp.py`).
    width = pixels.shape[3]
    lines = pixels.permute(0, 2, 3, 1).flatten(2)
    lines = (lines - mean.flatten().repeat(width)).div_(std.flatten().repeat(width))
    return lines.view(len(pixels), -1, width, 3).permute(0, 3, 1, 2)
