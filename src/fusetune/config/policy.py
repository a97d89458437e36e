"""Augmentation policies: small typed descriptions of what may happen to an input on its way into a batch."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

Probability = float


class Section(BaseModel):
    """Base of every section: unknown keys are refused, values are checked on assignment."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True)


class ImagePolicy(Section):
    """What happens to an image on its way into a batch: one warp, then brightness and contrast, then erasing."""

    rotate: float = Field(0.0, ge=0, le=180, description="largest angle in degrees, both directions")
    scale: float = Field(0.0, ge=0, lt=1, description="largest relative change of size, both directions")
    translate: float = Field(0.0, ge=0, le=1, description="largest shift as a share of the side, both directions")
    crop: float = Field(1.0, gt=0, le=1, description="side of a randomly placed crop as a share of the picture's side")
    flip_horizontal: Probability = Field(0.0, ge=0, le=1)
    flip_vertical: Probability = Field(0.0, ge=0, le=1)
    brightness: float = Field(0.0, ge=0, le=1, description="largest shift in units of full white")
    contrast: float = Field(0.0, ge=0, lt=1, description="largest relative change of contrast")
    erase: Probability = Field(
        0.0, ge=0, le=1, description="probability that a rectangle is replaced by noise-free grey"
    )
    erase_area: float = Field(0.2, gt=0, le=0.8, description="largest area of that rectangle as a share of the image")


IMAGE_POLICIES: dict[str, ImagePolicy] = {
    "none": ImagePolicy(),
    # Resize to 244, rotate by up to 15 degrees, crop 224 at random, flip both ways (arXiv 2505.06592).
    "paper": ImagePolicy(rotate=15, crop=224 / 244, flip_horizontal=0.5, flip_vertical=0.5),
    "light": ImagePolicy(rotate=7, scale=0.08, translate=0.04, brightness=0.1, contrast=0.1),
    "medium": ImagePolicy(
        rotate=15, scale=0.2, translate=0.08, flip_horizontal=0.5, brightness=0.2, contrast=0.25, erase=0.25
    ),
    # Nothing that changes the size of what is seen or its left and right: safe beside columns such as a pixel size.
    "scan": ImagePolicy(rotate=15, translate=0.06, brightness=0.15, contrast=0.2),
}


class TextPolicy(Section):
    """What happens to a text on its way into a batch. Special tokens are never touched."""

    drop: Probability = Field(0.1, ge=0, lt=1, description="probability that a token is left out")


class ColumnPolicy(Section):
    """What happens to table cells on their way into a batch."""

    corrupt: Probability = Field(
        0.2, ge=0, lt=1, description="probability that a cell takes another training row's value (SCARF)"
    )
