"""How far apart two classifiers' answers to the same rows are."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def shannon(one: Tensor, other: Tensor) -> Tensor:
    """Return the Jensen-Shannon divergence of the distributions of logits [rows, classes], in nats, [rows]."""
    p, q = torch.log_softmax(one, 1), torch.log_softmax(other, 1)
    middle = torch.logsumexp(torch.stack([p, q]), 0) - math.log(2)
    return 0.5 * ((p.exp() * (p - middle)).sum(1) + (q.exp() * (q - middle)).sum(1))


def kullback_leibler(one: Tensor, other: Tensor) -> Tensor:
    """Return KL(p | q) of the distributions of logits [rows, classes], in nats, [rows]."""
    p, q = torch.log_softmax(one, 1), torch.log_softmax(other, 1)
    return (p.exp() * (p - q)).sum(1)
