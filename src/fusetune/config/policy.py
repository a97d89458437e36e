"""Augmentation policies: small typed descriptions of what may happen to an input on its way into a batch."""

from __future__ import annotations

from typing import Literal

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
    """What happens to a text on its way into a batch, in this order. Special tokens are never touched."""

    swap: Probability = Field(0.0, ge=0, le=1, description="probability that a token changes places with a neighbour")
    mask: Probability = Field(0.0, ge=0, lt=1, description="probability that the mask token stands for a token")
    span: Probability = Field(0.0, ge=0, le=1, description="probability that a text loses one run of tokens")
    span_share: float = Field(0.2, gt=0, lt=1, description="largest length of that run as a share of the text")
    drop: Probability = Field(0.1, ge=0, lt=1, description="probability that a token is left out")


class ColumnPolicy(Section):
    """What happens to table cells, or to the numbers of a vector, on their way into a batch, in this order."""

    corrupt: Probability = Field(
        0.2, ge=0, lt=1, description="probability that a cell takes another training row's value (SCARF)"
    )
    jitter: float = Field(
        0.0, ge=0, le=2, description="Gaussian noise on numbers and dates, in standard deviations of their column"
    )
    missing: Probability = Field(0.0, ge=0, lt=1, description="probability that a cell becomes a missing one")


class FeaturePolicy(Section):
    """What happens to stored features on their way into a head (FroFA, arXiv 2403.10519)."""

    noise: float = Field(0.0, ge=0, le=2, description="Gaussian noise, in standard deviations of the feature")
    scale: float = Field(0.0, ge=0, lt=1, description="largest relative change of a feature's distance to its mean")


class MixPolicy(Section):
    """Whether rows of a batch are mixed with each other, labels included."""

    kind: Literal["off", "mixup", "cutmix"] = Field(
        "off", description="mixup: weighted means (arXiv 1710.09412); cutmix: pasted rectangles (arXiv 1905.04899)"
    )
    alpha: float = Field(0.2, gt=0, le=100, description="weights are drawn from Beta(alpha, alpha)")
    share: Probability = Field(1.0, gt=0, le=1, description="probability that a row is mixed")
