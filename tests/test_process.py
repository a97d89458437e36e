"""The process around a run is left as it was: random states, threads, filters; it may have threads and be forked."""

from __future__ import annotations

import logging
import os
import random
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from threading import Barrier, Event, Thread
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from tiny import settings, tiny_table
from torch import nn
from typer.testing import CliRunner

import fusetune
from fusetune.cli.frame import app
from fusetune.estimator import FusionClassifier
from fusetune.process import Draws, Shared, threads_restored, without_warnings
from fusetune.runtime import find_runtime

INPUTS = ["note", "age", "site"]


def surroundings() -> dict[str, Any]:
    """Return everything that the whole process has one of."""
    loggers = logging.root.manager.loggerDict.items()
    return {
        "torch": torch.get_rng_state().tolist(),
        "numpy": str(np.random.get_state()),
        "python": random.getstate(),
        "threads": (torch.get_num_threads(), cv2.getNumThreads()),
        "filters": list(warnings.filters),
        "warnings": (warnings.showwarning, warnings.formatwarning),
        "environment": dict(os.environ),
        "folder": Path.cwd(),
        "levels": {
            name: logger.level for name, logger in loggers if isinstance(logger, logging.Logger) and logger.level
        },
        "logging": (logging.root.level, logging.root.manager.disable, list(logging.root.handlers)),
        "streams": (sys.stdin, sys.stdout, sys.stderr),
        "pillow": Image.MAX_IMAGE_PIXELS,
        "gradients": torch.is_grad_enabled(),
        "defaults": (torch.get_default_dtype(), torch.get_float32_matmul_precision()),
        "deterministic": (torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.deterministic),
        "errors": (np.geterr(), sys.excepthook, sys.getrecursionlimit()),
    }


@contextmanager
def untouched() -> Iterator[None]:
    """Fail if the block leaves the process otherwise than it was."""
    random.seed(3)
    np.random.seed(4)
    torch.manual_seed(5)
    torch.set_num_threads(2)
    cv2.setNumThreads(2)
    before = surroundings()
    yield
    after = surroundings()
    assert {name for name in before if before[name] != after[name]} == set()


@pytest.fixture(scope="module", autouse=True)
def _as_before() -> Iterator[None]:
    import_module("peft")  # other packages, transformers among them, change filters when they are first imported
    threads = torch.get_num_threads(), cv2.getNumThreads()
    yield
    torch.set_num_threads(threads[0])
    cv2.setNumThreads(threads[1])


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    folder = tmp_path_factory.mktemp("pictures")
    frame = tiny_table(folder)
    return frame.assign(scan=[str(folder / name) for name in frame["scan"]])


def wobbling(pictures: torch.Tensor) -> torch.Tensor:
    """A user's augmentation that draws from all global generators."""
    return (pictures + torch.rand(1) / 50 + np.random.rand() / 50 + random.random() / 50).clamp(0, 1)


RUNS: dict[str, dict[str, Any]] = {
    "cross-fitted, through ONNX": {"crossfit": {"how": "k", "folds": 2}, "onnx": True, "head": {"pretrained": True}},
    "a trained head": {"head": {"kind": "gated", "train": {"epochs": 2}}},
    "adapters": {"text": {"encoder": "builtin", "max_tokens": 16, "train": {"lora_rank": 2, "epochs": 1}}},
    "an own augmentation": {"inputs": ["scan", "age"], "augment": {"image": wobbling}},
    "noise in gradients": {"strategy": {"name": "ogm-ge", "epochs": 1}},
    "teachers": {"strategy": {"name": "umt", "epochs": 1}},
}


@pytest.mark.parametrize("name", RUNS)
def test_a_run_leaves_the_process_as_it_was_and_does_not_depend_on_it(
    name: str, table: pd.DataFrame, tmp_path: Path
) -> None:
    asked = {"inputs": ["note", "age"], **RUNS[name]}
    how = {key: asked.pop(key) for key in ("inputs", "augment", "strategy") if key in asked}
    config = settings(tmp_path / "store", evaluate__baselines=False) | asked
    how |= {"config": config, "row_id": "case_id", "quiet": True}
    with untouched():
        run = fusetune.fit(table, "organ", out=tmp_path / "run", **how)
    np.random.seed(99)
    torch.manual_seed(99)
    again = fusetune.fit(table, "organ", out=tmp_path / "again", **how)
    states = [made.model.network.state_dict() for made in (run, again)]
    assert [name for name, tensor in states[0].items() if not torch.equal(tensor, states[1][name])] == []


