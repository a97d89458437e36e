"""Stage U: fine-tune one modality's encoder alone, every sample freshly augmented in every batch (arXiv 2505.06592).

The classifier starts from the solution on frozen features, not from random weights (linear probing, then fine-tuning:
Kumar et al. 2022, arXiv 2202.10054). The untouched encoder counts as the first candidate: where fine-tuning does not
lower the validation NLL, the encoder stays as it was. With one network per fold, a pretrained encoder's best epoch is
taken, and all folds together decide whether fine-tuning is undone (`two_stage`).

With `repeats`, a batch holds several views of each row, which is read once, and the loss is the mean over all of them
(batch augmentation in the sense of arXiv 1901.09335). An epoch then costs `repeats` times as many passes: for equal
cost divide the epochs, and the batch size too if the number of steps is to stay the same (arXiv 2105.13343).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fusetune.augment.mix import EMBEDDED, draw_mixing, join_views, plain_loss
from fusetune.config import HeadConfig, TrainConfig
from fusetune.data.batch import ordered_batches, prefetch, shuffled_batches
from fusetune.data.split import Rows
from fusetune.encoders import Encoder, is_pretrained
from fusetune.encoders.lora import add_lora, merge_lora
from fusetune.errors import TableError
from fusetune.features.store import Array
from fusetune.strategies.context import Context
from fusetune.strategies.heads import WORDS, HeadData, LinearHead
from fusetune.strategies.solve import fit_crossed, fit_logistic
from fusetune.train.checkpoint import Checkpoints
from fusetune.train.loop import Task, train
from fusetune.train.optim import parameter_groups

_WORD_PENALTIES = (1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5, 3e-6, 1e-6)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class Unimodal(nn.Module):
    """One encoder and its linear classifier: f_m = W_m z_m + b_m."""

    def __init__(self, encoder: Encoder, classes: int, dropout: float) -> None:
        super().__init__()
        self.encoder = encoder
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(encoder.dim, classes)

    def forward(self, inputs: Any, blend: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Return the logits, [batch, classes]; `blend` mixes features between the rows."""
        z = self.encoder(inputs)
        logits: Tensor = self.head(self.dropout(z if blend is None else blend(z)))
        return logits


def fine_tune(
    ctx: Context, name: str, rows: Rows | None = None, stage: str | None = None, held: Rows | None = None
) -> Unimodal:
    """Fine-tune one modality's encoder with a linear classifier.

    Args:
        ctx: The run.
        name: The modality.
        rows: Training rows to use; default: all of them. Rows without the modality are left out.
        stage: Name for progress and checkpoints; default: the modality's.
        held: Rows that choices are made on; default: the validation rows. Where others are given, validation rows may
            be among `rows`.

    Returns:
        The network with the weights of the epoch of lowest validation NLL, frozen. Without epochs, or without anything
        to train, the encoder is as it was and the classifier is solved on its features.
    """
    stage, settings, single = stage or name, ctx.settings(name), held is None
    rows = ctx.split.rows("train") if rows is None else rows
    if held is None:
        ctx.split.check(rows, "train")
        held = ctx.split.rows("valid")
    else:
        ctx.split.check(np.concatenate([rows, held]), "train", "valid")
    model = Unimodal(ctx.fresh_encoder(name), len(ctx.classes), settings.dropout).to(ctx.runtime.device)
    model.head = _probe(ctx, name, model.encoder, rows, held, stage).to(ctx.runtime.device)
    if has_training(settings, model.encoder):
        start_counts = single or not is_pretrained(ctx.pristine[name])
        _train(ctx, name, model, rows, held, stage, settings, start_counts)
    freeze(model)
    return model


def has_training(settings: TrainConfig, encoder: Encoder) -> bool:
    """Return whether fine-tuning would change anything."""
    return settings.epochs > 0 and settings.freeze < 1 and any(True for _ in encoder.parameters())


