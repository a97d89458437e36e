"""The moving average: the recursion written out, buffers included, and a model that gets its own weights back."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from fusetune.train.average import Average


def make_model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def step(model: nn.Sequential, seed: int) -> None:
    """Move the weights, and the statistics of the normalisation with them."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        model(torch.randn(8, 3, generator=generator))
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


def averaged(average: Average) -> dict[str, Any]:
    with average.applied():
        return copy.deepcopy(average.model.state_dict())


@pytest.mark.parametrize("decay", [0.0, 0.15, 0.9])
def test_it_is_the_recursion_for_parameters_and_buffers(decay: float) -> None:
    model = make_model()
    average, expected = Average(model, decay), copy.deepcopy(model.state_dict())
    for done in range(6):
        step(model, done)
        average.update()
        past = min(decay, (1 + done) / (10 + done))
        for name, value in model.state_dict().items():
            expected[name] = past * expected[name] + (1 - past) * value if value.is_floating_point() else value.clone()
    assert int(expected["1.num_batches_tracked"]) == 6
    for name, value in averaged(average).items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-6 if value.is_floating_point() else 0)


def test_the_model_gets_its_own_weights_back_whatever_happens() -> None:
    model = make_model()
    average = Average(model, 0.9)
    step(model, 0)
    step(model, 1)
    average.update()
    own = copy.deepcopy(model.state_dict())
    with pytest.raises(RuntimeError), average.applied():
        assert not torch.equal(model[0].weight, own["0.weight"])
        raise RuntimeError
    assert all(torch.equal(value, own[name]) for name, value in model.state_dict().items())


def test_a_restored_average_goes_on_to_the_bit() -> None:
    model = make_model()
    average = Average(model, 0.9)
    for seed in range(3):
        step(model, seed)
        average.update()
    again = Average(copy.deepcopy(model), 0.9)
    again.restore(**copy.deepcopy(average.state()))
    for one in (average, again):
        step(one.model, 3)
        one.update()
    expected = averaged(average)
    assert all(torch.equal(value, expected[name]) for name, value in averaged(again).items())
