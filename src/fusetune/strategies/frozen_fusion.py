"""Fusion of encoders that were tuned alone: kept frozen, or tuned on together with the fusion (a baseline, no method).

    phi_m, W_m = argmin CE(W_m phi_m(x_m) + b_m, y) for each modality (stage U)
    f = h(phi_1(x_1), ..., phi_M(x_M)), h linear, gated, low-rank bilinear, with a hidden layer, or a small Transformer
    frozen-fusion:  h = argmin CE(f, y), phi_m fixed
    tuned-fusion:   the same as a start, then CE(f, y) for phi_m and h alike

Two baselines that most balancing methods do not beat (arXiv 2411.07335, table 1: 72.4 and 73.3 on CREMA-D, plain joint
training 62.6). With `fusion: transformer` they are SimBaMM's two forms (arXiv 2512.22991). The fusion learns from what
encoders say of their own training rows, as it does there; `two-stage` is the same without that (`crossfit`).
"""

from __future__ import annotations

import copy
from typing import ClassVar, Literal

from pydantic import Field

from fusetune.config import Section
from fusetune.context import Context
from fusetune.heads.base import HeadData, HeadFit
from fusetune.heads.trained import fit_head
from fusetune.networks import FusionNetwork
from fusetune.strategies.base import ANY_TARGET, WHOLE, Fitted, Strategy, held_by
from fusetune.strategies.end_to_end import EndToEndSettings, late_fusion
from fusetune.strategies.joint import Joint
from fusetune.strategies.trainer import freeze
from fusetune.strategies.two_stage import whole_note
from fusetune.strategies.unimodal import fine_tune

Fusion = Literal["linear", "gated", "bilinear", "mlp", "transformer"]
_FUSION = "what reads the features: a solved linear head, or one that is trained as `head.train` says"


class FrozenFusionSettings(Section):
    """What is put on the encoders."""

    fusion: Fusion = Field("linear", description=_FUSION)


class FrozenFusion(Strategy):
    """Encoders tuned alone, then frozen; one head on their features."""

    name, title, paper = "frozen-fusion", "frozen-fusion", "unimodal encoders, frozen, and trained fusion"
    targets = ANY_TARGET
    cost = "the training of every encoder alone, every view of a row through every encoder once, and one small head"
    Settings = FrozenFusionSettings

    @classmethod
    def fit(cls, ctx: Context, settings: FrozenFusionSettings) -> Fitted:
        """Fine-tune every encoder alone, and fit the head; the validation rows choose epochs and penalty."""
        before, held = ctx.cost(), ctx.split.rows("valid")
        with ctx.log.timed(ctx.seconds, cls.name):
            network, fit = fused(ctx, settings.fusion)
        improved = [name for name in ctx.modalities if name in ctx.histories and ctx.histories[name].best_epoch >= 0]
        notes: dict[str | None, str] = {
            name: "fine-tuned" if name in improved else f"linear {ctx.target.model_word} on its features"
            for name in ctx.modalities
        }
        notes[WHOLE] = f"{whole_note(improved, len(ctx.modalities))} ({fit.choice})"
        return Fitted(network, held, held_by(ctx, network, held), notes, ctx.cost() - before, fit.tried)


class TunedFusionSettings(EndToEndSettings):
    """The loop of joint training, and what is put on the encoders."""

    fusion: Fusion = Field("linear", description=_FUSION)


class TunedFusion(Joint):
    """Joint training that starts from frozen fusion."""

    name, title, paper = "tuned-fusion", "tuned-fusion", "unimodal encoders and trained fusion, fine-tuned on"
    targets = ANY_TARGET
    cost = "the training of every encoder alone, then one training of all"
    Settings = TunedFusionSettings
    untouched: ClassVar[str] = "encoder, fine-tuned alone"

    @classmethod
    def prepare(cls, ctx: Context, settings: TunedFusionSettings) -> None:
        """Fine-tune every encoder alone, and fit the head."""
        fused(ctx, settings.fusion)

    def start(self) -> FusionNetwork:
        """Return what frozen fusion ends with."""
        return tunable(self.ctx, self.settings.fusion)


def fused(ctx: Context, fusion: Fusion) -> tuple[FusionNetwork, HeadFit]:
    """Return the network of encoders that were tuned alone under one head, frozen, and how the head was chosen.

    Asked for twice, it is made once; whoever trains it takes a copy (`tunable`).
    """
    return ctx.remember(("frozen fusion", fusion), lambda: _fused(ctx, fusion))


def tunable(ctx: Context, fusion: Fusion = "linear") -> FusionNetwork:
    """Return a copy of the same network that can be trained."""
    return copy.deepcopy(fused(ctx, fusion)[0]).requires_grad_(True)


def _fused(ctx: Context, fusion: Fusion) -> tuple[FusionNetwork, HeadFit]:
    train, valid = ctx.split.rows("train"), ctx.split.rows("valid")
    pairs = {name: fine_tune(ctx, name).only for name in ctx.modalities}
    data = HeadData.of(
        ctx, {name: ctx.encode(name, one, train, ctx.views()) for name, (one, _) in pairs.items()}, train
    )
    held = HeadData.of(ctx, {name: ctx.encode(name, one, valid) for name, (one, _) in pairs.items()}, valid)
    kind = "logistic" if fusion == "linear" else fusion
    config = ctx.config.head.model_copy(update={"kind": kind, "blockwise": False})
    fit = fit_head(data, held, config, classes=len(ctx.classes), runtime=ctx.runtime, seed=ctx.config.seed, log=ctx.log)
    fit.tell(ctx.log, "head", f"head on {', '.join(pairs)}", blocks=list(pairs))
    encoders, classifiers = zip(*pairs.values(), strict=True)
    network = late_fusion(list(pairs), encoders, classifiers, fit.head).to(ctx.runtime.device)
    freeze(network)
    return network, fit
