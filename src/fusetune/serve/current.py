"""The model that a server answers with, and how another one takes its place while requests come."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fusetune.bundle import load_bundle
from fusetune.bundle.contents import MANIFEST
from fusetune.data.images import ImageInput
from fusetune.errors import BundleError, FusetuneError
from fusetune.files import expanded
from fusetune.model import Model
from fusetune.realtime import some_row
from fusetune.serve.options import Options

_log = logging.getLogger("fusetune.serve")
_EVERY = 1.0  # seconds between looks at the folder


@dataclass(frozen=True, eq=False)
class Served:
    """A model at work. Requests keep the one that they began with.

    Attributes:
        model: Reads no picture but from memory.
        version: The beginning of its manifest's SHA-256.
        loaded: When it was read.
    """

    model: Model
    version: str
    loaded: str


def read_served(options: Options) -> Served:
    """Read the model of a folder and ask it once, so that what cannot answer is never put to work.

    Raises:
        BundleError: If the folder holds no usable model, or it gives no answer.
    """
    folder = model_folder(options.folder)
    before = _digest(folder)
    model = load_bundle(folder)
    if _digest(folder) != before:
        raise BundleError(f"{folder} was changed while it was read; try again")
    readers = {
        name: replace(reader, fitted=_limited(reader.fitted, options.pixels))
        if isinstance(reader.fitted, ImageInput)
        else reader
        for name, reader in model.readers.items()
    }
    model = replace(model, readers=readers, runtime=replace(model.runtime, threads=options.threads))
    try:
        for name, reason in model.accelerate().items():
            _log.info("input %s is encoded by PyTorch: %s", name, reason)
        model.predict(some_row(model.schema), "mask")
    except FusetuneError as error:
        raise BundleError(f"the model of {folder} cannot answer: {error}") from error
    return Served(model, before[:12], datetime.now(UTC).isoformat(timespec="seconds"))


def model_folder(folder: str) -> Path:
    """Return where the manifest of a model's or a run's folder is."""
    path = expanded(folder)
    return path if (path / MANIFEST).exists() else path / "model"


def _limited(fitted: ImageInput, pixels: int) -> ImageInput:
    limits: dict[str, Any] = {"pixel_limit": min(pixels, fitted.pixel_limit), "allow_remote": False}
    return fitted.model_copy(update=limits | {"outside": "refuse"})


def _digest(folder: Path) -> str:
    try:
        return hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()
    except OSError as error:
        raise BundleError(f"{folder} holds no model ({error.strerror})") from error


class Current:
    """Holds the model at work.

    Args:
        options: Which folder it is read from, and whether that is watched.
        served: A model that was read before.
        told: Called with `ok` or `failed` for each model that is read later.
    """

    def __init__(self, options: Options, served: Served, told: Callable[[str], None]) -> None:
        self._options, self.served, self._told = options, served, told
        self._lock = asyncio.Lock()
        self._stamp, self._bell = self._look(), self._rung()

    async def reload(self) -> Served:
        """Read the folder again; the model at work stays where that fails.

        Raises:
            FusetuneError: Saying why.
        """
        async with self._lock:
            self._stamp = self._look()
            try:
                served = await asyncio.to_thread(read_served, self._options)
            except Exception:
                self._told("failed")
                raise
            self._told("ok")
            if served.version != self.served.version:
                self.served = served
            return self.served

    def ring(self) -> None:
        """Tell the other worker processes that there may be another model."""
        if self._options.bell is not None:
            with Path(self._options.bell).open("ab") as bell:
                bell.write(b".")
            self._bell = self._rung()

    async def watch(self) -> None:
        """Read the model again whenever its folder changes, or another worker process did so; runs until cancelled."""
        while True:
            await asyncio.sleep(_EVERY)
            rung = self._rung()
            changed = self._options.watch and self._look() != self._stamp
            if rung == self._bell and not changed:
                continue
            self._bell = rung
            try:
                served = await self.reload()
                _log.warning("model %s of %s is at work", served.version, self._options.folder)
            except Exception as error:
                _log.warning("the model stays as it was: %s", error)

    def _rung(self) -> int:
        if self._options.bell is None:
            return 0
        with suppress(OSError):
            return Path(self._options.bell).stat().st_size
        return 0

    def _look(self) -> list[tuple[str, int, int]]:
        """Return names, sizes and times of the files of the folder: a copy is not complete with its first file."""
        found = []
        with suppress(OSError):
            for path in sorted(model_folder(self._options.folder).rglob("*")):
                facts = path.stat()
                found.append((path.name, facts.st_size, facts.st_mtime_ns))
        return found
