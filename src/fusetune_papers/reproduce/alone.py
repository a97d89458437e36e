"""Networks trained alone: stage U on images, and the text network whose scores of every row are inputs of the head.

Published: the test rows choose the image network's epoch (L8). One text network is trained on all training rows and
scores them too (L4), validation rows included (L5); its first class is never learned (L7); padding counts in the mean
(L9); and scores are put beside the wrong rows (L6).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor

from fusetune.config import TrainConfig
from fusetune.context import Context
from fusetune.data.split import Rows, deal
from fusetune.networks import EnsembleNetwork
from fusetune.strategies.batch import Batch
from fusetune.strategies.trainer import Training, by_batch, run_training
from fusetune.train.loop import Keep
from fusetune.train.optim import weight_groups
from fusetune_papers.reproduce.lab import Lab, outputs_on, untrained
from fusetune_papers.reproduce.recipe import Recipe, TextStage

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


def fine_tune(lab: Lab, recipe: Recipe) -> tuple[Context, EnsembleNetwork]:
    """Stage U: all weights, SGD, a fresh random view per row and epoch; the epoch of the best accuracy is kept.

    Best on the validation rows, or on the test rows (L8). What it is trained on may include the former (L3).
    """
    assert recipe.image is not None
    run, settings = lab.images(recipe), recipe.image.training()
    network, rows = untrained(run, lab.draws), lab.parts.image
    judged = lab.test(image=True) if lab.on("L8") else lab.parts.valid
    _train(run, network, f"image ({recipe.encoder})", settings, rows, judged, "accuracy")
    lab.passes["watched"] += len(judged) * settings.epochs
    lab.passes["fine-tuning"] += len(rows) * settings.epochs
    return run, network


def text_scores(lab: Lab, stage: TextStage) -> Scores:
    """Train the text network and score every row (raw logits, one column per class)."""
    parts = lab.parts
    if lab.on("L4"):
        whole = _score(lab, stage, parts.text, "text")
        return Scores(whole[parts.source], whole)
    seen, whole = _out_of_fold(lab, stage, parts.text)
    return Scores(seen[parts.source], whole)


def _out_of_fold(lab: Lab, stage: TextStage, rows: Rows) -> tuple[Array, Array]:
    """Return all rows' scores by networks that never saw them, and the mean of all networks for every row.

    For rows that no network saw, the two are the same.
    """
    material = lab.material
    shares = (1 / _FOLDS,) * _FOLDS
    folds = deal(material.ids.iloc[rows], material.strata[rows], material.units.iloc[rows], shares, lab.seed + 1)
    scores = [_score(lab, stage, rows[folds != fold], f"text, fold {fold + 1} of {_FOLDS}") for fold in range(_FOLDS)]
    whole = np.mean(scores, axis=0)
    seen = whole.copy()
    for fold, own in enumerate(scores):
        seen[rows[folds == fold]] = own[rows[folds == fold]]
    return seen, whole


def _score(lab: Lab, stage: TextStage, rows: Rows, name: str) -> Array:
    """Train one network on some rows and return its logits for all rows; the weights of the last epoch are kept."""
    run, taught = lab.texts(stage, rows), None
    network = untrained(run, lab.draws)
    if lab.on("L7") and stage.one_based:
        taught = after_the_first
        (classifier,) = network.classifiers
        # The notebook's last column, which no label points at, stands for the first class.
        classifier.load_state_dict({key: value.roll(1, 0) for key, value in classifier.state_dict().items()})
    _train(run, network, name, stage.training(), rows, lab.parts.valid, "last", taught)
    return outputs_on(run, network, np.arange(len(run.labels)), batch_size=128).f.double().numpy()


def after_the_first(batch: Batch) -> Tensor:
    """Return which rows teach anything where labels are one less and -1 is ignored (L7): all but the first class's."""
    return batch.target > 0


def _train(
    run: Context,
    network: EnsembleNetwork,
    stage: str,
    settings: TrainConfig,
    rows: Rows,
    judged: Rows,
    keep: Keep,
    taught: Callable[[Batch], Tensor] | None = None,
) -> None:
    """Train encoder and classifier together by cross-entropy, all rows weighing alike."""
    (name,) = run.modalities

    def loss(batch: Batch) -> Tensor:
        return batch.loss(network.fuse(batch.features(network), batch.present).f, taught and taught(batch))

    run_training(
        run,
        Training(
            stage=stage,
            module=network,
            network=network,
            encoders={name: settings},
            loop=settings,
            groups=weight_groups(list(network.classifiers.parameters()), settings.head_lr, settings.weight_decay),
            rows=rows,
            held=judged,
            gradients=by_batch(run, loss),
            weight=np.ones(len(run.labels), dtype=np.float32),
            keep=keep,
        ),
    )
