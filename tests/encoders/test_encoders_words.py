"""TF-IDF of tokens against scikit-learn's, and what must not matter: padding, special tokens, batch mates."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.feature_extraction.text import TfidfVectorizer

from fusetune.encoders import WordCounts, build_encoder

CLS, SEP, PAD = 101, 102, 0


def texts(count: int = 60, seed: int = 0) -> list[Any]:
    generator = np.random.default_rng(seed)
    return [generator.zipf(1.6, generator.integers(1, 30)).clip(max=90) + 200 for _ in range(count)]


def padded(rows: list[Any], length: int = 34) -> dict[str, torch.Tensor]:
    ids = torch.full((len(rows), length), PAD)
    mask = torch.zeros(len(rows), length, dtype=torch.bool)
    for place, row in enumerate(rows):
        whole = torch.tensor([CLS, *row, SEP])
        ids[place, : len(whole)], mask[place, : len(whole)] = whole, True
    return {"ids": ids, "mask": mask}


def fitted(rows: list[Any], **more: int) -> WordCounts:
    return WordCounts.fit([np.array([CLS, *row, SEP]) for row in rows], (CLS, SEP, PAD), **more)


def test_it_equals_tf_idf_as_scikit_learn_defines_it() -> None:
    rows, new = texts(), texts(20, seed=1)
    reference = TfidfVectorizer(token_pattern=r"\S+", ngram_range=(1, 2), sublinear_tf=True, min_df=2)
    reference.fit([" ".join(map(str, row)) for row in rows])
    expected = reference.transform([" ".join(map(str, row)) for row in new]).toarray()
    encoder = fitted(rows, most=10_000)
    assert encoder.dim == expected.shape[1]
    vectors = encoder(padded(new)).numpy()
    # The order of the columns differs: each of ours must be one of theirs.
    np.testing.assert_allclose(np.sort(vectors, 1), np.sort(expected, 1), atol=1e-6)
    np.testing.assert_allclose(vectors @ vectors.T, expected @ expected.T, atol=1e-6)


def test_padding_special_tokens_and_batch_mates_do_not_matter() -> None:
    rows = texts()
    encoder = fitted(rows)
    whole = encoder(padded(rows))
    for place in (0, 7, 31):
        assert torch.equal(encoder(padded([rows[place]], len(rows[place]) + 2))[0], whole[place])
    inputs = padded(rows)
    inputs["ids"][~inputs["mask"]] = 205  # a real word, but not there
    assert torch.equal(encoder(inputs), whole)


def test_only_the_commonest_are_kept() -> None:
    rows = texts()
    few = fitted(rows, most=5)
    assert few.dim == 5
    singles = {int(code) >> 20 for code in few.codes if not int(code) & (2**20 - 1)}
    counts = {word: sum(word in row for row in rows) for word in set(np.concatenate(rows).tolist())}
    assert max(counts, key=lambda word: counts[word]) in singles
    assert fitted([np.array([300]), np.array([301])]).dim == 0


def test_a_text_of_unknown_words_is_zero_and_it_can_be_rebuilt() -> None:
    encoder = fitted(texts())
    inputs = padded([np.array([5000, 5001]), np.array([], dtype=np.int64)])
    assert encoder(inputs).abs().sum() == 0
    again = build_encoder(encoder.describe())
    again.load_state_dict(encoder.state_dict())
    assert torch.equal(again(padded(texts(5, 3))), encoder(padded(texts(5, 3))))


@pytest.mark.parametrize("count", [1, 2])
def test_the_width_is_kept_for_any_batch(count: int) -> None:
    encoder = fitted(texts())
    assert encoder(padded(texts(count))).shape == (count, encoder.dim)
