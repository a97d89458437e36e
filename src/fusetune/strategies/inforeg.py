"""InfoReg: hold back the leading encoder while information is taken in fastest (arXiv 2503.18595).

    L = CE(f, y) + sum_m CE(f_m, y)
    F_m(e) = mean over the steps of epoch e of the squared norm of encoder m's gradient, a trace of Fisher information
    T_m(e) = (F_m(e) + ... + F_m(e - 9)) / 10, epochs before the first counting as 0
    while T_m(e - 1) > (1 + growth) T_m(e - 2), and in the first epoch, where m leads:
    gradient of encoder m <- itself + beta (theta_m - theta_m at the start of the epoch)
    beta = c exp(tanh(s_m - mean of the others' s))
    s_m = mean of softmax(f_m(x_i))_{y_i} over a step's rows that have m

The leader is the modality of largest s. A mean over ten epochs of which most are yet to come always grows: in runs of
few epochs the window never closes, unless `window` is shorter. The released code has c = .95 for sound and .1 for
video, sums in the place of means, and asks the first encoder only whether the window is open (`variant: released`).
Under Adam the addition is part of what is divided by its own size.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from fusetune.context import Context
from fusetune.networks import Outputs
from fusetune.strategies.batch import Batch
from fusetune.strategies.end_to_end import EndToEndSettings
from fusetune.strategies.modulated import Watched, others_of, stacked, true_class
from fusetune.strategies.multi_loss import MultiLoss


class InfoRegSettings(EndToEndSettings):
    """The loop of joint training, and how and when the leader is held back."""

    strength: float = Field(0.5, ge=0, description="c, of the pull towards where the epoch began")
    growth: float = Field(0.05, ge=0, description="of the mean Fisher trace per epoch, above which the leader is held")
    window: int = Field(10, ge=1, description="epochs of that mean")
    variant: Literal["paper", "released"] = Field(
        "paper", description="whose window must be open: the leader's own, or the first encoder's"
    )


class InfoReg(MultiLoss, Watched):
    """Multi-loss training whose leader is held back early on."""

    name, title, paper = "inforeg", "InfoReg", "Information acquisition regulation, arXiv 2503.18595"
    Settings = InfoRegSettings

    def __init__(self, ctx: Context, settings: Any) -> None:
        super().__init__(ctx, settings)
        many, device = len(self.scores), self.scores.device
        self.register_buffer("traces", torch.zeros(many, settings.window + 1, device=device))  # the newest come last
        self.register_buffer("squares", torch.zeros(many, device=device))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64, device=device))
        self.began: list[list[Tensor]] = []

    def score(self, batch: Batch, outputs: Outputs) -> Tensor:
        """Return softmax(f_m(x_i))_{y_i} by the classifiers of the modalities, [modalities, rows]."""
        return true_class(stacked(outputs), batch.target)

    def before_epoch(self, epoch: int) -> None:
        """Note the Fisher traces of the epoch that ended, and where this one begins."""
        super().before_epoch(epoch)
        traces, squares, steps = (self.get_buffer(name) for name in ("traces", "squares", "steps"))
        if steps:
            traces.copy_(torch.cat([traces[:, 1:], (squares / steps)[:, None]], 1))
        squares.zero_()
        steps.zero_()
        self.began = [[p.detach().clone() for p in encoder.parameters()] for _, encoder in self.network.members]

    def before_step(self) -> Mapping[str, float]:
        """Take in the size of the gradients, and pull the leader back."""
        self.get_buffer("steps").add_(1)
        for at, (_, encoder) in enumerate(self.network.members):
            sizes = [p.grad.square().sum() for p in encoder.parameters() if p.grad is not None]
            self.get_buffer("squares")[at] += sum(sizes)
        for at, beta in enumerate(pulls(self.means, self.opened(), self.settings.strength).tolist()):
            encoder = self.network.members[at][1]
            for p, start in zip(encoder.parameters(), self.began[at], strict=True):
                if beta and p.grad is not None:
                    p.grad.add_(p.detach() - start, alpha=beta)
        self.forget()
        return {}

    def opened(self) -> Tensor:
        """Return whether each modality's window is open, bool [modalities]."""
        here = is_open(self.get_buffer("traces"), self.settings.growth) | (self.epoch == 0)
        return here[:1].expand_as(here) if self.settings.variant == "released" else here


def is_open(traces: Tensor, growth: float) -> Tensor:
    """Return whether the mean trace still grows, bool [modalities].

    Args:
        traces: Of the epochs that ended, the newest last, zero before the first, [modalities, window + 1].
        growth: From one epoch to the next, by which it must.
    """
    return traces[:, 1:].mean(1) > (1 + growth) * traces[:, :-1].mean(1)


def pulls(scores: Tensor, opened: Tensor, strength: float) -> Tensor:
    """Return beta_m, [modalities], from what each modality knows, [modalities]; zero for all but the leader."""
    ahead = scores - others_of(scores)
    leads = (torch.arange(len(scores), device=scores.device) == scores.argmax()) & (ahead > 0) & (len(scores) > 1)
    return torch.where(leads & opened, strength * torch.exp(torch.tanh(ahead)), 0.0)
