"""What is drawn for each picture: every parameter by name, as a pure function of (seed, epoch, view, row, operation).

Parameters are computed on the CPU in float64, whatever the pictures' device, so that they are the same on all of them.
Each operation draws under its own name: a policy with one more operation leaves the others' numbers as they were.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fusetune.augment.random import Moment, each_uniform, integers, uniform
from fusetune.config import ImagePolicy

Draws = dict[str, Tensor]
# What each parameter is when nothing happens. Angles in degrees; shifts, crops and boxes in shares of the side.
NEUTRAL: dict[str, float] = {
    "angle": 0, "zoom": 1, "shift_x": 0, "shift_y": 0, "shear_x": 0, "shear_y": 0, "crop_x": 0, "crop_y": 0,
    "flip_x": 0, "flip_y": 0, "brightness": 0, "contrast": 1, "saturation": 1, "gamma": 1, "blur": 0, "sharpness": 1,
    "posterize": 8, "solarize": 1, "autocontrast": 0, "equalize": 0, "speckle": 0, "noise": 0,
    "erase_x": 0, "erase_y": 0, "erase_width": 0, "erase_height": 0,
}  # fmt: skip
_EFFECTS = ("gamma", "blur", "sharpness", "posterize", "solarize", "autocontrast", "equalize", "speckle", "noise")
# Which setting holds the probability of an operation that does not always happen.
_CHANCES = {name: name for name in ("flip_horizontal", "flip_vertical", "erase")} | dict.fromkeys(_EFFECTS, "effects")


def image_draws(policy: ImagePolicy, keys: Tensor, moment: Moment) -> Draws:
    """Draw the parameters of one view of every picture.

    Args:
        policy: What may happen.
        keys: Row keys, int64 [rows], on any device.
        moment: Seed, epoch and view.

    Returns:
        The names of `NEUTRAL`, each float64 [rows] on the CPU; a parameter that does nothing has its neutral value.
    """
    draw = _Source(policy, keys.cpu(), moment)
    signed, unsigned, happens = draw.signed, draw.unsigned, draw.happens
    left, top, width, height = draw.box()
    spare = (1 - policy.crop) / 2
    return {
        "angle": policy.rotate * signed("rotate"),
        "zoom": torch.exp(math.log1p(policy.scale) * signed("scale")),
        "shift_x": policy.translate * signed("shift_x"),
        "shift_y": policy.translate * signed("shift_y"),
        "shear_x": policy.shear * signed("shear_x"),
        "shear_y": policy.shear * signed("shear_y"),
        "crop_x": spare * (2 * draw.numbers["crop_x"] - 1),
        "crop_y": spare * (2 * draw.numbers["crop_y"] - 1),
        "flip_x": happens("flip_horizontal"),
        "flip_y": happens("flip_vertical"),
        "brightness": policy.brightness * signed("brightness"),
        "contrast": 1 + policy.contrast * signed("contrast"),
        "saturation": 1 + policy.saturation * signed("saturation"),
        "gamma": torch.exp(math.log1p(policy.gamma) * signed("gamma")),
        "blur": policy.blur * unsigned("blur"),
        "sharpness": 1 + policy.sharpness * signed("sharpness"),
        "posterize": 8 - torch.floor((9 - policy.posterize) * unsigned("posterize")),
        "solarize": 1 - (1 - policy.solarize) * unsigned("solarize"),
        "autocontrast": happens("autocontrast"),
        "equalize": happens("equalize"),
        "speckle": policy.speckle * unsigned("speckle"),
        "noise": policy.noise * unsigned("noise"),
        "erase_x": left,
        "erase_y": top,
        "erase_width": width,
        "erase_height": height,
    }


def changed(draws: Draws, name: str) -> list[int]:
    """Return the rows in which a parameter does something."""
    rows: list[int] = (draws[name] != NEUTRAL[name]).nonzero()[:, 0].tolist()
    return rows


class _Source:
    """Numbers for the operations of a policy; nothing happens where an operation is not set."""

    def __init__(self, policy: ImagePolicy, keys: Tensor, moment: Moment) -> None:
        self.policy, self.keys, self.moment = policy, keys, moment
        self.operations = policy.operations
        names = [*self.operations, *(f"{name}?" for name in self.operations if name in _CHANCES), "crop_x", "crop_y"]
        self.numbers = {name: values.double() for name, values in each_uniform(moment, keys, names).items()}
        self.none = torch.zeros(len(keys), dtype=torch.float64)
        if policy.choose == "one":
            # One more than there are operations: the picture may stay as it is.
            self.chosen = integers(moment, keys, "choose", 1, len(self.operations) + 1)[:, 0]

    def happens(self, operation: str) -> Tensor:
        """Return 1 where the operation happens and 0 elsewhere."""
        if operation not in self.operations:
            return self.none
        its_turn = self.none + 1
        if self.policy.choose == "one":
            its_turn = (self.chosen == self.operations.index(operation)).double()
        if operation not in _CHANCES:
            return its_turn
        chance: float = getattr(self.policy, _CHANCES[operation])
        return its_turn * (self.numbers[f"{operation}?"] < chance)

    def unsigned(self, operation: str) -> Tensor:
        """Return numbers in [0, 1), or 0 where the operation does not happen."""
        return self.numbers[operation] * self.happens(operation) if operation in self.operations else self.none

    def signed(self, operation: str) -> Tensor:
        """Return numbers in [-1, 1), or 0 where the operation does not happen."""
        if operation not in self.operations:
            return self.none
        return (2 * self.numbers[operation] - 1) * self.happens(operation)

    def box(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return left, top, width and height of the erased rectangle (Random Erasing, arXiv 1708.04896).

        The area runs up to `erase_area` of the picture, the aspect ratio from 1/2 to 2.
        """
        hit, area = self.happens("erase"), self.policy.erase_area
        if not self.policy.erase:
            return self.none, self.none, self.none, self.none
        u = uniform(self.moment, self.keys, "erase", 4).double()
        least = min(0.02, area)
        share = (least + (area - least) * u[:, 0]) * hit
        aspect = torch.exp(math.log(2) * (2 * u[:, 1] - 1))
        width, height = (share * aspect).sqrt().clamp(max=1), (share / aspect).sqrt().clamp(max=1)
        return (1 - width) * u[:, 2] * hit, (1 - height) * u[:, 3] * hit, width, height
