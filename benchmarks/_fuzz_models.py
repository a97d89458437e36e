"""Model folders and checkpoints that were changed on their way, by chance or on purpose."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from _fuzz_text import damaged
from _trials import Family, Generator, Trial, WrongError
from _workshop import settings

import fusetune
from fusetune.train.checkpoint import Checkpoints

_ROWS = 48
Mutation = Callable[[Path, Generator], str]


def mutations() -> list[Mutation]:
    """Return what changes a model folder and says what it did: those here, and those of the tests."""
    sys.path.append(str(Path(__file__).parents[1] / "tests"))
    found: list[Mutation] = [_changed_bytes, _signed]
    if find_spec("bundle_mutations"):
        found.append(import_module("bundle_mutations").mutate)
    return found


def open_models(folder: Path) -> Callable[[Generator], Trial]:
    """Return what makes a changed model."""
    made, ways, frame = folder / "run", mutations(), _frame()
    if not made.exists():
        fusetune.fit(frame, "y", out=made, config=settings(folder / "store"), quiet=True)
    before = fusetune.load(made).predict_proba(frame).to_numpy()

    def make(generator: Generator) -> Trial:
        changed = folder / "changed"
        shutil.rmtree(changed, ignore_errors=True)
        shutil.copytree(made / "model", changed)
        way = ways[generator.integers(len(ways))]
        note = way(changed, generator)

        def use() -> None:
            after = fusetune.load(changed).predict_proba(frame).to_numpy()
            if way is _changed_bytes and not np.array_equal(before, after):
                raise WrongError("changed", "a model with changed bytes predicts something else")
            if after.shape[0] != _ROWS:
                raise WrongError("changed", f"probabilities of shape {after.shape}")

        return Trial(use, False, note)

    return make


def _frame() -> pd.DataFrame:
    random = np.random.default_rng(0)
    code = np.arange(_ROWS) % 2
    return pd.DataFrame(
        {
            "note": [f"seen on the {'left' if k else 'right'} side, number {i}" for i, k in enumerate(code)],
            "age": (40 + 9 * code + random.normal(0, 6, _ROWS)).round(1),
            "site": [f"site {k}" for k in random.integers(0, 3, _ROWS)],
            "y": np.where(code == 1, "lung", "heart"),
        }
    )


def _changed_bytes(folder: Path, generator: Generator) -> str:
    """Damage one file, or remove it."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    file = files[generator.integers(len(files))]
    if generator.random() < 0.1:
        file.unlink()
        return f"{file.name} is missing"
    file.write_bytes(damaged(file.read_bytes(), generator))
    return f"{file.name} is damaged"


def _signed(folder: Path, generator: Generator) -> str:
    """Change a value in a file of JSON or YAML, or bytes of another, and write down the new checksums."""
    facts = json.loads((folder / "bundle.json").read_text(encoding="utf-8"))
    facts.pop("checksum")
    if generator.random() < 0.6:
        note = "bundle.json: " + _change_value(facts, generator)
    else:
        names = sorted(facts["files"])
        name = names[generator.integers(len(names))]
        file = folder / name
        if file.suffix == ".json":
            content = json.loads(file.read_text(encoding="utf-8"))
            note = f"{name}: " + _change_value(content, generator)
            file.write_text(json.dumps(content), encoding="utf-8")
        else:
            note = f"{name} is damaged and signed"
            file.write_bytes(damaged(file.read_bytes(), generator))
        facts["files"][name] = hashlib.sha256(file.read_bytes()).hexdigest()
    facts["checksum"] = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    (folder / "bundle.json").write_text(json.dumps(facts), encoding="utf-8")
    return note


_VALUES: tuple[Any, ...] = (
    None, 0, 1, -1, 2, 10**5, 10**9, 2**63, 1e308, float("nan"), "", "x", "../x", "/dev/zero", "/", True, [], {}, [[]],
    [0], ["a"], {"a": 1}, "a" * 9999, [1] * 9999,
)  # fmt: skip


def _change_value(content: Any, generator: Generator) -> str:
    """Give a place in nested lists and mappings another value; return where and which."""
    node, path = content, ""
    while True:
        if not node:
            return f"nothing at {path or 'the top'}"
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        key = keys[generator.integers(len(keys))]
        path += f"/{key}"
        if isinstance(node[key], dict | list) and node[key] and generator.random() < 0.8:
            node = node[key]
            continue
        if generator.random() < 0.15:
            del node[key]
            return f"{path[:200]} removed"
        node[key] = _VALUES[generator.integers(len(_VALUES))]
        return f"{path[:200]} = {str(node[key])[:40]}"


def open_checkpoints(folder: Path) -> Callable[[Generator], Trial]:
    """Return what makes a damaged checkpoint."""
    kept = Checkpoints(folder / "stage", "key", 2)
    state = {"weights": torch.arange(300.0), "epoch": 1, "optimiser": {"step": torch.ones(3), "lr": 1e-3}}
    kept.save(1, state)
    kept.save_best(state)
    files = {path: path.read_bytes() for path in sorted(kept.folder.rglob("*")) if path.is_file()}

    def make(generator: Generator) -> Trial:
        place = list(files)[generator.integers(len(files))]
        data = files[place]
        for path, content in files.items():
            path.write_bytes(content)
        changed = data[: generator.integers(len(data))] if generator.random() < 0.1 else damaged(data, generator)

        def use() -> None:
            place.write_bytes(changed)
            for found in (kept.latest(), kept.best()):
                if found is not None and not _alike(found, state):
                    raise WrongError("changed", "another state than the one that was kept")

        return Trial(use, changed == data, f"{place.name} is damaged")

    return make


def _alike(found: Any, state: Any) -> bool:
    if isinstance(state, dict):
        return (
            isinstance(found, dict) and found.keys() == state.keys() and all(_alike(found[k], state[k]) for k in state)
        )
    if isinstance(state, torch.Tensor):
        return isinstance(found, torch.Tensor) and found.dtype == state.dtype and torch.equal(found, state)
    return bool(found == state)


MODELS = [Family("bundles", open_models), Family("checkpoints", open_checkpoints)]
