"""Encoders: part of a batch -> feature vectors, one kind per file."""

from __future__ import annotations

from inspect import isabstract
from typing import Any

from fusetune.encoders.bagged import Bagged
from fusetune.encoders.base import Encoder, ImageEncoder
from fusetune.encoders.branched import Branched
from fusetune.encoders.causal import CausalText
from fusetune.encoders.columns import CellIdentity, CellValues, ColumnsMLP, ColumnTokens, FTTransformer
from fusetune.encoders.image import EfficientNetLite, SmallCNN, load_image_encoder
from fusetune.encoders.sentence import (
    SmallTextTransformer,
    SpecialIds,
    TransformersText,
    load_text_encoder,
    special_ids,
    train_tokenizer,
)
from fusetune.encoders.shallow import ShallowText, train_word_tokenizer
from fusetune.encoders.stacked import Averaged, Stacked
from fusetune.encoders.static import StaticText
from fusetune.encoders.vector import Identity, Projection, VectorMLP
from fusetune.encoders.vision import TimmImage, TransformersImage
from fusetune.encoders.words import WordCounts
from fusetune.errors import BundleError

__all__ = [
    "Averaged",
    "Bagged",
    "Branched",
    "CausalText",
    "CellIdentity",
    "CellValues",
    "ColumnTokens",
    "ColumnsMLP",
    "EfficientNetLite",
    "Encoder",
    "FTTransformer",
    "Identity",
    "ImageEncoder",
    "Projection",
    "ShallowText",
    "SmallCNN",
    "SmallTextTransformer",
    "SpecialIds",
    "Stacked",
    "StaticText",
    "TimmImage",
    "TransformersImage",
    "TransformersText",
    "VectorMLP",
    "WordCounts",
    "build_encoder",
    "is_pretrained",
    "load_image_encoder",
    "load_text_encoder",
    "special_ids",
    "train_tokenizer",
    "train_word_tokenizer",
]

ENCODERS: dict[str, type[Encoder]] = {
    encoder.__name__: encoder
    for encoder in map(globals().get, __all__)
    if isinstance(encoder, type) and issubclass(encoder, Encoder) and not isabstract(encoder)
}


def is_pretrained(encoder: Encoder) -> bool:
    """Return whether an encoder starts from weights that were trained on other data."""
    if isinstance(encoder, Bagged):
        return is_pretrained(encoder.base)
    kinds = EfficientNetLite | TransformersImage | TimmImage | TransformersText | CausalText | StaticText
    return isinstance(encoder, kinds)


def build_encoder(description: dict[str, Any]) -> Encoder:
    """Rebuild an encoder from what its `describe` returned: same architecture, random weights, offline.

    Raises:
        BundleError: The description names an encoder that this version does not know.
    """
    arguments = dict(description)
    name = arguments.pop("encoder", None)
    if name not in ENCODERS:
        raise BundleError(f"This version knows no encoder '{name}'; it knows {', '.join(ENCODERS)}.")
    return ENCODERS[name](**arguments)
