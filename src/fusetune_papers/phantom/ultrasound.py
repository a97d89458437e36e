"""Synthetic B-mode ultrasound frames: ellipses seen by a curved probe, with speckle, shadows and depth attenuation.

Everything happens on the probe's own grid [depths, beams]. Reflectivity is multiplied with a fixed field of random
scatterers, blurred by a point spread function that is narrow along and wide across the beam, and the envelope of the
result is Rayleigh distributed: speckle. Sound is lost with depth and behind bone. The logarithm of the envelope is
then converted to a picture of the sector. A teaching model, good for pictures that look right, not for physics.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter1d

Array = npt.NDArray[np.float64]
# Proportions of the published frames, 672 x 389.
ASPECT = 672 / 389
_FACE = 0.35  # radius of the probe's curved face; the deepest echo comes from 1 further away
_OPENING = 0.62  # half the opening angle in radians
_DEPTHS, _BEAMS = 176, 128
_TOP = _FACE * np.cos(_OPENING)
HEIGHT = _FACE + 1.02 - _TOP  # of the picture, where the image's depth is 1


@dataclass(frozen=True)
class Ellipse:
    """A piece of anatomy.

    Attributes:
        x: Centre across, 0 in the middle of the picture; unit: the image's depth.
        y: Centre down from the top edge.
        a: Half axis along.
        b: Half axis across.
        angle: Of the first axis, radians.
        fill: Reflectivity inside, as an amplitude.
        rim: Reflectivity of the outline; brightest where the beam meets it squarely.
        loss: How much sound is lost per unit of depth inside, in nepers; bone casts a shadow.
        weight: Visibility, 0 (not there) to 1.
    """

    x: float
    y: float
    a: float
    b: float
    angle: float = 0.0
    fill: float = 0.0
    rim: float = 0.0
    loss: float = 0.0
    weight: float = 1.0


@dataclass(frozen=True)
class Machine:
    """How a stream's pictures are taken: what differs between examinations and says nothing about the anatomy.

    Attributes:
        gain: Added to all grey values.
        slope: Change of brightness from top to bottom that the operator left uncorrected.
        range: Decibels from black to white.
        spot: Size of the speckle, relative.
        noise: Amplitude of electronic noise.
    """

    gain: float
    slope: float
    range: float
    spot: float
    noise: float


class Sector:
    """The geometry of a picture: where each beam looks, and which sample each pixel shows."""

    def __init__(self, width: int) -> None:
        self.width, self.height = width, round(width / ASPECT)
        self.scale = self.height / HEIGHT
        radius = _FACE + np.linspace(0, 1, _DEPTHS)[:, None]
        theta = np.linspace(-_OPENING, _OPENING, _BEAMS)[None, :]
        self.x: Array = radius * np.sin(theta)
        self.y: Array = radius * np.cos(theta) - _TOP
        self.theta: Array = np.broadcast_to(theta, self.x.shape)

    @cached_property
    def _samples(self) -> tuple[npt.NDArray[np.int64], Array, Array, npt.NDArray[np.bool_]]:
        """For each pixel: index of the sample above left of it, the fractions towards the next, and if it is inside."""
        columns = (np.arange(self.width) + 0.5 - self.width / 2) / self.scale
        rows = (np.arange(self.height) + 0.5) / self.scale + _TOP
        x, y = np.meshgrid(columns, rows)
        depth = (np.hypot(x, y) - _FACE) * (_DEPTHS - 1)
        beam = (np.arctan2(x, y) / _OPENING + 1) / 2 * (_BEAMS - 1)
        inside = (depth >= 0) & (depth < _DEPTHS - 1) & (beam >= 0) & (beam < _BEAMS - 1)
        depth, beam = np.where(inside, depth, 0), np.where(inside, beam, 0)
        first = depth.astype(np.int64) * _BEAMS + beam.astype(np.int64)
        return first, depth % 1, beam % 1, inside

    def convert(self, samples: Array) -> Array:
        """Turn samples [depths, beams] into a picture [height, width], black outside the sector."""
        first, down, across, inside = self._samples
        flat = samples.ravel()
        upper = flat[first] * (1 - across) + flat[first + 1] * across
        lower = flat[first + _BEAMS] * (1 - across) + flat[first + _BEAMS + 1] * across
        return np.where(inside, upper * (1 - down) + lower * down, 0.0)


def reflectivity(sector: Sector, shapes: Sequence[Ellipse], ground: Array) -> tuple[Array, Array]:
    """Return reflectivity and loss of sound on the sector's grid; later shapes cover earlier ones."""
    echo, loss = ground.ravel().copy(), np.full(ground.size, 0.35)
    for shape in shapes:
        reach = max(shape.a, shape.b) + 0.05
        near = np.flatnonzero((np.abs(sector.x - shape.x) < reach) & (np.abs(sector.y - shape.y) < reach))
        inside, line = _outlined(shape, sector.x.ravel()[near], sector.y.ravel()[near], sector.theta.ravel()[near])
        echo[near] += inside * (shape.fill - echo[near]) + line * shape.rim
        loss[near] += (inside + (line if shape.rim else 0)) * shape.loss
    return echo.reshape(ground.shape), loss.reshape(ground.shape)


