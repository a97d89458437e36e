"""The layers: every module imports only from modules that come before it in one fixed order.

The library knows nothing of the package of published experiments; that one may use all of the library. The sources are
parsed, not imported, so that imports inside functions and under TYPE_CHECKING count as well.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src"
LIBRARY, PAPERS = "fusetune", "fusetune_papers"
ORDER = (
    "errors", "version", "files", "vault", "progress", "display", "config", "process", "ranks", "runtime", "data",
    "telling", "targets", "augment", "encoders", "speed", "inputs", "handing", "features", "train", "context",
    "prepare", "heads", "networks", "evaluate", "strategies", "settings", "trials", "guidance", "arguments", "doctor",
    "result", "standings", "report", "answers", "space", "answering", "judging", "realtime", "model", "judge",
    "summary", "bundle", "record", "folder", "intake", "plan", "checking", "encoding", "cluster", "track",
    "estimator", "export", "run", "api", "contest", "serve",
)  # fmt: skip
# Package -> layer -> layers that it may import from its own package.
ALLOWED = {
    LIBRARY: {layer: set(ORDER[: place + 1]) for place, layer in enumerate(ORDER)}
    | {
        "datasets": {"errors", "files", "progress", "data", "datasets"},
        "__init__": {
            "api",
            "checking",
            "cluster",
            "config",
            "contest",
            "encoding",
            "estimator",
            "export",
            "guidance",
            "model",
            "run",
            "version",
        },
        "cli": {*ORDER, "datasets", "cli", "__init__"},
        "__main__": {"cli"},
    },
    PAPERS: {
        "datasets": {"datasets"},
        "phantom": {"datasets", "phantom"},
        "reproduce": {"datasets", "phantom", "reproduce"},
        "cli": {"datasets", "phantom", "reproduce", "cli"},
        "__init__": set(),
    },
}
# Layers of the library that adapters of data may use, as the library's own `datasets` does.
BESIDE_DATA = {"errors", "files", "progress", "data"}


def violations(source: Path) -> list[str]:
    """Return one message for each import in a package below `source` that breaks the order."""
    messages = []
    for package, allowed in ALLOWED.items():
        for file in sorted((source / package).rglob("*.py")):
            name = file.relative_to(source).as_posix()
            layer = layer_of(file.relative_to(source).with_suffix("").parts)
            if layer not in allowed:
                messages.append(f"{name}: `{layer}` has no place in the order; add it to tests/test_layers.py")
                continue
            for target, line in imported(ast.parse(file.read_text("utf-8"), name), package_of(file, source)):
                if not may_import(package, layer, target):
                    messages.append(f"{name}:{line} imports `{'.'.join(target)}`, which does not come before `{layer}`")
    return messages


def may_import(package: str, layer: str, target: tuple[str, ...]) -> bool:
    """Return whether a layer of a package may import a dotted name."""
    if target[0] == package:
        return target_layer(target) in ALLOWED[package][layer]
    if package == LIBRARY or layer == "__init__":
        return False
    return layer not in ("datasets", "phantom") or target_layer(target) in BESIDE_DATA


def layer_of(parts: tuple[str, ...]) -> str:
    """Return the folder or file directly below the package: `fusetune/data/table` -> `data`."""
    return parts[1] if len(parts) > 1 else "__init__"


def package_of(file: Path, source: Path) -> tuple[str, ...]:
    """Return the package that relative imports in `file` start from."""
    return file.relative_to(source).parent.parts


def target_layer(name: tuple[str, ...]) -> str:
    """Return the layer of an imported name; a plain object (`from fusetune import fit`) belongs to `__init__`."""
    return layer if (layer := layer_of(name)) in ALLOWED[name[0]] else "__init__"


def imported(tree: ast.Module, package: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], int]]:
    """Yield dotted name and line of each import from one of the packages."""
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
        yield from ((name, node.lineno) for name in dict.fromkeys(names) if name[0] in ALLOWED)


def test_imports_follow_the_order() -> None:
    assert not (broken := violations(SOURCE)), "\n".join(["imports against the order:", *broken])


@pytest.mark.parametrize(("package", "some"), [(LIBRARY, {"errors.py", "datasets"}), (PAPERS, {"datasets", "cli"})])
def test_there_is_something_to_check(package: str, some: set[str]) -> None:
    files = list((SOURCE / package).rglob("*.py"))
    assert some <= {path.name for path in (SOURCE / package).iterdir()}
    assert any(list(imported(ast.parse(f.read_text("utf-8")), package_of(f, SOURCE))) for f in files)
    assert {path.name for path in SOURCE.iterdir() if (path / "__init__.py").exists()} == set(ALLOWED)


@pytest.mark.parametrize(
    ("file", "line", "target"),
    [
        ("fusetune/data/table.py", "from fusetune.train.loop import fit", "fusetune.train.loop"),
        ("fusetune/data/table.py", "import fusetune.train.loop as loop", "fusetune.train.loop"),
        ("fusetune/data/table.py", "from fusetune import api", "fusetune.api"),
        ("fusetune/data/table.py", "from fusetune import fit", "fusetune.fit"),
        ("fusetune/data/table.py", "from ..train import loop", "fusetune.train"),
        ("fusetune/data/table.py", "from .. import train", "fusetune.train"),
        ("fusetune/data/table.py", "def late():\n    from fusetune.bundle import load", "fusetune.bundle"),
        ("fusetune/strategies/balance/ogm.py", "from ...judge import judge", "fusetune.judge"),
        ("fusetune/strategies/balance/ogm.py", "from fusetune.datasets import fetch_stamps", "fusetune.datasets"),
        ("fusetune/datasets/stamps.py", "import fusetune.config", "fusetune.config"),
        ("fusetune/errors.py", "from fusetune.config import Config", "fusetune.config"),
        ("fusetune/__init__.py", "from fusetune.train import loop", "fusetune.train"),
        ("fusetune/api.py", "from fusetune.cli import main", "fusetune.cli"),
        ("fusetune/cli/data.py", "from fusetune_papers.cli import data", "fusetune_papers.cli"),
        ("fusetune/cli/data.py", "import fusetune_papers", "fusetune_papers"),
        ("fusetune/data/table.py", "def late():\n    from fusetune_papers import datasets", "fusetune_papers.datasets"),
        ("fusetune_papers/datasets/fpus23.py", "from fusetune.train.loop import train", "fusetune.train.loop"),
        ("fusetune_papers/datasets/fpus23.py", "from fusetune import fit", "fusetune.fit"),
        ("fusetune_papers/datasets/fpus23.py", "from ..phantom import draw", "fusetune_papers.phantom"),
        ("fusetune_papers/phantom/draw.py", "import fusetune_papers.reproduce", "fusetune_papers.reproduce"),
        ("fusetune_papers/reproduce/run.py", "from fusetune_papers.cli import data", "fusetune_papers.cli"),
        ("fusetune_papers/__init__.py", "import fusetune.cli", "fusetune.cli"),
    ],
)
def test_a_planted_violation_is_caught(tmp_path: Path, file: str, line: str, target: str) -> None:
    planted(tmp_path, file, line)
    (message,) = violations(tmp_path)
    assert message.startswith(f"{file}:")
    assert f"imports `{target}`" in message


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("fusetune/train/loop.py", "from fusetune.data import table, split\nfrom fusetune import errors\nimport torch"),
        ("fusetune/train/loop.py", "from .optim import adamw\nfrom ..features.store import Store"),
        ("fusetune/strategies/balance/ogm.py", "from ..model import Outputs\nfrom .agm import agm"),
        ("fusetune/cli/fit.py", "from fusetune import fit, load\nfrom fusetune.datasets import fetch_stamps"),
        ("fusetune/__init__.py", "from fusetune.api import fit\nfrom .config import Config"),
        ("fusetune/data/table.py", "import fusetune_other\nfrom fusetune_other import train"),
        ("fusetune_papers/reproduce/run.py", "from fusetune.judge import judge\nfrom fusetune_papers import datasets"),
        ("fusetune_papers/phantom/draw.py", "from fusetune.files import write_text\nfrom ..datasets import cvat"),
        ("fusetune_papers/cli/data.py", "from fusetune.cli.frame import app\nfrom ..phantom.draw import write_phantom"),
    ],
)
def test_what_is_allowed_passes(tmp_path: Path, file: str, line: str) -> None:
    planted(tmp_path, file, line)
    assert violations(tmp_path) == []


@pytest.mark.parametrize("package", [LIBRARY, PAPERS])
def test_a_new_layer_must_be_given_a_place(tmp_path: Path, package: str) -> None:
    planted(tmp_path, f"{package}/utils.py", "import os")
    (message,) = violations(tmp_path)
    assert f"{package}/utils.py: `utils` has no place" in message


def planted(source: Path, file: str, text: str) -> None:
    path = source / file
    path.parent.mkdir(parents=True)
    path.write_text(text)
