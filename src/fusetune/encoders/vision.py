"""Image encoders from other libraries: any vision network of `transformers`, and of `timm` where it is installed."""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

import huggingface_hub
import torch
from torch import Tensor, nn

from fusetune.encoders.base import ImageEncoder, takes_argument
from fusetune.encoders.layers import full
from fusetune.encoders.packages import IMAGE_PACKAGES
from fusetune.encoders.pretrained import (
    build_backbone,
    config_json,
    files_of,
    load_backbone,
    locate,
    not_found,
    side_file,
)
from fusetune.errors import WeightsError, did_you_mean

if TYPE_CHECKING:
    from transformers import PreTrainedModel

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class TransformersImage(ImageEncoder):
    """A vision network of `transformers`: ViT, DeiT, DINOv2, Swin, ConvNeXt, ResNet, CLIP, SigLIP, ...

    Which vector is read out depends on what the network gives:

    - a pooler that is a dense layer on the class token (ViT, DeiT) belongs to a pretraining task and is missing from
      many published weights, so it is dropped and the class token of the last layer is read;
    - any other pooled output (ConvNeXt, ResNet, Swin, DINOv2, CLIP, SigLIP) is read, flattened;
    - otherwise a feature map is averaged over its positions, and a sequence of tokens over its tokens.

    Args:
        config: JSON of the network's configuration.
        mean, std, preferred_size, statistics: See `ImageEncoder`.
        backbone: The loaded network; built from `config` with random weights where absent.
    """

    def __init__(
        self,
        config: dict[str, Any],
        *,
        mean: Sequence[float],
        std: Sequence[float],
        preferred_size: int,
        statistics: str,
        backbone: PreTrainedModel | None = None,
    ) -> None:
        super().__init__(mean, std, preferred_size, statistics)
        self.network: Any = build_backbone(config) if backbone is None else backbone
        self.reads_class_token = hasattr(getattr(self.network, "pooler", None), "dense")
        if self.reads_class_token:
            self.network.pooler = nn.Identity()
        self._interpolates = takes_argument(self.network, "interpolate_pos_encoding")
        self.dim = self._measure()

    def forward(self, inputs: Tensor) -> Tensor:
        """Encode ``[batch, 3, height, width]`` in 0..1 to ``[batch, dim]``."""
        resized = self._interpolates and tuple(inputs.shape[-2:]) != self._native_sides()
        options = {"interpolate_pos_encoding": True} if resized else {}
        output = self.network(pixel_values=self.normalise(inputs), **options)
        hidden: Tensor = full(output.last_hidden_state)
        pooled: Tensor | None = getattr(output, "pooler_output", None)
        if self.reads_class_token:
            return hidden[:, 0]
        if pooled is not None:
            return full(pooled).flatten(1)
        return hidden.mean((2, 3)) if hidden.ndim == 4 else hidden.mean(1)

    def _native_sides(self) -> tuple[int, ...]:
        """Return height and width that the position embeddings were trained for."""
        size = getattr(self.network.config, "image_size", None)
        return (size, size) if isinstance(size, int) else tuple(size or ())

    def _measure(self) -> int:
        # Configurations name the width differently or not at all, so it is read from one small picture, of which the
        # shape is worked out alone: the network may not have its weights yet.
        training = self.network.training
        self.network.eval()
        shapes = {name: tensor.to("meta") for name, tensor in chain(self.named_parameters(), self.named_buffers())}
        try:
            with torch.no_grad(), torch.device("meta"):
                picture = torch.zeros(1, 3, self.preferred_size, self.preferred_size)
                features: Tensor = torch.func.functional_call(self, shapes, (picture,))
        except RuntimeError as error:
            if "on meta tensors" not in str(error):
                raise
            return int(self.network.config.hidden_size)  # the few whose way depends on the values of the pixels
        finally:
            self.network.train(training)
        return features.shape[1]


def load_transformers_image(name: str, overrides: dict[str, Any], *, allow_download: bool) -> TransformersImage:
    """Load a vision network of `transformers`, with the pixel statistics that were saved beside its weights.

    Args:
        name: A local folder or a hub id. Of a network with an image and a text side, the image side is used.
        overrides: `mean`, `std` and `statistics` that replace the saved ones.
        allow_download: Whether the hub may be asked.

    Raises:
        WeightsError: The weights are not there, do not fill the network, or are not of a vision network.
    """
    source = locate(name, IMAGE_PACKAGES, allow_download=allow_download)
    loaded = load_backbone(source, name, IMAGE_PACKAGES, allow_download=allow_download)
    backbone = getattr(loaded, "vision_model", loaded)
    if not takes_argument(backbone, "pixel_values"):
        raise WeightsError(f"'{name}' is no image network: {type(backbone).__name__} does not take pixels.")
    with files_of(name, IMAGE_PACKAGES):
        file = side_file(source, "preprocessor_config.json", allow_download=allow_download)
        saved = {} if file is None else json.loads(file.read_text(encoding="utf-8"))
        statistics = {**pixel_statistics(saved), "preferred_size": preferred_size(saved, backbone.config), **overrides}
        return TransformersImage(config_json(backbone), **statistics, backbone=backbone).eval()