def test_a_model_leaves_the_process_as_it_was(table: pd.DataFrame, tmp_path: Path) -> None:
    config = settings(tmp_path / "store", train__epochs=0, evaluate__baselines=False)
    fusetune.fit(table, "organ", config=config, row_id="case_id", out=tmp_path / "run", quiet=True)
    with untouched():
        model = fusetune.load(tmp_path / "run")
    asked: dict[str, Callable[[], Any]] = {
        "predict": lambda: model.predict(table),
        "predict_proba": lambda: model.predict_proba(table),
        "evaluate": lambda: model.evaluate(table),
        "explain": lambda: model.explain(table, "case-003"),
        "confined": lambda: model.confined().predict_table(table.drop(columns="scan"), "mask"),
    }
    for ask in asked.values():
        with untouched():
            ask()


@pytest.mark.parametrize("command", ["check", "augment"])
def test_commands_leave_the_process_as_it_was(command: str, table: pd.DataFrame, tmp_path: Path) -> None:
    table.to_csv(tmp_path / "table.csv", index=False)
    rest = ["--label", "organ"] if command == "check" else ["--out", str(tmp_path / "sheet.png"), "--rows", "2"]
    with untouched():
        told = CliRunner().invoke(app, [command, str(tmp_path / "table.csv"), *rest])
    assert told.exit_code in (0, 2), told.output


def test_an_estimator_leaves_the_process_as_it_was(table: pd.DataFrame, tmp_path: Path) -> None:
    estimator = FusionClassifier(config=settings(tmp_path / "store"), seed=0)
    with untouched():
        estimator.fit(table[INPUTS], table["organ"])
        estimator.predict(table[INPUTS])
    np.random.seed(123)
    picked = []
    for _ in range(3):
        rows = np.random.permutation(96)[:80]
        picked.append(tuple(sorted(rows)))
        estimator.fit(table[INPUTS].iloc[rows], table["organ"].iloc[rows])
    assert len(set(picked)) == 3


def test_fits_in_threads_are_those_in_sequence(table: pd.DataFrame, tmp_path: Path) -> None:
    def fitted(seed: int) -> Any:
        config = settings(
            tmp_path / f"store-{uuid(seed)}", head__kind="mlp", head__train__epochs=2, text__encoder="shallow"
        )
        return (
            FusionClassifier(config=config, seed=seed % 2)
            .fit(table[INPUTS], table["organ"])
            .predict_proba(table[INPUTS])
        )

    plain = [fitted(seed) for seed in (0, 1)]
    stop, drawn = Event(), []

    def bystander() -> None:
        while not stop.is_set():
            with Draws("a bystander"):
                drawn.append(float(torch.rand(1)))
            time.sleep(0.001)

    with untouched(), ThreadPoolExecutor(3) as pool:
        watching = pool.submit(bystander)
        together = list(pool.map(fitted, (2, 3)))
        stop.set()
        watching.result()
    for one, other in zip(plain, together, strict=True):
        assert np.array_equal(one, other)
    assert not np.array_equal(*plain)
    assert len(set(drawn)) == 1


def uuid(number: int) -> str:
    """Return a word that no other call returns."""
    return f"{number}-{time.monotonic_ns()}"


def test_draws_go_on_where_they_stopped() -> None:
    def numbers() -> list[float]:
        return [float(torch.rand(1)), float(np.random.rand()), random.random()]

    with Draws(1, "word"):
        whole = numbers() + numbers()
    stream = Draws(1, "word")
    with untouched():
        with stream:
            first = numbers()
        with Draws(2), Draws(3):
            numbers()
        with stream:
            assert first + numbers() == whole
    with Draws(2, "word"):
        assert numbers() != whole[:3]
    with pytest.raises(KeyError), untouched(), Draws(1):
        numbers()
        raise KeyError


