"""The portable model: a folder of safetensors and JSON, written whole, checked file by file when read. No pickle."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.numpy import load_file as load_numpy
from safetensors.numpy import save as numpy_bytes
from safetensors.torch import load_file
from safetensors.torch import save as torch_bytes

from fusetune.config import Config
from fusetune.data.schema import Schema
from fusetune.errors import BundleError, ConfigError, SchemaError, listed
from fusetune.evaluate.calibration import Calibration
from fusetune.files import file_hash, write_text, written_aside
from fusetune.inputs import Reader
from fusetune.model import Model, rebuild
from fusetune.networks import FusionNetwork, Network, build_network
from fusetune.version import VERSION

FORMAT = 2
_READABLE = (1, 2)
_MANIFEST = "bundle.json"
_DAMAGE = (
    KeyError,
    TypeError,
    ValueError,
    AttributeError,
    RuntimeError,
    OSError,
    SafetensorError,
    ConfigError,
    SchemaError,
)
_REQUIRED = ("weights.safetensors", "seen.safetensors", "schema.json", "config.yaml")


def save_bundle(model: Model, folder: Path) -> None:
    """Write a model as a folder; an existing one of that name is replaced only when the new one is complete."""
    with written_aside(folder) as aside:
        aside.mkdir(parents=True)
        state = {
            name: tensor.detach().cpu().contiguous().clone() for name, tensor in model.network.state_dict().items()
        }
        # As bytes, since the library's own files do not tell a full disk from any other failure.
        (aside / "weights.safetensors").write_bytes(torch_bytes(state))
        (aside / "seen.safetensors").write_bytes(numpy_bytes({"digests": model.seen}))
        model.schema.save(aside / "schema.json")
        write_text(aside / "config.yaml", model.config.to_yaml())
        folders = {}
        for index, (name, reader) in enumerate(model.readers.items()):
            folders[name] = f"inputs/{index}"
            (aside / folders[name]).mkdir(parents=True)
            reader.save(aside / folders[name])
        facts: dict[str, Any] = {
            "format": FORMAT,
            "fusetune": VERSION,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "classes": model.classes,
            "inputs": folders,
            "network": model.network.describe(),
            "calibration": model.calibration.describe(),
            "files": {path.relative_to(aside).as_posix(): file_hash(path) for path in _files(aside)},
        }
        facts["checksum"] = _checksum(facts)
        write_text(aside / _MANIFEST, json.dumps(facts, indent=1, ensure_ascii=False))


def load_bundle(folder: str | Path) -> Model:
    """Read a model written by `save_bundle`, or the run folder around it. Needs no network and runs no code from it.

    Raises:
        BundleError: If a file is missing or was changed, or the format is newer than this version.
    """
    path = Path(folder)
    if not (path / _MANIFEST).exists() and (path / "model" / _MANIFEST).exists():
        path = path / "model"
    facts = _manifest(path)
    try:
        _check_files(path, facts)
        schema = Schema.load(path / "schema.json")
        config = Config.build(path / "config.yaml")
        modalities = schema.modalities()
        readers = {
            name: Reader.load(path / where, modalities[name], config.allow_download)
            for name, where in facts["inputs"].items()
        }
        network = _network(facts)
        if network.classes != len(facts["classes"]):
            raise ValueError(
                f"{len(facts['classes'])} classes are named, and the network tells {network.classes} apart"
            )
        network.load_state_dict(load_file(str(path / "weights.safetensors")))
        seen = load_numpy(str(path / "seen.safetensors"))["digests"]
        calibration = Calibration.read(facts["calibration"])
    except _DAMAGE as error:
        raise BundleError(f"{path} does not hold a usable model ({type(error).__name__}: {error})") from error
    network.eval().requires_grad_(False)
    return rebuild(network, readers, schema, facts["classes"], config, seen, calibration)


def _network(facts: dict[str, Any]) -> Network:
    # Format 1 knew one kind of network, and wrote its description among the other facts.
    return build_network(facts["network"] if facts["format"] > 1 else {"kind": FusionNetwork.kind, **facts})


def _manifest(path: Path) -> dict[str, Any]:
    try:
        facts: dict[str, Any] = json.loads((path / _MANIFEST).read_text(encoding="utf-8"))
        version = facts["format"]
    except FileNotFoundError as error:
        raise BundleError(f"{path} is not a model folder: it has no {_MANIFEST}") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BundleError(f"{path / _MANIFEST} is damaged: {error}; copy the model again from its source") from error
    if version not in _READABLE:
        raise BundleError(
            f"{path} has format {version}, this fusetune ({VERSION}) reads formats {listed(_READABLE)}; "
            f"it was written by fusetune {facts.get('fusetune', '?')}: install that version"
        )
    if facts.pop("checksum", None) != _checksum(facts):
        raise BundleError(f"{path / _MANIFEST} was changed after it was written; copy the model again from its source")
    return facts


def _checksum(facts: dict[str, Any]) -> str:
    """Return the SHA-256 of the manifest's content: it guards the labels and the other files' hashes."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _check_files(path: Path, facts: dict[str, Any]) -> None:
    needed = {*_REQUIRED, *(f"{where}/reader.json" for where in facts["inputs"].values())}
    if not needed <= facts["files"].keys():
        raise BundleError(f"{path / _MANIFEST} does not list {listed(sorted(needed - facts['files'].keys()))}")
    for name, expected in facts["files"].items():
        file = path / name
        if not file.resolve().is_relative_to(path.resolve()):
            raise BundleError(f"{path / _MANIFEST} names a file outside the model folder: {name}")
        if not file.is_file():
            raise BundleError(f"{path} is incomplete: {name} is missing; copy the model again from its source")
        if file_hash(file) != expected:
            raise BundleError(f"{file} was changed or cut short after it was written; copy the model again")


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())
