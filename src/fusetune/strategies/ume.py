"""UME, the uni-modal ensemble (Du et al., ICML 2023, arXiv 2305.01233): modalities are trained and predict alone.

    phi_m, h_m = argmin CE(h_m(phi_m(x_m)), y);  f = (1/M) sum_m h_m(phi_m(x_m)) / T_m

The mean is over the modalities that a row has. The paper averages predictions; here it is logits, each divided by a
temperature fitted on held-out rows, so that one overconfident modality does not outvote the others. What is said of a
held-out row uses the temperatures of the other folds.
"""

from __future__ import annotations

from fusetune.context import Context
from fusetune.strategies.base import ANY_TARGET, Fitted, NoSettings, Strategy
from fusetune.strategies.ensemble import fit_ensemble


class UME(Strategy):
    """Each modality alone, then the mean of their calibrated logits."""

    name, title, paper = "ume", "ensemble (UME)", "Uni-modal ensemble, arXiv 2305.01233"
    targets = ANY_TARGET
    cost = "the training of every encoder alone, once per fold"

    @classmethod
    def fit(cls, ctx: Context, settings: NoSettings) -> Fitted:
        """Fine-tune every encoder alone and fit one temperature per modality."""
        several = len(ctx.modalities) > 1
        note = "mean of the modalities' calibrated logits (UME)" if several else "the only input, nothing to average"
        return fit_ensemble(ctx, list(ctx.modalities), note)
