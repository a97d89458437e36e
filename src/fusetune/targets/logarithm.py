"""Numbers above 0 that spread over orders of magnitude, learnt as their logarithms: prices, sizes, waiting times.

What is added on the scale of logarithms multiplies on the scale of the numbers: a brand may double a price, and a
model of the price itself would have to learn that once more for each kind of thing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

_SKEWED = 1.0  # third standardised moment from which on numbers are skewed


@dataclass(frozen=True)
class Logarithm:
    """g = (log(mean + deviation * f) - center) / spread, and back.

    Attributes:
        mean: Of the numbers, as in f = (y - mean) / deviation.
        deviation: Of the numbers.
        center: Mean of their logarithms.
        spread: Deviation of their logarithms.
        most: No logarithm is told that is larger; beyond what was learnt from, an exponential says anything.
    """

    mean: float
    deviation: float
    center: float
    spread: float
    most: float

    @classmethod
    def of(cls, numbers: npt.NDArray[np.float64], mean: float, deviation: float) -> Self | None:
        """Return the scale of numbers that are all above 0 and differ; None for others."""
        if not len(numbers) or not numbers.min() > 0:
            return None
        logs = np.log(numbers)
        spread = float(logs.std())
        if not spread > 0:
            return None
        return cls(mean, deviation, float(logs.mean()), spread, float(logs.max()) + spread)

    @classmethod
    def read(cls, values: Sequence[float]) -> Self:
        """Return the scale that `values` described.

        Raises:
            ValueError: If these are of none.
        """
        own = cls(*map(float, values))
        if not np.isfinite(astuple(own)).all() or own.deviation <= 0 or own.spread <= 0:
            raise ValueError(f"a scale of logarithms with {list(values)}")
        return own

    @property
    def values(self) -> list[float]:
        """The scale as numbers, which `read` takes."""
        return list(astuple(self))

    def learnt(self, f: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """Return g of f, in its shape."""
        numbers = self.mean + self.deviation * np.asarray(f, dtype=np.float64)
        return np.asarray((np.log(numbers) - self.center) / self.spread)

    def told(self, g: Tensor) -> Tensor:
        """Return f of g, in its shape."""
        numbers = (self.center + self.spread * g).clamp(max=self.most).exp()
        told: Tensor = (numbers - self.mean) / self.deviation
        return told


def skewed(numbers: npt.NDArray[np.float64]) -> bool:
    """Return whether numbers above 0 have a long right tail that their logarithms have less of."""
    if len(numbers) < 2 or not numbers.min() > 0:
        return False
    plain, logs = _skewness(numbers), _skewness(np.log(numbers))
    return plain > _SKEWED and abs(logs) < plain / 2


def _skewness(values: npt.NDArray[np.float64]) -> float:
    away = values - values.mean()
    spread = float(np.sqrt((away**2).mean()))
    return float(((away / spread) ** 3).mean()) if spread > 0 else 0.0


def told(scale: Logarithm | None, f: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return f of what was learnt on a scale; without one, it is f."""
    return f if scale is None else scale.told(torch.from_numpy(f)).numpy()
