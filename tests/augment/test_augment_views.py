"""Views one after the other, whether the augmentation can draw them at once or not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from fusetune.augment.cell_noise import CellAugment, VectorAugment
from fusetune.augment.image import ImageAugment
from fusetune.augment.random import Moment
from fusetune.augment.token_noise import TextAugment
from fusetune.config import ColumnPolicy, ImagePolicy, TextPolicy

MOMENTS = [Moment(3, 1, view) for view in range(3)]
KEYS = torch.tensor([5, -7, 2**50])


def pixels() -> Tensor:
    return torch.randint(0, 256, (3, 3, 20, 20), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def cells() -> dict[str, Tensor]:
    return {
        "numbers": torch.randn(3, 2, generator=torch.Generator().manual_seed(1)),
        "missing": torch.zeros(3, 2, dtype=torch.bool),
        "codes": torch.tensor([[1], [2], [3]]),
    }


@pytest.mark.parametrize(
    ("augment", "inputs"),
    [
        (ImageAugment(ImagePolicy(rotate=20, scale=0.2, flip_horizontal=0.5), 16), pixels()),
        (CellAugment(ColumnPolicy(corrupt=0.5, jitter=0.1), cells()), cells()),
        (VectorAugment(ColumnPolicy(corrupt=0.5, jitter=0.1), torch.ones(4, 6)), torch.zeros(3, 6)),
    ],
)
def test_views_are_those_of_single_draws_one_after_the_other(augment: Any, inputs: Any) -> None:
    views = augment.draw_views(inputs, KEYS, MOMENTS)
    for view, moment in enumerate(MOMENTS):
        alone = augment.draw(inputs, KEYS, moment)
        parts = alone.items() if isinstance(alone, dict) else [(None, alone)]
        for name, part in parts:
            whole = views if name is None else views[name]
            assert len(whole) == 9
            torch.testing.assert_close(whole[3 * view : 3 * view + 3], part, rtol=0, atol=1e-6)
    one = augment.draw_views(inputs, KEYS, MOMENTS[1:2])
    assert len(one["codes"] if isinstance(one, dict) else one) == 3


@pytest.mark.parametrize(
    ("augment", "varies"),
    [
        (ImageAugment(ImagePolicy(), 16), False),
        (ImageAugment(ImagePolicy(erase_area=0.5, border="reflect"), 16), False),
        (ImageAugment(ImagePolicy(crop=0.9), 16), True),
        (ImageAugment(ImagePolicy(noise=0.1), 16), True),
        (TextAugment(TextPolicy(drop=0), (), 0), False),
        (TextAugment(TextPolicy(drop=0, swap=0.1), (), 0), True),
        (CellAugment(ColumnPolicy(corrupt=0), cells()), False),
        (CellAugment(ColumnPolicy(corrupt=0, missing=0.1), cells()), True),
        (VectorAugment(ColumnPolicy(corrupt=0), torch.ones(4, 6)), False),
        (VectorAugment(ColumnPolicy(corrupt=0, jitter=0.1), torch.ones(4, 6)), True),
    ],
)
def test_it_is_known_whether_views_can_differ(augment: Any, varies: bool) -> None:
    assert augment.varies is varies
