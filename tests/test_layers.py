"""The layers: every module imports only from modules that come before it in one fixed order.

The sources are parsed, not imported, so that imports inside functions and under TYPE_CHECKING count as well.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src"
PACKAGE = "fusetune"
ORDER = (
    "errors", "version", "files", "vault", "progress", "config", "runtime", "data", "augment", "encoders", "inputs",
    "features", "train", "strategies", "evaluate", "doctor", "report", "model", "judge", "outcome", "bundle", "folder",
    "track", "training", "estimator", "api",
)  # fmt: skip
ALLOWED = {layer: set(ORDER[: place + 1]) for place, layer in enumerate(ORDER)} | {
    "datasets": {"errors", "files", "progress", "data", "datasets"},
    "__init__": {"api", "config", "estimator", "model", "version"},
    "reproduce": {*ORDER, "datasets", "reproduce"},
    "cli": {*ORDER, "datasets", "reproduce", "cli", "__init__"},
    "__main__": {"cli"},
}


def violations(source: Path) -> list[str]:
    """Return one message for each import in `source`/fusetune that breaks the order."""
    found = []
    for file in sorted((source / PACKAGE).rglob("*.py")):
        name = file.relative_to(source).as_posix()
        layer = layer_of(file.relative_to(source).with_suffix("").parts)
        if layer not in ALLOWED:
            found.append(f"{name}: `{layer}` has no place in the order; add it to tests/test_layers.py")
            continue
        for target, line in imported(ast.parse(file.read_text("utf-8"), name), package_of(file, source)):
            if target_layer(target) not in ALLOWED[layer]:
                found.append(f"{name}:{line} imports `{'.'.join(target)}`, which does not come before `{layer}`")
    return found


def layer_of(parts: tuple[str, ...]) -> str:
    """Return the folder or file directly below the package: `fusetune/data/table` -> `data`."""
    return parts[1] if len(parts) > 1 else "__init__"


def package_of(file: Path, source: Path) -> tuple[str, ...]:
    """Return the package that relative imports in `file` start from."""
    return file.relative_to(source).parent.parts


def target_layer(name: tuple[str, ...]) -> str:
    """Return the layer of an imported name; a plain object (`from fusetune import fit`) belongs to `__init__`."""
    return layer if (layer := layer_of(name)) in ALLOWED else "__init__"


def imported(tree: ast.Module, package: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], int]]:
    """Yield dotted name and line of each import from the package itself."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [tuple(alias.name.split(".")) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else ()
            module = (*start, *(node.module.split(".") if node.module else ()))
            names = [(*module, alias.name) if len(module) == 1 else module for alias in node.names]
        else:
            continue
        # Deduplicated: `from fusetune.data import a, b` is one import.
        yield from ((name, node.lineno) for name in dict.fromkeys(names) if name[0] == PACKAGE)


def test_imports_follow_the_order() -> None:
    assert not (broken := violations(SOURCE)), "\n".join(["imports against the order:", *broken])


def test_there_is_something_to_check() -> None:
    files = list((SOURCE / PACKAGE).rglob("*.py"))
    assert {"errors.py", "datasets"} <= {path.name for path in (SOURCE / PACKAGE).iterdir()}
    assert any(list(imported(ast.parse(f.read_text("utf-8")), package_of(f, SOURCE))) for f in files)


@pytest.mark.parametrize(
    ("file", "line", "target"),
    [
        ("data/table.py", "from fusetune.train.loop import fit", "fusetune.train.loop"),
        ("data/table.py", "import fusetune.train.loop as loop", "fusetune.train.loop"),
        ("data/table.py", "from fusetune import api", "fusetune.api"),
        ("data/table.py", "from fusetune import fit", "fusetune.fit"),
        ("data/table.py", "from ..train import loop", "fusetune.train"),
        ("data/table.py", "from .. import train", "fusetune.train"),
        ("data/table.py", "def late():\n    from fusetune.bundle import load", "fusetune.bundle"),
        ("strategies/balance/ogm.py", "from ...evaluate.metrics import nll", "fusetune.evaluate.metrics"),
        ("strategies/balance/ogm.py", "from fusetune.datasets import fetch_stamps", "fusetune.datasets"),
        ("datasets/stamps.py", "import fusetune.config", "fusetune.config"),
        ("errors.py", "from fusetune.config import Config", "fusetune.config"),
        ("__init__.py", "from fusetune.train import loop", "fusetune.train"),
        ("api.py", "from fusetune.cli import main", "fusetune.cli"),
    ],
)
def test_a_planted_violation_is_caught(tmp_path: Path, file: str, line: str, target: str) -> None:
    planted(tmp_path, file, line)
    (message,) = violations(tmp_path)
    assert message.startswith(f"{PACKAGE}/{file}:")
    assert f"imports `{target}`" in message


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("train/loop.py", "from fusetune.data import table, split\nfrom fusetune import errors\nimport torch"),
        ("train/loop.py", "from .optim import adamw\nfrom ..features.store import Store"),
        ("strategies/balance/ogm.py", "from ..model import Outputs\nfrom .agm import agm"),
        ("cli/fit.py", "from fusetune import fit, load\nfrom fusetune.datasets import fetch_stamps"),
        ("__init__.py", "from fusetune.api import fit\nfrom .config import Config"),
        ("data/table.py", "import fusetune_other\nfrom fusetune_other import train"),
    ],
)
def test_what_is_allowed_passes(tmp_path: Path, file: str, line: str) -> None:
    planted(tmp_path, file, line)
    assert violations(tmp_path) == []


def test_a_new_layer_must_be_given_a_place(tmp_path: Path) -> None:
    planted(tmp_path, "utils.py", "import os")
    (message,) = violations(tmp_path)
    assert "fusetune/utils.py: `utils` has no place" in message


def planted(source: Path, file: str, text: str) -> None:
    path = source / PACKAGE / file
    path.parent.mkdir(parents=True)
    path.write_text(text)
