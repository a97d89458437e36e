"""Every setting as data, read off the classes that check it: a JSON Schema for editors, and tables for the reference.

The schema is what pydantic makes of the classes, with what only fusetune knows put in: the default at each place, since
that of `image.train.lr` is not that of `text.train.lr`, and names of strategies with their settings, of policies and of
findings. It describes a file as users write it: nothing is required, and `train` stands for all inputs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from fusetune.config import IMAGE_POLICIES, PRESETS, Config, TrainConfig
from fusetune.config.checks import ACTIONS
from fusetune.config.tree import OWN
from fusetune.strategies import IMPORT, STRATEGIES
from fusetune.strategies.weighted import Weighted

DIALECT = "https://json-schema.org/draft/2020-12/schema"
Json = dict[str, Any]


@dataclass(frozen=True)
class Setting:
    """One setting.

    Attributes:
        name: Its name within its section.
        allowed: Type and limits, in words.
        defaults: Default by the path of its section; equal ones are one everywhere.
        meaning: What it does.
        presets: What a preset sets it to, by "preset" or, where sections differ, "preset, section".
    """

    name: str
    allowed: str
    defaults: dict[str, Any]
    meaning: str
    presets: dict[str, Any]


@dataclass(frozen=True)
class Group:
    """Sections of one class: the paths at which it stands ("" is the top), its docstring, its settings."""

    paths: tuple[str, ...]
    about: str
    settings: tuple[Setting, ...]


def json_schema() -> Json:
    """Return the JSON Schema (draft 2020-12) of a configuration file.

    What two settings must agree on is checked by `Config.build` alone, such as fractions that sum to 1.
    """
    schema = _inlined(Config.model_json_schema(), Config().model_dump(mode="json"))
    properties = schema["properties"]
    shared = _inlined(TrainConfig.model_json_schema(), TrainConfig().model_dump(mode="json"))
    for one in _leaves(shared):
        one.pop("default", None)  # each input has its own
    properties["train"] = shared | {"description": "the same setting of every kind of input at once"}
    policy = properties["image"]["properties"]["augment"]
    named = {"enum": list(IMAGE_POLICIES), "type": "string"}
    own = {"pattern": f"^({'|'.join(OWN)})", "type": "string"}
    policy["anyOf"] = [*(one for one in policy["anyOf"] if one.get("type") != "string"), named, own]
    actions = {kind: {"enum": list(possible)} for kind, possible in ACTIONS.items()}
    properties["doctor"]["properties"]["policy"] |= {"properties": actions, "additionalProperties": False}
    properties["strategy"] = _strategies(properties["strategy"])
    head = {"$schema": DIALECT, "title": "Settings of fusetune", "description": "What --config takes."}
    return head | {key: value for key, value in schema.items() if key not in head}


def _strategies(section: Json) -> Json:
    """Return what `strategy` may be: a name, or a mapping in which the settings are those of the strategy named."""
    known = {"enum": list(STRATEGIES), "type": "string"}
    own = {"pattern": f"^{IMPORT}", "type": "string"}
    shared = section["properties"]
    shared["name"] = {
        "anyOf": [known, own],
        "default": shared["name"]["default"],
        "description": _about(shared["name"]),
    }
    cases = []
    for name, strategy in STRATEGIES.items():
        settings = _inlined(strategy.Settings.model_json_schema(), strategy.Settings().model_dump(mode="json"))
        then = {"properties": {**dict.fromkeys(shared, True), **settings["properties"]}, "additionalProperties": False}
        told: Json = {"properties": {"name": {"const": name}}}
        if name != Weighted.name:  # which is fitted where nothing is named
            told["required"] = ["name"]
        cases.append({"if": told, "then": then})
    whole = {"type": "object", "properties": shared, "allOf": cases}
    return {"anyOf": [known, own, whole], "description": section["description"]}


def _about(property_: Json) -> str:
    return str(property_.get("description", ""))


def _inlined(schema: Json, values: Any) -> Json:
    """Return a schema of pydantic without references and titles, with these values as defaults."""
    definitions = schema.get("$defs", {})

    def follow(node: Any, default: Any) -> Any:
        if isinstance(node, list):
            return [follow(one, default) for one in node]
        if not isinstance(node, dict):
            return node
        if "$ref" in node:
            rest = {key: value for key, value in node.items() if key not in ("$ref", "default")}
            node = deepcopy(definitions[node["$ref"].rsplit("/", 1)[-1]]) | rest
        node = {key: value for key, value in node.items() if key not in ("title", "$defs", "required")}
        if "properties" in node:
            inner = default if isinstance(default, Mapping) else {}
            node["properties"] = {
                name: _defaulted(follow(one, inner.get(name)), name, inner) for name, one in node["properties"].items()
            }
        for key in ("anyOf", "items", "prefixItems"):
            if key in node:
                node[key] = follow(node[key], default)
        if isinstance(node.get("description"), str):
            node["description"] = " ".join(node["description"].split())
        return node

    return dict(follow(schema, values))


def _defaulted(property_: Json, name: str, values: Mapping[str, Any]) -> Json:
    if "properties" in property_ or name not in values:
        return property_
    return property_ | {"default": values[name]}


def _leaves(schema: Json) -> Iterator[Json]:
    """Yield the settings below a section that have no settings below them."""
    for one in schema["properties"].values():
        if "properties" in one:
            yield from _leaves(one)
        else:
            yield one


def groups() -> list[Group]:
    """Return all sections of the configuration but those of strategies, each class once, in the order of the tree."""
    places: dict[type[BaseModel], list[str]] = {}
    for path, section in _sections(Config, ""):
        places.setdefault(section, []).append(path)
    tree, presets = Config().model_dump(mode="json"), {name: Config.build({"preset": name}) for name in PRESETS}
    told = {name: config.model_dump(mode="json") for name, config in presets.items()}
    return [_group(section, paths, tree, told) for section, paths in places.items()]


def _sections(section: type[BaseModel], path: str) -> Iterator[tuple[str, type[BaseModel]]]:
    yield path, section
    for name, one in section.model_fields.items():
        for inner in _below(one.annotation):
            yield from _sections(inner, f"{path}.{name}".lstrip("."))


def _below(annotation: Any) -> list[type[BaseModel]]:
    """Return the sections that a setting holds, or that are one way to give it."""
    kinds = [annotation, *getattr(annotation, "__args__", ())]
    return [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]


def _group(section: type[BaseModel], paths: list[str], tree: Json, presets: Mapping[str, Json]) -> Group:
    plain = section().model_dump(mode="json")
    properties = _inlined(section.model_json_schema(), plain)["properties"]
    settings = []
    for name, one in section.model_fields.items():
        if _below(one.annotation) and not properties[name].get("anyOf"):
            continue  # a section of its own
        default = {path: _at(tree, path, plain).get(name) for path in paths}
        changed: dict[str, Any] = {}
        for preset, values in presets.items() if name != "preset" else ():
            new = {path: _at(values, path, plain).get(name) for path in paths}
            differing = {path: value for path, value in new.items() if value != default[path]}
            if len(differing) == len(paths) and len({repr(value) for value in differing.values()}) == 1:
                changed[preset] = next(iter(differing.values()))
            else:
                changed |= {f"{preset}, {path}": value for path, value in differing.items()}
        settings.append(Setting(name, allowed(properties[name]), default, one.description or "", changed))
    about = (section.__doc__ or "").split("\n\n")[0]  # what follows is for whoever writes code
    return Group(tuple(paths), " ".join(about.split()), tuple(settings))


def _at(tree: Json, path: str, otherwise: Json) -> Json:
    """Return the values of a section; those of the class where a name stands in its place, such as of a policy."""
    node: Any = tree
    for name in filter(None, path.split(".")):
        node = node.get(name) if isinstance(node, dict) else None
    return node if isinstance(node, dict) else otherwise


def allowed(schema: Json) -> str:
    """Return what a setting may be, in words."""
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(allowed(one) for one in schema["anyOf"]))
    if "enum" in schema or "const" in schema:
        return ", ".join(map(str, schema["enum"] if "enum" in schema else [schema["const"]]))
    kind = schema.get("type", "any")
    if kind == "array":
        inner = schema.get("prefixItems") or [schema.get("items", {})]
        return f"{len(inner)} x {allowed(inner[0])}" if "prefixItems" in schema else f"list of {allowed(inner[0])}"
    if kind == "object":
        return "settings" if schema.get("properties") else "mapping"
    limits = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    told = [f"{sign} {schema[key]:g}" for key, sign in limits.items() if key in schema]
    words = {"integer": "whole number", "boolean": "true, false", "string": "text", "null": "none"}.get(kind, kind)
    return f"{words} {' and '.join(told)}".strip()


def strategy_settings(name: str) -> tuple[str | None, tuple[Setting, ...]]:
    """Return the settings that stand beside the name of a strategy.

    Returns:
        The strategy whose settings it has, too, if it builds on one; and its own settings, less those.
    """
    own = STRATEGIES[name].Settings
    values = own().model_dump(mode="json")
    base = based_on(name)
    shared = STRATEGIES[base].Settings.model_fields if base else {}
    properties = _inlined(own.model_json_schema(), values)["properties"]
    presets = {preset: layer.get("strategy", {}) for preset, layer in PRESETS.items()}
    meant = {preset: told for preset, told in presets.items() if told.get("name", Weighted.name) == name}
    return base, tuple(
        Setting(
            setting, allowed(one), {"strategy": values[setting]}, _about(one),
            {preset: told[setting] for preset, told in meant.items() if setting in told},
        )
        for setting, one in properties.items()
        if setting not in shared
    )  # fmt: skip


def based_on(name: str) -> str | None:
    """Return the first strategy whose settings a strategy's extend, if there is one."""
    owners: dict[type[BaseModel], str] = {}
    for one, strategy in STRATEGIES.items():
        owners.setdefault(strategy.Settings, one)
    lineage = [kind for kind in STRATEGIES[name].Settings.__mro__ if issubclass(kind, BaseModel) and kind.model_fields]
    return next((owners[kind] for kind in lineage if owners.get(kind, name) != name), None)
