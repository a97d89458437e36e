"""Image augmentation as its documentation says it, pixel by pixel in float64: the standard for what is fast."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from fusetune.config import ImagePolicy

Floats = npt.NDArray[np.float64]


def matrix(d: dict[str, float], policy: ImagePolicy, side: int, size: int) -> Floats:
    """From output to input pixels, centre to centre: mirror, resize, shear, move, turn."""
    angle, step = math.radians(d["angle"]), policy.crop * side / size / d["zoom"]
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    shear = np.array([[1, d["shear_x"]], [d["shear_y"], 1]])
    mirror = np.diag([-1.0 if d["flip_x"] else 1.0, -1.0 if d["flip_y"] else 1.0])
    move = side * np.array([d["shift_x"] + d["crop_x"], d["shift_y"] + d["crop_y"]])
    return np.column_stack([turn @ shear @ mirror * step, turn @ move])


def weights(factor: float) -> dict[int, float]:
    """The filter for making a picture smaller by a factor: two triangles, mixed so that the variance is right."""
    if factor <= 1.001:
        return {0: 1.0}
    low = math.floor(factor)
    share = (factor**2 - low**2) / ((low + 1) ** 2 - low**2)
    taps = {}
    for place in range(-low, low + 1):
        narrow, wide = max(0, low - abs(place)) / low**2, max(0, low + 1 - abs(place)) / (low + 1) ** 2
        taps[place] = (1 - share) * narrow + share * wide
    return taps


def smoothed(image: Floats, across: dict[int, float], down: dict[int, float]) -> Floats:
    """Filter [channels, side, side] along both axes, repeating the edge."""
    side = image.shape[-1]
    at = np.arange(side)
    image = sum(w * image[:, :, np.clip(at + k, 0, side - 1)] for k, w in across.items())
    return sum(w * image[:, np.clip(at + k, 0, side - 1)] for k, w in down.items())


def pixel(image: Floats, x: int, y: int, policy: ImagePolicy) -> Floats:
    """One pixel, or what lies outside the picture."""
    side = image.shape[-1]
    if policy.border == "constant" and not (0 <= x < side and 0 <= y < side):
        return np.full(len(image), policy.fill / 255)
    if policy.border == "reflect":
        x, y = (v % (2 * side) for v in (x, y))
        x, y = (min(v, 2 * side - 1 - v) for v in (x, y))
    return image[:, min(max(y, 0), side - 1), min(max(x, 0), side - 1)]


def sampled(image: Floats, m: Floats, size: int, policy: ImagePolicy) -> Floats:
    """Sample bilinearly, pixel by pixel."""
    side = image.shape[-1]
    result = np.zeros((len(image), size, size))
    for row in range(size):
        for column in range(size):
            x, y = m @ np.array([column - (size - 1) / 2, row - (size - 1) / 2, 1]) + (side - 1) / 2
            left, top = math.floor(x), math.floor(y)
            fx, fy = x - left, y - top
            for dx, dy in ((0, 0), (1, 0), (0, 1), (1, 1)):
                weight = (fx if dx else 1 - fx) * (fy if dy else 1 - fy)
                result[:, row, column] += weight * pixel(image, left + dx, top + dy, policy)
    return result


def coloured(image: Floats, d: dict[str, float]) -> Floats:
    """Saturation, then contrast around the picture's mean, then brightness."""
    grey = np.tensordot([0.299, 0.587, 0.114], image, 1)
    mixed = d["saturation"] * image + (1 - d["saturation"]) * grey
    return np.clip(d["contrast"] * mixed + (1 - d["contrast"]) * image.mean() + d["brightness"], 0, 1)


def affected(image: Floats, d: dict[str, float], speckle: Floats, noise: Floats) -> Floats:
    """Gamma, blur, sharpness, speckle and noise, then the erased rectangle."""
    image = image ** d["gamma"]
    if d["blur"]:
        reach = math.ceil(3 * d["blur"])
        bell = {k: math.exp(-0.5 * (k / d["blur"]) ** 2) for k in range(-reach, reach + 1)}
        bell = {k: w / sum(bell.values()) for k, w in bell.items()}
        image = smoothed(image, bell, bell)
    box = {-1: 1 / 3, 0: 1 / 3, 1: 1 / 3}
    smooth = (9 * smoothed(image, box, box) + 4 * image) / 13
    inner = np.zeros(image.shape, bool)
    inner[:, 1:-1, 1:-1] = True
    image = np.where(inner, np.clip(image + (d["sharpness"] - 1) * (image - smooth), 0, 1), image)
    image = np.clip(image * (1 + d["speckle"] * speckle), 0, 1)
    image = np.clip(image + d["noise"] * noise, 0, 1)
    at = (np.arange(image.shape[-1]) + 0.5) / image.shape[-1]
    columns = (at >= d["erase_x"]) & (at < d["erase_x"] + d["erase_width"])
    rows = (at >= d["erase_y"]) & (at < d["erase_y"] + d["erase_height"])
    image[:, rows[:, None] & columns] = 0.5
    return image


def view(image: Floats, d: dict[str, float], policy: ImagePolicy, size: int, speckle: Floats, noise: Floats) -> Floats:
    """One view of a picture [3, side, side] in 0..1 for one row's parameters."""
    m = matrix(d, policy, image.shape[-1], size)
    across, down = (weights(math.hypot(*m[axis, :2])) for axis in (0, 1))
    return affected(coloured(sampled(smoothed(image, across, down), m, size, policy), d), d, speckle, noise)
