"""What all tests share: no network, no waiting for the disk, and the larger data sets that not every machine has."""

from __future__ import annotations

import copy
import functools
import hashlib
import os
import random
import socket
from collections.abc import Callable, Iterator
from importlib import import_module
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

DATA = Path(os.environ.get("FUSETUNE_DATA", Path(__file__).parents[2] / "shared" / "data"))
# The discard port of this machine, where nothing answers: what a child process asks for over HTTP fails at once.
NOWHERE = "http://127.0.0.1:9"
# What the doctor asks of arrays alone, and takes longest for where a table is small.
MODELS_OF_THE_DOCTOR = (
    ("fusetune.doctor.labels", "forest_probabilities"),
    ("fusetune.doctor.labels", "crossed_probabilities"),
    ("fusetune.doctor.columns", "trees_accuracy"),
)
# Of their trees in tests that are not about the doctor: on tiny tables each costs the same few milliseconds.
FEW_TREES = 8


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Let a test that draws from the process's own generators draw the same numbers whichever tests ran before."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(scope="module", autouse=True)
def _models_of_the_doctor_once(request: pytest.FixtureRequest) -> Iterator[None]:
    """Let the doctor's models be fitted once for equal rows, since most runs are on the same tiny table.

    They depend on what they are given alone, and leave the process as it was: the tests that find out fit them anew.
    How good they are is for the doctor's own tests; all others ask whether a run has them, and get few trees.
    """
    anew = request.path.stem in ("test_doctor_labels", "test_doctor_invariance", "test_process")
    with pytest.MonkeyPatch.context() as patch:
        for module, name in () if anew else MODELS_OF_THE_DOCTOR:
            patch.setattr(import_module(module), name, _once(module, name))
        for module in () if request.path.parent.name == "doctor" else {module for module, _ in MODELS_OF_THE_DOCTOR}:
            patch.setattr(import_module(module), "_TREES", FEW_TREES)
        yield


@functools.cache
def _once(module: str, name: str) -> Callable[..., Any]:
    """Return a function of arrays that computes the same only once in this process."""
    owner, known = import_module(module), {}
    plain = getattr(owner, name)

    @functools.wraps(plain)
    def asked(*arrays: Any) -> Any:
        key = hashlib.sha256(repr([owner._TREES, *((own.shape, own.dtype) for own in arrays)]).encode())
        for own in arrays:
            key.update(own.tobytes())
        if key.digest() not in known:
            known[key.digest()] = plain(*arrays)
        return copy.copy(known[key.digest()])

    return asked


@pytest.fixture(scope="session")
def shared_data() -> Callable[[str], Path]:
    """Return a function that gives the folder of a named data set, or skips the test where there is none.

    The folder that holds them is named by FUSETUNE_DATA; by default it is `../shared/data` beside the repository.
    """

    def folder(name: str) -> Path:
        if not (DATA / name).is_dir():
            pytest.skip(f"the data set {name} is not in {DATA}; FUSETUNE_DATA names the folder")
        return DATA / name

    return folder


def pytest_configure(config: pytest.Config) -> None:
    """Shut off the network before the first import of a test file, so that a silent download fails the run.

    Nor is anything forced onto the disk: no test cuts the power, a process that is killed loses nothing that it wrote,
    and files that are gone a second later need never get there.
    """
    patch = pytest.MonkeyPatch()
    patch.setattr(os, "fsync", lambda _: None)
    for name in ("connect", "connect_ex"):
        patch.setattr(socket.socket, name, guarded(getattr(socket.socket, name)))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        patch.setenv(name, NOWHERE)
    for name in ("no_proxy", "NO_PROXY"):
        patch.setenv(name, "localhost,127.0.0.1,::1")
    config.add_cleanup(patch.undo)


def guarded(connect: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a socket's connect so that it reaches this machine only."""

    def refuse_strangers(self: socket.socket, address: Any) -> Any:
        if self.family in (socket.AF_INET, socket.AF_INET6) and not is_loopback(address[0]):
            raise RuntimeError(f"a test tried to reach {address[0]}:{address[1]}; tests run without a network")
        return connect(self, address)

    return refuse_strangers


def is_loopback(host: str) -> bool:
    """Say whether a host name or address is this machine; other names count as strangers without being looked up."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