def _outlined(shape: Ellipse, x: Array, y: Array, theta: Array) -> tuple[Array, Array]:
    """Return how much a point is inside an ellipse, and how much echo its outline gives there (both 0 to weight)."""
    cos, sin = np.cos(shape.angle), np.sin(shape.angle)
    dx, dy = x - shape.x, y - shape.y
    along, across = (dx * cos + dy * sin) / shape.a, (dy * cos - dx * sin) / shape.b
    distance = (np.hypot(along, across) - 1) * min(shape.a, shape.b)
    inside = shape.weight / (1 + np.exp(np.clip(distance / 0.006, -30, 30)))
    normal_x = along / shape.a * cos - across / shape.b * sin
    normal_y = along / shape.a * sin + across / shape.b * cos
    squarely = (normal_x * np.sin(theta) + normal_y * np.cos(theta)) / (np.hypot(normal_x, normal_y) + 1e-9)
    return inside, shape.weight * np.exp(-((distance / 0.014) ** 2)) * (0.35 + 0.65 * squarely**2)


def scan(
    sector: Sector, shapes: Sequence[Ellipse], ground: Array, scatterers: npt.NDArray[np.complex64], machine: Machine
) -> npt.NDArray[np.uint8]:
    """Return the picture of the shapes, uint8 [height, width].

    Args:
        sector: Geometry.
        shapes: Anatomy, in drawing order.
        ground: Reflectivity of the surroundings [depths, beams].
        scatterers: Complex normal numbers [depths, beams]; equal scatterers, equal speckle.
        machine: Settings.
    """
    echo, loss = reflectivity(sector, shapes, ground)
    arriving = np.exp(-np.cumsum(loss, 0) / len(loss) * 2)
    field = scatterers * (echo * arriving).astype(np.float32)
    widths = (1.0 * machine.spot, 1.7 * machine.spot)
    for axis, width in enumerate(widths):
        field = gaussian_filter1d(field.real, width, axis) + 1j * gaussian_filter1d(field.imag, width, axis)
    # The blur lowers the amplitude of white scatterers; the factor brings it back.
    envelope = np.abs(field) * 2 * np.sqrt(np.pi * widths[0] * widths[1])
    depth = np.linspace(0, 1, len(echo))[:, None]
    decibels = 20 * np.log10(envelope + machine.noise) + (6.0 + machine.slope) * depth
    grey = 1 + decibels / machine.range + machine.gain
    picture = sector.convert(np.clip(grey, 0.02, 1))
    return np.round(picture * 255).astype(np.uint8)


def scatter(rng: np.random.Generator, side: int) -> npt.NDArray[np.complex64]:
    """Return complex normal numbers [side, side]: the tissue of one stream."""
    real, imaginary = rng.standard_normal((2, side, side), dtype=np.float32) / np.float32(np.sqrt(2))
    return np.asarray(real + np.complex64(1j) * imaginary, dtype=np.complex64)


def moved(sector: Sector, tissue: npt.NDArray[np.complex64], dx: float, dy: float) -> npt.NDArray[np.complex64]:
    """Return the scatterers that the beams meet after the tissue has moved by (dx, dy)."""
    side = len(tissue)
    columns = np.round((sector.x - dx) * side / 2).astype(np.int64) % side
    rows = np.round((sector.y - dy) * side / 2).astype(np.int64) % side
    return tissue[rows, columns]


def extent(shape: Ellipse) -> tuple[float, float, float, float]:
    """Return left, top, right and bottom of an ellipse."""
    across = float(np.hypot(shape.a * np.cos(shape.angle), shape.b * np.sin(shape.angle)))
    down = float(np.hypot(shape.a * np.sin(shape.angle), shape.b * np.cos(shape.angle)))
    return shape.x - across, shape.y - down, shape.x + across, shape.y + down
