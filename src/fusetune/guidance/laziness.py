"""Whether joint training leaves a modality behind: a linear probe of its encoder (modality laziness, arXiv 2305.01233).

    laziness_m = score(network trained on modality m alone) - score(linear probe of the jointly trained phi_m)

The score is that of the target: accuracy, or its like. Both are small networks on stored features (`strategies.level`),
trained on the training rows and judged on validation rows, which choose epochs and penalties of both; the test part
stays shut.
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
    """Return the score that joint training costs each modality's encoder, with intervals by groups.

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
    """Return how right each row is: of classes 1 or 0."""
    z = torch.from_numpy(np.array(level.encode(name, encoder, rows)[0]))
    with torch.inference_mode():
        right = level.target.scores(classifier.cpu()(z), level.target.tensor(level.labels[rows]))
    return np.asarray(right.numpy(), dtype=np.float64)
