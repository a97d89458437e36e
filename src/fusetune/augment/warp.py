"""Filtering and resampling with plain tensor operations: for GPUs, for float pictures, and as a check.

On the CPU, `simd` does the same for uint8 pictures, several times faster.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Border = Literal["edge", "constant", "reflect"]
_PADDING = {"edge": "border", "constant": "zeros", "reflect": "reflection"}


def warp(images: Tensor, matrices: Tensor, size: int, border: Border = "edge", fill: float = 0.0) -> Tensor:
    """Sample pictures at transformed positions, bilinearly.

    Args:
        images: float [rows, channels, side, side]. Coordinates are computed in its type: in float32 they are off by up
            to 2e-7 of the side, in pixels.
        matrices: [rows, 2 or 3, 3]; input pixel = matrix @ (output x, output y, 1), both measured from the centre.
        size: Side of the result.
        border: What lies outside the picture.
        fill: Its value where `border` is constant.
    """
    matrices = matrices.to(images)
    at = torch.arange(size, device=images.device, dtype=images.dtype) - (size - 1) / 2
    # Written out rather than as affine_grid: a matrix product would run in half precision under autocast, where a
    # coordinate is off by up to half a pixel, and in TF32 on some GPUs.
    turned = matrices[:, :2, 0, None, None] * at + matrices[:, :2, 1, None, None] * at[:, None]
    # grid_sample measures the picture from -1 to 1, x before y.
    grid = (turned + matrices[:, :2, 2, None, None]) * (2 / images.shape[-1])
    places = grid.permute(0, 2, 3, 1)
    # Outside it knows no other constant than zero.
    dark = images - fill if fill else images
    sampled = F.grid_sample(dark, places, mode="bilinear", padding_mode=_PADDING[border], align_corners=False)
    return sampled + fill if fill else sampled


def convolve(images: Tensor, across: Tensor, down: Tensor) -> Tensor:
    """Filter each picture along x and y with weights of its own, repeating the edge.

    Args:
        images: float [rows, channels, height, width].
        across: Weights along x, [rows, odd].
        down: Weights along y, [rows, odd].
    """
    # Sums are written out: a convolution may add in another order when the batch is another.
    for weights, axis in ((across.to(images), 3), (down.to(images), 2)):
        reach = weights.shape[1] // 2
        if not reach:
            continue
        padded = F.pad(images, (reach, reach, 0, 0) if axis == 3 else (0, 0, reach, reach), mode="replicate")
        length = images.shape[axis]
        images = torch.zeros_like(images)
        for place, weight in enumerate(weights.T):
            images += padded.narrow(axis, place, length) * weight[:, None, None, None]
    return images
