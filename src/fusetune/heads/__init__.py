"""Stage M: heads on blocks of features, solved (`solver`) or trained (`trained`), and who learns what (`folds`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fusetune.heads.base import Head
from fusetune.heads.bilinear import BilinearHead
from fusetune.heads.gated import GatedHead
from fusetune.heads.linear import LinearHead
from fusetune.heads.mlp import MLPHead
from fusetune.heads.tip import TIPHead

HEADS: dict[str, type[Head]] = {head.kind: head for head in (LinearHead, MLPHead, GatedHead, BilinearHead, TIPHead)}


def build_head(description: Mapping[str, Any]) -> Head:
    """Make a head from its description, with untrained weights."""
    arguments = {name: value for name, value in description.items() if name != "kind"}
    return HEADS[description["kind"]](**arguments)
