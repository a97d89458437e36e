"""AGM: compare what each modality contributes with what it usually does, and scale its gradient (arXiv 2308.07686).

    v(S) = fused logits with the modalities S only
    m_m = 1/2 (v({m}) + v(all) - v(all but m)) + c,  c the same for all m, so that sum_m m_m = f
    s_m = mean CE(m_m, y) over a step's rows that have m;  r_m = exp(mean of the others' s - s_m)
    tau_m = the same of the running means of s;  k_m = exp(alpha min(tau_m - r_m, bound))
    gradient that enters m_m <- k_m times itself

A modality that is better than usual beside the others (r > tau) is slowed down, one that is worse is hurried. With two
modalities m is the published mean of both marginal contributions, and c is zero. With more, m takes the first and the
last marginal contribution of each modality in place of all 2^M, and c shares out what is left equally; for a fusion
that adds up, as the head here is, these are the Shapley values with an equal share of what is said without anything.

The head is linear: what enters m_m reaches encoder m and the head's weights on its features. The constants that stand
for what is absent, and the bias, keep their gradients. Removed are modalities by their mask; publication and released
code put zeros into the encoders. The running mean is that of all steps before; the first step is modulated by nothing.
Where factors scale steps and not gradients (`scale`), the bound is 2 by default: e^10 times the step of an adaptive
optimiser throws an encoder out of all that it knew, after which the losses, and with them the factors, grow further.
(A port in BalanceBenchmark has both ratios upside down, and slows down who is behind.)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from fusetune.context import Context
from fusetune.networks import Outputs
from fusetune.strategies.batch import Batch
from fusetune.strategies.modulated import Modulated, ModulatedSettings, linear_head, others_of

_STEPS_BOUND = 2.0  # a step of at most seven times its length
_LARGEST = 80.0  # logarithm of a ratio that float32 can hold


class AGMSettings(ModulatedSettings):
    """The loop of joint training, and how strongly departures from the usual are answered."""

    alpha: float = Field(1.0, ge=0, description="strength of the modulation")
    bound: float | None = Field(
        None,
        ge=0,
        description="largest tau - r; default: where gradients are scaled, 10 with two modalities and 7 with more, as "
        "in the released code; where steps are, 2",
    )


class AGM(Modulated):
    """Joint training that keeps each modality's contribution where it usually is."""

    name, title, paper = "agm", "AGM", "Adaptive gradient modulation, arXiv 2308.07686"
    Settings = AGMSettings

    def __init__(self, ctx: Context, settings: Any) -> None:
        super().__init__(ctx, settings)
        self.register_buffer("usual", torch.zeros_like(self.scores))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64, device=self.scores.device))

    def score(self, batch: Batch, outputs: Outputs) -> Tensor:
        """Return CE(m_m, y), [modalities, rows]."""
        parts = self.contributions(outputs.z, batch.present)
        return torch.stack([F.cross_entropy(part, batch.target, reduction="none") for part in parts])

    def contributions(self, z: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
        """Return m_m of each modality, [modalities, rows, classes]."""

        def said(names: set[str]) -> Tensor:
            return self.network.fuse(z, {name: bits & (name in names) for name, bits in present.items()}).f

        everything = set(z)
        return shared(
            said(everything),
            torch.stack([said({name}) for name in z]),
            torch.stack([said(everything - {name}) for name in z]),
        )

    def factors(self, scores: Tensor) -> Tensor:
        """Return k_m, [modalities], and remember the step."""
        means, usual, steps = self.means, self.get_buffer("usual"), self.get_buffer("steps")
        bound = self.settings.bound
        if bound is None:
            bound = _STEPS_BOUND if self.scales_steps else 10.0 if len(scores) == 2 else 7.0
        k = coefficients(means, usual if steps else means, self.settings.alpha, bound)
        steps += 1
        usual += (means - usual) / steps
        return k

    def scaled(self, k: Tensor) -> Mapping[str, float]:
        """Scale what the encoders do, and the gradients of the head's weights on the features of each modality."""
        head = linear_head(self.network)
        gradient, widths = head.linear.weight.grad, list(head.dims.values())
        if gradient is not None:
            for one, columns in zip(k, torch.split(gradient[:, : sum(widths)], widths, 1), strict=True):
                columns.mul_(one)
        return super().scaled(k)


def shared(whole: Tensor, only: Tensor, without: Tensor) -> Tensor:
    """Return contributions that add up to the whole, [modalities, rows, classes].

    Args:
        whole: What is said with all modalities, [rows, classes].
        only: With each modality alone, [modalities, rows, classes].
        without: With all others, [modalities, rows, classes].
    """
    parts = (only + whole - without) / 2
    return parts + (whole - parts.sum(0)) / len(parts)


def coefficients(scores: Tensor, usual: Tensor, alpha: float, bound: float) -> Tensor:
    """Return k_m, [modalities], from the losses of the contributions and what these usually are, [modalities]."""
    if len(scores) < 2:
        return torch.ones_like(scores)
    # Of two ratios that no number can hold, neither is above the other.
    r, tau = (torch.exp((others_of(s) - s).clamp(max=_LARGEST)) for s in (scores, usual))
    return torch.exp(alpha * (tau - r).clamp(max=bound))
