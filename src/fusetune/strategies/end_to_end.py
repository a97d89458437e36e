"""The base of every method that trains all encoders and one linear head together, end to end.

A method changes exactly one thing: `loss`, `gradients` with `before_step`, `before_epoch`, what comes between encoders
and head (`features`, `fused`), or the network (`start`). Modules of its own learn with the head. What it remembers from
step to step are buffers, so that resuming and averaging come for free. Nothing depends on the names of parameters.

Training starts from the solved linear probe, as stage U does (arXiv 2202.10054), and may end there: the start is a
candidate. Classifiers W_m on each z_m learn beside it without reaching the encoders (`listening`): they say what every
modality knows.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from fusetune.config import Section, StageConfig
from fusetune.context import Context
from fusetune.data.schema import free_name
from fusetune.data.split import Rows
from fusetune.encoders import Encoder
from fusetune.errors import ConfigError
from fusetune.heads.base import Head, HeadData
from fusetune.heads.linear import LinearHead
from fusetune.heads.solver import fit_logistic
from fusetune.networks import FusionNetwork, Outputs, Wiring
from fusetune.process import Draws
from fusetune.ranks import is_sharded
from fusetune.strategies.base import WHOLE, Fitted, Strategy, held_by
from fusetune.strategies.batch import Batch
from fusetune.strategies.trainer import Training, run_training
from fusetune.strategies.unimodal import probe
from fusetune.train.optim import weight_groups


class EndToEndSettings(StageConfig):
    """The loop of end-to-end training. How each encoder moves stands in `image.train`, `text.train` and so on."""

    head_lr: float = Field(1e-3, gt=0, description="learning rate of the head")
    head_decay: float = Field(0.01, ge=0, description="weight decay of the head")


class EndToEnd(nn.Module, Strategy, ABC):
    """Encoders and head, the loss or gradients of a method, and the way from the one to the other."""

    Settings: ClassVar[type[Section]] = EndToEndSettings
    untouched: ClassVar[str] = "encoder as it was"  # what is said of an encoder if no epoch is kept
    network: FusionNetwork
    still: frozenset[str] = frozenset()  # modalities whose encoders stay as they are
    together: ClassVar[str] = "all encoders and one head together"  # what is trained, in a few words

    def __init__(self, ctx: Context, settings: Any) -> None:
        super().__init__()
        self.ctx, self.settings = ctx, settings
        self.network = self.start().to(ctx.runtime.device)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """Copy what is trained, for the moving average; the run that it belongs to is not copied with it."""
        memo[id(self.ctx)] = self.ctx
        memo[id(self)] = twin = self.__class__.__new__(self.__class__)
        twin.__dict__ = copy.deepcopy(self.__dict__, memo)
        return twin

    def train(self, mode: bool = True) -> Self:
        """Put all modules into training mode but encoders that stay as they are, which nothing random touches."""
        super().train(mode)
        for name, encoder in self.network.members:
            encoder.train(mode and name not in self.still)
        return self

    @classmethod
    def prepare(cls, ctx: Context, settings: Any) -> None:
        """Make what `start` takes a copy of; it takes a while, and draws nothing that others would have to wait for."""
        start_of(ctx)

    def start(self) -> FusionNetwork:
        """Return the network that training starts from, which is this method's own."""
        return copy.deepcopy(start_of(self.ctx))

    @abstractmethod
    def loss(self, batch: Batch, outputs: Outputs) -> Tensor:
        """Return the mean loss of a batch; `outputs.z` are the features before dropout."""

    def begin(self) -> None:
        """Prepare what training needs, such as teachers: once, before the first epoch."""

    def before_epoch(self, epoch: int) -> None:
        """Prepare what an epoch needs."""

    def finish(self) -> None:
        """Do what is left to do with the network of the best epoch: once, after training."""

    def features(self, batch: Batch) -> dict[str, Tensor]:
        """Run the encoders; features by modality, [rows, dim]."""
        return batch.features(self.network)

    def fused(self, batch: Batch, z: dict[str, Tensor], present: dict[str, Tensor]) -> Outputs:
        """Return what the network makes of features, after their dropout, of which so much is left."""
        return self.network.fuse(z, present)

    def gradients(self, batch: Batch, outputs: Outputs, share: float) -> Tensor:
        """Add `share` times the gradient of the loss to every `.grad`; return the loss."""
        loss = self.loss(batch, outputs)
        self.backward((loss + self.listening(batch, outputs)) * share)
        return loss

    def before_step(self) -> Mapping[str, float]:
        """Change the gradients of a whole optimiser step, however many batches it has; or return factors on the step.

        The factors are by modality, on the steps of its encoder, and under `head_owner` on those of the head. They do
        what a factor on a gradient does not under optimisers that divide gradients by their own size.
        """
        return {}

    def listening(self, batch: Batch, outputs: Outputs) -> Tensor:
        """Return the loss of the classifiers that say what each modality knows alone; it reaches no encoder."""
        return alone_loss(batch, self.network.fuse({n: z.detach() for n, z in outputs.z.items()}, batch.present).f_m)

    def backward(self, loss: Tensor) -> None:
        """Run the backward pass of a loss."""
        loss.backward()  # type: ignore[no-untyped-call]

    @property
    def heads(self) -> list[nn.Parameter]:
        """The weights of the head and of the classifiers, and all others that belong to no encoder."""
        encoders = {id(p) for p in self.network.encoders.parameters()}
        return [p for p in self.parameters() if id(p) not in encoders]

    @property
    def head_owner(self) -> str:
        """The name under which `before_step` scales the steps of the head; no modality is called so."""
        return free_name("head", self.ctx.modalities)

    @classmethod
    def fit(cls, ctx: Context, settings: Any) -> Fitted:
        """Train end to end on the training rows; the validation rows choose the epoch."""
        before, held = ctx.cost(), ctx.split.rows("valid")
        with ctx.log.timed(ctx.seconds, cls.name):
            cls.prepare(ctx, settings)
            with Draws(ctx.config.seed, cls.name):
                method = cls(ctx, settings).to(ctx.runtime.device)
                method.begin()
            if settings.epochs:
                run_training(ctx, method.training_on(ctx.split.rows("train"), held))
                method.finish()
        history = ctx.histories.get(method.stage)
        epoch = history.best_epoch + 1 if history else 0
        notes: dict[str | None, str] = {
            name: f"{ctx.target.model_word} on its {method.encoder_note(name, epoch)}" for name in ctx.modalities
        }
        notes[WHOLE] = f"{method.together}, {f'epoch {epoch}' if epoch else 'no epoch kept'}"
        network = method.network.eval().requires_grad_(False)
        return Fitted(network, held, held_by(ctx, network, held), notes, ctx.cost() - before)

    def encoder_note(self, name: str, epoch: int) -> str:
        """Say what became of an encoder when so many epochs are kept."""
        return "jointly trained encoder" if epoch and name not in self.still else self.untouched

    @property
    def stage(self) -> str:
        """Name of the training for progress and checkpoints."""
        return free_name(f"strategy {self.name}", self.ctx.modalities)

    def training_on(self, rows: Rows, held: Rows) -> Training:
        """Return what is trained, for the common code."""
        ctx, settings = self.ctx, self.settings
        encoders = {name: ctx.settings(name) for name in ctx.modalities}
        fixed = {"freeze": 1.0, "lora_rank": 0, "batch_norm": "frozen"}
        encoders |= {name: encoders[name].model_copy(update=fixed) for name in self.still}

        def gradients(batch: Batch, share: float) -> float:
            with ctx.runtime.autocast():
                z = self.features(batch)
                kept = {name: F.dropout(own, encoders[name].dropout, self.training) for name, own in z.items()}
                outputs = replace(self.fused(batch, kept, batch.fewer(ctx)), z=z).to_float()
            return float(self.gradients(batch, outputs, share).detach())

        return Training(
            stage=self.stage,
            module=self,
            network=self.network,
            encoders=encoders,
            loop=settings,
            groups=self._head_groups(),
            rows=rows,
            held=held,
            gradients=gradients,
            weight=_weights(ctx, rows),
            before_epoch=self.before_epoch,
            before_step=self.before_step,
        )

    def _head_groups(self) -> list[dict[str, object]]:
        head = {id(p) for p in self.network.head.parameters()}
        rates = (self.settings.head_lr, self.settings.head_decay)
        own = weight_groups([p for p in self.heads if id(p) in head], *rates)
        rest = weight_groups([p for p in self.heads if id(p) not in head], *rates)
        return [{**group, "owner": self.head_owner} for group in own] + rest


