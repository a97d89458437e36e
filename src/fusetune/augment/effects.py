"""What happens to a few pictures only: gamma, blur, sharpness, tone curves, speckle, noise, and erasing at the end.

Each function takes float pictures [rows, 3, height, width] in 0..1 and one parameter per picture, and returns the same.
Noise is one number per pixel for all its channels: grey pictures stay grey.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fusetune.augment import simd
from fusetune.augment.draws import Draws, changed
from fusetune.augment.geometry import gaussian
from fusetune.augment.random import Moment, normal
from fusetune.augment.warp import convolve


def apply_effects(images: Tensor, draws: Draws, keys: Tensor, moment: Moment) -> Tensor:
    """Change the pictures whose draws say so, in place, in the order of `_EFFECTS`; the rest costs nothing.

    Args:
        images: float [rows, 3, height, width] in 0..1.
        draws: Parameters of each picture.
        keys: Row keys, int64 [rows].
        moment: Seed, epoch and view.
    """
    for name, effect in _EFFECTS.items():
        for rows in _portions(changed(draws, name), images):
            images[rows] = effect(images[rows], draws[name][rows].to(images))
    for name in ("speckle", "noise"):
        for rows in _portions(changed(draws, name), images):
            images[rows] = add_noise(images[rows], draws[name][rows].to(images), keys[rows], moment, name)
    return erase(images, draws)


def _portions(rows: list[int], images: Tensor) -> Sequence[slice | list[int]]:
    """On the CPU one picture at a time, which then stays in the cache; elsewhere all at once."""
    if images.device.type == "cpu":
        return [slice(row, row + 1) for row in rows]
    return [rows] if rows else []


def raise_to(images: Tensor, gamma: Tensor) -> Tensor:
    """Raise values to a power."""
    if _on_opencv(images):
        return _each_row(images, gamma, simd.power_row)
    # Interpolation between zeros can round to just below zero, of which there is no power.
    return images.clamp(min=0) ** gamma[:, None, None, None]


def blur(images: Tensor, deviation: Tensor) -> Tensor:
    """Blur by a Gaussian; `deviation` in pixels."""
    weights = gaussian(deviation)
    return _filtered(images, weights)


def sharpen(images: Tensor, factor: Tensor) -> Tensor:
    """Move away from (factor above 1) or towards (below) a slightly smoothed picture, as Pillow's `Sharpness` does."""
    box = torch.full((len(images), 3), 1 / 3, dtype=torch.float64)
    # Pillow smooths with weights 1 around a centre of 5; its frame of one pixel stays as it is.
    detail = (images - _filtered(images, box)) * (9 / 13)
    detail[:, :, [0, -1]] = 0
    detail[:, :, :, [0, -1]] = 0
    return (images + (factor[:, None, None, None] - 1) * detail).clamp_(0, 1)


def _filtered(images: Tensor, weights: Tensor) -> Tensor:
    if _on_opencv(images):
        return _each_row(images, weights, simd.convolve_row)
    return convolve(images, weights, weights)


def _on_opencv(images: Tensor) -> bool:
    return images.device.type == "cpu" and images.dtype == torch.float32


def _each_row(images: Tensor, parameters: Tensor, change: Callable[[Any, Any], Any]) -> Tensor:
    """Change each picture, as an array [height, width, 3], by its own parameter."""
    rows = [np.ascontiguousarray(image.permute(1, 2, 0).numpy()) for image in images]
    done = [change(row, parameter) for row, parameter in zip(rows, parameters.numpy(), strict=True)]
    return torch.from_numpy(np.stack(done)).permute(0, 3, 1, 2)


def posterize(images: Tensor, bits: Tensor) -> Tensor:
    """Keep the first few bits of 8-bit values."""
    step = 2 ** (8 - bits)[:, None, None, None]
    return torch.floor((images * 255).round() / step) * step / 255


def solarize(images: Tensor, threshold: Tensor) -> Tensor:
    """Invert values from a threshold on."""
    return torch.where(images >= threshold[:, None, None, None], 1 - images, images)


def stretch(images: Tensor, _: Tensor) -> Tensor:
    """Stretch each channel to the full range; a channel of one value stays."""
    low, high = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
    return torch.where(high > low, (images - low) / (high - low).clamp(min=1e-12), images)


def equalize(images: Tensor, _: Tensor) -> Tensor:
    """Spread each channel's 8-bit values evenly over the range, as Pillow's `equalize` does."""
    values = (images * 255).round().long().flatten(2)
    counts = torch.zeros(*values.shape[:2], 256, dtype=torch.long, device=images.device)
    counts.scatter_add_(2, values, torch.ones_like(values))
    highest = values.amax(2, keepdim=True)
    step = (values.shape[2] - counts.gather(2, highest)) // 255
    before = counts.cumsum(2) - counts
    curve = ((before + step // 2) // step.clamp(min=1)).clamp(max=255)
    curve = torch.where(step > 0, curve, torch.arange(256, device=images.device))
    return curve.gather(2, values).to(images.dtype).view_as(images) / 255


def add_noise(images: Tensor, deviation: Tensor, keys: Tensor, moment: Moment, kind: str) -> Tensor:
    """Add normal noise (kind `noise`) or multiply by 1 + noise (kind `speckle`), a pure function like all draws."""
    height, width = images.shape[2:]
    field = normal(moment, keys.to(images.device), f"{kind} field", height * width).view(-1, 1, height, width)
    field = field * deviation[:, None, None, None]
    return (images + (images * field if kind == "speckle" else field)).clamp_(0, 1)


def erase(images: Tensor, draws: Draws) -> Tensor:
    """Replace one rectangle by mid-grey, in place: the pixels whose centres lie in it."""
    height, width = images.shape[2:]
    for row in changed(draws, "erase_width"):
        left, top, wide, high = (float(draws[f"erase_{name}"][row]) for name in ("x", "y", "width", "height"))
        down = _covered(top, high, height)
        images[row, :, down, _covered(left, wide, width)] = 0.5
    return images


def _covered(start: float, length: float, side: int) -> slice:
    return slice(math.ceil(start * side - 0.5), math.ceil((start + length) * side - 0.5))


_EFFECTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "gamma": raise_to,
    "blur": blur,
    "sharpness": sharpen,
    "posterize": posterize,
    "solarize": solarize,
    "autocontrast": stretch,
    "equalize": equalize,
}
