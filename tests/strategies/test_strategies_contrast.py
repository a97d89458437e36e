"""Losses that compare rows with each other: numbers worked out apart, naive loops, and what they must imply."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy.special import log_softmax, softmax
from torch import Tensor, nn

from fusetune.encoders import Branched, Identity, VectorMLP, build_encoder
from fusetune.heads import build_head
from fusetune.heads.bottleneck import BottleneckHead
from fusetune.heads.embedding import EmbeddingHead
from fusetune.heads.late import MeanHead
from fusetune.strategies import ithp
from fusetune.strategies.contrast import (
    Sharpness,
    cosines,
    cycle_of,
    nt_xent,
    pairs_of,
    row_loss,
    shared_rows,
    two_way,
)
from fusetune.strategies.m3col import Partners, mixture, mixup_loss, soft_loss
from fusetune.strategies.structure import divergence, lost_structure, mutual_neighbours, nearness
from fusetune.strategies.tri_modal import pairwise, to_centroid

# Features of four rows in two modalities; the numbers below were worked out from them by plain numpy.
U = torch.tensor([[1, 0], [0, 1], [1, 1], [1, -1]], dtype=torch.float64)
V = torch.tensor([[1, 0.2], [0.1, 1], [0.8, 1], [0.5, -1]], dtype=torch.float64)
BETA, PARTNER = torch.tensor([0.9, 0.3, 1.0, 0.6], dtype=torch.float64), torch.tensor([2, 0, 2, 1])
Matrix = npt.NDArray[np.float64]


def near(value: float) -> Any:
    return pytest.approx(value, abs=1e-8)


def cosine(a: Matrix, b: Matrix) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def draw(rows: int, *widths: int, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(rows, width, generator=generator, dtype=torch.float64) for width in widths]


def naive_mixup(u: Matrix, v: Matrix, beta: Matrix, partner: Matrix, heat: float, own_partner: bool = True) -> float:
    """Return the loss of 1/2 [rows + columns], one pair of rows after the other."""
    rows = len(u)
    scores = np.empty((rows, rows))
    target = np.zeros((rows, rows))
    for i in range(rows):
        mixed = beta[i] * u[i] + (1 - beta[i]) * u[int(partner[i])]
        target[i, i] += beta[i]
        if partner[i] != i:
            target[i, int(partner[i])] += 1 - beta[i]
        else:
            target[i, i] = 1.0 if own_partner else 1 - beta[i]
        for j in range(rows):
            scores[i, j] = cosine(mixed, v[j]) / heat
    along, down = log_softmax(scores, 1), log_softmax(scores, 0)
    pairs = [(i, j) for i in range(rows) for j in range(rows)]
    return float(-sum(target[p] * (along[p] + down[p]) for p in pairs) / rows / 2)


def test_m3col_has_the_published_values() -> None:
    assert float(mixup_loss(U, V, BETA, PARTNER, 0.1)) == near(1.8697879625730853)
    ones = torch.ones(4, dtype=torch.float64)
    assert float(mixup_loss(U, V, ones, PARTNER, 0.1)) == near(0.11173234031949453)
    assert float(two_way(cosines(U, V) / 0.1) / 2) == near(0.11173234031949453)  # which is symmetric CLIP
    assert float(soft_loss(U, V, 0.125)) == near(0.4816712391383412)
    assert float(soft_loss(V, U, 0.125)) == near(0.4803872145391721)


@pytest.mark.parametrize("own_partner", [True, False])
def test_m3col_is_the_naive_sum_whoever_is_whose_partner(own_partner: bool) -> None:
    u, v = draw(7, 5, 5)
    beta = torch.linspace(0.05, 0.95, 7, dtype=torch.float64)
    partner = torch.tensor([3, 1, 0, 2, 4, 6, 5])  # rows 1 and 4 are their own
    expected = naive_mixup(u.numpy(), v.numpy(), beta.numpy(), partner.numpy(), 0.1, own_partner)
    assert float(mixup_loss(u, v, beta, partner, 0.1, own_partner=own_partner)) == near(expected)


def test_a_row_that_is_its_own_partner_stays_whole() -> None:
    """Mixed with itself it is itself, and so is its target; as released, the less it is mixed, the less it counts."""
    u, v = draw(5, 4, 4)
    beta, itself = torch.full((5,), 0.8, dtype=torch.float64), torch.arange(5)
    clip = float(two_way(cosines(u, v) / 0.1) / 2)
    assert float(mixup_loss(u, v, beta, itself, 0.1)) == near(clip)
    assert float(mixup_loss(u, v, beta, itself, 0.1, own_partner=False)) == near(0.2 * clip)


def test_soft_targets_are_how_alike_rows_are_and_learn_too() -> None:
    u, v = (one.requires_grad_() for one in draw(6, 3, 3))
    a, b = (one.detach().numpy() for one in (u, v))
    alike = softmax([[cosine(x, y) / 0.125 for y in b] for x in b], 1)
    scores = np.array([[cosine(x, y) / 0.125 for y in b] for x in a])
    expected = -(alike * (log_softmax(scores, 1) + log_softmax(scores.T, 1))).sum() / 6 / 2
    loss = soft_loss(u, v, 0.125)
    assert float(loss.detach()) == near(float(expected))
    (whole,) = torch.autograd.grad(loss, v)
    fixed = torch.from_numpy(alike)
    s = cosines(u, v) / 0.125
    (stopped,) = torch.autograd.grad((row_loss(s, fixed) + row_loss(s.T, fixed)) / 2, v)
    assert float((whole - stopped).abs().max()) > 1e-3


def test_partners_are_permutations_of_any_rows_and_half_are_mixed() -> None:
    torch.manual_seed(0)
    drawn = Partners.draw(4000, 0.15, 0.5, torch.device("cpu"))
    mixed = drawn.beta < 1
    assert float(mixed.float().mean()) == pytest.approx(0.5, abs=0.03)
    inner = drawn.beta[mixed]
    assert float(inner.mean()) == pytest.approx(0.5, abs=0.03)
    assert float(inner.var()) == pytest.approx(0.25 / 1.3, abs=0.01)  # of Beta(a, a): 1 / (4 (2 a + 1))
    some = torch.tensor([3, 17, 99, 1234, 2000])
    beta, partner = drawn.among(some)
    assert sorted(partner.tolist()) == [0, 1, 2, 3, 4]
    assert torch.equal(beta, drawn.beta[some])
    moved = [drawn.among(torch.arange(at, at + 5))[1] for at in range(0, 4000, 5)]
    at_home = torch.stack([one == torch.arange(5) for one in moved]).float().mean()
    assert float(at_home) == pytest.approx(0.2, abs=0.03)  # as of a random permutation of five
    torch.testing.assert_close(mixture(U, BETA, PARTNER)[1], 0.3 * U[1] + 0.7 * U[0])


def test_structure_has_the_published_values() -> None:
    assert float(lost_structure(U, V, 0.5, 2, released=True)) == near(0.009666787790325352)
    assert float(lost_structure(U, V, 0.5, 2)) == near(0.00923953283238896)


@pytest.mark.parametrize("levels", [1, 3])
def test_structure_is_the_naive_sum_of_matrix_powers(levels: int) -> None:
    x, z = draw(6, 5, 3)
    near_x, near_z = (nearness(one, 0.3).numpy() for one in (x, z))
    total = 0.0
    for level in range(1, levels + 1):
        p, q = (np.linalg.matrix_power(s, level) for s in (near_x, near_z))
        for i in range(6):
            m = (p[i] + q[i]) / 2
            js = sum(p[i, j] * np.log(p[i, j] / m[j]) + q[i, j] * np.log(q[i, j] / m[j]) for j in range(6)) / 2
            total += js / 6 / level
    assert float(lost_structure(x, z, 0.3, levels)) == near(total / levels)


def test_structure_is_lost_only_where_neighbours_change() -> None:
    x, other = draw(8, 5, 5)
    turn = torch.linalg.qr(draw(5, 5, seed=1)[0])[0]
    for released in (False, True):
        assert float(lost_structure(x, 3 * x @ turn, 0.1, 3, released=released)) == near(0)  # turned and stretched
        assert float(lost_structure(x, other, 0.1, 3, released=released)) > 0.01
    p, q = torch.eye(4, dtype=torch.float64), torch.eye(4, dtype=torch.float64).flip(0)
    assert float(divergence(p, q)) == near(np.log(2))  # the most that there is
    assert float(divergence(p, p)) == near(0)


def test_structure_is_finite_where_rows_are_infinitely_unlike() -> None:
    x = torch.tensor([[1.0, 0], [-1.0, 0], [1.0, 1e-3], [-1, 1e-3]])
    z = torch.tensor([[1.0, 0], [1.0, 1e-3], [-1.0, 0], [-1, 1e-3]], requires_grad=True)
    for released in (False, True):
        loss = lost_structure(x, z, 0.01, 2, released=released)
        (gradient,) = torch.autograd.grad(loss, z)
        assert torch.isfinite(loss)
        assert torch.isfinite(gradient).all()


def test_neighbours_are_counted() -> None:
    x, z = draw(12, 4, 6)
    expected = []
    for i in range(12):
        sets = [
            set(sorted(set(range(12)) - {i}, key=lambda j, m=m, i=i: -cosine(m[i], m[j]))[:3])  # type: ignore[misc]
            for m in (x.numpy(), z.numpy())
        ]
        expected.append(len(sets[0] & sets[1]) / 3)
    assert mutual_neighbours(x, z, 3) == near(float(np.mean(expected)))
    assert mutual_neighbours(x, 2 * x, 3) == 1
    assert mutual_neighbours(x, z, 11) == 1  # all others
    with pytest.raises(ValueError, match="12 rows have no 12 neighbours each"):
        mutual_neighbours(x, z, 12)


def test_nt_xent_tells_a_row_from_both_modalities() -> None:
    u, v = draw(5, 4, 4)
    both = np.concatenate([u.numpy(), v.numpy()])
    losses = []
    for i in range(10):
        partner, others = (i + 5) % 10, [j for j in range(10) if j != i]
        scores = np.array([cosine(both[i], both[j]) / 0.1 for j in others])
        losses.append(-log_softmax(scores)[others.index(partner)])
    assert float(nt_xent(u, v, 0.1)) == near(float(np.mean(losses)))


def masks(count: int, rows: int) -> dict[str, Tensor]:
    """Return masks under which every row lacks one modality or none, and a row has only one, and one none."""
    has = torch.ones(count, rows, dtype=torch.bool)
    for row in range(rows):
        has[row % (count + 1) if row % (count + 1) < count else 0, row] = row % (count + 1) == count
    has[:, 0], has[1:, 1], has[0, 1] = False, False, True
    return {f"m.{at}": bits for at, bits in enumerate(has)}


@pytest.mark.parametrize("count", [2, 3, 5])
def test_pairs_and_centroids_are_naive_sums_over_the_rows_that_have_them(count: int) -> None:
    present = masks(count, 24)
    raw = draw(24, *[4] * count)
    e = {name: nn.functional.normalize(z, dim=1) * present[name][:, None] for name, z in zip(present, raw, strict=True)}
    sharp = Sharpness(10, 7.0).double()
    expected = 0.0
    for a, b in pairs_of(list(e)):
        rows = [i for i in range(24) if present[a][i] and present[b][i]]
        scores = 7 * e[a][rows].numpy() @ e[b][rows].numpy().T
        for axis in (1, 0):
            expected -= float(np.mean(np.diag(log_softmax(scores, axis)))) if len(rows) > 1 else 0.0
    assert float(pairwise(e, present, sharp).detach()) == pytest.approx(expected, rel=1e-6)
    for own in (True, False):
        expected = 0.0
        for m in e:
            rows = [i for i in range(24) if present[m][i] and sum(bool(present[n][i]) for n in e) > 1]
            means = [np.mean([e[n][i].numpy() for n in e if present[n][i] and (own or n != m)], 0) for i in rows]
            scores = np.array([[7 * cosine(mean, e[m][j].numpy()) for j in rows] for mean in means])
            expected -= float(np.mean(np.diag(log_softmax(scores, 1)))) if len(rows) > 1 else 0.0
        assert float(to_centroid(e, present, sharp, own=own).detach()) == pytest.approx(expected, rel=1e-6)
    # What is stored for an absent modality is nobody's negative.
    filled = {name: torch.where(present[name][:, None], own, 5.0) for name, own in e.items()}
    for loss in (pairwise, to_centroid):
        torch.testing.assert_close(loss(filled, present, sharp), loss(e, present, sharp))


def test_nothing_to_compare_is_a_step_without_a_gradient() -> None:
    e = {"a": torch.ones(3, 2, requires_grad=True), "b": torch.ones(3, 2, requires_grad=True)}
    present = {"a": torch.tensor([True, True, False]), "b": torch.tensor([False, False, True])}
    for loss in (pairwise, to_centroid):
        value = loss(e, present, Sharpness(2))
        value.backward()  # type: ignore[no-untyped-call]
        assert float(value.detach()) == 0
        assert not e["a"].grad.any()  # type: ignore[union-attr]


def test_directions_and_shared_rows() -> None:
    assert cycle_of(["a"]) == []
    assert cycle_of(["a", "b"]) == [("a", "b"), ("b", "a")]
    assert cycle_of(["a", "b", "c"]) == [("a", "b"), ("b", "c"), ("c", "a")]
    assert len(cycle_of(list("abcde"))) == 5
    assert pairs_of(["a", "b", "c"]) == [("a", "b"), ("a", "c"), ("b", "c")]
    present = {"a": torch.tensor([1, 0, 1]).bool(), "b": torch.tensor([1, 1, 0]).bool()}
    assert shared_rows(present, "a", "b").tolist() == [0]


def test_sharpness_begins_at_its_limit_and_can_leave_it() -> None:
    sharp = Sharpness(2)
    assert float(sharp(0).detach()) == pytest.approx(100, rel=1e-5)
    optimiser = torch.optim.SGD(sharp.parameters(), lr=0.5)
    for way, end in ((-1.0, 100.0), (1.0, 1.0)):
        for _ in range(20):
            optimiser.zero_grad()
            (way * sharp(1).log()).backward()
            optimiser.step()
        assert float(sharp(1).detach()) == pytest.approx(end, rel=1e-5)
    assert float(sharp(0).detach()) == pytest.approx(100, rel=1e-5)


def test_the_divergence_of_a_bottleneck_is_that_of_gaussians() -> None:
    mean, log_variance = draw(4, 3, 3)
    own = torch.distributions.Normal(mean, (log_variance / 2).exp())
    each = torch.distributions.kl_divergence(own, torch.distributions.Normal(torch.zeros_like(mean), 1.0))
    torch.testing.assert_close(ithp.divergence(mean, log_variance), each.mean(1))
    torch.testing.assert_close(ithp.divergence(mean, log_variance, summed=True), each.sum(1))


HEADS = {
    "embedding": lambda dims: EmbeddingHead(dims, 3, 8),
    "embedding, side by side": lambda dims: EmbeddingHead(dims, 3, 8, "concat"),
    "bottleneck": lambda dims: BottleneckHead(dims, 3, "m1", 4, 0.5),
    "mean": lambda dims: MeanHead(dict.fromkeys(dims, 3), 3),
}


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("count", [2, 3, 5])
def test_heads_are_rebuilt_and_do_not_see_what_is_absent(kind: str, count: int) -> None:
    torch.manual_seed(0)
    head = HEADS[kind]({f"m{at}": 3 + at for at in range(count)}).eval()
    with torch.no_grad():
        for p in head.parameters():
            p.copy_(torch.randn_like(p))
    z = {name: torch.randn(40, dim) for name, dim in head.dims.items()}
    present = {name: torch.rand(40) < 0.6 for name in z}
    for bits in present.values():
        bits[:2] = False
    f = head(z, present)
    assert torch.isfinite(f).all()
    assert torch.equal(f[0], f[1])
    spoilt = {name: torch.where(present[name][:, None], own, torch.nan) for name, own in z.items()}
    torch.testing.assert_close(head(spoilt, present), f)
    again = build_head(head.describe()).eval()
    again.load_state_dict(head.state_dict())
    torch.testing.assert_close(again(z, present), f)


def test_heads_refuse_what_they_cannot_be() -> None:
    with pytest.raises(ValueError, match="not by 'sum'"):
        EmbeddingHead({"a": 2}, 3, fusion="sum")
    with pytest.raises(ValueError, match="no block 'b'"):
        BottleneckHead({"a": 2}, 3, "b")


def test_only_the_prime_modality_is_read() -> None:
    torch.manual_seed(0)
    head = HEADS["bottleneck"]({"m0": 4, "m1": 5, "m2": 3}).eval()
    nn.init.normal_(head.linear.weight)
    nn.init.normal_(head.back.weight)
    z, has = {name: torch.randn(6, dim) for name, dim in head.dims.items()}, torch.ones(6, dtype=torch.bool)
    present = dict.fromkeys(z, has)
    f = head(z, present)
    alone = head({**z, "m0": torch.randn(6, 4), "m2": torch.randn(6, 3)}, {"m0": ~has, "m1": has, "m2": ~has})
    torch.testing.assert_close(alone, f)
    assert not torch.allclose(head({**z, "m1": torch.randn(6, 5)}, present), f)
    assert len(head.chain(z, present)) == 2
    assert torch.equal(head.chain(z, present)[0].sample, head.chain(z, present)[0].mean)  # nothing is drawn
    head.train()
    assert not torch.equal(head(z, present), head(z, present))
    lacking = {**present, "m1": ~has}
    assert torch.equal(head(z, lacking), head(z, lacking))  # nothing of the chain is heard without it


def test_embeddings_have_length_one_and_their_mean_is_over_what_is_there() -> None:
    head = EmbeddingHead({"a": 3, "b": 4}, 2, 5)
    z = {"a": torch.randn(3, 3), "b": torch.randn(3, 4)}
    present = {"a": torch.tensor([1, 1, 0]).bool(), "b": torch.tensor([1, 0, 0]).bool()}
    e = head.embed(z, present)
    torch.testing.assert_close(e["a"].norm(dim=1), torch.tensor([1.0, 1.0, 0.0]))
    read, there = head.read(e, present)
    torch.testing.assert_close(read["mean"][0], (e["a"][0] + e["b"][0]) / 2)
    torch.testing.assert_close(read["mean"][1], e["a"][1])
    assert there["mean"].tolist() == [True, True, False]


@pytest.mark.parametrize("base", [Identity(5), VectorMLP(5, 6, dropout=0.0)], ids=["ready-made", "trained"])
def test_branches_are_two_copies_of_an_encoder(base: Any) -> None:
    torch.manual_seed(0)
    encoder = Branched.of(base, 4)
    x = torch.randn(9, 5)
    listed = [id(p) for block in encoder.blocks() for p in block]
    assert sorted(listed) == sorted(id(p) for p in encoder.parameters())
    torch.testing.assert_close(encoder.specific(x), encoder.common(x))
    encoder.train()
    encoder(x)
    assert torch.isfinite(encoder(x[:1])).all()  # a row has no deviation
    assert encoder.bottom is base
    again = build_encoder(encoder.describe()).eval()
    again.load_state_dict(encoder.eval().state_dict())
    torch.testing.assert_close(again(x), encoder(x))
    u, s, n = encoder(x).chunk(3, 1)
    torch.testing.assert_close(torch.cat([u, n], 1), encoder.split(encoder.specific(x)))
    assert float(s.min().detach()) == 0
