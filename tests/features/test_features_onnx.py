"""ONNX Runtime gives the features of eager PyTorch, at any batch size and text length, or is refused by name."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fusetune.encoders import (
    EfficientNetLite,
    Encoder,
    FTTransformer,
    SmallCNN,
    SmallTextTransformer,
    TransformersImage,
    TransformersText,
)
from fusetune.features.onnx import OnnxEncoder, OnnxError, onnx_available

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}

needs_onnx = pytest.mark.skipif(not onnx_available(), reason="onnx and onnxruntime are not installed")


def pixels(rows: int, _length: int) -> Tensor:
    return torch.rand(rows, 3, 32, 32)


def tokens(rows: int, length: int) -> dict[str, Tensor]:
    mask = torch.ones(rows, length, dtype=torch.bool)
    mask[0, length // 2 :] = False
    return {"ids": torch.randint(5, 50, (rows, length)), "mask": mask}


def cells(rows: int, _length: int) -> dict[str, Tensor]:
    missing = torch.rand(rows, 2) > 0.5
    return {"numbers": torch.randn(rows, 2), "missing": missing, "codes": torch.randint(0, 4, (rows, 1))}


def vit() -> Encoder:
    config = {"model_type": "vit", "image_size": 32, "patch_size": 8, **SIZES}
    return TransformersImage(config, mean=[0.5] * 3, std=[0.5] * 3, preferred_size=32, statistics="test")


CASES: dict[str, tuple[Callable[[], Encoder], Callable[[int, int], Any]]] = {
    "small cnn": (SmallCNN, pixels),
    "lite": (lambda: EfficientNetLite(0), pixels),
    "vit": (vit, pixels),
    "small text": (lambda: SmallTextTransformer(50, 24, width=16), tokens),
    "bert": (lambda: TransformersText({"model_type": "bert", "vocab_size": 50, **SIZES}), tokens),
    "ft-transformer": (lambda: FTTransformer(2, [4], width=16), cells),
}


@needs_onnx
@pytest.mark.parametrize("name", CASES)
def test_features_equal_those_of_pytorch(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    make, inputs = CASES[name]
    encoder = make().train()
    state = {key: value.clone() for key, value in encoder.state_dict().items()}
    onnx = OnnxEncoder(encoder, inputs(3, 9))
    assert encoder.training
    assert all(torch.equal(state[key], value) for key, value in encoder.state_dict().items())
    encoder.eval()
    for rows, length in ((1, 9), (5, 4), (2, 20)):
        other = inputs(rows, length)
        with torch.no_grad():
            expected = encoder(other)
        features = onnx(other)
        assert features.shape == (rows, encoder.dim)
        assert features.dtype == torch.float32
        assert (features - expected).abs().max() <= 1e-4 * expected.square().mean().sqrt()
    assert 0 <= onnx.difference <= 1e-4
    assert capfd.readouterr() == ("", "")


class Odd(Encoder):
    """An encoder that misbehaves when it is traced, in the way that `kind` names."""

    dim = 4

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.layer = nn.Linear(6, 4)

    def forward(self, inputs: Tensor) -> Tensor:
        x: Tensor = self.layer(inputs)
        if self.kind == "raises" and torch.jit.is_tracing():
            raise RuntimeError("no such operator\nwith a second line")
        if self.kind == "differs" and torch.jit.is_tracing():
            return x + 1e-3
        if self.kind == "nan":
            return x * float("nan")
        # A Python number taken from a shape is frozen at its traced value.
        return x * float(int(inputs.shape[0])) if self.kind == "freezes" else x

    def blocks(self) -> list[list[nn.Parameter]]:
        return [list(self.parameters())]

    def describe(self) -> dict[str, Any]:
        return {}


@needs_onnx
@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("raises", r"Odd cannot be exported: RuntimeError: no such operator$"),
        ("differs", r"Odd differs by .* of the features' scale .* 1e-04 is allowed"),
        ("nan", r"Odd differs by nan"),
        ("freezes", r"Odd differs by"),
    ],
)
def test_what_does_not_agree_is_refused(kind: str, message: str) -> None:
    torch.manual_seed(0)
    with pytest.raises(OnnxError, match=message):
        OnnxEncoder(Odd(kind), torch.randn(3, 6))


@needs_onnx
def test_a_well_behaved_one_is_accepted() -> None:
    torch.manual_seed(0)
    encoder = Odd("well behaved")
    onnx = OnnxEncoder(encoder, torch.randn(3, 6))
    x = torch.randn(7, 6)
    torch.testing.assert_close(onnx(x), encoder(x).detach())


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_missing_packages_are_noticed(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    assert not onnx_available()
    if package == "onnxruntime":
        with pytest.raises(OnnxError, match="cannot be exported: ModuleNotFoundError"):
            OnnxEncoder(Odd("well behaved"), torch.randn(3, 6))
