"""Whether joint training leaves a modality behind: a linear probe of its encoder (modality laziness, arXiv 2305.01233).

    laziness_m = accuracy(network trained on modality m alone) - accuracy(linear probe of the jointly trained phi_m)

Both are small networks on stored features (`strategies.level`), trained on the training rows and judged on validation
rows, which choose epochs and penalties of both; the test part stays shut.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from fusetune.config import StrategyConfig
from fusetune.context import Context
from fusetune.data.split import Rows
from fusetune.encoders import Encoder
from fusetune.errors import TableError
from fusetune.evaluate.intervals import Interval, means
from fusetune.progress import Log
from fusetune.strategies import strategy_of
from fusetune.strategies.level import on_features
from fusetune.strategies.unimodal import fine_tune, probe


def laziness(ctx: Context) -> dict[str, Interval]:
    """Return the accuracy that joint training costs each modality's encoder, with intervals by groups.

    Empty where nothing is trained (`vector.train.epochs`), or where a modality has too few rows to be trained alone.
    """
    config = ctx.config.model_copy(update={"strategy": StrategyConfig(name="joint", level="features")})
    strategy, settings = strategy_of(config)
    if not settings.epochs:
        return {}
    # Its stages, warnings and costs are not those of the run that asks.
    level = on_features(replace(ctx, config=config, folder=None, log=Log(None, quiet=True), seconds={}))
    try:
        joint = strategy.fit(level, settings).network
        return {name: _lost(level, name, encoder) for name, encoder in joint.members}
    except TableError:
        return {}


def _lost(level: Context, name: str, encoder: Encoder) -> Interval:
    train, valid = level.split.rows("train"), level.split.rows("valid")
    rows = valid[level.sources[name].present[valid]]
    alone = _hits(level, name, *fine_tune(level, name).only, rows)
    left = _hits(level, name, encoder, probe(level, name, encoder, train, valid, name), rows)
    how = {"resamples": level.config.evaluate.resamples, "seed": level.config.seed}
    return means((alone - left)[:, None], level.units.iloc[rows].to_numpy(), **how)[0]


def _hits(level: Context, name: str, encoder: Encoder, classifier: nn.Module, rows: Rows) -> npt.NDArray[np.float64]:
    """Return 1 for each row that is decided rightly, else 0."""
    z = torch.from_numpy(np.array(level.encode(name, encoder, rows)[0]))
    with torch.inference_mode():
        decided = classifier.cpu()(z).argmax(1).numpy()
    return np.asarray(decided == level.labels[rows], dtype=np.float64)
