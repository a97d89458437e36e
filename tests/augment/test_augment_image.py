"""Image augmentation against a naive float64 version, against Pillow, and bit for bit in any batch."""

from __future__ import annotations

import math
from collections.abc import Iterator

import naive
import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps
from scipy import stats
from torch import Tensor

from fusetune.augment import simd
from fusetune.augment.draws import NEUTRAL, image_draws
from fusetune.augment.effects import equalize, posterize, sharpen, solarize, stretch
from fusetune.augment.geometry import compose, shrink, smoothing
from fusetune.augment.image import ImageAugment
from fusetune.augment.random import Moment, normal
from fusetune.augment.warp import convolve, warp
from fusetune.config import IMAGE_POLICIES, ImagePolicy

KEYS = torch.arange(1000, 3000) * 7919
# Everything but the operations that cut values into steps, where one rounding more can change a whole step.
FULL = ImagePolicy(
    rotate=30, scale=0.3, translate=0.1, shear=0.2, crop=0.8, flip_horizontal=0.5, flip_vertical=0.5, brightness=0.2,
    contrast=0.3, saturation=0.8, gamma=0.5, blur=1.5, sharpness=0.8, speckle=0.2, noise=0.1, erase=0.5,
)  # fmt: skip
STEPS = ImagePolicy(effects=0.8, posterize=2, solarize=0.2, autocontrast=True, equalize=True)


def pictures(rows: int, side: int, seed: int = 0) -> Tensor:
    """White noise, on which every wrong position or weight shows; channels innermost, as images are decoded."""
    generator = torch.Generator().manual_seed(seed)
    shape = (rows, side, side, 3)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator).permute(0, 3, 1, 2)


def expected_view(image: Tensor, augment: ImageAugment, row: int, moment: Moment) -> npt.NDArray[np.float64]:
    key = KEYS[row : row + 1]
    draws = {name: float(values[0]) for name, values in augment.parameters(key, moment).items()}
    size = augment.size
    fields = [normal(moment, key, f"{kind} field", size * size).view(size, size) for kind in ("speckle", "noise")]
    speckle, noise = (field.double().numpy() for field in fields)
    return naive.view(image.double().numpy() / 255, draws, augment.policy, size, speckle, noise)


@pytest.mark.parametrize("border", ["edge", "constant", "reflect"])
@pytest.mark.parametrize(("side", "size"), [(16, 15), (26, 13), (9, 14)])
def test_views_equal_the_naive_version(side: int, size: int, border: str) -> None:
    augment = ImageAugment(FULL.model_copy(update={"border": border, "fill": 90}), size)
    images, moment = pictures(6, side), Moment(3, 1)
    from_bytes = augment.draw(images, KEYS[:6], moment).double().numpy()
    from_floats = augment.draw(images.float() / 255, KEYS[:6], moment).double().numpy()
    for row in range(6):
        expected = expected_view(images[row], augment, row, moment)
        assert np.abs(from_floats[row] - expected).max() <= 1e-5
        # What uint8 pictures are allowed is 1/255; computed in float32 they are far better.
        assert np.abs(from_bytes[row] - expected).max() <= 0.05 / 255


def test_what_is_needed_by_few_is_seen_by_the_naive_comparison() -> None:
    draws = image_draws(FULL, KEYS[:6], Moment(3, 1))
    for name, neutral in NEUTRAL.items():
        if name not in ("posterize", "solarize", "autocontrast", "equalize"):
            assert bool((draws[name] != neutral).any()), name


@pytest.mark.parametrize("border", ["edge", "constant", "reflect"])
def test_tensor_operations_and_opencv_agree_at_full_size(border: str) -> None:
    policy = FULL.model_copy(update={"border": border, "fill": 200})
    images = pictures(4, 256)
    augment = ImageAugment(policy, 224)
    assert simd.exact()
    fast = augment.draw(images, KEYS[:4], Moment(0))
    slow = augment.draw(images.double() / 255, KEYS[:4], Moment(0))
    assert (fast - slow).abs().max() <= 0.05 / 255


