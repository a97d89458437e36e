"""Reading and writing YAML so that words stay words and numbers stay numbers, as in YAML 1.2.

What a few lines can blow up (an alias of an alias, a number of a million digits, a thousand lists in each other) is
refused where it stands, and so is a key that is given twice, of which one value would be lost.
"""

from __future__ import annotations

import re
from typing import Any

import yaml
from yaml.constructor import ConstructorError

_DEEPEST = 50
_LARGEST = 2**63


# The parser in C, where PyYAML was built with it, takes a tenth of the time.
_Plain: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_Plain):  # type: ignore[misc]
    """YAML in which only true and false are truth values, as in YAML 1.2: `crossfit.how: off` is a word."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        """Refuse a key that is given twice."""
        lines: dict[Any, int] = {}
        for name, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            key = (name.tag, name.value) if isinstance(name, yaml.ScalarNode) else id(name)
            if key in lines:
                raise ConstructorError(
                    None, None, f"'{name.value:.60}' is given twice, first in line {lines[key]}", name.start_mark
                )
            lines[key] = name.start_mark.line + 1
        return super().construct_mapping(node, deep)

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        """Say where a value stands that only looks like a number or a date."""
        try:
            value = super().construct_object(node, deep)
        except yaml.YAMLError:
            raise
        except Exception as error:  # the many ways in which `!!int x`, 2026-13-45 and their like fail
            raise ConstructorError(None, None, f"cannot be read as {node.tag}: {error}", node.start_mark) from error
        if isinstance(value, int) and abs(value) >= _LARGEST:
            raise ConstructorError(None, None, "the number is too large", node.start_mark)
        return value


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
    """Parse YAML into plain values.

    Raises:
        yaml.YAMLError: If it is not valid YAML, repeats a key or a value (`*name`), or holds something absurd.
    """
    try:
        _refuse_endless(text)
        return yaml.load(text, _Loader)  # the loader is a SafeLoader
    except UnicodeEncodeError as error:
        raise yaml.YAMLError("it holds halves of characters") from error


def _refuse_endless(text: str) -> None:
    """Refuse aliases and deep nesting, before anything is made of them."""
    depth = 0
    for event in yaml.parse(text, _Plain):
        mark: Any = event.start_mark
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if isinstance(event, yaml.AliasEvent):
            raise ConstructorError(None, None, "*name repeats another value; write the value out", mark)
        if depth > _DEEPEST:
            raise ConstructorError(None, None, f"values are nested more than {_DEEPEST} deep", mark)


def explain_yaml(error: yaml.YAMLError, text: str) -> str:
    """Return in one line what is wrong with a YAML text, and in which line of it."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        said = ", ".join(filter(None, (error.context, error.problem)))
        return f"line {error.problem_mark.line + 1}: {said}"
    if isinstance(error, yaml.reader.ReaderError):
        line = text.count("\n", 0, error.position) + 1
        return f"line {line}: a character that no text holds (code {error.character})"
    return str(error)


def write_yaml(tree: Any) -> str:
    """Return plain values as YAML that `read_yaml` reads back unchanged."""
    return yaml.dump(tree, Dumper=Dumper, sort_keys=False, allow_unicode=True)
