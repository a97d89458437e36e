"""What a synthetic stream is to show: which organs in which frame, where the probe loses contact, what is said."""

from __future__ import annotations

from dataclasses import dataclass
from zlib import crc32

import numpy as np
import numpy.typing as npt

from fusetune_papers.datasets.streams import LOCATIONS, Stream
from fusetune_papers.phantom.knobs import COMBINATIONS, ORGANS, Knobs

# Shares of frames with a box of each organ in the published annotations, by location of the stream.
SHARES = {
    "aroundabd": (0.250, 1.000, 0.512, 0.240),
    "longrec": (0.0, 0.0, 0.0, 0.0),
    "aroundhead": (0.989, 0.411, 0.178, 0.000),
    "aroundarms": (0.451, 0.582, 0.867, 0.287),
    "aroundlegs": (0.000, 0.768, 0.014, 0.973),
}
# How unlike the streams of one location are: a beta distribution with a + b this small is mostly near 0 or 1.
_ALIKE = 0.8
# A sentence stays for some frames, as the picture does.
_STAY = 5
_SEEN = {
    "head": ("skull with midline echo", "head"),
    "abdomen": ("abdomen with stomach", "round abdomen"),
    "arms": ("an arm", "upper limb"),
    "legs": ("femur", "legs"),
}
_FOUND = ("In view: {}.", "{} seen.", "The picture shows {}.")
_NOTHING = ("No foetal part in view.", "Only fluid seen.", "The picture shows no foetal part.")
_SMALL_TALK = (
    "Slow sweep towards the far wall.",
    "Gain turned up a little.",
    "Contact gel renewed, same preset.",
    "Probe held still for a moment.",
    "Depth and focus unchanged.",
)


@dataclass(frozen=True)
class Script:
    """What a stream shows.

    Attributes:
        weight: Visibility of each organ, 0 to 1 [frames, organs]; organs fade in and out.
        present: Whether it is annotated [frames, organs].
        contact: Whether the picture shows anatomy at all [frames].
        sentences: One per frame.
    """

    weight: npt.NDArray[np.float64]
    present: npt.NDArray[np.bool_]
    contact: npt.NDArray[np.bool_]
    sentences: list[str]


def stream_rng(seed: int, stream: str, what: str) -> np.random.Generator:
    """Return the random numbers for one thing of one stream, independent of all others."""
    return np.random.Generator(np.random.PCG64([seed, crc32(stream.encode()), crc32(what.encode())]))


def write_script(stream: Stream, knobs: Knobs) -> Script:
    """Decide what a stream shows; a function of the knobs and the stream's name."""
    weight, present = (_combined if knobs.combinations else _as_published)(stream, knobs)
    rng = stream_rng(knobs.seed, stream.name, "contact")
    contact = _faded(_curve(rng, knobs.frames), knobs.image_share)[1]
    return Script(weight, present, contact, _sentences(stream, knobs, present))


def _as_published(stream: Stream, knobs: Knobs) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Return visibility and presence where each organ comes and goes by itself, as often as the location has it."""
    weight, present = np.empty((2, knobs.frames, len(ORGANS)))
    for place, organ in enumerate(ORGANS):
        rng = stream_rng(knobs.seed, stream.name, organ)
        share = _share(rng, stream.location, place, knobs.metadata_share)
        weight[:, place], present[:, place] = _faded(_curve(rng, knobs.frames), share)
    return weight, present.astype(bool)


def _combined(stream: Stream, knobs: Knobs) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Return visibility and presence where every combination stays for equally many frames, in random order."""
    order = stream_rng(knobs.seed, stream.name, "combinations").permutation(COMBINATIONS)
    bits = order[:, None] >> np.arange(len(ORGANS)) & 1
    present = np.repeat(bits.astype(bool), knobs.frames // COMBINATIONS, 0)
    return present.astype(np.float64), present


def _share(rng: np.random.Generator, location: str, organ: int, metadata_share: float) -> float:
    """Draw the share of a stream's frames that show an organ."""
    overall = float(np.mean([SHARES[place][organ] for place in LOCATIONS]))
    mean = metadata_share * SHARES[location][organ] + (1 - metadata_share) * overall
    return float(rng.beta(mean * _ALIKE, (1 - mean) * _ALIKE)) if 0 < mean < 1 else mean


def _curve(rng: np.random.Generator, frames: int) -> npt.NDArray[np.float64]:
    """Return a smooth random curve with a few ups and downs over the whole stream."""
    time = np.arange(frames) / frames
    speed, phase = rng.uniform((0.4, 1.4), (1.4, 2.4)), rng.uniform(0, 1, 2)
    slow, fast = np.sin(2 * np.pi * (speed[:, None] * time + phase[:, None]))
    return np.asarray(slow + 0.4 * fast)


def _faded(curve: npt.NDArray[np.float64], share: float) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Return visibility, and the given share of frames where the curve is highest."""
    count = round(share * len(curve))
    order = np.argsort(-curve, kind="stable")
    present = np.zeros(len(curve), dtype=bool)
    present[order[:count]] = True
    if count in (0, len(curve)):
        return present.astype(float), present
    edge = (curve[order[count - 1]] + curve[order[count]]) / 2
    return 1 / (1 + np.exp(-(curve - edge) / 0.08)), present


def _sentences(stream: Stream, knobs: Knobs, present: npt.NDArray[np.bool_]) -> list[str]:
    blocks = range((len(present) - 1) // _STAY + 1)
    draws = [stream_rng(knobs.seed, stream.name, f"sentence {block}").uniform(size=4) for block in blocks]
    sentences = []
    for number, organs in enumerate(present):
        telling, form, word, talk = draws[number // _STAY]
        names = [_SEEN[organ][int(word * 2)] for organ, there in zip(ORGANS, organs, strict=True) if there]
        if telling >= knobs.text_share:
            sentences.append(_SMALL_TALK[int(talk * len(_SMALL_TALK))])
        elif names:
            sentence = _FOUND[int(form * len(_FOUND))].format(_joined(names))
            sentences.append(sentence[0].upper() + sentence[1:])
        else:
            sentences.append(_NOTHING[int(form * len(_NOTHING))])
    return sentences


def _joined(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