def test_dropout_and_layers_are_those_of_the_seed() -> None:
    torch.manual_seed(7)
    before = nn.functional.dropout(torch.ones(64), 0.5), nn.Linear(3, 3).weight
    with Draws(7):
        after = nn.functional.dropout(torch.ones(64), 0.5), nn.Linear(3, 3).weight
    assert all(map(torch.equal, before, after))


def in_turn(first: Callable[[], Any], second: Callable[[], Any]) -> None:
    """Enter two contexts in two threads and leave them in the order of entering."""
    steps = Barrier(2, timeout=20)

    def one() -> None:
        with first():
            steps.wait()
            steps.wait()
        steps.wait()

    def other() -> None:
        steps.wait()
        with second():
            steps.wait()
            steps.wait()

    threads = [Thread(target=one), Thread(target=other)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_filters_are_put_back_whoever_leaves_last() -> None:
    before = list(warnings.filters)
    in_turn(lambda: without_warnings(UserWarning), lambda: without_warnings(DeprecationWarning))
    assert list(warnings.filters) == before
    with without_warnings(UserWarning), without_warnings(DeprecationWarning):
        warnings.warn("unseen", UserWarning, stacklevel=1)
        warnings.warn("unseen", DeprecationWarning, stacklevel=1)
    with pytest.warns(UserWarning, match="seen"):
        warnings.warn("seen", UserWarning, stacklevel=1)


def test_a_change_is_made_once_and_taken_back_once() -> None:
    done: list[str] = []

    @contextmanager
    def change() -> Iterator[int]:
        done.append("made")
        yield 5
        done.append("taken back")

    shared = Shared(change)
    in_turn(lambda: shared, lambda: shared)
    assert done == ["made", "taken back"]
    with shared as one, shared as other:
        assert one == other == 5
    assert done == ["made", "taken back"] * 2
    Shared.everyone.remove(shared)


def test_threads_are_put_back_whoever_leaves_last() -> None:
    @contextmanager
    def alone() -> Iterator[None]:
        with threads_restored():
            torch.set_num_threads(1)
            cv2.setNumThreads(1)
            yield

    with untouched():
        in_turn(alone, alone)
        with alone(), alone():
            pass
        with alone():
            with alone():
                pass
            assert torch.get_num_threads() == 1


@pytest.mark.parametrize(("count", "expected"), [(1, 1), (64, 2)])
def test_a_model_takes_no_more_threads_than_the_process_has(
    count: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("fusetune.runtime.cores", lambda: 2)
    with threads_restored():
        torch.set_num_threads(count)
        with find_runtime(fusetune.Config(device="cpu")).applied():
            assert torch.get_num_threads() == expected
        assert torch.get_num_threads() == count


FORKED = """
import multiprocessing, os, sys, threading, fusetune
folder, table = sys.argv[1:]
model = fusetune.load(folder)
told = model.predict_proba(table)
class Busy(threading.Thread):  # another thread is in the middle of it when the process is forked
    def run(self):
        while not stop.is_set():
            model.predict(table)
stop = threading.Event(); busy = Busy(); busy.start()
def work(place):
    assert (model.predict_proba(table) == told).all().all()
    model.explain(table, 'case-001'); model.evaluate(table); fusetune.load(folder).predict(table)
    return place
with multiprocessing.get_context('fork').Pool(2) as pool:
    print(pool.map_async(work, range(4)).get(100))
stop.set(); busy.join()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
def test_a_model_that_was_loaded_before_a_fork_works_in_the_child(table: pd.DataFrame, tmp_path: Path) -> None:
    config = settings(tmp_path / "store", train__epochs=0, evaluate__baselines=False)
    fusetune.fit(table, "organ", config=config, row_id="case_id", out=tmp_path / "run", quiet=True)
    table.to_csv(tmp_path / "table.csv", index=False)
    # Without OMP_NUM_THREADS, which would hide it: threads that do not survive the fork are waited for.
    around = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    told = subprocess.run(
        [sys.executable, "-c", FORKED, str(tmp_path / "run"), str(tmp_path / "table.csv")],
        env=around, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert told.stdout.strip() == "[0, 1, 2, 3]", told.stderr
