"""Token dropout: what is never touched, what stays in order, how much goes, and independence of the batch."""

from __future__ import annotations

import torch
from scipy import stats
from torch import Tensor

from fusetune.augment.random import Moment
from fusetune.augment.text import TextAugment
from fusetune.config import TextPolicy

PAD, CLS, SEP = 0, 1, 2


def texts(lengths: list[int], padded: int = 0) -> dict[str, Tensor]:
    """Texts CLS 10 11 12 ... SEP of some lengths, special tokens included."""
    longest = max([*lengths, padded])
    ids = torch.full((len(lengths), longest), PAD)
    for row, length in enumerate(lengths):
        ids[row, :length] = torch.tensor([CLS, *range(10, 8 + length), SEP][:length])
    return {"ids": ids, "mask": ids != PAD}


def rows_of(inputs: dict[str, Tensor]) -> list[list[int]]:
    return [ids[mask].tolist() for ids, mask in zip(inputs["ids"], inputs["mask"], strict=True)]


def augment(drop: float) -> TextAugment:
    return TextAugment(TextPolicy(drop=drop), (PAD, CLS, SEP), PAD)


def test_special_tokens_stay_and_the_rest_keeps_its_order() -> None:
    inputs = texts([40] * 200)
    for row in rows_of(augment(0.5).draw(inputs, torch.arange(200), Moment(0))):
        assert row[0] == CLS
        assert row[-1] == SEP
        assert row[1:-1] == sorted(set(row[1:-1]))
        assert row[1:-1]


def test_the_share_that_is_dropped_is_the_one_asked_for() -> None:
    inputs = texts([52] * 400)
    for drop in (0.1, 0.6):
        kept = sum(len(row) - 2 for row in rows_of(augment(drop).draw(inputs, torch.arange(400), Moment(1))))
        assert stats.binomtest(400 * 50 - kept, 400 * 50, drop).pvalue > 1e-4


def test_every_place_is_dropped_equally_often() -> None:
    inputs = texts([12] * 3000)
    seen = torch.zeros(20)
    for row in rows_of(augment(0.3).draw(inputs, torch.arange(3000), Moment(2))):
        seen[row[1:-1]] += 1
    assert stats.chisquare(seen[10:20].numpy()).pvalue > 1e-4


def test_a_text_never_loses_everything() -> None:
    inputs = texts([3, 4] * 300)
    found = rows_of(augment(0.95).draw(inputs, torch.arange(600), Moment(3)))
    assert min(len(row) for row in found) == 3
    assert all(row == [CLS, 10, SEP] for row in found[::2])
    assert any(len(row) == 3 for row in found[1::2])


def test_padding_stays_padding_and_empty_texts_stay_empty() -> None:
    inputs = texts([2, 30, 7])
    found = augment(0.4).draw(inputs, torch.arange(3), Moment(0))
    assert rows_of(found)[0] == [CLS, SEP]
    assert bool((found["ids"][~found["mask"]] == PAD).all())
    assert found["ids"].shape == found["mask"].shape
    assert int(found["mask"].sum(1).max()) == found["ids"].shape[1]
    assert found["ids"].dtype == torch.int64


def test_a_text_gets_the_same_view_in_any_batch() -> None:
    lengths, keys = [5, 40, 17, 23], torch.tensor([7, -3, 2**60, 0])
    whole = rows_of(augment(0.3).draw(texts(lengths), keys, Moment(4, 1)))
    for row in range(4):
        assert rows_of(augment(0.3).draw(texts([lengths[row]]), keys[row : row + 1], Moment(4, 1))) == [whole[row]]
    turned = rows_of(augment(0.3).draw(texts(lengths[::-1], padded=64), keys.flip(0), Moment(4, 1)))
    assert turned == whole[::-1]
    assert rows_of(augment(0.3).draw(texts(lengths), keys, Moment(4, 2))) != whole


def test_without_dropout_nothing_changes() -> None:
    inputs = texts([5, 9])
    assert augment(0).draw(inputs, torch.arange(2), Moment(0)) is inputs
    assert augment(0.5).plain(inputs) is inputs


def test_the_description_names_everything_that_matters() -> None:
    assert augment(0.1).describe() != augment(0.2).describe()
    assert augment(0.1).describe() != TextAugment(TextPolicy(drop=0.1), (PAD,), PAD).describe()
