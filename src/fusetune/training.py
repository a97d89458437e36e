"""What `fit` and the estimator share: settings gathered from arguments, and a model trained on a prepared context."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fusetune.augment.own import GIVEN, Own, as_own
from fusetune.config import Config, ImagePolicy
from fusetune.data.schema import Schema
from fusetune.errors import UserError, listed
from fusetune.inputs import Reader
from fusetune.model import Model, row_digests
from fusetune.strategies.context import Context
from fusetune.strategies.heads import HeadFit
from fusetune.strategies.two_stage import two_stage


def gather(
    recipe: str | None,
    seed: int | None,
    augment: Mapping[str, Any] | None,
    config: Config | Mapping[str, Any] | str | Path | None,
    sets: Iterable[str],
) -> tuple[Config, Own | None]:
    """Return the settings, above those of FUSETUNE_CONFIG, and the augmentation where it is a callable.

    Raises:
        ConfigError: Naming every unknown key and wrong value.
        UserError: If something other than pictures is to be augmented.
    """
    given = {name: value for name, value in (("recipe", recipe), ("seed", seed)) if value is not None}
    own = _own(augment, given)
    return Config.build(os.environ.get("FUSETUNE_CONFIG"), config, given, sets=sets), own


def _own(augment: Mapping[str, Any] | None, given: dict[str, Any]) -> Own | None:
    """Put the augmentation among the given settings; return it if it is a callable."""
    if not augment:
        return None
    if set(augment) != {"image"}:
        raise UserError(f"augment: only 'image' can be given, not {listed(sorted(set(augment) - {'image'}))}")
    value = augment["image"]
    if isinstance(value, str | Mapping | ImagePolicy):
        given["image"] = {"augment": value.model_dump() if isinstance(value, ImagePolicy) else value}
        return None
    own = as_own(value)
    given["image"] = {"augment": GIVEN + own.label}
    return own


def train_model(ctx: Context, readers: dict[str, Reader], schema: Schema) -> tuple[Model, HeadFit]:
    """Train on the training and validation rows; return the model, not yet calibrated, and how its head was chosen."""
    network, head = two_stage(ctx)
    learnt = np.concatenate([ctx.split.rows("train"), ctx.split.rows("valid")])
    seen = np.unique(row_digests(ctx.sources, len(ctx.ids))[learnt])
    return Model(network, readers, schema, ctx.classes, ctx.config, ctx.runtime, seen), head
