"""TIFF: every meaning, depth, type, alpha and order comes out as the numbers say, or is refused; nothing in between."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from tiffs import tiff

from fusetune.data.decode import load_pixels, opened
from fusetune.data.stored import Encoded
from fusetune.errors import ImageError

Array = npt.NDArray[Any]
ORDERS = list(itertools.product("<>", (False, True)))
BACKGROUND = 200


def load(data: bytes, frame: int | None = None) -> Array:
    encoded = Encoded(data, frame)
    with opened(encoded, 10**6) as picture:
        return load_pixels(picture, encoded, (10**6, 10**6), BACKGROUND).astype(np.float64)


def own_range(values: Array) -> Array:
    numbers = values.astype(np.float64)
    return (numbers - numbers.min()) / (numbers.max() - numbers.min()) * 255


def numbers(bits: int, kind: int, *more: int) -> Array:
    generator = np.random.default_rng(bits * 10 + kind)
    shape = (6, 10, *more)
    if kind == 3:
        return (generator.random(shape) * 1000 - 300).astype(f"f{bits // 8}")
    if kind == 2:
        return generator.integers(-(2 ** (bits - 1)), 2 ** (bits - 1), shape).astype(f"i{bits // 8}")
    return generator.integers(0, 2**bits, shape).astype(f"u{max(1, 2 ** int(np.ceil(np.log2(bits / 8))))}")


def agree(data: bytes, expected: Array, tolerance: float = 1.01) -> bool:
    """Return whether a file is read as expected; False where it is refused. Anything else fails."""
    try:
        pixels = load(data)
    except ImageError as error:
        assert "TIFF" in str(error)
        assert "save it as PNG" in str(error)
        return False
    wanted = np.repeat(expected[..., None], 3, 2) if expected.ndim == 2 else expected
    assert pixels.shape == wanted.shape
    assert np.abs(pixels - wanted).max() <= tolerance
    return True


@pytest.mark.parametrize(("order", "packed"), ORDERS)
@pytest.mark.parametrize("strips", [1, 3])
@pytest.mark.parametrize("photometric", [0, 1])
def test_grey_of_every_depth(order: str, packed: bool, strips: int, photometric: int) -> None:
    read = []
    types = [
        (1, 1),
        (2, 1),
        (4, 1),
        (8, 1),
        (8, 2),
        (12, 1),
        (16, 1),
        (16, 2),
        (16, 3),
        (32, 1),
        (32, 2),
        (32, 3),
        (64, 3),
    ]
    for bits, kind in types:
        values = numbers(bits, kind)
        expected = own_range(values) if bits > 8 or kind != 1 else values / (2**bits - 1) * 255
        expected = 255 - expected if photometric == 0 else expected
        data = tiff(values, bits, photometric, kind=kind, order=order, packed=packed, strips=strips)
        read += [(bits, kind)] if agree(data, expected) else []
    # What must be readable: the rest is refused, and has been compared where it was not.
    assert {(1, 1), (2, 1), (4, 1), (8, 1)} <= set(read)
    if photometric == 1:
        assert {(8, 2), (16, 1), (16, 2), (32, 2), (32, 3)} <= set(read)


def test_a_file_that_does_not_say_what_its_numbers_mean() -> None:
    with pytest.raises(ImageError, match="does not say what its numbers mean"):
        load(tiff(numbers(8, 1), 8, None))


@pytest.mark.parametrize(("order", "packed"), ORDERS)
@pytest.mark.parametrize("planes", [False, True])
@pytest.mark.parametrize("extra", [(), (0,), (1,), (2,), (2, 0)])
def test_colours_with_and_without_alpha(order: str, packed: bool, planes: bool, extra: tuple[int, ...]) -> None:
    generator = np.random.default_rng(3)
    for bits, kind in [(4, 1), (8, 1), (8, 2), (16, 1), (16, 2), (32, 1), (32, 3)]:
        shares = generator.random((6, 10, 3 + len(extra)))
        if extra == (1,):
            shares[..., :3] *= shares[..., 3:]
        top = 2**bits - 1
        values = shares.astype("f4") if kind == 3 else (shares * top).round().astype(f"u{max(1, bits // 8)}")
        values = values.astype(f"i{bits // 8}") if kind == 2 else values
        colours = values[..., :3].astype(np.float64)
        visible = extra[:1] in ((1,), (2,))
        alpha = values[..., 3:4] / top if visible else np.ones((6, 10, 1))
        if extra == (1,):
            colours = np.divide(colours, alpha, where=alpha > 0, out=np.zeros_like(colours)).clip(0, top)
        colours = colours / top * 255 if bits <= 8 and kind == 1 else own_range(colours)
        expected = alpha * colours + (1 - alpha) * BACKGROUND
        data = tiff(values, bits, 2, kind=kind, extra=extra, planes=planes, order=order, packed=packed)
        read = agree(data, expected, 1.6)
        if kind == 1 and bits in (8, 16) and not planes and len(extra) < 2:
            assert read
        if bits == 8 and kind == 1 and extra in ((), (2,)):
            assert read


@pytest.mark.parametrize(("order", "packed"), ORDERS)
def test_alpha_that_only_the_number_of_channels_tells_of(order: str, packed: bool) -> None:
    """It counts, unless it is 0 everywhere: then nobody meant it."""
    for bits in (8, 16):
        values = numbers(bits, 1, 4)
        colours = own_range(values[..., :3]) if bits == 16 else values[..., :3].astype(np.float64)
        alpha = values[..., 3:] / (2**bits - 1)
        assert agree(tiff(values, bits, 2, order=order, packed=packed), alpha * colours + (1 - alpha) * BACKGROUND, 1.6)
        values[..., 3] = 0
        assert agree(tiff(values, bits, 2, order=order, packed=packed), colours)
        agree(tiff(values, bits, 2, planes=True, order=order, packed=packed), colours)


@pytest.mark.parametrize(("order", "packed"), ORDERS)
@pytest.mark.parametrize("extra", [0, 1, 2])
def test_grey_with_alpha(order: str, packed: bool, extra: int) -> None:
    for bits in (8, 16, 32):
        values = numbers(bits, 1, 2)
        alpha = values[..., 1] / (2**bits - 1)
        if extra == 1:
            values[..., 0] = (values[..., 0] * alpha).astype(values.dtype)
        grey = values[..., 0].astype(np.float64) if bits == 8 else own_range(values[..., 0])
        expected = {0: grey, 1: grey + (1 - alpha) * BACKGROUND, 2: alpha * grey + (1 - alpha) * BACKGROUND}[extra]
        assert agree(tiff(values, bits, 1, extra=[extra], order=order, packed=packed), expected, 1.6) == (bits == 8)


@pytest.mark.parametrize(("order", "packed"), ORDERS)
@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_palettes_of_8_and_of_16_bits(order: str, packed: bool, depth: int, bits: int) -> None:
    """The standard has 16 bits; old programs wrote 8, which would be black."""
    values = numbers(bits, 1)
    colours = np.random.default_rng(5).integers(0, 2**depth, (3, 2**bits))
    expected = np.moveaxis(colours[:, values], 0, 2) // 2 ** (depth - 8)
    assert agree(tiff(values, bits, 3, order=order, packed=packed, colours=colours.ravel().tolist()), expected)


@pytest.mark.parametrize(("order", "packed"), ORDERS)
@pytest.mark.parametrize("planes", [False, True])
def test_printing_colours(order: str, packed: bool, planes: bool) -> None:
    for bits, extra in itertools.product((8, 16), ((), (0,), (1,), (2,))):
        values = numbers(bits, 1, 4 + len(extra))
        inks = values / (2**bits - 1)
        expected = (1 - inks[..., :3]) * (1 - inks[..., 3:4]) * 255
        read = agree(tiff(values, bits, 5, extra=extra, planes=planes, order=order, packed=packed), expected, 3)
        assert read or extra or (planes and bits == 16)


@pytest.mark.parametrize(("order", "packed"), ORDERS)
@pytest.mark.parametrize("planes", [False, True])
def test_luminance_and_chrominance(order: str, packed: bool, planes: bool) -> None:
    values = np.random.default_rng(6).integers(60, 190, (6, 10, 3)).astype("u1")
    light, blueness, redness = np.moveaxis(values.astype(np.float64), 2, 0)
    red, blue = light + 1.402 * (redness - 128), light + 1.772 * (blueness - 128)
    green = (light - 0.299 * red - 0.114 * blue) / 0.587
    expected = np.stack([red, green, blue], 2).clip(0, 255)
    whole = {530: (3, [1, 1])}
    assert agree(tiff(values, 8, 6, planes=planes, order=order, packed=packed, more=whole), expected, 3) or planes
    if not packed:  # nothing but libtiff knows these
        for more in ({530: (3, [2, 2]), 279: (4, [90])}, whole | {529: (4, [1, 2, 3])}):
            assert not agree(tiff(values, 8, 6, order=order, more=more), expected)


@pytest.mark.parametrize(("order", "packed"), ORDERS)
@pytest.mark.parametrize("planes", [False, True])
def test_lightness_and_two_colour_axes(order: str, packed: bool, planes: bool) -> None:
    lab = np.array([[[0, 0, 0], [50, 0, 0], [100, 0, 0], [60, 60, 30], [60, -50, 40], [60, 10, -60]]], np.float64)
    values = np.stack([lab[..., 0] * 2.55, lab[..., 1] % 256, lab[..., 2] % 256], 2).round().astype("u1")
    expected = [[[0, 0, 0], [119, 119, 119], [255, 255, 255], [244, 90, 96], [43, 166, 67], [98, 142, 251]]]
    assert agree(tiff(values, 8, 8, planes=planes, order=order, packed=packed), np.array(expected), 3) != planes


def test_what_is_no_picture_is_refused() -> None:
    for photometric in (4, 9, 10, 32803, 32844, 34892):  # a mask, other Lab, sensors, logarithms
        assert not agree(tiff(numbers(8, 1), 8, photometric), numbers(8, 1))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_all_depths_are_turned_upright(orientation: int, bits: int, packed: bool) -> None:
    turns: dict[int, Any] = {
        1: lambda p: p, 2: np.fliplr, 3: lambda p: np.rot90(p, 2), 4: np.flipud, 5: lambda p: np.rot90(np.fliplr(p)),
        6: lambda p: np.rot90(p, -1), 7: lambda p: np.rot90(np.flipud(p)), 8: np.rot90,
    }  # fmt: skip
    values = numbers(bits, 1, 3)
    colours = own_range(values) if bits == 16 else values.astype(np.float64)
    data = tiff(values, bits, 2, orientation=orientation, packed=packed)
    assert np.abs(load(data) - turns[orientation](colours)).max() <= 1.01


def test_numbers_that_stand_for_none_do_not_spread() -> None:
    values = numbers(32, 3)
    values[0, 0] = -np.finfo(np.float32).max
    expected = (values - values[values > -1e9].min()) / np.ptp(values[values > -1e9]) * 255
    assert np.abs(load(tiff(values, 32, 1, kind=3))[..., 0] - expected.clip(0)).max() <= 1.01


def test_tiles_larger_than_the_picture_are_not_unpacked() -> None:
    data = tiff(numbers(8, 1), 8, 1, more={322: (4, [30_000]), 323: (4, [30_000])})
    with pytest.raises(ImageError, match=r"tiles of 30,000 x 30,000 pixels are more than data\.pixel_limit"):
        load(data)