def solve_crossed(
    ctx: Context, name: str, encoder: Encoder, features: Array, rows: Rows, folds: Rows, words: bool = False
) -> tuple[Unimodal, npt.NDArray[np.float32]]:
    """Solve a classifier on an encoder that is not trained, its penalty chosen by cross-validation.

    Args:
        ctx: The run.
        name: The modality.
        encoder: The encoder.
        features: Its features of the rows, [1, rows, dim].
        rows: Row positions, of the training and validation parts.
        folds: Fold of each row.
        words: Are the features TF-IDF? Then they are not standardised one by one, and need less of a penalty.

    Returns:
        The network, frozen, and for each row the logits of the solution that did not see it, float32 [rows, classes];
        zero where the modality is absent.
    """
    ctx.split.check(rows, "train", "valid")
    data = ctx.with_labels({name: features}, rows).only(name)
    has = ctx.sources[name].present[rows]
    _refuse_too_few(name, data, "row")
    settings = HeadConfig(penalties=_WORD_PENALTIES, modality_dropout=0) if words else _probe_settings(ctx)
    fit = fit_crossed(data, data, folds[has], settings, len(ctx.classes), ctx.config.seed, each=not words)
    stage = name + WORDS if words else name
    ctx.log.record("probe", stage=stage, choice=fit.choice, valid_nll=fit.valid_nll)
    network = Unimodal(encoder, len(ctx.classes), 0.0).to(ctx.runtime.device)
    assert isinstance(fit.head, LinearHead)
    network.head = fit.head.as_linear().to(ctx.runtime.device)
    freeze(network)
    said = np.zeros((len(rows), len(ctx.classes)), np.float32)
    said[has] = fit.said
    return network, said


def _probe(ctx: Context, name: str, encoder: Encoder, rows: Rows, held: Rows, stage: str) -> nn.Linear:
    """Solve a linear classifier on the features of the encoder as it is."""
    data = ctx.head_data({name: encoder}, rows).only(name)
    valid = ctx.head_data({name: encoder}, held).only(name)
    _refuse_too_few(name, valid, "validation row")
    _refuse_too_few(name, data, "training row")
    fit = fit_logistic(data, valid, _probe_settings(ctx), len(ctx.classes), ctx.config.seed)
    ctx.log.record("probe", stage=stage, choice=fit.choice, valid_nll=fit.valid_nll)
    assert isinstance(fit.head, LinearHead)
    return fit.head.as_linear()


def _probe_settings(ctx: Context) -> HeadConfig:
    return HeadConfig(penalties=ctx.config.head.penalties, modality_dropout=0)


def _refuse_too_few(name: str, data: HeadData, what: str) -> None:
    found = len(np.unique(data.labels))
    if found < (1 if what == "validation row" else 2):
        part = f"no {what} has" if not found else f"no {what}s of two classes have"
        raise TableError(f"{part} the input '{name}', so it cannot be trained; leave it out with --inputs")


def freeze(model: nn.Module) -> None:
    """Put a model into eval mode and switch its gradients off."""
    model.eval()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
        parameter.grad = None


def _train(
    ctx: Context,
    name: str,
    model: Unimodal,
    rows: Rows,
    held: Rows,
    stage: str,
    settings: TrainConfig,
    start_counts: bool,
) -> None:
    source = ctx.sources[name]
    rows, weights = _distinct(ctx, name, rows[source.present[rows]])
    valid = held[source.present[held]]
    if settings.lora_rank:
        add_lora(model.encoder, settings.lora_rank, alpha=2.0 * settings.lora_rank)
    groups = parameter_groups(model.encoder.blocks(), list(model.head.parameters()), settings)

    def loss(batch: Rows, raw: Any, epoch: int) -> Tensor:
        return _loss(ctx, name, model, batch, raw, epoch, torch.from_numpy(weights[batch]))

    task = Task(
        name=stage,
        batches=lambda epoch: shuffled_batches(rows, settings.batch_size, ctx.config.seed, epoch, source.lengths),
        read=source.read,
        loss=loss,
        validate=lambda: _validate(ctx, name, model, valid),
        set_training=lambda: _set_training(model, settings),
        row_name=lambda row: str(ctx.ids.iloc[row]),
        repeats=settings.repeats,
    )
    key = hashlib.sha256(f"{ctx.key} {stage} {settings.model_dump_json()}".encode()).hexdigest()
    checkpoints = Checkpoints(ctx.folder / stage.replace("/", "_"), key, settings.keep)
    history = train(
        model, groups, task, settings,
        runtime=ctx.runtime, seed=ctx.config.seed, log=ctx.log, checkpoints=checkpoints, resume=ctx.resume,
        start_counts=start_counts,
    )  # fmt: skip
    if settings.lora_rank:
        merge_lora(model.encoder)
    ctx.histories[stage] = history
    ctx.trained_rows[name] += history.rows_seen


