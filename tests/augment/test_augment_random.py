"""Stateless random numbers: fixed values, no dependence on the batch, and statistics that a weak hash fails."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from zlib import crc32

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import torch
from scipy import stats
from torch import Tensor

from fusetune.augment.random import Moment, each_uniform, integers, normal, uniform
from fusetune.config.policy import AXES, OPERATIONS
from fusetune.data.table import row_keys

Draw = Callable[[Moment, Tensor, str, int], Tensor]
ROWS = 4096
SEQUENTIAL = torch.arange(ROWS)
HASHED = torch.from_numpy(row_keys(pd.Series(np.arange(ROWS)).astype("str")))
# Every check below is made once with fixed numbers, so it either passes always or never. One in a million is far
# below what a fair source gives in the few hundred comparisons here, and far above what a flawed one gives.
LEAST = 1e-6


def test_values_are_what_they_always_were() -> None:
    keys = torch.tensor([0, 1, -1, 2**62])
    numbers = uniform(Moment(1, 2, 3), keys, "geometry", 2)
    expected = [[15033021, 1261655], [3523905, 8756430], [12713612, 9395981], [7138955, 9703420]]
    assert (numbers.double() * 2**24).long().tolist() == expected
    donors = [[585, 880], [737, 691], [823, 856], [381, 364]]
    assert integers(Moment(1, 2, 3), keys, "donor", 2, 1000).tolist() == donors


def reference(moment: Moment, key: int, operation: str, draws: int) -> list[int]:
    """The same numbers in plain integers: SplitMix64's finaliser, once per word."""
    mask, golden = 2**64 - 1, 0x9E3779B97F4A7C15

    def mix(x: int) -> int:
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
        return x ^ (x >> 31)

    state = mix((key + golden) & mask)
    for word in (moment.seed, moment.epoch, moment.view, crc32(operation.encode())):
        state = mix(((state ^ word) + golden) & mask)
    return [mix((state + i * golden) & mask) for i in range(1, draws + 1)]


@pytest.mark.parametrize("key", [0, 1, -1, 2**63 - 1, -(2**63), 12345678901234567])
def test_numbers_equal_plain_integer_arithmetic(key: int) -> None:
    moment = Moment(7, 1_000_000, 3)
    keys = torch.tensor([key])
    bits = reference(moment, key % 2**64, "colour", 5)
    assert uniform(moment, keys, "colour", 5)[0].double().tolist() == [(b >> 40) / 2**24 for b in bits]
    assert integers(moment, keys, "colour", 5, 97)[0].tolist() == [(b >> 1) % 97 for b in bits]


def test_a_row_gets_the_same_numbers_in_any_batch_and_for_any_number_of_draws() -> None:
    moment = Moment(3, 1, 4)
    whole = uniform(moment, HASHED, "a", 6)
    order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(0))
    assert torch.equal(uniform(moment, HASHED[order], "a", 6), whole[order])
    for rows in (slice(0, 1), slice(5, 12), slice(17, 34)):
        assert torch.equal(uniform(moment, HASHED[rows], "a", 6), whole[rows])
    assert torch.equal(uniform(moment, HASHED, "a", 3), whole[:, :3])
    assert torch.equal(uniform(moment, HASHED[::2], "a", 6), whole[::2])


def test_numbers_do_not_follow_the_default_type_or_autocast() -> None:
    expected = uniform(Moment(1), HASHED, "a", 2)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(uniform(Moment(1), HASHED, "a", 2), expected)
    finally:
        torch.set_default_dtype(before)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(uniform(Moment(1), HASHED, "a", 2), expected)
    assert expected.dtype == torch.float32
    assert float(expected.min()) >= 0
    assert float(expected.max()) < 1


def test_integers_cover_their_range_evenly() -> None:
    numbers = integers(Moment(5), SEQUENTIAL, "donor", 8, 10).flatten().numpy()
    assert numbers.min() == 0
    assert numbers.max() == 9
    assert stats.chisquare(np.bincount(numbers)).pvalue > LEAST


