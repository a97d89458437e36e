"""Fine-tune each encoder alone, freeze it, fit one head on the concatenation (arXiv 2505.06592, in its sound form).

What differs from the published procedure, and why: the rows are split before anything is trained; frozen encoders run
once per view into a store instead of in every epoch; features are standardised per modality; the head is solved to
convergence with a penalty chosen on validation rows; and its training inputs can come from encoders that never saw the
row (`crossfit`), because an encoder looks surer on rows that it was trained on than it is on new ones.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from fusetune.data.split import Rows, deal
from fusetune.errors import SplitError
from fusetune.features.store import Array
from fusetune.strategies.context import Context
from fusetune.strategies.heads import HeadData, HeadFit, fit_head
from fusetune.strategies.model import FusionModel
from fusetune.strategies.unimodal import fine_tune, freeze


def two_stage(ctx: Context) -> tuple[FusionModel, HeadFit]:
    """Return the fused model and how its head was chosen."""
    encoder_rows, head_rows = _stage_rows(ctx)
    with ctx.log.timed(ctx.seconds, "stage_u"):
        networks = {name: fine_tune(ctx, name, encoder_rows) for name in ctx.modalities}
    encoders = {name: network.encoder for name, network in networks.items()}
    with ctx.log.timed(ctx.seconds, "encode"):
        valid = ctx.head_data(encoders, ctx.split.rows("valid"))
        data = ctx.head_data(encoders, head_rows, views=ctx.config.views)
    classifiers = {name: network.head for name, network in networks.items()}
    if ctx.config.crossfit.how == "k":
        data = _out_of_fold(ctx, data)
    with ctx.log.timed(ctx.seconds, "stage_m"):
        on_logits = ctx.config.head.inputs == "logits"
        if on_logits:
            valid = on_classifiers(valid, classifiers)
            data = data if ctx.config.crossfit.how == "k" else on_classifiers(data, classifiers)
        fit = fit_fusion_head(ctx, data, valid)
    model = FusionModel(encoders, classifiers, fit.head, on_logits=on_logits).to(ctx.runtime.device)
    return freeze(model), fit


def fit_fusion_head(ctx: Context, data: HeadData, valid: HeadData) -> HeadFit:
    """Fit the configured head and say how it was chosen."""
    fit = fit_head(
        data, valid, ctx.config.head,
        classes=len(ctx.classes), runtime=ctx.runtime, seed=ctx.config.seed, log=ctx.log,
    )  # fmt: skip
    ctx.log.record("head", choice=fit.choice, valid_nll=fit.valid_nll, path=fit.path)
    return fit


def on_classifiers(data: HeadData, classifiers: Mapping[str, nn.Linear]) -> HeadData:
    """Replace features by the logits of each modality's own classifier."""
    with torch.inference_mode():
        z = {name: _logits(classifiers[name], block) for name, block in data.z.items()}
    return HeadData(z, data.present, data.labels, data.weights, data.keys)


def _stage_rows(ctx: Context) -> tuple[Rows, Rows]:
    """Return the rows that train the encoders and those that train the head."""
    train = ctx.split.rows("train")
    if ctx.config.crossfit.how != "holdout":
        return train, train
    share = ctx.config.crossfit.share
    dealt = _deal(ctx, train, (1 - share, share))
    if len(np.unique(ctx.labels[train[dealt == 1]])) < len(np.unique(ctx.labels[train])):
        raise SplitError("crossfit.share leaves a class without rows for the head; raise it, or set crossfit.how=off")
    return train[dealt == 0], train[dealt == 1]


def _deal(ctx: Context, rows: Rows, shares: tuple[float, ...]) -> Rows:
    units = ctx.ids if ctx.groups is None else ctx.groups
    # Another seed than the split's own, or the folds would repeat its order.
    return deal(ctx.ids.iloc[rows], ctx.labels[rows], units.iloc[rows], shares, ctx.config.seed + 1)


def _out_of_fold(ctx: Context, data: HeadData) -> HeadData:
    """Return each training row's logits from networks that were trained without its fold (stacking).

    The head then reads logits, not features: features of separately trained encoders are not comparable, logits are.
    The networks that stay in the model are those trained on all training rows, as in stacked generalisation.
    """
    train, folds = ctx.split.rows("train"), ctx.config.crossfit.folds
    dealt = _deal(ctx, train, (1 / folds,) * folds)
    views = next(iter(data.z.values())).shape[0]
    z = {name: np.zeros((views, len(train), len(ctx.classes)), np.float32) for name in ctx.modalities}
    for fold in range(folds):
        inside, outside = train[dealt != fold], train[dealt == fold]
        for name in ctx.modalities:
            with ctx.log.timed(ctx.seconds, "stage_u"):
                network = fine_tune(ctx, name, inside, f"{name}/fold {fold + 1} of {folds}")
            with ctx.log.timed(ctx.seconds, "encode"):
                part = ctx.head_data({name: network.encoder}, outside, ctx.config.views)
            with torch.inference_mode():
                z[name][:, dealt == fold] = _logits(network.head, part.z[name])
    return HeadData(z, data.present, data.labels, data.weights, data.keys)


def _logits(classifier: nn.Linear, z: Array) -> Array:
    device = classifier.weight.device
    found: Tensor = classifier(torch.from_numpy(np.array(z)).to(device))
    return found.cpu().numpy()
