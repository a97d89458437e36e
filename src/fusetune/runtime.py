"""The machine that a run uses: device, precision, threads."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

import cv2
import torch

from fusetune.config import Config
from fusetune.errors import ConfigError, RunError
from fusetune.process import Fork, keep_freed_memory, threads_restored
from fusetune.ranks import Ranks

_CPU_MAX = Path("/sys/fs/cgroup/cpu.max")


@dataclass(frozen=True)
class Runtime:
    """Where tensors live, how they are multiplied, and by how many threads.

    Attributes:
        device: The device of models and batches.
        precision: bf16 (mixed: weights stay float32), 32, or 64 (in training; everything else in float32).
        threads: None where the process's own number counts, as far as this many cores may be used.
        ranks: The processes that train together.
    """

    device: torch.device
    precision: str
    threads: int | None = None
    ranks: Ranks = field(default_factory=Ranks, compare=False)

    def autocast(self) -> AbstractContextManager[object]:
        """Return a context in which forward passes are computed in this precision; losses and gradients need none."""
        return torch.autocast(self.device.type, torch.bfloat16) if self.precision == "bf16" else nullcontext()

    def describe(self) -> str:
        """Return one line for the log."""
        several = f", {self.ranks.count} ranks" if self.ranks.count > 1 else ""
        if self.device.type == "cuda":
            return f"{torch.cuda.get_device_name(self.device)}, {self.precision}{several}"
        return f"{self.device.type}, {torch.get_num_threads()} threads, {self.precision}{several}"

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Compute with this number of threads within the block.

        Raises:
            RunError: If this process was forked from one that had the GPU open.
        """
        with threads_restored():
            self.apply()
            yield

    def apply(self) -> None:
        """Compute with this number of threads from now on; one where the process was forked (`process.Fork`)."""
        if self.device.type == "cuda":
            _refuse_forked()
        share = torch.get_num_threads() if "OMP_NUM_THREADS" in os.environ else min(torch.get_num_threads(), cores())
        torch.set_num_threads(1 if Fork.happened else self.threads or share)
        # Pictures are divided among PyTorch's number of threads, each of which must not start more of them.
        cv2.setNumThreads(1)
        keep_freed_memory()


def start_runtime(config: Config, ranks: Ranks | None = None) -> Runtime:
    """Set up device, precision and threads, the latter for whoever calls this: `threads_restored` puts them back.

    Of several ranks on one machine, each has a GPU of its own, or its share of the cores.

    Raises:
        ConfigError: If the device asked for is not there.
        RunError: If it is a GPU that cannot be used since this process was forked.
    """
    ranks = ranks or Ranks()
    every = None if "OMP_NUM_THREADS" in os.environ else max(1, cores() // ranks.here)
    runtime = replace(find_runtime(config, ranks), threads=config.threads or every, ranks=ranks)
    if runtime.device.type == "cuda" and ranks.count > 1:
        torch.cuda.set_device(runtime.device)
    runtime.apply()
    return runtime


def find_runtime(config: Config, ranks: Ranks | None = None) -> Runtime:
    """Return device and precision, and change nothing yet; raises as `start_runtime` does."""
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    device = config.device
    if device == "auto":
        device = "cuda" if available["cuda"] else "cpu"
    if not available.get(device, True):
        raise ConfigError(f"device: '{device}' is not available here; use device=cpu or device=auto")
    local = 0 if ranks is None else ranks.local
    if device == "cuda":
        _refuse_forked()
        if ranks is not None and ranks.here > torch.cuda.device_count():
            raise ConfigError(
                f"{ranks.here} ranks on a machine with {torch.cuda.device_count()} GPU(s), and each takes one; ask for "
                f"--devices {torch.cuda.device_count()}, or use device=cpu"
            )
    if device == "mps" and (config.precision == "64" or (ranks is not None and ranks.count > 1)):
        raise ConfigError("device: 'mps' has neither float64 nor several ranks; use device=cpu")
    # bf16 is slower than float32 on CPUs without matrix units: never the automatic choice there.
    automatic = "bf16" if device == "cuda" and torch.cuda.is_bf16_supported() else "32"
    precision = automatic if config.precision == "auto" else config.precision
    return Runtime(torch.device(device, local) if device == "cuda" else torch.device(device), precision)


def _refuse_forked() -> None:
    if torch.cuda._is_in_bad_fork():
        raise RunError(
            "this process was forked from one that had the GPU open, and cannot use it; load the model in each "
            "process, or start processes by 'spawn'"
        )


def cores() -> int:
    """Return how many cores this process may use, which in a container can be fewer than the machine has."""
    allowed = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return max(1, math.ceil(min(allowed, _quota(_CPU_MAX))))


def free_memory() -> int | None:
    """Return the bytes of memory that are free, or None where the system does not say (it does on Linux)."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return 1024 * int(next(line.split()[1] for line in lines if line.startswith("MemAvailable:")))
    except (OSError, ValueError, StopIteration):
        return None


def _quota(file: Path) -> float:
    """Return the cores' worth of time that a container is given (cgroup v2), or infinity."""
    try:
        quota, period = file.read_text(encoding="ascii").split()
        return int(quota) / int(period)
    except (OSError, ValueError):  # no such file elsewhere; "max" is no number
        return math.inf
