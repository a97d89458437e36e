"""Image encoders against naive references: padding, pixel statistics, read-out, and where their settings come from."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor, nn
from torch.nn import functional

from fusetune.encoders import (
    EfficientNetLite,
    SmallCNN,
    TimmImage,
    TransformersImage,
    build_encoder,
    load_image_encoder,
)
from fusetune.encoders.packages import IMAGE_PACKAGES, package_weights
from fusetune.encoders.vision import pixel_statistics, preferred_size
from fusetune.errors import WeightsError

TINY: dict[str, dict[str, Any]] = {
    "vit": {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32},
    "dinov2": {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2},
    "clip_vision_model": {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32},
    "swin": {"embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4},
    "convnext": {"depths": [1, 1], "hidden_sizes": [8, 16], "num_stages": 2},
    "resnet": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]},
}
PATCHES = {"image_size": 32, "patch_size": 8}


def config_of(kind: str) -> dict[str, Any]:
    patches = {} if kind in ("convnext", "resnet") else PATCHES | ({"patch_size": 4} if kind == "swin" else {})
    return {"model_type": kind, **TINY[kind], **patches}


def tiny(kind: str, size: int = 32) -> TransformersImage:
    torch.manual_seed(0)
    encoder = TransformersImage(config_of(kind), mean=[0.5] * 3, std=[0.25] * 3, preferred_size=size, statistics="test")
    return encoder.eval()


def save_tiny(kind: str, folder: Path, preprocessor: dict[str, Any] | None = None) -> TransformersImage:
    encoder = TransformersImage(config_of(kind), mean=[0] * 3, std=[1] * 3, preferred_size=32, statistics="test").eval()
    encoder.network.save_pretrained(folder)
    if preprocessor is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    return encoder


# EfficientNet-Lite


def same_convolution(x: Tensor, convolution: nn.Conv2d) -> Tensor:
    """TensorFlow's "SAME": output = ceil(input / stride), the odd pixel of padding at the bottom and the right."""
    (kernel, _), (stride, _) = convolution.weight.shape[2:], convolution.stride
    pads = []
    for size in (x.shape[3], x.shape[2]):
        total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        pads += [total // 2, total - total // 2]
    return functional.conv2d(functional.pad(x, pads), convolution.weight, None, stride, 0, 1, convolution.groups)


def reference_lite(encoder: EfficientNetLite, pixels: Tensor) -> Tensor:
    network = encoder.network
    x = (pixels * 255 - 127) / 128
    x = functional.relu6(network._bn0(same_convolution(x, network._conv_stem)))
    for block in network._blocks:
        y = x
        if hasattr(block, "_expand_conv"):
            y = functional.relu6(block._bn0(same_convolution(y, block._expand_conv)))
        y = functional.relu6(block._bn1(same_convolution(y, block._depthwise_conv)))
        y = block._bn2(same_convolution(y, block._project_conv))
        x = x + y if x.shape == y.shape else y
    return functional.relu6(network._bn1(same_convolution(x, network._conv_head))).mean((2, 3))


@pytest.mark.parametrize("size", [(160, 160), (75, 101)])
def test_lite_pads_like_tensorflow_at_any_size(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    encoder = EfficientNetLite(0).eval()
    pixels = torch.rand(2, 3, *size)
    with torch.no_grad():
        expected = reference_lite(encoder, pixels)
        torch.testing.assert_close(encoder(pixels), expected, rtol=1e-4, atol=1e-4 * float(expected.std()))


def test_pretrained_lite_is_the_package_at_its_native_size(capfd: pytest.CaptureFixture[str]) -> None:
    encoder = load_image_encoder("efficientnet-lite0")
    original = EfficientNet.from_name("efficientnet-lite0").eval()
    original.load_state_dict(torch.load(package_weights(IMAGE_PACKAGES["efficientnet-lite0"]), weights_only=True))
    pixels = torch.rand(1, 3, 224, 224)
    with torch.no_grad():
        expected = original.extract_features((pixels * 255 - 127) / 128).mean((2, 3))
        torch.testing.assert_close(encoder(pixels), expected, rtol=1e-3, atol=1e-4)
    assert (encoder.dim, encoder.preferred_size, encoder.training) == (1280, 224, False)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("level", "size"), [(0, 224), (1, 240), (2, 260)])
def test_lite_knows_its_native_size(level: int, size: int) -> None:
    assert EfficientNetLite(level).preferred_size == size


def test_lite_weights_stay_contiguous() -> None:
    """A safetensors file holds contiguous tensors only."""
    assert all(value.is_contiguous() for value in EfficientNetLite(0).state_dict().values())


# The built-in network


def test_small_cnn_is_the_same_in_training_and_evaluation_and_for_every_batch() -> None:
    encoder = load_image_encoder("builtin")
    assert isinstance(encoder, SmallCNN)
    assert list(encoder.buffers()) == [encoder._mean, encoder._std]
    pixels = torch.rand(3, 3, 40, 56)
    together = encoder.eval()(pixels)
    torch.testing.assert_close(together, encoder.train()(pixels))
    torch.testing.assert_close(together[1:2], encoder(pixels[1:2]), rtol=1e-4, atol=1e-5)


def test_given_statistics_replace_the_backbones() -> None:
    torch.manual_seed(0)
    encoder = load_image_encoder("builtin", mean=[0.1, 0.2, 0.3], std=[0.5, 0.6, 0.7])
    plain = build_encoder({**encoder.describe(), "mean": [0, 0, 0], "std": [1, 1, 1]})
    plain.load_state_dict(encoder.state_dict())
    pixels = torch.rand(2, 3, 32, 32)
    shifted = (pixels - torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1)) / torch.tensor([0.5, 0.6, 0.7]).view(3, 1, 1)
    torch.testing.assert_close(encoder(pixels), plain(shifted))
    assert encoder.statistics == "mean and std given by the configuration"


