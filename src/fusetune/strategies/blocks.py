"""From the blocks that a head was fitted on to the network that reads them, and what it says of held-out rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from fusetune.context import Context, Cost
from fusetune.encoders import Encoder
from fusetune.heads.base import Head, HeadFit, owner
from fusetune.heads.folds import Folds
from fusetune.networks import FusionNetwork, Outputs, Wiring
from fusetune.networks.run import present_bits
from fusetune.strategies.base import Fitted, held_by
from fusetune.strategies.crossfit import Block, Tuned
from fusetune.strategies.trainer import freeze


def fitted_head(
    ctx: Context,
    folds: Folds,
    parts: Mapping[str, Tuned],
    blocks: Sequence[Block],
    fit: tuple[HeadFit, Tensor],
    notes: Mapping[str, str],
    before: Cost,
) -> Fitted:
    """Return what a strategy leaves that fits one head on blocks.

    Args:
        ctx: The run.
        folds: Which rows did what.
        parts: What stage U made of each modality.
        blocks: What the head reads, in its order.
        fit: The head, and what `fit_on` says of rows that it did not learn from.
        notes: What was done.
        before: What the run had cost when the strategy began.
    """
    head, logits = fit
    ctx.log.say(f"  head on {', '.join(b.name for b in blocks)}: {head.choice}, {head.score} {head.valid_nll:.3f}")
    ctx.log.record(
        "head", blocks=[b.name for b in blocks], choice=head.choice, valid_nll=head.valid_nll, path=head.path
    )
    network = wired(blocks, head.head).to(ctx.runtime.device)
    freeze(network)
    if not folds.pooled:
        rows = folds.choice_rows
        return Fitted(network, rows, held_by(ctx, network, rows), notes, ctx.cost() - before, head.tried)
    # Heads that need rows to stop by were fitted without the validation rows alone.
    places = np.arange(len(folds.rows)) if len(logits) == len(folds.rows) else folds.valid_places
    rows = folds.choice_rows[places]
    z = {name: torch.from_numpy(np.array(part.block.z[places])) for name, part in parts.items()}
    f_m = {name: torch.from_numpy(part.held[places]) for name, part in parts.items()}
    held = Outputs(z, f_m, logits, present_bits(ctx.sources, rows, torch.device("cpu")))
    return Fitted(network, rows, held, notes, ctx.cost() - before)


def wired(blocks: Sequence[Block], head: Head) -> FusionNetwork:
    """Return the network whose head reads these blocks."""
    encoders: list[Encoder] = []
    classifiers: list[nn.Linear] = []
    wiring = Wiring([], {}, {}, [])
    for block in blocks:
        name, first = owner(block.name), len(encoders)
        for network in block.networks:
            encoders.append(network.only[0])
            wiring.modality_of.append(name)
        if block.is_logits or block.name == name:
            wiring.networks[block.name] = list(range(first, len(encoders)))
            classifiers += [network.only[1] for network in block.networks]
        if block.is_logits:
            wiring.logits.append(block.name)
        else:
            wiring.features[block.name] = first
    return FusionNetwork(encoders, classifiers, head, wiring)
