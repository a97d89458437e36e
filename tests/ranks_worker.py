"""What one process, or each of several, does in the tests of ranks: small trainings whose numbers are compared.

As a program it is one rank; it is told its place by the environment, as a launcher tells it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from strategies_context import fresh_context
from tiny import tiny_table
from torch import Tensor, nn

from fusetune.context import Context
from fusetune.encoders import Encoder
from fusetune.process import Draws
from fusetune.ranks import Ranks, find_place, met
from fusetune.runtime import start_runtime
from fusetune.strategies import STRATEGIES
from fusetune.strategies.unimodal import fine_tune

Numbers = dict[str, list[float]]


class Normed(nn.Module):
    """A vector encoder with batch norm."""

    dim = 6

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 6))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.layers(inputs)  # type: ignore[no-any-return]

    def fresh(self) -> list[nn.Parameter]:
        return []

    def blocks(self) -> list[list[nn.Parameter]]:
        return [list(self.parameters())]

    def describe(self) -> dict[str, Any]:
        return {"kind": "normed"}


def prepared(folder: Path, ranks: Ranks, inputs: Sequence[str], **more: Any) -> Context:
    """Return a run in float64 whose training is divided among ranks."""
    frame = tiny_table(folder / "data")
    frame["scan"] = [str(folder / "data" / file) for file in frame["scan"]]
    frame.loc[frame.index % 5 == 0, "note"] = None  # so that losses of one modality alone have other rows
    ctx = fresh_context(folder, frame, list(inputs), precision="64", **more)
    ctx.runtime = ctx.store.runtime = start_runtime(ctx.config, ranks)
    ctx.folder = None
    return ctx


def numbers_of(ctx: Context) -> Numbers:
    """Return losses and metrics of all epochs that were trained."""
    return {
        stage: [
            number
            for record in history.records
            for number in (record.train_loss, record.valid_nll, record.valid_accuracy)
        ]
        for stage, history in ctx.histories.items()
    }


def alone(folder: Path, ranks: Ranks) -> Numbers:
    """Stage U: a text with dropout, a vector with MixUp and two views, one with batch norm."""
    ctx = prepared(folder, ranks, ["note", "genes"], vector__encoder="mlp", image__train__epochs=2)
    fine_tune(ctx, "note", stage="dropout")
    settings = ctx.settings("genes")
    mixed = settings.model_copy(update={"repeats": 2, "mix": settings.mix.model_copy(update={"kind": "mixup"})})
    fine_tune(ctx, "genes", stage="mixed", settings=mixed)
    with Draws(0):
        ctx.pristine["genes"] = Normed()  # type: ignore[assignment]
    network = fine_tune(ctx, "genes", stage="normed")
    found = numbers_of(ctx)
    norm = network.encoders[0].layers[1]  # type: ignore[union-attr, index]
    return found | {"statistics": [*norm.running_mean.tolist(), *norm.running_var.tolist()]}  # type: ignore[union-attr, operator, list-item]


def together(folder: Path, ranks: Ranks, names: Sequence[str]) -> Numbers:
    """Joint training by some strategies."""
    ctx = prepared(folder, ranks, ["note", "genes", "age"], vector__encoder="mlp")
    found: Numbers = {}
    for name in names:
        ctx.histories.clear()
        strategy = STRATEGIES[name]
        strategy.fit(ctx, strategy.Settings(**({"epochs": 2} if "epochs" in strategy.Settings.model_fields else {})))
        found |= {f"{name}: {stage}": numbers for stage, numbers in numbers_of(ctx).items()}
    return found


def main(folder: Path, *names: str) -> None:
    torch.set_num_threads(1)
    with met(find_place()) as ranks:
        rank = ranks.rank
        found = alone(folder / f"rank {rank}", ranks)
        for name in names:
            try:
                found |= together(folder / f"rank {rank} {name}", ranks, [name])
            except Exception as e:
                found |= {name: [repr(e)]}
    (folder / f"{rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
