"""Fine-tune each encoder alone, freeze it, fit one head on the concatenation (arXiv 2505.06592, in its sound form).

What differs from the published procedure, and why: the rows are split before anything is trained; frozen encoders run
once per view into a store instead of in every epoch; blocks are standardised per modality; the head is solved to
convergence with a penalty chosen on validation rows; and what it learns from is not what a network says about its own
training rows (`crossfit`), because that is surer than what the same network says about new ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from fusetune.data.split import Rows, deal
from fusetune.encoders import Encoder
from fusetune.features.store import Array
from fusetune.strategies.context import Context
from fusetune.strategies.fit import fit_head
from fusetune.strategies.heads import PRETRAINED, HeadFit
from fusetune.strategies.model import FusionModel, Wiring
from fusetune.strategies.unimodal import Unimodal, fine_tune, freeze, has_training, reads_pretrained


@dataclass
class _Blocks:
    """What the head reads, collected modality by modality."""

    encoders: list[Encoder] = field(default_factory=list)
    classifiers: list[nn.Linear] = field(default_factory=list)
    wiring: Wiring = field(default_factory=lambda: Wiring([], {}, {}, []))
    train: dict[str, Array] = field(default_factory=dict)
    valid: dict[str, Array] = field(default_factory=dict)

    def add(self, name: str, encoder: Encoder) -> int:
        self.encoders.append(encoder)
        self.wiring.modality_of.append(name)
        return len(self.encoders) - 1


def two_stage(ctx: Context) -> tuple[FusionModel, HeadFit]:
    """Return the fused model and how its head was chosen."""
    how, folds = _stage_rows(ctx)
    train = ctx.split.rows("train")
    encoder_rows, head_rows = (train[folds == 0], train[folds == 1]) if how == "holdout" else (train, train)
    blocks = _Blocks()
    for name in ctx.modalities:
        trained = has_training(ctx.settings(name), ctx.pristine[name])
        if how == "k" and (trained or ctx.config.head.inputs == "logits"):
            _cross_fitted(ctx, name, blocks, folds)
        else:
            _plain(ctx, name, blocks, encoder_rows, head_rows)
        if trained and reads_pretrained(ctx.config, ctx.pristine[name]):
            _as_pretrained(ctx, name, blocks, head_rows)
    with ctx.log.timed(ctx.seconds, "stage_m"):
        fit = fit_head(
            ctx.with_labels(blocks.train, head_rows), ctx.with_labels(blocks.valid, ctx.split.rows("valid")),
            ctx.config.head,
            classes=len(ctx.classes), runtime=ctx.runtime, seed=ctx.config.seed, log=ctx.log,
        )  # fmt: skip
    ctx.log.say(f"  head on {', '.join(blocks.train)}: {fit.choice}, valid NLL {fit.valid_nll:.3f}")
    ctx.log.record("head", blocks=list(blocks.train), choice=fit.choice, valid_nll=fit.valid_nll, path=fit.path)
    model = FusionModel(blocks.encoders, blocks.classifiers, fit.head, blocks.wiring).to(ctx.runtime.device)
    freeze(model)
    return model, fit


def _plain(ctx: Context, name: str, blocks: _Blocks, encoder_rows: Rows, head_rows: Rows) -> None:
    """One network; the head reads its features, or its logits."""
    with ctx.log.timed(ctx.seconds, "stage_u"):
        network = fine_tune(ctx, name, encoder_rows)
    with ctx.log.timed(ctx.seconds, "encode"):
        train, valid = _encode(ctx, name, network.encoder, head_rows)
    index = blocks.add(name, network.encoder)
    blocks.wiring.networks[name] = [index]
    blocks.classifiers.append(network.head)
    if ctx.config.head.inputs == "logits":
        train, valid = _logits(network, train), _logits(network, valid)
        blocks.wiring.logits.append(name)
    else:
        blocks.wiring.features[name] = index
    blocks.train[name], blocks.valid[name] = train, valid


def _cross_fitted(ctx: Context, name: str, blocks: _Blocks, folds: Rows) -> None:
    """Train k networks, each trained without one fold: the head reads logits (stacking, arXiv 2111.02705).

    A training row's logits come from the network that never saw it; those of any other row are the mean over the k
    networks. Features would not do: those of separately trained encoders cannot be compared.
    """
    train = ctx.split.rows("train")
    out_of_fold = np.zeros((ctx.config.views, len(train), len(ctx.classes)), np.float32)
    said: list[Array] = []
    blocks.wiring.networks[name] = []
    for fold in range(ctx.config.crossfit.folds):
        held = folds == fold
        with ctx.log.timed(ctx.seconds, "stage_u"):
            network = fine_tune(ctx, name, train[~held], f"{name}, fold {fold + 1} of {ctx.config.crossfit.folds}")
        with ctx.log.timed(ctx.seconds, "encode"):
            outside, valid = _encode(ctx, name, network.encoder, train[held])
        out_of_fold[:, held] = _logits(network, outside)
        said.append(_logits(network, valid))
        blocks.wiring.networks[name].append(blocks.add(name, network.encoder))
        blocks.classifiers.append(network.head)
    blocks.train[name], blocks.valid[name] = out_of_fold, np.mean(said, 0)
    blocks.wiring.logits.append(name)


def _as_pretrained(ctx: Context, name: str, blocks: _Blocks, head_rows: Rows) -> None:
    """The features of the encoder from before fine-tuning: honest about every training row, and different."""
    encoder = ctx.fresh_encoder(name)
    with ctx.log.timed(ctx.seconds, "encode"):
        blocks.train[name + PRETRAINED], blocks.valid[name + PRETRAINED] = _encode(ctx, name, encoder, head_rows)
    blocks.wiring.features[name + PRETRAINED] = blocks.add(name, encoder)


def _encode(ctx: Context, name: str, encoder: Encoder, rows: Rows) -> tuple[Array, Array]:
    """Return augmented views of training rows and plain validation rows."""
    return ctx.encode(name, encoder, rows, ctx.views()), ctx.encode(name, encoder, ctx.split.rows("valid"))


def _stage_rows(ctx: Context) -> tuple[str, Rows]:
    """Return how to cross-fit, and the fold of each training row.

    `holdout`: rows of fold 1 are kept for the head. Where nothing is trained there is nothing to cross-fit, and where a
    class has too few groups to be on both sides it is not possible: then all rows serve both stages, and a warning says
    so in the second case.
    """
    train, settings = ctx.split.rows("train"), ctx.config.crossfit
    everything = np.zeros(len(train), dtype=np.int64)
    trained = any(has_training(ctx.settings(name), ctx.pristine[name]) for name in ctx.modalities)
    if settings.how == "off" or not (trained or ctx.config.head.inputs == "logits"):
        return "off", everything
    shares = (
        (1 - settings.share, settings.share) if settings.how == "holdout" else (1 / settings.folds,) * settings.folds
    )
    folds = _deal(ctx, train, shares)
    sides = [folds == 0, folds == 1] if settings.how == "holdout" else [folds != k for k in range(settings.folds)]
    lost = [c for side in sides for c in set(ctx.labels[train]) - set(ctx.labels[train][side])]
    if lost:
        ctx.log.warn(
            f"class '{ctx.classes[lost[0]]}' has too few groups or rows in the training part for cross-fitting "
            f"(crossfit.how={settings.how}); the head learns from what networks say about their own training rows"
        )
        return "off", everything
    return settings.how, folds


def _deal(ctx: Context, rows: Rows, shares: Sequence[float]) -> Rows:
    units = ctx.ids if ctx.groups is None else ctx.groups
    # Another seed than the split's own, or the folds would repeat its order.
    return deal(ctx.ids.iloc[rows], ctx.labels[rows], units.iloc[rows], tuple(shares), ctx.config.seed + 1)


def _logits(network: Unimodal, z: Array) -> Array:
    device = network.head.weight.device
    with torch.inference_mode():
        found: Tensor = network.head(torch.from_numpy(np.array(z)).to(device))
    return found.cpu().numpy()
