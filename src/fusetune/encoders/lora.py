"""Low-rank adapters (LoRA, arXiv 2106.09685): train a few small matrices beside a frozen backbone, then fold them in.

A backbone weight ``W`` becomes ``W + alpha / rank * B A``; ``B`` starts at zero, so the first step starts from the
unchanged network. After `merge_lora` the encoder is a plain network again, which saves and loads without `peft`.
"""

from __future__ import annotations

import importlib
from typing import Any

from torch import nn

from fusetune.encoders.base import Encoder
from fusetune.encoders.pretrained import transformers
from fusetune.errors import ConfigError


def add_lora(encoder: Encoder, rank: int, alpha: float) -> None:
    """Freeze an encoder and put a low-rank adapter beside every linear layer and every 1x1 convolution, in place.

    Only the adapters require gradients afterwards; `blocks` lists them with the layer that they belong to. A
    checkpoint written with adapters is loaded into an encoder to which adapters of the same rank were added.

    Args:
        encoder: The encoder; its describe() stays as it was.
        rank: Rank of the adapters.
        alpha: The adapters count ``alpha / rank`` times.

    Raises:
        ConfigError: `peft` is not installed, or the encoder has no layer to adapt.
    """
    targets = [name for name, module in encoder.named_modules() if _adaptable(module)]
    if not targets:
        raise ConfigError(f"{type(encoder).__name__} has no linear layer or 1x1 convolution that LoRA could adapt.")
    peft = _import_peft()
    encoder.requires_grad_(False)
    # GPT-2 keeps its linear layers transposed, under a name of their own.
    transposed = all(type(encoder.get_submodule(name)).__name__ == "Conv1D" for name in targets)
    config = peft.LoraConfig(
        r=rank, lora_alpha=alpha, target_modules=targets, lora_dropout=0.0, bias="none", fan_in_fan_out=transposed
    )
    peft.inject_adapter_in_model(config, encoder)


def merge_lora(encoder: Encoder) -> None:
    """Fold the adapters into their layers, in place: the same function as a plain network, every part trainable."""
    layer_type = _import_peft().tuners.tuners_utils.BaseTunerLayer
    for name, module in list(encoder.named_modules()):
        if isinstance(module, layer_type):
            module.merge()
            parent, _, child = name.rpartition(".")
            setattr(encoder.get_submodule(parent), child, module.get_base_layer())
    encoder.requires_grad_(True)
    del encoder.peft_config  # left there by peft; would announce adapters that are gone


def has_adaptable(encoder: Encoder) -> bool:
    """Return whether an encoder has a layer that `add_lora` could adapt."""
    return any(_adaptable(module) for module in encoder.modules())


def _adaptable(module: nn.Module) -> bool:
    pointwise = isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1) and module.groups == 1
    return pointwise or isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


def _import_peft() -> Any:
    transformers()  # peft imports it, so it must have been told about torchvision before
    try:
        return importlib.import_module("peft")
    except ImportError as error:
        reason = str(error).strip().split("\n", 1)[0]
        raise ConfigError(
            f"LoRA needs the package peft, which cannot be imported here ({reason}). "
            "Install it with: pip install 'fusetune[lora]'."
        ) from error
