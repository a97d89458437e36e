"""Factors by which methods tell modalities apart: against numbers worked out apart, naive loops, what they imply."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fusetune.strategies.agm import coefficients, shared
from fusetune.strategies.arl import weights
from fusetune.strategies.cpsc import reliability, slowed
from fusetune.strategies.iemf import strength
from fusetune.strategies.inforeg import is_open, pulls
from fusetune.strategies.mlb import balance
from fusetune.strategies.modulated import means_of, others_of, true_class
from fusetune.strategies.opm import dropping

# Two modalities' logits of four rows, and their labels; the numbers below were worked out from them by plain numpy.
F1 = torch.tensor([[2, 0, -1], [0.5, 1, 0], [0, 0, 1], [-1, 2, 0.5]], dtype=torch.float64)
F2 = torch.tensor([[0.2, 0.1, 0], [1, 0, 0], [0.3, -0.2, 0.1], [0, 0.4, 0.6]], dtype=torch.float64)
Y = torch.tensor([0, 1, 2, 1])
SCORES = true_class(torch.stack([F1, F2]), Y).sum(1)
MANY = (2, 3, 5)


def near(value: float) -> Any:
    return pytest.approx(value, abs=1e-8)


def some(many: int, seed: int = 0) -> Tensor:
    return torch.rand(many, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.1


def naive_others(scores: Tensor) -> list[float]:
    values = scores.tolist()
    return [float(np.mean([v for n, v in enumerate(values) if n != m])) for m in range(len(values))]


def test_mlb_hurries_who_lags_and_slows_who_leads() -> None:
    assert balance(SCORES, 1.5, 20).tolist() == [near(0.33500922177684656), near(18.8243056785088)]
    assert balance(SCORES / 4, 1.5, 20).tolist() == [near(0.33500922177684656), near(18.8243056785088)]
    assert balance(SCORES[:1], 1.5, 20).tolist() == [1.0]
    for slightly in (1 - 1e-9, 1 + 1e-9):  # no jump where they are level
        assert balance(torch.tensor([1.0, slightly], dtype=torch.float64), 1.5, 20).tolist() == pytest.approx(
            [1, 1], abs=1e-6
        )


@pytest.mark.parametrize("many", MANY)
def test_mlb_of_any_number_of_modalities(many: int) -> None:
    scores = some(many)
    expected = []
    for own, others in zip(scores.tolist(), naive_others(scores), strict=True):
        r = others / own
        expected.append(1 + ((7 if r > 1 else 2) - 1) * np.tanh(0.8 * (r - 1)))
    assert balance(scores, 0.8, 7).tolist() == [near(k) for k in expected]


def test_agm_scales_by_how_unusual_a_contribution_is() -> None:
    losses = torch.stack([-torch.log(true_class(f, Y)).mean() for f in (F1, F2)])
    assert losses.tolist() == [near(0.4107179251968071), near(1.1752948325902175)]
    usual = torch.tensor([0.8, 1.0], dtype=torch.float64)
    assert coefficients(losses, usual, 1, 10).tolist() == [near(0.3958647821800838), near(1.4236156973393466)]
    assert coefficients(losses, losses, 1, 10).tolist() == [1.0, 1.0]
    assert coefficients(losses[:1], usual[:1], 1, 10).tolist() == [1.0]
    better, worse = coefficients(torch.tensor([0.5, 1.0]), torch.tensor([0.8, 1.0]), 1, 10).tolist()
    assert better < 1 < worse
    assert coefficients(torch.tensor([9.0, 0.0]), torch.tensor([0.0, 9.0]), 1, 3)[0] == pytest.approx(np.exp(3))


def test_agm_has_an_answer_where_a_contribution_is_hopeless() -> None:
    scores = torch.tensor([0.1, 400.0])
    assert torch.equal(coefficients(scores, scores, 1.0, 10.0), torch.ones(2))
    k = coefficients(torch.tensor([0.1, 0.2]), scores, 1.0, 10.0)
    assert bool(torch.isfinite(k).all())


@pytest.mark.parametrize("many", MANY)
def test_agm_of_any_number_of_modalities(many: int) -> None:
    losses, usual = some(many), some(many, 1)
    power = many / (many - 1)
    r, tau = (np.exp(power * (s.mean() - s).numpy()) for s in (losses, usual))
    expected = np.exp(0.7 * np.minimum(tau - r, 0.2))
    assert coefficients(losses, usual, 0.7, 0.2).tolist() == [near(k) for k in expected]


def game(many: int, additive: bool) -> dict[frozenset[int], Tensor]:
    """Return what is said with each subset of modalities, [rows, classes]."""
    draw = torch.Generator().manual_seed(many)

    def logits() -> Tensor:
        return torch.randn(4, 3, generator=draw, dtype=torch.float64)

    here, gone = [logits() for _ in range(many)], [logits() for _ in range(many)]
    subsets = [frozenset(m for m in range(many) if code >> m & 1) for code in range(2**many)]
    if not additive:
        return {subset: logits() for subset in subsets}
    return {s: torch.stack([here[m] if m in s else gone[m] for m in range(many)]).sum(0) for s in subsets}


def contributions(said: dict[frozenset[int], Tensor], many: int) -> Tensor:
    whole = frozenset(range(many))
    only, without = ([said[s(m)] for m in whole] for s in (lambda m: frozenset({m}), lambda m: whole - {m}))
    return shared(said[whole], torch.stack(only), torch.stack(without))


@pytest.mark.parametrize("many", MANY)
@pytest.mark.parametrize("additive", [True, False])
def test_agm_contributions_add_up_to_what_is_said(many: int, additive: bool) -> None:
    said = game(many, additive)
    parts = contributions(said, many)
    torch.testing.assert_close(parts.sum(0), said[frozenset(range(many))], rtol=0, atol=1e-12)
    if many == 2:  # as published
        both, one, two = said[frozenset({0, 1})], said[frozenset({0})], said[frozenset({1})]
        torch.testing.assert_close(parts[0], (both - two + one) / 2)
        torch.testing.assert_close(parts[1], (both - one + two) / 2)


@pytest.mark.parametrize("many", MANY)
def test_agm_contributions_to_a_sum_are_shapley_values(many: int) -> None:
    said = game(many, additive=True)
    orders = list(permutations(range(many)))
    shapley = torch.zeros(many, 4, 3, dtype=torch.float64)
    for order in orders:
        for at, m in enumerate(order):
            shapley[m] += (said[frozenset(order[: at + 1])] - said[frozenset(order[:at])]) / len(orders)
    torch.testing.assert_close(contributions(said, many), shapley + said[frozenset()] / many)


def test_iemf_hurries_the_fusion_the_more_the_less_single_modalities_know() -> None:
    together = true_class(F1 + F2, Y).sum()
    ratio = float(SCORES.mean() / together)
    assert ratio == near(0.7830893912469855)
    assert float(strength(SCORES, together, "paper")) == near(1.2135715395460367)
    assert float(strength(SCORES, together, "released")) == near(1 + np.tanh(1) - np.tanh(2 * ratio))
    for variant in ("paper", "released"):
        weak, strong = (float(strength(SCORES * share, together, variant)) for share in (0.5, 1.0))  # type: ignore[arg-type]
        assert weak > strong


@pytest.mark.parametrize("many", MANY)
def test_opm_drops_the_leader_only(many: int) -> None:
    scores = some(many)
    leader = int(scores.argmax())
    rho = float(scores[leader]) / naive_others(scores)[leader]
    expected = [0.4 * (1 + 0.5 * np.tanh(rho - 1)) if m == leader else 0 for m in range(many)]
    assert dropping(scores, 0.4, 0.5).tolist() == [near(q) for q in expected]
    assert dropping(torch.ones(many), 0.4, 0.5).tolist() == [0.0] * many
    assert dropping(scores[:1], 0.4, 0.5).tolist() == [0.0]
    assert float(dropping(scores, 0.9, 50.0).max()) == pytest.approx(0.99)


def test_inforeg_holds_the_leader_while_information_is_taken_in() -> None:
    growing, level, shrinking = [0.0, 1.0, 2.0, 3.0], [1.0, 1.0, 1.0, 1.0], [3.0, 2.0, 1.0, 0.0]
    assert is_open(torch.tensor([growing, level, shrinking]), 0.05).tolist() == [True, False, False]
    assert is_open(torch.tensor([[1.0, 1.0, 1.0, 1.1]]), 0.05).tolist() == [False]  # 3.1 to 3 is less than .05
    assert is_open(torch.tensor([[1.0, 1.0, 1.0, 1.2]]), 0.05).tolist() == [True]
    for many in MANY:
        scores = some(many)
        leader = int(scores.argmax())
        beta = 0.5 * np.exp(np.tanh(float(scores[leader]) - naive_others(scores)[leader]))
        expected = [beta if m == leader else 0.0 for m in range(many)]
        assert pulls(scores, torch.ones(many, dtype=torch.bool), 0.5).tolist() == [near(b) for b in expected]
        others = torch.arange(many) != leader
        assert not pulls(scores, others, 0.5).any()
    assert not pulls(torch.ones(1), torch.ones(1, dtype=torch.bool), 0.5).any()


def test_cpsc_reliability_is_one_over_the_place_in_the_prediction_set() -> None:
    logits, limits = torch.randn(3, 40, 5, generator=torch.Generator().manual_seed(0)), torch.tensor([0.9, 0.5, np.inf])
    target = torch.arange(40) % 5
    found = reliability(logits, target, limits)
    for m in range(3):
        for i in range(40):
            p = torch.softmax(logits[m, i], 0)
            inside = [c for c in p.argsort(descending=True).tolist() if 1 - p[c] <= limits[m]]
            expected = 1 / (1 + inside.index(int(target[i]))) if int(target[i]) in inside else 0.0
            assert float(found[m, i]) == pytest.approx(expected)
    assert (found[:2] == 0).any()
    assert (found[2] > 0).all()


def test_slowed_features_are_the_same_and_their_gradients_are_not() -> None:
    z, k = torch.randn(4, 3, requires_grad=True), torch.tensor([0.0, 0.6, 1.0, 1.2])
    same = slowed(z, k)
    assert torch.equal(same, z)
    same.square().sum().backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(z.grad, 2 * z.detach() * k[:, None])


@pytest.mark.parametrize("many", MANY)
def test_arl_weighs_modalities_that_are_sure_and_say_little(many: int) -> None:
    entropies, sizes = some(many), some(many, 1)
    sure = [1 / max(h, 0.6 / many) for h in (entropies / entropies.sum()).tolist()]
    share = (sizes / sizes.sum()).tolist()
    raw = np.array([8 * v / sum(sure) * (1 - c) / (many - 1) for v, c in zip(sure, share, strict=True)])
    expected = np.exp(raw) / np.exp(raw).sum()
    assert weights(entropies, sizes, 8).tolist() == [near(w) for w in expected]
    if many == 2:  # as published: the floor is .3, and the size that counts is the other's
        raw = np.array([8 * v / sum(sure) * c for v, c in zip(sure, reversed(share), strict=True)])
        assert weights(entropies, sizes, 8).tolist() == [near(w) for w in np.exp(raw) / np.exp(raw).sum()]
    level = torch.ones(many, dtype=torch.float64)
    assert weights(level, level, 8).tolist() == [near(1 / many)] * many
    surer, smaller = level.clone(), level.clone()
    surer[0] = smaller[0] = 0.5
    for one in (weights(surer, level, 8), weights(level, smaller, 8)):
        assert float(one[0]) > 1 / many + 1e-3


def test_means_are_over_the_rows_that_have_a_modality() -> None:
    scores, seen = torch.tensor([6.0, 1.0, 0.0]), torch.tensor([12.0, 4.0, 0.0])
    means = means_of(scores, seen)
    assert means.tolist() == [0.5, 0.25, 0.375]  # nobody has the third: it is neither ahead nor behind
    assert others_of(means).tolist() == [0.3125, 0.4375, 0.375]
    assert torch.isfinite(means_of(torch.zeros(2), torch.zeros(2))).all()
