"""Reading and writing YAML so that words stay words and numbers stay numbers, as in YAML 1.2."""

from __future__ import annotations

import re
from typing import Any

import yaml


class _Loader(yaml.SafeLoader):
    """YAML in which only true and false are truth values, as in YAML 1.2: `crossfit.how: off` is a word."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in rules if tag != "tag:yaml.org,2002:bool"]
    for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)


class Dumper(yaml.SafeDumper):
    """Puts words in quotes that `_Loader` would take for numbers."""


# YAML 1.1 reads 1e-4 as a word because it has no dot.
for _side in (_Loader, Dumper):
    _side.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
    )


def read_yaml(text: str) -> Any:
    """Parse YAML into plain values."""
    return yaml.load(text, _Loader)  # the loader is a SafeLoader


def write_yaml(tree: Any) -> str:
    """Return plain values as YAML that `read_yaml` reads back unchanged."""
    return yaml.dump(tree, Dumper=Dumper, sort_keys=False, allow_unicode=True)
