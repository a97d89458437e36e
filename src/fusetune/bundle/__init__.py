"""The portable model: a folder of safetensors and JSON, written whole, checked file by file when read. No pickle."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, model_validator
from safetensors.numpy import load as load_numpy
from safetensors.numpy import save as numpy_bytes
from safetensors.torch import save as torch_bytes

from fusetune.bundle.contents import MANIFEST, Contents, located, open_inside, read_inside
from fusetune.bundle.weights import Hashed, filled_network, packed
from fusetune.config import Config, parse_layer
from fusetune.data.schema import Schema
from fusetune.errors import BundleError, RunError, ShortageError, listed, shown
from fusetune.evaluate.calibration import Calibration
from fusetune.evaluate.reference import ARRAYS, COUNTS, IDS, Reference
from fusetune.files import expanded, facts_hash, file_hash, names_in, parse_json, write_text, written_aside
from fusetune.inputs import Reader
from fusetune.model import Model, rebuild
from fusetune.networks import SAME, FusionNetwork, Network
from fusetune.process import Draws
from fusetune.targets import Classification, read_target
from fusetune.version import VERSION

# Since 3, what later rows are compared with may be there too; since 4, the ids of the training rows among that; since
# 5, a target that is no class; since 6, temperatures and thresholds of labels, which nobody may pass over; since 7,
# encoders that are the same as another. What has none of these is written as 4 or 6, so that earlier versions read it.
FORMAT, _TARGETS, _CLASSES = 7, 6, 4
_READABLE = (1, 2, 3, 4, 5, 6, 7)
_LONGEST_REASON = 300
_REFERENCE = {ARRAYS, COUNTS}  # both or neither; IDS only beside them
_WEIGHTS, _SEEN, _SCHEMA, _CONFIG = "weights.safetensors", "seen.safetensors", "schema.json", "config.yaml"


class Manifest(BaseModel):
    """What `bundle.json` says of a model.

    Attributes:
        classes: The labels, in the order of the probabilities.
        inputs: Modality -> folder of its pre-processing.
        network: What `build_network` needs.
        calibration: What `Calibration.read` needs.
        target: Its kind and facts, where it is no class.
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
    target: dict[str, Any] | None = None

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
        network, state = packed(model.network)
        # As bytes, since the library's own files do not tell a full disk from any other failure.
        (aside / _WEIGHTS).write_bytes(torch_bytes(state))
        (aside / _SEEN).write_bytes(numpy_bytes({"digests": model.seen}))
        model.schema.save(aside / _SCHEMA)
        write_text(aside / _CONFIG, model.config.to_yaml())
        if model.reference is not None:
            for name, content in model.reference.files(list(model.readers)).items():
                (aside / name).write_bytes(content)
        folders = {}
        for index, (name, reader) in enumerate(model.readers.items()):
            folders[name] = f"inputs/{index}"
            (aside / folders[name]).mkdir(parents=True)
            reader.save(aside / folders[name])
        target, plain = model.target, isinstance(model.target, Classification)
        manifest = Manifest(
            format=FORMAT if any(SAME in one for one in network["encoders"]) else _CLASSES if plain else _TARGETS,
            fusetune=VERSION,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            classes=model.classes,
            inputs=folders,
            network=network,
            calibration=model.calibration.describe(),
            files={path.relative_to(aside).as_posix(): file_hash(path) for path in _files(aside)},
            target=None if plain else {"kind": target.kind, **target.facts()},
        )
        facts = manifest.model_dump(mode="json", exclude={"target"} if plain else None)
        text = json.dumps(facts | {"checksum": facts_hash(facts)}, indent=1, ensure_ascii=False)
        write_text(aside / MANIFEST, text)


def is_bundle(folder: Path) -> bool:
    """Return whether a folder holds a model and nothing else; its files may be damaged, its manifest may not."""
    try:
        return names_in(folder) <= {MANIFEST, *_manifest(folder)["files"]}
    except (BundleError, KeyError, OSError):
        return False


def load_bundle(folder: str | Path) -> Model:
    """Read a model written by `save_bundle`, or the run folder around it. Needs no network and runs no code from it.

    Raises:
        BundleError: If a file is missing or was changed, the format is newer than this version, or what the files say
            does not fit together.
        RunError: If there is not enough memory.
    """
    path = expanded(folder)
    try:
        if not (path / MANIFEST).exists() and (path / "model" / MANIFEST).exists():
            path = path / "model"
        return _load(path)
    except (BundleError, RunError, ShortageError):
        raise
    except MemoryError as error:
        raise RunError(f"not enough memory to read the model {path}; close other programs") from error
    except Exception as error:  # a stranger's files can break the libraries that read them in any way
        raise BundleError(
            f"{path} does not hold a usable model ({_reason(error)}); copy the model again from its source"
        ) from error


def manifest_of(folder: Path) -> Path:
    """Return the file that lists a model's files with their hashes; folders are those that `load_bundle` takes."""
    path = expanded(folder)
    return path / MANIFEST if (path / MANIFEST).exists() else path / "model" / MANIFEST


