"""Decoding: the strict JPEG decoder and Pillow agree, at every scale; and half a picture is never a picture."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import simplejpeg
from PIL import Image, ImageOps

from fusetune.data import decode
from fusetune.data.decode import load_pixels, opened
from fusetune.data.square import resize, to_scale, to_square
from fusetune.data.stored import Encoded
from fusetune.errors import ImageError

Pixels = npt.NDArray[np.uint8]
END = b"\xff\xd9"


def scene(width: int, height: int) -> Image.Image:
    """Smooth shapes with an edge: no two corners alike, and nothing that JPEG cannot keep."""
    x, y = np.linspace(0, 1, width), np.linspace(0, 1, height)[:, None]
    red, green, blue = 200 * x + 0 * y, 120 + 100 * np.sin(5 * y) * np.cos(3 * x), 40 + 150 * (x + y > 0.9)
    return Image.fromarray(np.stack([red, green, blue], 2).clip(0, 255).astype(np.uint8))


def jpeg(picture: Image.Image, **options: Any) -> bytes:
    data = io.BytesIO()
    picture.save(data, "JPEG", **{"quality": 92, **options})
    return data.getvalue()


def load(data: bytes, least: tuple[int, int] = (10**6, 10**6)) -> Pixels:
    encoded = Encoded(data)
    with opened(encoded, 10**9) as picture:
        return load_pixels(picture, encoded, least, 255)


def through_pillow(data: bytes, least: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> Pixels:
    with monkeypatch.context() as patch:
        patch.setattr(decode, "_jpeg", lambda *_: None)
        return load(data, least)


@pytest.mark.parametrize("options", [{}, {"subsampling": 0}, {"progressive": True}, {"quality": 40}])
@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize(
    ("least", "shape"),
    [((400, 300), (299, 401)), ((200, 140), (150, 201)), ((100, 74), (75, 101)), ((30, 20), (38, 51))],
)
def test_both_decoders_give_the_same_pixels_at_every_scale(
    mode: str, options: dict[str, Any], least: tuple[int, int], shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = jpeg(scene(401, 299).convert(mode), **options)
    ours, theirs = load(data, least), through_pillow(data, least, monkeypatch)
    assert ours.shape == theirs.shape == (*shape, 3)
    # The same library under both, but not always the same version: its colour conversions may round differently.
    assert np.abs(ours.astype(int) - theirs).max() <= 2


@pytest.mark.parametrize("orientation", range(1, 9))
def test_both_decoders_follow_the_camera(orientation: int, monkeypatch: pytest.MonkeyPatch) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = jpeg(scene(64, 40), exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    for pixels in (load(data), through_pillow(data, (64, 40), monkeypatch)):
        assert pixels.shape == expected.shape
        assert np.abs(pixels.astype(int) - expected).max() <= 2


def test_the_reduced_picture_is_the_whole_one_made_smaller() -> None:
    data = jpeg(scene(803, 605))
    whole = np.asarray(Image.open(io.BytesIO(data)).resize((120, 120), Image.Resampling.BILINEAR))
    small = resize(load(data, (120, 120)), 120, 120)
    assert np.abs(small.astype(int) - whole).mean() < 1.5


@pytest.mark.parametrize("progressive", [False, True])
def test_a_cut_file_is_refused_even_where_pillow_shows_grey(progressive: bool) -> None:
    data = jpeg(scene(160, 160), progressive=progressive)
    for share in (0.5, 0.75, 0.97):  # within a scan; a progressive file with fewer scans is whole, but coarser
        cut = data[: int(len(data) * share)]
        for damaged in (cut, cut + END):
            with pytest.raises(ImageError, match="damaged image"):
                load(damaged)
    half = data[: len(data) // 2] + END
    Image.open(io.BytesIO(half)).load()  # what this test is for: Pillow says nothing here


def test_overwritten_data_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    data = jpeg(scene(160, 160))
    middle = len(data) // 2
    with pytest.raises(ImageError, match="damaged image"):
        load(data[:middle] + bytes(len(data) - middle))
    with pytest.raises(ImageError, match="damaged image"):
        load(data[:middle] + b"\xff\xd8" + data[middle + 2 :])


@pytest.mark.parametrize(
    ("message", "lost"),
    [
        ("Premature end of JPEG file", True),
        ("Corrupt JPEG data: premature end of data segment", True),
        ("Corrupt JPEG data: bad Huffman code", True),
        ("Corrupt JPEG data: found marker 0xd9 instead of RST3", True),
        ("Corrupt JPEG data: 3 extraneous bytes before marker 0xd9", False),
        ("Invalid SOS parameters for sequential JPEG", False),
    ],
)
def test_what_the_decoder_complains_about_is_told_apart(
    message: str, lost: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def complain(*_: Any, **__: Any) -> Any:
        raise ValueError(message)

    data = jpeg(scene(16, 16))
    expected = load(data)
    monkeypatch.setattr(simplejpeg, "decode_jpeg", complain)
    if lost:
        with pytest.raises(ImageError, match=f"damaged image: {message}"):
            load(data)
    else:
        assert np.abs(load(data).astype(int) - expected).max() <= 2


def test_bytes_behind_the_end_are_harmless() -> None:
    data = jpeg(scene(40, 30))
    assert np.array_equal(load(data + b"\0" * 500), load(data))


def test_cmyk_is_left_to_pillow() -> None:
    data = jpeg(scene(64, 48).convert("CMYK"))
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    assert np.array_equal(load(data), expected)
    assert load(data, (16, 12)).shape == (12, 16, 3)


@pytest.mark.parametrize(("height", "width"), [(30, 50), (64, 64), (100, 90), (7, 130), (1, 1)])
def test_resizing_is_that_of_pillow_to_one_level(height: int, width: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 90, 3), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR))
    resized = resize(pixels, height, width)
    assert resized.dtype == np.uint8
    assert np.abs(resized.astype(int) - expected).max() <= 1


def test_squares_of_one_pixel_and_of_a_line() -> None:
    for shape in ((1, 1), (1, 9), (9, 1)):
        pixels = np.full((*shape, 3), 77, np.uint8)
        for fit in ("stretch", "crop"):
            assert (to_square(pixels, 16, fit, 0) == 77).all()  # type: ignore[arg-type]
        padded = to_square(pixels, 16, "pad", 0)
        assert padded.shape == (16, 16, 3)
        assert (padded == 77).any()
        assert (to_scale(pixels, 1000.0, 16, 0) == 77).any()


def test_the_common_scale_uses_the_reduced_decoding_and_keeps_sizes() -> None:
    picture = Image.new("L", (480, 480), 0)
    picture.paste(255, (120, 160, 360, 320))
    data = jpeg(picture)
    for factor in (1.0, 0.4, 0.2, 0.1):
        whole = to_scale(load(data), factor, 64, 0)
        reduced = load(data, (round(480 * factor), round(480 * factor)))
        again = to_scale(reduced, factor * 480 / reduced.shape[0], 64, 0)
        assert np.abs(whole.astype(int) - again).mean() < 3


def deep(channels: int, kind: str, top: int = 4095) -> tuple[npt.NDArray[np.uint16], bytes]:
    """Return 16-bit channels that only use values up to `top`, and their file."""
    ramp = np.linspace(0, top, 24 * 32).reshape(24, 32).round().astype(np.uint16)
    planes = np.dstack([ramp, ramp[::-1], ramp[:, ::-1], np.full_like(ramp, 65535)][:channels])
    order = [2, 1, 0, 3][:channels]  # OpenCV writes blue first
    return planes, cv2.imencode(kind, planes[..., order])[1].tobytes()


@pytest.mark.parametrize("kind", [".png", ".tiff"])
def test_deep_colours_fill_the_whole_range(kind: str) -> None:
    """A scanner's 12 bits in a file of 16 are not nearly black: the picture's own range becomes 0..255, as in grey."""
    planes, data = deep(3, kind)
    assert np.array_equal(load(data), (planes / 4095 * 255).round())


def test_deep_colours_with_transparency() -> None:
    planes, data = deep(4, ".png", 65535)
    assert np.array_equal(load(data), (planes[..., :3] / 65535 * 255).round())
    planes[..., 3] = 0
    hidden = cv2.imencode(".png", planes[..., [2, 1, 0, 3]])[1].tobytes()
    assert (load(hidden) == 255).all()  # the background


def test_deep_colours_are_turned_upright() -> None:
    planes, data = deep(3, ".png")
    exif = Image.Exif()
    exif[0x0112] = 6
    body = exif.tobytes()[6:]
    chunk = struct.pack(">I", len(body)) + b"eXIf" + body + struct.pack(">I", zlib.crc32(b"eXIf" + body))
    assert np.array_equal(load(data[:33] + chunk + data[33:]), np.rot90((planes / 4095 * 255).round(), -1))


@pytest.mark.parametrize("kind", [".png", ".tiff"])
def test_half_of_a_deep_picture_is_refused(kind: str) -> None:
    _, data = deep(3, kind)
    with pytest.raises(ImageError):
        load(data[: len(data) // 2])
