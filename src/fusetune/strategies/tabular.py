"""What a learner of tables reads of every modality, and the network around what it has learnt.

Cells as they are; of pictures and texts the features of encoders as they were pretrained, and the logits of a linear
classifier on these and on the words of a text; of numbers with a long tail, what linear models say of their logarithms
too. These classifiers and the learner are cross-fitted on the same folds, so
that what the learner sees of a row's logits comes from classifiers that did not see it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import nn

from fusetune.config import Section
from fusetune.context import Context
from fusetune.data.schema import free_name
from fusetune.data.split import Rows
from fusetune.encoders import CellValues, Encoder, Identity
from fusetune.features.store import Array
from fusetune.heads.base import WORDS, HeadData, HeadFit
from fusetune.heads.folds import Folds, make_folds
from fusetune.heads.tabular import TabularHead
from fusetune.networks import FusionNetwork, Outputs, Wiring
from fusetune.networks.run import present_bits
from fusetune.strategies.base import WHOLE, Fitted
from fusetune.strategies.crossfit import words_block
from fusetune.strategies.linear_probe import frozen
from fusetune.strategies.trainer import freeze
from fusetune.strategies.unimodal import solve_crossed

_FEATURES, _LOGARITHMS = " features", " of logarithms"
_DEARER = 3  # times the seconds of a classifier on features, where it is one on words
_SHARE, _LEAST = 0.3, 5.0  # of the time that is left, where it is limited; seconds at least

# Fits blocks of rows: the arguments of a blank head, the rows, and the fold of each that must not be learnt from.
Learner = Callable[[Mapping[str, object], HeadData, npt.NDArray[np.int64]], HeadFit]


class TabularSettings(Section):
    """What the learner reads."""

    reduced: int = Field(30, ge=1, description="principal components of an encoder's features")
    widest: int = Field(512, ge=1, description="vectors of no more numbers than this are read as they are")


@dataclass(frozen=True)
class _Read:
    """One block of the table.

    Attributes:
        name: Its name.
        owner: The modality.
        encoder: The encoder behind it.
        classifier: Where the block is logits: the classifier that makes them from the encoder's features.
        values: The block, [rows, dim].
    """

    name: str
    owner: str
    encoder: Encoder
    classifier: nn.Linear | None
    values: Array


def fit_tabular(ctx: Context, settings: TabularSettings, learn: Learner, name: str, what: str) -> Fitted:
    """Encode every row once, and fit a learner of tables on all modalities.

    Args:
        ctx: The run.
        settings: What it reads.
        learn: Fits it.
        name: The stage, in the log and in seconds.
        what: The learner, in words.
    """
    before, folds = ctx.cost(), make_folds(ctx)
    rows, dealt = folds.rows, folds.head
    if not folds.pooled:
        rows = np.concatenate([folds.rows, folds.choice_rows])
        dealt = np.where(np.arange(len(rows)) < len(folds.rows), -1, 0)
    blocks = [block for modality in ctx.modalities for block in _blocks(ctx, modality, folds, rows)]
    owners = {block.name: block.owner for block in blocks}
    data = HeadData.of(ctx, {block.name: block.values[None] for block in blocks}, rows, owners)
    with ctx.log.timed(ctx.seconds, name), ctx.within(_SHARE, least=_LEAST):
        fit = learn(_described(blocks, settings, len(ctx.classes)), data, dealt)
    fit.tell(ctx.log, name, name, blocks=list(owners))
    score = "cross-validated" if folds.pooled else "valid"
    ctx.log.say(f"  {what} on {', '.join(owners)}: {fit.choice}, {score} NLL {fit.valid_nll:.3f}")
    assert isinstance(fit.head, TabularHead)
    assert fit.held is not None
    network = _network(blocks, fit.head).to(ctx.runtime.device)
    freeze(network)
    held = np.flatnonzero(dealt >= 0)
    z = {block.owner: torch.from_numpy(block.values[held]) for block in blocks if block.classifier is None}
    f_m = {b.owner: torch.from_numpy(b.values[held]) for b in blocks if b.name == b.owner and b.classifier}
    present = present_bits(ctx.sources, rows[held], torch.device("cpu"))
    outputs = Outputs(z, f_m, torch.from_numpy(fit.held[held]).float(), present)
    notes: dict[str | None, str] = dict.fromkeys(ctx.modalities, "as pretrained")
    notes[WHOLE] = f"{what} on cells and frozen features ({fit.choice})"
    return Fitted(network, rows[held], outputs, notes, ctx.cost() - before)


def _blocks(ctx: Context, name: str, folds: Folds, rows: Rows) -> list[_Read]:
    """Return what is read of a modality: cells, or features and what linear classifiers on them say."""
    described, device = ctx.pristine[name].arguments, ctx.runtime.device
    if ctx.modalities[name].kind == "columns":
        cells = CellValues(described["numbers"], described["categories"]).to(device).eval()
        return [_Read(name, name, cells, None, ctx.encode(name, cells, rows)[0])]
    part, took = frozen(ctx, name)
    encoder, classifier = part.networks[0].only
    z = ctx.encode(name, encoder, rows)[0]
    blocks = [_Read(free_name(name + _FEATURES, ctx.modalities), name, encoder, None, z)]
    if not folds.pooled:  # classifiers would be about their own training rows
        return blocks
    blocks.append(_Read(name, name, encoder, classifier, part.held))
    blocks += _of_logarithms(ctx, name, encoder, z, folds)
    if ctx.modalities[name].kind != "text" or not ctx.config.text.words:
        return blocks
    if ctx.late(_DEARER * took):
        ctx.log.say(f"  {name}: no {ctx.target.model_word} on its words, for which there is no time")
        return blocks
    if (words := words_block(ctx, name, folds)) is not None:
        counts, classifier = words.networks[0].only
        blocks.append(_Read(words.name, name, counts, classifier, words.plain[0]))
        blocks += _of_logarithms(ctx, name, counts, words.z, folds, words=True)
    return blocks


def _of_logarithms(
    ctx: Context, name: str, encoder: Encoder, z: Array, folds: Folds, *, words: bool = False
) -> list[_Read]:
    """Return what a linear model on features says of the logarithms of numbers with a long tail; of others nothing.

    What words add up to on that scale multiplies a number: a brand and a size do so with a price.
    """
    labels = ctx.labels[folds.rows]
    scale = ctx.target.logarithm(labels) if ctx.target.skewed(labels) else None
    if scale is None:
        return []

    def solve() -> tuple[nn.Linear, Array]:
        learnt = np.zeros_like(ctx.labels)
        learnt[folds.rows] = scale.learnt(labels)
        logs = replace(ctx, labels=learnt)
        with ctx.log.timed(ctx.seconds, "stage_u"):
            network, held = solve_crossed(
                logs, name, encoder, z[None], folds.rows, folds.head, words=words, scale=_LOGARITHMS
            )
        return network.only[1], held

    classifier, held = ctx.remember(("of logarithms", name, "words" if words else "features"), solve)
    called = free_name(name + (WORDS if words else "") + _LOGARITHMS, ctx.modalities)
    return [_Read(called, name, encoder, classifier, held)]


def _described(blocks: Sequence[_Read], settings: TabularSettings, classes: int) -> dict[str, object]:
    """Return the arguments of a head that reads the blocks: cells as cells, wide features by their components."""
    dims = {block.name: block.values.shape[1] for block in blocks}
    cells, reduced = dict[str, list[int]](), dict[str, int]()
    for block in blocks:
        if isinstance(block.encoder, CellValues):
            described = block.encoder.arguments
            cells[block.name] = [described["numbers"], len(described["categories"])]
        elif block.classifier is None and dims[block.name] > (
            settings.widest if isinstance(block.encoder, Identity) else settings.reduced
        ):
            reduced[block.name] = min(settings.reduced, dims[block.name])
    return {"dims": dims, "classes": classes, "cells": cells, "reduced": reduced}


def _network(blocks: Sequence[_Read], head: TabularHead) -> FusionNetwork:
    """Return the network whose head reads these blocks, each encoder once."""
    encoders, owners = list[Encoder](), list[str]()
    wiring = Wiring(owners, {}, {}, [])
    for block in blocks:
        if not any(block.encoder is one for one in encoders):
            encoders.append(block.encoder)
            owners.append(block.owner)
        at = next(at for at, one in enumerate(encoders) if one is block.encoder)
        if block.classifier is None:
            wiring.features[block.name] = at
        else:
            wiring.networks[block.name] = [at]
            wiring.logits.append(block.name)
    return FusionNetwork(encoders, [block.classifier for block in blocks if block.classifier is not None], head, wiring)
