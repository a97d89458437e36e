"""Multi-loss training: the fused head and a classifier per modality, all losses added (the base of arXiv 2405.17730).

    L = CE(f, y) + sum_m CE(f_m, y),  f_m = W_m phi_m(x_m) + b_m

The classifiers reach the encoders, so that none is left behind where another modality already lowers the fused loss.
"""

from __future__ import annotations

from torch import Tensor

from fusetune.networks import Outputs
from fusetune.strategies.base import ANY_TARGET
from fusetune.strategies.batch import Batch
from fusetune.strategies.end_to_end import EndToEnd, alone_loss


class MultiLoss(EndToEnd):
    """Joint training with a loss for every modality alone."""

    name, title, paper = "multi-loss", "multi-loss", "sum of the fused and all unimodal losses, arXiv 2405.17730"
    targets = ANY_TARGET

    def loss(self, batch: Batch, outputs: Outputs) -> Tensor:
        """Return CE(f, y) + sum_m CE(f_m, y)."""
        return batch.loss(outputs.f) + alone_loss(batch, outputs.f_m)

    def listening(self, batch: Batch, outputs: Outputs) -> Tensor:
        """Return nothing: the classifiers learn by the loss itself."""
        return outputs.f.new_zeros(())
