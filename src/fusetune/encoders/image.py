"""Image encoders written for this library or shipped beside it: a small network, and EfficientNet-Lite.

All image encoders take ``[batch, 3, height, width]`` RGB in 0..1 and apply the pixel statistics of their own backbone
inside `forward`, so that data and augmentation never need to know which backbone follows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor, nn

from fusetune.encoders.base import ImageEncoder
from fusetune.encoders.layers import full
from fusetune.encoders.packages import IMAGE_PACKAGES, package_weights
from fusetune.encoders.vision import load_timm, load_transformers_image


class SmallCNN(ImageEncoder):
    """A small convolutional network without pretrained weights, for tests and machines without any weights.

    Four stages of two 3x3 convolutions, each stage halving the sides, then the mean over all positions. GroupNorm
    (arXiv 1803.08494) instead of BatchNorm: it is the same function in training and evaluation, keeps no running
    buffers that training on small or strongly augmented batches could spoil, and a frozen copy cannot drift.
    """

    dim = 128
    widths = (32, 64, 96, 128)

    def __init__(
        self,
        mean: Sequence[float] = (0.5, 0.5, 0.5),
        std: Sequence[float] = (0.5, 0.5, 0.5),
        preferred_size: int = 128,
        statistics: str = "centred, since nothing was pretrained",
    ) -> None:
        super().__init__(mean, std, preferred_size, statistics)
        inputs = (3, *self.widths)
        self.stages = nn.ModuleList(self._stage(inputs[i], width) for i, width in enumerate(self.widths))

    @staticmethod
    def _stage(inputs: int, width: int) -> nn.Sequential:
        halve = nn.Conv2d(inputs, width, 3, stride=2, padding=1, bias=False)
        refine = nn.Conv2d(width, width, 3, padding=1, bias=False)
        return nn.Sequential(halve, nn.GroupNorm(8, width), nn.ReLU(), refine, nn.GroupNorm(8, width), nn.ReLU())

    def forward(self, inputs: Tensor) -> Tensor:
        """Encode ``[batch, 3, height, width]`` in 0..1 to ``[batch, 128]``."""
        x = self.normalise(inputs)
        for stage in self.stages:
            x = stage(x)
        return full(x).mean((2, 3))


class EfficientNetLite(ImageEncoder):
    """EfficientNet-Lite (arXiv 1905.11946 without squeeze-and-excitation, ReLU6), 1280 features.

    The network code is the package `efficientnet_lite_pytorch`. Its default pads every convolution for the native
    size only, which is wrong by a pixel at sizes that halve differently; here padding follows the size of each batch,
    as TensorFlow's "SAME" does.

    Args:
        level: 0, 1 or 2.
    """

    dim = 1280

    def __init__(
        self,
        level: int,
        mean: Sequence[float] = (127 / 255,) * 3,
        std: Sequence[float] = (128 / 255,) * 3,
        preferred_size: int | None = None,
        statistics: str = "(pixel - 127) / 128, as the weights were trained",
    ) -> None:
        super().__init__(mean, std, preferred_size or {0: 224, 1: 240, 2: 260}[level], statistics)
        self.network: nn.Module = EfficientNet.from_name(f"efficientnet-lite{level}", image_size=None)
        self.network._fc = nn.Identity()
        _pad_inside(self.network)

    def forward(self, inputs: Tensor) -> Tensor:
        """Encode ``[batch, 3, height, width]`` in 0..1 to ``[batch, 1280]``."""
        # Depthwise convolutions take about two thirds of the time on CPU when the channels of a pixel lie together.
        x = self.normalise(inputs).contiguous(memory_format=torch.channels_last)
        features: Tensor = self.network.extract_features(x)  # type: ignore[operator]
        return full(features).mean((2, 3))


def _pad_inside(network: nn.Module) -> None:
    """Replace stride-1 convolutions by ones that pad themselves.

    "SAME" padding of a stride-1 convolution with an odd kernel is symmetric and does not depend on the image size, so
    the padded copy of the input that the package makes can be saved. Stride-2 convolutions keep theirs.
    """
    for name, child in list(network.named_children()):
        if isinstance(child, nn.Conv2d) and tuple(child.stride) == (1, 1):
            setattr(network, name, _self_padding(child))
        else:
            _pad_inside(child)


def _self_padding(convolution: nn.Conv2d) -> nn.Conv2d:
    kernel = convolution.kernel_size[0]
    inputs, outputs, groups = convolution.in_channels, convolution.out_channels, convolution.groups
    padded = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=False, device="meta")
    padded.weight = convolution.weight
    return padded


def load_image_encoder(
    name: str,
    *,
    allow_download: bool = False,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> ImageEncoder:
    """Return an image encoder with its pretrained weights.

    Args:
        name: ``builtin`` (random weights), ``efficientnet-lite0``, ``-lite1`` or ``-lite2`` (installed packages), a
            local folder or hub id for `transformers`, or ``timm:NAME`` for `timm`.
        allow_download: Whether weights that are not on this machine may be fetched from a model hub.
        mean: Replaces the backbone's own per-channel mean of RGB in 0..1.
        std: Replaces the backbone's own per-channel standard deviation.

    Raises:
        WeightsError: The weights are not on this machine and may not be fetched, or do not fit the network.
    """
    overrides: dict[str, Any] = {key: list(value) for key, value in (("mean", mean), ("std", std)) if value is not None}
    if overrides:
        overrides["statistics"] = f"{' and '.join(overrides)} given by the configuration"
    if name == "builtin":
        return SmallCNN(**overrides)
    if name in IMAGE_PACKAGES:
        return _load_lite(name, overrides)
    if name.startswith("timm:"):
        return load_timm(name.removeprefix("timm:"), overrides, allow_download=allow_download)
    return load_transformers_image(name, overrides, allow_download=allow_download)


def _load_lite(name: str, overrides: dict[str, Any]) -> EfficientNetLite:
    weights = torch.load(package_weights(IMAGE_PACKAGES[name]), map_location="cpu", weights_only=True)
    encoder = EfficientNetLite(level=int(name[-1]), **overrides)
    classifier = {"_fc.weight", "_fc.bias"}
    encoder.network.load_state_dict({key: value for key, value in weights.items() if key not in classifier})
    return encoder.eval()
