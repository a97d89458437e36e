"""What one job of a contest leaves on disk: one file, written whole or not at all, with a checksum of its content.

A plan says how a strategy is to be trained. A fit holds the network and what it says of validation rows; nothing has
been asked about the test part yet. Files of safetensors load without running code.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from fusetune.evaluate.metrics import FloatArray
from fusetune.evaluate.temperature import Heat
from fusetune.files import plain_name, written_aside
from fusetune.networks import Network, build_network

_VALID, _NETWORK = "valid", "network."


@dataclass(frozen=True)
class Job:
    """One thing to do: plan a strategy, or fit it with a seed."""

    what: Literal["plan", "fit"]
    strategy: str
    seed: int

    def path(self, folder: Path) -> Path:
        """Return the file that it leaves."""
        ending = "plan" if self.what == "plan" else f"seed-{self.seed}"
        return folder / f"{plain_name(self.strategy)}.{ending}.safetensors"


@dataclass(frozen=True)
class Plan:
    """How a strategy is trained in a contest.

    Attributes:
        epochs: Of each of its loops; None: as the settings say, or nothing is trained.
        trains: Does anything go through an encoder in training?
        chosen: What tuning chose; empty: the defaults.
        trials: How many trials there were.
        seconds: What planning and tuning took.
        error: Why it cannot be trained; empty: it can.
    """

    epochs: int | None = None
    trains: bool = True
    chosen: dict[str, Any] = field(default_factory=dict)
    trials: int = 0
    seconds: float = 0.0
    error: str = ""


@dataclass(frozen=True)
class Fit:
    """What a fit leaves beside its network.

    Attributes:
        temperature: Its logits are divided by it.
        seconds: As if nothing had been trained before.
        passes: Rows through encoders, as if nothing had been stored before.
        training: Those of them that were sent through in training.
        warnings: What was said.
        error: Why there is no network; empty: there is.
    """

    temperature: Heat = 1.0
    seconds: float = 0.0
    passes: float = 0.0
    training: float = 0.0
    warnings: list[str] = field(default_factory=list)
    error: str = ""


@dataclass(frozen=True, eq=False)
class Kept:
    """One file: plan or fit, and of a fit the answers about validation rows, calibrated, and the network."""

    facts: Plan | Fit
    valid: FloatArray | None = None
    network: Network | None = None

    def write(self, path: Path) -> None:
        """Write the file whole or not at all."""
        tensors: dict[str, Tensor] = {}
        facts: dict[str, Any] = {"kind": type(self.facts).__name__, **asdict(self.facts)}
        if self.valid is not None:
            tensors[_VALID] = torch.from_numpy(np.ascontiguousarray(self.valid))
        if self.network is not None:
            facts["network"] = self.network.describe()
            state = self.network.state_dict()
            # Cloned, since a file of safetensors holds no tensor twice.
            tensors |= {_NETWORK + name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}
        text = json.dumps(facts)
        content = save(tensors, {"facts": text, "digest": _digest(tensors, text)})
        with written_aside(path) as aside:
            aside.write_bytes(content)

    @classmethod
    def read(cls, path: Path, whole: bool = True) -> Self | None:
        """Read a file; None where there is none, or it is not as it was written: the job is then done again.

        Args:
            path: The file.
            whole: Also build the network.
        """
        try:
            with safe_open(path, framework="pt") as file:
                metadata: Mapping[str, str] = file.metadata() or {}
                names = file.keys()
                tensors = {name: file.get_tensor(name) for name in names}
            text = metadata["facts"]
            if metadata["digest"] != _digest(tensors, text):
                return None
            facts = json.loads(text)
            description = facts.pop("network", None)
            kept = {"Plan": Plan, "Fit": Fit}[facts.pop("kind")](**facts)
        except (OSError, SafetensorError, KeyError, ValueError, TypeError):
            return None
        network = None
        if whole and description is not None:
            network = build_network(description)
            own = {name.removeprefix(_NETWORK): own for name, own in tensors.items() if name.startswith(_NETWORK)}
            network.load_state_dict(own)
            network.eval().requires_grad_(False)
        valid = tensors[_VALID].numpy() if _VALID in tensors else None
        return cls(kept, valid, network)


def _digest(tensors: Mapping[str, Tensor], text: str) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        digest.update(name.encode("utf-8", "surrogatepass"))
        digest.update(tensors[name].flatten().view(torch.uint8).numpy().tobytes() if tensors[name].numel() else b"")
    return digest.hexdigest()
