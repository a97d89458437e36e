"""Optimiser, parameter groups and learning-rate schedule: a pure function of the step, so that resuming is exact."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import nn

from fusetune.config import EncoderConfig, LoopConfig

Blocks = Sequence[Sequence[nn.Parameter]]


def encoder_groups(blocks: Blocks, settings: EncoderConfig) -> list[dict[str, object]]:
    """Group an encoder's parameters by learning rate and weight decay; freeze the first blocks.

    The last block learns at ``lr``, each block before it at ``layer_decay`` times the rate of the next. Biases and
    normalisation parameters (one-dimensional) are not decayed.
    """
    frozen = math.floor(settings.freeze * len(blocks) + 1e-9)
    groups: list[dict[str, object]] = []
    for depth, block in enumerate(blocks):
        for parameter in block:
            # LoRA has its own idea of what is trainable; freezing only ever takes away.
            parameter.requires_grad_(parameter.requires_grad and depth >= frozen)
        rate = settings.lr * settings.layer_decay ** (len(blocks) - 1 - depth)
        groups += weight_groups([p for p in block if p.requires_grad], rate, settings.weight_decay)
    return groups


def build_optimiser(groups: list[dict[str, object]], settings: LoopConfig) -> torch.optim.Optimizer:
    """Return AdamW or SGD with momentum over the groups."""
    for group in groups:
        group["base_lr"] = group["lr"]
    if settings.optimiser == "sgd":
        return torch.optim.SGD(groups, momentum=settings.momentum)
    return torch.optim.AdamW(groups)


def rate_factor(step: int, steps: int, settings: LoopConfig) -> float:
    """Return the share of the base rate at a step: linear warm-up, then cosine to zero or constant."""
    warm = settings.warmup * steps
    if step < warm:
        return (step + 1) / (warm + 1)
    if settings.schedule == "constant" or steps <= warm:
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / (steps - warm)))


def set_rate(optimiser: torch.optim.Optimizer, factor: float, owners: Mapping[str, float] | None = None) -> None:
    """Scale every group's base rate; that of a group with an `owner` also by the owner's own factor."""
    for group in optimiser.param_groups:
        own = owners.get(group["owner"], 1.0) if owners and "owner" in group else 1.0
        group["lr"] = group["base_lr"] * factor * own


def weight_groups(parameters: Sequence[nn.Parameter], rate: float, decay: float) -> list[dict[str, object]]:
    """Group parameters that learn at one rate: biases and normalisation parameters are not decayed."""
    matrices = [p for p in parameters if p.ndim > 1]
    vectors = [p for p in parameters if p.ndim <= 1]
    pairs = ((matrices, decay), (vectors, 0.0))
    return [{"params": members, "lr": rate, "weight_decay": wd} for members, wd in pairs if members]
