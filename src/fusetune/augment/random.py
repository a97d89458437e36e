"""Stateless random numbers: a pure function of (seed, epoch, view, row key, operation, draw).

No generator is advanced, so a row gets the same numbers in any batch, with any number of workers or devices, and after
a resume. The mixing function is the finaliser of SplitMix64 (Steele, Lea & Flood 2014), applied once per word.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
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


def each_uniform(moment: Moment, keys: Tensor, operations: Sequence[str]) -> dict[str, Tensor]:
    """Return one number per row for each of several operations, the same as `uniform` gives one by one.

    Returns:
        float32 [rows] by operation.
    """
    words = torch.tensor([crc32(name.encode()) for name in operations], device=keys.device)
    state = _mix((_start(moment, keys)[:, None] ^ words) + _GOLDEN)
    numbers = _shift(_mix(state + _GOLDEN), 40).to(torch.float32) * 2.0**-24
    return dict(zip(operations, numbers.unbind(1), strict=True))


def integers(moment: Moment, keys: Tensor, operation: str, draws: int, below: int) -> Tensor:
    """Return uniform integers in [0, below), int64 [rows, draws] (bias below 2**-39 for below < 2**24)."""
    return _shift(_bits(moment, keys, operation, draws), 1) % below


def normal(moment: Moment, keys: Tensor, operation: str, draws: int) -> Tensor:
    """Return standard normal numbers, cheap enough for one per pixel.

    Sixteen bits of the hash choose one of 65,536 equally likely values, the middles of the normal distribution's
    quantiles; the distribution function is therefore right to 2**-17, and the largest value is 4.3.

    Returns:
        float32 [rows, draws], bit-equal on every device.
    """
    words = _bits(moment, keys, operation, -(-draws // 4))
    # Each word seen as four pieces, the lowest bits first, as on every processor that PyTorch runs on.
    pieces = words.view(torch.int16)[:, :draws].to(torch.int32) & 0xFFFF
    return _quantiles(keys.device).index_select(0, pieces.flatten()).view(len(keys), draws)


@cache
def _quantiles(device: torch.device) -> Tensor:
    """Return the quantiles, copied to a device once; computed on the CPU, so that all devices have the same bits."""
    middles = (torch.arange(2**16, dtype=torch.float64) + 0.5) / 2**16
    return (math.sqrt(2) * torch.erfinv(2 * middles - 1)).to(torch.float32).to(device)


def each_key(keys: Tensor, rank: Tensor) -> Tensor:
    """Return a key for each of several things of a row: that of the row for the first, others for the next ones.

    Args:
        keys: Row keys, int64 [things].
        rank: Number of the thing in its row, from 0, int64 [things].
    """
    return torch.where(rank == 0, keys, _mix(keys ^ _mix(rank * _GOLDEN)))


def _bits(moment: Moment, keys: Tensor, operation: str, draws: int) -> Tensor:
    state = _mix((_start(moment, keys) ^ crc32(operation.encode())) + _GOLDEN)
    counter = torch.arange(1, draws + 1, device=keys.device, dtype=torch.int64) * _GOLDEN
    return _mix(state[:, None] + counter)


def _start(moment: Moment, keys: Tensor) -> Tensor:
    state = _mix(keys + _GOLDEN)
    for word in (moment.seed, moment.epoch, moment.view):
        state = _mix((state ^ _signed(word)) + _GOLDEN)
    return state


def _signed(word: int) -> int:
    """Return the lowest 64 bits of a whole number as PyTorch's int64 holds them."""
    return (word + 2**63) % 2**64 - 2**63


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shift(x, 30)) * _MULTIPLY_1
    x = (x ^ _shift(x, 27)) * _MULTIPLY_2
    return x ^ _shift(x, 31)


def _shift(x: Tensor, bits: int) -> Tensor:
    # PyTorch's >> repeats the sign bit; SplitMix64 shifts in zeros.
    return (x >> bits) & ((1 << (64 - bits)) - 1)