# Networks of transformers


@pytest.mark.parametrize("kind", TINY)
def test_readout_is_the_documented_one(kind: str) -> None:
    encoder = tiny(kind)
    pixels = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        features = encoder(pixels)
        output = encoder.network(pixel_values=(pixels - 0.5) / 0.25)
    hidden = output.last_hidden_state
    expected = {
        "vit": lambda: hidden[:, 0],
        "dinov2": lambda: hidden[:, 0],
        "clip_vision_model": lambda: encoder.network.post_layernorm(hidden[:, 0]),
        "swin": lambda: hidden.mean(1),
        "convnext": lambda: encoder.network.layernorm(hidden.mean((2, 3))),
        "resnet": lambda: hidden.mean((2, 3)),
    }[kind]()
    torch.testing.assert_close(features, expected)


@pytest.mark.parametrize("kind", TINY)
def test_other_sizes_are_accepted(kind: str) -> None:
    encoder = tiny(kind)
    with torch.no_grad():
        assert encoder(torch.rand(1, 3, 48, 40)).shape == (1, encoder.dim)


def test_vit_position_embeddings_are_interpolated() -> None:
    """Constant position embeddings stay the same constant at another size."""
    encoder = tiny("vit")
    pixels = torch.rand(1, 3, 48, 48)
    with torch.no_grad():
        encoder.network.embeddings.position_embeddings.fill_(0.3)
        expected = encoder.network(pixel_values=(pixels - 0.5) / 0.25, interpolate_pos_encoding=True)
        torch.testing.assert_close(encoder(pixels), expected.last_hidden_state[:, 0])


def test_a_local_folder_brings_its_weights_and_statistics(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    saved = save_tiny("vit", tmp_path, {"image_mean": [0.1] * 3, "image_std": [0.2] * 3, "size": {"height": 48}})
    capfd.readouterr()
    loaded = load_image_encoder(str(tmp_path))
    assert (loaded.mean, loaded.std, loaded.preferred_size) == ([0.1] * 3, [0.2] * 3, 48)
    assert loaded.statistics == "preprocessor_config.json"
    assert str(tmp_path) not in json.dumps(loaded.describe())
    for name, value in saved.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[name])
    pixels = torch.rand(2, 3, 32, 32)
    rebuilt = build_encoder(json.loads(json.dumps(loaded.describe()))).eval()
    rebuilt.load_state_dict(loaded.state_dict())
    with torch.no_grad():
        assert torch.equal(rebuilt(pixels), loaded(pixels))
        torch.testing.assert_close(loaded(pixels), saved((pixels - 0.1) / 0.2))
    assert capfd.readouterr() == ("", "")


def test_a_folder_without_statistics_gets_those_of_imagenet_and_says_so(tmp_path: Path) -> None:
    save_tiny("resnet", tmp_path)
    encoder = load_image_encoder(str(tmp_path))
    assert encoder.mean == [0.485, 0.456, 0.406]
    assert encoder.statistics == "those of ImageNet, since there is no preprocessor_config.json"


def test_the_image_side_of_a_two_sided_network_is_used(tmp_path: Path) -> None:
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(0)
    text = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    vision = TINY["clip_vision_model"] | PATCHES
    both = CLIPModel(CLIPConfig(text_config=text | {"vocab_size": 50}, vision_config=vision)).eval()
    both.save_pretrained(tmp_path)
    encoder = load_image_encoder(str(tmp_path), mean=[0] * 3, std=[1] * 3)
    rebuilt = build_encoder(json.loads(json.dumps(encoder.describe()))).eval()
    rebuilt.load_state_dict(encoder.state_dict())
    pixels = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        expected = both.vision_model(pixel_values=pixels).pooler_output
        torch.testing.assert_close(encoder(pixels), expected)
        torch.testing.assert_close(rebuilt(pixels), expected)


def test_a_text_network_is_refused(tmp_path: Path) -> None:
    from transformers import BertConfig, BertModel

    small = BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, vocab_size=9)
    BertModel(small).save_pretrained(tmp_path)
    with pytest.raises(WeightsError, match="is no image network: BertModel does not take pixels"):
        load_image_encoder(str(tmp_path))


