"""Texts: the ids of a naive encoding, in any language, with truncation counted and empty ones absent."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from fusetune.data import tokens
from fusetune.data.table import Table
from fusetune.data.tokens import TextInput, TextSource

TEXTS = ["hello world", "", None, "  ", "日本語 テスト", "مرحبا", "a " * 50, "naïve café 🙂", "hello world", "x" * 300]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """One token per byte, between a first and a last token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = {token: number for number, token in enumerate(["<pad>", "<s>", "</s>", *alphabet])}
    made = Tokenizer(models.BPE(vocab=words, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    made.enable_padding(pad_id=0, pad_token="<pad>")
    made.enable_truncation(5)  # what a tokenizer was saved with must not matter
    return made


def bound(tokenizer: Tokenizer, texts: list[str | None], max_tokens: int = 40) -> TextSource:
    table = Table(pd.DataFrame({"t": texts}), "t", Path())
    return TextInput("t", tokenizer, 0, max_tokens).bind(table)


def naive(tokenizer: Tokenizer, texts: list[str | None], max_tokens: int) -> list[list[int]]:
    plain = Tokenizer.from_str(tokenizer.to_str())
    plain.no_padding()
    plain.enable_truncation(max_tokens)
    return [plain.encode((text or "").strip()).ids for text in texts]


@pytest.mark.parametrize("max_tokens", [4, 13, 40, 1000])
@pytest.mark.parametrize("chunk", [1, 3, 1000])
def test_ids_equal_those_of_one_text_at_a_time(
    tokenizer: Tokenizer, max_tokens: int, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "_CHUNK", chunk)
    source = bound(tokenizer, TEXTS, max_tokens)
    expected = naive(tokenizer, TEXTS, max_tokens)
    assert source.lengths.tolist() == [len(ids) for ids in expected]
    for rows in (np.arange(10), np.array([9, 1, 4, 4]), np.array([1])):
        read = source.read(rows)
        assert read["ids"].dtype == torch.int64
        assert read["ids"].shape[1] == max(len(expected[row]) for row in rows)
        for place, row in enumerate(rows):
            assert read["ids"][place][read["mask"][place]].tolist() == expected[row]
            assert (read["ids"][place][~read["mask"][place]] == 0).all()
            assert not (read["mask"][place].int().diff() > 0).any()  # real tokens first


def test_empty_and_missing_texts_are_absent(tokenizer: Tokenizer) -> None:
    source = bound(tokenizer, TEXTS)
    assert source.present.tolist() == [bool((text or "").strip()) for text in TEXTS]
    assert source.problems == {}


def test_cut_texts_are_counted(tokenizer: Tokenizer) -> None:
    long = [len(ids) for ids in naive(tokenizer, TEXTS, 10_000)]
    for limit in (4, 13, 40, 302, 303):
        source = bound(tokenizer, TEXTS, limit)
        assert source.truncated == sum(length > limit for length in long)
        assert source.lengths.max() <= limit
        cut = source.read(np.array([9]))["ids"][0]
        assert [cut[0].item(), cut[-1].item()] == [1, 2]  # first and last token are kept


def test_digests_follow_what_the_encoder_sees(tokenizer: Tokenizer) -> None:
    source = bound(tokenizer, TEXTS)
    assert source.digests[0] == source.digests[8]
    assert len(set(source.digests.tolist())) == 7  # two are equal, three are empty
    shorter = bound(tokenizer, TEXTS, 13)
    changed = source.digests != shorter.digests
    assert changed.tolist() == [len(ids) > 13 for ids in naive(tokenizer, TEXTS, 40)]
    other = Tokenizer.from_str(tokenizer.to_str())
    other.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    assert (bound(other, TEXTS).digests != source.digests).all()


def test_numbers_in_a_text_column_are_words(tokenizer: Tokenizer) -> None:
    table = Table(pd.DataFrame({"t": pd.Series(["abc", 12, None], dtype=object)}), "t", Path())
    source = TextInput("t", tokenizer, 0, 40).bind(table)
    assert source.present.tolist() == [True, True, False]
    assert source.lengths.tolist() == [5, 4, 2]


def test_the_tokenizer_itself_is_not_changed(tokenizer: Tokenizer) -> None:
    before = tokenizer.to_str()
    bound(tokenizer, TEXTS)
    assert tokenizer.to_str() == before


def test_no_object_per_row_is_kept(tokenizer: Tokenizer) -> None:
    source = bound(tokenizer, ["some text"] * 500)
    for name, value in vars(source).items():
        assert isinstance(value, int | np.ndarray) or not value, name
        assert not isinstance(value, np.ndarray) or value.dtype != object
    assert source.ids.dtype == np.int32
