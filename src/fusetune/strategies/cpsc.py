"""CPSC: rows teach an encoder the more, the more reliable its prediction sets are there (arXiv 2605.03820).

    t_m = conformal quantile of 1 - softmax(f_m(x_i))_{y_i} over calibration rows, anew before every epoch
    r_im = 1 / (1 + number of classes likelier than y_i by f_m) if 1 - softmax(f_m(x_i))_{y_i} <= t_m, else 0
    gradient of row i on its way into encoder m <- (.6 r_im + .6) times itself

Calibration rows are a share of the training rows, whole groups, from which nothing is learnt: not even the classifiers
f_m that training starts from. So this method trains on fewer rows than others. The quantile is that of split conformal
prediction, the n + 1 included; where there are too few groups for the coverage, all classes are in every set. The rows'
factors differ, so that they count under Adam as well.

`variant: released` has what the released code has: a quantile without the n + 1, and one factor for all encoders and
all rows of a batch, by the mean of r. That code judges the test part after every epoch, which is not repeated, and the
paper also composes features of parts that are reliable, for which no formula was at hand: left out.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from fusetune.context import Context
from fusetune.evaluate.conformal import quantile
from fusetune.evaluate.metrics import FloatArray
from fusetune.strategies.batch import Batch
from fusetune.strategies.joint import Joint
from fusetune.strategies.modulated import present_in, stacked, true_class
from fusetune.strategies.watching import Watching, WatchingSettings


class CPSCSettings(WatchingSettings):
    """The loop of joint training, and how reliability is told."""

    coverage: float = Field(0.8, gt=0, lt=1, description="of the prediction sets of each modality")
    slope: float = Field(0.6, ge=0, description="of the factor on a row's gradient in its reliability")
    floor: float = Field(0.6, ge=0, description="that factor where a modality is not reliable at all")
    variant: Literal["paper", "released"] = Field(
        "paper", description="a factor per row and encoder by corrected quantiles, or one per batch by plain ones"
    )


class CPSC(Watching, Joint):
    """Joint training whose encoders learn more from the rows on which their modality is reliable."""

    name, title, paper = "cpsc", "CPSC", "Conformal predictive self-calibration, arXiv 2605.03820"
    cost = "one training of all encoders on fewer rows, and a calibration of these before every epoch"
    Settings = CPSCSettings

    def __init__(self, ctx: Context, settings: Any) -> None:
        super().__init__(ctx, settings)
        self.limits = dict.fromkeys(ctx.modalities, float("inf"))

    def before_epoch(self, epoch: int) -> None:
        """Calibrate the prediction sets of each modality for the network as it is now."""
        rows, said = self.said_of(self.watched)
        scores = (1 - true_class(stacked(said), self.ctx.targets(rows))).double().cpu().numpy()
        units = self.ctx.units.iloc[rows].to_numpy()
        for own, (name, bits) in zip(scores, said.present.items(), strict=True):
            here = bits.cpu().numpy()
            self.limits[name] = self.limit(own[here], units[here])

    def limit(self, scores: FloatArray, units: Any) -> float:
        """Return the threshold, infinite where all classes are in every set, from the scores of calibration rows."""
        if self.settings.variant == "paper":
            return quantile(scores, units, float(self.settings.coverage))
        if not len(scores):
            return float("inf")
        return float(np.quantile(scores, self.settings.coverage, method="inverted_cdf"))

    def features(self, batch: Batch) -> dict[str, Tensor]:
        """Return the features of the encoders, [rows, dim], whose gradients are scaled row by row."""
        z = super().features(batch)
        return {name: slowed(own, k) for (name, own), k in zip(z.items(), self.factors(batch, z), strict=True)}

    @torch.no_grad()
    def factors(self, batch: Batch, z: dict[str, Tensor]) -> Tensor:
        """Return what each row's gradient is scaled by on its way into each encoder, [modalities, rows]."""
        outputs = self.network.fuse(z, batch.present).to_float()
        limits = torch.tensor([self.limits[name] for name in outputs.z], device=outputs.f.device)
        r = reliability(stacked(outputs), batch.target, limits)
        if self.settings.variant == "released":
            has = present_in(batch, outputs)
            r = ((r * has).sum() / has.sum().clamp(min=1)).expand_as(r)
        return r * float(self.settings.slope) + float(self.settings.floor)


def reliability(logits: Tensor, target: Tensor, limits: Tensor) -> Tensor:
    """Return r, [modalities, rows].

    Args:
        logits: Of each modality alone, [modalities, rows, classes].
        target: Class index, int64 [rows].
        limits: Thresholds of the modalities' sets, [modalities].
    """
    right = true_class(logits, target)
    likelier = (torch.softmax(logits, -1) > right[..., None]).sum(-1)
    return torch.where(1 - right <= limits[:, None], 1 / (1 + likelier), 0.0)


def slowed(z: Tensor, k: Tensor) -> Tensor:
    """Return features [rows, dim] as they are, whose gradients are scaled by k, [rows], on their way back."""
    return z.detach() + k[:, None] * (z - z.detach())