# Pixel statistics


@pytest.mark.parametrize(
    ("saved", "factor"),
    [
        ({"rescale_factor": 1 / 255}, 1 / 255),
        ({}, 1 / 255),
        ({"rescale_factor": 1 / 127.5}, 1 / 127.5),
        ({"do_rescale": False}, 1.0),
    ],
)
def test_statistics_follow_the_preprocessors_scale(saved: dict[str, Any], factor: float) -> None:
    statistics = pixel_statistics({"image_mean": [0.4], "image_std": [0.3], **saved})
    byte = 200.0
    assert (byte / 255 - statistics["mean"][0]) / statistics["std"][0] == pytest.approx((byte * factor - 0.4) / 0.3)


def test_statistics_of_a_preprocessor_that_does_not_normalise() -> None:
    statistics = pixel_statistics({"image_mean": [0.4], "image_std": [0.3], "do_normalize": False})
    assert (statistics["mean"], statistics["std"]) == ((0, 0, 0), (1, 1, 1))


@pytest.mark.parametrize(
    ("saved", "config_size", "expected"),
    [
        ({"size": {"height": 384, "width": 384}}, 224, 384),
        ({"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}}, 512, 224),
        ({"size": {"shortest_edge": 256}, "crop_size": 224, "do_center_crop": False}, 512, 256),
        ({"size": 160}, None, 160),
        ({}, [192, 192], 192),
        ({}, None, 224),
    ],
)
def test_preferred_size(saved: dict[str, Any], config_size: Any, expected: int) -> None:
    assert preferred_size(saved, SimpleNamespace(image_size=config_size)) == expected


# timm


class FakeTimm(ModuleType):
    """Stands for timm: one network with weights in a file, and a record of how it was asked for."""

    def __init__(self, hub_id: str) -> None:
        super().__init__("timm")
        self.config = SimpleNamespace(mean=(0.1,) * 3, std=(0.2,) * 3, input_size=(3, 48, 48), hf_hub_id=hub_id)
        self.asked: list[dict[str, Any]] = []

    def is_model(self, name: str) -> bool:
        return name == "tiny_net"

    def list_models(self) -> list[str]:
        return ["tiny_net"]

    def get_pretrained_cfg(self, _name: str) -> SimpleNamespace:
        return self.config

    def create_model(self, _name: str, **options: Any) -> nn.Module:
        self.asked.append(options)
        network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        network.num_features = 4
        return network


@pytest.fixture
def timm(monkeypatch: pytest.MonkeyPatch) -> FakeTimm:
    fake = FakeTimm("someone/tiny_net")
    monkeypatch.setitem(sys.modules, "timm", fake)
    return fake


def test_timm_with_download(timm: FakeTimm) -> None:
    encoder = load_image_encoder("timm:tiny_net", allow_download=True)
    assert isinstance(encoder, TimmImage)
    assert timm.asked == [{"pretrained": True, "num_classes": 0, "pretrained_cfg_overlay": None}]
    assert (encoder.dim, encoder.preferred_size, encoder.mean) == (4, 48, [0.1] * 3)
    rebuilt = build_encoder(json.loads(json.dumps(encoder.describe()))).eval()
    rebuilt.load_state_dict(encoder.state_dict())
    pixels = torch.rand(2, 3, 20, 20)
    assert torch.equal(rebuilt(pixels), encoder(pixels))
    assert timm.asked[1] == {"num_classes": 0}


def test_timm_without_download_uses_the_cache_only(timm: FakeTimm, monkeypatch: pytest.MonkeyPatch) -> None:
    cached = "huggingface_hub.try_to_load_from_cache"
    monkeypatch.setattr(cached, lambda *_: None)
    with pytest.raises(WeightsError, match="not in the local hub cache"):
        load_image_encoder("timm:tiny_net")
    assert timm.asked == []
    monkeypatch.setattr(cached, lambda *_: "/cache/model.safetensors")
    load_image_encoder("timm:tiny_net")
    assert timm.asked[0]["pretrained_cfg_overlay"] == {"file": "/cache/model.safetensors"}


def test_timm_with_an_unknown_name(timm: FakeTimm) -> None:
    with pytest.raises(WeightsError, match=r"timm has no model 'tiny_nett', did you mean 'tiny_net'\?"):
        load_image_encoder("timm:tiny_nett")


@pytest.mark.parametrize(
    "error", [ImportError("No module named 'timm'"), RuntimeError("operator torchvision::nms does not exist")]
)
def test_timm_that_cannot_be_imported(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(_name: str) -> None:
        raise error

    monkeypatch.setattr("fusetune.encoders.vision.importlib.import_module", fail)
    with pytest.raises(WeightsError, match=r"pip install 'fusetune\[timm\]'") as caught:
        load_image_encoder("timm:tiny_net")
    assert str(error) in str(caught.value)
