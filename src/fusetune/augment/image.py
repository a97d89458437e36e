"""Image augmentation on the whole batch: all geometry in one warp, then contrast and brightness, then erasing.

Geometry is one 2x3 matrix per sample that maps output pixels to input pixels, so every picture is resampled once
however many operations a policy has. Coordinates are pixels from the centre; outside the picture, the edge is repeated.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from fusetune.augment.random import Moment, uniform
from fusetune.config import ImagePolicy


@dataclass(frozen=True)
class ImageAugment:
    """Turns canonical uint8 images into what an image encoder sees.

    Attributes:
        policy: What may happen.
        size: Side of the result in pixels.
    """

    policy: ImagePolicy
    size: int

    def describe(self) -> dict[str, object]:
        """Return what the results depend on, for the feature store's key."""
        return {"size": self.size, **self.policy.model_dump()}

    def plain(self, images: Tensor) -> Tensor:
        """Show the whole picture, unchanged but for its size.

        Args:
            images: uint8 [rows, 3, side, side].

        Returns:
            float32 [rows, 3, size, size] in 0..1.
        """
        if images.shape[-1] == self.size:
            return _to_float(images)
        return F.interpolate(_to_float(images), (self.size, self.size), mode="bilinear", antialias=True)

    def draw(self, images: Tensor, keys: Tensor, moment: Moment) -> Tensor:
        """Draw one random view of every picture.

        Args:
            images: uint8 [rows, 3, side, side].
            keys: Row keys, int64 [rows].
            moment: Seed, epoch and view.

        Returns:
            float32 [rows, 3, size, size] in 0..1.
        """
        p = self.policy
        matrices = self.matrices(keys, moment, images.shape[-1])
        result = warp(_to_float(images), matrices, self.size)
        if p.contrast or p.brightness:
            shift, factor = (2 * uniform(moment, keys, "colour", 2) - 1).unbind(1)
            result = adjust(result, p.brightness * shift, 1 + p.contrast * factor)
        if p.erase:
            result = erase(result, uniform(moment, keys, "erase", 5), p.erase, p.erase_area)
        return result

    def matrices(self, keys: Tensor, moment: Moment, side: int) -> Tensor:
        """Return the matrices from output to input pixels, float32 [rows, 2, 3], centre to centre."""
        p = self.policy
        u = uniform(moment, keys, "geometry", 8)
        angle = math.radians(p.rotate) * (2 * u[:, 0] - 1)
        zoom = torch.exp(math.log1p(p.scale) * (2 * u[:, 1] - 1))
        step = p.crop * side / self.size / zoom
        free = (1 - p.crop) / 2 + p.translate
        offset = side * free * (2 * u[:, 2:4] - 1)
        flip_x = torch.where(u[:, 4] < p.flip_horizontal, -1.0, 1.0)
        flip_y = torch.where(u[:, 5] < p.flip_vertical, -1.0, 1.0)
        cos, sin = torch.cos(angle) * step, torch.sin(angle) * step
        # Rotation first, then the crop's place, as in the published pipeline: the offset turns with the picture.
        turned_x = torch.cos(angle) * offset[:, 0] - torch.sin(angle) * offset[:, 1]
        turned_y = torch.sin(angle) * offset[:, 0] + torch.cos(angle) * offset[:, 1]
        rows = [cos * flip_x, -sin * flip_y, turned_x, sin * flip_x, cos * flip_y, turned_y]
        return torch.stack(rows, 1).view(-1, 2, 3)


def warp(images: Tensor, matrices: Tensor, size: int) -> Tensor:
    """Sample pictures at transformed positions, bilinearly, repeating the edge.

    Args:
        images: float [rows, channels, side, side].
        matrices: [rows, 2, 3]; input pixel = matrix @ (output x, output y, 1), both measured from the centre.
        size: Side of the result.
    """
    at = torch.arange(size, device=images.device, dtype=matrices.dtype) - (size - 1) / 2
    # Written out rather than as affine_grid: a matrix product would run in half precision under autocast, where a
    # coordinate is off by up to half a pixel, and in TF32 on some GPUs.
    turned = matrices[:, :, 0, None, None] * at + matrices[:, :, 1, None, None] * at[:, None]
    # grid_sample measures the picture from -1 to 1, x before y.
    grid = (turned + matrices[:, :, 2, None, None]) * (2 / images.shape[-1])
    places = grid.permute(0, 2, 3, 1)
    return F.grid_sample(images, places, mode="bilinear", padding_mode="border", align_corners=False)


def adjust(images: Tensor, shift: Tensor, factor: Tensor) -> Tensor:
    """Change contrast around each picture's mean, then brightness; the result stays in 0..1."""
    # In two steps: a single number per call is summed in as many pieces as there are threads, so that the last bit of
    # a picture's mean would depend on whether it is alone in its batch.
    mean = images.mean(3).mean((1, 2))[:, None, None, None]
    return ((images - mean) * factor[:, None, None, None] + mean + shift[:, None, None, None]).clamp_(0, 1)


def erase(images: Tensor, u: Tensor, probability: float, area: float) -> Tensor:
    """Replace one rectangle by mid-grey in some pictures (Random Erasing, arXiv 1708.04896).

    Args:
        images: [rows, channels, side, side].
        u: Uniform numbers [rows, 5]: whether, area, aspect, x, y.
        probability: Share of the pictures.
        area: Largest area as a share of the picture; aspect ratios run from 1/2 to 2.
    """
    side = images.shape[-1]
    share = 0.02 + (area - 0.02) * u[:, 1] if area > 0.02 else area * u[:, 1]
    aspect = torch.exp(math.log(2) * (2 * u[:, 2] - 1))
    width, height = (share * aspect).sqrt().clamp(max=1) * side, (share / aspect).sqrt().clamp(max=1) * side
    left, top = (side - width) * u[:, 3], (side - height) * u[:, 4]
    at = torch.arange(side, device=images.device) + 0.5
    inside_x = (at > left[:, None]) & (at < (left + width)[:, None])
    inside_y = (at > top[:, None]) & (at < (top + height)[:, None])
    hit = (u[:, 0] < probability)[:, None, None] & inside_y[:, :, None] & inside_x[:, None, :]
    return images.masked_fill(hit[:, None], 0.5)


def _to_float(images: Tensor) -> Tensor:
    return images.contiguous().to(torch.float32) / 255
