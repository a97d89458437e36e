"""Pixels of any shape become one square, by one antialiased resampling."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from fusetune.data.spread import Pixels

Fit = Literal["stretch", "pad", "crop"]


def to_square(pixels: Pixels, size: int, fit: Fit, background: int) -> Pixels:
    """Bring pixels [height, width, 3] to [size, size, 3]: all of them, squeezed or padded, or the middle square."""
    height, width = pixels.shape[:2]
    if fit == "crop":
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        pixels = pixels[top : top + side, left : left + side]
    if fit != "pad":
        return resize(pixels, size, size)
    factor = size / max(height, width)
    return _centre(resize(pixels, max(1, round(height * factor)), max(1, round(width * factor))), size, background)


def to_scale(pixels: Pixels, factor: float, size: int, background: int) -> Pixels:
    """Scale pixels [height, width, 3] by a factor and show their middle in [size, size, 3], padded where too small.

    Never makes more than the pixels that are shown, whatever the factor.
    """
    height, width = (min(size, max(1, round(side * factor))) for side in pixels.shape[:2])
    seen_y, seen_x = min(pixels.shape[0], height / factor), min(pixels.shape[1], width / factor)
    top, left = (pixels.shape[0] - seen_y) / 2, (pixels.shape[1] - seen_x) / 2
    # Pillow, since the part that is seen may begin and end within a pixel.
    part = (left, top, left + seen_x, top + seen_y)
    scaled = Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR, box=part)
    return _centre(np.asarray(scaled), size, background)


def resize(pixels: Pixels, height: int, width: int) -> Pixels:
    """Resample pixels [height, width, 3] bilinearly, antialiased where they get fewer.

    PyTorch's code for bytes with the channels last gives Pillow's result to 1 of 255, in about a third of its time.
    """
    if pixels.shape[:2] == (height, width):
        return pixels
    batch = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    scaled = F.interpolate(batch, (height, width), mode="bilinear", antialias=True)
    return scaled[0].permute(1, 2, 0).contiguous().numpy()


def _centre(pixels: Pixels, size: int, background: int) -> Pixels:
    top, left = (size - pixels.shape[0]) // 2, (size - pixels.shape[1]) // 2
    square = np.full((size, size, 3), background, dtype=np.uint8)
    square[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels
    return square
