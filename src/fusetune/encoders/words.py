"""TF-IDF of a text's tokens and of pairs of neighbours: what a text says in which words, beside what it means.

A pretrained text network knows what sentences mean in general; a rare word that settles the class in one data set (a
brand, a drug) is better kept by counting. Works on the same token ids as the network, in any language.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fusetune.encoders.base import Encoder

_PAIR = 1 << 20  # larger than any vocabulary: a pair (a, b) has the code a * _PAIR + b + 1, a single token a * _PAIR
_PAD = -1


class WordCounts(Encoder):
    """TF-IDF vectors: ``(1 + log count) * idf``, scaled to length 1.

    Args:
        dim: How many tokens and pairs are counted.
        special: Ids that are no words.
    """

    codes: Tensor
    idf: Tensor

    def __init__(self, dim: int, special: Iterable[int] = ()) -> None:
        super().__init__()
        self.dim, self.special = dim, sorted(map(int, special))
        self.arguments["special"] = self.special
        self.register_buffer("codes", torch.arange(dim))
        self.register_buffer("idf", torch.ones(dim))

    @classmethod
    def fit(
        cls, texts: Iterable[npt.NDArray[np.int64]], special: Iterable[int], most: int = 4096, at_least: int = 2
    ) -> WordCounts:
        """Choose the tokens and pairs that occur in most texts, and weigh them by how few they occur in.

        Args:
            texts: Token ids of each text.
            special: Ids that are no words.
            most: How many are kept.
            at_least: In how many texts one must occur.
        """
        special = np.array(sorted(special), dtype=np.int64)
        counted = [np.unique(_codes(text[~np.isin(text, special)])) for text in texts]
        codes, counts = np.unique(np.concatenate([*counted, np.zeros(0, np.int64)]), return_counts=True)
        keep = np.flatnonzero(counts >= at_least)
        keep = np.sort(keep[np.argsort(-counts[keep], kind="stable")[:most]])
        counter = cls(len(keep), special.tolist())
        counter.codes.copy_(torch.from_numpy(codes[keep]))
        # The smoothed form: as if one more text held every word, so that no weight is infinite.
        counter.idf.copy_(torch.from_numpy(np.log((1 + len(counted)) / (1 + counts[keep])) + 1))
        return counter

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        """Return ``[batch, dim]`` for ids ``[batch, tokens]`` and mask ``[batch, tokens]``."""
        ids, mask = inputs["ids"], inputs["mask"]
        words = mask & ~(ids[..., None] == torch.tensor(self.special, device=ids.device, dtype=ids.dtype)).any(-1)
        ids = _moved_together(ids, words)
        singles = torch.where(ids == _PAD, _PAD, ids * _PAIR)
        pairs = torch.where(ids[:, 1:] == _PAD, _PAD, ids[:, :-1] * _PAIR + ids[:, 1:] + 1)
        asked = torch.cat([singles, pairs], 1)
        place = _searched(self.codes, asked).clamp(max=max(self.dim - 1, 0))
        is_counted = self.codes[place] == asked
        counts = torch.zeros(ids.shape[0], self.dim, device=ids.device)
        counts.scatter_add_(1, place, is_counted.float())
        weighed = torch.where(counts > 0, 1 + counts.clamp(min=1).log(), 0.0) * self.idf
        vectors: Tensor = weighed / weighed.norm(dim=1, keepdim=True).clamp(min=1e-12)
        return vectors


def _codes(ids: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return np.concatenate([ids * _PAIR, ids[:-1] * _PAIR + ids[1:] + 1])


def _searched(codes: Tensor, asked: Tensor) -> Tensor:
    """Return the first place of ascending codes, [dim], that holds no less than each number that is asked."""
    if not torch.onnx.is_in_onnx_export():
        return torch.searchsorted(codes, asked)
    # ONNX has no such operation: the interval that the place lies in is halved until it is one place.
    count = len(codes)  # a plain number, which its shape is not while it is traced
    low, high = torch.zeros_like(asked), torch.full_like(asked, count)
    for _ in range(count.bit_length()):
        middle = (low + high) // 2
        less = (codes[middle.clamp(max=count - 1)] < asked) & (low < high)
        low, high = torch.where(less, middle + 1, low), torch.where(less, high, middle)
    return low


def _moved_together(ids: Tensor, words: Tensor) -> Tensor:
    """Move each text's words to the front, so that words with a special token between them are neighbours."""
    # What is no word goes to one more place at the end, which is cut off.
    place = torch.where(words, words.long().cumsum(1) - 1, ids.shape[1])
    room = torch.full((ids.shape[0], ids.shape[1] + 1), _PAD, dtype=ids.dtype, device=ids.device)
    return room.scatter(1, place, ids)[:, :-1]
