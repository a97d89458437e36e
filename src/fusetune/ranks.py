"""Several processes that train one model together ("ranks"): who they are, how they meet, agree and join their parts.

Every rank runs the same program on the same rows. What takes the time is divided: the encoders' passes, forwards and
back (`networks.divided`), and the encoding of features. Everything else each rank computes for itself, from the same
numbers. What must not differ between them - what a clock says, what is on a disk - is the first rank's, and only the
first rank writes.

Ranks are told who they are by the environment variables of PyTorch's launcher (RANK, WORLD_SIZE, LOCAL_RANK,
LOCAL_WORLD_SIZE, MASTER_ADDR, MASTER_PORT), which `fusetune fit --devices N` sets, too. Tensors on a CPU go through
Gloo, those on GPUs through NCCL. A rank that ends closes its connections, so that the others know at once.
"""

from __future__ import annotations

import json
import os
import platform
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import timedelta
from itertools import accumulate
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from fusetune.errors import FusetuneError, RankError, UserError, listed
from fusetune.process import Draws
from fusetune.version import VERSION

T = TypeVar("T")
# Seconds that ranks wait for each other when they begin. Afterwards a rank may be busy alone for hours; one that has
# ended is known by its closed connections, not by a clock.
MEETING = 30.0
_FOREVER = timedelta(days=7)
# Fewer rows than this for each rank are not divided: batch norm needs two.
_LEAST = 2
_NAMES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class Ranks:
    """The ranks of a run as one of them sees them; one alone, where nothing else is said.

    Args:
        rank: The number of this one, from 0.
        count: How many there are.
        local: The number of this one among those on this machine, from 0.
        here: How many are on this machine.
        sharded: Are weights, gradients and optimiser states divided among them in training (FSDP)?
    """

    def __init__(self, rank: int = 0, count: int = 1, local: int = 0, here: int = 1, sharded: bool = False) -> None:
        self.rank, self.count, self.local, self.here = rank, count, local, here
        self.sharded = sharded and count > 1
        self._draws: Draws | None = None

    @property
    def first(self) -> bool:
        """Is this the one that writes, and whose word counts?"""
        return self.rank == 0

    def agree(self, value: T) -> T:
        """Return the first rank's value, on every rank."""
        if self.count == 1:
            return value
        box = [value if self.first else None]
        with _heard():
            dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
        return box[0]  # type: ignore[return-value]

    def lead(self, make: Callable[[], T]) -> T:
        """Let the first rank make something, while the others wait, and return it on every rank."""
        return self.agree(make() if self.first else None)  # type: ignore[return-value]

    def alike(self, module: nn.Module) -> None:
        """Give every rank the first one's weights and buffers: processors may round the last bit differently.

        What is divided among them stays as it is.
        """
        if self.count == 1:
            return
        with torch.no_grad(), _heard():
            for tensor in module.state_dict().values():
                if not is_divided(tensor):
                    own = tensor.contiguous()
                    dist.broadcast(own, src=0)
                    tensor.copy_(own)

    def mine(self, items: Sequence[T]) -> list[T]:
        """Return this rank's part of what is divided item by item; see `merged`."""
        return list(items[self.rank :: self.count])

    def merged(self, own: Sequence[T]) -> list[T]:
        """Put together what each rank made of its items, in the order that these had before `mine`."""
        if self.count == 1:
            return list(own)
        parts: list[Any] = [None] * self.count
        with _heard():
            dist.all_gather_object(parts, list(own))
        result: list[T] = []
        for place in range(max(map(len, parts))):
            result += [part[place] for part in parts if place < len(part)]
        return result

    def sum(self, tensor: Tensor) -> Tensor:
        """Return the sum of all ranks' tensors of one shape; the argument may be changed."""
        if self.count > 1:
            tensor = tensor.contiguous()
            with _heard():
                dist.all_reduce(tensor)
        return tensor

    def sizes(self, rows: int) -> list[int] | None:
        """Return how many of so many rows each rank encodes; None: too few to be divided, every rank encodes all."""
        if self.count == 1 or rows < _LEAST * self.count:
            return None
        return [rows // self.count + (rank < rows % self.count) for rank in range(self.count)]

    def share(self, rows: int) -> slice:
        """Return which of so many rows this rank encodes."""
        sizes = self.sizes(rows)
        if sizes is None:
            return slice(0, rows)
        ends = list(accumulate(sizes))
        return slice(ends[self.rank] - sizes[self.rank], ends[self.rank])

    def joined(self, own: Tensor, sizes: Sequence[int]) -> Tensor:
        """Put the parts of all ranks, [sizes[rank], ...], one after the other."""
        most = max(sizes)
        padded = own.new_zeros(most, *own.shape[1:])
        padded[: len(own)] = own
        parts = [torch.empty_like(padded) for _ in sizes]
        with _heard():
            dist.all_gather(parts, padded)
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    def begin(self, *words: int | str) -> None:
        """Begin a stream of random numbers of this rank's own: what is drawn within an encoder, of its rows only."""
        self._draws = Draws(*words, "rank", self.rank)

    def own_draws(self) -> AbstractContextManager[object]:
        """Return a context in which random numbers come from this rank's own stream."""
        return nullcontext() if self._draws is None else self._draws

    def last(self, make: Callable[[], T]) -> T:
        """Let the first rank do alone what is left, and return what it makes on every rank.

        What is made counts even if another rank is gone by then, or it cannot be sent.
        """
        first, several = self.first, self.count > 1
        self.part()
        box = [make() if first else None]
        if several:
            with suppress(Exception) if first else _heard():
                dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
        return box[0]  # type: ignore[return-value]

    def part(self) -> None:
        """Let every rank go on alone: what comes now is not divided, and nobody waits for another any more."""
        self.rank, self.count, self.sharded = 0, 1, False


def is_divided(tensor: object) -> bool:
    """Return whether each rank holds a piece of a tensor only."""
    return hasattr(tensor, "full_tensor")  # as a DTensor has, whose module takes a while to import


def is_sharded(module: nn.Module) -> bool:
    """Return whether a module's weights are divided among ranks."""
    return any(map(is_divided, module.parameters()))


@dataclass(frozen=True)
class Place:
    """Where a process stands among those that a launcher started.

    Attributes:
        rank: Its number, from 0.
        count: How many there are.
        local: Its number on this machine, from 0.
        here: How many are on this machine.
        host: Name or address of the first rank's machine.
        port: Port on it.
    """

    rank: int = 0
    count: int = 1
    local: int = 0
    here: int = 1
    host: str = ""
    port: int = 0


def is_launched() -> bool:
    """Return whether a launcher has told this process that it is a rank."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def find_place(devices: int | None = None, nodes: int | None = None) -> Place:
    """Return where this process stands, from its environment.

    Args:
        devices: How many ranks each machine is expected to have; None: as many as were started.
        nodes: How many machines are expected; None: as many as there are.

    Raises:
        UserError: If the environment contradicts itself or what is expected.
    """
    for name, value in (("devices", devices), ("nodes", nodes)):
        if value is not None and value < 1:
            raise UserError(f"{name} is {value}, and must be at least 1")
    if not is_launched():
        if (devices or 1) * (nodes or 1) > 1:
            raise UserError(_how_to_launch(devices or 1, nodes or 1))
        return Place()
    lacking = [name for name in _NAMES if not os.environ.get(name)]
    count = 0 if lacking else _number("WORLD_SIZE")
    if lacking and os.environ.get("WORLD_SIZE") != "1":
        raise UserError(
            f"the environment variables RANK and WORLD_SIZE say that this process is one of several, and {lacking[0]} "
            "is not set; start all of them by `torchrun`, or unset RANK and WORLD_SIZE"
        )
    if count < 2:
        if (devices or 1) * (nodes or 1) > 1:
            raise UserError(
                f"WORLD_SIZE is 1, and {(devices or 1) * (nodes or 1)} processes are expected "
                f"(devices {devices or 1}, nodes {nodes or 1}); start as many, or unset RANK and WORLD_SIZE"
            )
        return Place()
    here = _number("LOCAL_WORLD_SIZE", count if nodes in (None, 1) else count // (nodes or 1))
    rank = _number("RANK")
    place = Place(
        rank, count, _number("LOCAL_RANK", rank % max(here, 1)), here, os.environ["MASTER_ADDR"], _number("MASTER_PORT")
    )
    if not (0 <= place.rank < count and 0 <= place.local < here <= count):
        raise UserError(
            f"the launcher's environment contradicts itself: RANK={rank} of WORLD_SIZE={count}, "
            f"LOCAL_RANK={place.local} of LOCAL_WORLD_SIZE={here}"
        )
    machines = -(-count // here)
    if (devices is not None and devices != here) or (nodes is not None and nodes != machines):
        raise UserError(
            f"{count} processes were started, {here} on this machine, and --devices {devices or here} "
            f"--nodes {nodes or machines} asks for {(devices or here) * (nodes or machines)}; start as many as are "
            "asked for, or leave out the two options"
        )
    return place


@contextmanager
def met(place: Place, sharded: bool = False, **facts: str) -> Iterator[Ranks]:
    """Meet the other ranks, and part at the end of the block.

    Args:
        place: Where this process stands.
        sharded: Are weights divided among the ranks in training (FSDP)?
        facts: What must be equal on all ranks besides the versions of fusetune, PyTorch and Python, by name.

    Raises:
        UserError: If the address is wrong, ranks do not come, or facts differ.
        RankError: If a rank ends while others wait for it.
    """
    if place.count == 1:
        if sharded:
            raise UserError("weights can be divided among several ranks only; ask for more with --devices")
        yield Ranks()
        return
    if dist.is_initialized():
        raise UserError("this process is in a process group of its own already; let fusetune.fit make the group")
    store = _store(place)
    _greet(store, place, {"fusetune": VERSION, "torch": torch.__version__, "python": _python(), **facts})
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
    try:
        dist.init_process_group(
            backend, store=_named("ranks", store), rank=place.rank, world_size=place.count, timeout=_FOREVER
        )
    except RuntimeError as error:
        raise RankError(
            f"rank {place.rank} cannot connect to the other processes ({_short(error)}); if machines have several "
            "networks, name the one to use by the environment variable GLOO_SOCKET_IFNAME"
        ) from error
    ranks = Ranks(place.rank, place.count, place.local, place.here, sharded)
    try:
        yield ranks
    finally:
        ranks.part()
        dist.destroy_process_group()


def _python() -> str:
    return ".".join(platform.python_version_tuple()[:2])


def _number(name: str, default: int | None = None) -> int:
    text = os.environ.get(name)
    if text is None and default is not None:
        return default
    try:
        return int(text or "")
    except ValueError as error:
        raise UserError(f"the environment variable {name} is {text!r}, and must be a number") from error


def _how_to_launch(devices: int, nodes: int) -> str:
    if nodes == 1:
        return (
            f"devices={devices}: a Python program cannot start itself {devices} times; start it by "
            f"`torchrun --nproc-per-node {devices} PROGRAM.py`, or use `fusetune fit ... --devices {devices}`"
        )
    return (
        f"nodes={nodes}: start the same command on each of the machines, by `torchrun --nnodes {nodes} "
        f"--nproc-per-node {devices} --rdzv-backend c10d --rdzv-endpoint FIRST_MACHINE:29400 --rdzv-id ANY_WORD "
        f"-m fusetune fit ... --devices {devices} --nodes {nodes}`"
    )


def _store(place: Place) -> Any:
    """Connect to the first rank's store, which hosts it, or torchrun's agent does."""
    where, agents = f"{place.host}:{place.port}", os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    hosts = place.rank == 0 and not agents
    try:
        socket.getaddrinfo(place.host, place.port)
    except (OSError, UnicodeError, OverflowError) as error:
        raise UserError(
            f"MASTER_ADDR={place.host} and MASTER_PORT={place.port} lead to no machine "
            f"({getattr(error, 'strerror', None) or error}); they must be the name or address of the first rank's "
            "machine, and a free port on it"
        ) from error
    try:
        store: Any = dist.TCPStore(  # type: ignore[attr-defined]
            place.host,
            place.port,
            place.count,
            is_master=hosts,
            timeout=timedelta(seconds=_meeting()),
            wait_for_workers=False,
            multi_tenant=True,
        )
    except (RuntimeError, ValueError) as error:
        if hosts:
            raise UserError(
                f"rank 0 cannot wait for the others at {where} ({_short(error)}): the port is taken, or MASTER_ADDR is "
                "no address of this machine; choose another MASTER_PORT, or correct MASTER_ADDR"
            ) from error
        raise UserError(
            f"rank {place.rank} found nobody at {where} within {_meeting():.0f} s; MASTER_ADDR and MASTER_PORT must be "
            "those of rank 0, which must have been started, and no firewall may be between the two"
        ) from error
    # torchrun's store lives on when ranks are started again: each round of them meets under words of its own.
    return _named(f"fusetune {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)


def _named(words: str, store: Any) -> Any:
    return dist.PrefixStore(words, store)  # type: ignore[attr-defined]


def _meeting() -> float:
    return float(_number("FUSETUNE_MEETING", int(MEETING)))


def _greet(store: Any, place: Place, facts: Mapping[str, str]) -> None:
    """Wait until all ranks are there, and refuse those that cannot train together.

    Every rank reads what every other one says, and all of them refuse alike.
    """
    store.set(f"rank {place.rank}", json.dumps({**facts, "machine": platform.node()}))
    names = [f"rank {rank}" for rank in range(place.count)]
    try:
        store.wait(names, timedelta(seconds=_meeting()))
    except RuntimeError as error:
        try:
            missing = [name for name in names if not store.check([name])]
        except RuntimeError:  # the one that hosts the store is gone
            missing = names[:1]
        raise UserError(
            f"{listed(missing)} of {place.count} did not come within {_meeting():.0f} s; start all of them at about "
            "the same time, with the same MASTER_ADDR, MASTER_PORT and WORLD_SIZE"
        ) from error
    said = [json.loads(store.get(name)) for name in names]
    for what, own in said[0].items():
        odd = next((rank for rank, other in enumerate(said) if other.get(what) != own), None)
        if what != "machine" and odd is not None:
            raise UserError(
                f"ranks cannot train together: {what} is {own} on rank 0 ({said[0]['machine']}) and "
                f"{said[odd].get(what)} on rank {odd} ({said[odd]['machine']}); make them equal"
            )
    # Whoever hosts the store must not leave before the others have read it.
    store.set(f"read by {place.rank}", "")
    store.wait([f"read by {rank}" for rank in range(place.count)], timedelta(seconds=_meeting()))


@contextmanager
def _heard() -> Iterator[None]:
    """Say clearly that another rank is gone."""
    try:
        yield
    except FusetuneError:
        raise
    except RuntimeError as error:
        raise RankError(
            f"another process of this run has ended or cannot be reached any more ({_short(error)}); its own message "
            "says why. Start all of them again with --resume, as many as you like: finished epochs are kept"
        ) from error


def _short(error: BaseException) -> str:
    return str(error).split("\n", 1)[0].split(" Exception raised from", 1)[0][:200]
