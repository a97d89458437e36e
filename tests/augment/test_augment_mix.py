"""Mixing: one partner and one weight for every modality and the label, exact areas, honest labels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.nn import functional as F

from fusetune.augment.mix import EMBEDDED, Mixing, draw_mixing, join_views, mix_batch
from fusetune.augment.random import Moment
from fusetune.config import MixPolicy

ROWS, SIDE = 12, 16
KEYS = torch.arange(ROWS) * 1_000_003 - 5
MIXUP, CUTMIX = MixPolicy(kind="mixup", alpha=1.0), MixPolicy(kind="cutmix", alpha=1.0)
KINDS = {"scan": "image", "note": "text", "cells": "columns", "genes": "vector"}
EVERYWHERE = {name: torch.ones(ROWS, dtype=torch.bool) for name in KINDS}


def signed(present: dict[str, Tensor]) -> dict[str, Any]:
    """Inputs in which every number of row r is r: what comes out tells who was mixed with whom, and how much."""
    rows = {name: torch.arange(ROWS).float()[has] for name, has in present.items()}
    count = len(rows["cells"])
    return {
        "scan": rows["scan"].view(-1, 1, 1, 1).expand(-1, 3, SIDE, SIDE),
        "note": {"ids": rows["note"].long()[:, None], "mask": torch.ones(len(rows["note"]), 1, dtype=torch.bool)},
        "cells": {
            "numbers": rows["cells"][:, None].expand(-1, 2),
            "missing": torch.zeros(count, 2, dtype=torch.bool),
            "codes": rows["cells"].long()[:, None].expand(-1, 2),
        },
        "genes": rows["genes"][:, None].expand(-1, 5),
    }


def as_vectors(mixed: dict[str, Any], mixing: Mixing, present: dict[str, Tensor]) -> dict[str, Tensor]:
    """Encode: each modality's mean number; texts are mixed after their encoder, as every strategy must."""
    encoded = {
        "scan": mixed["scan"].double().mean((1, 2, 3)),
        "note": mixed["note"]["ids"][:, 0].double(),
        "cells": mixed["cells"]["numbers"].double().mean(1),
        "genes": mixed["genes"].double().mean(1),
    }
    return {name: mixing.only(present[name]).blend(z) if KINDS[name] in EMBEDDED else z for name, z in encoded.items()}


@pytest.mark.parametrize("policy", [MIXUP, CUTMIX])
def test_every_modality_and_the_label_are_mixed_alike(policy: MixPolicy) -> None:
    """With row r labelled r, the soft label says what each modality must be: sum_c q_c c."""
    mixed, mixing = mix_batch(signed(EVERYWHERE), KINDS, EVERYWHERE, KEYS, [Moment(0)], policy)
    soft = torch.zeros(ROWS, ROWS).double()
    for c in range(ROWS):  # the loss is linear in the label: one logit at a time reads it off
        logits = torch.zeros(ROWS, ROWS).double()
        logits[:, c] = 1.0
        soft[:, c] = torch.logsumexp(logits, 1) - mixing.loss(logits, torch.arange(ROWS), torch.ones(ROWS))
    expected = soft @ torch.arange(ROWS).double()
    assert bool((soft.sum(1) - 1).abs().max() < 1e-5)
    assert float((expected - torch.arange(ROWS)).abs().min()) > 1e-3  # no row stayed as it was
    for name, values in as_vectors(mixed, mixing, EVERYWHERE).items():
        torch.testing.assert_close(values, expected, rtol=0, atol=1e-4, msg=f"{name} disagrees with the label")
    codes = mixed["cells"]["codes"]
    partner = mixing.partner[:, None]
    assert bool(((codes == torch.arange(ROWS)[:, None]) | (codes == partner)).all())


