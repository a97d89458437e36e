"""Fine-tune each encoder alone, freeze it, fit one head on the concatenation (arXiv 2505.06592, in its sound form).

What differs from the published procedure, and why: the rows are split before anything is trained; frozen encoders run
once per view into a store instead of in every epoch; blocks are standardised per modality; the head is solved to
convergence with a penalty chosen on rows it has not seen; and what it learns from is not what a network says about its
own training rows (`crossfit`), because that is surer than what the same network says about new ones.

With k-fold cross-fitting no row needs to be set aside for choices: validation rows join the training rows, each network
stops by the fold that it does not see, and the head's penalty is chosen by cross-validation. What is then said of
validation rows comes from networks and solutions that did not learn from them. Where fine-tuning a pretrained encoder
does not lower the NLL of the held-out folds taken together, its networks are dropped, and the head reads the encoder as
it was: one fold is too few rows to decide that by, and networks that are no better dilute what the head learns.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from fusetune.augment.text import TextAugment
from fusetune.data.split import Rows
from fusetune.data.tokens import TextSource
from fusetune.encoders import Encoder, WordCounts, is_pretrained
from fusetune.features.store import Array
from fusetune.strategies.context import Context
from fusetune.strategies.heads import PRETRAINED, WORDS, HeadFit
from fusetune.strategies.model import FusionModel, Outputs, Wiring
from fusetune.strategies.plan import Plan, fit_on, make_plan
from fusetune.strategies.unimodal import (
    Unimodal,
    fine_tune,
    freeze,
    has_training,
    solve_crossed,
)


@dataclass
class _Blocks:
    """What the head reads, collected modality by modality.

    Attributes:
        drawn: Augmented views of the head's rows, [views, rows, dim] by block.
        plain: The rows that choices are made on, without augmentation, [1, rows, dim] by block: the validation rows, or
            where they are pooled the same rows again.
        said: Logits of each modality alone for the rows of `plain`, from networks that did not learn from them.
    """

    encoders: list[Encoder] = field(default_factory=list)
    classifiers: list[nn.Linear] = field(default_factory=list)
    wiring: Wiring = field(default_factory=lambda: Wiring([], {}, {}, []))
    drawn: dict[str, Array] = field(default_factory=dict)
    plain: dict[str, Array] = field(default_factory=dict)
    said: dict[str, Array] = field(default_factory=dict)

    def add(self, name: str, encoder: Encoder) -> int:
        self.encoders.append(encoder)
        self.wiring.modality_of.append(name)
        return len(self.encoders) - 1


def two_stage(ctx: Context) -> tuple[FusionModel, HeadFit]:
    """Return the fused model and how its head was chosen.

    Where validation rows are pooled with the training rows, `ctx.honest` is set to what is said of them by networks and
    solutions that did not learn from them.
    """
    plan, blocks = make_plan(ctx), _Blocks()
    for name in ctx.modalities:
        trained = has_training(ctx.settings(name), ctx.pristine[name])
        networks = _fold_networks(ctx, name, plan) if plan.pooled and trained else []
        if not plan.pooled:
            _plain(ctx, name, blocks, plan)
            tuned = name in ctx.histories and ctx.histories[name].best_epoch >= 0
        elif networks:
            _cross_fitted(ctx, name, networks, blocks, plan)
            tuned = True
        else:
            _solved(ctx, name, blocks, plan)
            tuned = False
        # Where nothing was tuned, it would read the same encoder twice.
        if tuned and ctx.config.head.pretrained and is_pretrained(ctx.pristine[name]):
            _as_pretrained(ctx, name, blocks, plan)
    with ctx.log.timed(ctx.seconds, "stage_m"):
        fit, fused = fit_on(ctx, plan, blocks.drawn, blocks.plain, ctx.config.head)
    for name, modality in ctx.modalities.items():
        if plan.pooled and modality.kind == "text" and ctx.config.text.words:
            fit, fused = _with_words(ctx, name, blocks, plan, fit, fused)
    if plan.pooled:
        valid = plan.valid_places
        f_m = {name: torch.from_numpy(said[valid]) for name, said in blocks.said.items()}
        present = {name: torch.from_numpy(ctx.sources[name].present[plan.rows[valid]]) for name in f_m}
        ctx.honest = Outputs({}, f_m, fused, present)
    ctx.log.say(f"  head on {', '.join(blocks.drawn)}: {fit.choice}, {fit.score} {fit.valid_nll:.3f}")
    ctx.log.record("head", blocks=list(blocks.drawn), choice=fit.choice, valid_nll=fit.valid_nll, path=fit.path)
    model = FusionModel(blocks.encoders, blocks.classifiers, fit.head, blocks.wiring).to(ctx.runtime.device)
    freeze(model)
    return model, fit


def _plain(ctx: Context, name: str, blocks: _Blocks, plan: Plan) -> None:
    """One network; the head reads its features, or its logits."""
    with ctx.log.timed(ctx.seconds, "stage_u"):
        network = fine_tune(ctx, name, plan.encoder_rows)
    with ctx.log.timed(ctx.seconds, "encode"):
        drawn = ctx.encode(name, network.encoder, plan.rows, ctx.views())
        plain = ctx.encode(name, network.encoder, plan.choice_rows)
    _one_network(ctx, name, blocks, network, drawn, plain)


def _solved(ctx: Context, name: str, blocks: _Blocks, plan: Plan) -> None:
    """One encoder that is not trained: its features are honest about every row, and its classifier is solved."""
    encoder = ctx.fresh_encoder(name)
    with ctx.log.timed(ctx.seconds, "encode"):
        drawn, plain = _both(ctx, name, encoder, plan.rows)
    with ctx.log.timed(ctx.seconds, "stage_u"):
        network, said = solve_crossed(ctx, name, encoder, plain, plan.rows, plan.choice_folds)
    blocks.said[name] = said
    _one_network(ctx, name, blocks, network, drawn, plain)
    if ctx.config.head.inputs == "logits":  # the final classifier's would be about its own training rows
        blocks.plain[name] = said[None]
        blocks.drawn[name] = np.broadcast_to(said, (ctx.config.views, *said.shape))


def _one_network(ctx: Context, name: str, blocks: _Blocks, network: Unimodal, drawn: Array, plain: Array) -> None:
    index = blocks.add(name, network.encoder)
    blocks.wiring.networks[name] = [index]
    blocks.classifiers.append(network.head)
    if ctx.config.head.inputs == "logits":
        drawn, plain = _logits(network, drawn), _logits(network, plain)
        blocks.wiring.logits.append(name)
    else:
        blocks.wiring.features[name] = index
    blocks.drawn[name], blocks.plain[name] = drawn, plain


def _fold_networks(ctx: Context, name: str, plan: Plan) -> list[Unimodal]:
    """Train k networks, each without one fold; none are returned where that did not help a pretrained encoder."""
    networks = []
    for fold in range(ctx.config.crossfit.folds):
        held = plan.folds == fold
        with ctx.log.timed(ctx.seconds, "stage_u"):
            networks.append(fine_tune(ctx, name, plan.rows[~held], _stage(ctx, name, fold), plan.rows[held]))
    return [] if is_pretrained(ctx.pristine[name]) and _undone(ctx, name, plan) else networks


def _stage(ctx: Context, name: str, fold: int) -> str:
    return f"{name}, fold {fold + 1} of {ctx.config.crossfit.folds}"


def _undone(ctx: Context, name: str, plan: Plan) -> bool:
    """Return whether fine-tuning is undone: it did not lower the NLL of the held-out rows of all folds together.

    Both sides are a little too good, since these rows chose the best epochs and the penalties of the linear classifiers
    that the networks started from.
    """
    histories = [ctx.histories[_stage(ctx, name, fold)] for fold in range(ctx.config.crossfit.folds)]
    counts = np.bincount(plan.folds[ctx.sources[name].present[plan.rows]], minlength=len(histories))
    before = float(np.average([history.start_nll for history in histories], weights=counts))
    after = float(np.average([history.best_nll for history in histories], weights=counts))
    if after < before:
        return False
    ctx.log.say(
        f"  {name}: fine-tuning did not lower the NLL of held-out rows ({before:.3f} before, {after:.3f} at best), so "
        "it is undone"
    )
    ctx.log.record("undone", stage=name, before=before, after=after)
    for history in histories:
        history.best_epoch, history.best_nll = -1, history.start_nll
    return True


def _cross_fitted(ctx: Context, name: str, networks: list[Unimodal], blocks: _Blocks, plan: Plan) -> None:
    """Give the head the logits of k networks, each trained without one fold (stacking, arXiv 2111.02705).

    A row's logits come from the network that never saw it; those of new rows are the mean over the k networks. Features
    would not do: those of separately trained encoders cannot be compared.
    """
    rows = plan.rows
    drawn = np.zeros((ctx.config.views, len(rows), len(ctx.classes)), np.float32)
    plain = np.zeros((1, len(rows), len(ctx.classes)), np.float32)
    blocks.wiring.networks[name] = []
    for fold, network in enumerate(networks):
        held = plan.folds == fold
        with ctx.log.timed(ctx.seconds, "encode"):
            views, same = _both(ctx, name, network.encoder, rows[held])
        drawn[:, held], plain[:, held] = _logits(network, views), _logits(network, same)
        blocks.wiring.networks[name].append(blocks.add(name, network.encoder))
        blocks.classifiers.append(network.head)
    blocks.drawn[name], blocks.plain[name], blocks.said[name] = drawn, plain, plain[0]
    blocks.wiring.logits.append(name)


def _as_pretrained(ctx: Context, name: str, blocks: _Blocks, plan: Plan) -> None:
    """The features of the encoder from before fine-tuning: honest about every training row, and different."""
    encoder, block = ctx.fresh_encoder(name), name + PRETRAINED
    with ctx.log.timed(ctx.seconds, "encode"):
        blocks.drawn[block] = ctx.encode(name, encoder, plan.rows, ctx.views())
        blocks.plain[block] = ctx.encode(name, encoder, plan.choice_rows)
    blocks.wiring.features[block] = blocks.add(name, encoder)


def _with_words(
    ctx: Context, name: str, blocks: _Blocks, plan: Plan, fit: HeadFit, fused: Tensor
) -> tuple[HeadFit, Tensor]:
    """Let the head also read the logits of a classifier on the words themselves, where that lowers its NLL.

    Args:
        ctx: The run.
        name: A text modality.
        blocks: What the head reads; the words join them if they help.
        plan: Which rows do what.
        fit: The head without the words.
        fused: What it says of the validation rows, logits [rows, classes].

    Returns:
        The better head of the two, and what it says.
    """
    source, augment, block = ctx.sources[name], ctx.augments[name], name + WORDS
    assert isinstance(source, TextSource)
    assert isinstance(augment, TextAugment)
    texts = [source.text(row) for row in plan.rows[source.present[plan.rows]]]
    encoder = WordCounts.fit(texts, augment.special).to(ctx.runtime.device)
    if not encoder.dim:
        return fit, fused
    with ctx.log.timed(ctx.seconds, "stage_u"):
        counts = ctx.encode(name, encoder, plan.rows)
        network, said = solve_crossed(ctx, name, encoder, counts, plan.rows, plan.choice_folds, words=True)
    drawn = blocks.drawn | {block: np.broadcast_to(said, (ctx.config.views, *said.shape))}
    plain = blocks.plain | {block: said[None]}
    with ctx.log.timed(ctx.seconds, "stage_m"):
        tried, also = fit_on(ctx, plan, drawn, plain, ctx.config.head)
    ctx.log.record("words", stage=block, without=fit.valid_nll, valid_nll=tried.valid_nll)
    if tried.valid_nll >= fit.valid_nll:
        ctx.log.say(
            f"  {name}: a classifier on its words would not lower the head's {fit.score} ({tried.valid_nll:.3f}, "
            f"{fit.valid_nll:.3f} without), so it is left out"
        )
        return fit, fused
    blocks.wiring.networks[block] = [blocks.add(name, encoder)]
    blocks.wiring.logits.append(block)
    blocks.classifiers.append(network.head)
    blocks.drawn, blocks.plain = drawn, plain
    return tried, also


def _both(ctx: Context, name: str, encoder: Encoder, rows: Rows) -> tuple[Array, Array]:
    """Return augmented views and the plain inputs of the same rows."""
    return ctx.encode(name, encoder, rows, ctx.views()), ctx.encode(name, encoder, rows)


def _logits(network: Unimodal, z: Array) -> Array:
    device = network.head.weight.device
    with torch.inference_mode():
        found: Tensor = network.head(torch.from_numpy(np.array(z)).to(device))
    return found.cpu().numpy()
