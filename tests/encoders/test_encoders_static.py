"""Static text encoders: means against hand-computed ones, the layouts in which vectors come, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tiny import settings, tiny_table
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor

import fusetune
from fusetune.encoders import Encoder, StaticText, build_encoder, is_pretrained, load_text_encoder
from fusetune.errors import ConfigError, WeightsError

WORDS = ["[UNK]", "[CLS]", "red", "car", "a"]
VECTORS = torch.tensor([[9.0, 9.0], [7.0, 7.0], [1.0, 0.0], [0.0, 3.0], [2.0, 2.0]])
MODEL2VEC = {"model_type": "model2vec", "normalize": False}


def tokenizer(words: list[str]) -> Tokenizer:
    made = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.add_special_tokens(["[UNK]", "[CLS]"])
    made.post_processor = processors.TemplateProcessing(single="[CLS] $A", special_tokens=[("[CLS]", 1)])
    return made


def save_static(folder: Path, tensors: dict[str, Tensor], config: Any = None, words: list[str] | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors")
    tokenizer(words or WORDS).save(str(folder / "tokenizer.json"))
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def encode(encoder: Encoder, made: Tokenizer, *texts: str) -> list[list[float]]:
    rows = [made.encode(text).ids for text in texts]
    longest = max(map(len, rows))
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    mask = torch.tensor([[True] * len(row) + [False] * (longest - len(row)) for row in rows])
    with torch.no_grad():
        values: list[list[float]] = encoder({"ids": ids, "mask": mask}).tolist()
    return values


def test_a_text_is_the_mean_of_its_words(tmp_path: Path) -> None:
    place = save_static(tmp_path / "m", {"embeddings": VECTORS.half()}, MODEL2VEC)
    encoder, made = load_text_encoder(str(place), max_tokens=8)
    # no [CLS], and unknown words are left out, as model2vec has it
    assert encode(encoder, made, "red car", "a", "red ghost", "ghost") == [[0.5, 1.5], [2, 2], [1, 0], [0, 0]]
    assert is_pretrained(encoder)


def test_vectors_are_scaled_where_the_folder_says_so(tmp_path: Path) -> None:
    for config in (MODEL2VEC | {"normalize": True}, None):  # vectors without a word about them are scaled, too
        place = save_static(tmp_path / str(config is None), {"embeddings": VECTORS}, config)
        encoder, made = load_text_encoder(str(place), max_tokens=8)
        ((x, y),) = encode(encoder, made, "red car")
        assert x**2 + y**2 == pytest.approx(2)
        assert y / x == pytest.approx(3)


def test_shared_vectors_with_weights_are_one_row_per_token(tmp_path: Path) -> None:
    tensors = {
        "embeddings": torch.tensor([[0.0, 0.0], [1.0, 2.0]]),
        "mapping": torch.tensor([0, 0, 1, 1, 1]),
        "weights": torch.tensor([1.0, 1.0, 2.0, 4.0, 0.5]),
    }
    encoder, made = load_text_encoder(str(save_static(tmp_path, tensors, MODEL2VEC)), max_tokens=8)
    assert encode(encoder, made, "red", "car", "red car") == [[2, 4], [4, 8], [3, 6]]


def test_folders_of_sentence_transformers_are_read(tmp_path: Path) -> None:
    save_static(tmp_path / "0_StaticEmbedding", {"embedding.weight": VECTORS})
    steps = [{"path": "0_StaticEmbedding", "type": "sentence_transformers.models.StaticEmbedding"}]
    (tmp_path / "modules.json").write_text(json.dumps(steps), encoding="utf-8")
    encoder, made = load_text_encoder(str(tmp_path), max_tokens=8)
    assert encode(encoder, made, "red car", "red ghost") == [[0.5, 1.5], [5, 4.5]]  # it counts unknown words


def test_vectors_are_trained_only_if_asked(tmp_path: Path) -> None:
    place = str(save_static(tmp_path, {"embeddings": VECTORS}, MODEL2VEC))
    frozen, _ = load_text_encoder(place, max_tokens=8)
    assert not list(frozen.parameters())
    assert frozen.blocks() == []
    trained, made = load_text_encoder(place, max_tokens=8, train_vectors=True)
    assert [p.shape for block in trained.blocks() for p in block] == [VECTORS.shape]
    ids = torch.tensor([made.encode("red car").ids])
    trained({"ids": ids, "mask": torch.ones_like(ids, dtype=torch.bool)}).sum().backward()
    (vectors,) = trained.parameters()
    assert vectors.grad is not None
    assert vectors.grad.abs().sum(1).tolist() == [0, 0, 1, 1, 0]


def test_the_description_rebuilds_it() -> None:
    for trained in (False, True):
        first = StaticText(5, 2, skipped=0, trained=trained)
        again = build_encoder(json.loads(json.dumps(first.describe())))
        again.load_state_dict(first.state_dict())
        inputs = {"ids": torch.tensor([[2, 3, 0]]), "mask": torch.tensor([[True, True, True]])}
        assert torch.equal(first(inputs), again(inputs))
        assert len(list(again.parameters())) == trained


@pytest.mark.parametrize(
    ("tensors", "words", "message"),
    [
        ({"embeddings": VECTORS[:3].clone()}, WORDS, "vectors for 3 tokens, and its tokenizer gives ids up to 4"),
        ({"embeddings": torch.ones(5)}, WORDS, "none is a table of numbers"),
        ({"other": VECTORS}, WORDS, "its model.safetensors has other"),
        ({"embeddings": torch.full((5, 2), torch.nan)}, WORDS, "no finite numbers"),
        ({"embeddings": VECTORS, "mapping": torch.full((5,), 7)}, WORDS, "leads to vectors that are not there"),
        ({"embeddings": VECTORS, "weights": torch.ones(4)}, WORDS, "4 weights for 5 tokens"),
    ],
)
def test_vectors_that_do_not_fit_are_refused(
    tmp_path: Path, tensors: dict[str, Tensor], words: list[str], message: str
) -> None:
    with pytest.raises(WeightsError, match=message):
        load_text_encoder(str(save_static(tmp_path, tensors, MODEL2VEC, words)), max_tokens=8)


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    place = save_static(tmp_path, {"embeddings": VECTORS}, MODEL2VEC)
    (place / "model.safetensors").write_bytes(b"\x10")
    with pytest.raises(WeightsError, match="No weights found for"):
        load_text_encoder(str(place), max_tokens=8)


def test_settings_that_it_does_not_know_are_refused(tmp_path: Path) -> None:
    place = save_static(tmp_path, {"embeddings": VECTORS}, MODEL2VEC)
    with pytest.raises(ConfigError, match=r"text.pooling=cls: .* knows only their mean"):
        load_text_encoder(str(place), max_tokens=8, pooling="cls")
    with pytest.raises(ConfigError, match=r"text.train_vectors is for encoders of nothing but token vectors"):
        load_text_encoder("all-MiniLM-L6-v2", max_tokens=8, train_vectors=True)
    with pytest.raises(ConfigError, match=r"text.train_vectors: .* always trained"):
        load_text_encoder("builtin", max_tokens=8, train_vectors=True)


def test_a_saved_model_needs_neither_folder_nor_package(tmp_path: Path) -> None:
    frame = tiny_table(tmp_path / "data")
    words = ["[UNK]", "[CLS]", *sorted({word for note in frame["note"] for word in note.split()})]
    torch.manual_seed(0)
    place = save_static(tmp_path / "static", {"embeddings": torch.randn(len(words), 8)}, MODEL2VEC, words)
    run = fusetune.fit(
        frame, "organ", inputs=["note", "age"], group="patient", split="part", quiet=True, out=tmp_path / "run",
        config=settings(tmp_path / "store"), sets=[f"text.encoder={place}"],
    )  # fmt: skip
    before = run.model.predict(frame.head(6))
    shutil.rmtree(place)
    again = fusetune.load(tmp_path / "run" / "model")
    assert again.predict(frame.head(6)).equals(before)
    assert any(isinstance(encoder.bottom, StaticText) for encoder in again.network.encoders)
