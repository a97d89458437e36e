"""What a factor on a modality's gradient does, and what it does not do under optimisers that divide by its size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from strategies_context import make_context
from tiny import tiny_table
from torch import Tensor

from fusetune.context import Context
from fusetune.strategies.modulated import Modulated
from fusetune.strategies.trainer import run_training


class Tenth(Modulated):
    """The first modality is slowed down by a constant."""

    name, title, paper = "tenth", "tenth", "none"
    k = 0.1

    def factors(self, scores: Tensor) -> Tensor:
        return torch.tensor([self.k, *[1.0] * (len(scores) - 1)])


class Whole(Tenth):
    """Nothing is slowed down."""

    k = 1.0


@pytest.fixture
def ctx(tmp_path: Path) -> Context:
    more: dict[str, Any] = {"vector__encoder": "mlp", "head__penalties": [10.0], "train__weight_decay": 0.0}
    return make_context(tmp_path, tiny_table(tmp_path / "data"), ["genes", "age"], **more)


def moved(ctx: Context, method: type[Modulated], **more: Any) -> dict[str, Tensor]:
    """Return by how much one optimiser step moved every weight of the network."""
    train, valid = ctx.split.rows("train"), ctx.split.rows("valid")
    loop: dict[str, Any] = {"epochs": 1, "batch_size": len(train), "patience": 0, "warmup": 0, "schedule": "constant"}
    ctx.folder = None
    one = method(ctx, method.Settings(**{**loop, "clip": 0.0, "head_decay": 0.0, **more}))
    before = {name: p.detach().clone() for name, p in one.network.named_parameters()}
    ctx.histories.clear()
    run_training(ctx, one.training_on(train, valid))
    assert ctx.histories[one.stage].best_epoch == 0
    return {name: p.detach() - before[name] for name, p in one.network.named_parameters()}


@pytest.mark.parametrize(
    ("optimiser", "scale", "factor"),
    [
        ("adamw", "gradient", 1.0),
        ("adamw", "update", 0.1),
        ("adamw", "auto", 0.1),
        ("sgd", "gradient", 0.1),
        ("sgd", "auto", 0.1),
    ],
)
def test_a_constant_factor_changes_nothing_under_adam_unless_it_scales_the_step(
    ctx: Context, optimiser: str, scale: str, factor: float
) -> None:
    whole, tenth = (moved(ctx, method, optimiser=optimiser, scale=scale) for method in (Whole, Tenth))
    for name, step in whole.items():
        here = factor if name.startswith("encoders.0") else 1.0
        # Adam's epsilon beside tiny gradients is all that a factor on them changes.
        big = step.abs() > 0.5 * step.abs().max()
        torch.testing.assert_close(tenth[name][big], here * step[big], rtol=0.05, atol=1e-7)
    assert any(float(step.abs().max()) > 0 for name, step in whole.items() if name.startswith("encoders.0"))
