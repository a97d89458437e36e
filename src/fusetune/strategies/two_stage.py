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

from torch import Tensor

from fusetune.context import Context
from fusetune.heads.base import HeadFit
from fusetune.heads.folds import Folds, fit_on, make_folds
from fusetune.strategies.base import WHOLE, Fitted, NoSettings, Strategy
from fusetune.strategies.blocks import fitted_head
from fusetune.strategies.crossfit import Block, tuned, words_block


class TwoStage(Strategy):
    """Stage U, then stage M."""

    name, title, paper = "two-stage", "two-stage", "Batch augmentation with unimodal fine-tuning, arXiv 2505.06592"

    @classmethod
    def fit(cls, ctx: Context, settings: NoSettings) -> Fitted:
        """Fine-tune every encoder alone, then solve the head on what they say."""
        before, folds = ctx.cost(), make_folds(ctx)
        parts = {name: tuned(ctx, name) for name in ctx.modalities}
        blocks = [block for part in parts.values() for block in (part.block, *part.more)]
        with ctx.log.timed(ctx.seconds, "stage_m"):
            fit, held = _fit(ctx, folds, blocks)
        for name, modality in ctx.modalities.items():
            if folds.pooled and modality.kind == "text" and ctx.config.text.words:
                blocks, fit, held = _with_words(ctx, name, folds, blocks, fit, held)
        improved = [name for name, part in parts.items() if part.note.startswith("fine-tuned")]
        notes = {name: part.note for name, part in parts.items()} | {WHOLE: _whole(improved, len(parts))}
        return fitted_head(ctx, folds, parts, blocks, (fit, held), notes, before)


def _fit(ctx: Context, folds: Folds, blocks: Sequence[Block]) -> tuple[HeadFit, Tensor]:
    views, plain = {b.name: b.views for b in blocks}, {b.name: b.plain for b in blocks}
    return fit_on(ctx, folds, views, plain, ctx.config.head)


def _with_words(
    ctx: Context, name: str, folds: Folds, blocks: list[Block], fit: HeadFit, held: Tensor
) -> tuple[list[Block], HeadFit, Tensor]:
    """Let the head also read a classifier on the words of a text, where that lowers its NLL."""
    words = words_block(ctx, name, folds)
    if words is None:
        return blocks, fit, held
    with ctx.log.timed(ctx.seconds, "stage_m"):
        other, also = _fit(ctx, folds, [*blocks, words])
    ctx.log.record("words", stage=words.name, without=fit.valid_nll, valid_nll=other.valid_nll)
    if other.valid_nll < fit.valid_nll:
        return [*blocks, words], other, also
    ctx.log.say(
        f"  {name}: a classifier on its words would not lower the head's {fit.score} ({other.valid_nll:.3f}, "
        f"{fit.valid_nll:.3f} without), so it is left out"
    )
    return blocks, fit, held


def _whole(improved: Sequence[str], modalities: int) -> str:
    who = "each encoder" if len(improved) == modalities else " and ".join(improved) or "no encoder"
    return f"{who} fine-tuned{' alone' if improved else ''}, one head on all"
