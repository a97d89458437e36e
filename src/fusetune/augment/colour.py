"""Brightness, contrast and saturation as one affine map per picture."""

from __future__ import annotations

import torch
from torch import Tensor

from fusetune.augment.draws import Draws

# Weights of red, green and blue in how bright a colour looks (ITU-R BT.601), as Pillow and torchvision have them.
_LUMA = (0.299, 0.587, 0.114)


def colour_matrix(draws: Draws) -> Tensor:
    """Return the linear part on (red, green, blue), float64 [rows, 3, 3].

    Saturation s moves each colour away from its grey value: s I + (1 - s) 1 w^T. Contrast multiplies the result.
    """
    saturation, contrast = draws["saturation"][:, None, None], draws["contrast"][:, None, None]
    grey = torch.tensor(_LUMA, dtype=torch.float64).expand(3, 3)
    return contrast * (saturation * torch.eye(3, dtype=torch.float64) + (1 - saturation) * grey)


def adjust(images: Tensor, draws: Draws) -> Tensor:
    """Change saturation, then contrast around each picture's mean, then brightness; the result stays in 0..1.

    Args:
        images: float [rows, 3, height, width] in 0..1.
        draws: Parameters of each picture.
    """
    # In two steps: a single number per call is summed in as many pieces as there are threads, so that the last bit of
    # a picture's mean would depend on whether it is alone in its batch.
    mean = images.mean(3).mean((1, 2))[:, None, None, None]
    matrix = colour_matrix(draws).to(images)[..., None, None]
    brightness, contrast = (draws[name].to(images)[:, None, None, None] for name in ("brightness", "contrast"))
    red, green, blue = (images[:, None, channel] for channel in range(3))
    # Written out, since a matrix product would run in half precision under autocast.
    mixed = matrix[:, :, 0] * red + matrix[:, :, 1] * green + matrix[:, :, 2] * blue
    return (mixed + (1 - contrast) * mean + brightness).clamp_(0, 1)
