"""What one process, or each of several, does in the tests of ranks: small trainings whose numbers are compared.

As a program it is one rank, which is told its place by the environment, as launchers do.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from strategies_context import fresh_context
from tiny import tiny_table
from torch import Tensor, nn

from fusetune.context import Context
from fusetune.errors import ConfigError
from fusetune.process import Draws
from fusetune.ranks import Ranks, find_place, met
from fusetune.runtime import start_runtime
from fusetune.strategies import STRATEGIES
from fusetune.strategies.unimodal import fine_tune

Numbers = dict[str, list[float]]
STRATEGIES_TRAINED = ("joint", "mmpareto", "ogm-ge", "m3col")


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
    """Return a run in float64 whose training is divided among ranks; a fifth of its texts is absent."""
    frame = tiny_table(folder / "data")
    # Losses of one modality alone have other rows than the batch.
    frame.loc[frame.index % 5 == 0, "note"] = None
    ctx = fresh_context(folder, frame, list(inputs), precision="64", vector__encoder="mlp", **more)
    ctx.runtime = ctx.store.runtime = start_runtime(ctx.config, ranks)
    ctx.folder = None
    return ctx


def numbers_of(ctx: Context) -> Numbers:
    """Return loss, NLL and accuracy of every epoch that was trained."""
    return {
        stage: [
            number
            for record in history.records
            for number in (record.train_loss, record.valid_nll, record.valid_accuracy)
        ]
        for stage, history in ctx.histories.items()
    }


def alone(folder: Path, ranks: Ranks) -> Numbers:
    """Stage U: a text with dropout and attention, a vector with MixUp and two views, one with batch norm."""
    ctx = prepared(folder, ranks, ["note", "genes"])
    fine_tune(ctx, "note", stage="dropout")
    settings = ctx.settings("genes")
    mixed = settings.model_copy(update={"repeats": 2, "mix": settings.mix.model_copy(update={"kind": "mixup"})})
    fine_tune(ctx, "genes", stage="mixed", settings=mixed)
    with Draws(0):
        ctx.pristine["genes"] = Normed()  # type: ignore[assignment]
    fine_tune(ctx, "genes", stage="normed")
    return numbers_of(ctx)


def together(folder: Path, ranks: Ranks, name: str) -> Numbers:
    """Training of all encoders by a strategy."""
    ctx = prepared(folder, ranks, ["note", "genes", "age"])
    strategy = STRATEGIES[name]
    more = {"epochs": 2} if "epochs" in strategy.Settings.model_fields else {}
    strategy.fit(ctx, strategy.Settings(**more))
    return {f"{name}: {stage}": numbers for stage, numbers in numbers_of(ctx).items()}


def interrupted(folder: Path, ranks: Ranks, stages: Path) -> None:
    """Train an encoder for one epoch of three, and leave the checkpoint."""
    ctx = _resumable(folder, ranks, stages)
    asked = iter((False, True, True))
    ctx.over = lambda: next(asked)
    fine_tune(ctx, "note", stage="resumed")


def resumed(folder: Path, ranks: Ranks, stages: Path) -> Numbers:
    """Go on with what `interrupted` left; with nothing left, train from the start."""
    ctx = _resumable(folder, ranks, stages)
    ctx.resume = True
    fine_tune(ctx, "note", stage="resumed")
    return numbers_of(ctx)


def _resumable(folder: Path, ranks: Ranks, stages: Path) -> Context:
    ctx = prepared(folder, ranks, ["note", "genes"], text__train__epochs=3)
    ctx.folder, ctx.key = stages, "the same run"
    return ctx


def sharded(folder: Path, ranks: Ranks) -> Numbers:
    """Stage U and joint training with divided weights; the refusal of a strategy that needs whole gradients."""
    ranks.sharded = True
    ctx = prepared(folder, ranks, ["note", "genes"])
    network = fine_tune(ctx, "note", stage="dropout")
    found = {f"sharded {stage}": numbers for stage, numbers in numbers_of(ctx).items()}
    assert all(type(p.data) is Tensor for p in network.parameters())
    found |= {f"sharded {name}": own for name, own in together(folder / "joint", ranks, "joint").items()}
    try:
        together(folder / "refused", ranks, "mmpareto")
    except ConfigError as error:
        found["refused"] = [float("--sharded" in str(error))]
    ranks.sharded = False
    return found


def measured(folder: Path, ranks: Ranks, names: Sequence[str] = STRATEGIES_TRAINED) -> Numbers:
    """Return the numbers of stage U and of some strategies."""
    found = alone(folder / "alone", ranks)
    for name in names:
        found |= together(folder / name, ranks, name)
    return found


def main(folder: Path, from_one: Path) -> None:
    """Do everything as one of several ranks, and write down what this one saw."""
    torch.set_num_threads(1)
    with met(find_place()) as ranks:
        own = folder / f"rank {ranks.rank}"
        found = measured(own, ranks)
        found |= sharded(own / "sharded", ranks)
        interrupted(own / "interrupted", ranks, folder / "from two")
        found |= resumed(own / "resumed", ranks, from_one)
        # One writes: the other has made no folder for checkpoints of its own.
        rank = ranks.rank
    (folder / f"{rank}.json").write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
