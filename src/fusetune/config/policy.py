"""Augmentation policies: small typed descriptions of what may happen to an input on its way into a batch."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Probability = float


class Section(BaseModel):
    """Base of every section: unknown keys are refused, values are checked on assignment."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True)


class ImagePolicy(Section):
    """What happens to an image on its way into a batch: one warp, then colours and noise, then erasing.

    Every strength is drawn anew for each picture and view, evenly from none to the largest; a change that has two
    directions (a turn, a shift, brighter or darker) goes both ways.
    """

    choose: Literal["all", "one"] = Field(
        "all",
        description="all: every operation, one on top of the other; one: a single one per picture, each equally often",
    )
    rotate: float = Field(0.0, ge=0, le=180, description="largest angle in degrees")
    scale: float = Field(0.0, ge=0, lt=1, description="largest relative change of size")
    translate: float = Field(0.0, ge=0, le=1, description="largest shift as a share of the side")
    shear: float = Field(0.0, ge=0, lt=1, description="largest slant along either axis, as its tangent")
    crop: float = Field(1.0, ge=0.05, description="side of a randomly placed crop as a share of the picture's side")
    flip_horizontal: Probability = Field(0.0, ge=0, le=1, description="probability that left and right change places")
    flip_vertical: Probability = Field(0.0, ge=0, le=1, description="probability that top and bottom change places")
    border: Literal["edge", "constant", "reflect"] = Field(
        "edge", description="what lies outside the picture: its edge repeated, one grey value, or its mirror image"
    )
    fill: int = Field(0, ge=0, le=255, description="grey value outside the picture where border is constant")
    brightness: float = Field(0.0, ge=0, le=1, description="largest shift in units of full white")
    contrast: float = Field(0.0, ge=0, lt=1, description="largest relative change of contrast")
    saturation: float = Field(0.0, ge=0, le=1, description="largest relative change of colourfulness")
    effects: Probability = Field(
        0.5, ge=0, le=1, description="probability of each of the following, down to equalize, where it is set"
    )
    gamma: float = Field(0.0, ge=0, le=4, description="exponents run from 1 / (1 + gamma) to 1 + gamma")
    blur: float = Field(0.0, ge=0, le=8, description="largest standard deviation of a Gaussian blur, in pixels")
    sharpness: float = Field(0.0, ge=0, le=1, description="largest relative change of the difference from a blur")
    noise: float = Field(0.0, ge=0, le=1, description="largest standard deviation of added noise, of full white")
    speckle: float = Field(0.0, ge=0, le=1, description="largest standard deviation of multiplied noise")
    posterize: int = Field(8, ge=1, le=8, description="fewest bits that are kept of a channel; 8: off")
    solarize: float = Field(1.0, ge=0, le=1, description="lowest value from which on colours are inverted; 1: off")
    autocontrast: bool = Field(False, description="stretch each channel to the full range")
    equalize: bool = Field(False, description="spread each channel evenly over the range")
    erase: Probability = Field(0.0, ge=0, le=1, description="probability that a rectangle is replaced by grey")
    erase_area: float = Field(0.2, gt=0, le=0.8, description="largest area of that rectangle as a share of the image")

    @model_validator(mode="after")
    def _can_work(self) -> Self:
        if self.crop > 1:
            raise ValueError(
                f"crop: a crop of {self.crop:g} x the picture's side is larger than the picture; at most 1"
            )
        if self.choose == "one" and not self.operations:
            raise ValueError("choose: 'one' has nothing to choose from; set an operation such as rotate")
        return self

    @property
    def operations(self) -> tuple[str, ...]:
        """The operations that can happen, besides the crop, in a fixed order; shifts and shears once per axis."""
        off = {"posterize": 8, "solarize": 1.0}
        names = [name for name in OPERATIONS if getattr(self, name) != off.get(name, 0)]
        return tuple(axis for name in names for axis in AXES.get(name, (name,)))


# The order decides which operation a number stands for where one is chosen: new ones go to the end.
OPERATIONS = (
    "rotate", "scale", "translate", "shear", "flip_horizontal", "flip_vertical", "brightness", "contrast", "saturation",
    "gamma", "blur", "sharpness", "posterize", "solarize", "autocontrast", "equalize", "speckle", "noise", "erase",
)  # fmt: skip
AXES = {"translate": ("shift_x", "shift_y"), "shear": ("shear_x", "shear_y")}

IMAGE_POLICIES: dict[str, ImagePolicy] = {
    "none": ImagePolicy(),
    # Resize to 244, rotate by up to 15 degrees with black corners, crop 224 at random, flip both ways
    # (arXiv 2505.06592).
    "paper": ImagePolicy(rotate=15, crop=224 / 244, flip_horizontal=0.5, flip_vertical=0.5, border="constant"),
    "light": ImagePolicy(rotate=7, scale=0.08, translate=0.04, brightness=0.1, contrast=0.1),
    "medium": ImagePolicy(
        rotate=15, scale=0.2, translate=0.08, flip_horizontal=0.5, brightness=0.2, contrast=0.25, erase=0.25
    ),
    # TrivialAugment's wide space (arXiv 2103.10158): one operation per picture, any strength. Shifts are 32 pixels of
    # 224; brightness is added here where the paper multiplies.
    "trivial": ImagePolicy(
        choose="one", rotate=135, translate=32 / 224, shear=0.99, brightness=0.99, contrast=0.99, saturation=0.99,
        sharpness=0.99, posterize=2, solarize=0, autocontrast=True, equalize=True, effects=1, border="constant",
    ),
    # Nothing that changes the size of what is seen or its left and right: safe beside columns such as a pixel size.
    "scan": ImagePolicy(rotate=15, translate=0.06, brightness=0.15, contrast=0.2),
    # As `scan`; gain, compression and speckle vary between machines.
    "ultrasound": ImagePolicy(
        rotate=15, translate=0.06, brightness=0.1, contrast=0.2, gamma=0.3, blur=1.0, speckle=0.15
    ),
    # As `scan`; patients are positioned well, exposure and detector noise vary. Never flipped: the heart is left.
    "xray": ImagePolicy(rotate=7, translate=0.05, brightness=0.1, contrast=0.2, gamma=0.25, noise=0.03),
}  # fmt: skip


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
