"""Causal language models: padding, the last token, all positions flattened, adapters."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers

from fusetune.encoders import CausalText, load_text_encoder
from fusetune.encoders.lora import add_lora, merge_lora
from fusetune.encoders.pooling import left_padded
from fusetune.encoders.pretrained import transformers

GPT = {"model_type": "gpt2", "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 16, "vocab_size": 50,
       "eos_token_id": 7, "bos_token_id": 7}  # fmt: skip


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def text(ids: list[int], left: int = 0, right: int = 0) -> dict[str, torch.Tensor]:
    padded = [3] * left + ids + [3] * right
    mask = [False] * left + [True] * len(ids) + [False] * right
    return {"ids": torch.tensor([padded]), "mask": torch.tensor([mask])}


@pytest.mark.parametrize("pooling", ["last", "flat"])
def test_padding_on_any_side_changes_nothing(pooling: str) -> None:
    encoder = CausalText(GPT, pooling, 9).eval()  # type: ignore[arg-type]
    plain = encoder(text([10, 11, 12]))
    for padded in (text([10, 11, 12], right=4), text([10, 11, 12], left=4), text([10, 11, 12], 2, 2)):
        if pooling == "flat":  # values at padded positions depend on the ids there, which the tokenizer fixes
            padded["ids"][~padded["mask"]] = 7
        torch.testing.assert_close(encoder(padded), plain, atol=1e-5, rtol=0)


def test_the_last_token_is_what_the_network_says_there() -> None:
    encoder = CausalText(GPT, "last", 9).eval()
    ids = torch.tensor([[10, 11, 12]])
    expected = encoder.network(input_ids=ids).last_hidden_state[:, -1]
    torch.testing.assert_close(encoder(text([10, 11, 12], right=5)), expected, atol=1e-5, rtol=0)


def test_flat_is_left_padded_to_its_width_as_published() -> None:
    encoder = CausalText(GPT, "flat", 6).eval()
    ids = torch.tensor([[7, 7, 7, 10, 11, 12]])
    mask = torch.tensor([[0, 0, 0, 1, 1, 1]])
    expected = encoder.network(input_ids=ids, attention_mask=mask).last_hidden_state.flatten(1)
    assert encoder.dim == expected.shape[1] == 6 * 16
    torch.testing.assert_close(encoder(text([10, 11, 12])), expected, atol=1e-5, rtol=0)


def test_the_paper_reads_49152_values_of_gpt2() -> None:
    config = transformers().GPT2Config()
    assert 64 * config.hidden_size == 49152


def test_a_text_without_tokens_has_finite_features() -> None:
    for pooling in ("last", "flat"):
        empty = text([10], right=2)
        empty["mask"][:] = False
        assert torch.isfinite(CausalText(GPT, pooling, 6).eval()(empty)).all()  # type: ignore[arg-type]


def test_left_padding_keeps_the_order() -> None:
    ids, mask = left_padded(
        torch.tensor([[1, 2, 3], [4, 5, 6]]), torch.tensor([[True, False, True], [True, True, True]]), 4, 9
    )
    assert ids.tolist() == [[9, 2, 1, 3], [9, 4, 5, 6]]
    assert mask.tolist() == [[False, False, True, True], [False, True, True, True]]


def test_adapters_reach_gpt2s_transposed_layers() -> None:
    encoder = CausalText(GPT, "last", 9).eval()
    before = encoder(text([10, 11, 12]))
    add_lora(encoder, rank=2, alpha=4.0)
    trainable = [name for name, p in encoder.named_parameters() if p.requires_grad]
    assert len(trainable) == 2 * 2 * 4  # two matrices for each of four layers in each of two blocks
    for name, parameter in encoder.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_()
    adapted = encoder(text([10, 11, 12]))
    assert not torch.allclose(adapted, before)
    merge_lora(encoder)
    torch.testing.assert_close(encoder(text([10, 11, 12])), adapted, atol=1e-5, rtol=1e-5)


def test_a_local_folder_is_read(tmp_path: Path) -> None:
    network = transformers().AutoModel.from_config(transformers().AutoConfig.for_model(**GPT))
    network.save_pretrained(tmp_path)
    words = Tokenizer(models.WordLevel({"<|endoftext|>": 7, "soup": 1, "pie": 2}, unk_token="<|endoftext|>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.add_special_tokens(["<|endoftext|>"])
    words.save(str(tmp_path / "tokenizer.json"))
    encoder, tokenizer = load_text_encoder(str(tmp_path), max_tokens=8, pooling="flat")
    assert isinstance(encoder, CausalText)
    assert encoder.dim == 8 * 16
    assert tokenizer.encode("soup pie").ids == [1, 2]
    json.dumps(encoder.describe())
