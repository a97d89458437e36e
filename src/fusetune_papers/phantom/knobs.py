"""What can be turned about the phantom."""

from __future__ import annotations

from dataclasses import dataclass

from fusetune.errors import UserError

ORGANS = ("head", "abdomen", "arms", "legs")
COMBINATIONS = 2 ** len(ORGANS)


@dataclass(frozen=True)
class Knobs:
    """Settings of the phantom; shares lie between 0 and 1.

    Attributes:
        streams: How many of the 39 streams.
        frames: Frames per stream.
        difficulty: 0: organs stand out and little else lies around; 1: they hardly do, among many things that look
            alike.
        image_share: Share of frames in which the probe has contact. In the others, the picture shows no anatomy
            although the labels stay, as if an annotator went by the frames around.
        metadata_share: How much the stream's location says about the labels: 1 as in the published annotations,
            0 nothing.
        text_share: Share of sentences that name what is in view; the others are small talk.
        width: Of a picture in pixels.
        combinations: Every combination of the four organs, none and all among them, in equally many frames of every
            stream, each organ drawn in full or not at all. Every organ is then in exactly half of the frames, any two
            are in a quarter, and the stream's name says nothing, so that `metadata_share` must be 0.
        seed: Everything drawn is a function of it, the stream's name and the frame's number.
    """

    streams: int = 39
    frames: int = 40
    difficulty: float = 0.5
    image_share: float = 0.9
    metadata_share: float = 1.0
    text_share: float = 0.5
    width: int = 224
    combinations: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse values outside their range.

        Raises:
            UserError: Naming the setting and its range.
        """
        for name in ("difficulty", "image_share", "metadata_share", "text_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name} must lie between 0 and 1, not {getattr(self, name)}")
        for name, low, high in (("streams", 1, 39), ("frames", 2, 10_000), ("width", 64, 1344), ("seed", 0, 2**32)):
            if not low <= getattr(self, name) <= high:
                raise UserError(f"{name} must lie between {low} and {high:,}, not {getattr(self, name)}")
        if self.combinations and self.metadata_share:
            raise UserError(
                "with combinations, a stream's name says nothing of its labels: metadata_share must be 0, "
                f"not {self.metadata_share}"
            )
        if self.combinations and self.frames % COMBINATIONS:
            raise UserError(
                f"with combinations, frames must be a multiple of {COMBINATIONS}, so that each is in as many frames; "
                f"not {self.frames}"
            )
