"""Tests of the examples: a strategy in a file of one's own has the paper's numbers, and acts on training."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

import fusetune
from tests.tiny import settings, tiny_table

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def mlb(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("mlb", EXAMPLES / "mlb.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "mlb", module)
    spec.loader.exec_module(module)
    return module


def naive(s: list[float], alpha: float = 1.5, beta_max: float = 20.0) -> list[float]:
    found = []
    for m, mine in enumerate(s):
        r = np.mean([other / mine for n, other in enumerate(s) if n != m])
        found.append(1 + ((beta_max if r > 1 else 2) - 1) * np.tanh(alpha * (r - 1)))
    return found


def test_coefficients_have_the_papers_numbers(mlb: ModuleType) -> None:
    s = torch.tensor([2.7119890448920985, 1.262506108684237], dtype=torch.float64)
    expected = [0.33500922177684656, 18.8243056785088]
    assert mlb.coefficients(s, 1.5, 20.0).tolist() == pytest.approx(expected, abs=1e-8)
    assert mlb.coefficients(5 * s, 1.5, 20.0).tolist() == pytest.approx(expected, abs=1e-8)  # mean or sum: the same


def test_coefficients_of_three_of_equals_and_of_one(mlb: ModuleType) -> None:
    s = [0.2, 0.5, 0.9]
    found = mlb.coefficients(torch.tensor(s, dtype=torch.float64), 1.5, 7.3)
    assert found.tolist() == pytest.approx(naive(s, beta_max=7.3), abs=1e-12)
    assert mlb.coefficients(torch.full((3,), 0.25), 1.5, 20.0).tolist() == [1, 1, 1]
    assert mlb.coefficients(torch.tensor([0.3]), 1.5, 20.0).tolist() == [1]


def test_a_run_multiplies_the_gradients_of_each_encoder(
    mlb: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    table = tiny_table(tmp_path / "images")
    table.loc[table.index % 5 == 0, "note"] = None
    before_step, loss = mlb.MLB.before_step, mlb.MLB.loss
    said: list[list[float]] = []
    steps = []

    def watched_loss(self: Any, batch: Any, outputs: Any) -> torch.Tensor:
        said.append([])
        for m, f_m in outputs.f_m.items():
            rows = batch.present[m].nonzero().flatten().tolist()
            said[-1].append(float(np.mean([f_m[i].softmax(-1)[batch.target[i]].item() for i in rows])))
        return loss(self, batch, outputs)

    def watched_step(self: Any) -> None:
        def gradients() -> list[torch.Tensor]:
            return [
                torch.cat([w.grad.flatten() for w in encoder.parameters() if w.grad is not None])
                for _, encoder in self.network.members
            ]

        raw = gradients()
        others = {n: w.grad.clone() for n, w in self.network.head.named_parameters() if w.grad is not None}
        before_step(self)
        steps.append((raw, gradients()))
        assert all(torch.equal(others[n], w.grad) for n, w in self.network.head.named_parameters())

    monkeypatch.setattr(mlb.MLB, "loss", watched_loss)
    monkeypatch.setattr(mlb.MLB, "before_step", watched_step)
    run = fusetune.fit(
        table,
        label="organ",
        inputs=["note", "age", "site"],
        group="patient",
        split="part",
        row_id="case_id",
        config=settings(
            tmp_path / "store", train__epochs=0, views=1, evaluate__baselines=False, head__penalties=[0.01]
        ),
        strategy={"name": "import:mlb:MLB", "epochs": 2},
        out=tmp_path / "run",
        quiet=True,
    )
    assert (run.folder / "report.html").is_file() and 0 <= run.metrics["test"]["accuracy"]["value"] <= 1
    assert len(steps) == len(said) >= 2
    for s, (raw, done) in zip(said, steps, strict=True):
        factors = naive(s)
        assert max(abs(k - 1) for k in factors) > 0.01
        for k, before, after in zip(factors, raw, done, strict=True):
            torch.testing.assert_close(after, before * k, rtol=1e-3, atol=1e-6)
