"""Low-rank adapters: nothing changes at the start, only adapters train, merging gives back a plain network."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from fusetune.encoders import (
    ColumnsMLP,
    EfficientNetLite,
    Encoder,
    FTTransformer,
    Identity,
    SmallTextTransformer,
    TransformersText,
    build_encoder,
)
from fusetune.encoders.lora import add_lora, merge_lora
from fusetune.errors import ConfigError

BERT = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


def tokens() -> dict[str, Tensor]:
    return {"ids": torch.randint(5, 50, (3, 7)), "mask": torch.ones(3, 7, dtype=torch.bool)}


def cells() -> dict[str, Tensor]:
    missing = torch.zeros(3, 2, dtype=torch.bool)
    return {"numbers": torch.randn(3, 2), "missing": missing, "codes": torch.randint(0, 4, (3, 1))}


CASES: dict[str, tuple[Callable[[], Encoder], Callable[[], Any]]] = {
    "bert": (lambda: TransformersText({"model_type": "bert", "vocab_size": 50, **BERT}), tokens),
    "small text": (lambda: SmallTextTransformer(50, 8, width=16), tokens),
    "ft-transformer": (lambda: FTTransformer(2, [4], width=16), cells),
    "columns": (lambda: ColumnsMLP(2, [4], width=16), cells),
    "lite": (lambda: EfficientNetLite(0), lambda: torch.rand(2, 3, 32, 32)),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> tuple[Encoder, Any]:
    pytest.importorskip("peft")
    torch.manual_seed(0)
    make, inputs = CASES[request.param]
    return make().eval(), inputs()


def move_adapters(encoder: Encoder) -> None:
    with torch.no_grad():
        for parameter in encoder.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))


def test_output_is_unchanged_at_the_start(case: tuple[Encoder, Any]) -> None:
    encoder, inputs = case
    with torch.no_grad():
        before = encoder(inputs)
        add_lora(encoder, rank=2, alpha=4)
        torch.testing.assert_close(encoder(inputs), before, rtol=0, atol=0)


def test_merging_keeps_the_adapted_output_in_a_plain_network(case: tuple[Encoder, Any]) -> None:
    encoder, inputs = case
    description, names = encoder.describe(), list(encoder.state_dict())
    with torch.no_grad():
        original = encoder(inputs)
        add_lora(encoder, rank=2, alpha=4)
        move_adapters(encoder)
        adapted = encoder(inputs)
        merge_lora(encoder)
        merged = encoder(inputs)
        scale = float(adapted.abs().max())
        assert (adapted - original).abs().max() > 1e-3 * scale
        torch.testing.assert_close(merged, adapted, rtol=0, atol=1e-5 * scale)
        assert encoder.describe() == description
        assert list(encoder.state_dict()) == names
        rebuilt = build_encoder(description).eval()
        rebuilt.load_state_dict(encoder.state_dict(), strict=True)
        assert torch.equal(rebuilt(inputs), merged)
    assert all(parameter.requires_grad for parameter in encoder.parameters())


def test_only_adapters_train_and_blocks_hold_them(case: tuple[Encoder, Any]) -> None:
    encoder, inputs = case
    base = {name: value.clone() for name, value in encoder.state_dict().items()}
    add_lora(encoder, rank=2, alpha=4)
    trainable = [parameter for parameter in encoder.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trainable, lr=0.1)
    encoder(inputs).square().sum().backward()
    optimizer.step()
    merged_names = {name.replace(".base_layer", ""): value for name, value in encoder.state_dict().items()}
    assert all(torch.equal(base[name], merged_names[name]) for name in base)
    listed = [id(parameter) for block in encoder.blocks() for parameter in block]
    assert sorted(listed) == sorted(id(parameter) for parameter in encoder.parameters())


def test_number_of_trainable_parameters() -> None:
    pytest.importorskip("peft")
    encoder = SmallTextTransformer(50, 8, width=16, layers=2)
    add_lora(encoder, rank=3, alpha=3)
    trainable = sum(parameter.numel() for parameter in encoder.parameters() if parameter.requires_grad)
    per_layer = 4 * (16 + 16) + (16 + 64) + (64 + 16)  # query, key, value, out; the two dense layers
    assert trainable == 2 * 3 * per_layer


def test_an_encoder_without_layers_is_refused() -> None:
    with pytest.raises(ConfigError, match="Identity has no linear layer"):
        add_lora(Identity(3), rank=2, alpha=2)


def test_without_peft_the_message_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ConfigError, match=r"pip install 'fusetune\[lora\]'"):
        add_lora(SmallTextTransformer(50, 8, width=16), rank=2, alpha=2)
