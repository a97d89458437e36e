"""Checkpoints: one file per epoch, written whole or not at all, the last few kept, and the best weights beside them."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from fusetune.errors import RunError, UserError
from fusetune.files import written_aside

State = dict[str, Any]


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one training stage.

    Attributes:
        folder: Where they are.
        key: What the stage depends on; a checkpoint of another key is refused.
        keep: How many epochs are kept.
    """

    folder: Path
    key: str
    keep: int

    def save(self, epoch: int, state: State) -> None:
        """Write an epoch's state; remove the oldest ones and what a killed process left half-written."""
        self._write(self.folder / f"epoch-{epoch:04d}.pt", state)
        for old in [*self._epochs()[: -self.keep], *self.folder.glob(".*.pt")]:
            old.unlink()

    def latest(self) -> State | None:
        """Return the newest epoch's state, or None.

        Raises:
            UserError: If it belongs to other settings.
            RunError: If it cannot be read.
        """
        epochs = self._epochs()
        return self._read(epochs[-1]) if epochs else None

    def save_best(self, state: State) -> None:
        """Write the best weights so far."""
        self._write(self.folder / "best.pt", state)

    def best(self) -> State:
        """Return the best weights."""
        return self._read(self.folder / "best.pt")

    def _epochs(self) -> list[Path]:
        return sorted(self.folder.glob("epoch-*.pt"))

    def _write(self, path: Path, state: State) -> None:
        # Through memory, since torch's own writer does not tell a full disk from any other failure.
        whole = io.BytesIO()
        torch.save({"key": self.key, **state}, whole)
        with written_aside(path) as aside:
            aside.write_bytes(whole.getbuffer())

    def _read(self, path: Path) -> State:
        try:
            state: State = torch.load(path, map_location="cpu", weights_only=True)
        except (OSError, RuntimeError, EOFError, UnpicklingError) as error:
            raise RunError(
                f"the checkpoint {path} cannot be read ({type(error).__name__}); "
                f"delete the folder {self.folder} to train this stage again"
            ) from error
        if state.pop("key") != self.key:
            raise UserError(
                f"{path} comes from a run with another table, split or configuration; "
                "resume with the same settings, or start in a new folder"
            )
        return state