def _weights(ctx: Context, rows: Rows) -> npt.NDArray[np.float32]:
    """Return the loss weight of each row of the table: as classifiers are fitted, by class and by group."""
    weight = np.zeros(len(ctx.labels), dtype=np.float32)
    weight[rows] = ctx.row_weights(rows)
    return weight


def alone_loss(batch: Batch, f_m: dict[str, Tensor]) -> Tensor:
    """Return sum_m CE(f_m, y), each over the rows that have the modality."""
    return torch.stack([batch.loss(logits, batch.present[name]) for name, logits in f_m.items()]).sum()


def flat_gradient(loss: Tensor, encoder: Encoder) -> Tensor:
    """Return the gradient of a loss with respect to an encoder's moving weights as one vector; the graph is kept."""
    weights = [p for p in encoder.parameters() if p.requires_grad]
    if not weights:
        return loss.new_zeros(0)
    if is_sharded(encoder):
        raise ConfigError(
            "this strategy compares gradients of single losses, and with --sharded no device has whole ones; leave it "
            "out, or take another strategy"
        )
    gradients = torch.autograd.grad(loss, weights, retain_graph=True, allow_unused=True)
    pairs = zip(gradients, weights, strict=True)
    return torch.cat([torch.zeros_like(p).flatten() if g is None else g.flatten() for g, p in pairs])