def families(draw: Draw) -> dict[str, list[npt.NDArray[np.float32]]]:
    """Numbers that must be independent of each other: one list per thing that varies."""
    moments = {
        "epochs": [Moment(0, epoch) for epoch in range(5)],
        "views": [Moment(0, 0, view) for view in range(5)],
        "seeds": [Moment(seed) for seed in range(5)],
        "mixed": [Moment(1), Moment(0, 1), Moment(0, 0, 1), Moment(1, 1), Moment(0, 1, 1)],
    }
    samples = {name: [draw(m, SEQUENTIAL, "geometry", 1)[:, 0].numpy() for m in some] for name, some in moments.items()}
    operations = ("geometry", "colour", "erase", "token drop", "number hit")
    samples["operations"] = [draw(Moment(0), SEQUENTIAL, name, 1)[:, 0].numpy() for name in operations]
    samples["draws"] = list(draw(Moment(0), SEQUENTIAL, "geometry", 5).T.numpy())
    samples["rows"] = [np.roll(samples["draws"][0], step) for step in range(5)]
    samples["hashed rows"] = list(draw(Moment(0), HASHED, "geometry", 5).T.numpy())
    samples["distant rows"] = [
        draw(Moment(0), SEQUENTIAL << step, "geometry", 1)[:, 0].numpy() for step in (0, 8, 32, 48)
    ]
    return samples


def verdicts(draw: Draw) -> list[str]:
    """Return what is wrong with a source of numbers."""
    wrong = []
    for name, streams in families(draw).items():
        for i, stream in enumerate(streams):
            if stats.kstest(stream, "uniform").pvalue < LEAST:
                wrong.append(f"{name} {i}: not uniform")
            for bits in (4, 12, 20):  # high and low bits alike
                digits = (stream.astype(np.float64) * 2**bits).astype(np.int64) % 16
                if stats.chisquare(np.bincount(digits, minlength=16)).pvalue < LEAST:
                    wrong.append(f"{name} {i}: bits above {bits} not uniform")
        for i, j in product(range(len(streams)), repeat=2):
            if i < j and (problem := dependence(streams[i], streams[j])):
                wrong.append(f"{name} {i}, {j}: {problem}")
    return wrong


