"""Joint training: all encoders and one linear head on their concatenation, end to end, by one cross-entropy.

    min over phi, A, b of CE(f, y),  f = b + sum_m A_m phi_m(x_m)

A strong modality lowers the loss early, and the others then learn less than they would alone ("modality laziness",
arXiv 2305.01233): what most of the methods beside this file are about.
"""

from __future__ import annotations

from torch import Tensor

from fusetune.networks import Outputs
from fusetune.strategies.base import ANY_TARGET
from fusetune.strategies.batch import Batch
from fusetune.strategies.end_to_end import EndToEnd


class Joint(EndToEnd):
    """One cross-entropy for everything."""

    name, title, paper = "joint", "joint", "late fusion, end to end"
    targets = ANY_TARGET

    def loss(self, batch: Batch, outputs: Outputs) -> Tensor:
        """Return CE(f, y)."""
        return batch.loss(outputs.f)
