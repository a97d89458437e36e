"""Joint training: all encoders and one linear head on their concatenation, end to end, by one cross-entropy.

    min over phi, A, b of CE(f, y),  f = b + sum_m A_m phi_m(x_m)

This is also the base of every method that trains end to end. A method changes exactly one thing: `loss`, `gradients`
with `before_step`, `before_epoch`, or the head. What it remembers between steps are buffers, so that resuming and
averaging come for free. Nothing depends on the names of parameters.

Training starts from the solved linear probe, as stage U does (arXiv 2202.10054), and may end there: the start is a
candidate. Classifiers W_m on each z_m learn beside it without reaching the encoders (`listening`): they say what every
modality knows.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fusetune.config import Section, StageConfig
from fusetune.context import Context
from fusetune.heads.base import HeadData
from fusetune.heads.linear import LinearHead
from fusetune.heads.solver import fit_logistic
from fusetune.networks import FusionNetwork, Outputs, Wiring
from fusetune.runtime import seed_everything
from fusetune.strategies.base import WHOLE, Fitted, Strategy, held_by
from fusetune.strategies.batch import Batch
from fusetune.strategies.trainer import Training, run_training
from fusetune.strategies.unimodal import probe
from fusetune.train.optim import weight_groups


class JointSettings(StageConfig):
    """The loop of end-to-end training. How each encoder moves stands in `image.train`, `text.train` and so on."""

    head_lr: float = 1e-3
    head_decay: float = 0.01


class Joint(nn.Module, Strategy):
    """Encoders and head trained together; the base of methods that change the loss or the gradients."""

    name, title, paper = "joint", "joint", "late fusion, end to end"
    Settings: ClassVar[type[Section]] = JointSettings
    network: FusionNetwork

    def __init__(self, ctx: Context, settings: Any) -> None:
        super().__init__()
        self.ctx, self.settings = ctx, settings
        seed_everything(ctx.config.seed, self.name)
        self.network = copy.deepcopy(ctx.remember("joint start", lambda: start(ctx))).to(ctx.runtime.device)

    def begin(self) -> None:
        """Prepare what training needs, such as teachers: once, before the first epoch."""

    def before_epoch(self, epoch: int) -> None:
        """Prepare what an epoch needs."""

    def loss(self, batch: Batch, outputs: Outputs) -> Tensor:
        """Return the mean loss of a batch."""
        return batch.loss(outputs.f)

    def gradients(self, batch: Batch, outputs: Outputs, share: float) -> Tensor:
        """Add `share` times the gradient of the loss to every `.grad`; return the loss."""
        loss = self.loss(batch, outputs)
        self.backward((loss + self.listening(batch, outputs)) * share)
        return loss

    def before_step(self) -> None:
        """Change the gradients of a whole optimiser step, however many batches it has."""

    def listening(self, batch: Batch, outputs: Outputs) -> Tensor:
        """Return the loss of the classifiers that say what each modality knows alone; it reaches no encoder."""
        alone = self.network.fuse({name: z.detach() for name, z in outputs.z.items()}, batch.present).f_m
        return self.alone_loss(batch, alone)

    def alone_loss(self, batch: Batch, f_m: dict[str, Tensor]) -> Tensor:
        """Return sum_m CE(f_m, y), each over the rows that have the modality."""
        return torch.stack([batch.loss(logits, batch.present[name]) for name, logits in f_m.items()]).sum()

    def backward(self, loss: Tensor) -> None:
        """Run the backward pass of a loss."""
        self.ctx.runtime.fabric.backward(loss)

    @classmethod
    def fit(cls, ctx: Context, settings: Any) -> Fitted:
        """Train end to end on the training rows; the validation rows choose the epoch."""
        before, held = ctx.cost(), ctx.split.rows("valid")
        method = cls(ctx, settings).to(ctx.runtime.device)
        method.begin()
        heads = [*method.network.head.parameters(), *method.network.classifiers.parameters()]
        with ctx.log.timed(ctx.seconds, cls.name):
            if settings.epochs:
                run_training(ctx, method.training_of(heads, held))
        network = method.network.eval().requires_grad_(False)
        history = ctx.histories.get(f"strategy {cls.name}")
        epoch = history.best_epoch + 1 if history else 0
        notes = {WHOLE: f"all encoders and one head together, {f'epoch {epoch}' if epoch else 'no epoch kept'}"}
        notes |= dict.fromkeys(ctx.modalities, "classifier on its jointly trained encoder")
        return Fitted(network, held, held_by(ctx, network, held), notes, ctx.cost() - before)

    def training_of(self, heads: list[nn.Parameter], held: Any) -> Training:
        """Return what is trained, for the common code."""
        ctx, settings = self.ctx, self.settings
        dropout = {name: ctx.settings(name).dropout for name in ctx.modalities}

        def gradients(batch: Batch, share: float) -> float:
            with ctx.runtime.fabric.autocast():
                z = batch.features(self.network)
                kept = {name: F.dropout(own, dropout[name], self.training) for name, own in z.items()}
                outputs = replace(self.network.fuse(kept, batch.present), z=z).to_float()
            return float(self.gradients(batch, outputs, share).detach())

        return Training(
            stage=f"strategy {self.name}",
            module=self,
            network=self.network,
            encoders={name: ctx.settings(name) for name in ctx.modalities},
            loop=settings,
            groups=weight_groups(heads, settings.head_lr, settings.head_decay),
            rows=ctx.split.rows("train"),
            held=held,
            gradients=gradients,
            weight=ctx.class_weights.numpy()[ctx.labels],
            before_epoch=self.before_epoch,
            before_step=self.before_step,
        )


def start(ctx: Context) -> FusionNetwork:
    """Return untrained encoders under the head and the classifiers that are solved on their features."""
    names, train, valid = list(ctx.modalities), ctx.split.rows("train"), ctx.split.rows("valid")
    encoders = [ctx.fresh_encoder(name) for name in names]
    pairs = list(zip(names, encoders, strict=True))
    data, held = (
        HeadData.of(ctx, {name: ctx.encode(name, encoder, rows) for name, encoder in pairs}, rows)
        for rows in (train, valid)
    )
    head = fit_logistic(data, held, ctx.config.head, len(ctx.classes), ctx.config.seed).head
    assert isinstance(head, LinearHead)
    classifiers = [probe(ctx, name, encoder, train, valid, name) for name, encoder in pairs]
    places = {name: at for at, name in enumerate(names)}
    return FusionNetwork(encoders, classifiers, head, Wiring(names, {n: [at] for n, at in places.items()}, places, []))