def test_without_an_exact_library_tensor_operations_take_over(monkeypatch: pytest.MonkeyPatch) -> None:
    augment, images = ImageAugment(IMAGE_POLICIES["medium"], 20), pictures(3, 24)
    fast = augment.draw(images, KEYS[:3], Moment(0))
    monkeypatch.setattr(simd, "exact", lambda: False)
    monkeypatch.setattr(simd, "paint", None)
    slow = augment.draw(images, KEYS[:3], Moment(0))
    assert (fast - slow).abs().max() <= 1e-5


@pytest.mark.parametrize("side", [2, 9, 16, 161])
def test_the_identity_returns_the_picture(side: int) -> None:
    images = pictures(2, side)
    plain = ImageAugment(ImagePolicy(), side)
    assert (warp(images.float() / 255, torch.eye(3).expand(2, 3, 3), side) - images / 255).abs().max() <= 2e-7 * side
    assert (plain.draw(images, KEYS[:2], Moment(0)) - images / 255).abs().max() <= 1e-6
    assert torch.equal(plain.plain(images), images.float() / 255)


def test_flips_and_quarter_turns_are_exact_permutations() -> None:
    images = pictures(1, 10).double() / 255

    def turned(a: float, b: float, c: float, d: float) -> Tensor:
        return warp(images, torch.tensor([[[a, b, 0.0], [c, d, 0.0]]]), 10)

    assert (turned(-1, 0, 0, 1) - images.flip(3)).abs().max() <= 1e-9
    assert (turned(1, 0, 0, -1) - images.flip(2)).abs().max() <= 1e-9
    assert (turned(0, 1, -1, 0) - torch.rot90(images, -1, (2, 3))).abs().max() <= 1e-9


def test_what_happens_to_pictures_is_inside_the_picture_for_crops_alone() -> None:
    crop = ImageAugment(ImagePolicy(crop=0.75), 30)
    matrices = compose(crop.parameters(KEYS, Moment(0)), 0.75, 40, 30)
    corner = torch.tensor([[-15.0, 15.0], [-15.0, 15.0]], dtype=torch.float64)
    ends = matrices[:, :2, :2] @ corner + matrices[:, :2, 2:]
    assert float(ends.abs().max()) <= 20 + 1e-9  # never beyond the edge
    assert float(ends.abs().max()) >= 19.9  # but up to it


@pytest.mark.parametrize("factor", [2, 3, 5])
def test_making_smaller_by_a_whole_factor_is_pillows_antialiased_resize(factor: int) -> None:
    side = 30 * factor
    images = pictures(1, side)
    pixels = ImageAugment(ImagePolicy(), 30).draw(images, KEYS[:1], Moment(0))[0].permute(1, 2, 0).numpy() * 255
    picture = Image.fromarray(images[0].permute(1, 2, 0).numpy())
    expected = np.asarray(picture.resize((30, 30), Image.Resampling.BILINEAR), dtype=np.float64)
    # At the frame Pillow leaves out what lies outside; here the edge is repeated.
    assert np.abs(pixels - expected)[2:-2, 2:-2].max() <= 1.01


@pytest.mark.parametrize(("factor", "left"), [(1.1, 0.72), (1.264, 0.62), (1.5, 0.37), (1.8, 0.18), (2.3, 0.08)])
def test_making_smaller_by_any_factor_is_near_pillows_antialiased_resize(factor: float, left: float) -> None:
    side = round(60 * factor)
    images = pictures(1, side)
    pixels = ImageAugment(ImagePolicy(), 60).draw(images, KEYS[:1], Moment(0))[0].permute(1, 2, 0).numpy() * 255
    picture = Image.fromarray(images[0].permute(1, 2, 0).numpy())
    expected = np.asarray(picture.resize((60, 60), Image.Resampling.BILINEAR), dtype=np.float64)
    unfiltered = warp(images.double(), torch.eye(3)[None] * (side / 60), 60)[0].permute(1, 2, 0).numpy()
    inner = (slice(2, -2), slice(2, -2))
    # White noise is the hardest picture there is.
    error, without = (float(np.square(it - expected)[inner].mean()) ** 0.5 for it in (pixels, unfiltered))
    assert error <= left * without


