"""The base of methods that first learn, without labels, one space for all modalities, and then a classifier in it.

Three steps: pre-training by a contrastive loss of one's own; the classifier, solved on the embeddings, as are those of
each modality alone; and fine-tuning with CE(f, y), to which the solution is the start and stays a candidate. What
pre-training leaves is its last epoch: nothing is chosen in it, and no validation row is learnt from. It has checkpoints
of its own, so that it is not done again when a run is resumed.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from fusetune.context import Context
from fusetune.data.schema import free_name
from fusetune.data.split import Rows
from fusetune.encoders import Encoder
from fusetune.encoders.layers import full
from fusetune.heads.base import HeadData
from fusetune.heads.embedding import EmbeddingHead
from fusetune.heads.solver import fit_logistic
from fusetune.networks import FusionNetwork, Outputs
from fusetune.strategies.batch import Batch
from fusetune.strategies.contrast import refuse_one_input
from fusetune.strategies.end_to_end import EndToEnd, EndToEndSettings, probed_network
from fusetune.strategies.trainer import run_training
from fusetune.strategies.unimodal import probe


class EmbeddedSettings(EndToEndSettings):
    """The loop of fine-tuning, which pre-training shares, and the space."""

    pretrain_epochs: int | None = Field(None, ge=0, description="epochs of pre-training; default: as many as epochs")
    width: int = Field(128, ge=1, description="of the common space")
    fusion: Literal["mean", "concat"] = Field("mean", description="what the classifier reads of the embeddings")


class Embedded(EndToEnd):
    """Pre-training without labels, then a classifier on the embeddings, then both together."""

    Settings = EmbeddedSettings

    def __init__(self, ctx: Context, settings: Any) -> None:
        refuse_one_input(ctx, self.name)
        super().__init__(ctx, settings)
        self.epoch = 0

    @abstractmethod
    def contrast(self, z: dict[str, Tensor], present: dict[str, Tensor]) -> Tensor:
        """Return the loss of pre-training for features [rows, dim] by modality."""

    def before_epoch(self, epoch: int) -> None:
        """Note the epoch, of pre-training first."""
        self.epoch = epoch

    def replaced(self) -> dict[str, Encoder]:
        """Return encoders that take the place of the run's own, by modality."""
        return {}

    def start(self) -> FusionNetwork:
        """Return the encoders under projections that are not trained yet, whose input is standardised."""
        others = self.replaced()
        plain = probed_network(self.ctx, others=others) if others else super().start()
        head = EmbeddingHead(plain.head.dims, plain.head.classes, self.settings.width, self.settings.fusion)
        head.load_state_dict(dict(plain.head.named_buffers()), strict=False)
        return FusionNetwork([e for _, e in plain.members], _layers(plain.classifiers), head, plain.wiring)

    def loss(self, batch: Batch, outputs: Outputs) -> Tensor:
        """Return CE(f, y)."""
        return batch.loss(outputs.f)

    def begin(self) -> None:
        """Pre-train, and solve the classifiers on what that has made."""
        if self.pretrain_epochs:
            moving = [p for p in self.parameters() if p.requires_grad]
            self._pretrain()
            for p in moving:
                p.requires_grad_(True)
        self._solve()

    @property
    def pretrain_epochs(self) -> int:
        """How many epochs pre-training has."""
        asked: int | None = self.settings.pretrain_epochs
        return int(self.settings.epochs) if asked is None else asked

    @property
    def embedding_head(self) -> EmbeddingHead:
        """The head of the network."""
        assert isinstance(self.network.head, EmbeddingHead)
        return self.network.head

    def encoder_note(self, name: str, epoch: int) -> str:
        """Say what became of an encoder when so many epochs of fine-tuning are kept."""
        pretrained = self.pretrain_epochs and not epoch and name not in self.still
        return "contrastively trained encoder" if pretrained else super().encoder_note(name, epoch)

    def _pretrain(self) -> None:
        ctx, what = self.ctx, self.training_on(self.ctx.split.rows("train"), self.ctx.split.rows("valid"))

        def gradients(batch: Batch, share: float) -> float:
            with ctx.runtime.autocast():
                z = {name: full(own) for name, own in self.features(batch).items()}
            loss = self.contrast(z, batch.present)
            self.backward(loss * share)
            return float(loss.detach())

        loop = self.settings.model_copy(update={"epochs": self.pretrain_epochs, "patience": 0})
        stage = free_name(f"{self.stage}, pre-training", ctx.modalities)
        run_training(
            ctx,
            replace(
                what,
                stage=stage,
                loop=loop,
                gradients=gradients,
                keep="last",
            ),
        )

    def _solve(self) -> None:
        ctx, network = self.ctx, self.network.eval()
        train, valid = ctx.split.rows("train"), ctx.split.rows("valid")
        data, held = self._read(train), self._read(valid)
        fit = fit_logistic(data, held, ctx.config.head, len(ctx.classes), ctx.config.seed)
        fit.tell(ctx.log, "head", f"head on embeddings of {', '.join(ctx.modalities)}", blocks=list(data.z))
        device = ctx.runtime.device
        self.embedding_head.outer.load_state_dict(fit.head.state_dict())
        layers = [probe(ctx, name, encoder, train, valid, name) for name, encoder in network.members]
        for layer, solved in zip(_layers(network.classifiers), layers, strict=True):
            layer.load_state_dict(solved.to(device).state_dict())

    @torch.no_grad()
    def _read(self, rows: Rows) -> HeadData:
        """Return what the classifier reads of some rows, as a head of its own would."""
        ctx, device = self.ctx, self.ctx.runtime.device
        z = {n: torch.from_numpy(np.array(ctx.encode(n, e, rows)[0])).to(device) for n, e in self.network.members}
        has = {name: torch.from_numpy(ctx.sources[name].present[rows]).to(device) for name in z}
        blocks, there = self.embedding_head.read(self.embedding_head.embed(z, has), has)
        return HeadData(
            {name: block.cpu().numpy()[None] for name, block in blocks.items()},
            {name: bits.cpu().numpy() for name, bits in there.items()},
            ctx.labels[rows], ctx.row_weights(rows), ctx.keys[rows], sample_weight=ctx.counted(rows),
        )  # fmt: skip


def _layers(classifiers: nn.ModuleList) -> list[nn.Linear]:
    return [layer for layer in classifiers if isinstance(layer, nn.Linear)]
