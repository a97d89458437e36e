"""A configuration is built from layers, later ones winning; every problem in it is reported at once.

The layers: defaults, the preset, YAML files, `--set` values. Within a layer, `train.X: v` is short for the same setting
of every kind of input (`image.train.X`, `text.train.X`, ...), so that `--set train.epochs=3` does what it says while
each kind keeps its own measured defaults.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from fusetune.config.items import as_items
from fusetune.config.policy import IMAGE_POLICIES
from fusetune.config.presets import PRESETS
from fusetune.config.tree import KINDS, TrainConfig, Tree
from fusetune.config.yaml12 import explain_yaml, read_yaml, write_yaml
from fusetune.errors import ConfigError, did_you_mean, listed, shown

_LONGEST = 1 << 20  # bytes of a YAML file; the longest that fusetune writes have some thousand
_MOST_PROBLEMS = 50
_SHOWN = 10


class Config(Tree):
    """Everything that a run depends on besides the table.

    Build one with `Config.build(...)`, which understands presets, files and `train.*` shorthands, or directly with
    keyword arguments.
    """

    @classmethod
    def build(
        cls,
        *layers: Config | Mapping[str, Any] | str | Path | None,
        sets: str | Iterable[str] = (),
    ) -> Config:
        """Combine layers into a checked configuration; later layers win.

        Args:
            layers: Mappings, YAML files, ready configurations, or None (skipped).
            sets: `KEY=VALUE` strings such as `"image.train.epochs=3"`; values are read as YAML.

        Raises:
            ConfigError: Naming every unknown key and wrong value of all layers.
        """
        problems: list[str] = []
        plain = [_renamed(read_layer(layer)) for layer in layers if layer is not None]
        plain.append(_renamed(_from_sets(as_items(sets), problems)))
        preset = next((layer["preset"] for layer in reversed(plain) if "preset" in layer), "good")
        # A complete configuration, such as a run's config.yaml, leaves a preset nothing to decide.
        problems += [
            f"preset: '{preset}' is asked for beside a complete configuration of '{layer['preset']}'"
            for layer in plain
            if set(cls.model_fields) <= set(layer) and layer["preset"] != preset
        ]
        tree = cls().model_dump()
        for layer in [{"preset": preset}, PRESETS.get(str(preset), {}), *plain]:
            if layer is plain[-1]:  # --set
                _unfold_policy(tree, layer)
            _leave_other_strategy(tree, layer)
            _merge(tree, _spread_train(layer, problems))
        try:
            config = cls.model_validate(tree)
        except ValidationError as error:
            problems += [_explain(item) for item in error.errors() if not _is_noise(item)]
        if problems:
            each = list(dict.fromkeys(problems))
            listing = "\n".join(f"  - {problem}" for problem in each[:_MOST_PROBLEMS])
            raise ConfigError(f"the configuration has {len(each)} problem(s):\n{listing}")
        return config

    def __repr__(self) -> str:
        usual = type(self).build({"preset": self.preset}).leaves()
        others = [f"{name}={value!r}" for name, value in self.leaves().items() if usual.get(name) != value]
        return f"Config({listed([f'preset={self.preset!r}', *sorted(set(others))], _SHOWN)})"

    def to_yaml(self) -> str:
        """Return the whole tree as YAML, readable by `Config.build`."""
        return _as_yaml(json.dumps(self.model_dump(mode="json")))

    def leaves(self, exclude: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return every setting as dotted name -> plain value; `exclude` as for `model_dump`."""
        leaves: dict[str, Any] = {}
        rest: list[tuple[str, Any]] = list(self.model_dump(mode="json", exclude=dict(exclude or {})).items())
        while rest:
            name, value = rest.pop()
            if isinstance(value, dict):
                rest += [(f"{name}.{key}", inner) for key, inner in value.items()]
            else:
                leaves[name] = value
        return leaves


@lru_cache(maxsize=16)
def _as_yaml(tree: str) -> str:
    """Return a tree of JSON as YAML; kept, since a run writes the same one several times and the writer is slow."""
    return write_yaml(json.loads(tree))


def read_layer(layer: Config | Mapping[str, Any] | str | Path) -> dict[str, Any]:
    """Return what one layer says: a mapping, the settings of a configuration, or a YAML file.

    Raises:
        ConfigError: If the file cannot be read or holds no mapping.
    """
    if isinstance(layer, Config):
        return layer.model_dump(exclude_unset=True)
    if isinstance(layer, Mapping):
        return deepcopy(dict(layer))
    path = Path(layer)
    try:
        with path.open("rb") as file:
            content = file.read(_LONGEST + 1)
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read the configuration {path}: {getattr(error, 'strerror', error)}") from error
    return parse_layer(content, str(path))