def pixel_statistics(saved: dict[str, Any]) -> dict[str, Any]:
    """Return mean and standard deviation of RGB in 0..1, and where they come from.

    Args:
        saved: Contents of `preprocessor_config.json`, empty where there is none.
    """
    if "image_mean" not in saved or "image_std" not in saved:
        reason = "preprocessor_config.json names none" if saved else "there is no preprocessor_config.json"
        return {"mean": IMAGENET_MEAN, "std": IMAGENET_STD, "statistics": f"those of ImageNet, since {reason}"}
    if not saved.get("do_normalize", True):
        return {"mean": (0.0,) * 3, "std": (1.0,) * 3, "statistics": "preprocessor_config.json says not to normalise"}
    # The saved statistics belong to pixels times `rescale_factor`; ours to pixels in 0..1.
    scale = 255 * float(saved.get("rescale_factor", 1 / 255)) if saved.get("do_rescale", True) else 255.0
    return {
        "mean": [value / scale for value in saved["image_mean"]],
        "std": [value / scale for value in saved["image_std"]],
        "statistics": "preprocessor_config.json",
    }


def preferred_size(saved: dict[str, Any], config: Any) -> int:
    """Return the pixels per side from the preprocessor's crop or size, else the configuration's, else 224."""
    sizes = (saved.get("crop_size") if saved.get("do_center_crop", True) else None, saved.get("size"))
    sides = (_side(size) for size in (*sizes, getattr(config, "image_size", None)))
    return next((side for side in sides if side), 224)


def _side(size: Any) -> int:
    """Return the height of any form that configurations use: a number, a pair or a dict; 0 where there is none."""
    if isinstance(size, dict):
        size = size.get("height") or size.get("shortest_edge")
    return int(size[0] if isinstance(size, list | tuple) else size or 0)


class TimmImage(ImageEncoder):
    """A network of `timm`, read out through its own pooling.

    Args:
        name: The architecture's name in `timm`.
        mean, std, preferred_size, statistics: See `ImageEncoder`.
        backbone: The loaded network; built with random weights where absent.
    """

    def __init__(
        self,
        name: str,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        preferred_size: int,
        statistics: str,
        backbone: nn.Module | None = None,
    ) -> None:
        super().__init__(mean, std, preferred_size, statistics)
        network: Any = _timm_network(name) if backbone is None else backbone
        self.network: nn.Module = network
        self.dim = int(network.num_features)

    def forward(self, inputs: Tensor) -> Tensor:
        """Encode ``[batch, 3, height, width]`` in 0..1 to ``[batch, dim]``."""
        features: Tensor = self.network(self.normalise(inputs))
        return full(features)


def _timm_network(name: str) -> Any:
    """Return a network with random weights by the name of an architecture; `timm` takes addresses as well."""
    timm = import_timm()
    if re.fullmatch(r"[\w.]+", name) is None or not timm.is_model(name):
        raise WeightsError(f"timm has no model {name!r:.80}; a newer timm may have it")
    return timm.create_model(name, num_classes=0)


def import_timm() -> Any:
    """Import `timm`.

    Raises:
        WeightsError: `timm` is not installed, or the torchvision it needs does not work with this PyTorch.
    """
    try:
        return importlib.import_module("timm")
    except (ImportError, RuntimeError) as error:  # a torchvision of another build fails with RuntimeError
        reason = str(error).strip().split("\n", 1)[0]
        raise WeightsError(
            f"Image encoders named 'timm:...' need the package timm, which cannot be imported here ({reason}). "
            "Install it with: pip install 'fusetune[timm]'. It also needs a torchvision that matches this PyTorch."
        ) from error


def load_timm(name: str, overrides: dict[str, Any], *, allow_download: bool) -> TimmImage:
    """Load a network of `timm`, with the pixel statistics of its configuration.

    Args:
        name: A name that `timm.create_model` knows.
        overrides: `mean`, `std` and `statistics` that replace the configuration's.
        allow_download: Whether weights that are not in the local hub cache may be fetched.

    Raises:
        WeightsError: `timm` does not know the name, or its weights are not on this machine and may not be fetched.
    """
    timm = import_timm()
    if not timm.is_model(name):
        raise WeightsError(f"timm has no model '{name}'{did_you_mean(name, timm.list_models())}")
    config = timm.get_pretrained_cfg(name)
    overlay = None if allow_download else {"file": _cached_timm_weights(name, config)}
    backbone = timm.create_model(name, pretrained=True, num_classes=0, pretrained_cfg_overlay=overlay)
    statistics = {
        "mean": config.mean,
        "std": config.std,
        "preferred_size": int(config.input_size[-1]),
        "statistics": "timm's configuration of these weights",
        **overrides,
    }
    return TimmImage(name, **statistics, backbone=backbone).eval()


def _cached_timm_weights(name: str, config: Any) -> str:
    file = huggingface_hub.try_to_load_from_cache(config.hf_hub_id, "model.safetensors") if config.hf_hub_id else None
    if not isinstance(file, str):
        raise not_found(f"timm:{name}", IMAGE_PACKAGES, "its weights are not in the local hub cache")
    return file
