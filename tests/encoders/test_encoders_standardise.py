"""Pixel statistics: one formula, whatever the memory format."""

from __future__ import annotations

import pytest
import torch

from fusetune.encoders.base import standardise

MEAN, STD = torch.tensor([0.5, 0.4, 0.3]).view(1, 3, 1, 1), torch.tensor([0.2, 0.3, 0.25]).view(1, 3, 1, 1)


@pytest.mark.parametrize("shape", [(2, 3, 5, 7), (1, 3, 1, 1), (3, 3, 8, 1)])
def test_channels_innermost_give_the_same_bits_in_the_same_format(shape: tuple[int, ...]) -> None:
    pixels = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    innermost = pixels.contiguous(memory_format=torch.channels_last)
    expected = (pixels - MEAN) / STD
    result = standardise(innermost, MEAN, STD)
    assert torch.equal(result, expected)
    assert torch.equal(standardise(pixels, MEAN, STD), expected)
    assert result.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(innermost, pixels)  # not changed in place
