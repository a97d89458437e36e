"""The text stage: a text network trained alone, whose scores of every row become inputs of the head.

Published: one network is trained on all training rows and scores them too (L4), validation rows included (L5); its
labels are shifted so that the first class is never learned (L7); padding counts in the mean (L9); and scores are put
beside the wrong rows (L6).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from fusetune.data.batch import ordered_batches, shuffled_batches
from fusetune.data.split import Rows, deal
from fusetune.data.tokens import TextInput, TextSource
from fusetune.encoders import Encoder, ShallowText, load_text_encoder, special_ids, train_word_tokenizer
from fusetune.runtime import seed_everything
from fusetune.train.loop import Task, by_loss, train
from fusetune.train.optim import encoder_groups, weight_groups
from fusetune_papers.reproduce.bench import Alone, Bench
from fusetune_papers.reproduce.recipe import TextStage

_FOLDS = 5
Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Scores:
    """One block that stands beside the image.

    Attributes:
        train: What the head learns from, float64 [training rows, width].
        all: What it is given for any row when it predicts, float64 [rows, width].
    """

    train: Array
    all: Array


def text_scores(bench: Bench, stage: TextStage) -> Scores:
    """Train the text network and score every row (raw logits, one column per class)."""
    parts = bench.parts
    if bench.on("L4"):
        whole = _score(bench, stage, parts.text, "text")
        return Scores(whole[parts.source], whole)
    seen, whole = _out_of_fold(bench, stage, parts.text)
    return Scores(seen[parts.source], whole)


def _out_of_fold(bench: Bench, stage: TextStage, rows: Rows) -> tuple[Array, Array]:
    """Return all rows' scores by networks that never saw them, and the mean of all networks for every row.

    For rows that no network saw, the two are the same.
    """
    material = bench.material
    units = material.ids if material.groups is None else material.groups
    shares = (1 / _FOLDS,) * _FOLDS
    folds = deal(material.ids.iloc[rows], material.labels[rows], units.iloc[rows], shares, bench.seed + 1)
    said = [_score(bench, stage, rows[folds != fold], f"text, fold {fold + 1} of {_FOLDS}") for fold in range(_FOLDS)]
    whole = np.mean(said, axis=0)
    seen = whole.copy()
    for fold, scores in enumerate(said):
        seen[rows[folds == fold]] = scores[rows[folds == fold]]
    return seen, whole


def _score(bench: Bench, stage: TextStage, rows: Rows, name: str) -> Array:
    """Train one network on some rows and return its logits for all rows, in their true columns."""
    source, encoder = _network(bench, stage, rows)
    model = Alone(encoder, len(bench.material.classes)).to(bench.runtime.device)
    settings, shifted = stage.training(), bench.on("L7") and stage.one_based
    valid = bench.parts.valid

    def loss(batch: Rows, raw: Any, _: int) -> Tensor:
        return F.cross_entropy(model(_to(bench, raw)), shifted_targets(bench.targets(batch), shifted), ignore_index=-1)

    def validate() -> tuple[float, float]:
        logits, target = _logits(bench, model, source, valid), bench.targets(valid).cpu()
        logits = logits.roll(1, 1) if shifted else logits
        return float(F.cross_entropy(logits, target)), float((logits.argmax(1) == target).double().mean())

    task = Task(
        name=name,
        batches=lambda epoch: shuffled_batches(rows, settings.batch_size, bench.seed, epoch),
        read=source.read,
        gradients=by_loss(bench.runtime, loss),
        validate=validate,
        set_training=lambda: _no_dropout(model),
        row_name=lambda row: str(bench.material.ids.iloc[row]),
    )
    groups = encoder_groups(model.encoder.blocks(), settings)
    groups += weight_groups(list(model.head.parameters()), settings.head_lr, 0)
    train(model, groups, task, settings, runtime=bench.runtime, seed=bench.seed, log=bench.log, keep="last")
    found = _logits(bench, model, source, np.arange(len(bench.material.labels))).double().numpy()
    # Column k of a shifted network stands for class k + 1; the last one, never trained upward, for the first class.
    return np.roll(found, 1, axis=1) if shifted else found


def shifted_targets(targets: Tensor, shifted: bool) -> Tensor:
    """Return the targets as published (L7): one less, so that the first class is the index that the loss ignores."""
    return targets - 1 if shifted else targets


def _network(bench: Bench, stage: TextStage, rows: Rows) -> tuple[TextSource, Encoder]:
    """Return all titles as ids and an untrained (shallow) or pretrained text encoder."""
    seed_everything(bench.seed, "text encoder")
    texts = bench.material.table.column("text")
    if stage.encoder == "shallow":
        tokenizer = train_word_tokenizer(texts.iloc[rows].dropna().astype("str").tolist())
        encoder: Encoder = ShallowText(tokenizer.get_vocab_size(), masked=not bench.on("L9"))
    else:
        encoder, tokenizer = load_network(bench, stage)
    fitted = TextInput("text", tokenizer, special_ids(tokenizer).pad, stage.max_tokens)
    return fitted.bind(bench.material.table), encoder


def load_network(bench: Bench, stage: TextStage) -> Any:
    """Return the pretrained text encoder of a stage and its tokenizer, or None if it has none.

    Raises:
        WeightsError: Its weights are not on this machine.
    """
    if stage.encoder == "shallow":
        return None
    return load_text_encoder(
        stage.encoder, max_tokens=stage.max_tokens, allow_download=bench.allow_download, pooling=stage.pooling
    )


def _logits(bench: Bench, model: Alone, source: TextSource, rows: Rows) -> Tensor:
    """Return logits on CPU, float32 [rows, classes]; batches are in the rows' order, as published."""
    model.eval()
    found = torch.zeros(len(rows), model.head.out_features)
    with torch.inference_mode():
        for places in ordered_batches(np.arange(len(rows)), 128):
            found[places] = model(_to(bench, source.read(rows[places]))).float().cpu()
    return found


def _to(bench: Bench, raw: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.to(bench.runtime.device) for name, tensor in raw.items()}


def _no_dropout(model: Alone) -> None:
    # As published: GPT-2 is loaded in evaluation mode and never put into training mode. The shallow network has none.
    model.eval()
