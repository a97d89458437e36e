"""Which rows do what: who trains encoders, who trains the head, and on whom choices are made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fusetune.config import HeadConfig, TrainConfig
from fusetune.context import Context
from fusetune.data.split import Rows, deal
from fusetune.encoders import Encoder
from fusetune.errors import TableError
from fusetune.features.store import Array
from fusetune.heads.base import HeadData, HeadFit, logits_of
from fusetune.heads.solver import fit_crossed
from fusetune.heads.trained import fit_head, with_augmented

_HEAD_FOLDS = 5


@dataclass(frozen=True)
class Folds:
    """Which rows do what.

    Attributes:
        rows: Rows that the head learns from.
        encoder_rows: Rows that encoders learn from, where a modality has one network.
        choice_rows: Rows that choices are made on: the validation rows or, where these are pooled with the training
            rows, all of them, each judged by what did not learn from it.
        encoder: Fold of each of `rows` for the encoders, int64; empty where nothing is pooled.
        head: The same for the head.
        valid_places: Where the validation rows stand among `choice_rows`.
    """

    rows: Rows
    encoder_rows: Rows
    choice_rows: Rows
    encoder: Rows
    head: Rows
    valid_places: Rows

    @property
    def pooled(self) -> bool:
        """Are the validation rows among the rows that are learnt from?"""
        return len(self.encoder) > 0


def has_training(settings: TrainConfig, encoder: Encoder) -> bool:
    """Return whether fine-tuning would change anything."""
    moves = (settings.freeze < 1 and any(True for _ in encoder.parameters())) or bool(encoder.fresh())
    return settings.epochs > 0 and moves


def make_folds(ctx: Context) -> Folds:
    """Say which rows do what, as `crossfit.how` asks; the same answer for every strategy of a run.

    - k: validation rows join the training rows; encoders and head are cross-fitted.
    - holdout: a part of the training rows is kept for the head.
    - off: all training rows serve both stages.

    Where a class has too few groups or rows to be on both sides of a fold, this is not possible: then it is off, and a
    warning says so.
    """
    return ctx.remember(("folds",), lambda: _make_folds(ctx))


def _make_folds(ctx: Context) -> Folds:
    settings, train, valid = ctx.config.crossfit, ctx.split.rows("train"), ctx.split.rows("valid")
    nothing, everything = np.zeros(0, dtype=np.int64), np.arange(len(valid))
    trained = any(has_training(ctx.settings(name), ctx.pristine[name]) for name in ctx.modalities)
    if settings.how == "k":
        rows = np.sort(np.concatenate([train, valid]))
        encoder = _deal(ctx, rows, (1 / settings.folds,) * settings.folds, 1)
        head = _deal(ctx, rows, (1 / _HEAD_FOLDS,) * _HEAD_FOLDS, 2)
        if all(_covers(ctx, rows, folds != fold) for folds in (encoder, head) for fold in range(int(folds.max()) + 1)):
            return Folds(rows, rows, rows, encoder, head, np.flatnonzero(np.isin(rows, valid)))
    if settings.how == "holdout" and (trained or ctx.config.head.inputs == "logits"):
        kept = _deal(ctx, train, (1 - settings.share, settings.share), 1) == 1
        if _covers(ctx, train, kept) and _covers(ctx, train, ~kept):
            return Folds(train[kept], train[~kept], valid, nothing, nothing, everything)
    return Folds(train, train, valid, nothing, nothing, everything)


def fit_on(
    ctx: Context,
    folds: Folds,
    views: Mapping[str, Array],
    plain: Mapping[str, Array],
    config: HeadConfig,
    owners: Mapping[str, str] | None = None,
) -> tuple[HeadFit, Tensor]:
    """Fit a head on the rows that the folds say.

    Args:
        ctx: The run.
        folds: Which rows do what.
        views: Augmented views of `folds.rows` by block, [views, rows, dim].
        plain: `folds.choice_rows` without augmentation by block, [1, rows, dim].
        config: The head's settings.
        owners: The modality of each block, as `HeadData` has it.

    Returns:
        The head, and logits of rows by heads that did not learn from them: of all `choice_rows` where the head is
        cross-fitted, else of the validation rows, [rows, classes].
    """
    data, choices = HeadData.of(ctx, views, folds.rows, owners), HeadData.of(ctx, plain, folds.choice_rows, owners)
    if folds.pooled and config.kind == "logistic":
        data = with_augmented(data, config, len(ctx.classes), ctx.config.seed)
        fit = fit_crossed(data, choices, folds.head, config, len(ctx.classes), ctx.config.seed)
        assert fit.held is not None
        return fit, torch.from_numpy(fit.held).float()
    if folds.pooled:  # other heads need rows to stop by
        data = data.some(np.setdiff1d(np.arange(len(folds.rows)), folds.valid_places))
    valid = choices.some(folds.valid_places)
    fit = fit_head(
        data, valid, config,
        classes=len(ctx.classes), runtime=ctx.runtime, seed=ctx.config.seed, log=ctx.log,
    )  # fmt: skip
    return fit, logits_of(fit.head, valid)


def row_folds(ctx: Context, rows: Rows, most: int = _HEAD_FOLDS) -> Rows:
    """Deal held-out rows, or whole groups of them, into up to five folds for what is learnt on them; all 0: too few."""
    count = min(most, int(ctx.units.iloc[rows].nunique()))
    if count < 2:
        return np.zeros(len(rows), dtype=np.int64)
    return _deal(ctx, rows, (1 / count,) * count, 3)


def inner_split(ctx: Context, rows: Rows, share: float) -> tuple[Rows, Rows]:
    """Divide training rows, or whole groups of them, into those that are learnt from and those that are only watched.

    Args:
        ctx: The run.
        rows: Rows of the training part.
        share: Of the rows that are watched; at least one of them is.

    Raises:
        TableError: If a class would have no row to learn from, or no row could be watched.
    """
    ctx.split.check(rows, "train")
    watched = _deal(ctx, rows, (1 - share, share), 4) == 1
    lost = ctx.target.lost(ctx.labels[rows], ~watched)
    if lost or not watched.any():
        what = f"class '{lost[0]}' has" if lost else "there are"
        raise TableError(
            f"{what} too few groups or rows in the training part to set some of them aside, as strategy "
            f"'{ctx.config.strategy.name}' must; take another strategy, or more rows"
        )
    return rows[~watched], rows[watched]


def _deal(ctx: Context, rows: Rows, shares: Sequence[float], salt: int) -> Rows:
    # Another seed than the split's own, or the folds would repeat its order.
    strata = ctx.target.strata(ctx.labels[rows])
    return deal(ctx.ids.iloc[rows], strata, ctx.units.iloc[rows], tuple(shares), ctx.config.seed + salt)


def _covers(ctx: Context, rows: Rows, side: npt.NDArray[np.bool_]) -> bool:
    """Return whether one side of a division has every class, and warn if not."""
    lost = ctx.target.lost(ctx.labels[rows], side)
    if lost:
        ctx.log.warn(
            f"class '{lost[0]}' has too few groups or rows outside the test part for cross-fitting "
            f"(crossfit.how={ctx.config.crossfit.how}); the head learns from what networks say about their own "
            "training rows"
        )
    return not lost
