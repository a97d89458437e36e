"""G-Blending: losses weighted by what they gain for how much they overfit (Wang et al. 2020, arXiv 1905.12681).

    candidates c: every modality alone, and all together;  from checkpoint 0 to n of a super-epoch
    G_c = Lval_c(0) - Lval_c(n),  O_c = (Lval_c(n) - Ltrain_c(n)) - (Lval_c(0) - Ltrain_c(0))
    w_c = |G_c| / (O_c^2 + 1e-8), scaled to sum 1
    L = sum_c w_c L_c over the next super-epoch

The estimates come from copies of the network, which learn from one candidate's loss each and are thrown away. Losses of
modalities alone share no weights, so one copy serves all of them, and another the fused loss: a super-epoch costs three
times its epochs. Lval is of a share of the training rows, whole groups, that nothing is ever learnt from; the
validation rows only choose the epoch. Both losses are on plain inputs in eval mode, and without weights of classes. The
copies learn at a constant rate.
"""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from fusetune.context import Context
from fusetune.data.split import Rows
from fusetune.networks import Outputs
from fusetune.progress import Log
from fusetune.strategies.batch import Batch, judging, plain_outputs
from fusetune.strategies.end_to_end import refuse_adapters
from fusetune.strategies.multi_loss import MultiLoss
from fusetune.strategies.trainer import run_training
from fusetune.strategies.watching import Watching, WatchingSettings


class GBlendingSettings(WatchingSettings):
    """The loop of joint training, and how often weights are estimated."""

    super_epoch: int = Field(10, ge=1, description="epochs between two estimates of the weights, and of each estimate")


class GBlending(Watching, MultiLoss):
    """Multi-loss training with weights estimated from overfitting."""

    name, title, paper = "g-blending", "G-Blending", "Gradient blending, arXiv 1905.12681"
    cost = "three trainings of all encoders on most of the training rows"
    Settings = GBlendingSettings

    def __init__(self, ctx: Context, settings: Any) -> None:
        super().__init__(ctx, settings)
        refuse_adapters(ctx, "estimates its weights on copies of the encoders")
        candidates = len(ctx.modalities) + 1
        self.register_buffer("weights", torch.full((candidates,), 1 / candidates))

    def losses(self, batch: Batch, outputs: Outputs) -> Tensor:
        """Return the loss of every modality alone and, last, of all together, [candidates]."""
        alone = [batch.loss(logits, batch.present[name]) for name, logits in outputs.f_m.items()]
        return torch.stack([*alone, batch.loss(outputs.f)])

    def loss(self, batch: Batch, outputs: Outputs) -> Tensor:
        """Return the weighted sum of the candidates' losses."""
        return self.get_buffer("weights") @ self.losses(batch, outputs)

    def before_epoch(self, epoch: int) -> None:
        """Estimate the weights anew where a super-epoch begins."""
        if epoch % self.settings.super_epoch:
            return
        weights = self.estimated(epoch)
        self.get_buffer("weights").copy_(weights)
        names = [*self.ctx.modalities, "all together"]
        self.ctx.log.record("blending", epoch=epoch, names=names, weights=weights.tolist())

    def estimated(self, epoch: int) -> Tensor:
        """Return w_c from what copies do over the super-epoch that begins, [candidates]."""
        before, last = self.measured(), len(self.get_buffer("weights")) - 1
        after = before.clone()
        for kind, places in (("alone", slice(0, last)), ("fused", slice(last, None))):
            twin = copy.deepcopy(self)
            twin.get_buffer("weights").zero_()[places] = 1.0
            twin.learn(epoch, kind)
            after[:, places] = twin.measured()[:, places]
        return blended(before, after)

    def learn(self, epoch: int, kind: str) -> None:
        """Train this copy for a super-epoch, leaving no trace in the run."""
        length = self.span(epoch)
        plan = self.training_on(self.learnt, np.zeros(0, dtype=np.int64))
        loop = self.settings.model_copy(
            update={"epochs": length, "schedule": "constant", "warmup": 0.0, "average": 0.0, "patience": 0}
        )
        quiet: dict[str, Any] = {"log": Log(quiet=True), "folder": None, "histories": {}, "trained_rows": Counter()}
        plan = replace(plan, stage=f"{self.stage}, {kind} from epoch {epoch + 1}", loop=loop, keep="last")
        run_training(replace(self.ctx, **quiet), replace(plan, before_epoch=lambda epoch: None))

    def span(self, epoch: int) -> int:
        """Return how many epochs are left for the super-epoch that begins with this one."""
        return int(min(self.settings.super_epoch, self.settings.epochs - epoch))

    def measured(self) -> Tensor:
        """Return the mean loss of every candidate on rows that are watched and rows that are learnt, [2, candidates].

        A candidate's rows are those that have its modality; without any, its loss is zero before and after.
        """
        return torch.stack([self._measured_on(rows) for rows in (self.watched, self.learnt)])

    def _measured_on(self, rows: Rows) -> Tensor:
        total = torch.zeros(2, len(self.get_buffer("weights")), dtype=torch.float64)
        size = max(32, self.settings.batch_size)
        with judging(self.network):
            for some, said in plain_outputs(self.ctx, self.network, list(self.ctx.modalities), rows, size):
                target = self.ctx.targets(some)
                everywhere = torch.ones(len(some), dtype=torch.bool, device=target.device)
                pairs = [(said.f_m[name], said.present[name]) for name in said.f_m]
                for at, (logits, has) in enumerate([*pairs, (said.f, everywhere)]):
                    losses = F.cross_entropy(logits, target, reduction="none") * has
                    total[0, at] += self.ctx.total(losses, some)
                    total[1, at] += self.ctx.total(has.to(losses), some)
        return total[0] / total[1].clamp(min=1e-12)

    def finish(self) -> None:
        """Charge the run for what the copies did."""
        epochs = len(self.ctx.histories[self.stage].records)
        spent = sum(2 * self.span(start) for start in range(0, epochs, self.settings.super_epoch))
        for name in self.ctx.modalities:
            self.ctx.trained_rows[name] += spent * len(self.learnt) * self.settings.repeats


def blended(before: Tensor, after: Tensor, guard: float = 1e-8) -> Tensor:
    """Return w_c, [candidates], from validation and training losses [2, candidates] before and after a super-epoch."""
    gain = before[0] - after[0]
    overfit = (after[0] - after[1]) - (before[0] - before[1])
    raw = gain.abs() / (overfit.square() + guard)
    return raw / raw.sum() if float(raw.sum()) > 0 else torch.full_like(raw, 1 / len(raw))
