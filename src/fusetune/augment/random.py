"""Stateless random numbers: a pure function of (seed, epoch, view, row key, operation, draw).

No generator is advanced, so a row gets the same numbers in any batch, with any number of workers or devices, and after
a resume. The mixing function is the finaliser of SplitMix64 (Steele, Lea & Flood 2014), applied once per word.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from zlib import crc32

import torch
from torch import Tensor

_MULTIPLY_1 = 0xBF58476D1CE4E5B9 - 2**64
_MULTIPLY_2 = 0x94D049BB133111EB - 2**64
_GOLDEN = 0x9E3779B97F4A7C15 - 2**64


@dataclass(frozen=True)
class Moment:
    """When a random number is drawn: everything that it depends on besides the row."""

    seed: int
    epoch: int = 0
    view: int = 0


def uniform(moment: Moment, keys: Tensor, operation: str, draws: int) -> Tensor:
    """Return uniform numbers in [0, 1).

    Args:
        moment: Seed, epoch and view.
        keys: Row keys, int64 [rows].
        operation: Name of the operation; different names give independent numbers.
        draws: How many numbers per row.

    Returns:
        float32 [rows, draws], multiples of 2**-24, bit-equal on every device.
    """
    return (_shift(_bits(moment, keys, operation, draws), 40)).to(torch.float32) * 2.0**-24


def integers(moment: Moment, keys: Tensor, operation: str, draws: int, below: int) -> Tensor:
    """Return uniform integers in [0, below), int64 [rows, draws] (bias below 2**-39 for below < 2**24)."""
    return _shift(_bits(moment, keys, operation, draws), 1) % below


def normal(moment: Moment, keys: Tensor, operation: str, draws: int) -> Tensor:
    """Return standard normal numbers, float32 [rows, draws], below 5.8 in size (Box & Muller 1958)."""
    radius, angle = uniform(moment, keys, operation, 2 * draws).chunk(2, dim=1)
    # 1 - u is exact and never zero.
    return (-2 * torch.log(1 - radius)).sqrt() * torch.cos(2 * math.pi * angle)


def _bits(moment: Moment, keys: Tensor, operation: str, draws: int) -> Tensor:
    state = _mix(keys + _GOLDEN)
    for word in (moment.seed, moment.epoch, moment.view, crc32(operation.encode())):
        state = _mix((state ^ word) + _GOLDEN)
    counter = torch.arange(1, draws + 1, device=keys.device, dtype=torch.int64) * _GOLDEN
    return _mix(state[:, None] + counter)


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shift(x, 30)) * _MULTIPLY_1
    x = (x ^ _shift(x, 27)) * _MULTIPLY_2
    return x ^ _shift(x, 31)


def _shift(x: Tensor, bits: int) -> Tensor:
    # PyTorch's >> repeats the sign bit; SplitMix64 shifts in zeros.
    return (x >> bits) & ((1 << (64 - bits)) - 1)