def test_smoothing_has_the_variance_of_the_triangle_that_it_stands_for() -> None:
    factors = torch.tensor([1.0, 1.3, 1.99, 2.0, 2.5, 4.7])
    weights = smoothing(factors)
    place = torch.arange(weights.shape[1]) - weights.shape[1] // 2
    assert torch.allclose(weights.sum(1), torch.ones(6).double())
    assert torch.allclose((weights * place**2).sum(1), (factors.double() ** 2 - 1) / 6, atol=1e-6)


def test_shrinking_is_measured_along_the_pictures_axes() -> None:
    stretched = torch.tensor([[[3.0, 0, 0], [0, 0.5, 0], [0, 0, 1]], [[0.6, -0.8, 9], [0.8, 0.6, 9], [0, 0, 1]]])
    assert torch.allclose(shrink(stretched), torch.tensor([[3.0, 0.5], [1.0, 1.0]]))


def test_filters_of_plain_tensors_equal_the_naive_ones() -> None:
    images = pictures(3, 11).double()
    factors = torch.tensor([1.0, 1.4, 3.2])
    smooth = convolve(images, smoothing(factors), smoothing(factors.flip(0))).numpy()
    for row in range(3):
        across, down = naive.weights(float(factors[row])), naive.weights(float(factors[2 - row]))
        assert np.abs(smooth[row] - naive.smoothed(images[row].numpy(), across, down)).max() < 1e-9


def smooth(side: int) -> npt.NDArray[np.uint8]:
    at = np.arange(side) / side
    waves = [128 + 100 * np.sin(2 * np.pi * (a * at[:, None] + b * at)) for a, b in ((1, 2), (2, -1), (1, 1))]
    return np.stack(waves, 2).round().astype(np.uint8)


def test_the_paper_preset_looks_like_resize_rotate_crop_flip_of_pillow() -> None:
    original = Image.fromarray(smooth(300))
    picture = original.resize((244, 244), Image.Resampling.BILINEAR)
    images = torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1)[None].expand(8, -1, -1, -1)
    augment = ImageAugment(IMAGE_POLICIES["paper"], 224)
    views = augment.draw(images, KEYS[:8], Moment(3)).double().numpy() * 255
    covered = augment.draw(torch.full((8, 3, 244, 244), 255, dtype=torch.uint8), KEYS[:8], Moment(3))[:, 0].numpy()
    draws = augment.parameters(KEYS[:8], Moment(3))
    for row in range(8):
        # Pillow turns counter-clockwise; image rows point downwards.
        turned = picture.rotate(float(draws["angle"][row]), Image.Resampling.BILINEAR)
        left, top = (10 + 244 * float(draws[f"crop_{axis}"][row]) for axis in "xy")
        box = (left, top, left + 224, top + 224)
        cut = np.asarray(turned.resize((224, 224), Image.Resampling.BILINEAR, box=box), dtype=np.float64)
        cut = cut[:, ::-1] if draws["flip_x"][row] else cut
        cut = cut[::-1] if draws["flip_y"][row] else cut
        error = np.abs(views[row].transpose(1, 2, 0) - cut).max(2)
        # A wave of amplitude 100 loses at most 100 (pi * 3 / 244)^2 / 2 = .08 to each bilinear step; Pillow takes one
        # more, cuts off where it should round when it turns, and then rounds: 2.5 of 255 in all. Two pixels wide, where
        # the black corners begin, both blend the picture with black, in different ways.
        middle, corner = away_from_frame(covered[row] > 0.999), away_from_frame(covered[row] < 0.001)
        assert error[middle].max() <= 2.5
        assert error[corner].max(initial=0) <= 0.01
        assert (~middle & ~corner).mean() < 0.06


