"""Fine-tune each encoder alone, freeze it, fit one head on the concatenation (arXiv 2505.06592, in its sound form).

What differs from the published procedure, and why: the rows are split before anything is trained; frozen encoders run
once per view into a store instead of in every epoch; features are standardised per modality; the head is solved to
convergence with a penalty chosen on validation rows; and its training rows are rows that the encoders have not seen
(`crossfit`), because an encoder looks surer on rows that it was trained on than it is on new ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from fusetune.data.split import Rows, deal
from fusetune.encoders import Encoder, is_pretrained
from fusetune.errors import SplitError
from fusetune.features.store import Array
from fusetune.strategies.context import Context
from fusetune.strategies.heads import PRETRAINED, HeadData, HeadFit, fit_head, owner
from fusetune.strategies.model import FusionModel, Member
from fusetune.strategies.unimodal import Unimodal, fine_tune, freeze, has_training


@dataclass(frozen=True)
class Plan:
    """One member: which training rows its encoders and its head see."""

    name: str
    encoder_rows: Rows
    head_rows: Rows


def two_stage(ctx: Context) -> tuple[FusionModel, list[HeadFit]]:
    """Return the fused model and how each member's head was chosen."""
    encoders: list[Encoder] = []
    owners: list[str] = []
    members, fits = [], []
    for plan in plans(ctx):
        with ctx.log.timed(ctx.seconds, "stage_u"):
            networks = {name: fine_tune(ctx, name, plan.encoder_rows, name + plan.name) for name in ctx.modalities}
        blocks = _blocks(ctx, networks)
        uses = {block: _index(encoder, owner(block), encoders, owners) for block, encoder in blocks.items()}
        member, fit = fuse(ctx, networks, blocks, uses, plan)
        members.append(member)
        fits.append(fit)
        ctx.log.say(f"  head{plan.name}: {fit.choice}, valid NLL {fit.valid_nll:.3f}")
        ctx.log.record("head", member=plan.name, choice=fit.choice, valid_nll=fit.valid_nll, path=fit.path)
    model = FusionModel(encoders, owners, members).to(ctx.runtime.device)
    freeze(model)
    return model, fits


def fuse(
    ctx: Context,
    networks: Mapping[str, Unimodal],
    encoders: Mapping[str, Encoder],
    uses: Mapping[str, int],
    plan: Plan,
) -> tuple[Member, HeadFit]:
    """Encode the head's rows with frozen encoders and fit the head."""
    classifiers = {name: network.head for name, network in networks.items()}
    with ctx.log.timed(ctx.seconds, "encode"):
        data = ctx.head_data(encoders, plan.head_rows, ctx.config.views)
        valid = ctx.head_data(encoders, ctx.split.rows("valid"))
    on_logits = ctx.config.head.inputs == "logits"
    with ctx.log.timed(ctx.seconds, "stage_m"):
        if on_logits:
            data, valid = on_classifiers(data, classifiers), on_classifiers(valid, classifiers)
        fit = fit_head(
            data, valid, ctx.config.head,
            classes=len(ctx.classes), runtime=ctx.runtime, seed=ctx.config.seed, log=ctx.log,
        )  # fmt: skip
    return Member(uses, classifiers, fit.head, on_logits), fit


def plans(ctx: Context) -> list[Plan]:
    """Divide the training rows between encoders and heads.

    `off`: all rows for both. `holdout`: the head gets rows kept back from the encoders. `k`: that k times over, so that
    every row serves both, and the members' logits are averaged (stacking, arXiv 2111.02705, with a head per fold).
    Where nothing is trained, no row has been seen, and all rows serve both.
    """
    train, how = ctx.split.rows("train"), ctx.config.crossfit
    trained = any(has_training(ctx.settings(name), ctx.pristine[name]) for name in ctx.modalities)
    if how.how == "off" or not (trained or ctx.config.head.inputs == "logits"):
        return [Plan("", train, train)]
    units = ctx.ids if ctx.groups is None else ctx.groups
    shares = (1 - how.share, how.share) if how.how == "holdout" else (1 / how.folds,) * how.folds
    # Another seed than the split's own, or the folds would repeat its order.
    dealt = deal(ctx.ids.iloc[train], ctx.labels[train], units.iloc[train], shares, ctx.config.seed + 1)
    parts = [1] if how.how == "holdout" else list(range(how.folds))
    found = []
    for part in parts:
        inside, outside = train[dealt != part], train[dealt == part]
        if len(np.unique(ctx.labels[outside])) < len(np.unique(ctx.labels[train])):
            raise SplitError(
                "cross-fitting leaves a class without rows for the head; use fewer crossfit.folds, a larger "
                "crossfit.share, or crossfit.how=off"
            )
        found.append(Plan("" if len(parts) == 1 else f", fold {part + 1} of {len(parts)}", inside, outside))
    return found


def on_classifiers(data: HeadData, classifiers: Mapping[str, nn.Linear]) -> HeadData:
    """Replace features by the logits of each modality's own classifier."""
    with torch.inference_mode():
        z = {name: _logits(layer, data.z[name]) for name, layer in classifiers.items()}
    return HeadData(z, {name: data.present[name] for name in z}, data.labels, data.weights, data.keys)


def _blocks(ctx: Context, networks: Mapping[str, Unimodal]) -> dict[str, Encoder]:
    """Return the encoders that the head reads, by block: the fine-tuned ones and, beside them, the pretrained ones.

    What the encoder knew before fine-tuning is honest about every training row, and it is diverse.
    """
    blocks = {name: network.encoder for name, network in networks.items()}
    if ctx.config.head.pretrained and ctx.config.head.inputs == "features":
        for name, network in networks.items():
            before = ctx.pristine[name]
            if is_pretrained(before) and not _same(before.to(ctx.runtime.device), network.encoder):
                blocks[name + PRETRAINED] = ctx.fresh_encoder(name)
    return blocks


def _index(encoder: Encoder, name: str, encoders: list[Encoder], owners: list[str]) -> int:
    """Return the encoder's place in the model; members with equal encoders share one."""
    for index, (known, modality) in enumerate(zip(encoders, owners, strict=True)):
        if modality == name and _same(known, encoder):
            return index
    encoders.append(encoder)
    owners.append(name)
    return len(encoders) - 1


def _same(first: nn.Module, second: nn.Module) -> bool:
    one, two = first.state_dict(), second.state_dict()
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def _logits(classifier: nn.Linear, z: Array) -> Array:
    device = classifier.weight.device
    found: Tensor = classifier(torch.from_numpy(np.array(z)).to(device))
    return found.cpu().numpy()
