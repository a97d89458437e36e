"""The JSON Schema says of a configuration file what fusetune says of it, and the reference has every setting."""

from __future__ import annotations

import json
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from typer.testing import CliRunner

from fusetune.cli import app
from fusetune.config import PRESETS, Config, read_yaml
from fusetune.errors import ConfigError
from fusetune.settings import groups, json_schema, strategy_settings
from fusetune.strategies import STRATEGIES, strategy_of


@pytest.fixture(scope="module")
def schema() -> Draft202012Validator:
    printed = CliRunner().invoke(app, ["show", "schema"]).output
    assert json.loads(printed) == json_schema()
    Draft202012Validator.check_schema(json_schema())
    return Draft202012Validator(json_schema())


def refusal(config: dict[str, Any]) -> str:
    """Return what fusetune says against a configuration, or nothing."""
    try:
        strategy_of(Config.build(config))
    except ConfigError as error:
        return str(error)
    return ""


def test_presets_and_what_runs_write_are_valid(schema: Draft202012Validator) -> None:
    for name, layer in PRESETS.items():
        assert not [*schema.iter_errors(json.loads(json.dumps({"preset": name, **layer})))]
        assert not [*schema.iter_errors(read_yaml(Config.build({"preset": name}).to_yaml()))]
    for name, strategy in STRATEGIES.items():
        own = strategy.Settings().model_dump(mode="json")
        written = read_yaml(Config.build({"strategy": {"name": name, **own}}).to_yaml())
        assert not [*schema.iter_errors(written)], name


RIGHT: list[dict[str, Any]] = [
    {},
    {"train": {"epochs": 3}},
    {"strategy": "umt"},
    {"strategy": {"candidates": ["alone", "ume"]}},
    {"image": {"augment": "scan"}, "data": {"class_weights": {"heart": 2.5}}},
    {"image": {"augment": {"rotate": 7}, "encoder": "timm:resnet18"}},
    {"doctor": {"policy": {"image_truncated": "mask"}}},
    {"split": {"fractions": [0.8, 0.1, 0.1]}, "threads": None},
]
WRONG: list[dict[str, Any]] = [
    {"epochs": 3},
    {"train": {"epoch": 3}},
    {"train": {"epochs": "many"}},
    {"preset": "better"},
    {"strategy": "umpt"},
    {"strategy": {"name": "two-stage", "weight": 3}},
    {"strategy": {"name": "umt", "weight": -1}},
    {"strategy": {"weight": 3}},
    {"image": {"augment": "scans"}},
    {"image": {"augment": {"rotation": 7}}},
    {"image": {"size": 8}},
    {"doctor": {"policy": {"image_truncated": "burn"}}},
    {"doctor": {"policy": {"label_errors": "drop"}}},
    {"doctor": {"policy": {"image_lost": "mask"}}},
    {"split": {"fractions": [0.8, 0.2]}},
    {"head": {"penalties": [0.1, 0]}},
]


@pytest.mark.parametrize("config", RIGHT, ids=str)
def test_what_fusetune_takes_is_valid(schema: Draft202012Validator, config: dict[str, Any]) -> None:
    assert refusal(config) == ""
    assert not [*schema.iter_errors(config)]


@pytest.mark.parametrize("config", WRONG, ids=str)
def test_what_fusetune_refuses_is_not(schema: Draft202012Validator, config: dict[str, Any]) -> None:
    assert refusal(config)
    assert [*schema.iter_errors(config)]


def test_no_setting_takes_just_anything(schema: Draft202012Validator) -> None:
    """Every setting of the tree, wherever it stands, refuses a list of mappings and has the right default."""
    leaves = Config().leaves(exclude={"doctor": {"policy"}, "strategy": True})
    assert len(leaves) > 150
    for name in leaves:
        config: Any = [{"no": "such"}]
        node: Any = schema.schema
        for part in name.split("."):
            node = node["properties"][part]
        assert node["default"] == leaves[name], name
        for part in reversed(name.split(".")):
            config = {part: config}
        assert not schema.is_valid(config), name


def test_the_reference_has_every_setting_with_its_meaning_and_what_presets_make_of_it() -> None:
    told = {
        ".".join(filter(None, (path, setting.name))): setting
        for group in groups()
        for path in group.paths
        for setting in group.settings
    }
    leaves = set(Config().leaves(exclude={"doctor": {"policy"}, "strategy": True}))
    assert leaves <= set(told)
    assert all(group.about for group in groups())
    for name, setting in told.items():
        assert setting.meaning or name == "image.augment.kind", name
        assert setting.allowed not in ("", "any"), name
    size, lr = told["image.size"], told["text.train.lr"]
    assert (size.allowed, size.defaults, size.presets) == (
        "whole number ≥ 16 and ≤ 4096",
        {"image": 160},
        {"paper": 224},
    )
    assert (lr.defaults["text.train"], lr.defaults["image.train"]) == (2e-5, 1e-3)
    assert told["image.train.epochs"].presets["paper, image.train"] == 5
    base, own = strategy_settings("umt")
    assert base == "joint"
    assert all(setting.meaning for setting in own)
    assert {"candidates"} <= {setting.name for setting in strategy_settings("weighted-ensemble")[1] if setting.presets}
