"""What `fit` and the estimator share: settings gathered from their arguments."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fusetune.augment.own import GIVEN, Own, as_own
from fusetune.config import Config, ImagePolicy
from fusetune.data.choices import TargetKind
from fusetune.errors import UserError, listed
from fusetune.strategies import refuse_unread


def gather(
    preset: str | None,
    seed: int | None,
    strategy: str | Mapping[str, Any] | None,
    augment: Mapping[str, Any] | None,
    config: Config | Mapping[str, Any] | str | Path | None,
    sets: str | Iterable[str],
    minutes: float | None = None,
    target: TargetKind | None = None,
) -> tuple[Config, Own | None]:
    """Return the settings, above those of FUSETUNE_CONFIG, and the augmentation where it is a callable.

    Raises:
        ConfigError: Naming every unknown key and wrong value, or an unknown strategy or setting of it.
        UserError: If something other than pictures is to be augmented.
    """
    arguments: dict[str, Any] = {"preset": preset, "seed": seed, "minutes": minutes, "target": target}
    arguments["strategy"] = {"name": strategy} if isinstance(strategy, str) else strategy
    layer = {name: value for name, value in arguments.items() if value is not None}
    own = _own(augment, layer)
    settings = Config.build(os.environ.get("FUSETUNE_CONFIG"), config, layer, sets=sets)
    refuse_unread(settings)  # a slip must be known before anything is read
    return settings, own


def _own(augment: Mapping[str, Any] | None, layer: dict[str, Any]) -> Own | None:
    """Put the augmentation among the settings; return it if it is a callable."""
    if not augment:
        return None
    if set(augment) != {"image"}:
        raise UserError(f"augment: only 'image' can be given, not {listed(sorted(set(augment) - {'image'}))}")
    value = augment["image"]
    if isinstance(value, str | Mapping | ImagePolicy):
        layer["image"] = {"augment": value.model_dump() if isinstance(value, ImagePolicy) else value}
        return None
    own = as_own(value)
    layer["image"] = {"augment": GIVEN + own.label}
    return own
