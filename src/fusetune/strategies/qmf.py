"""QMF: late fusion by how sure each modality is of a row (Zhang et al., ICML 2023, arXiv 2306.02050).

    c_m = log sum exp(f_m) / 10,  f = sum_m sg[c_m] f_m
    L = CE(f, y) + sum_m CE(f_m, y) + sum_m R_m
    R_m = mean over pairs (i, j) of max(0, t (c_i - c_j) + d),  t = sign(H_i - H_j),  d = |H_i - H_j|

H_m(i) is the sum over the epochs before this one of modality m's cross-entropy of row i, scaled to [0, 1] over the
training rows; j follows i among the rows of the batch that have the modality, and the first follows the last. A row
that was hard to learn must be less sure than its neighbour, by at least d (`margin: gap`). The released code subtracts
d, which makes it a tolerance (`margin: tolerance`). Rows of equal history make no pair.

An absent modality adds nothing to f. The classifiers start with logits of mean zero over the classes, so that c_m,
which a constant in the logits would change, starts positive.
"""

from __future__ import annotations

import copy
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from fusetune.context import Context
from fusetune.heads.late import ConfidenceHead, confidence
from fusetune.networks import FusionNetwork, Outputs, Wiring
from fusetune.strategies.batch import Batch
from fusetune.strategies.end_to_end import EndToEndSettings, alone_loss, start_of
from fusetune.strategies.multi_loss import MultiLoss


class QMFSettings(EndToEndSettings):
    """The loop of joint training, and how confidences are ranked."""

    rank: float = Field(1.0, ge=0, description="weight of the rank losses")
    margin: Literal["gap", "tolerance"] = Field(
        "gap", description="what the histories' difference is to confidences: a gap to keep, or (as released) tolerated"
    )


class QMF(MultiLoss):
    """Multi-loss training of modalities whose logits are weighted by their confidence."""

    name, title, paper = "qmf", "QMF", "Quality-aware multimodal fusion, arXiv 2306.02050"
    Settings = QMFSettings

    def __init__(self, ctx: Context, settings: Any) -> None:
        super().__init__(ctx, settings)
        self.register_buffer("history", torch.zeros(len(ctx.modalities), len(ctx.labels)))
        self.scaled = torch.zeros(len(ctx.modalities), len(ctx.labels), device=ctx.runtime.device)

    def start(self) -> FusionNetwork:
        """Return the probed encoders and classifiers under a head that weighs their logits."""
        ctx, probed = self.ctx, copy.deepcopy(start_of(self.ctx))
        names, train = list(ctx.modalities), ctx.split.rows("train")
        head = ConfidenceHead(dict.fromkeys(names, len(ctx.classes)), len(ctx.classes))
        shares = np.bincount(ctx.labels[train], weights=ctx.row_weights(train), minlength=len(ctx.classes)) + 1
        head.get_buffer("prior").copy_(torch.from_numpy(np.log(shares / shares.sum())))
        classifiers = [layer for layer in probed.classifiers if isinstance(layer, nn.Linear)]
        with torch.no_grad():
            for layer in classifiers:
                layer.weight.sub_(layer.weight.mean(0))
                layer.bias.sub_(layer.bias.mean())
        encoders = [encoder for _, encoder in probed.members]
        wiring = Wiring(names, {name: [at] for at, name in enumerate(names)}, {}, names)
        return FusionNetwork(encoders, classifiers, head, wiring)

    def before_epoch(self, epoch: int) -> None:
        """Scale what was hard in the epochs so far."""
        self.scaled = scaled_history(self.get_buffer("history"), self.seen())

    def seen(self) -> Tensor:
        """Return which rows have a history by modality, bool [modalities, rows of the table]."""
        return self.get_buffer("history") > 0

    def loss(self, batch: Batch, outputs: Outputs) -> Tensor:
        """Return the cross-entropies and the rank losses, and remember how hard every row was."""
        total = batch.loss(outputs.f) + alone_loss(batch, outputs.f_m)
        rows = torch.from_numpy(np.tile(batch.rows, len(batch.target) // len(batch.rows))).to(batch.target.device)
        for at, (name, logits) in enumerate(outputs.f_m.items()):
            has = batch.present[name]
            ranks = rank_loss(confidence(logits[has]), self.scaled[at, rows[has]], self.settings.margin)
            total = total + self.settings.rank * ranks
            hard = F.cross_entropy(logits[has].detach(), batch.target[has], reduction="none")
            self.get_buffer("history")[at].index_add_(0, rows[has], hard)
        return total


def scaled_history(history: Tensor, seen: Tensor) -> Tensor:
    """Return each modality's history [modalities, rows] scaled to [0, 1] over the rows where `seen`; 0 elsewhere."""
    low = torch.where(seen, history, torch.inf).amin(1, keepdim=True)
    high = torch.where(seen, history, -torch.inf).amax(1, keepdim=True)
    return torch.where(seen, (history - low) / (high - low).clamp(min=1e-12), torch.zeros_like(history))


def rank_loss(sure: Tensor, history: Tensor, margin: str) -> Tensor:
    """Return R of the confidences and histories of rows that follow each other, [rows]; zero of fewer than two."""
    if len(sure) < 2:
        return sure.new_zeros(())
    apart, gap = history - history.roll(-1), sure - sure.roll(-1)
    d = apart.abs() if margin == "gap" else -apart.abs()
    return torch.where(apart == 0, torch.zeros_like(gap), (apart.sign() * gap + d).clamp(min=0)).mean()
