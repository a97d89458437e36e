"""From the blocks that a head was fitted on to the network that reads them, and what it says of held-out rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from fusetune.config import HeadConfig
from fusetune.context import Context, Cost
from fusetune.encoders import Encoder
from fusetune.heads.base import Head, HeadFit
from fusetune.heads.folds import Folds, fit_on
from fusetune.networks import FusionNetwork, Outputs, Wiring
from fusetune.networks.run import present_bits
from fusetune.strategies.base import Fitted, held_by
from fusetune.strategies.crossfit import Block, Tuned, words_block
from fusetune.strategies.trainer import freeze


@dataclass(frozen=True)
class Stacked:
    """A head that was fitted on blocks.

    Attributes:
        blocks: What it reads, in its order.
        fit: The head, and how it was chosen.
        held: What heads that did not learn from a row say of it (see `fit_on`), logits [rows, classes].
    """

    blocks: list[Block]
    fit: HeadFit
    held: Tensor


def stack(ctx: Context, folds: Folds, blocks: list[Block], config: HeadConfig | None = None) -> Stacked:
    """Fit a head on blocks; by default the one that the settings name."""
    views, plain = {block.name: block.views for block in blocks}, {block.name: block.plain for block in blocks}
    owners = {block.name: block.owner for block in blocks}
    with ctx.log.timed(ctx.seconds, "stage_m"):
        return Stacked(blocks, *fit_on(ctx, folds, views, plain, config or ctx.config.head, owners))


def with_words(ctx: Context, name: str, folds: Folds, stacked: Stacked) -> Stacked:
    """Let a head also read a classifier on the words of a text, where that lowers its NLL on rows it has not seen."""
    words = words_block(ctx, name, folds)
    if words is None:
        return stacked
    other = stack(ctx, folds, [*stacked.blocks, words])
    before, after = stacked.fit.valid_nll, other.fit.valid_nll
    ctx.log.record("words", stage=words.name, without=before, valid_nll=after)
    if after < before:
        return other
    ctx.log.say(
        f"  {name}: a {ctx.target.model_word} on its words would not lower the head's {stacked.fit.score} "
        f"({after:.3f}, {before:.3f} without), so it is left out"
    )
    return stacked


def fitted_head(
    ctx: Context,
    folds: Folds,
    parts: Mapping[str, Tuned],
    stacked: Stacked,
    notes: Mapping[str | None, str],
    before: Cost,
) -> Fitted:
    """Return what a strategy leaves that fits one head on blocks.

    Args:
        ctx: The run.
        folds: Which rows did what.
        parts: What stage U made of each modality.
        stacked: The head.
        notes: What was done.
        before: What the run had cost when the strategy began.
    """
    head, names = stacked.fit, [block.name for block in stacked.blocks]
    ctx.log.say(f"  head on {', '.join(names)}: {head.choice}, {head.score} {head.valid_nll:.3f}")
    head.tell(ctx.log, "head", f"head on {', '.join(names)}", blocks=names)
    network = wired(stacked.blocks, head.head).to(ctx.runtime.device)
    freeze(network)
    if not folds.pooled:
        rows = folds.choice_rows
        return Fitted(network, rows, held_by(ctx, network, rows), notes, ctx.cost() - before, head.tried)
    # Heads that need rows to stop by were fitted without the validation rows alone.
    places = np.arange(len(folds.rows)) if len(stacked.held) == len(folds.rows) else folds.valid_places
    rows = folds.choice_rows[places]
    z = {name: torch.from_numpy(np.array(part.block.z[places])) for name, part in parts.items()}
    f_m = {name: torch.from_numpy(part.held[places]) for name, part in parts.items()}
    held = Outputs(z, f_m, stacked.held, present_bits(ctx.sources, rows, torch.device("cpu")))
    return Fitted(network, rows, held, notes, ctx.cost() - before)


def wired(blocks: Sequence[Block], head: Head) -> FusionNetwork:
    """Return the network whose head reads these blocks."""
    encoders: list[Encoder] = []
    classifiers: list[nn.Linear] = []
    wiring = Wiring([], {}, {}, [])
    for block in blocks:
        first = len(encoders)
        for network in block.networks:
            encoders.append(network.only[0])
            wiring.modality_of.append(block.owner)
        if block.is_logits or block.name == block.owner:
            wiring.networks[block.name] = list(range(first, len(encoders)))
            classifiers += [network.only[1] for network in block.networks]
        if block.is_logits:
            wiring.logits.append(block.name)
        else:
            wiring.features[block.name] = first
    return FusionNetwork(encoders, classifiers, head, wiring)
