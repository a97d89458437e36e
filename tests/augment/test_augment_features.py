"""Feature augmentation against its formula and its distributions."""

from __future__ import annotations

import torch
from scipy import stats

from fusetune.augment.features import FeatureAugment
from fusetune.augment.random import Moment
from fusetune.config import FeaturePolicy

ROWS, DIM = 3000, 5
KEYS = torch.arange(ROWS)
MEAN, STD = torch.tensor([0.0, 1, -2, 5, 10]), torch.tensor([1.0, 2, 0.5, 3, 0.1])


def augment(name: str = "image", **policy: float) -> FeatureAugment:
    return FeatureAugment(FeaturePolicy(**policy), name, MEAN, STD)


def test_noise_is_gaussian_in_deviations_of_the_feature() -> None:
    z = torch.zeros(ROWS, DIM)
    noise = augment(noise=0.4).draw(z, KEYS, Moment(0)) / (0.4 * STD)
    for feature in noise.T:
        assert stats.kstest(feature.numpy(), "norm").pvalue > 1e-4
    assert float((torch.corrcoef(noise.T) - torch.eye(DIM)).abs().max()) < 0.1


def test_scale_stretches_the_distance_to_the_mean_uniformly() -> None:
    z = (MEAN + 3 * STD).expand(ROWS, -1)
    noise = (augment(scale=0.5).draw(z, KEYS, Moment(0)) - MEAN) / (3 * STD)
    for feature in noise.T:
        assert stats.kstest(feature.numpy(), stats.uniform(0.5, 1.0).cdf).pvalue > 1e-4
    assert torch.equal(augment(scale=0.5).draw(MEAN.expand(ROWS, -1), KEYS, Moment(0)), MEAN.expand(ROWS, -1))


def test_nothing_happens_by_default_and_blocks_are_independent() -> None:
    z = torch.randn(ROWS, DIM, generator=torch.Generator().manual_seed(0))
    assert augment().draw(z, KEYS, Moment(0)) is z
    one, other = (augment(name, noise=1.0, scale=0.2).draw(z, KEYS, Moment(0)) for name in ("image", "text"))
    assert abs(float(torch.corrcoef(torch.stack([(one - z)[:, 0], (other - z)[:, 0]]))[0, 1])) < 0.08
    order = torch.tensor([5, 0, 77])
    assert torch.equal(augment("image", noise=1.0, scale=0.2).draw(z[order], KEYS[order], Moment(0)), one[order])
