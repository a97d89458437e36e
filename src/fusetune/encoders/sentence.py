"""Text encoders: any encoder network of `transformers`, and a small built-in transformer with its own tokenizer.

All of them take token ids with a mask and read out one vector per text that does not depend on the padding.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor, nn

from fusetune.encoders.base import Encoder
from fusetune.encoders.causal import CausalText
from fusetune.encoders.layers import PreNormBlock, full
from fusetune.encoders.packages import TEXT_PACKAGES
from fusetune.encoders.pooling import attended, masked_mean
from fusetune.encoders.pretrained import (
    build_backbone,
    config_json,
    files_of,
    load_backbone,
    locate,
    quiet_transformers,
    side_file,
    transformers,
)
from fusetune.encoders.shallow import ShallowText
from fusetune.encoders.static import StaticText, read_static, static_folder
from fusetune.encoders.words import WordCounts
from fusetune.errors import ConfigError, WeightsError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Pooling = Literal["mean", "cls", "last", "flat"]
UNTRAINED = ("builtin", "shallow")
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


class TransformersText(Encoder):
    """A text network of `transformers`: BERT, MiniLM, MPNet, RoBERTa, DistilBERT, ...

    The read-out is the mean over the tokens that are not padding (or, with ``pooling="cls"``, the first token). A
    pooler is dropped: it belongs to a pretraining task and would hold parameters that never get a gradient.

    Args:
        config: JSON of the network's configuration.
        pooling: ``mean`` or ``cls``.
        normalise: Scale each vector to length ``sqrt(dim)``, for networks whose vectors were trained to be compared
            by angle (sentence encoders): their length only tells how long and how common the words are.
        backbone: The loaded network; built from `config` with random weights where absent.
    """

    def __init__(
        self,
        config: dict[str, Any],
        pooling: Pooling = "mean",
        normalise: bool = False,
        backbone: PreTrainedModel | None = None,
    ) -> None:
        super().__init__()
        if pooling not in ("mean", "cls"):
            raise ValueError(f"a text network is read out by 'mean' or 'cls', not by {pooling!r:.40}")
        self.pooling, self.normalise = pooling, normalise
        self.network = build_backbone(config) if backbone is None else backbone
        if hasattr(self.network, "pooler"):
            self.network.pooler = nn.Identity()
        self.dim = int(self.network.config.hidden_size)

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        """Encode ``{"ids": long [batch, tokens], "mask": bool [batch, tokens]}`` to ``[batch, dim]``."""
        mask = inputs["mask"]
        output = self.network(input_ids=inputs["ids"], attention_mask=attended(mask).long())
        hidden: Tensor = full(output.last_hidden_state)
        vector = hidden[:, 0] if self.pooling == "cls" else masked_mean(hidden, mask)
        return nn.functional.normalize(vector, dim=1) * self.dim**0.5 if self.normalise else vector


class SmallTextTransformer(Encoder):
    """A small transformer without pretrained weights, for tests and machines without any weights.

    Learned positions, pre-norm layers, final normalisation, mean over the tokens that are not padding.

    Args:
        vocabulary_size: Number of token ids.
        max_tokens: Longest text in tokens.
        width: Width of a token and of the feature vector.
        layers: Number of layers.
        heads: Attention heads per layer.
        dropout: Share of values dropped in training.
    """

    def __init__(
        self,
        vocabulary_size: int,
        max_tokens: int,
        *,
        width: int = 128,
        layers: int = 2,
        heads: int = 4,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.dim = width
        self.tokens = nn.Embedding(vocabulary_size, width)
        self.positions = nn.Embedding(max_tokens, width)
        # Unit-variance embeddings would drown what the layers add to them; 0.02 is BERT's choice.
        nn.init.normal_(self.tokens.weight, std=0.02)
        nn.init.normal_(self.positions.weight, std=0.02)
        self.layers = nn.ModuleList(PreNormBlock(width, heads, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        """Encode ``{"ids": long [batch, tokens], "mask": bool [batch, tokens]}`` to ``[batch, width]``."""
        ids, mask = inputs["ids"], inputs["mask"]
        x = self.tokens(ids) + self.positions(torch.arange(ids.shape[1], device=ids.device))
        visible = attended(mask)
        for layer in self.layers:
            x = layer(x, visible)
        return masked_mean(full(self.norm(x)), mask)


def load_text_encoder(
    name: str,
    *,
    max_tokens: int,
    allow_download: bool = False,
    pooling: Pooling = "mean",
    tokenizer: Tokenizer | None = None,
    train_vectors: bool = False,
) -> tuple[Encoder, Tokenizer]:
    """Return a text encoder with its pretrained weights, and its tokenizer without truncation and padding.

    Args:
        name: ``builtin`` or ``shallow`` (random weights), one of `TEXT_PACKAGES`, a local folder or a hub id.
        max_tokens: Longest text in tokens that will be encoded, special tokens included.
        allow_download: Whether weights that are not on this machine may be fetched from a model hub.
        pooling: ``mean`` over the tokens or ``cls`` for the first token; for causal language models ``last`` for the
            last token or ``flat`` for all `max_tokens` positions. Networks with random weights and static encoders
            know only ``mean``.
        tokenizer: For networks with random weights: what was made from the training texts by `train_tokenizer`, or for
            ``shallow`` by `train_word_tokenizer`.
        train_vectors: Whether fine-tuning may change the token vectors of a static encoder.

    Raises:
        WeightsError: The weights are not on this machine and may not be fetched, or do not fit the network.
        ConfigError: `max_tokens` is more than the network has positions for, a network with random weights got no
            tokenizer, or `pooling` or `train_vectors` is nothing that the encoder knows.
    """
    if name in UNTRAINED:
        if train_vectors:
            raise ConfigError(f"text.train_vectors: the text encoder '{name}' is always trained.")
        if tokenizer is None:
            maker = "train_tokenizer" if name == "builtin" else "train_word_tokenizer"
            raise ConfigError(f"The text encoder '{name}' needs a tokenizer: train one with {maker}(texts).")
        size = tokenizer.get_vocab_size()
        return (SmallTextTransformer(size, max_tokens) if name == "builtin" else ShallowText(size)), tokenizer
    source = locate(name, TEXT_PACKAGES, allow_download=allow_download)
    if (found := static_folder(source, allow_download=allow_download)) is not None:
        if pooling != "mean":
            raise ConfigError(f"text.pooling={pooling}: '{name}' has one vector per token and knows only their mean.")
        plain = _load_tokenizer(source, name, found.place, allow_download=allow_download)
        return read_static(source, name, found, plain, trained=train_vectors, allow_download=allow_download)
    if train_vectors:
        raise ConfigError(
            f"text.train_vectors is for encoders of nothing but token vectors, such as wordllama; '{name}' is none."
        )
    backbone = load_backbone(source, name, TEXT_PACKAGES, allow_download=allow_download)
    _check_network(backbone, name, max_tokens)
    tokens = _load_tokenizer(source, name, allow_download=allow_download)
    if pooling in ("last", "flat"):
        return CausalText(config_json(backbone), pooling, max_tokens, backbone).eval(), tokens
    normalise = _is_normalised(source, allow_download=allow_download)
    return TransformersText(config_json(backbone), pooling, normalise, backbone).eval(), tokens


def _check_network(backbone: PreTrainedModel, name: str, max_tokens: int) -> None:
    if backbone.config.is_encoder_decoder or not hasattr(backbone.config, "hidden_size"):
        raise WeightsError(f"'{name}' ({type(backbone).__name__}) is no text encoder. Use one like all-MiniLM-L6-v2.")
    limit = _most_tokens(backbone)
    if limit is not None and max_tokens > limit:
        raise ConfigError(f"'{name}' reads at most {limit} tokens, but max_tokens is {max_tokens}.")


def _most_tokens(backbone: PreTrainedModel) -> int | None:
    """Return for how many tokens a network has positions; None: for any number."""
    positions: int | None = getattr(backbone.config, "max_position_embeddings", None)
    if positions is None:
        return None
    # RoBERTa and its kin count positions from padding_idx + 1 on.
    table = getattr(getattr(backbone, "embeddings", None), "position_embeddings", None)
    offset = getattr(table, "padding_idx", None)
    return positions if offset is None else positions - offset - 1


def text_limits(encoder: Encoder) -> tuple[int | None, int | None]:
    """Return for how many token ids, and for how many tokens of a text, an encoder has weights; None: for any number.

    Raises:
        ValueError: If it is no encoder of texts.
    """
    match encoder:
        case SmallTextTransformer():
            return encoder.tokens.num_embeddings, encoder.positions.num_embeddings
        case ShallowText():
            return encoder.words.num_embeddings, None
        case CausalText() | TransformersText():
            table: Any = encoder.network.get_input_embeddings()
            ids = int(table.num_embeddings)
            fixed = encoder.max_tokens if isinstance(encoder, CausalText) and encoder.pooling == "flat" else None
            return ids, _most_tokens(encoder.network) if fixed is None else fixed
        case StaticText():
            return len(encoder.vectors), None
        case WordCounts():
            return None, None
        case _:
            raise ValueError(f"{type(encoder).__name__} reads no texts")


def _is_normalised(source: str, *, allow_download: bool) -> bool:
    """Return whether a sentence encoder's own list of steps ends with normalisation."""
    file = side_file(source, "modules.json", allow_download=allow_download)
    return file is not None and b"Normalize" in file.read_bytes()


