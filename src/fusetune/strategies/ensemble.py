"""Modalities that are trained alone, gathered in one network, each with a temperature from held-out rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from fusetune.context import Context
from fusetune.data.split import Rows
from fusetune.evaluate.measures import measure_of
from fusetune.heads.folds import make_folds, row_folds
from fusetune.networks import EnsembleNetwork, Outputs
from fusetune.networks.ensemble import mean_logits
from fusetune.networks.run import present_bits
from fusetune.strategies.base import WHOLE, Fitted
from fusetune.strategies.crossfit import Tuned, tuned
from fusetune.strategies.majority import prior_of
from fusetune.strategies.trainer import freeze


def fit_ensemble(ctx: Context, names: Sequence[str], note: str | None = None) -> Fitted:
    """Run stage U for some modalities and gather them; of a single one, nothing is calibrated.

    Args:
        ctx: The run.
        names: The modalities.
        note: What the whole is, in a few words; default: what was done to the first.
    """
    before, folds = ctx.cost(), make_folds(ctx)
    parts, rows, prior = {name: tuned(ctx, name) for name in names}, folds.choice_rows, prior_of(ctx)
    present, several = present_bits(ctx.sources, rows, torch.device("cpu")), len(names) > 1
    f_m = {name: torch.from_numpy(np.array(part.held)) for name, part in parts.items()}
    temperatures = dict.fromkeys(names, 1.0)
    heats: dict[str, float | Tensor] = dict(temperatures)
    if several:
        dealt = row_folds(ctx, rows)
        temperatures = {name: _temperature(ctx, f_m[name], present[name], rows) for name in names}
        heats = {name: _crossed(ctx, f_m[name], present[name], rows, dealt) for name in names}
    network = gathered(parts, prior, temperatures).to(ctx.runtime.device)
    freeze(network)
    z = {name: torch.from_numpy(np.array(part.block.z)) for name, part in parts.items()}
    held = Outputs(z, f_m, mean_logits(f_m, present, heats, prior, len(rows)), present)
    notes = {name: part.note for name, part in parts.items()} | {WHOLE: note or parts[names[0]].note}
    return Fitted(network, rows, held, notes, ctx.cost() - before)


def gathered(parts: Mapping[str, Tuned], prior: Tensor, temperatures: Mapping[str, float]) -> EnsembleNetwork:
    """Return all networks of all modalities as one."""
    pairs = [(name, network) for name, part in parts.items() for network in part.networks]
    encoders, classifiers = zip(*(network.only for _, network in pairs), strict=True)
    return EnsembleNetwork(encoders, [name for name, _ in pairs], classifiers, prior, temperatures)


def _temperature(ctx: Context, logits: Tensor, has: Tensor, rows: Rows) -> float:
    """Return T of one modality from the rows that have it; 1 where none does."""
    if not bool(has.any()):
        return 1.0
    own = rows[has.numpy()]
    return measure_of(ctx.target).temperature(logits.double().numpy()[has], ctx.labels[own], ctx.counted(own))


def _crossed(ctx: Context, logits: Tensor, has: Tensor, rows: Rows, folds: Rows) -> Tensor:
    """Return for each row the T that the other folds give, [rows, 1]."""
    heats = torch.ones(len(rows), 1)
    for fold in np.unique(folds):
        here = torch.from_numpy(folds == fold)
        if bool((~here).any()):
            heats[here] = _temperature(ctx, logits, has & ~here, rows)
    return heats
