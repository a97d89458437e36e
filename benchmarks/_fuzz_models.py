"""Model folders and checkpoints that were changed on their way, by chance or on purpose."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from random import Random
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


def open_models(folder: Path) -> Callable[[Generator], Trial]:
    """Return what makes a changed model, in the ways that the tests of strangers' models know."""
    sys.path.append(str(Path(__file__).parents[1] / "tests"))
    change = import_module("bundle_mutations").change
    made, frame = folder / "run", _frame()
    if not made.exists():
        fusetune.fit(frame, "y", out=made, config=settings(folder / "store"), quiet=True)
    before = fusetune.load(made).predict_proba(frame).to_numpy()

    def make(generator: Generator) -> Trial:
        changed = folder / "place" / "model"
        shutil.rmtree(changed.parent, ignore_errors=True)
        shutil.copytree(made / "model", changed)
        done = change(changed, Random(int(generator.integers(2**32))))

        def use() -> None:
            after = fusetune.load(changed).predict_proba(frame).to_numpy()
            if not done.consistent and not np.array_equal(before, after):
                raise WrongError("changed", "a damaged model predicts something else")
            if not np.isfinite(after).all() or after.shape[0] != _ROWS:
                raise WrongError("changed", f"probabilities of shape {after.shape}, or NaN")

        return Trial(use, False, done.what)

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
