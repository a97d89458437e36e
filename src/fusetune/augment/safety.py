"""Policies that contradict another column are refused before training: a mirror image beside one that says left."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from fusetune.config import ImagePolicy
from fusetune.config.tree import ImageConfig
from fusetune.data.schema import Schema
from fusetune.errors import ConfigError, did_you_mean, listed
from fusetune.progress import Log

_SIDE = re.compile(r"(^|[\W_])(left|right|laterality|orientation|side)([\W_]|$)", re.IGNORECASE)
_SPACING = re.compile(r"(^|[\W_])(spacing|pixel[\W_]?(size|spacing|mm)|mm[\W_]per[\W_]pixel)([\W_]|$)", re.IGNORECASE)
# A picture turned further than this may be taken for one that was lying on its side.
_TURN = 45


def check_policy(
    image: ImageConfig,
    policy: ImagePolicy,
    schema: Schema,
    log: Log,
    classes: Sequence[Any] = (),
    settled: Sequence[str] = (),
) -> None:
    """Refuse what contradicts another column, and warn where the name of a column or a class says that it might.

    Nothing is said of columns that are `settled`: what they suggest was tried.

    Raises:
        ConfigError: If `image.orientation` names no column of the table; if pictures are flipped or turned beyond 45
            degrees beside it; or if their size is changed beside `image.spacing`, by a policy or between training and
            prediction.
    """
    names = [column.name for column in schema.columns]
    if image.orientation is not None and image.orientation not in names:
        guess = did_you_mean(image.orientation, names)
        raise ConfigError(f"image.orientation: the table has no column '{image.orientation}'{guess}")
    problems = []
    if image.orientation is not None:
        turned = [*_flips(policy), *(["rotate"] if policy.rotate > _TURN else [])]
        problems += [_refusal(image, policy, name, image.orientation, "orientation") for name in turned]
    if image.spacing is not None and policy.scale:
        problems.append(_refusal(image, policy, "scale", image.spacing, "spacing"))
    if problems:
        raise ConfigError(
            "\n".join([*problems, "Set it to 0, or choose image.augment=scan, which keeps sides and sizes."])
        )
    same = round(image.size / policy.crop)
    if image.spacing is not None and abs(image.encode_side - same) > 1:
        raise ConfigError(
            f"image.encode_size: {image.encode_side} cannot go with image.spacing={image.spacing}: pictures would be "
            f"larger or smaller than in training; leave it out, or set it to {same}, which is image.size divided by "
            "the share that the policy crops"
        )
    for text in _doubts(image, policy, schema, settled):
        log.warn(text)
    sided = [str(name) for name in (schema.named("label"), *classes) if name is not None and _SIDE.search(str(name))]
    if sided and _flips(policy) and image.orientation is None:
        log.warn(
            f"what is predicted sounds as if it told sides ({listed(sided)}), and image.augment.{_flips(policy)[0]} "
            "mirrors pictures but not labels; if so, choose a policy without flips such as image.augment=scan"
        )


def _flips(policy: ImagePolicy) -> list[str]:
    return [name for name in ("flip_horizontal", "flip_vertical") if getattr(policy, name)]


def sizes_of_pixels(image: ImageConfig, policy: ImagePolicy, schema: Schema) -> list[str]:
    """Return inputs whose names sound like the size of a pixel, where sizes are changed and no column is set."""
    asked = policy.scale and image.spacing is None
    return [column.name for column in schema.inputs if asked and _SPACING.search(column.name)]


def _doubts(image: ImageConfig, policy: ImagePolicy, schema: Schema, settled: Sequence[str]) -> Iterator[str]:
    """Yield what may be wrong, judged by the names of columns."""
    inputs = [column.name for column in schema.inputs]
    for name in filter(_SIDE.search, inputs if _flips(policy) and image.orientation is None else ()):
        yield (
            f"column '{name}' sounds as if it tells sides, and image.augment.{_flips(policy)[0]} mirrors pictures; if "
            f"so, set image.orientation={name} and a policy without flips such as image.augment=scan"
        )
    for name in sizes_of_pixels(image, policy, schema):
        if name in settled:
            continue
        yield (
            f"column '{name}' sounds like the size of a pixel, and image.augment.scale changes sizes; if so, set "
            f"image.spacing={name} and a policy that keeps sizes such as image.augment=scan"
        )


def _refusal(image: ImageConfig, policy: ImagePolicy, operation: str, column: str, setting: str) -> str:
    chosen = f" (in the policy '{image.augment}')" if isinstance(image.augment, str) else ""
    what = {
        "orientation": "what the column says would no longer be true of the picture",
        "spacing": "physical sizes would be wrong",
    }
    return (
        f"image.augment.{operation}: {getattr(policy, operation):g}{chosen} cannot go with image.{setting}={column}: "
        f"{what[setting]}"
    )
