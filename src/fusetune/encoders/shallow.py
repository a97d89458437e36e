"""The shallow text network of arXiv 2505.06592: word embeddings, two dense layers on each word, and their mean."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from torch import Tensor, nn
from torch.nn import functional as F

from fusetune.encoders.base import Encoder
from fusetune.encoders.layers import full
from fusetune.encoders.pooling import masked_mean

UNKNOWN = "<unk>"
# What the "basic English" tokenisation of the published network does after lower-casing, in its order.
_SPACED = (("'", " ' "), ('"', ""), (".", " . "), ("<br />", " "), (",", " , "), ("(", " ( "), (")", " ) "),
           ("!", " ! "), ("?", " ? "), (";", " "), (":", " "))  # fmt: skip


class ShallowText(Encoder):
    """Embedding -> linear -> leaky ReLU -> linear -> leaky ReLU -> mean over the words.

    Args:
        vocabulary_size: Number of word ids; 0 is the unknown word and the padding.
        width: Width of a word.
        hidden: Width of both layers and of the feature vector.
        masked: Leave padding out of the mean. The published network does not, so that what it says about a text depends
            on the longest text in its batch.
    """

    def __init__(self, vocabulary_size: int, *, width: int = 128, hidden: int = 200, masked: bool = True) -> None:
        super().__init__()
        self.dim, self.masked = hidden, masked
        self.words = nn.Embedding(vocabulary_size, width)
        self.first, self.second = nn.Linear(width, hidden), nn.Linear(hidden, hidden)

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        """Encode ``{"ids": long [batch, words], "mask": bool [batch, words]}`` to ``[batch, hidden]``."""
        x = F.leaky_relu(self.first(self.words(inputs["ids"])))
        x = full(F.leaky_relu(self.second(x)))
        return masked_mean(x, inputs["mask"]) if self.masked else x.mean(1)

    def blocks(self) -> list[list[nn.Parameter]]:
        """Return the embedding, then one block per layer."""
        return [list(layer.parameters()) for layer in (self.words, self.first, self.second)]


def train_word_tokenizer(texts: Iterable[str]) -> Tokenizer:
    """Return a tokenizer that knows every word of the texts: the most frequent first, ties in alphabetical order.

    Args:
        texts: The training texts.

    Returns:
        A tokenizer without special ends; id 0 stands for unknown words and serves as padding.
    """
    tokenizer = Tokenizer(models.WordLevel({UNKNOWN: 0}, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Lowercase(), *(normalizers.Replace(sign, spaced) for sign, spaced in _SPACED)]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    counts: Counter[str] = Counter()
    for text in texts:
        pieces = tokenizer.pre_tokenizer.pre_tokenize_str(tokenizer.normalizer.normalize_str(text))
        counts.update(word for word, _ in pieces)
    counts.pop(UNKNOWN, None)
    words = [UNKNOWN, *sorted(counts, key=lambda word: (-counts[word], word))]
    tokenizer.model = models.WordLevel({word: place for place, word in enumerate(words)}, unk_token=UNKNOWN)
    tokenizer.add_special_tokens([UNKNOWN])
    return tokenizer