def _load_tokenizer(source: str, name: str, place: str = "", *, allow_download: bool) -> Tokenizer:
    file = side_file(source, f"{place}tokenizer.json", allow_download=allow_download)
    if file is not None:
        with files_of(name, TEXT_PACKAGES):
            tokenizer = read_tokenizer(file.read_bytes())
    else:
        tokenizer = _convert_tokenizer(source, name, allow_download=allow_download)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _convert_tokenizer(source: str, name: str, *, allow_download: bool) -> Tokenizer:
    """Let `transformers` build the fast tokenizer from older files (vocab.txt, merges.txt, a sentencepiece model)."""
    with quiet_transformers(), files_of(name, TEXT_PACKAGES):
        slow = transformers().AutoTokenizer.from_pretrained(
            source, local_files_only=not allow_download, trust_remote_code=False
        )
    tokenizer = getattr(slow, "backend_tokenizer", None)
    if not isinstance(tokenizer, Tokenizer):
        raise WeightsError(f"The tokenizer of '{name}' cannot be converted. Save it with a tokenizer.json beside it.")
    return tokenizer


def read_tokenizer(content: bytes) -> Tokenizer:
    """Return the tokenizer that a `tokenizer.json` describes.

    Raises:
        ValueError: If it describes none.
    """
    try:
        return Tokenizer.from_str(content.decode("utf-8"))
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:  # a panic of the library's Rust code is no Exception
        raise ValueError(f"tokenizer.json describes no tokenizer: {error}") from error