def test_partners_are_a_permutation_without_fixed_points() -> None:
    seen = torch.zeros(ROWS, ROWS)
    for epoch in range(3000):
        partner = draw_mixing(MIXUP, KEYS, Moment(0, epoch)).partner
        assert sorted(partner.tolist()) == list(range(ROWS))
        seen[torch.arange(ROWS), partner] += 1
    assert not seen.diagonal().any()
    others = seen[~torch.eye(ROWS, dtype=torch.bool)]
    assert stats.chisquare(others.numpy()).pvalue > 1e-4


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_weights_follow_the_beta_distribution(alpha: float) -> None:
    keys = torch.arange(4000)
    weight = draw_mixing(MixPolicy(kind="mixup", alpha=alpha), keys, Moment(1)).weight.double().numpy()
    # Of weights within rounding of 0 and 1 there are many for small alpha: compared on a grid, not at single points.
    cuts = np.array([0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99])
    counts = np.histogram(weight, [-1, *cuts, 2])[0]
    expected = np.diff([0, *stats.beta(alpha, alpha).cdf(cuts), 1]) * 4000
    assert stats.chisquare(counts, expected).pvalue > 1e-4


def test_a_share_of_the_rows_is_left_as_it_is_to_the_bit() -> None:
    keys = torch.arange(3000)
    mixing = draw_mixing(MixPolicy(kind="mixup", alpha=1.0, share=0.4), keys, Moment(2))
    whole = mixing.weight == 1
    assert stats.binomtest(int((~whole).sum()), 3000, 0.4).pvalue > 1e-4
    x = torch.randn(3000, 7, generator=torch.Generator().manual_seed(0))
    assert torch.equal(mixing.blend(x)[whole], x[whole])


def test_the_same_rows_are_mixed_alike_in_any_order() -> None:
    for policy in (MIXUP, CUTMIX):
        whole = draw_mixing(policy, KEYS, Moment(3, 1), side=SIDE)
        order = torch.from_numpy(np.random.default_rng(0).permutation(ROWS))
        turned = draw_mixing(policy, KEYS[order], Moment(3, 1), side=SIDE)
        assert torch.equal(KEYS[order][turned.partner], KEYS[whole.partner[order]])
        assert torch.equal(turned.weight, whole.weight[order])
        other = draw_mixing(policy, KEYS, Moment(3, 2), side=SIDE)
        assert not torch.equal(other.weight, whole.weight)


def test_cutmix_weighs_the_label_by_the_exact_area() -> None:
    keys, side = torch.arange(2000), 13
    mixing = draw_mixing(CUTMIX, keys, Moment(0), side=side)
    images = keys.view(-1, 1, 1, 1).expand(-1, 1, side, side)
    own = (mixing.images(images) == images).double().mean((1, 2, 3))
    torch.testing.assert_close(mixing.weight.double(), own, rtol=0, atol=1e-7)
    assert mixing.box is not None
    left, top, right, bottom = mixing.box.T
    area = (right - left) * (bottom - top)
    assert torch.equal(mixing.weight.double(), (1 - area.double() / side**2).float().double())
    assert 0 < float((area == 0).double().mean()) < 0.2  # tiny rectangles vanish, and with them their label
    middle = ((left + right) / 2)[(left > 0) & (right < side)]
    assert abs(float(middle.mean()) - side / 2) < 0.5


def test_cutmix_boxes_are_for_one_size_only() -> None:
    mixing = draw_mixing(CUTMIX, KEYS, Moment(0), side=SIDE)
    with pytest.raises(ValueError, match="pictures of 16 pixels"):
        mixing.images(torch.zeros(ROWS, 3, 20, 20))
    with pytest.raises(ValueError, match="use mixup"):
        draw_mixing(CUTMIX, KEYS, Moment(0))


def test_rows_are_mixed_only_with_rows_that_have_the_same() -> None:
    present = {name: has.clone() for name, has in EVERYWHERE.items()}
    present["scan"][[1, 4, 7]] = False
    present["note"][[2, 4, 9]] = False  # row 4 lacks both, alone in its pattern
    for policy in (MIXUP, CUTMIX):
        mixed, mixing = mix_batch(signed(present), KINDS, present, KEYS, [Moment(0)], policy)
        pattern = torch.stack([present[name] for name in KINDS], 1)
        assert torch.equal(pattern, pattern[mixing.partner])
        assert float(mixing.weight[4]) == 1
        assert {int(mixing.partner[1]), int(mixing.partner[7])} == {1, 7}
        rows = torch.arange(ROWS).double()
        expected = mixing.weight * rows + (1 - mixing.weight) * rows[mixing.partner]
        for name, values in as_vectors(mixed, mixing, present).items():
            torch.testing.assert_close(values, expected[present[name]], rtol=0, atol=1e-4)


