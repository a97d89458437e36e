"""Names of FPUS23's video streams and what they say: `stream_<pose>_<location>_<orientation of the probe>`.

The four numbers that arXiv 2505.06592 reads from a name are acquisition metadata: how the phantom lay and where the
operator pointed the probe. Two of them are also given as the paper has them: the location as an ordinal number, and
the probe's orientation under the name "invasive".
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from fusetune.errors import UserError, did_you_mean, listed

POSES = ("hdvb", "hdvf", "huvb", "huvf")
# The order is the paper's: its ordinal number is the position / 4.
LOCATIONS = ("aroundabd", "longrec", "aroundhead", "aroundarms", "aroundlegs")
ORIENTATIONS = {"h": "horizontal", "v": "vertical"}
# How the annotations call the locations; longrec, a sweep along the whole body, has no word there.
SEEN = {"aroundabd": "abdomen", "longrec": "", "aroundhead": "head", "aroundarms": "arms", "aroundlegs": "legs"}
# One folder of the published data is called stream_huvb_aroundsbd_h.
MISSPELT = {"aroundsbd": "aroundabd"}
_SHAPE = re.compile(r"stream_([^_]+)_([^_]+)_([^_]+)")


@dataclass(frozen=True)
class Stream:
    """What the name of a stream says.

    Attributes:
        name: The folder's name, as it is spelt.
        pose: One of `POSES`: head down or up, view from back or front.
        location: One of `LOCATIONS`, spelt right.
        probe: ``h`` or ``v``, the orientation of the probe.
    """

    name: str
    pose: str
    location: str
    probe: str

    def columns(self) -> dict[str, str | int | float]:
        """Return the values for a table: the true names first, the paper's after them."""
        return {
            "head_up": int(self.pose.startswith("hu")),
            "front_view": int(self.pose.endswith("vf")),
            "location": self.location,
            "probe": ORIENTATIONS[self.probe],
            "paper_location": LOCATIONS.index(self.location) / 4,
            "paper_invasive": int(self.probe != "h"),
        }

    def contradictions(self, tags: dict[str, str]) -> list[str]:
        """Return what tags of a frame say otherwise than the name."""
        words = {
            "Orientation.Pose": self.pose,
            "location.View_fetus": SEEN[self.location],
            "Probe.orientation": self.probe,
        }
        return [f"{tag} is {tags[tag]}" for tag, word in words.items() if tags.get(tag) and tags[tag] != word]


def read_stream(name: str) -> Stream:
    """Read a stream's name.

    Raises:
        UserError: Naming the part that is unknown, with the nearest known word.
    """
    match = _SHAPE.fullmatch(name)
    if not match:
        raise UserError(f"the folder '{name}' is not named stream_<pose>_<location>_<orientation>; rename or remove it")
    pose, place, probe = match.groups()
    location = MISSPELT.get(place, place)
    _check(name, "pose", pose, POSES)
    _check(name, "location", location, LOCATIONS)
    _check(name, "probe orientation", probe, tuple(ORIENTATIONS))
    return Stream(name, pose, location, probe)


def stream_names() -> list[str]:
    """Return the names of the 39 published streams, sorted."""
    # Every combination but one, and that one's partner is the misspelt one.
    names = [f"stream_{pose}_{place}_{probe}" for pose in POSES for place in LOCATIONS for probe in ORIENTATIONS]
    names.remove("stream_huvb_aroundabd_v")
    return sorted(name.replace("huvb_aroundabd", "huvb_aroundsbd") for name in names)


def _check(
    name: str, what: Literal["pose", "location", "probe orientation"], word: str, words: tuple[str, ...]
) -> None:
    if word not in words:
        raise UserError(
            f"the folder '{name}' names an unknown {what} '{word}'{did_you_mean(word, words)}; known: {listed(words)}. "
            "Rename the folder or take it out"
        )
