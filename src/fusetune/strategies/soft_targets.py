"""Distillation on probabilities, for the methods that imitate what a teacher says (Hinton et al., arXiv 1503.02531)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def softened(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return T^2 KL(p_teacher^{1/T} || p_student^{1/T}) of each row, both powers normalised, [rows].

    T^2 keeps the size of the gradient, which falls with 1 / T^2.

    Args:
        student: Logits, or log-probabilities, [rows, classes].
        teacher: The same of the teacher.
        temperature: T.
    """
    log_p, log_q = (torch.log_softmax(logits / temperature, 1) for logits in (teacher.detach(), student))
    return temperature**2 * F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(1)


def over(losses: Tensor, has: Tensor) -> Tensor:
    """Return the mean over the rows where `has`; zero where there are none."""
    return (losses * has).sum() / has.sum().clamp(min=1)
