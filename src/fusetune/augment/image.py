"""Image augmentation on the whole batch: all geometry in one warp, then colours in one pass, then effects and erasing.

A picture's result depends on its own pixels, its row key and the moment, never on the rest of the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from fusetune.augment import Augment, simd
from fusetune.augment.colour import adjust, colour_matrix
from fusetune.augment.draws import Draws, image_draws
from fusetune.augment.effects import apply_effects
from fusetune.augment.geometry import compose, shrink, smoothing
from fusetune.augment.random import Moment
from fusetune.augment.warp import convolve, warp
from fusetune.config import ImagePolicy


@dataclass(frozen=True)
class ImageAugment(Augment):
    """Turns canonical uint8 images into what an image encoder sees.

    uint8 pictures on the CPU are computed in float32 from start to end, and agree with exact arithmetic to 1/255 (in
    practice to 1e-4). Float pictures on the CPU are computed in float64 up to their colours and agree to 1e-5.

    Attributes:
        policy: What may happen.
        size: Side of the result in pixels.
    """

    policy: ImagePolicy
    size: int

    @property
    def varies(self) -> bool:
        """Can two views of the same input differ?"""
        return bool(self.policy.operations) or self.policy.crop < 1

    def describe(self) -> dict[str, object]:
        """Return what the results depend on, for the feature store's key."""
        return {"engine": 2, "size": self.size, **self.policy.model_dump()}

    def plain(self, images: Tensor) -> Tensor:
        """Show the whole picture, unchanged but for its size.

        Args:
            images: uint8 [rows, 3, side, side], or float in 0..1.

        Returns:
            float32 [rows, 3, size, size] in 0..1.
        """
        if images.shape[-1] == self.size:
            return _to_float(images)
        return F.interpolate(_to_float(images), (self.size, self.size), mode="bilinear", antialias=True)

    def draw(self, images: Tensor, keys: Tensor, moment: Moment) -> Tensor:
        """Draw one random view of every picture.

        Args:
            images: uint8 [rows, 3, side, side], or float in 0..1; fastest where channels lie innermost in memory.
            keys: Row keys, int64 [rows].
            moment: Seed, epoch and view.

        Returns:
            float32 [rows, 3, size, size] in 0..1, channels innermost in memory.
        """
        return self.draw_views(images, keys, [moment])

    def draw_views(self, images: Tensor, keys: Tensor, moments: Sequence[Moment]) -> Tensor:
        """Draw several random views of every picture, each what `draw` returns for its moment.

        Returns:
            float32 [views * rows, 3, size, size]: all rows of the first view, then all of the second, and so on.
        """
        draws = [self.parameters(keys, moment) for moment in moments]
        fast = images.device.type == "cpu" and images.dtype == torch.uint8 and simd.exact()
        views = self._painted(images, draws) if fast else self._sampled(images, draws)
        for view, draw, moment in zip(views, draws, moments, strict=True):
            apply_effects(view, draw, keys, moment)
        return views.flatten(0, 1)

    def parameters(self, keys: Tensor, moment: Moment) -> Draws:
        """Return what is drawn for each row, by name: see `image_draws`."""
        return image_draws(self.policy, keys, moment)

    @property
    def _coloured(self) -> bool:
        # Of the policy, not of the drawn values: what a row goes through must not depend on the rows beside it.
        return any((self.policy.brightness, self.policy.contrast, self.policy.saturation))

    def _plan(self, draw: Draws, side: int) -> simd.View:
        matrices = compose(draw, self.policy.crop, side, self.size)
        across, down = smoothing_of(matrices)
        return simd.View(
            matrices=matrices.numpy(),
            across=across.numpy(),
            down=down.numpy(),
            colours=colour_matrix(draw).numpy() if self._coloured else None,
            lift=draw["brightness"].numpy(),
            pull=(1 - draw["contrast"]).numpy(),
        )

    def _painted(self, images: Tensor, draws: Sequence[Draws]) -> Tensor:
        """Return views [views, rows, 3, size, size] made by OpenCV."""
        side = images.shape[-1]
        plans = [self._plan(draw, side) for draw in draws]
        pixels = images.permute(0, 2, 3, 1).numpy()
        painted = simd.paint(pixels, plans, self.size, self.policy.border, self.policy.fill / 255)
        return torch.from_numpy(painted).permute(0, 1, 4, 2, 3)

    def _sampled(self, images: Tensor, draws: Sequence[Draws]) -> Tensor:
        """Return views [views, rows, 3, size, size] made by tensor operations."""
        pictures = _to_float(images)
        pictures = pictures.double() if pictures.device.type == "cpu" else pictures
        views = []
        for draw in draws:
            matrices = compose(draw, self.policy.crop, images.shape[-1], self.size)
            across, down = smoothing_of(matrices)
            view = warp(
                convolve(pictures, across, down), matrices, self.size, self.policy.border, self.policy.fill / 255
            )
            views.append((adjust(view, draw) if self._coloured else view).float())
        return torch.stack(views)


def smoothing_of(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """Return the filters along x and y that pictures need before they are sampled by some matrices."""
    across, down = shrink(matrices).unbind(1)
    return smoothing(across), smoothing(down)


def _to_float(images: Tensor) -> Tensor:
    if images.dtype != torch.uint8:
        return images.to(torch.float32)
    return images.contiguous().to(torch.float32) / 255
