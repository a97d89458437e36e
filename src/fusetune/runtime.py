"""The machine that a run uses: device, precision, threads, and memory that is not given back between batches."""

from __future__ import annotations

import ctypes
import math
import os
import random
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

import numpy as np
import torch
from lightning_fabric import Fabric

from fusetune.config import Config
from fusetune.errors import ConfigError

_CPU_MAX = Path("/sys/fs/cgroup/cpu.max")
_MMAP_MAX, _TRIM_THRESHOLD = -4, -1


@dataclass(frozen=True)
class Runtime:
    """Where tensors live and how they are multiplied."""

    fabric: Fabric
    precision: str

    @property
    def device(self) -> torch.device:
        """The device of models and batches."""
        return self.fabric.device

    def describe(self) -> str:
        """Return one line for the log."""
        if self.device.type == "cuda":
            return f"{torch.cuda.get_device_name(self.device)}, {self.precision}"
        return f"{self.device.type}, {torch.get_num_threads()} threads, {self.precision}"


def start_runtime(config: Config) -> Runtime:
    """Set up device, precision and threads.

    Raises:
        ConfigError: If the device asked for is not there.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    device = config.device
    if device == "auto":
        device = "cuda" if available["cuda"] else "cpu"
    if not available.get(device, True):
        raise ConfigError(f"device: '{device}' is not available here; use device=cpu or device=auto")
    # bf16 is slower than float32 on CPUs without matrix units: never the automatic choice there.
    automatic = "bf16" if device == "cuda" and torch.cuda.is_bf16_supported() else "32"
    precision = automatic if config.precision == "auto" else config.precision
    if config.threads or "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(config.threads or cores())
    keep_freed_memory()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fabric = Fabric(accelerator=device, devices=1, precision="bf16-mixed" if precision == "bf16" else "32-true")
    return Runtime(fabric, precision)


def keep_freed_memory() -> None:
    """Tell glibc to reuse big blocks instead of returning them to the system after every batch.

    Each returned block costs page faults when it is asked for again, which on large images takes a good part of a
    training step. Does nothing where the C library is another one.
    """
    if sys.platform == "linux":
        try:
            libc = ctypes.CDLL("libc.so.6")
            libc.mallopt(_MMAP_MAX, 0)
            libc.mallopt(_TRIM_THRESHOLD, 2**30)
        except (OSError, AttributeError):
            return


def seed_everything(*words: int | str) -> None:
    """Seed PyTorch, NumPy and Python from words, so that an epoch's dropout does not depend on what ran before."""
    seed = crc32("\x1f".join(map(str, words)).encode())
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)


def cores() -> int:
    """Return how many cores this process may use, which in a container can be fewer than the machine has."""
    allowed = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return max(1, math.ceil(min(allowed, _quota(_CPU_MAX))))


def _quota(file: Path) -> float:
    """Return the cores' worth of time that a container is given (cgroup v2), or infinity."""
    try:
        quota, period = file.read_text(encoding="ascii").split()
        return int(quota) / int(period)
    except (OSError, ValueError):  # no such file elsewhere; "max" is no number
        return math.inf
