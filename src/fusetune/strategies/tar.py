"""TAR, target-aware representations: encoders are tuned a little, then the table learner reads their main components.

    phi_m = argmin CE(W phi_m(x_m), y), only LoRA of rank 16 in the last three blocks (MulTaBench, arXiv 2605.10616)
    f = table learner of [columns, PCA_30 phi_m(x_m) for each m]

As published, the learner reads embeddings of the very rows that tuned the encoder (`crossfit: false`): these look surer
of their labels than those of new rows will. Here the rows are cross-fitted by default: each fold's embedding comes from
the encoder that was tuned on the other folds, and a new row gets the mean over the folds' encoders. That needs one
space: all of them start from the same weights, most of which do not move. Principal components are those of the
training rows' embeddings, and know no labels.

What differs: the published learner is a boosted ensemble of trees, which cannot be saved here without pickle. Here it
is the solved linear head, or the one with a hidden layer (`learner: mlp`), on standardised numbers, missing flags and
one-hot categories; so what is published of TAR's height says nothing about this one, but what cross-fitting is worth
can be asked: `benchmarks/in_sample.py` does. Validation rows choose epochs and the learner's penalty or epoch. Encoders
that are not pretrained have nothing to adapt and are trained whole; vectors as they are only get their main components.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field

from fusetune.config import Section, TrainConfig
from fusetune.context import Context
from fusetune.data.schema import free_name
from fusetune.data.split import Rows
from fusetune.encoders import Averaged, Encoder, Projection, Stacked, is_pretrained
from fusetune.heads.base import HeadData, HeadFit
from fusetune.heads.folds import has_training, row_folds
from fusetune.heads.trained import fit_head
from fusetune.networks import FusionNetwork, Wiring
from fusetune.strategies.base import WHOLE, Fitted, Strategy, held_by
from fusetune.strategies.linear_probe import untrained
from fusetune.strategies.trainer import freeze
from fusetune.strategies.unimodal import fine_tune, probe_on

Array64 = npt.NDArray[np.float64]


class TARSettings(Section):
    """How encoders are tuned, and who reads them."""

    crossfit: bool = Field(True, description="embed each training row by an encoder that did not learn from it")
    folds: int = Field(5, ge=2, le=20, description="for crossfit")
    rank: int = Field(16, ge=1, description="of LoRA, in pretrained encoders")
    blocks: int = Field(3, ge=1, description="last blocks of a pretrained encoder that are adapted")
    image_lr: float = Field(1e-3, gt=0, description="learning rate of the adapters of pictures")
    text_lr: float = Field(1e-4, gt=0, description="learning rate of the adapters of texts")
    patience: int = Field(3, ge=0, description="epochs without better validation NLL before stopping; 0: never stop")
    components: int = Field(30, ge=1, description="principal components of each embedding")
    learner: Literal["linear", "mlp"] = Field("linear", description="the table learner: solved, or with a hidden layer")


@dataclass(frozen=True)
class Embedding:
    """What the table learner reads of one modality.

    Attributes:
        encoder: What makes it of new rows.
        train: Of the training rows, float32 [rows, components].
        valid: Of the validation rows.
        note: How it was made, in a few words.
    """

    encoder: Encoder
    train: npt.NDArray[np.float32]
    valid: npt.NDArray[np.float32]
    note: str


class TAR(Strategy):
    """Encoders tuned a little, one learner on their main components and the columns."""

    name, title, paper = "tar", "TAR", "Target-aware representations, arXiv 2605.10616"
    cost = "the tuning of every encoder alone, once per fold where it is cross-fitted, and a solved head"
    Settings = TARSettings

    @classmethod
    def fit(cls, ctx: Context, settings: TARSettings) -> Fitted:
        """Tune the encoders, embed every row, and fit the learner."""
        before, train, valid = ctx.cost(), ctx.split.rows("train"), ctx.split.rows("valid")
        with ctx.log.timed(ctx.seconds, cls.name):
            parts = {name: _read(ctx, name, settings, train, valid) for name in ctx.modalities}
            data = HeadData.of(ctx, {name: part.train[None] for name, part in parts.items()}, train)
            held = HeadData.of(ctx, {name: part.valid[None] for name, part in parts.items()}, valid)
            learner = learn(ctx, data, held, settings)
            learner.tell(ctx.log, "head", f"learner on {', '.join(parts)}", blocks=list(parts))
            classifiers = [probe_on(ctx, name, data, held, name) for name in parts]
        names = list(parts)
        places = {name: at for at, name in enumerate(names)}
        wiring = Wiring(names, {name: [at] for name, at in places.items()}, places, [])
        network = FusionNetwork([part.encoder for part in parts.values()], classifiers, learner.head, wiring)
        freeze(network.to(ctx.runtime.device))
        notes: dict[str | None, str] = {name: part.note for name, part in parts.items()}
        notes[WHOLE] = f"{settings.learner} learner on the columns and {settings.components} components of the rest"
        return Fitted(network, valid, held_by(ctx, network, valid), notes, ctx.cost() - before, learner.tried)


def learn(ctx: Context, data: HeadData, held: HeadData, settings: TARSettings) -> HeadFit:
    """Fit the table learner on embeddings and columns of training rows; choices are made on others."""
    kind = {"linear": "logistic", "mlp": "mlp"}[settings.learner]
    config = ctx.config.head.model_copy(update={"kind": kind, "blockwise": False})
    how: dict[str, Any] = {"classes": len(ctx.classes), "runtime": ctx.runtime, "log": ctx.log}
    return fit_head(data, held, config, seed=ctx.config.seed, **how)


def tuning(ctx: Context, name: str, settings: TARSettings) -> TrainConfig:
    """Return how one modality's encoder is tuned: adapters in its last blocks, or all of one that is not pretrained."""
    own, encoder = ctx.settings(name), ctx.pristine[name]
    if not is_pretrained(encoder):
        return own.model_copy(update={"patience": settings.patience})
    blocks = len(encoder.blocks())
    changes = {
        "lora_rank": settings.rank,
        "freeze": max(0, blocks - settings.blocks) / blocks,
        "lr": settings.image_lr if ctx.modalities[name].kind == "image" else settings.text_lr,
        "patience": settings.patience,
    }
    return own.model_copy(update=changes)


