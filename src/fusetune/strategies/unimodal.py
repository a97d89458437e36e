"""Stage U: fine-tune one modality's encoder alone, every sample freshly augmented in every batch (arXiv 2505.06592).

The classifier starts from the solution on frozen features, not from random weights (linear probing, then fine-tuning:
Kumar et al. 2022, arXiv 2202.10054). The untouched encoder counts as the first candidate: where fine-tuning does not
lower the validation NLL, the encoder stays as it was. With one network per fold, a pretrained encoder's best epoch is
taken, and all folds together decide whether fine-tuning is undone (`crossfit`).

With `repeats`, a batch holds several views of each row, which is read once, and the loss is the mean over all of them
(batch augmentation in the sense of arXiv 1901.09335). An epoch then costs `repeats` times as many passes: for equal
cost divide the epochs, and the batch size too if the number of steps is to stay the same (arXiv 2105.13343).
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fusetune.config import HeadConfig, TrainConfig
from fusetune.context import Context
from fusetune.data.split import Rows
from fusetune.encoders import Encoder, is_pretrained
from fusetune.encoders.layers import blank_linear
from fusetune.errors import TableError
from fusetune.features.store import Array
from fusetune.files import write_text
from fusetune.heads.base import WORDS, HeadData
from fusetune.heads.folds import has_training
from fusetune.heads.linear import LinearHead
from fusetune.heads.solver import fit_crossed, fit_logistic
from fusetune.networks import EnsembleNetwork
from fusetune.strategies.batch import Batch
from fusetune.strategies.trainer import Training, by_batch, freeze, run_training, seconds_a_row
from fusetune.train.optim import weight_groups

_DECIDED = "epochs.json"
_TIMED, _LIMIT = 128, 5.0  # rows that are timed, and seconds after which no more are
_DEARER = 4  # how much dearer training is than encoding
_FEWEST = 0.25  # of the epochs: fewer hardly leave the rise of the learning rate
_WORD_PENALTIES = (1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5, 3e-6, 1e-6)


def fine_tune(
    ctx: Context,
    name: str,
    rows: Rows | None = None,
    stage: str | None = None,
    held: Rows | None = None,
    settings: TrainConfig | None = None,
) -> EnsembleNetwork:
    """Fine-tune one modality's encoder with a linear classifier; asked for twice, it is trained once.

    Args:
        ctx: The run.
        name: The modality.
        rows: Training rows to use; default: all of them. Rows without the modality are left out.
        stage: Name for progress and checkpoints; default: the modality's.
        held: Rows that choices are made on; default: the validation rows. Where others are given, validation rows may
            be among `rows`.
        settings: How the encoder is trained; default: as the run's settings say.

    Returns:
        The network of this modality with the weights of the epoch of lowest validation NLL, frozen. Without epochs, or
        without anything to train, the encoder is as it was and the classifier is solved on its features.
    """
    single = held is None
    rows = ctx.split.rows("train") if rows is None else rows
    if held is None:
        ctx.split.check(rows, "train")
        held = ctx.split.rows("valid")
    else:
        ctx.split.check(np.concatenate([rows, held]), "train", "valid")
    settings = settings or ctx.settings(name)
    digest = hashlib.sha256(rows.tobytes() + b"|" + held.tobytes() + settings.model_dump_json().encode()).hexdigest()
    return ctx.remember(
        ("fine-tuned", name, str(single), digest),
        lambda: _fine_tune(ctx, name, settings, rows, stage or name, held, single),
    )


def affordable(ctx: Context, name: str, rows: Rows, share: float, held: float = 0.0) -> TrainConfig:
    """Return how an encoder is trained in a share of the time that is left: in fewer epochs where all are too many.

    A schedule that ends early is worth more than a longer one that is cut off, and none more than one of an epoch or
    two of ten. The time of an epoch is estimated from that of a few rows, and so is what encoding takes afterwards.
    What was decided is kept with the checkpoints, so that a run that is resumed decides alike.

    Args:
        ctx: The run.
        name: The modality.
        rows: Rows of a network: those that it learns from, and those that its best epoch is chosen on.
        share: Of the time that is left.
        held: Which share of the rows it does not learn from, but is asked about after each epoch.
    """
    settings = ctx.settings(name)
    if ctx.deadline == math.inf or not settings.epochs:
        return settings
    epoch, pace = epoch_seconds(ctx, name, rows, held), _pace(ctx, name, rows)
    after = (ctx.config.views + 1) * held * pace.asked * pace.seconds / _DEARER
    epochs = ctx.runtime.ranks.lead(lambda: _affordable(ctx, name, share, epoch, after, settings.epochs))
    return settings.model_copy(update={"epochs": epochs})


def epoch_seconds(ctx: Context, name: str, rows: Rows, held: float = 0.0) -> float:
    """Return about how long an epoch of fine-tuning takes on this machine, of rows and a share as for `affordable`."""
    pace = _pace(ctx, name, rows)
    return pace.seconds * ((1 - held) * pace.rows + held * pace.asked / _DEARER)


def _affordable(ctx: Context, name: str, share: float, epoch: float, after: float, most: int) -> int:
    """Return how many epochs of so many seconds fit in a share of the time, and what comes after; keep the answer."""
    kept, asked = None if ctx.folder is None else ctx.folder / _DECIDED, [ctx.key, ctx.minutes]
    found: dict[str, Any] = json.loads(kept.read_text("utf-8")) if kept is not None and kept.exists() else {}
    decided: dict[str, int] = found["epochs"] if found.get("asked") == asked else {}
    if name not in decided:
        left = ctx.deadline - time.monotonic()
        fit = int(min(most, max(0.0, share * left - after) / max(epoch, 1e-9)))
        decided[name] = fit if fit >= _FEWEST * most else 0
        if decided[name] < most:
            took = f"{epoch:.0f}" if epoch >= 1 else f"{max(epoch, 0.1):.1f}"
            ctx.log.warn(
                f"{name}: {decided[name]} of {most} epochs of fine-tuning, since each takes about "
                f"{took} s on this machine (minutes={ctx.minutes:g}); more minutes may make a better model"
            )
        if kept is not None:
            write_text(kept, json.dumps({"asked": asked, "epochs": decided}))
    return decided[name]


def relative_cost(ctx: Context, name: str, others: Sequence[str], rows: Rows) -> float:
    """Return what training other encoders costs in units of what this one costs, as their settings say; 0: no limit."""
    if ctx.deadline == math.inf or not others:
        return 0.0
    paces = ((_pace(ctx, one, rows), ctx.settings(one).epochs) for one in (name, *others))
    own, *rest = (pace.seconds * pace.rows * epochs for pace, epochs in paces)
    return float(ctx.runtime.ranks.lead(lambda: sum(rest) / max(own, 1e-9)))


@dataclass(frozen=True)
class Pace:
    """How fast an encoder is trained on this machine.

    Attributes:
        rows: Of an epoch: of texts, each with its label once.
        asked: Rows that have the modality.
        seconds: A row.
    """

    rows: int
    asked: int
    seconds: float


def _pace(ctx: Context, name: str, rows: Rows) -> Pace:
    """Return how fast an encoder is trained on some rows, measured once; not through the store, which may have them."""

    def measure() -> Pace:
        settings, has = ctx.settings(name), rows[ctx.sources[name].present[rows]]
        encoder = ctx.fresh_encoder(name)
        network = one_network(ctx, name, encoder, blank_linear(encoder.dim, len(ctx.classes)))
        what = _training(ctx, name, network, settings, rows, rows, name, True)
        return Pace(len(what.rows), len(has), seconds_a_row(ctx, what, _TIMED, _LIMIT))

    return ctx.remember(("pace", name), measure)


def _fine_tune(
    ctx: Context, name: str, settings: TrainConfig, rows: Rows, stage: str, held: Rows, single: bool
) -> EnsembleNetwork:
    encoder = ctx.fresh_encoder(name)
    network = one_network(ctx, name, encoder, probe(ctx, name, encoder, rows, held, stage))
    if has_training(settings, encoder):
        single = single or not is_pretrained(ctx.pristine[name])
        run_training(ctx, _training(ctx, name, network, settings, rows, held, stage, single))
    freeze(network)
    return network


def one_network(ctx: Context, name: str, encoder: Encoder, classifier: nn.Linear) -> EnsembleNetwork:
    """Return the network of one modality alone: f = f_m = W z + b."""
    return EnsembleNetwork([encoder], [name], [classifier], torch.zeros(len(ctx.classes))).to(ctx.runtime.device)


def _training(
    ctx: Context,
    name: str,
    network: EnsembleNetwork,
    settings: TrainConfig,
    rows: Rows,
    held: Rows,
    stage: str,
    start_counts: bool,
) -> Training:
    source = ctx.sources[name]
    rows, weight = _distinct(ctx, name, rows[source.present[rows]])
    classifier = list(network.classifiers.parameters())
    return Training(
        stage=stage,
        module=network,
        network=network,
        encoders={name: settings},
        loop=settings,
        groups=weight_groups(classifier, settings.head_lr, settings.weight_decay),
        rows=rows,
        held=held[source.present[held]],
        gradients=by_batch(ctx, lambda batch: stage_u_loss(name, network, batch, settings.dropout)),
        weight=weight,
        start_counts=start_counts,
    )


def stage_u_loss(name: str, network: EnsembleNetwork, batch: Batch, dropout: float) -> Tensor:
    """Return the mean loss of one modality's classifier over all views of a batch's rows."""
    z = {name: F.dropout(batch.features(network)[name], dropout, network.training)}
    return batch.loss(network.fuse(z, batch.present).f)


def solve_crossed(
    ctx: Context,
    name: str,
    encoder: Encoder,
    features: Array,
    rows: Rows,
    folds: Rows,
    words: bool = False,
    scale: str = "",
) -> tuple[EnsembleNetwork, npt.NDArray[np.float32]]:
    """Solve a classifier on an encoder that is not trained, its penalty chosen by cross-validation.

    Args:
        ctx: The run.
        name: The modality.
        encoder: The encoder.
        features: Its features of the rows, [1, rows, dim].
        rows: Row positions, of the training and validation parts.
        folds: Fold of each row.
        words: Are the features TF-IDF? Then they are not standardised one by one, and need less of a penalty.
        scale: What the log says of labels that are on another scale.

    Returns:
        The network, frozen, and for each row the logits of the solution that did not see it, float32 [rows, classes];
        zero where the modality is absent.
    """
    ctx.split.check(rows, "train", "valid")
    data = HeadData.of(ctx, {name: features}, rows).only(name)
    has = ctx.sources[name].present[rows]
    _refuse_too_few(name, data, "row")
    settings = HeadConfig(penalties=_WORD_PENALTIES, modality_dropout=0) if words else _probe_settings(ctx)
    fit = fit_crossed(data, data, folds[has], settings, len(ctx.classes), ctx.config.seed, each=not words)
    stage = (name + WORDS if words else name) + scale
    fit.tell(ctx.log, "probe", f"linear {ctx.target.model_word} on {stage}", stage=stage)
    assert isinstance(fit.head, LinearHead)
    network = one_network(ctx, name, encoder, fit.head.as_linear())
    freeze(network)
    held = np.zeros((len(rows), len(ctx.classes)), np.float32)
    held[has] = fit.held
    return network, held


def probe(
    ctx: Context, name: str, encoder: Encoder, rows: Rows, held: Rows, stage: str, read: int | None = None
) -> nn.Linear:
    """Solve a linear classifier on the features of the encoder as it is, or on the first `read` of them."""
    parts = ((some, ctx.encode(name, encoder, some)[..., :read]) for some in (rows, held))
    data, valid = (HeadData.of(ctx, {name: z}, some) for some, z in parts)
    return probe_on(ctx, name, data, valid, stage)


def probe_on(ctx: Context, name: str, data: HeadData, valid: HeadData, stage: str) -> nn.Linear:
    """Solve a linear classifier on features of training rows, its penalty chosen on others.

    Args:
        ctx: The run.
        name: The block, of which the rows that have it are looked at.
        data: Rows to learn from.
        valid: Rows that choices are made on.
        stage: Name for the log.

    Raises:
        TableError: If too few rows have it.
    """
    data, valid = data.only(name), valid.only(name)
    _refuse_too_few(name, valid, "validation row")
    _refuse_too_few(name, data, "training row")
    fit = fit_logistic(data, valid, _probe_settings(ctx), len(ctx.classes), ctx.config.seed)
    fit.tell(ctx.log, "probe", f"linear {ctx.target.model_word} on {stage}", stage=stage)
    assert isinstance(fit.head, LinearHead)
    return fit.head.as_linear()


def _probe_settings(ctx: Context) -> HeadConfig:
    return HeadConfig(penalties=ctx.config.head.penalties, modality_dropout=0)


def _refuse_too_few(name: str, data: HeadData, what: str) -> None:
    classes = len(np.unique(data.labels, axis=0))
    if classes < (1 if what == "validation row" else 2):
        part = f"no {what} has" if not classes else f"no {what}s of two classes have"
        raise TableError(f"{part} the input '{name}', so it cannot be trained; leave it out with --inputs")


def deviations(ctx: Context, name: str, network: EnsembleNetwork) -> Tensor:
    """Return the deviation of each feature of a frozen network over the training rows that have its modality, [dim]."""
    rows = ctx.split.rows("train")
    z = torch.from_numpy(ctx.encode(name, network.only[0], rows[ctx.sources[name].present[rows]])[0].copy())
    # A feature that hardly varies in training must not decide everything: a tenth of the usual deviation is the least.
    return (
        z.std(0, correction=0)
        .clamp(min=0.1 * float(z.var(0, correction=0).mean().sqrt()) + 1e-12)
        .to(ctx.runtime.device)
    )


def class_means(ctx: Context, name: str) -> Tensor:
    """Return the mean features of every class by the encoder as it is before training, [classes, dim].

    They are those of the training rows that have the modality. A class without such rows gets the mean of all.
    """
    rows = ctx.split.rows("train")
    rows = rows[ctx.sources[name].present[rows]]
    z = torch.from_numpy(ctx.encode(name, ctx.frozen_encoder(name), rows)[0].copy()).to(ctx.runtime.device)
    return means_by_class(z, ctx.targets(rows), z.mean(0).expand(len(ctx.classes), -1))


def means_by_class(z: Tensor, target: Tensor, other: Tensor) -> Tensor:
    """Return the mean of the features [rows, dim] of every class, and for classes without a row those of `other`.

    Args:
        z: Features, [rows, dim].
        target: Class index, int64 [rows].
        other: What stands for a class without rows, [classes, dim].
    """
    count = torch.bincount(target, minlength=len(other))[:, None]
    total = torch.zeros_like(other).index_add(0, target, z)
    return torch.where(count > 0, total / count.clamp(min=1), other)


def _distinct(ctx: Context, name: str, rows: Rows) -> tuple[Rows, npt.NDArray[np.float32]]:
    """Keep one row per distinct (text, label), weighted by how often it occurs: the same loss for fewer passes.

    Images of one patient often share one text. For other kinds all rows are kept. The weights of label and row are part
    of the weight.
    """
    own = ctx.sample_weight
    weight = np.ones(len(ctx.labels), dtype=np.float32)
    if own is not None:
        weight[rows] = own[rows] / own[rows].mean()
    if ctx.modalities[name].kind == "text":
        labels = np.unique(ctx.labels[rows], axis=0, return_inverse=True)[1].reshape(-1)
        pairs = np.stack([ctx.sources[name].digests[rows].view(np.int64), labels], 1)
        _, first, which = np.unique(pairs, axis=0, return_index=True, return_inverse=True)
        counts = np.bincount(which.reshape(-1), None if own is None else own[rows])
        weight[rows[first]] = counts / counts.mean()
        rows = np.sort(rows[first])
    return rows, weight * ctx.label_weights.astype(np.float32)