def away_from_frame(inside: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    near = dict.fromkeys(range(-2, 3), 0.2)
    # What lies just beyond the picture's edge counts as well, and is not known.
    return naive.smoothed(np.pad(inside, 2)[None].astype(float), near, near)[0, 2:-2, 2:-2] > 0.999


def test_the_paper_preset_draws_what_it_says() -> None:
    policy = IMAGE_POLICIES["paper"]
    draws = image_draws(policy, KEYS, Moment(2))
    # One output pixel is one input pixel: a crop of 224 out of 244, not a resize.
    assert np.abs(np.abs(np.linalg.det(compose(draws, policy.crop, 244, 224))) - 1).max() < 1e-9
    for name in ("flip_x", "flip_y"):
        assert stats.binomtest(int(draws[name].sum()), len(KEYS), 0.5).pvalue > 1e-4
    assert stats.kstest((draws["angle"] + 15) / 30, "uniform").pvalue > 1e-4
    for name in ("crop_x", "crop_y"):
        assert stats.kstest((244 * draws[name] + 10) / 20, "uniform").pvalue > 1e-4


def test_strengths_fill_their_ranges() -> None:
    draws = image_draws(FULL.model_copy(update={"effects": 1.0}), KEYS, Moment(1))
    ranges = {
        "angle": (-30, 30), "shift_x": (-0.1, 0.1), "shear_y": (-0.2, 0.2), "brightness": (-0.2, 0.2),
        "contrast": (0.7, 1.3), "saturation": (0.2, 1.8), "blur": (0, 1.5), "sharpness": (0.2, 1.8),
        "speckle": (0, 0.2), "noise": (0, 0.1),
    }  # fmt: skip
    for name, (low, high) in ranges.items():
        assert stats.kstest((draws[name] - low) / (high - low), "uniform").pvalue > 1e-4, name
    for name, most in (("zoom", 1.3), ("gamma", 1.5)):
        assert stats.kstest(draws[name].log() / math.log(most) / 2 + 0.5, "uniform").pvalue > 1e-4


def test_one_operation_per_picture() -> None:
    policy = IMAGE_POLICIES["trivial"]
    draws = image_draws(policy, KEYS, Moment(1))
    happened = torch.stack([draws[name] != NEUTRAL[name] for name in NEUTRAL]).sum(0)
    assert int(happened.max()) == 1
    assert len(policy.operations) == 13
    counts = [int((draws[name] != NEUTRAL[name]).sum()) for name in ("angle", "shear_x", "shift_y", "saturation")]
    for count in counts:
        assert stats.binomtest(count, len(KEYS), 1 / 14).pvalue > 1e-4
    # Posterising keeps all eight bits in one case of seven, so that operation sometimes does nothing.
    assert stats.binomtest(int((happened == 0).sum()), len(KEYS), (1 + 1 / 7) / 14).pvalue > 1e-4


def test_effects_happen_as_often_as_the_policy_says() -> None:
    draws = image_draws(FULL.model_copy(update={"effects": 0.3}), KEYS, Moment(1))
    for name in ("gamma", "blur", "noise"):
        assert stats.binomtest(int((draws[name] != NEUTRAL[name]).sum()), len(KEYS), 0.3).pvalue > 1e-4


def test_an_operation_more_leaves_the_others_as_they_were() -> None:
    before = image_draws(ImagePolicy(rotate=10, contrast=0.1), KEYS, Moment(1))
    after = image_draws(ImagePolicy(rotate=10, contrast=0.1, shear=0.2, erase=0.5), KEYS, Moment(1))
    assert torch.equal(before["angle"], after["angle"])
    assert torch.equal(before["contrast"], after["contrast"])


def test_tone_operations_are_pillows() -> None:
    images = torch.cat([pictures(3, 33), (pictures(1, 33, 5).float() * 0.3 + 60).byte()])
    floats = images.float() / 255
    ones = torch.ones(4)
    for row in range(4):
        picture = Image.fromarray(images[row].permute(1, 2, 0).numpy())
        cases = [
            (posterize(floats, 3 * ones), ImageOps.posterize(picture, 3), 0.0),
            (solarize(floats, 100 / 255 * ones), ImageOps.solarize(picture, 100), 0.0),
            (equalize(floats, ones), ImageOps.equalize(picture), 0.0),
            (stretch(floats, ones), ImageOps.autocontrast(picture), 1.0),
            (sharpen(floats, 1.7 * ones), ImageEnhance.Sharpness(picture).enhance(1.7), 1.5),
        ]
        for changed, expected, most in cases:
            error = (changed[row] * 255).permute(1, 2, 0).numpy() - np.asarray(expected, dtype=np.float64)
            assert np.abs(error).max() <= most + 1e-3


def test_flat_pictures_survive_every_operation() -> None:
    for value in (0, 128, 255):
        images = torch.full((40, 3, 18, 18), value, dtype=torch.uint8)
        for policy in (*IMAGE_POLICIES.values(), FULL, STEPS):
            views = ImageAugment(policy, 17).draw(images, KEYS[:40], Moment(9))
            assert bool(views.isfinite().all())
            assert float(views.min()) >= -1e-6
            assert float(views.max()) <= 1 + 1e-6


def test_noise_keeps_grey_pictures_grey() -> None:
    grey = pictures(5, 20)[:, :1].expand(-1, 3, -1, -1)
    views = ImageAugment(IMAGE_POLICIES["ultrasound"], 20).draw(grey, KEYS[:5], Moment(0))
    assert (views - views[:, :1]).abs().max() < 1e-6


@pytest.mark.parametrize("area", [0.01, 0.2, 0.8])
def test_erased_rectangles_have_the_stated_area_and_aspect(area: float) -> None:
    draws = image_draws(ImagePolicy(erase=0.4, erase_area=area), KEYS, Moment(0))
    width, height = draws["erase_width"], draws["erase_height"]
    hit = width > 0
    assert stats.binomtest(int(hit.sum()), len(KEYS), 0.4).pvalue > 1e-4
    whole = hit & (width < 1) & (height < 1)
    shares = (width * height)[whole]
    least = min(0.02, area)
    assert float(shares.min()) >= least - 1e-9
    assert float(shares.max()) <= area + 1e-9
    ratio = (width / height)[whole]
    assert 0.5 - 1e-9 <= float(ratio.min()) < 0.55
    assert 1.8 < float(ratio.max()) <= 2 + 1e-9
    assert float((draws["erase_x"] + width).max()) <= 1 + 1e-9


@pytest.fixture(params=[1, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("policy", [FULL, STEPS, IMAGE_POLICIES["trivial"]])
@pytest.mark.parametrize(("side", "size"), [(20, 17), (60, 56)])
def test_a_view_does_not_depend_on_its_batch(policy: ImagePolicy, side: int, size: int, threads: int) -> None:
    augment, moment = ImageAugment(policy, size), Moment(5, 2, 1)
    images, keys = pictures(19, side), KEYS[:19]
    whole = augment.draw(images, keys, moment)
    floats = augment.draw(images.float() / 255, keys, moment)
    for rows in ([0], [7], [3, 4], [18, 0, 9], list(range(1, 18))):
        assert torch.equal(augment.draw(images[rows], keys[rows], moment), whole[rows])
        assert torch.equal(augment.draw(images[rows].float() / 255, keys[rows], moment), floats[rows])
        assert torch.equal(augment.plain(images[rows]), augment.plain(images)[rows])
    # The last axis lies innermost when images are decoded, the first when they come from elsewhere.
    assert torch.equal(augment.draw(images.contiguous(), keys, moment), whole)


def test_several_views_are_what_single_draws_return() -> None:
    augment, images = ImageAugment(FULL, 20), pictures(5, 24)
    moments = [Moment(1, 0, view) for view in range(3)]
    views = augment.draw_views(images, KEYS[:5], moments)
    assert views.shape == (15, 3, 20, 20)
    assert torch.equal(views, torch.cat([augment.draw(images, KEYS[:5], moment) for moment in moments]))


def test_threads_do_not_change_a_view(threads: int) -> None:
    views = ImageAugment(FULL, 112).draw(pictures(2, 120), KEYS[:2], Moment(5))
    torch.set_num_threads(2)
    assert torch.equal(ImageAugment(FULL, 112).draw(pictures(2, 120), KEYS[:2], Moment(5)), views)


def test_no_rows_give_no_views() -> None:
    assert ImageAugment(FULL, 8).draw(pictures(0, 9), KEYS[:0], Moment(0)).shape == (0, 3, 8, 8)
    assert ImageAugment(FULL, 8).draw(pictures(0, 9).float(), KEYS[:0], Moment(0)).shape == (0, 3, 8, 8)


@pytest.mark.parametrize("kind", [torch.uint8, torch.float32])
def test_half_precision_of_the_encoder_does_not_reach_the_pictures(kind: torch.dtype) -> None:
    images = pictures(3, 60) if kind == torch.uint8 else pictures(3, 60).float() / 255
    expected = ImageAugment(FULL, 50).draw(images, KEYS[:3], Moment(5))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        views = ImageAugment(FULL, 50).draw(images, KEYS[:3], Moment(5))
        plain = ImageAugment(FULL, 50).plain(images)
    assert torch.equal(views, expected)
    assert torch.equal(plain, ImageAugment(FULL, 50).plain(images))


def test_views_differ_between_moments_and_rows() -> None:
    images, keys = pictures(1, 24).expand(3, -1, -1, -1), KEYS[:3]
    moments = [Moment(0), Moment(1), Moment(0, 1), Moment(0, 0, 1)]
    flat = ImageAugment(FULL, 24).draw_views(images, keys, moments).flatten(1)
    distance = torch.cdist(flat, flat) + torch.eye(len(flat)) * 9
    assert float(distance.min()) > 1


def test_a_view_is_what_it_always_was() -> None:
    images = torch.arange(2 * 3 * 8 * 8).remainder(251).byte().view(2, 3, 8, 8)
    views = ImageAugment(FULL, 6).draw(images, torch.tensor([1, 2]), Moment(1, 2, 3))
    assert views[:, 0, 2, 2].tolist() == pytest.approx([0.5, 0.367493], abs=1e-5)
    assert views.mean((1, 2, 3)).tolist() == pytest.approx([0.434697, 0.288301], abs=1e-5)


def test_plain_is_an_antialiased_resize() -> None:
    images = pictures(3, 40)
    views = ImageAugment(FULL, 16).plain(images)
    for i in range(3):
        picture = Image.fromarray(images[i].permute(1, 2, 0).numpy())
        expected = np.asarray(picture.resize((16, 16), Image.Resampling.BILINEAR), dtype=np.float64) / 255
        assert np.abs(views[i].permute(1, 2, 0).numpy() - expected).max() <= 1.5 / 255


def test_the_description_names_everything_that_matters() -> None:
    base = ImageAugment(FULL, 20).describe()
    assert ImageAugment(FULL, 21).describe() != base
    others = {"choose": "one", "border": "reflect", "autocontrast": True, "equalize": True, "posterize": 4, "fill": 3}
    for name, value in FULL.model_dump().items():
        changed = FULL.model_copy(update={name: others[name] if name in others else value / 2 + 0.01})
        assert ImageAugment(changed, 20).describe() != base


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_draws_the_same_parameters_and_views() -> None:
    images, moment = pictures(6, 64), Moment(2)
    augment = ImageAugment(FULL, 56)
    here, there = (augment.parameters(KEYS[:6].to(device), moment) for device in ("cpu", "cuda"))
    assert all(torch.equal(here[name], there[name]) for name in here)
    seen = augment.draw(images.cuda(), KEYS[:6].cuda(), moment).cpu()
    assert (seen - augment.draw(images, KEYS[:6], moment)).abs().max() <= 1 / 255


def test_where_one_is_chosen_its_probability_still_counts() -> None:
    policy = ImagePolicy(choose="one", rotate=5, flip_horizontal=0.2, blur=2, effects=0)
    draws = ImageAugment(policy, 20).parameters(torch.arange(4000) * 7919, Moment(0))
    # Of four choices (nothing is one) each is made 1,000 times; 30 is one standard deviation.
    assert 850 < int((draws["angle"] != 0).sum()) < 1150
    assert 140 < int(draws["flip_x"].sum()) < 260
    assert int((draws["blur"] != 0).sum()) == 0
