"""Weights, read in the order of the file: its header first, with which the network is compared before it is built.

A description of a few bytes can ask for any amount of memory. So it is first built without any (`meta`), by no more
steps than its number of tensors explains; only what has the names, shapes and types of the file is built in earnest,
and its weights are read straight to where they belong.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any, BinaryIO, Protocol

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from fusetune.encoders import CausalText, TransformersText
from fusetune.errors import RunError, listed, shown
from fusetune.networks import SAME, Network, build_network

_TYPES = {
    "BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "I16": torch.int16, "I32": torch.int32, "I64": torch.int64,
    "F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64,
}  # fmt: skip
_LONGEST_HEADER = 1 << 24
# By name, since `transformers` puts functions of its own in the place of PyTorch's while it builds.
_MADE = frozenset(("rand", "randn"))
_FILLED = frozenset(("uniform_", "normal_", "erfinv_", "kaiming_uniform_", "kaiming_normal_", "xavier_uniform_",
                     "xavier_normal_"))  # fmt: skip
# What a network's builders call for each of its tensors, and besides; about three times what any encoder needs.
_STEPS_EACH, _STEPS_BESIDE = 60, 3000
_COUNTS, _SCRATCH = 1 << 20, 1 << 26
_FREE_KEYS = ("theta", "window")  # of large numbers that nothing is as large as


@dataclass(frozen=True)
class Place:
    """One tensor of a file: what it is, and where its bytes are behind the header."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    end: int


class Stream(Protocol):
    """Bytes that can be read once."""

    def read(self, size: int, /) -> bytes:
        """Return the next bytes."""

    def readinto(self, buffer: memoryview, /) -> int:
        """Fill a buffer with the next bytes."""


class Hashed:
    """A file that is hashed as it is read."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._hash = file, hashlib.sha256()

    def read(self, size: int, /) -> bytes:
        """Return the next bytes."""
        content = self._file.read(size)
        self._hash.update(content)
        return content

    def readinto(self, buffer: memoryview, /) -> int:
        """Fill a buffer with the next bytes."""
        count = int(self._file.readinto(buffer))  # type: ignore[attr-defined]
        self._hash.update(buffer[:count])
        return count

    def digest(self) -> str:
        """Return the SHA-256 of what was read."""
        return self._hash.hexdigest()


def packed(network: Network) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return a network's description and its weights, of encoders that are equal those of the first alone.

    Several columns of texts are read by one pretrained encoder each, and where it was not fine-tuned these are equal.
    """
    description, state = network.describe(), network.state_dict()
    stated, own = description["encoders"], [encoder.state_dict() for encoder in network.encoders]
    same: dict[int, int] = {}
    for at in range(len(own)):
        for first in set(range(at)) - set(same):
            if own[at] and stated[first] == stated[at] and _equal(own[first], own[at]):
                same[at] = first
    told = [{SAME: same[at]} if at in same else one for at, one in enumerate(stated)]
    kept = {name: tensor for name, tensor in state.items() if not name.startswith(_prefixes(told))}
    return {**description, "encoders": told}, {
        name: tensor.detach().cpu().contiguous().clone() for name, tensor in kept.items()
    }


