"""Text operations: what is never touched, what stays in order, how much goes, and independence of the batch."""

from __future__ import annotations

import pytest
import torch
from scipy import stats
from torch import Tensor

from fusetune.augment.random import Moment
from fusetune.augment.token_noise import TextAugment
from fusetune.config import TextPolicy
from fusetune.errors import ConfigError

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
    rows = rows_of(augment(0.95).draw(inputs, torch.arange(600), Moment(3)))
    assert min(len(row) for row in rows) == 3
    assert all(row == [CLS, 10, SEP] for row in rows[::2])
    assert any(len(row) == 3 for row in rows[1::2])


def test_padding_stays_padding_and_empty_texts_stay_empty() -> None:
    inputs = texts([2, 30, 7])
    view = augment(0.4).draw(inputs, torch.arange(3), Moment(0))
    assert rows_of(view)[0] == [CLS, SEP]
    assert bool((view["ids"][~view["mask"]] == PAD).all())
    assert view["ids"].shape == view["mask"].shape
    assert int(view["mask"].sum(1).max()) == view["ids"].shape[1]
    assert view["ids"].dtype == torch.int64


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


EVERYTHING = TextPolicy(swap=0.4, mask=0.3, span=0.7, span_share=0.3, drop=0.2)
MASK = 3


def with_all(policy: TextPolicy) -> TextAugment:
    return TextAugment(policy, (PAD, CLS, SEP, MASK), PAD, MASK)


def test_every_operation_spares_special_tokens_wherever_they_are() -> None:
    inputs = texts([30] * 300)
    inputs["ids"][:, 12] = SEP  # a second sentence
    inputs["ids"][:, 20] = MASK  # a mask that was there before
    for policy in (EVERYTHING, TextPolicy(swap=1, drop=0), TextPolicy(span=1, span_share=0.9, drop=0)):
        for row in rows_of(with_all(policy).draw(inputs, torch.arange(300), Moment(0))):
            assert (row[0], row[-1], row.count(CLS), row.count(SEP)) == (CLS, SEP, 1, 2)
            assert row.count(MASK) >= 1


def test_masked_tokens_are_a_share_of_the_places() -> None:
    view = with_all(TextPolicy(mask=0.3, drop=0)).draw(texts([52] * 400), torch.arange(400), Moment(0))
    hidden = view["ids"][:, 1:-1] == MASK
    assert stats.binomtest(int(hidden.sum()), 400 * 50, 0.3).pvalue > 1e-4
    assert stats.chisquare(hidden.sum(0).numpy()).pvalue > 1e-4
    assert torch.equal(view["ids"][:, 1:-1][~hidden], texts([52] * 400)["ids"][:, 1:-1][~hidden])


def test_swapped_tokens_change_places_with_a_neighbour_and_nobody_is_lost() -> None:
    ids = with_all(TextPolicy(swap=0.3, drop=0)).draw(texts([22] * 2000), torch.arange(2000), Moment(1))["ids"]
    moved = ids[:, 1:-1] - torch.arange(10, 30)
    assert torch.equal(ids[:, 1:-1].sort(1).values, torch.arange(10, 30).expand(2000, -1))
    assert set(moved.unique().tolist()) == {-1, 0, 1}
    # Any two neighbours meet: inner tokens move with the probability asked for, to both sides alike; the two at the
    # ends have a neighbour in half of the texts only.
    inner, left = moved[:, 1:-1], int((moved[:, 1:-1] == -1).sum())
    assert abs(float((inner != 0).float().mean()) - 0.3) < 0.01
    assert stats.binomtest(left, int((inner != 0).sum()), 0.5).pvalue > 1e-4
    assert abs(float((moved[:, [0, -1]] != 0).float().mean()) - 0.15) < 0.03


def test_a_span_is_one_run_of_the_lengths_asked_for() -> None:
    rows = rows_of(with_all(TextPolicy(span=0.6, span_share=0.25, drop=0)).draw(
        texts([22] * 4000), torch.arange(4000), Moment(2)
    ))  # fmt: skip
    gone = [sorted(set(range(10, 30)) - set(row[1:-1])) for row in rows]
    assert all(run == list(range(run[0], run[0] + len(run))) for run in gone if run)
    assert stats.binomtest(sum(map(bool, gone)), 4000, 0.6).pvalue > 1e-4
    lengths = torch.bincount(torch.tensor([len(run) for run in gone if run]), minlength=6)
    assert lengths[0] == 0
    assert len(lengths) == 6  # a quarter of twenty tokens is five
    assert stats.chisquare(lengths[1:].numpy()).pvalue > 1e-4
    starts = torch.bincount(torch.tensor([run[0] - 10 for run in gone if len(run) == 1]))
    assert len(starts) == 20
    assert stats.chisquare(starts.numpy()).pvalue > 1e-4


def test_operations_together_leave_one_token_that_tells_something() -> None:
    policy = TextPolicy(swap=1, mask=0.9, span=1, span_share=0.9, drop=0.9)
    for row in rows_of(with_all(policy).draw(texts([3, 4, 6] * 300), torch.arange(900), Moment(3))):
        assert any(token >= 10 for token in row)


def test_all_operations_are_the_same_in_any_batch_with_any_padding() -> None:
    lengths = [5, 40, 17, 23, 2, 3]
    keys = torch.tensor([7, -3, 2**60, 0, 9, -(2**63)])
    whole = rows_of(with_all(EVERYTHING).draw(texts(lengths), keys, Moment(4, 1)))
    for padded, order in ((41, [5, 3, 1, 0, 2, 4]), (64, [2, 1, 0, 5, 4, 3]), (200, [0, 1, 2, 3, 4, 5])):
        inputs = texts([lengths[row] for row in order], padded)
        rows = rows_of(with_all(EVERYTHING).draw(inputs, keys[order], Moment(4, 1)))
        assert rows == [whole[row] for row in order]
    for row in range(6):
        alone = with_all(EVERYTHING).draw(texts([lengths[row]]), keys[row : row + 1], Moment(4, 1))
        assert rows_of(alone) == [whole[row]]


def test_one_operation_does_not_decide_for_another() -> None:
    """Which tokens are dropped has nothing to do with which are masked."""
    inputs = texts([52] * 400)
    dropped = rows_of(with_all(TextPolicy(drop=0.5)).draw(inputs, torch.arange(400), Moment(0)))
    stays = torch.tensor([[token in row for token in range(10, 60)] for row in map(set, dropped)]).double()
    hidden = with_all(TextPolicy(mask=0.5, drop=0)).draw(inputs, torch.arange(400), Moment(0))["ids"] == MASK
    pairs = torch.stack([stays.flatten(), hidden[:, 1:-1].double().flatten()])
    assert abs(float(torch.corrcoef(pairs)[0, 1])) < 0.03


def test_masking_without_a_mask_token_is_refused_with_the_reason() -> None:
    with pytest.raises(ConfigError, match="tokenizer has none"):
        TextAugment(TextPolicy(mask=0.1), (PAD,), PAD)


def test_views_of_different_length_are_padded_together() -> None:
    inputs, keys, moments = texts([30, 9]), torch.tensor([3, 4]), [Moment(0, 0, view) for view in range(3)]
    together = augment(0.5).draw_views(inputs, keys, moments)
    each = [rows_of(augment(0.5).draw(inputs, keys, moment)) for moment in moments]
    assert rows_of(together) == [row for rows in each for row in rows]
    assert bool((together["ids"][~together["mask"]] == PAD).all())