def test_a_partner_that_lacks_the_modality_is_refused() -> None:
    has = torch.ones(ROWS, dtype=torch.bool)
    has[3] = False
    with pytest.raises(ValueError, match="lacks it"):
        draw_mixing(MIXUP, KEYS, Moment(0)).only(has)


def test_cells_without_a_mean_come_from_one_of_the_two_rows() -> None:
    rows = 4000
    keys, missing = torch.arange(rows), torch.zeros(rows, 2, dtype=torch.bool)
    missing[::3, 0] = True
    numbers = torch.arange(1.0, rows + 1)[:, None].repeat(1, 2).masked_fill(missing, 0.0)
    inputs = {"numbers": numbers, "missing": missing, "codes": torch.arange(rows)[:, None]}
    mixing = draw_mixing(MIXUP, keys, Moment(0))
    cells = mixing.columns(inputs)
    taken = cells["codes"][:, 0] == mixing.partner
    assert bool((taken | (cells["codes"][:, 0] == keys)).all())
    both = ~missing[:, 0] & ~missing[mixing.partner, 0]
    one = torch.where(taken, mixing.partner, keys)
    assert torch.equal(cells["numbers"][both], mixing.blend(numbers)[both])
    assert torch.equal(cells["numbers"][~both, 0], numbers[one[~both], 0])
    assert torch.equal(cells["missing"][:, 0], missing[one, 0] & ~both)
    # The partner's code as often as the partner's share says.
    expected = (1 - mixing.weight).double()
    surplus = (taken.double() - expected).sum() / (expected * (1 - expected)).sum().sqrt()
    assert abs(float(surplus)) < 4


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_the_cross_entropy_with_soft_labels(smoothing: float) -> None:
    """Against the formula, with label smoothing and class weights, row by row."""
    generator = np.random.default_rng(0)
    logits, labels = generator.normal(size=(ROWS, 4)), generator.integers(0, 4, ROWS)
    class_weight, row_weight = np.array([0.5, 1, 2, 3]), generator.uniform(0.5, 2, ROWS)
    weights = class_weight[labels] * row_weight
    mixing = draw_mixing(MIXUP, KEYS, Moment(0))
    loss = mixing.loss(torch.from_numpy(logits), torch.from_numpy(labels), torch.from_numpy(weights), smoothing)
    for row in range(ROWS):
        log_p = logits[row] - np.log(np.exp(logits[row]).sum())
        partner, share = int(mixing.partner[row]), float(mixing.weight[row])
        q = np.zeros(4)
        for k, part in ((row, share), (partner, 1 - share)):
            q += (
                part
                * class_weight[labels[k]]
                * row_weight[k]
                * ((1 - smoothing) * np.eye(4)[labels[k]] + smoothing / 4)
            )
        assert float(loss[row]) == pytest.approx(-(q * log_p).sum(), abs=1e-6)


def test_without_weights_the_loss_is_torchs_own_for_soft_labels() -> None:
    logits, labels = torch.randn(ROWS, 3, generator=torch.Generator().manual_seed(0)), torch.arange(ROWS) % 3
    mixing = draw_mixing(MIXUP, KEYS, Moment(5))
    soft = mixing.blend(F.one_hot(labels, 3).float())
    loss = mixing.loss(logits, labels, torch.ones(ROWS), 0.1).mean()
    torch.testing.assert_close(loss, F.cross_entropy(logits, soft, label_smoothing=0.1))


def test_views_are_mixed_within_themselves() -> None:
    each = [draw_mixing(CUTMIX, KEYS, Moment(0, 0, view), side=SIDE) for view in range(3)]
    joined = join_views(each)
    images = torch.rand(3 * ROWS, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    parts = [mixing.images(part) for mixing, part in zip(each, images.split(ROWS), strict=True)]
    assert torch.equal(joined.images(images), torch.cat(parts))
    assert torch.equal(joined.weight, torch.cat([mixing.weight for mixing in each]))
    assert not torch.equal(each[0].weight, each[1].weight)


def test_a_single_row_stays_as_it_is() -> None:
    mixing = draw_mixing(CUTMIX, KEYS[:1], Moment(0), side=SIDE)
    assert mixing.weight.tolist() == [1.0]
    assert torch.equal(mixing.images(torch.ones(1, 3, SIDE, SIDE)), torch.ones(1, 3, SIDE, SIDE))