def _equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Return whether two encoders of one description have the same bits; not a number is the same as itself."""
    return all(
        tensor.shape == other[name].shape and torch.equal(_bits(tensor), _bits(other[name]))
        for name, tensor in one.items()
    )


def _bits(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)


def _prefixes(encoders: Any) -> tuple[str, ...]:
    """Return how the names of weights begin that are not in the file, since an encoder before has the same."""
    return tuple(f"encoders.{at}." for at, one in enumerate(encoders) if SAME in one)


def filled_network(description: Mapping[str, Any], file: Stream, size: int) -> Network:
    """Build a network and read its weights.

    Args:
        description: What its `describe` returned.
        file: A safetensors file, at its start.
        size: Its bytes.

    Raises:
        ValueError: If the file is not whole, or holds the weights of another network.
        RunError: If there is not enough memory.
    """
    places = read_header(file, size)
    _refuse_absurd(description, max(_COUNTS, sum(math.prod(place.shape) for place in places.values())))
    steps = _STEPS_EACH * len(places) + _STEPS_BESIDE
    with _building(steps, "meta"):
        plan = build_network(description)
        _compare(plan, places, size, _prefixes(description["encoders"]))
        for encoder in plan.encoders:
            if isinstance(encoder, CausalText | TransformersText):
                _try_texts(encoder)
    with _enough_memory(size), _building(steps, "cpu"):
        network = build_network(description)
    state = network.state_dict()
    for name, place in sorted(places.items(), key=lambda item: item[1].start):
        _fill(state[name], place, file, name)
    return network


def read_header(file: Stream, size: int) -> dict[str, Place]:
    """Return what a safetensors file holds.

    Raises:
        ValueError: If it is no such file, or not of the length that its header says.
    """
    length = int.from_bytes(file.read(8), "little")
    if not 0 < length <= min(size - 8, _LONGEST_HEADER):
        raise ValueError("the weights have no header")
    entries = json.loads(file.read(length))
    entries.pop("__metadata__", None)
    places = {name: _place(**entry) for name, entry in entries.items()}
    at = 0
    for name, place in sorted(places.items(), key=lambda item: (item[1].start, item[1].end)):
        if place.start != at or place.end - at != math.prod(place.shape) * place.dtype.itemsize:
            raise ValueError(f"the weights have no room for {name}")
        at = place.end
    if 8 + length + at != size:
        raise ValueError(f"the weights have {size:,} bytes where their header says {8 + length + at:,}")
    return places


def _place(dtype: str, shape: list[int], data_offsets: list[int]) -> Place:
    start, end = data_offsets
    if not all(type(number) is int and number >= 0 for number in (*shape, start, end)):
        raise ValueError("the weights have shapes that are no numbers")
    return Place(_TYPES[dtype], tuple(shape), start, end)


def _refuse_absurd(value: Any, most: int, key: str = "") -> None:
    """Refuse numbers larger than the number of weights: whatever they count, the file does not hold it."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            _refuse_absurd(inner, most, name)
    elif isinstance(value, list):
        for inner in value:
            _refuse_absurd(inner, most, key)
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{key} is {value}")
    elif isinstance(value, int) and abs(value) > most and not any(word in key for word in _FREE_KEYS):
        raise ValueError(f"{key} is {shown(value)}, and there are not that many weights")


class _Bare(TorchFunctionMode):
    """Counts what is called, and draws no start for weights that will be read."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.left = steps

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.left -= 1
        if self.left < 0:
            raise ValueError("the network has many more layers than there are weights")
        named = kwargs or {}
        match getattr(func, "__name__", ""):
            case name if name in _MADE:
                return torch.zeros(*args, **{key: value for key, value in named.items() if key != "generator"})
            case name if name in _FILLED:
                # Zeros, not whatever is there: a normal distribution with bounds is drawn until all are within them.
                with torch.no_grad():
                    return (args[0] if args else named["tensor"]).zero_()
            case _:
                return func(*args, **named)


@contextmanager
def _building(steps: int, device: str) -> Iterator[None]:
    with torch.device(device), _Bare(steps):
        yield


def _compare(plan: Network, places: Mapping[str, Place], size: int, elsewhere: tuple[str, ...]) -> None:
    wanted = {
        name: (tensor.dtype, tuple(tensor.shape))
        for name, tensor in plan.state_dict().items()
        if not name.startswith(elsewhere)
    }
    found = {name: (place.dtype, place.shape) for name, place in places.items()}
    if odd := [name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name)]:
        described, there = wanted.get(min(odd), "nothing"), found.get(min(odd), "nothing")
        raise ValueError(f"{listed(sorted(odd))}: {described} is described, {there} is there")
    # What is made beside the weights, such as the numbers of positions, is small.
    beside = sum(tensor.nbytes for tensor in chain(plan.parameters(), plan.buffers()))
    if beside > _SCRATCH + 4 * size:
        raise ValueError(f"the network needs {beside:,} bytes, and its weights have {size:,}")


def _fill(tensor: Tensor, place: Place, file: Stream, name: str) -> None:
    count = place.end - place.start
    if not count:
        return
    if tensor.is_contiguous():
        content = memoryview(tensor.detach().reshape(-1).view(torch.uint8).numpy().data)
        read = file.readinto(content)
    else:
        content = memoryview(bytearray(count))
        read = file.readinto(content)
        tensor.copy_(torch.frombuffer(content, dtype=place.dtype).view(place.shape))
    if read != count:
        raise ValueError(f"the weights end within {name}")


def _try_texts(encoder: CausalText | TransformersText) -> None:
    """Refuse a configuration with which a network can be built and not run, by the shapes of two tokens."""
    network: Any = encoder.network
    try:
        with torch.no_grad():
            hidden = network.eval()(input_ids=torch.zeros(1, 2, dtype=torch.long)).last_hidden_state
    except RuntimeError as error:
        if "on meta tensors" not in str(error):
            raise
        return  # its way depends on the tokens
    if hidden.shape != (1, 2, network.config.hidden_size):
        raise ValueError(f"the network of texts gives values of the shape {tuple(hidden.shape)}")


@contextmanager
def _enough_memory(size: int) -> Iterator[None]:
    """Tell a lack of memory from a damaged model: nothing else fails here that did not fail on the plan."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, MemoryError) or "memory" in str(error):
            raise RunError(f"not enough memory for a model of {size:,} bytes; close other programs") from error
        raise
