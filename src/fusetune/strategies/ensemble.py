"""UME, the uni-modal ensemble (Du et al., ICML 2023, arXiv 2305.01233): modalities predict alone, logits are averaged.

Every modality's logits are first divided by a temperature fitted on the validation rows, so that one overconfident
modality does not outvote the others. A modality that a row lacks is left out of its mean.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fusetune.strategies.solve import fit_temperature

Labels = npt.NDArray[np.int64]


def fit_temperatures(f_m: Mapping[str, Tensor], present: Mapping[str, Tensor], labels: Labels) -> dict[str, float]:
    """Return one temperature per modality, fitted on rows that have it.

    Args:
        f_m: Logits by modality, [rows, classes].
        present: bool [rows] by modality.
        labels: Class index, int64 [rows].
    """
    found = {}
    for name, logits in f_m.items():
        has = present[name].numpy()
        found[name] = fit_temperature(logits.numpy()[has], labels[has]) if has.any() else 1.0
    return found


def ensemble(
    f_m: Mapping[str, Tensor],
    present: Mapping[str, Tensor],
    temperatures: Mapping[str, float] | None = None,
    weights: Mapping[str, float] | None = None,
) -> Tensor:
    """Return f = sum_m w_m f_m / T_m over the modalities that a row has, weights rescaled to sum to one.

    Args:
        f_m: Logits by modality, [rows, classes].
        present: bool [rows] by modality.
        temperatures: T_m; default 1.
        weights: w_m; default equal.

    Returns:
        Logits [rows, classes]; zero for a row without any modality.
    """
    total = torch.zeros_like(next(iter(f_m.values())))
    norm = torch.zeros(len(total), 1, dtype=total.dtype)
    for name, logits in f_m.items():
        weight = (weights or {}).get(name, 1.0) * present[name][:, None].to(total.dtype)
        total += weight * logits / (temperatures or {}).get(name, 1.0)
        norm += weight
    return total / norm.clamp(min=1e-12)
