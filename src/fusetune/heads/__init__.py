"""Stage M: heads on blocks of features, solved (`solver`) or trained (`trained`), and who learns what (`folds`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fusetune.heads.base import Head
from fusetune.heads.bilinear import BilinearHead
from fusetune.heads.bottleneck import BottleneckHead
from fusetune.heads.cache import CacheHead
from fusetune.heads.classifier import ClassifierHead
from fusetune.heads.embedding import EmbeddingHead
from fusetune.heads.gated import GatedHead
from fusetune.heads.late import ConfidenceHead, MeanHead, SumHead
from fusetune.heads.linear import LinearHead
from fusetune.heads.mlp import MLPHead
from fusetune.heads.replacing import ReplacingHead
from fusetune.heads.shared import SharedHead
from fusetune.heads.tip import TIPHead
from fusetune.heads.transformer import TransformerHead
from fusetune.heads.trees import TreesHead

HEADS: dict[str, type[Head]] = {
    head.kind: head
    for head in (
        LinearHead,
        MLPHead,
        GatedHead,
        BilinearHead,
        ConfidenceHead,
        MeanHead,
        EmbeddingHead,
        BottleneckHead,
        TIPHead,
        TransformerHead,
        ReplacingHead,
        SharedHead,
        SumHead,
        CacheHead,
        TreesHead,
        ClassifierHead,
    )
}


def build_head(description: Mapping[str, Any]) -> Head:
    """Make a head from its description, with untrained weights."""
    arguments = {name: value for name, value in description.items() if name not in ("kind", "dims", "classes")}
    return HEADS[description["kind"]](description["dims"], description["classes"], **arguments)
