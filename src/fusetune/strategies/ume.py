"""UME, the uni-modal ensemble (Du et al., ICML 2023, arXiv 2305.01233): modalities are trained and predict alone.

    phi_m, h_m = argmin CE(h_m(phi_m(x_m)), y);  f = (1/M) sum_m h_m(phi_m(x_m)) / T_m

The mean is over the modalities that a row has. The paper averages predictions; here it is logits, each divided by a
temperature fitted on held-out rows, so that one overconfident modality does not outvote the others. What is said of a
held-out row uses the temperatures of the other folds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from fusetune.context import Context
from fusetune.data.split import Rows
from fusetune.evaluate.temperature import fit_temperature
from fusetune.heads.folds import make_folds, row_folds
from fusetune.networks import EnsembleNetwork, Outputs
from fusetune.networks.ensemble import mean_logits
from fusetune.networks.run import present_bits
from fusetune.strategies.base import WHOLE, Fitted, NoSettings, Strategy
from fusetune.strategies.crossfit import Tuned, tuned
from fusetune.strategies.majority import prior_of
from fusetune.strategies.trainer import freeze


class UME(Strategy):
    """Each modality alone, then the mean of their calibrated logits."""

    name, title, paper = "ume", "ensemble (UME)", "Uni-modal ensemble, arXiv 2305.01233"

    @classmethod
    def fit(cls, ctx: Context, settings: NoSettings) -> Fitted:
        """Fine-tune every encoder alone and fit one temperature per modality."""
        return fit_ensemble(ctx, list(ctx.modalities), "mean of the modalities' calibrated logits (UME)")


def fit_ensemble(ctx: Context, names: Sequence[str], note: str) -> Fitted:
    """Return the ensemble of some modalities; of a single one, nothing is calibrated."""
    before, folds = ctx.cost(), make_folds(ctx)
    parts, rows, prior = {name: tuned(ctx, name) for name in names}, folds.choice_rows, prior_of(ctx)
    present, several = present_bits(ctx.sources, rows, torch.device("cpu")), len(names) > 1
    f_m = {name: torch.from_numpy(np.array(part.held)) for name, part in parts.items()}
    temperatures = dict.fromkeys(names, 1.0)
    heats: dict[str, float | Tensor] = dict(temperatures)
    if several:
        dealt = row_folds(ctx, rows)
        temperatures = {name: _temperature(f_m[name], present[name], ctx.labels[rows]) for name in names}
        heats = {name: _crossed(f_m[name], present[name], ctx.labels[rows], dealt) for name in names}
    network = gathered(parts, prior, temperatures).to(ctx.runtime.device)
    freeze(network)
    z = {name: torch.from_numpy(np.array(part.block.z)) for name, part in parts.items()}
    held = Outputs(z, f_m, mean_logits(f_m, present, heats, prior, len(rows)), present)
    notes = {name: part.note for name, part in parts.items()} | {WHOLE: note}
    return Fitted(network, rows, held, notes, ctx.cost() - before)


def gathered(parts: Mapping[str, Tuned], prior: Tensor, temperatures: Mapping[str, float]) -> EnsembleNetwork:
    """Return all networks of all modalities as one."""
    pairs = [(name, network) for name, part in parts.items() for network in part.networks]
    encoders, classifiers = zip(*(network.only for _, network in pairs), strict=True)
    return EnsembleNetwork(encoders, [name for name, _ in pairs], classifiers, prior, temperatures)


def _temperature(logits: Tensor, has: Tensor, labels: Rows) -> float:
    """Return T of one modality from the rows that have it; 1 where none does."""
    return fit_temperature(logits.double().numpy()[has], labels[has]) if bool(has.any()) else 1.0


def _crossed(logits: Tensor, has: Tensor, labels: Rows, folds: Rows) -> Tensor:
    """Return for each row the T that the other folds give, [rows, 1]."""
    heats = torch.ones(len(labels), 1)
    for fold in np.unique(folds):
        here = torch.from_numpy(folds == fold)
        if bool((~here).any()):
            heats[here] = _temperature(logits, has & ~here, labels)
    return heats
