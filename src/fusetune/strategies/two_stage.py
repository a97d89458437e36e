"""Fine-tune each encoder alone, freeze it, fit one head on the concatenation (arXiv 2505.06592, in its sound form).

    phi_m = argmin CE(W_m phi_m(T(x_m)) + b_m, y) for each modality, T a fresh random view (stage U)
    f = b + sum_m A_m u_m,  u_m = phi_m(x_m), or W_m phi_m(x_m) by the fold's own network (stage M, solved)

What differs from the published procedure, and why: the rows are split before anything is trained; frozen encoders run
once per view into a store instead of in every epoch; blocks are standardised per modality; the head is solved to
convergence with a penalty chosen on rows it has not seen; and what it learns from is not what a network says about its
own training rows (`crossfit`), because that is surer than what the same network says about new ones.
"""

from __future__ import annotations

from collections.abc import Sequence

from fusetune.context import Context
from fusetune.heads.folds import make_folds
from fusetune.strategies.base import ANY_TARGET, WHOLE, Fitted, NoSettings, Strategy
from fusetune.strategies.blocks import fitted_head, stack, with_words
from fusetune.strategies.crossfit import tuned


class TwoStage(Strategy):
    """Stage U, then stage M."""

    unread = ()
    name, title, paper = "two-stage", "two-stage", "Batch augmentation with unimodal fine-tuning, arXiv 2505.06592"
    targets = ANY_TARGET
    cost = "the training of every encoder alone, once per fold, and a solved head"

    @classmethod
    def fit(cls, ctx: Context, settings: NoSettings) -> Fitted:
        """Fine-tune every encoder alone, then solve the head on what they say."""
        before, folds = ctx.cost(), make_folds(ctx)
        parts = {name: tuned(ctx, name) for name in ctx.modalities}
        stacked = stack(ctx, folds, [block for part in parts.values() for block in (part.block, *part.more)])
        for name, modality in ctx.modalities.items():
            if folds.pooled and modality.kind == "text" and ctx.config.text.words:
                stacked = with_words(ctx, name, folds, stacked)
        improved = [name for name, part in parts.items() if part.improved]
        notes = {name: part.note for name, part in parts.items()} | {WHOLE: whole_note(improved, len(parts))}
        return fitted_head(ctx, folds, parts, stacked, notes, before)


def whole_note(improved: Sequence[str], modalities: int) -> str:
    """Say what the model is, from the modalities whose encoders differ from what they were."""
    who = "each encoder" if len(improved) == modalities else " and ".join(improved) or "no encoder"
    return f"{who} fine-tuned{' alone' if improved else ''}, one head on all"
