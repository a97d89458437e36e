"""The portable model: a folder of safetensors and JSON, written whole, checked file by file when read. No pickle."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, model_validator
from safetensors import SafetensorError
from safetensors.numpy import load_file as load_numpy
from safetensors.numpy import save as numpy_bytes
from safetensors.torch import load_file
from safetensors.torch import save as torch_bytes

from fusetune.config import Config
from fusetune.data.schema import Schema
from fusetune.errors import BundleError, ConfigError, SchemaError, listed
from fusetune.evaluate.calibration import Calibration
from fusetune.files import expanded, file_hash, names_in, write_text, written_aside
from fusetune.inputs import Reader
from fusetune.model import Model, rebuild
from fusetune.networks import FusionNetwork, build_network
from fusetune.process import Draws
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


class Manifest(BaseModel):
    """What `bundle.json` says of a model.

    Attributes:
        classes: The labels, in the order of the probabilities.
        inputs: Modality -> folder of its pre-processing.
        network: What `build_network` needs.
        calibration: What `Calibration.read` needs.
        files: Every other file -> its SHA-256.
    """

    format: int
    fusetune: str
    created: str
    classes: list[str | int | float | bool]
    inputs: dict[str, str]
    network: dict[str, Any]
    calibration: dict[str, Any]
    files: dict[str, str]

    @model_validator(mode="before")
    @classmethod
    def _first_format(cls, facts: Any) -> Any:
        # Format 1 knew one kind of network, and wrote its description among the other facts.
        if isinstance(facts, dict) and facts.get("format") == 1:
            return facts | {"network": {"kind": FusionNetwork.kind, **facts}}
        return facts


def save_bundle(model: Model, folder: Path) -> None:
    """Write a model as a folder; an earlier model of that name is replaced when the new one is complete.

    Raises:
        WriteError: If it cannot be written, or a folder of that name holds anything else.
    """
    with written_aside(folder, is_bundle) as aside:
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
        manifest = Manifest(
            format=FORMAT,
            fusetune=VERSION,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            classes=model.classes,
            inputs=folders,
            network=model.network.describe(),
            calibration=model.calibration.describe(),
            files={path.relative_to(aside).as_posix(): file_hash(path) for path in _files(aside)},
        )
        facts = manifest.model_dump(mode="json")
        text = json.dumps(facts | {"checksum": _checksum(facts)}, indent=1, ensure_ascii=False)
        write_text(aside / _MANIFEST, text)


def is_bundle(folder: Path) -> bool:
    """Return whether a folder holds a model and nothing else; its files may be damaged, its manifest may not."""
    try:
        return names_in(folder) <= {_MANIFEST, *_manifest(folder)["files"]}
    except (BundleError, KeyError, OSError):
        return False


def load_bundle(folder: str | Path) -> Model:
    """Read a model written by `save_bundle`, or the run folder around it. Needs no network and runs no code from it.

    Raises:
        BundleError: If a file is missing or was changed, or the format is newer than this version.
    """
    path = expanded(folder)
    if not (path / _MANIFEST).exists() and (path / "model" / _MANIFEST).exists():
        path = path / "model"
    facts = _manifest(path)
    try:
        manifest = Manifest.model_validate(facts)
        _check_files(path, manifest)
        schema = Schema.load(path / "schema.json")
        config = Config.build(path / "config.yaml")
        modalities = schema.modalities()
        readers = {
            name: Reader.load(path / where, modalities[name], config.allow_download)
            for name, where in manifest.inputs.items()
        }
        with Draws("weights that are replaced"):
            network, classes = build_network(manifest.network), manifest.classes
        if network.classes != len(classes):
            raise ValueError(f"{len(classes)} classes are named, and the network tells {network.classes} apart")
        if not set(network.owners) <= set(readers):
            raise ValueError(f"encoders of inputs that the model does not have: {set(network.owners) - set(readers)}")
        network.load_state_dict(load_file(str(path / "weights.safetensors")))
        seen = load_numpy(str(path / "seen.safetensors"))["digests"]
        calibration = Calibration.read(manifest.calibration)
    except _DAMAGE as error:
        raise BundleError(f"{path} does not hold a usable model ({type(error).__name__}: {error})") from error
    network.eval().requires_grad_(False)
    return rebuild(network, readers, schema, list(classes), config, seen, calibration)


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


def _check_files(path: Path, manifest: Manifest) -> None:
    needed = {*_REQUIRED, *(f"{where}/reader.json" for where in manifest.inputs.values())}
    if not needed <= manifest.files.keys():
        raise BundleError(f"{path / _MANIFEST} does not list {listed(sorted(needed - manifest.files.keys()))}")
    for name, expected in manifest.files.items():
        file = path / name
        if not file.resolve().is_relative_to(path.resolve()):
            raise BundleError(f"{path / _MANIFEST} names a file outside the model folder: {name}")
        if not file.is_file():
            raise BundleError(f"{path} is incomplete: {name} is missing; copy the model again from its source")
        if file_hash(file) != expected:
            raise BundleError(f"{file} was changed or cut short after it was written; copy the model again")


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())
