"""What the whole process has one of - random generators, thread counts, warning filters - and how it is left as it was.

fusetune is a guest in somebody's process: it may be called from several threads at once, and a process may be forked
after a model was loaded. What it has to change for a while is changed when the first thread needs it and put back when
the last one is done. PyTorch's layers draw from one generator per process, so whoever draws from it takes turns.
"""

from __future__ import annotations

import ctypes
import os
import random
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from threading import RLock, Thread, get_ident
from typing import Any, ClassVar, Generic, Self, TypeVar
from zlib import crc32

import cv2
import numpy as np
import torch
from torch import Tensor

T = TypeVar("T")
_TURN = RLock()  # held by the thread whose numbers the process's generators draw
_STATE = RLock()  # held for moments, while a change is made or taken back
_MMAP_MAX, _TRIM_THRESHOLD = -4, -1


class Draws:
    """A stream of random numbers from the generators of PyTorch, NumPy and Python, as if nobody else drew from them.

    Within a `with` block they go on where the last block of this object left them, at first from a seed of the words;
    afterwards they are as they were before. Other threads wait with blocks of their own meanwhile.

    Args:
        words: The seed: anything that can be printed, or one number by itself, which is taken as it is.
    """

    def __init__(self, *words: int | str) -> None:
        single = words[0] if len(words) == 1 else None
        self.seed = single if isinstance(single, int) else crc32("\x1f".join(map(str, words)).encode())
        self._own: list[Any] | None = None
        self._callers: list[list[Any]] = []

    def __enter__(self) -> Self:
        _TURN.acquire()
        self._callers.append(_states())
        if self._own is None:
            for generator in _generators():
                generator.manual_seed(self.seed)
            np.random.seed(self.seed)
            random.seed(self.seed)
        else:
            _go_on(self._own)
        return self

    def __exit__(self, *_: object) -> None:
        self._own = _states()
        _go_on(self._callers.pop())
        _TURN.release()


def _generators() -> list[torch.Generator]:
    """Return PyTorch's generators: the CPU's, and those of accelerators that are in use."""
    found = [torch.default_generator]
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        found += torch.cuda.default_generators
    if torch.backends.mps.is_available():
        found.append(torch.mps._get_default_mps_generator())
    return found


def _states() -> list[Any]:
    return [random.getstate(), np.random.get_state(), *(generator.get_state() for generator in _generators())]


def _go_on(states: list[Any]) -> None:
    python, numpy, *tensors = states
    random.setstate(python)
    np.random.set_state(numpy)
    # An accelerator that came into use since has nothing to go back to.
    generators: list[tuple[torch.Generator, Tensor]] = list(zip(_generators(), tensors, strict=False))
    for generator, state in generators:
        generator.set_state(state)


class Shared(Generic[T]):
    """A change of the process that several threads may want at once: made for the first, taken back after the last.

    Args:
        change: Makes it, and takes it back.
    """

    everyone: ClassVar[list[Shared[Any]]] = []

    def __init__(self, change: Callable[[], AbstractContextManager[T]]) -> None:
        self._change, self._stack, self.inside = change, ExitStack(), list[int]()
        self.everyone.append(self)

    def __enter__(self) -> T:
        with _STATE:
            if not self.inside:
                self._value = self._stack.enter_context(self._change())
            self.inside.append(get_ident())
            return self._value

    def __exit__(self, *_: object) -> None:
        with _STATE:
            self.inside.remove(get_ident())
            if not self.inside:
                self._stack.close()

    def forked(self) -> None:
        """Forget threads that a forked process no longer has."""
        others = [thread for thread in self.inside if thread != get_ident()]
        self.inside = [thread for thread in self.inside if thread == get_ident()]
        if others and not self.inside:
            self._stack.close()


_FILTERS = Shared(warnings.catch_warnings)


@contextmanager
def without_warnings(category: type[Warning] = Warning) -> Iterator[None]:
    """Hold back warnings of a category, in all threads, until nobody asks for it any more."""
    with _FILTERS:
        warnings.simplefilter("ignore", category)
        yield


@contextmanager
def _counted() -> Iterator[int]:
    torch_count, cv2_count = torch.get_num_threads(), cv2.getNumThreads()
    try:
        yield torch_count
    finally:
        torch.set_num_threads(torch_count)
        cv2.setNumThreads(cv2_count)
        keep_freed_memory(False)


_COUNTS = Shared(_counted)


def keep_freed_memory(keep: bool = True) -> None:
    """Tell glibc to reuse big blocks instead of returning them to the system after every batch, or no longer to.

    Each returned block costs page faults when it is asked for again, which on large images takes a good part of a
    training step. Does nothing where the C library is another one.
    """
    if sys.platform == "linux":
        try:
            libc = ctypes.CDLL("libc.so.6")
            libc.mallopt(_MMAP_MAX, 0 if keep else 2**16)
            libc.mallopt(_TRIM_THRESHOLD, 2**30 if keep else 2**26)
        except (OSError, AttributeError):
            return


@contextmanager
def threads_restored() -> Iterator[None]:
    """Put the numbers of threads of PyTorch and OpenCV back at the end of the block."""
    outermost, before = get_ident() not in _COUNTS.inside, torch.get_num_threads()
    try:
        with _COUNTS as callers:
            try:
                yield
            finally:
                within = torch.get_num_threads()
                # OpenMP keeps a number for each thread; one that began meanwhile began with that of others.
                torch.set_num_threads(callers if outermost else before)
    finally:
        if outermost and _COUNTS.inside:  # others are at work: MKL's number, which is everybody's, stays theirs
            helper = Thread(target=torch.set_num_threads, args=(within,))
            helper.start()
            helper.join()


class Fork:
    """Whether this process was forked from one that had imported fusetune.

    OpenMP's threads do not survive a fork, and waiting for them never ends: such a process computes with one thread.
    """

    happened = False

    @classmethod
    def before(cls) -> None:
        """Wait until nobody is changing anything."""
        _TURN.acquire()
        _STATE.acquire()

    @classmethod
    def in_parent(cls) -> None:
        """Go on."""
        _STATE.release()
        _TURN.release()

    @classmethod
    def in_child(cls) -> None:
        """Give up what other threads had begun, and all threads of OpenMP."""
        cls.happened = True
        for shared in Shared.everyone:
            shared.forked()
        torch.set_num_threads(1)
        cls.in_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=Fork.before, after_in_parent=Fork.in_parent, after_in_child=Fork.in_child)