def parse_layer(content: bytes, name: str) -> dict[str, Any]:
    """Return what a YAML file says.

    Args:
        content: Its bytes.
        name: What to call it in messages.

    Raises:
        ConfigError: If it is no YAML, or holds no mapping.
    """
    if len(content) > _LONGEST:
        raise ConfigError(f"{name} is longer than {_LONGEST:,} bytes, which no configuration is")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{name} is not valid YAML: line {line} is not UTF-8 text; save it as UTF-8") from error
    try:
        loaded = read_yaml(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{name} is not valid YAML: {explain_yaml(error, text)}") from error
    if not isinstance({} if loaded is None else loaded, dict):
        raise ConfigError(f"{name} must hold a mapping such as 'views: 4', not a {type(loaded).__name__}")
    return loaded or {}


def _from_sets(sets: Iterable[str], problems: list[str]) -> dict[str, Any]:
    layer: dict[str, Any] = {}
    for item in sets:
        key, sign, value = item.partition("=")
        if not sign or not key.strip():
            problems.append(f"--set {item}: write it as KEY=VALUE, for example --set train.epochs=3")
            continue
        *parents, last = key.strip().split(".")
        node = layer
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                break
        if not isinstance(node, dict):
            problems.append(f"--set {item}: '{parent}' was already set to a single value")
            continue
        try:
            node[last] = read_yaml(value)
        except yaml.YAMLError as error:
            problems.append(
                f"--set {item}: the value is not valid YAML; quote it, as in --set '{key}=\"text\"' "
                f"({explain_yaml(error, value)})"
            )
    return layer


def _spread_train(layer: dict[str, Any], problems: list[str]) -> dict[str, Any]:
    """Copy `train.*` of a layer to every kind, below what the layer says for that kind itself."""
    if "train" not in layer:
        return layer
    shared = layer["train"]
    rest = {key: value for key, value in layer.items() if key != "train"}
    if not isinstance(shared, Mapping):
        problems.append("train must be a mapping such as 'train: {epochs: 3}'")
        return rest
    settings = TrainConfig.model_fields
    problems += [f"train.{key}: unknown setting{did_you_mean(key, settings)}" for key in shared if key not in settings]
    understood = {key: value for key, value in shared.items() if key in settings}
    spread: dict[str, Any] = {kind: {"train": deepcopy(understood)} for kind in KINDS}
    _merge(spread, rest)
    return spread


def _renamed(layer: dict[str, Any]) -> dict[str, Any]:
    """Return a layer with today's names: the preset was a recipe in models of earlier versions."""
    if "recipe" not in layer or "preset" in layer:
        return layer
    rest = {name: value for name, value in layer.items() if name != "recipe"}
    return rest | {"preset": {"sound": "good", "fast": "quick"}.get(layer["recipe"], layer["recipe"])}


def _leave_other_strategy(tree: dict[str, Any], layer: Mapping[str, Any]) -> None:
    """Forget the settings of a strategy where a layer names another one: they would be unknown to it."""
    section = layer.get("strategy")
    name = section.get("name") if isinstance(section, Mapping) else section
    if name is not None and isinstance(tree["strategy"], dict) and name != tree["strategy"].get("name"):
        tree["strategy"] = {"name": name}
    if isinstance(section, str) and isinstance(layer, dict):
        layer["strategy"] = {"name": section}


def _unfold_policy(tree: dict[str, Any], sets: Mapping[str, Any]) -> None:
    """Write a policy that is given by name out where `--set image.augment.X` changes a part of it.

    A mapping in a file, on the other hand, is a policy of its own.
    """
    image, changed = tree["image"], sets.get("image")
    if not isinstance(image, dict) or not isinstance(changed, Mapping):
        return
    policy = IMAGE_POLICIES.get(str(image.get("augment")))
    if policy is not None and isinstance(changed.get("augment"), Mapping):
        image["augment"] = policy.model_dump()


def _merge(tree: dict[str, Any], layer: Mapping[str, Any]) -> None:
    for key, value in layer.items():
        if isinstance(value, Mapping) and isinstance(tree.get(key), dict) and key != "class_weights":
            _merge(tree[key], value)
        else:
            tree[key] = deepcopy(value)


def _is_noise(item: Any) -> bool:
    """Return whether an error is about the alternative that was not meant: 'must be a name', of a mapping."""
    alternative = str(item["loc"][-1]) if item["loc"] else ""
    if isinstance(item["input"], Mapping):
        return alternative == "str" or alternative.startswith("literal[")
    return alternative.startswith("dict[")


def _explain(item: Any) -> str:
    location = [str(part) for part in item["loc"] if part not in ("ImagePolicy", "str") and "[" not in str(part)]
    where = ".".join(location) or "configuration"
    if item["type"] == "extra_forbidden":
        key = str(item["loc"][-1])  # which may look like none of a setting, such as 0[:
        above = location[:-1] if location[-1:] == [key] else location
        return f"{'.'.join([*above, key])}: unknown setting{did_you_mean(key, _known_keys(above))}"
    message = item["msg"].removeprefix("Value error, ")
    value = "" if isinstance(item["input"], dict) else f" (got {shown(item['input'])})"
    # The words that a setting takes, as pydantic writes them.
    known = re.findall(r"'([^']*)'", item["ctx"]["expected"]) if item["type"] == "literal_error" else []
    meant = did_you_mean(item["input"], known) if known and isinstance(item["input"], str) else ""
    return f"{where}: {message[0].lower()}{message[1:]}{value}{meant}"


def _known_keys(path: list[str]) -> list[str]:
    node: type[BaseModel] | None = Config
    for part in path:
        annotation = node.model_fields[part].annotation if node and part in node.model_fields else None
        options = [annotation, *getattr(annotation, "__args__", ())]
        node = next((o for o in options if isinstance(o, type) and issubclass(o, BaseModel)), None)
    keys = list(node.model_fields) if node else []
    return [*keys, "train"] if node is Config else keys
