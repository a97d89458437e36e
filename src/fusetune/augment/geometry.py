"""All geometry as one 3x3 matrix per picture, and the filter that a picture needs before it is made smaller.

Matrices map output pixels to input pixels, both measured from the centre, x to the right and y down: a picture is
resampled once, however many operations a policy has.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fusetune.augment.draws import Draws

# A step between output pixels that is longer than one input pixel by less than this needs no filter: the filter would
# change no value by more than a thousandth of full white.
_NEGLIGIBLE = 1e-3


def compose(draws: Draws, crop: float, side: int, size: int) -> Tensor:
    """Return the matrices from output to input pixels.

    Read from the output: mirror, resize (size, crop and zoom), shear, move to the crop's place, turn. On the picture it
    is the other way round: it is turned first and the crop taken from the turned picture, as published pipelines do.

    Args:
        draws: Parameters of each picture.
        crop: Side of the crop as a share of the picture's side.
        side: Side of the input in pixels.
        size: Side of the output in pixels.

    Returns:
        float64 [rows, 3, 3].
    """
    step = crop * side / size / draws["zoom"]
    resize = _matrix(len(step), x_from_x=step * (1 - 2 * draws["flip_x"]), y_from_y=step * (1 - 2 * draws["flip_y"]))
    shear = _matrix(len(step), x_from_y=draws["shear_x"], y_from_x=draws["shear_y"])
    x, y = (side * (draws[f"shift_{axis}"] + draws[f"crop_{axis}"]) for axis in "xy")
    move = _matrix(len(step), x_from_1=x, y_from_1=y)
    angle = torch.deg2rad(draws["angle"])
    cos, sin = angle.cos(), angle.sin()
    turn = _matrix(len(step), x_from_x=cos, x_from_y=-sin, y_from_x=sin, y_from_y=cos)
    return turn @ move @ shear @ resize


def _matrix(rows: int, **entries: Tensor) -> Tensor:
    """Return identity matrices with some entries replaced: `x_from_y` is the share of the input's y in the new x."""
    matrix = torch.eye(3, dtype=torch.float64).repeat(rows, 1, 1)
    for name, values in entries.items():
        matrix[:, "xy".index(name[0]), "xy1".index(name[-1])] = values
    return matrix


def shrink(matrices: Tensor) -> Tensor:
    """Return how many input pixels one step between output pixels covers, along x and y, [rows, 2]."""
    return matrices[:, :2, :2].square().sum(2).sqrt()


def smoothing(factors: Tensor) -> Tensor:
    """Return the filters that keep pictures free of aliasing when they are made smaller by some factors.

    Bilinear sampling after the filter must act like Pillow's antialiased bilinear resize, a triangle of half-width f
    for a factor f. A discrete triangle of half-width m, sampled bilinearly, is exactly that for f = m. Between m and
    m + 1 the two triangles are mixed so that the variance, (f^2 - 1) / 6, is right.

    Args:
        factors: Input pixels per output pixel, [rows]; up to 1 there is nothing to do.

    Returns:
        Weights that sum to 1, float64 [rows, 2 n - 1]; zeros at the ends where a row needs fewer than others.
    """
    f = torch.where(factors > 1 + _NEGLIGIBLE, factors, 1.0).double()[:, None]
    low = f.floor()
    high_share = (f**2 - low**2) / (2 * low + 1)
    width = int(f.max().ceil()) if len(f) else 1
    place = torch.arange(1 - width, width, device=f.device).abs()

    def triangle(half: Tensor) -> Tensor:
        return (half - place).clamp(min=0) / half**2

    return (1 - high_share) * triangle(low) + high_share * triangle(low + 1)


def gaussian(deviations: Tensor) -> Tensor:
    """Return Gaussian filters, cut off at three standard deviations (in pixels, [rows]); float64 [rows, odd]."""
    deviation = deviations.double()[:, None]
    reach = (3 * deviation).ceil()
    width = int(reach.max()) if len(reach) else 0
    place = torch.arange(-width, width + 1, device=deviation.device)
    weights = torch.exp(-0.5 * (place / deviation) ** 2) * (place.abs() <= reach)
    return weights / weights.sum(1, keepdim=True)
