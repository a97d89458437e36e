"""The phantom's anatomy as ellipses: head, abdomen, arms and legs, and the surroundings they lie in."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from fusetune_papers.phantom.ultrasound import Array, Ellipse, Sector

FLUID = 0.014  # reflectivity of the dark pool
BONE = 9.0  # loss behind which little is seen


def head(front: bool) -> list[Ellipse]:
    """Skull, midline echo, the two choroid plexuses; unit: half the skull's length."""
    side = 1 if front else -1
    return [
        Ellipse(0, 0, 1.0, 0.78, fill=0.07, rim=0.95, loss=0.5),
        Ellipse(0, 0, 0.72, 0.035, fill=0.35),
        Ellipse(-0.28, side * 0.3, 0.24, 0.11, fill=0.3),
        Ellipse(0.34, -side * 0.28, 0.2, 0.1, fill=0.24),
        Ellipse(0.5, 0, 0.1, 0.08, fill=0.01),
    ]


def abdomen(front: bool) -> list[Ellipse]:
    """Skin line, stomach (dark), umbilical vein, spine with its shadow."""
    side = -1 if front else 1
    return [
        Ellipse(0, 0, 1.0, 0.86, fill=0.16, rim=0.3, loss=0.3),
        Ellipse(-0.42, side * 0.2, 0.24, 0.17, fill=0.008),
        Ellipse(0.2, side * 0.3, 0.3, 0.045, angle=0.5, fill=0.02),
        *(Ellipse(x, -side * 0.62, 0.09, 0.07, fill=0.8, loss=BONE) for x in (-0.2, 0.0, 0.2)),
    ]


def limb(thick: float, bone: float) -> list[Ellipse]:
    """A limb: soft tissue around a bright bone that casts a shadow."""
    return [
        Ellipse(0, 0, 1.0, thick, fill=0.13, rim=0.18),
        Ellipse(0.02, 0, 0.82, bone, fill=0.9, loss=BONE),
        Ellipse(-0.8, 0, bone * 1.7, bone * 1.7, fill=0.75, loss=BONE),
        Ellipse(0.82, 0, bone * 1.7, bone * 1.7, fill=0.75, loss=BONE),
    ]


def place(
    shapes: Iterable[Ellipse], x: float, y: float, size: float, angle: float, stretch: float, contrast: float
) -> list[Ellipse]:
    """Put shapes given in their own unit into the picture.

    Args:
        shapes: What to place.
        x: Where, across.
        y: Where, down.
        size: Length of the unit.
        angle: Rotation in radians.
        stretch: Factor on the first axis; a lengthwise cut shows a longer shape than a cross-section.
        contrast: 0 (not to be seen) to 1.
    """
    cos, sin = np.cos(angle), np.sin(angle)
    return [
        replace(
            shape,
            x=x + size * (shape.x * stretch * cos - shape.y * sin),
            y=y + size * (shape.x * stretch * sin + shape.y * cos),
            a=shape.a * size * stretch,
            b=shape.b * size,
            angle=shape.angle + angle,
            weight=contrast,
        )
        for shape in shapes
    ]


def surroundings(sector: Sector, rng: np.random.Generator) -> Array:
    """Return the reflectivity around the phantom: skin, uterine wall, a dark pool with a placenta at one side."""
    phase, depth = rng.uniform(0, 2 * np.pi, 3), rng.uniform(0.1, 0.17)
    wave = 0.02 * np.sin(5 * sector.x + phase[0]) + 0.012 * np.sin(11 * sector.x + phase[1])
    near, far = depth + wave, rng.uniform(0.9, 0.98) + 1.5 * wave
    pool = 1 / (1 + np.exp(-(sector.y - near) / 0.012)) / (1 + np.exp((sector.y - far) / 0.012))
    echo = 0.2 + pool * (FLUID - 0.2)
    for edge, bright in ((near, 0.45), (far, 0.5), (near - 0.06, 0.3)):
        echo = echo + bright * np.exp(-(((sector.y - edge) / 0.01) ** 2))
    side = rng.choice([-1, 1])
    middle = rng.uniform(0.45, 0.75)
    placenta = ((sector.x - side * 0.75) / 0.3) ** 2 + ((sector.y - middle) / 0.26) ** 2
    return np.asarray(echo + (0.12 - FLUID) * pool / (1 + np.exp((placenta - 1) / 0.08)), dtype=np.float64)


def decoys(rng: np.random.Generator, count: int) -> list[Ellipse]:
    """Return loops of cord, cysts and bright lines that lie around in any stream and mean nothing."""
    shapes = []
    for _ in range(count):
        x, y, angle = rng.uniform(-0.55, 0.55), rng.uniform(0.25, 0.85), rng.uniform(0, np.pi)
        size = rng.uniform(0.04, 0.1)
        kinds = (
            Ellipse(x, y, size, size * 0.8, angle, fill=0.03, rim=0.45),
            Ellipse(x, y, size * 1.4, 0.013, angle, fill=0.6, loss=BONE / 3),
            Ellipse(x, y, size * 1.6, size, angle, fill=0.12, rim=0.1),
        )
        shapes.append(kinds[rng.integers(len(kinds))])
    return shapes