def train_tokenizer(texts: Iterable[str], vocabulary_size: int = 8000) -> Tokenizer:
    """Train a byte-level BPE tokenizer: any language, no unknown characters, same texts -> same tokenizer.

    Args:
        texts: The training texts, in a fixed order.
        vocabulary_size: Most token ids, special tokens included.

    Returns:
        A tokenizer that puts ``[CLS]`` before and ``[SEP]`` after a text; ``[PAD]`` is id 0.
    """
    tokenizer = Tokenizer(models.BPE(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    ends = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    return tokenizer


@dataclass(frozen=True)
class SpecialIds:
    """Token ids that text augmentation must know.

    Attributes:
        pad: Fills a batch's shorter rows.
        mask: Stands for a hidden token; None where the tokenizer has no such token.
        all: Ids of all special tokens: never dropped, swapped or masked.
    """

    pad: int
    mask: int | None
    all: frozenset[int]


def special_ids(tokenizer: Tokenizer) -> SpecialIds:
    """Return the special ids of a tokenizer.

    A tokenizer without padding (GPT-2) pads with its first special token: the mask makes its value irrelevant.
    """
    special = {token.content: id_ for id_, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    pad = next((special[name] for name in ("[PAD]", "<pad>", "<|pad|>") if name in special), None)
    mask = next((special[name] for name in ("[MASK]", "<mask>", "<|mask|>") if name in special), None)
    return SpecialIds(min(special.values(), default=0) if pad is None else pad, mask, frozenset(special.values()))
