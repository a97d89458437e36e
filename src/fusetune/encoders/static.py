"""Texts by the mean of the vectors of their tokens: no attention, no order of words, thousands of texts a second.

Read are the folders of model2vec, those of sentence-transformers' `StaticEmbedding`, and what the package `wordllama`
carries: one matrix of vectors in safetensors beside a tokenizer.json.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F

from fusetune.encoders.base import Encoder
from fusetune.encoders.layers import full
from fusetune.encoders.packages import TEXT_PACKAGES
from fusetune.encoders.pooling import masked_mean
from fusetune.encoders.pretrained import files_of, side_file
from fusetune.errors import WeightsError

# What the matrix is called: by model2vec, by sentence-transformers.
_MATRICES = ("embeddings", "embedding.weight")


class StaticText(Encoder):
    """z = mean over the tokens of their vectors.

    The vectors are no parameters unless they are to be trained: an encoder without parameters is never fine-tuned.

    Args:
        vocabulary_size: Number of token ids.
        width: Width of a vector.
        normalise: Scale each text's vector to length ``sqrt(width)``: the length of a mean tells how long and how
            common the words are, not what they say.
        skipped: Token id that is left out of the mean, such as that of unknown words; None: no token is.
        trained: May fine-tuning change the vectors?
        backbone: The vectors, float [vocabulary_size, width]; random where absent.
    """

    vectors: Tensor

    def __init__(
        self,
        vocabulary_size: int,
        width: int,
        normalise: bool = True,
        skipped: int | None = None,
        trained: bool = False,
        backbone: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.dim, self.normalise, self.skipped = width, normalise, skipped
        vectors = torch.randn(vocabulary_size, width) if backbone is None else backbone
        if trained:
            self.vectors = nn.Parameter(vectors)
        else:
            self.register_buffer("vectors", vectors)

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        """Encode ``{"ids": long [batch, tokens], "mask": bool [batch, tokens]}`` to ``[batch, width]``."""
        ids, mask = inputs["ids"], inputs["mask"]
        if self.skipped is not None:
            mask = mask & (ids != self.skipped)
        mean = masked_mean(full(F.embedding(ids, self.vectors)), mask)
        return F.normalize(mean, dim=1) * self.dim**0.5 if self.normalise else mean

    def blocks(self) -> list[list[nn.Parameter]]:
        """Return the vectors as one block, if they are trained."""
        own = list(self.parameters())
        return [own] if own else []


@dataclass(frozen=True)
class StaticFolder:
    """Where the files of a static encoder lie, and how its means are taken.

    Attributes:
        place: What the names of vectors and tokenizer begin with: nothing, or a folder's name and a slash.
        normalise: Are vectors of texts scaled to one length?
        skips_unknown: Are unknown words left out of the mean?
    """

    place: str
    normalise: bool
    skips_unknown: bool


def static_folder(source: str, *, allow_download: bool) -> StaticFolder | None:
    """Return how a folder or hub id holds a static encoder, or None where it holds another one.

    Args:
        source: A local folder or a hub id.
        allow_download: Whether the hub may be asked.
    """
    config = _facts(source, "config.json", allow_download)
    if isinstance(config, dict):
        if config.get("model_type") == "model2vec":
            return StaticFolder("", bool(config.get("normalize", True)), skips_unknown=True)
        return None
    modules = _facts(source, "modules.json", allow_download)
    if isinstance(modules, list) and modules and isinstance(modules[0], dict):
        kinds = [str(step.get("type", "")).rsplit(".", 1)[-1] for step in modules if isinstance(step, dict)]
        if kinds[:1] == ["StaticEmbedding"]:
            path = str(modules[0].get("path", "")).strip("./")
            return StaticFolder(f"{path}/" if path else "", "Normalize" in kinds, skips_unknown=False)
    # Vectors without a word about them.
    folder = Path(source)
    if config is None and (folder / "model.safetensors").is_file() and (folder / "tokenizer.json").is_file():
        return StaticFolder("", normalise=True, skips_unknown=True)
    return None


def _facts(source: str, file: str, allow_download: bool) -> Any:
    """Return what a JSON file says; None where there is none, or it says nothing that can be read."""
    path = side_file(source, file, allow_download=allow_download)
    try:
        return None if path is None else json.loads(path.read_bytes())
    except (ValueError, RecursionError):  # whoever needs it says what is wrong with it
        return {}


def read_static(
    source: str, name: str, found: StaticFolder, tokenizer: Tokenizer, *, trained: bool, allow_download: bool
) -> tuple[StaticText, Tokenizer]:
    """Return a static encoder and its tokenizer, which puts no special tokens around a text.

    Args:
        source: A local folder or a hub id.
        name: What the user wrote, for messages.
        found: What `static_folder` returned.
        tokenizer: That of the folder.
        trained: May fine-tuning change the vectors?
        allow_download: Whether the hub may be asked.

    Raises:
        WeightsError: If the file holds no single matrix of vectors, or one that does not fit the tokenizer.
    """
    path = side_file(source, f"{found.place}model.safetensors", allow_download=allow_download)
    if path is None:
        raise WeightsError(f"'{name}' holds no {found.place}model.safetensors with the vectors of its tokens.")
    with files_of(name, TEXT_PACKAGES):
        tensors = load_file(path)
    vectors = _vectors(tensors, name)
    described = json.loads(tokenizer.to_str())
    described["post_processor"] = None
    tokenizer = Tokenizer.from_str(json.dumps(described))
    largest = max(tokenizer.get_vocab().values(), default=0)
    if largest >= len(vectors):
        raise WeightsError(
            f"'{name}' has vectors for {len(vectors):,} tokens, and its tokenizer gives ids up to {largest:,}. "
            "Use the two files that belong together."
        )
    unknown = _unknown(described["model"], tokenizer) if found.skips_unknown else None
    size, width = vectors.shape
    return StaticText(size, width, found.normalise, unknown, trained, vectors).eval(), tokenizer


def _vectors(tensors: dict[str, Tensor], name: str) -> Tensor:
    """Return one row per token id: model2vec may keep fewer, which tokens share (`mapping`), each with its weight."""
    matrix = next((tensors[key] for key in _MATRICES if key in tensors), None)
    if matrix is None or matrix.ndim != 2 or not matrix.is_floating_point():
        raise WeightsError(
            f"'{name}' holds no matrix of token vectors: its model.safetensors has "
            f"{', '.join(sorted(tensors)[:5]) or 'nothing'}, and none is a table of numbers named "
            f"{' or '.join(_MATRICES)}."
        )
    vectors = matrix.float()
    if "mapping" in tensors:
        places = tensors["mapping"].long()
        if places.ndim != 1 or bool(((places < 0) | (places >= len(vectors))).any()):
            raise WeightsError(f"'{name}': the tensor 'mapping' leads to vectors that are not there.")
        vectors = vectors[places]
    if "weights" in tensors:
        weights = tensors["weights"].float()
        if weights.shape != vectors.shape[:1]:
            raise WeightsError(f"'{name}': {len(weights):,} weights for {len(vectors):,} tokens.")
        vectors = vectors * weights[:, None]
    if not bool(vectors.isfinite().all()):
        raise WeightsError(f"'{name}' holds token vectors that are no finite numbers.")
    return vectors.contiguous()


def _unknown(model: dict[str, Any], tokenizer: Tokenizer) -> int | None:
    if isinstance(number := model.get("unk_id"), int):
        return number
    word = model.get("unk_token")
    return tokenizer.token_to_id(word) if isinstance(word, str) else None
