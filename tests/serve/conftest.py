"""A small model, made once, another one, and an application that serves the first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from serving import Made, fitted, with_more
from starlette.testclient import TestClient
from tiny import tiny_table

import fusetune
from fusetune.bundle import save_bundle
from fusetune.serve.app import create
from fusetune.serve.options import Options


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("served")
    fitted(folder)
    rows = with_more(tiny_table(folder / "fresh", rows=48, seed=7))
    return Made(folder / "run", rows, folder / "fresh", fusetune.load(folder / "run"))


@pytest.fixture(scope="session")
def other(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of another model: the same, less sure of itself."""
    folder = tmp_path_factory.mktemp("other") / "model"
    softer = replace(made.model.calibration, temperature=made.model.calibration.temperature * 3)
    save_bundle(replace(made.model, calibration=softer), folder)
    return folder


@pytest.fixture(scope="module")
def client(made: Made) -> Iterator[TestClient]:
    """An application without a key or allowed hosts."""
    with TestClient(create(Options(folder=str(made.folder), body=2**21, rows=64, pixels=1_000_000))) as found:
        yield found