def _load(path: Path) -> Model:
    manifest = Manifest.model_validate(_manifest(path))
    contents = Contents(path, manifest.files)
    _refuse_strangers(contents, manifest)
    schema = Schema.parse(contents.read(_SCHEMA), path / _SCHEMA)
    config = Config.build(parse_layer(contents.read(_CONFIG), str(path / _CONFIG)))
    modalities = schema.modalities()
    # In the order in which they were written, whatever the order in the manifest: patterns and digests depend on it.
    inputs = sorted(manifest.inputs.items(), key=lambda item: int(item[1].removeprefix("inputs/")))
    readers = {
        name: Reader.load(contents.read, where, modalities[name], config.allow_download) for name, where in inputs
    }
    seen = _digests(contents.read(_SEEN))
    calibration = Calibration.read(manifest.calibration)
    with Draws("weights that are replaced"):
        network, classes = _network(contents, manifest.network), manifest.classes
    if network.classes != len(set(classes)) or len(classes) != len(set(classes)):
        raise ValueError(f"{len(classes)} classes are named, and the network tells {network.classes} apart")
    calibration.check(len(classes))
    facts = dict(manifest.target or {"kind": Classification.kind})
    target = read_target(facts.pop("kind"), list(classes), facts)
    if target.kind != schema.target:
        raise ValueError(f"a model of {target.kind} and columns for {schema.target}")
    if not set(network.owners) <= set(readers):
        raise ValueError(f"encoders of inputs that the model does not have: {set(network.owners) - set(readers)}")
    for owner, encoder in network.members:
        readers[owner].check(encoder)
    network.eval().requires_grad_(False)
    reference = _reference(contents, network, schema, readers)
    return rebuild(network, readers, schema, target, config, seen, calibration, reference)


def _reference(contents: Contents, network: Network, schema: Schema, readers: Mapping[str, Reader]) -> Reference | None:
    """Return what later rows are compared with, where the model has it."""
    there = contents.digests.keys() & {*_REFERENCE, IDS}
    if not there:
        return None
    files = {name: contents.read(name) for name in there | _REFERENCE}
    dims = {name: sum(encoder.dim for encoder in network.of(name)) for name in readers}
    return Reference.read(files, dims, [column.name for column in schema.inputs], network.classes)


def _manifest(path: Path) -> dict[str, Any]:
    if not (path / MANIFEST).exists():
        raise BundleError(f"{path} is not a model folder: it has no {MANIFEST}")
    content = read_inside(path, MANIFEST)
    try:
        facts: dict[str, Any] = parse_json(content)
        version = facts["format"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BundleError(f"{path / MANIFEST} is damaged: {error}; copy the model again from its source") from error
    if version not in _READABLE:
        raise BundleError(
            f"{path} has format {shown(version)}, this fusetune ({VERSION}) reads formats "
            f"{listed(_READABLE, len(_READABLE))}; it was written by fusetune {facts.get('fusetune', '?')!s:.40}: "
            "install that version"
        )
    if facts.pop("checksum", None) != facts_hash(facts):
        raise BundleError(f"{path / MANIFEST} was changed after it was written; copy the model again from its source")
    return facts


def _refuse_strangers(contents: Contents, manifest: Manifest) -> None:
    """Refuse a manifest that lists other files than a model has, before any of them is read."""
    folders = set(manifest.inputs.values())
    needed = {_WEIGHTS, _SEEN, _SCHEMA, _CONFIG, *(f"{where}/reader.json" for where in folders)}
    if absent := needed - manifest.files.keys():
        raise BundleError(f"{contents.folder / MANIFEST} does not list {listed(sorted(absent))}")
    for name in manifest.files:
        located(contents.folder, name)
    known = needed | {f"{where}/tokenizer.json" for where in folders}
    known |= (_REFERENCE if manifest.format >= 3 else set()) | ({IDS} if manifest.format >= 4 else set())
    if more := manifest.files.keys() - known:
        raise BundleError(
            f"{contents.folder / MANIFEST} lists {listed(sorted(more))}, which no model of this format has; "
            "copy the model again from its source"
        )


def _network(contents: Contents, description: dict[str, Any]) -> Network:
    """Return the network with its weights, which are hashed as they are read."""
    path = contents.folder / _WEIGHTS
    with open_inside(contents.folder, _WEIGHTS) as file:
        hashed = Hashed(file)
        try:
            network = filled_network(description, hashed, os.fstat(file.fileno()).st_size)
        except (RunError, MemoryError):
            raise
        except Exception as error:
            raise BundleError(
                f"{contents.folder} does not hold a usable model: {path} was changed or cut short, or is of "
                f"another network ({_reason(error)}); copy the model again"
            ) from error
    if hashed.digest() != contents.digests[_WEIGHTS]:
        raise BundleError(f"{path} was changed after it was written; copy the model again")
    return network


def _reason(error: Exception) -> str:
    said = " ".join(str(error).split())
    return f"{type(error).__name__}: {said[:_LONGEST_REASON]}{' ...' if len(said) > _LONGEST_REASON else ''}"


def _digests(content: bytes) -> npt.NDArray[np.uint64]:
    seen = load_numpy(content)["digests"]
    if seen.dtype != np.uint64 or seen.ndim != 1:
        raise ValueError(f"{_SEEN} holds no digests")
    return seen


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())
