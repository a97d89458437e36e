"""One synthetic stream as pictures and boxes: a script played with the anatomy, under one machine and one motion."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fusetune_papers.datasets.cvat import Box
from fusetune_papers.datasets.streams import Stream
from fusetune_papers.phantom.anatomy import abdomen, decoys, head, limb, place, surroundings
from fusetune_papers.phantom.knobs import ORGANS, Knobs
from fusetune_papers.phantom.script import Script, stream_rng
from fusetune_papers.phantom.ultrasound import Array, Ellipse, Machine, Sector, extent, moved, scan, scatter

# Where the parts of each organ lie (across, down, size, angle) when the head points left and the front is near.
_PLACES = {
    "head": ((-0.33, 0.48, 0.22, 0.1),),
    "abdomen": ((0.02, 0.57, 0.24, 0.0),),
    "arms": ((-0.06, 0.28, 0.13, 0.4), (0.1, 0.84, 0.12, -0.3)),
    "legs": ((0.33, 0.42, 0.17, -0.5), (0.36, 0.68, 0.17, 0.4)),
}
_BOX = {"head": "head", "abdomen": "abdomen", "arms": "arm", "legs": "legs"}
_PRIMARY = {"aroundhead": "head", "aroundabd": "abdomen", "aroundarms": "arms", "aroundlegs": "legs"}
_MIDDLE = (0.0, 0.55)
_TISSUE = 512


class Film:
    """The pictures of one stream.

    Everything that does not change within the stream is drawn once: layout, sizes, surroundings, machine, tissue and
    the course of the motion. A frame is then a function of its number.
    """

    def __init__(self, stream: Stream, script: Script, knobs: Knobs, sector: Sector) -> None:
        self.stream, self.script, self.knobs, self.sector = stream, script, knobs, sector
        rng = stream_rng(knobs.seed, stream.name, "film")
        self.ground = surroundings(sector, rng)
        self.tissue, self.other = scatter(rng, _TISSUE), scatter(rng, _TISSUE)
        self.clutter = decoys(rng, round(1 + 7 * knobs.difficulty))
        self.machine = _machine(rng)
        self.layout = {organ: _layout(rng, stream, organ, knobs.difficulty) for organ in ORGANS}
        self.speed, self.phase = rng.uniform(0.5, 2.0, 4), rng.uniform(0, 1, 4)

    def frame(self, number: int) -> tuple[npt.NDArray[np.uint8], tuple[Box, ...]]:
        """Return the picture, uint8 [height, width], and the boxes of a frame."""
        time = number / self.knobs.frames
        dx, dy, turn, change = np.sin(2 * np.pi * (self.speed * time + self.phase)) * (0.06, 0.035, 0.1, 0.35)
        parts = {organ: self._parts(organ, number, (dx, dy, turn)) for organ in ORGANS}
        shapes = [*self.clutter, *(shape for organ in ORGANS for part in parts[organ] for shape in part)]
        # The tissue moves with the phantom, and its speckle changes as the plane of the picture is left.
        tissue = moved(self.sector, self.tissue, dx, dy) * np.float32(np.cos(change))
        tissue += moved(self.sector, self.other, dx, dy) * np.float32(np.sin(change))
        if self.script.contact[number]:
            picture = scan(self.sector, shapes, self.ground, tissue, self.machine)
        else:
            picture = scan(self.sector, [], _reverberation(self.sector), tissue, self.machine)
        return picture, self._boxes(number, parts)

    def _parts(self, organ: str, number: int, motion: tuple[float, float, float]) -> list[list[Ellipse]]:
        """Return the shapes of an organ's parts in this frame."""
        contrast = float(self.script.weight[number, ORGANS.index(organ)]) * (1 - 0.75 * self.knobs.difficulty)
        front = self.stream.pose.endswith("vf")
        shapes = {"head": head(front), "abdomen": abdomen(front), "arms": limb(0.3, 0.09), "legs": limb(0.36, 0.1)}
        stretch = 1.18 if self.stream.probe == "v" else 1.0
        dx, dy, turn = motion
        return [
            place(shapes[organ], x + dx, y + dy, size, angle + turn, stretch, contrast)
            for x, y, size, angle in self.layout[organ]
        ]

    def _boxes(self, number: int, parts: dict[str, list[list[Ellipse]]]) -> tuple[Box, ...]:
        """Return the boxes of what the script calls present; the first shape of a part is its outline."""
        width, height, scale = self.sector.width, self.sector.height, self.sector.scale
        boxes = []
        for place_, organ in enumerate(ORGANS):
            for part in parts[organ] if self.script.present[number, place_] else []:
                left, top, right, bottom = np.array(extent(part[0])) * scale + (width / 2, 0, width / 2, 0)
                edges = np.clip([left, top, right, bottom], 0, [width, height, width, height])
                boxes.append(Box(_BOX[organ], *np.round(edges, 2).tolist()))
        return tuple(boxes)


def _machine(rng: np.random.Generator) -> Machine:
    return Machine(
        gain=rng.uniform(-0.09, 0.07),
        slope=rng.uniform(-6, 6),
        range=rng.uniform(46, 60),
        spot=rng.uniform(0.75, 1.35),
        noise=10 ** rng.uniform(-3, -2.2),
    )


def _layout(
    rng: np.random.Generator, stream: Stream, organ: str, difficulty: float
) -> list[tuple[float, float, float, float]]:
    """Return x, y, size and angle of an organ's parts in this stream."""
    parts = _PLACES[organ] if rng.uniform() < 0.5 else _PLACES[organ][:1]
    mirror = -1 if stream.pose.startswith("hd") else 1
    pull = 0.5 if _PRIMARY.get(stream.location) == organ else 0.0
    spread = 0.5 + difficulty
    layout = []
    for x, y, size, angle in parts:
        jitter = rng.normal(0, 0.05, 2) * spread
        layout.append(
            (
                float((1 - pull) * mirror * x + pull * _MIDDLE[0] + jitter[0]),
                float(np.clip((1 - pull) * y + pull * _MIDDLE[1] + jitter[1], 0.25, 0.85)),
                float(size * rng.uniform(1 - 0.2 * spread, 1 + 0.15 * spread)),
                float(mirror * angle + rng.normal(0, 0.25) * spread),
            )
        )
    return layout


def _reverberation(sector: Sector) -> Array:
    """Return what a probe without contact shows: bright bands under its face and nothing below."""
    depth = sector.y - sector.y.min(0)
    bands = 0.4 * np.exp(-depth / 0.1) * (1 + np.cos(depth * 70)) + 0.002
    return np.asarray(bands)