def set_gradient(encoder: Encoder, vector: Tensor) -> None:
    """Make a vector the gradient of an encoder's moving weights, in the order of `flat_gradient`."""
    weights = [p for p in encoder.parameters() if p.requires_grad]
    for weight, part in zip(weights, torch.split(vector, [p.numel() for p in weights]), strict=True):
        weight.grad = part.view_as(weight)


def add_gradient(encoder: Encoder, vector: Tensor) -> None:
    """Add a vector to the gradient of an encoder's moving weights, in the order of `flat_gradient`."""
    weights = [p for p in encoder.parameters() if p.requires_grad]
    for weight, part in zip(weights, torch.split(vector, [p.numel() for p in weights]), strict=True):
        weight.grad = part.view_as(weight).clone() if weight.grad is None else weight.grad + part.view_as(weight)


def refuse_adapters(ctx: Context, why: str) -> None:
    """Refuse low-rank adapters, for a method that needs encoders that stay as they are built.

    Raises:
        ConfigError: Naming the setting and the reason.
    """
    for name, modality in ctx.modalities.items():
        if ctx.settings(name).lora_rank:
            raise ConfigError(
                f"{modality.kind}.train.lora_rank must be 0: strategy '{ctx.config.strategy.name}' {why}, which does "
                "not go together with low-rank adapters; leave it out, or take another strategy"
            )


def start_of(ctx: Context) -> FusionNetwork:
    """Return the network that training starts from; whoever trains it takes a copy."""
    return ctx.remember(("end-to-end start",), lambda: probed_network(ctx))


def probed_network(
    ctx: Context, rows: Rows | None = None, others: Mapping[str, Encoder] | None = None
) -> FusionNetwork:
    """Return untrained encoders under the head and the classifiers that are solved on their features.

    Args:
        ctx: The run.
        rows: Training rows that these are solved on; default: all of them.
        others: Encoders to use in place of the run's own, by modality.
    """
    train = ctx.split.rows("train") if rows is None else rows
    names, valid = list(ctx.modalities), ctx.split.rows("valid")
    encoders = [(others or {}).get(name) or ctx.fresh_encoder(name) for name in names]
    pairs = list(zip(names, encoders, strict=True))
    data, held = (
        HeadData.of(ctx, {name: ctx.encode(name, encoder, rows) for name, encoder in pairs}, rows)
        for rows in (train, valid)
    )
    fit = fit_logistic(data, held, ctx.config.head, len(ctx.classes), ctx.config.seed)
    fit.tell(ctx.log, "head", f"head on {', '.join(names)}", blocks=names)
    head = fit.head
    assert isinstance(head, LinearHead)
    classifiers = [probe(ctx, name, encoder, train, valid, name) for name, encoder in pairs]
    return late_fusion(names, encoders, classifiers, head)


def late_fusion(
    names: Sequence[str], encoders: Sequence[Encoder], classifiers: Sequence[nn.Linear], head: Head
) -> FusionNetwork:
    """Return the network of one encoder and one classifier per modality, and a head on all features."""
    places = {name: at for at, name in enumerate(names)}
    wiring = Wiring(list(names), {name: [at] for name, at in places.items()}, places, [])
    return FusionNetwork(encoders, classifiers, head, wiring)
