"""Which rows do what: who trains encoders, who trains the head, and on whom choices are made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fusetune.config import HeadConfig
from fusetune.data.split import Rows, deal
from fusetune.features.store import Array
from fusetune.strategies.context import Context
from fusetune.strategies.fit import fit_head, with_augmented
from fusetune.strategies.heads import HeadData, HeadFit
from fusetune.strategies.solve import fit_crossed
from fusetune.strategies.unimodal import has_training

_CHOICE_FOLDS = 5


@dataclass(frozen=True)
class Plan:
    """Which rows do what.

    Attributes:
        rows: Rows that the head learns from.
        encoder_rows: Rows that encoders learn from, where a modality has one network.
        choice_rows: Rows that choices are made on: the validation rows or, where these are pooled with the training
            rows, all of them, each judged by what did not learn from it.
        folds: Fold of each of `rows` for the encoders, int64; empty where nothing is pooled.
        choice_folds: The same for the head.
        valid_places: Where the validation rows stand among `choice_rows`.
    """

    rows: Rows
    encoder_rows: Rows
    choice_rows: Rows
    folds: Rows
    choice_folds: Rows
    valid_places: Rows

    @property
    def pooled(self) -> bool:
        """Are the validation rows among the rows that are learnt from?"""
        return len(self.folds) > 0


def make_plan(ctx: Context) -> Plan:
    """Say which rows do what, as `crossfit.how` asks.

    - k: validation rows join the training rows; encoders and head are cross-fitted.
    - holdout: a part of the training rows is kept for the head.
    - off: all training rows serve both stages.

    Where a class has too few groups or rows to be on both sides of a fold, this is not possible: then it is off, and a
    warning says so.
    """
    settings, train, valid = ctx.config.crossfit, ctx.split.rows("train"), ctx.split.rows("valid")
    nothing, everything = np.zeros(0, dtype=np.int64), np.arange(len(valid))
    trained = any(has_training(ctx.settings(name), ctx.pristine[name]) for name in ctx.modalities)
    if settings.how == "k":
        rows = np.sort(np.concatenate([train, valid]))
        folds = _deal(ctx, rows, (1 / settings.folds,) * settings.folds, 1)
        choices = _deal(ctx, rows, (1 / _CHOICE_FOLDS,) * _CHOICE_FOLDS, 2)
        if all(_covers(ctx, rows, dealt != fold) for dealt in (folds, choices) for fold in range(int(dealt.max()) + 1)):
            return Plan(rows, rows, rows, folds, choices, np.flatnonzero(np.isin(rows, valid)))
    if settings.how == "holdout" and (trained or ctx.config.head.inputs == "logits"):
        kept = _deal(ctx, train, (1 - settings.share, settings.share), 1) == 1
        if _covers(ctx, train, kept) and _covers(ctx, train, ~kept):
            return Plan(train[kept], train[~kept], valid, nothing, nothing, everything)
    return Plan(train, train, valid, nothing, nothing, everything)


def fit_on(
    ctx: Context, plan: Plan, drawn: Mapping[str, Array], plain: Mapping[str, Array], config: HeadConfig
) -> tuple[HeadFit, Tensor]:
    """Fit a head as a plan says.

    Args:
        ctx: The run.
        plan: Which rows do what.
        drawn: Augmented views of `plan.rows` by block, [views, rows, dim].
        plain: `plan.choice_rows` without augmentation by block, [1, rows, dim].
        config: The head's settings.

    Returns:
        The head, and the logits of the validation rows from a head that did not learn from them, [rows, classes].
    """
    data, judged = ctx.with_labels(drawn, plan.rows), ctx.with_labels(plain, plan.choice_rows)
    shown = judged.some(plan.valid_places)
    if plan.pooled and config.kind == "logistic":
        data = with_augmented(data, config, len(ctx.classes), ctx.config.seed)
        fit = fit_crossed(data, judged, plan.choice_folds, config, len(ctx.classes), ctx.config.seed)
        assert fit.said is not None
        return fit, torch.from_numpy(fit.said[plan.valid_places]).float()
    if plan.pooled:  # other heads need rows to stop by
        data = data.some(np.setdiff1d(np.arange(len(plan.rows)), plan.valid_places))
    fit = fit_head(
        data, shown, config,
        classes=len(ctx.classes), runtime=ctx.runtime, seed=ctx.config.seed, log=ctx.log,
    )  # fmt: skip
    return fit, logits_of(fit, shown)


def logits_of(fit: HeadFit, data: HeadData) -> Tensor:
    """Return a head's logits for rows without augmentation, [rows, classes]."""
    z = {name: torch.from_numpy(np.array(block[0])) for name, block in data.z.items()}
    with torch.inference_mode():
        logits: Tensor = fit.head.eval()(z, {name: torch.from_numpy(bits) for name, bits in data.present.items()})
    return logits.float()


def _deal(ctx: Context, rows: Rows, shares: Sequence[float], salt: int) -> Rows:
    units = ctx.ids if ctx.groups is None else ctx.groups
    # Another seed than the split's own, or the folds would repeat its order.
    return deal(ctx.ids.iloc[rows], ctx.labels[rows], units.iloc[rows], tuple(shares), ctx.config.seed + salt)


def _covers(ctx: Context, rows: Rows, side: npt.NDArray[np.bool_]) -> bool:
    """Return whether one side of a division has every class, and warn if not."""
    lost = sorted(set(ctx.labels[rows]) - set(ctx.labels[rows][side]))
    if lost:
        ctx.log.warn(
            f"class '{ctx.classes[lost[0]]}' has too few groups or rows outside the test part for cross-fitting "
            f"(crossfit.how={ctx.config.crossfit.how}); the head learns from what networks say about their own "
            "training rows"
        )
    return not lost
