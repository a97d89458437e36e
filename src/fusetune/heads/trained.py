"""Heads that have no closed form are trained with the common loop, on features that were encoded before."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fusetune.augment.features import FeatureAugment
from fusetune.augment.mix import draw_mixing, plain_loss
from fusetune.augment.random import Moment
from fusetune.config import FeaturePolicy, HeadConfig
from fusetune.data.batch import shuffled_batches
from fusetune.heads import HEADS
from fusetune.heads.base import Head, HeadData, HeadFit, drop_modalities
from fusetune.heads.linear import LinearHead
from fusetune.heads.solver import fit_logistic, fit_ridge
from fusetune.process import Draws
from fusetune.progress import Log
from fusetune.runtime import Runtime
from fusetune.train.loop import Task, by_loss, train
from fusetune.train.optim import weight_groups


def fit_head(
    data: HeadData, valid: HeadData, config: HeadConfig, *, classes: int, runtime: Runtime, seed: int, log: Log
) -> HeadFit:
    """Fit the head that the configuration names; choices are made on the validation rows.

    Feature augmentation (`head.augment`) is drawn anew in every epoch of a trained head. A solved head has no epochs:
    it sees every stored view once more, augmented.
    """
    match config.kind:
        case "logistic":
            return fit_logistic(with_augmented(data, config, classes, seed), valid, config, classes, seed)
        case "ridge":
            return fit_ridge(with_augmented(data, config, classes, seed), valid, config, classes, seed)
        case _:
            dims = {name: z.shape[-1] for name, z in data.z.items()}
            with Draws(seed, "head", config.kind):
                head = HEADS[config.kind](dims, classes)
            return _fit_network(head, data, valid, config, runtime, seed, log)


def _fit_network(
    head: Head, data: HeadData, valid: HeadData, config: HeadConfig, runtime: Runtime, seed: int, log: Log
) -> HeadFit:
    """Train a non-linear head with the common loop; epoch e sees view e mod V."""
    head.fit_scale(data)
    settings = config.train
    head.to(runtime.device)
    rows = np.arange(len(data.labels))
    augments = _augments(head, config.augment)

    def tensors(source: HeadData, at: npt.NDArray[np.int64], view: int) -> dict[str, Tensor]:
        return {name: torch.from_numpy(np.array(z[view][at])).to(runtime.device) for name, z in source.z.items()}

    def loss(at: npt.NDArray[np.int64], _: Any, epoch: int) -> Tensor:
        moment, keys = Moment(seed, epoch), torch.from_numpy(data.keys[at])
        has = {name: bits[at] for name, bits in data.present.items()}
        left = drop_modalities(has, keys, moment, config.modality_dropout, data.owners)
        kept = {name: torch.from_numpy(bits).to(runtime.device) for name, bits in left.items()}
        z = tensors(data, at, epoch % next(iter(data.z.values())).shape[0])
        z = {name: augments[name].draw(block, keys.to(block.device), moment) for name, block in z.items()}
        labels = data.target.tensor(data.labels[at]).to(runtime.device)
        weights = torch.from_numpy(data.weights[at]).float().to(runtime.device)
        if config.mix.kind == "off":
            return plain_loss(head(z, kept), labels, weights, loss=data.target.losses).mean()
        mixing = draw_mixing(config.mix, keys.to(runtime.device), moment, present=list(kept.values()))
        logits = head({name: mixing.blend(block) for name, block in z.items()}, kept)
        return mixing.loss(logits, labels, weights, loss=data.target.losses).mean()

    def validate() -> tuple[float, float]:
        return _judge(head, tensors(valid, np.arange(len(valid.labels)), 0), valid)

    task = Task(
        name=f"head ({head.kind})",
        batches=lambda epoch: shuffled_batches(rows, settings.batch_size, seed, epoch),
        read=lambda at, epoch: at,
        gradients=by_loss(runtime, loss),
        validate=validate,
        set_training=head.train,
        row_name=str,
    )
    groups = weight_groups(list(head.parameters()), settings.lr, settings.weight_decay)
    quiet = Log(log.path, quiet=True)
    history = train(head, groups, task, settings, runtime=runtime, seed=seed, log=quiet)
    head.eval()
    return HeadFit(head.cpu(), history.best_nll, f"{head.kind}, epoch {history.best_epoch + 1} of {settings.epochs}")


def _augments(head: Head, policy: FeaturePolicy) -> dict[str, FeatureAugment]:
    """Return each block's augmentation, by the training statistics that the head has learnt."""
    return {name: FeatureAugment(policy, name, *head.statistics(name)) for name in head.dims}


def with_augmented(data: HeadData, config: HeadConfig, classes: int, seed: int) -> HeadData:
    """Append an augmented copy of every view, where `head.augment` asks for anything."""
    if config.augment == FeaturePolicy():
        return data
    scaled = LinearHead({name: z.shape[-1] for name, z in data.z.items()}, classes)
    scaled.fit_scale(data)
    keys, z = torch.from_numpy(data.keys), {}
    for name, augment in _augments(scaled, config.augment).items():
        views = [torch.from_numpy(np.array(view)) for view in data.z[name]]
        fresh = [augment.draw(view, keys, Moment(seed, view=index)).numpy() for index, view in enumerate(views)]
        z[name] = np.concatenate([data.z[name], np.stack(fresh)])
    return replace(data, z=z)


def _judge(head: Head, z: dict[str, Tensor], data: HeadData) -> tuple[float, float]:
    head.eval()
    with torch.inference_mode():
        device = next(head.parameters()).device
        logits = head(z, {name: torch.from_numpy(bits).to(device) for name, bits in data.present.items()})
        truth = data.target.tensor(data.labels).to(device)
        rows = data.target.losses(logits, truth), data.target.scores(logits, truth)
        if data.sample_weight is None:
            return float(rows[0].mean()), float(rows[1].mean())
        share = torch.from_numpy(data.sample_weight / data.sample_weight.sum()).to(logits)
        return float(share @ rows[0]), float(share @ rows[1])
