"""Text encoders: the read-out, independence of padding, tokenizers, and refusals that say what to do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models
from torch import Tensor

from fusetune.encoders import (
    Encoder,
    SmallTextTransformer,
    TransformersText,
    build_encoder,
    load_text_encoder,
    special_ids,
    train_tokenizer,
)
from fusetune.errors import ConfigError, WeightsError

TEXTS = ["a fetal head in the axial plane", "Röntgenbild der Lunge", "胸部の画像", "пациент 54 лет", "a head"]
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


def batch(tokenizer: Tokenizer, texts: list[str], padding: int = 0, pad: int = 0) -> dict[str, Tensor]:
    rows = [encoded.ids for encoded in tokenizer.encode_batch(texts)]
    longest = max(map(len, rows)) + padding
    ids = torch.tensor([row + [pad] * (longest - len(row)) for row in rows])
    mask = torch.tensor([[True] * len(row) + [False] * (longest - len(row)) for row in rows])
    return {"ids": ids, "mask": mask}


@pytest.fixture(scope="module")
def minilm() -> tuple[Encoder, Tokenizer]:
    return load_text_encoder("all-MiniLM-L6-v2", max_tokens=128)


@pytest.fixture(scope="module")
def builtin() -> tuple[Encoder, Tokenizer]:
    torch.manual_seed(0)
    tokenizer = train_tokenizer(TEXTS * 5, vocabulary_size=400)
    encoder, same = load_text_encoder("builtin", max_tokens=256, tokenizer=tokenizer)
    assert same is tokenizer
    return encoder.eval(), tokenizer


def save_tiny(kind: str, folder: Path, **sizes: Any) -> None:
    from transformers import AutoConfig, AutoModel

    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **{**SIZES, "vocab_size": 400, "max_position_embeddings": 40, **sizes})
    AutoModel.from_config(config).save_pretrained(folder)
    train_tokenizer(TEXTS, vocabulary_size=400).save(str(folder / "tokenizer.json"))


@pytest.mark.parametrize("which", ["minilm", "builtin"])
def test_output_does_not_depend_on_padding(which: str, request: pytest.FixtureRequest) -> None:
    encoder, tokenizer = request.getfixturevalue(which)
    with torch.no_grad():
        together = encoder(batch(tokenizer, TEXTS))
        padded = encoder(batch(tokenizer, TEXTS, padding=9))
        other_pad = encoder(batch(tokenizer, TEXTS, padding=9, pad=3))
        alone = torch.cat([encoder(batch(tokenizer, [text])) for text in TEXTS])
    for features in (padded, other_pad, alone):
        torch.testing.assert_close(features, together, rtol=0, atol=1e-5)
    assert (together[0] - together[4]).abs().max() > 1e-3


@pytest.mark.parametrize("which", ["minilm", "builtin"])
def test_a_row_without_tokens_is_finite(which: str, request: pytest.FixtureRequest) -> None:
    encoder, tokenizer = request.getfixturevalue(which)
    inputs = batch(tokenizer, TEXTS[:2])
    with torch.no_grad():
        expected = encoder(inputs)[0]
        inputs["mask"][1] = False
        features = encoder(inputs)
    assert torch.equal(features[1], torch.zeros(encoder.dim))
    torch.testing.assert_close(features[0], expected, rtol=0, atol=1e-5)


def test_minilm_is_the_masked_mean_of_its_last_layer_at_length_root_dim(
    minilm: tuple[TransformersText, Tokenizer],
) -> None:
    encoder, tokenizer = minilm
    inputs = batch(tokenizer, TEXTS)
    with torch.no_grad():
        features = encoder(inputs)
        hidden = encoder.network(input_ids=inputs["ids"], attention_mask=inputs["mask"].long()).last_hidden_state
    for row, length in enumerate(inputs["mask"].sum(1).tolist()):
        mean = hidden[row, :length].mean(0)
        torch.testing.assert_close(features[row], mean / mean.norm() * 384**0.5, rtol=0, atol=1e-4)
    assert encoder.normalise  # its modules.json ends with a normalisation
    assert (encoder.dim, encoder.training) == (384, False)


def test_minilm_knows_what_sentences_mean(minilm: tuple[Encoder, Tokenizer]) -> None:
    encoder, tokenizer = minilm
    sentences = ["A man is eating food.", "A man eats a meal.", "The stock market fell sharply."]
    with torch.no_grad():
        z = torch.nn.functional.normalize(encoder(batch(tokenizer, sentences)), dim=1)
    similarity = z @ z.T
    assert similarity[0, 1] > 0.7
    assert similarity[0, 2] < 0.2


def test_minilm_tokenizer_neither_cuts_nor_pads(minilm: tuple[Encoder, Tokenizer]) -> None:
    tokenizer = minilm[1]
    assert len(tokenizer.encode("word " * 300).ids) == 302
    assert [len(encoded.ids) for encoded in tokenizer.encode_batch(["one", "one two"])] == [3, 4]


def test_loading_is_silent(capfd: pytest.CaptureFixture[str]) -> None:
    load_text_encoder("all-MiniLM-L6-v2", max_tokens=16)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("pooling", "column"), [("cls", 0), ("mean", None)])
def test_pooling(tmp_path: Path, pooling: Any, column: int | None) -> None:
    save_tiny("bert", tmp_path)
    encoder, tokenizer = load_text_encoder(str(tmp_path), max_tokens=40, pooling=pooling)
    inputs = batch(tokenizer, TEXTS[:1])
    with torch.no_grad():
        hidden = encoder.network(input_ids=inputs["ids"]).last_hidden_state
        expected = hidden.mean(1) if column is None else hidden[:, column]
        torch.testing.assert_close(encoder(inputs), expected)
    assert encoder.describe()["pooling"] == pooling


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert", "mpnet", "xlm-roberta", "electra"])
def test_folders_of_other_families(tmp_path: Path, kind: str) -> None:
    sizes = {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32} if kind == "distilbert" else {}
    save_tiny(kind, tmp_path, **sizes)
    encoder, tokenizer = load_text_encoder(str(tmp_path), max_tokens=32)
    rebuilt = build_encoder(json.loads(json.dumps(encoder.describe()))).eval()
    rebuilt.load_state_dict(encoder.state_dict(), strict=True)
    with torch.no_grad():
        features = encoder(batch(tokenizer, TEXTS[:2]))
        assert features.shape == (2, 16)
        assert torch.equal(features, rebuilt(batch(tokenizer, TEXTS[:2])))


@pytest.mark.parametrize(("kind", "limit"), [("bert", 40), ("roberta", 38)])
def test_more_tokens_than_positions_are_refused(tmp_path: Path, kind: str, limit: int) -> None:
    save_tiny(kind, tmp_path)
    encoder, _ = load_text_encoder(str(tmp_path), max_tokens=limit)
    ids = torch.full((1, limit), 7)
    assert encoder({"ids": ids, "mask": torch.ones_like(ids, dtype=torch.bool)}).isfinite().all()
    with pytest.raises(ConfigError, match=f"reads at most {limit} tokens, but max_tokens is {limit + 1}"):
        load_text_encoder(str(tmp_path), max_tokens=limit + 1)


def test_an_image_network_is_refused(tmp_path: Path) -> None:
    from transformers import ResNetConfig, ResNetModel

    ResNetModel(ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1])).save_pretrained(tmp_path)
    with pytest.raises(WeightsError, match=r"\(ResNetModel\) is no text encoder"):
        load_text_encoder(str(tmp_path), max_tokens=8)


def test_a_folder_with_an_older_tokenizer_is_converted(tmp_path: Path) -> None:
    save_tiny("bert", tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "head", "##s"]))
    _, tokenizer = load_text_encoder(str(tmp_path), max_tokens=8)
    assert tokenizer.encode("Heads").tokens == ["[CLS]", "head", "##s", "[SEP]"]


# The built-in tokenizer


def test_builtin_needs_a_tokenizer() -> None:
    with pytest.raises(ConfigError, match="train_tokenizer"):
        load_text_encoder("builtin", max_tokens=8)


def test_train_tokenizer_reads_every_language_back() -> None:
    tokenizer = train_tokenizer(["only English here"], vocabulary_size=300)
    for text in (*TEXTS, "emoji 🩻 and\nnew lines"):
        ids = tokenizer.encode(text).ids
        assert tokenizer.decode(ids).strip() == text
        assert tokenizer.token_to_id("[UNK]") not in ids


def test_train_tokenizer_is_deterministic() -> None:
    first, second = (train_tokenizer(iter(TEXTS), vocabulary_size=350).to_str() for _ in range(2))
    assert first == second


def test_train_tokenizer_merges_frequent_words() -> None:
    tokenizer = train_tokenizer(["ultrasound"] * 20, vocabulary_size=300)
    assert tokenizer.encode("ultrasound").tokens[0] == "[CLS]"
    assert len(tokenizer.encode("ultrasound").ids) == 3
    assert tokenizer.get_vocab_size() <= 300


def test_special_ids_of_the_builtin_tokenizer() -> None:
    ids = special_ids(train_tokenizer(TEXTS))
    assert (ids.pad, ids.mask, ids.all) == (0, 4, frozenset(range(5)))


def test_special_ids_of_minilm(minilm: tuple[Encoder, Tokenizer]) -> None:
    ids = special_ids(minilm[1])
    assert (ids.pad, ids.mask, ids.all) == (0, 103, frozenset({0, 100, 101, 102, 103}))


def test_special_ids_without_the_usual_tokens() -> None:
    tokenizer = Tokenizer(models.BPE(vocab={"a": 0, "<|endoftext|>": 1}, merges=[]))
    tokenizer.add_special_tokens(["<|endoftext|>"])
    ids = special_ids(tokenizer)
    assert (ids.pad, ids.mask, ids.all) == (1, None, frozenset({1}))


def test_builtin_attention_equals_torchs_own() -> None:
    """The layer against torch.nn.MultiheadAttention with the same weights."""
    torch.manual_seed(0)
    attention = SmallTextTransformer(10, 8, width=16, heads=4).layers[0].attention.eval()
    reference = torch.nn.MultiheadAttention(16, 4, batch_first=True).eval()
    parts = (attention.query, attention.key, attention.value)
    with torch.no_grad():
        reference.in_proj_weight.copy_(torch.cat([part.weight for part in parts]))
        reference.in_proj_bias.copy_(torch.cat([part.bias for part in parts]))
        reference.out_proj.weight.copy_(attention.out.weight)
        reference.out_proj.bias.copy_(attention.out.bias)
        x, mask = torch.randn(2, 6, 16), torch.tensor([[True] * 6, [True] * 3 + [False] * 3])
        expected, _ = reference(x, x, x, key_padding_mask=~mask)
        torch.testing.assert_close(attention(x, mask), expected, rtol=0, atol=1e-6)
