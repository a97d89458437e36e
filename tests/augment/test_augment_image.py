"""Image augmentation against naive references, on coordinates, against Pillow, and bit for bit in any batch."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from scipy import stats
from torch import Tensor

from fusetune.augment.image import ImageAugment, adjust, erase, warp
from fusetune.augment.random import Moment, uniform
from fusetune.config import IMAGE_POLICIES, ImagePolicy

KEYS = torch.arange(1000, 3000) * 7919
FULL = ImagePolicy(
    rotate=30, scale=0.2, translate=0.1, crop=0.8, flip_horizontal=0.5, flip_vertical=0.5,
    brightness=0.2, contrast=0.3, erase=0.5,
)  # fmt: skip


def pictures(rows: int, side: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (rows, 3, side, side), dtype=torch.uint8, generator=generator)


def bilinear(image: npt.NDArray[np.float64], matrix: npt.NDArray[np.float64], size: int) -> npt.NDArray[np.float64]:
    """Sample one picture [channels, side, side] pixel by pixel, as the documentation of `warp` says."""
    side = image.shape[-1]
    result = np.zeros((image.shape[0], size, size))
    for row in range(size):
        for column in range(size):
            out = np.array([column - (size - 1) / 2, row - (size - 1) / 2, 1.0])
            x, y = matrix @ out + (side - 1) / 2
            x, y = np.clip(x, 0, side - 1), np.clip(y, 0, side - 1)
            left, top = min(int(x), side - 2), min(int(y), side - 2)
            fx, fy = x - left, y - top
            result[:, row, column] = (
                image[:, top, left] * (1 - fx) * (1 - fy)
                + image[:, top, left + 1] * fx * (1 - fy)
                + image[:, top + 1, left] * (1 - fx) * fy
                + image[:, top + 1, left + 1] * fx * fy
            )
    return result


@pytest.mark.parametrize(("side", "size"), [(12, 12), (12, 9), (7, 15), (8, 8)])
def test_warp_equals_naive_bilinear_sampling(side: int, size: int) -> None:
    images = pictures(6, side).float() / 255
    matrices = ImageAugment(FULL, size).matrices(KEYS[:6], Moment(1), side)
    matrices[5] = torch.tensor([[1.5, 0.2, 4.0], [-0.3, 0.8, -5.0]])
    found = warp(images, matrices, size).double().numpy()
    for i in range(6):
        expected = bilinear(images[i].double().numpy(), matrices[i].double().numpy(), size)
        assert np.abs(found[i] - expected).max() <= 1e-5


@pytest.mark.parametrize("side", [2, 9, 16, 161])
def test_the_identity_returns_the_picture(side: int) -> None:
    images = pictures(2, side).float() / 255
    identity = torch.tensor([[1.0, 0, 0], [0, 1, 0]]).expand(2, 2, 3)
    drawn = ImageAugment(ImagePolicy(), side).draw(pictures(2, side), KEYS[:2], Moment(0))
    # Coordinates are float32, so their rounding grows with the side.
    for found in (warp(images, identity, side), drawn):
        assert (found - images).abs().max() <= max(1e-6, 2e-7 * side)


def test_flips_and_quarter_turns_are_exact_permutations() -> None:
    images = pictures(1, 10).float() / 255

    def turned(a: float, b: float, c: float, d: float) -> Tensor:
        return warp(images, torch.tensor([[[a, b, 0.0], [c, d, 0.0]]]), 10)

    assert (turned(-1, 0, 0, 1) - images.flip(3)).abs().max() <= 1e-5
    assert (turned(1, 0, 0, -1) - images.flip(2)).abs().max() <= 1e-5
    assert (turned(0, 1, 1, 0) - images.transpose(2, 3)).abs().max() <= 1e-5
    assert (turned(0, 1, -1, 0) - torch.rot90(images, -1, (2, 3))).abs().max() <= 1e-5


def test_the_matrix_is_flip_then_zoomed_crop_then_offset_then_rotation() -> None:
    size, side = 40, 50
    u = uniform(Moment(4), KEYS, "geometry", 8).double().numpy()
    found = ImageAugment(FULL, size).matrices(KEYS, Moment(4), side).double().numpy()
    for row in range(20):
        angle = math.radians(30) * (2 * u[row, 0] - 1)
        zoom = 1.2 ** (2 * u[row, 1] - 1)
        offset = side * (0.2 / 2 + 0.1) * (2 * u[row, 2:4] - 1)
        flip = np.diag([-1.0 if u[row, 4] < 0.5 else 1.0, -1.0 if u[row, 5] < 0.5 else 1.0])
        turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        for point in np.array([[0, 0], [size / 2, -3], [-7, size / 2]], dtype=float):
            expected = turn @ (flip @ point * (0.8 * side / size / zoom) + offset)
            assert np.abs(found[row, :, :2] @ point + found[row, :, 2] - expected).max() < 1e-4


def test_what_happens_to_pictures_is_inside_the_picture_for_crops_alone() -> None:
    crop = ImageAugment(ImagePolicy(crop=0.75), 30)
    matrices = crop.matrices(KEYS, Moment(0), 40)
    corner = torch.tensor([[-15.0, 15.0], [-15.0, 15.0]])
    ends = matrices[:, :, :2] @ corner + matrices[:, :, 2:]
    assert float(ends.abs().max()) <= 20 + 1e-4  # never beyond the edge
    assert float(ends.abs().max()) >= 19.9  # but up to it


def test_the_paper_preset_draws_what_it_says() -> None:
    policy = IMAGE_POLICIES["paper"]
    matrices = ImageAugment(policy, 224).matrices(KEYS, Moment(2), 244).double().numpy()
    # One output pixel is one input pixel: a crop of 224 out of 244, not a resize.
    assert np.abs(np.abs(np.linalg.det(matrices[:, :, :2])) - 1).max() < 1e-5
    flipped = np.linalg.det(matrices[:, :, :2]) < 0
    u = uniform(Moment(2), KEYS, "geometry", 8).numpy()
    both = (u[:, 4] < 0.5) != (u[:, 5] < 0.5)
    assert np.array_equal(flipped, both)
    for draw in (4, 5):
        assert stats.binomtest(int((u[:, draw] < 0.5).sum()), len(KEYS), 0.5).pvalue > 1e-4
    flip_x = np.where(u[:, 4] < 0.5, -1, 1)
    angle = np.degrees(np.arctan2(matrices[:, 1, 0] * flip_x, matrices[:, 0, 0] * flip_x))
    assert np.abs(angle).max() <= 15
    assert stats.kstest((angle + 15) / 30, "uniform").pvalue > 1e-4
    radians = np.radians(angle)
    cos, sin = np.cos(radians), np.sin(radians)
    x = cos * matrices[:, 0, 2] + sin * matrices[:, 1, 2]
    y = -sin * matrices[:, 0, 2] + cos * matrices[:, 1, 2]
    for shift in (x, y):
        assert np.abs(shift).max() <= 10 + 1e-4
        assert stats.kstest((shift + 10) / 20, "uniform").pvalue > 1e-4


def smooth(side: int) -> npt.NDArray[np.uint8]:
    at = np.arange(side) / side
    waves = [128 + 100 * np.sin(2 * np.pi * (a * at[:, None] + b * at)) for a, b in ((1, 2), (2, -1), (1, 1))]
    return np.stack(waves, 2).round().astype(np.uint8)


def test_the_paper_preset_looks_like_rotate_crop_flip_of_pillow() -> None:
    picture = smooth(244)
    images = torch.from_numpy(picture).permute(2, 0, 1)[None].expand(8, -1, -1, -1)
    keys = KEYS[:8]
    found = ImageAugment(IMAGE_POLICIES["paper"], 224).draw(images, keys, Moment(3)).double().numpy() * 255
    u = uniform(Moment(3), keys, "geometry", 8).double().numpy()
    for row in range(8):
        # Pillow turns counter-clockwise; image rows point downwards.
        turned = Image.fromarray(picture).rotate(15 * (2 * u[row, 0] - 1), Image.Resampling.BILINEAR)
        left, top = 10 + 10 * (2 * u[row, 2] - 1), 10 + 10 * (2 * u[row, 3] - 1)
        box = (left, top, left + 224, top + 224)
        cut = np.asarray(turned.resize((224, 224), Image.Resampling.BILINEAR, box=box), dtype=np.float64)
        cut = cut[:, ::-1] if u[row, 4] < 0.5 else cut
        cut = cut[::-1] if u[row, 5] < 0.5 else cut
        # Pillow resamples and rounds twice, fills corners with black and so differs there: the middle is compared.
        # A wave of amplitude 100 loses at most 100 (pi * 3 / 244)^2 / 2 = .08 to each bilinear step, plus rounding.
        middle = (slice(40, 184), slice(40, 184))
        assert np.abs(found[row].transpose(1, 2, 0)[middle] - cut[middle]).max() < 2.5


def test_plain_is_an_antialiased_resize() -> None:
    images = pictures(3, 40)
    found = ImageAugment(FULL, 16).plain(images)
    for i in range(3):
        picture = Image.fromarray(images[i].permute(1, 2, 0).numpy())
        expected = np.asarray(picture.resize((16, 16), Image.Resampling.BILINEAR), dtype=np.float64) / 255
        assert np.abs(found[i].permute(1, 2, 0).numpy() - expected).max() <= 1.5 / 255
    assert torch.equal(ImageAugment(FULL, 40).plain(images), images.float() / 255)


def test_adjust_is_its_formula() -> None:
    images = pictures(4, 9).float() / 255
    shift, factor = torch.tensor([0.0, 0.3, -0.3, 0.1]), torch.tensor([1.0, 0.7, 1.3, 1.0])
    found = adjust(images, shift, factor).double().numpy()
    for i in range(4):
        x = images[i].double().numpy()
        expected = np.clip((x - x.mean()) * float(factor[i]) + x.mean() + float(shift[i]), 0, 1)
        assert np.abs(found[i] - expected).max() < 1e-6


@pytest.mark.parametrize("area", [0.01, 0.2, 0.8])
def test_erased_rectangles_have_the_stated_area_and_aspect(area: int) -> None:
    side = 64
    u = uniform(Moment(0), KEYS[:600], "erase", 5)
    found = erase(torch.zeros(600, 1, side, side), u, 0.4, area)[:, 0] == 0.5
    hit = u[:, 0] < 0.4
    sizes = found.sum((1, 2)) / side**2
    assert not found[~hit].any()
    # A side is off by at most one pixel.
    assert float(sizes.max()) <= (math.sqrt(area * 2) + 1 / side) * (math.sqrt(area / 2) + 1 / side)
    if area > 0.1:
        assert bool(found[hit].any(2).any(1).all())
        assert float(sizes[hit].max()) > 0.8 * area
        assert stats.kstest(u[hit, 1].numpy(), "uniform").pvalue > 1e-4
        width, height = found[hit].any(1).sum(1).double(), found[hit].any(2).sum(1).double()
        big = (width > 12) & (height > 12) & (width < side) & (height < side)
        ratio = (width / height)[big]
        assert float(ratio.max()) <= 2 * 1.2
        assert float(ratio.min()) >= 0.5 / 1.2
        assert float(ratio.max()) > 1.5
        assert float(ratio.min()) < 0.67


def test_results_stay_within_zero_and_one() -> None:
    images = torch.cat([pictures(30, 20), torch.zeros(2, 3, 20, 20).byte(), torch.full((2, 3, 20, 20), 255).byte()])
    for policy in (*IMAGE_POLICIES.values(), FULL):
        found = ImageAugment(policy, 17).draw(images, KEYS[: len(images)], Moment(9))
        assert found.dtype == torch.float32
        assert float(found.min()) >= 0
        assert float(found.max()) <= 1 + 1e-6


@pytest.fixture(params=[1, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize(("side", "size"), [(20, 17), (120, 112)])
def test_a_view_does_not_depend_on_its_batch(side: int, size: int, threads: int) -> None:
    augment, moment = ImageAugment(FULL, size), Moment(5, 2, 1)
    images, keys = pictures(19, side), KEYS[:19]
    whole = augment.draw(images, keys, moment)
    shown = augment.plain(images)
    for rows in ([0], [7], [18], [3, 4], [0, 1, 2], [18, 0, 9], list(range(8)), list(range(1, 18))):
        assert torch.equal(augment.draw(images[rows], keys[rows], moment), whole[rows])
        assert torch.equal(augment.plain(images[rows]), shown[rows])
    # The last axis lies innermost when images are decoded, the first when they come from elsewhere.
    lying = images.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    assert torch.equal(augment.draw(lying, keys, moment), whole)


def test_threads_do_not_change_a_view(threads: int) -> None:
    found = ImageAugment(FULL, 112).draw(pictures(2, 120), KEYS[:2], Moment(5))
    torch.set_num_threads(2)
    assert torch.equal(ImageAugment(FULL, 112).draw(pictures(2, 120), KEYS[:2], Moment(5)), found)


def test_half_precision_of_the_encoder_does_not_reach_the_coordinates() -> None:
    images = pictures(3, 60)
    expected = ImageAugment(FULL, 50).draw(images, KEYS[:3], Moment(5))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = ImageAugment(FULL, 50).draw(images, KEYS[:3], Moment(5))
        plain = ImageAugment(FULL, 50).plain(images)
    assert torch.equal(found, expected)
    assert torch.equal(plain, ImageAugment(FULL, 50).plain(images))


def test_views_differ_between_moments_and_rows() -> None:
    images, keys = pictures(1, 24).expand(3, -1, -1, -1), KEYS[:3]
    views = [
        ImageAugment(FULL, 24).draw(images, keys, m) for m in (Moment(0), Moment(1), Moment(0, 1), Moment(0, 0, 1))
    ]
    flat = torch.cat(views).flatten(1)
    distance = torch.cdist(flat, flat) + torch.eye(len(flat)) * 9
    assert float(distance.min()) > 1


def test_a_view_is_what_it_always_was() -> None:
    images = torch.arange(2 * 3 * 8 * 8).remainder(251).byte().view(2, 3, 8, 8)
    found = ImageAugment(FULL, 6).draw(images, torch.tensor([1, 2]), Moment(1, 2, 3))
    assert found[:, 0, 2, 2].tolist() == pytest.approx([0.239636, 0.692510], abs=1e-5)
    assert found.mean((1, 2, 3)).tolist() == pytest.approx([0.501107, 0.296977], abs=1e-5)


def test_the_description_names_everything_that_matters() -> None:
    base = ImageAugment(FULL, 20).describe()
    assert ImageAugment(FULL, 21).describe() != base
    for name, value in FULL.model_dump().items():
        changed = FULL.model_copy(update={name: value / 2 + 0.01})
        assert ImageAugment(changed, 20).describe() != base
