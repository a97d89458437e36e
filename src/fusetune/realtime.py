"""Encoders of a model through ONNX Runtime, for who asks it for a few rows at a time."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from torch import Tensor

from fusetune.answering import Answering
from fusetune.data.choices import Kind
from fusetune.data.schema import Schema
from fusetune.encoders import Encoder
from fusetune.features.onnx import OnnxEncoder, OnnxError, onnx_available


@dataclass(eq=False)
class _Watched:
    """An encoder that remembers what it was given."""

    encoder: Encoder
    given: list[Any] = field(default_factory=list)

    def __call__(self, inputs: Any) -> Tensor:
        self.given.append(inputs)
        return self.encoder(inputs)  # type: ignore[no-any-return]


def accelerate(answering: Answering, ask: Callable[[], Any]) -> dict[str, str]:
    """Let ONNX Runtime do what encoders of pictures and texts do, where it is installed and agrees with PyTorch.

    Features then differ by at most `features.onnx.TOLERANCE` of their scale. Where gradients are asked for, PyTorch
    encodes as before.

    Args:
        answering: The model. Nothing happens where it is not on the CPU in float32.
        ask: Asks it for a row with all inputs present; what encoders are given then is what they are traced with.

    Returns:
        Why an encoder was left as it was, by input.
    """
    network, runtime = answering.network, answering.runtime
    if runtime.device.type != "cpu" or runtime.precision != "32" or not onnx_available():
        return {}
    # Networks on cells and numbers are small.
    dear = {name for name, reader in answering.readers.items() if reader.modality.kind in ("image", "text")}
    heavy = {e: name for name, e in network.members if name in dear and any(True for _ in e.parameters())}
    watched = {encoder: _Watched(encoder) for encoder in heavy}
    network.engines = dict(watched)
    try:
        ask()
    finally:
        network.engines = {}
    left: dict[str, str] = {}
    found: dict[Encoder, Callable[[Any], Tensor]] = {}
    for encoder, one in watched.items():
        if not one.given:  # the example was no good to whoever reads it
            left[heavy[encoder]] = "no example of its input can be made"
            continue
        try:
            with runtime.applied():
                found[encoder] = OnnxEncoder(encoder, one.given[0])
        except OnnxError as error:
            left[heavy[encoder]] = str(error)
    network.engines = found
    return left


def some_row(schema: Schema) -> pd.DataFrame:
    """Return a row with a picture of noise and a few words; numbers are 1, other cells are missing.

    A picture may need one of the numbers: the size of its pixels.
    """
    noise = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(noise, "PNG")
    grouped = {name for group in schema.vectors.values() for name in group}
    content: dict[str, Any] = {}
    for column in schema.inputs:
        kind = Kind.NUMBER if column.name in grouped else column.kind
        blank = {Kind.IMAGE: noise.getvalue(), Kind.TEXT: "a few words", Kind.NUMBER: 1.0, Kind.CATEGORY: ""}
        content[column.name] = pd.Series([blank.get(kind)], dtype=None if kind in blank else "str")
    return pd.DataFrame(content)
