"""Multi-loss training: the fused head and a classifier per modality, all losses added (the base of arXiv 2405.17730).

    L = CE(f, y) + sum_m CE(f_m, y),  f_m = W_m phi_m(x_m) + b_m

The classifiers reach the encoders, so that none can be left behind by a modality that already lowers the fused loss.
"""

from __future__ import annotations

from torch import Tensor

from fusetune.networks import Outputs
from fusetune.strategies.batch import Batch
from fusetune.strategies.joint import Joint


class MultiLoss(Joint):
    """Joint training with a loss for every modality alone."""

    name, title, paper = "multi-loss", "multi-loss", "sum of the fused and all unimodal losses"

    def loss(self, batch: Batch, outputs: Outputs) -> Tensor:
        """Return CE(f, y) + sum_m CE(f_m, y)."""
        return super().loss(batch, outputs) + self.alone_loss(batch, outputs.f_m)

    def listening(self, batch: Batch, outputs: Outputs) -> Tensor:
        """The classifiers learn by the loss itself."""
        return outputs.f.new_zeros(())