def _loss(ctx: Context, name: str, model: Unimodal, batch: Rows, raw: Any, epoch: int, weights: Tensor) -> Tensor:
    """Return the mean loss over all views of a batch's rows, mixed within each view where the settings say so."""
    settings, kind = ctx.settings(name), ctx.modalities[name].kind
    inputs = ctx.drawn(name, raw, batch, epoch, settings.repeats)
    target = ctx.targets(batch)
    weight = (weights.to(ctx.class_weights) * ctx.class_weights[ctx.labels[batch]]).to(target.device)
    target, weight = target.repeat(settings.repeats), weight.repeat(settings.repeats)
    if settings.mix.kind == "off":
        return plain_loss(model(inputs), target, weight, settings.label_smoothing).mean()
    side = inputs.shape[-1] if kind == "image" else None
    moments = [ctx.moment(epoch, view) for view in range(settings.repeats)]
    mixing = join_views([draw_mixing(settings.mix, ctx.row_keys(batch), moment, side=side) for moment in moments])
    logits = model(mixing.inputs(kind, inputs), mixing.blend if kind in EMBEDDED else None)
    return mixing.loss(logits, target, weight, settings.label_smoothing).mean()


def _distinct(ctx: Context, name: str, rows: Rows) -> tuple[Rows, npt.NDArray[np.float32]]:
    """Keep one row per distinct (text, label), weighted by how often it occurs: the same loss for fewer passes.

    Images of one patient often share one text. For other kinds all rows are kept, with weight 1.
    """
    weights = np.ones(len(ctx.labels), dtype=np.float32)
    if ctx.modalities[name].kind != "text":
        return rows, weights
    pairs = np.stack([ctx.sources[name].digests[rows].view(np.int64), ctx.labels[rows]], 1)
    _, first, counts = np.unique(pairs, axis=0, return_index=True, return_counts=True)
    weights[rows[first]] = counts / counts.mean()
    return np.sort(rows[first]), weights


def _validate(ctx: Context, name: str, model: Unimodal, rows: Rows) -> tuple[float, float]:
    """Return NLL and accuracy on plain inputs."""
    model.eval()
    source, settings = ctx.sources[name], ctx.settings(name)
    batches = ordered_batches(rows, max(32, settings.batch_size), source.lengths)
    nll = hits = 0.0
    with torch.inference_mode():
        for batch, raw in prefetch(batches, lambda batch: (batch, source.read(batch))):
            with ctx.runtime.fabric.autocast():
                logits = model(ctx.plain(name, raw)).float()
            target = ctx.targets(batch)
            nll += float(F.cross_entropy(logits, target, reduction="sum"))
            hits += float((logits.argmax(1) == target).sum())
    return nll / max(len(rows), 1), hits / max(len(rows), 1)


def _set_training(model: Unimodal, settings: TrainConfig) -> None:
    model.train()
    for module in model.modules():
        if isinstance(module, _NORMS):
            fixed = settings.batch_norm == "frozen" or not any(p.requires_grad for p in module.parameters())
            module.train(not fixed)