def _read(ctx: Context, name: str, settings: TARSettings, train: Rows, valid: Rows) -> Embedding:
    """Return the columns as they are, or the main components of a tuned embedding."""
    if ctx.modalities[name].kind == "columns":
        cells = untrained(ctx, name)
        plain = [ctx.encode(name, cells, rows)[0] for rows in (train, valid)]
        return Embedding(cells, plain[0], plain[1], "as the numbers and codes that they are")
    encoders, folds = tuned_encoders(ctx, name, settings, train, valid)
    base = encoders[0] if len(encoders) == 1 else Averaged.of(encoders)
    z = np.zeros((len(train), base.dim))
    for fold, encoder in enumerate(encoders):
        z[folds == fold] = ctx.encode(name, encoder, train[folds == fold])[0]
    held = np.mean([ctx.encode(name, encoder, valid)[0] for encoder in encoders], 0, dtype=np.float64)
    mean, axes = components(z[ctx.sources[name].present[train]], settings.components)
    top = Projection(base.dim, len(axes))
    top.weight.copy_(torch.from_numpy(axes))
    stacked = Stacked.of(base, top, torch.from_numpy(mean).float(), torch.ones(base.dim))
    scores = [((some - mean) @ axes.T).astype(np.float32) for some in (z, held)]
    many = f", cross-fitted in {len(encoders)} folds" if len(encoders) > 1 else ""
    note = f"main components of its {'tuned ' if _moves(ctx, name, settings) else ''}embedding{many}"
    return Embedding(stacked.to(ctx.runtime.device).eval(), scores[0], scores[1], note)


def tuned_encoders(
    ctx: Context, name: str, settings: TARSettings, train: Rows, valid: Rows
) -> tuple[list[Encoder], Rows]:
    """Return the tuned encoders of one modality, and which of them embeds each training row, int64 [rows]."""
    nobody = np.zeros(len(train), dtype=np.int64)
    if not _moves(ctx, name, settings):
        return [ctx.frozen_encoder(name)], nobody
    folds = row_folds(ctx, train, settings.folds) if settings.crossfit else nobody
    count, plan, encoders = int(folds.max()) + 1, tuning(ctx, name, settings), []
    if settings.crossfit and count == 1:
        ctx.log.warn(
            f"{name}: the training part is a single group, so nothing can be cross-fitted (strategy.crossfit); the "
            "learner reads embeddings of the rows that tuned the encoder"
        )
    for fold in range(count):
        rows = train[folds != fold] if count > 1 else train
        stage = free_name(
            f"{name}, tuned" + (f" without fold {fold + 1} of {count}" if count > 1 else ""), ctx.modalities
        )
        encoders.append(fine_tune(ctx, name, rows, stage, valid, plan).only[0])
    return encoders, folds


def _moves(ctx: Context, name: str, settings: TARSettings) -> bool:
    return has_training(tuning(ctx, name, settings), ctx.pristine[name])


def components(z: Array64, count: int) -> tuple[Array64, Array64]:
    """Return the mean and the main axes of some rows: float64 [dim] and [up to `count`, dim], orthonormal."""
    mean: Array64 = z.mean(0)
    _, _, axes = np.linalg.svd(z - mean, full_matrices=False)
    axes = axes[:count]
    # Axes have no sign of their own: the largest weight of each is positive.
    largest = axes[np.arange(len(axes)), np.abs(axes).argmax(1)]
    signed: Array64 = axes * np.where(largest < 0, -1.0, 1.0)[:, None]
    return mean, signed
