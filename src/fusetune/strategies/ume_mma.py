"""UME-MMA: modality dropout that starts from encoders tuned alone (Li et al., arXiv 2310.06383).

    phi_m, W_m = argmin CE(W_m phi_m(x_m) + b_m, y) for each modality (stage U), and a head solved on their features
    then modality dropout, L = CE(f, y)

Of the paper, only the abstract and reviews could be read: unimodal weights under late fusion, and augmentation by
missing modalities. How they are taken away and replaced is as in `modality-dropout`.
"""

from __future__ import annotations

from typing import ClassVar

from fusetune.context import Context
from fusetune.networks import FusionNetwork
from fusetune.strategies.frozen_fusion import fused, tunable
from fusetune.strategies.modality_dropout import ModalityDropout, ModalityDropoutSettings


class UMEMMA(ModalityDropout):
    """Modality dropout from a unimodal start."""

    name, title, paper = "ume-mma", "UME-MMA", "Unimodal start and modality dropout, arXiv 2310.06383"
    cost = "the training of every encoder alone, then one training of all"
    untouched: ClassVar[str] = "encoder, fine-tuned alone"

    @classmethod
    def prepare(cls, ctx: Context, settings: ModalityDropoutSettings) -> None:
        """Fine-tune every encoder alone, and solve the head."""
        fused(ctx, "linear")

    def start(self) -> FusionNetwork:
        """Return the encoders that were tuned alone, with a head that replaces what is absent."""
        return self.replacing(tunable(self.ctx))