def dependence(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> str:
    """Return how two streams depend on each other, or nothing."""
    if stats.pearsonr(a, b).pvalue < LEAST:
        return "correlated"
    table = np.histogram2d(a, b, bins=8, range=[[0, 1], [0, 1]])[0]
    if stats.chisquare(table.ravel()).pvalue < LEAST:
        return "not jointly uniform"
    if stats.kstest((a.astype(np.float64) - b) % 1, "uniform").pvalue < LEAST:
        return "their difference is not uniform"
    return ""


def test_numbers_are_uniform_and_independent() -> None:
    assert verdicts(uniform) == []


def linear(moment: Moment, keys: Tensor, operation: str, draws: int) -> Tensor:
    """A weak hash: a linear congruence of the sum of its words."""
    word = moment.seed + 31 * moment.epoch + 17 * moment.view + len(operation)
    state = (keys + word)[:, None] * 6364136223846793005 + torch.arange(draws) * 1442695040888963407
    return ((state >> 40) & (2**24 - 1)).float() * 2.0**-24


def without_last_mix(moment: Moment, keys: Tensor, operation: str, draws: int) -> Tensor:
    """A good hash of the row, to which the other words are merely added."""
    base = uniform(Moment(0), keys, "", draws)
    return (base + 0.37 * moment.seed + 0.21 * moment.epoch + 0.11 * moment.view + 0.3 * len(operation)) % 1


def same_for_all_views(moment: Moment, keys: Tensor, operation: str, draws: int) -> Tensor:
    return uniform(Moment(moment.seed, moment.epoch), keys, operation, draws)


def sum_of_seed_and_epoch(moment: Moment, keys: Tensor, operation: str, draws: int) -> Tensor:
    return uniform(Moment(moment.seed + moment.epoch, 0, moment.view), keys, operation, draws)


def skewed(moment: Moment, keys: Tensor, operation: str, draws: int) -> Tensor:
    return uniform(moment, keys, operation, draws) ** 1.15


@pytest.mark.parametrize("weak", [linear, without_last_mix, same_for_all_views, sum_of_seed_and_epoch, skewed])
def test_the_checks_reject_a_weak_source(weak: Draw) -> None:
    assert verdicts(weak)


Bits = Callable[[Moment, int], int]


def avalanche(bits: Bits) -> float:
    """Return how far from one half the share of changes is at most: of any output bit, for any input bit changed."""
    worst = 0.0
    changes: list[Callable[[int], tuple[Moment, int]]] = [
        lambda bit: (Moment(0), 1 << bit),
        lambda bit: (Moment(1 << bit), 0),
        lambda bit: (Moment(0, 1 << bit), 0),
        lambda bit: (Moment(0, 0, 1 << bit), 0),
    ]
    for change, bit in product(changes, range(0, 20, 3)):
        flips = np.zeros(24)
        for base in range(256):
            moment, key = change(bit)
            other = Moment(moment.seed ^ base, moment.epoch ^ base, moment.view ^ base)
            before, after = bits(Moment(base, base, base), 977 * base), bits(other, (977 * base) ^ key)
            flips += [(before ^ after) >> place & 1 for place in range(24)]
        worst = max(worst, float(np.abs(flips / 256 - 0.5).max()))
    return worst


def test_every_input_bit_flips_every_output_bit_half_of_the_time() -> None:
    def ours(moment: Moment, key: int) -> int:
        return reference(moment, key, "geometry", 1)[0] >> 40

    def weak(moment: Moment, key: int) -> int:
        word = moment.seed + 31 * moment.epoch + 17 * moment.view
        return ((key + word) * 6364136223846793005 + 1442695040888963407) % 2**64 >> 40

    # The standard deviation of a share of 256 is 0.031; the worst of 672 lies within five of them.
    assert avalanche(ours) < 0.16
    assert avalanche(weak) > 0.3


def test_numbers_of_several_operations_are_those_of_each() -> None:
    names = ["rotate", "erase?", "noise"]
    numbers = each_uniform(Moment(3, 1, 4), HASHED, names)
    for name in names:
        assert torch.equal(numbers[name], uniform(Moment(3, 1, 4), HASHED, name, 1)[:, 0])


def test_seeds_of_any_size_have_numbers_of_their_own() -> None:
    seeds = [0, 1, 2**31, 2**63 - 1, 2**63, 2**64 - 1]
    numbers = {tuple(uniform(Moment(seed), SEQUENTIAL[:4], "a", 1)[:, 0].tolist()) for seed in seeds}
    assert len(numbers) == len(seeds)


def test_names_of_operations_have_different_hashes() -> None:
    names = [*image_names(), *(f"{name}?" for name in image_names()), "choose", "noise field", "speckle field", "own"]
    assert len({crc32(name.encode()) for name in names}) == len(names)


def image_names() -> list[str]:
    return [axis for name in OPERATIONS for axis in AXES.get(name, (name,))] + ["crop_x", "crop_y"]


def test_normal_numbers_are_normal_and_independent() -> None:
    numbers = normal(Moment(3), SEQUENTIAL, "noise", 8).double().numpy()
    assert numbers.shape == (ROWS, 8)
    assert stats.kstest(numbers.ravel(), "norm").pvalue > LEAST
    assert 3.5 < np.abs(numbers).max() < 4.4
    for i, j in product(range(8), repeat=2):
        if i < j:
            assert not dependence(*(stats.norm.cdf(numbers[:, k]).astype(np.float32) for k in (i, j)))
    assert stats.kstest(normal(Moment(3, 1), SEQUENTIAL, "noise", 8).ravel().double(), "norm").pvalue > LEAST
    next_view = normal(Moment(3, 0, 1), SEQUENTIAL, "noise", 8).double().numpy()
    assert stats.pearsonr(numbers.ravel(), next_view.ravel()).pvalue > LEAST


def test_normal_numbers_are_a_pure_function() -> None:
    whole = normal(Moment(3), HASHED, "noise", 10)
    assert torch.equal(normal(Moment(3), HASHED[7:9], "noise", 10), whole[7:9])
    assert torch.equal(normal(Moment(3), HASHED, "noise", 5), whole[:, :5])
    assert normal(Moment(1, 2, 3), torch.tensor([5]), "noise", 3)[0].tolist() == pytest.approx(
        [0.9224230, 1.0591412, -1.2709383]
    )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gives_the_same_numbers() -> None:
    for draw in (uniform, normal):
        here, there = draw(Moment(3, 1, 2), HASHED, "a", 9), draw(Moment(3, 1, 2), HASHED.cuda(), "a", 9)
        assert torch.equal(here, there.cpu())
