"""Images: every format and mode, orientation, transparency, scale, limits, and problems instead of wrong pixels."""

from __future__ import annotations

import io
import socket
import threading
import tracemalloc
import warnings
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import fsspec
import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import torch
from PIL import Image

from fusetune.data import images
from fusetune.data.images import ImageInput, ImageSource, Reading, raise_for_problems
from fusetune.data.stored import Encoded
from fusetune.data.table import Table
from fusetune.errors import ImageError, ShortageError, TableError

Pixels = npt.NDArray[np.uint8]
QUARTERS = [(220, 30, 40), (30, 200, 60), (20, 60, 210), (240, 220, 30)]


def quarters(width: int = 24, height: int = 16) -> Image.Image:
    """A picture with red, green (top) and blue, yellow (bottom) quarters."""
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    for place, colour in enumerate(QUARTERS):
        top, left = place // 2 * height // 2, place % 2 * width // 2
        pixels[top : top + height // 2, left : left + width // 2] = colour
    return Image.fromarray(pixels)


def corners(pixels: Pixels) -> npt.NDArray[np.int64]:
    """The colours in the middle of the four quarters, [4, 3]."""
    quarter = len(pixels) // 4
    places = [(quarter, quarter), (quarter, -quarter), (-quarter, quarter), (-quarter, -quarter)]
    return np.array([pixels[place] for place in places]).astype(np.int64)


def settings(**changes: Any) -> ImageInput:
    return ImageInput(**{"column": "image", "size": 16, "fit": "stretch", **changes})


def decode(reader: ImageInput, value: str, root: Path) -> Pixels:
    return reader.square(reader.fetch(value, root))


def table(tmp_path: Path, **columns: Any) -> Table:
    return Table(pd.DataFrame(columns), "t.csv", tmp_path)


def decoded(picture: Image.Image, tmp_path: Path, name: str = "a.png", save: Any = None, **changes: Any) -> Pixels:
    picture.save(tmp_path / name, **(save or {}))
    return decode(settings(**changes), name, tmp_path)


@pytest.mark.parametrize(
    ("name", "tolerance"),
    [
        ("a.jpg", 12),
        ("a.jpeg", 12),
        ("a.png", 0),
        ("a.webp", 30),
        ("a.tif", 0),
        ("a.tiff", 0),
        ("a.bmp", 0),
        ("a.gif", 3),
    ],
)
def test_every_format_is_read(tmp_path: Path, name: str, tolerance: int) -> None:
    pixels = decoded(quarters(64, 64), tmp_path, name)
    assert pixels.shape == (16, 16, 3)
    assert pixels.dtype == np.uint8
    assert np.abs(corners(pixels) - QUARTERS).max() <= tolerance


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "PA", "CMYK", "YCbCr", "1", "I;16", "I", "F"])
def test_every_mode_is_read(tmp_path: Path, mode: str) -> None:
    grey = quarters(64, 64).convert("L")
    name = "a.tif" if mode in ("CMYK", "YCbCr", "I", "F", "PA") else "a.png"
    if mode in ("I;16", "I", "F"):
        dtype = {"I;16": np.uint16, "I": np.int32, "F": np.float32}[mode]
        picture = Image.fromarray((np.asarray(grey).astype(np.float64) * 13 + 500).astype(dtype))
        assert picture.mode == mode
    elif mode == "PA":
        picture, name = quarters(64, 64).convert("P"), "a.gif"
        picture.info["transparency"] = 255
    else:
        picture = quarters(64, 64).convert(mode)
    colours = corners(decoded(picture, tmp_path, name))
    values = np.asarray(grey)[[8, 8, -8, -8], [8, -8, 8, -8]].astype(np.float64)
    if mode in ("I;16", "I", "F"):  # the image's own range becomes 0..255
        expected = (values - values.min()) / (values.max() - values.min()) * 255
        assert np.abs(colours - expected[:, None]).max() <= 1.5
    elif mode in ("L", "LA"):
        assert np.abs(colours - values[:, None]).max() <= 1
    elif mode == "1":
        assert set(np.unique(np.asarray(picture.convert("L")))) == {0, 255}
    else:
        assert np.abs(colours - QUARTERS).max() <= (8 if mode == "YCbCr" else 3)


def test_12_bit_values_are_spread_and_broken_floats_do_not_spread(tmp_path: Path) -> None:
    ramp = np.linspace(100, 4000, 256).reshape(16, 16)
    pixels = decoded(Image.fromarray(ramp.astype(np.uint16)), tmp_path)
    assert np.abs(pixels[..., 0].ravel().astype(int) - np.arange(256)).max() <= 1
    holes = ramp.astype(np.float32)
    holes[0, :3] = np.nan, np.inf, -np.inf
    pixels = decoded(Image.fromarray(holes), tmp_path, "a.tif")
    assert pixels[0, :3, 0].tolist() == [0, 255, 0]
    assert np.abs(pixels[1:, :, 0].ravel().astype(int) - np.arange(16, 256)).max() <= 4
    assert decoded(Image.fromarray(np.full((4, 4), 7.0, np.float32)), tmp_path, "b.tif").max() == 0
    with pytest.raises(ImageError, match="no pixel holds a finite number"):
        decoded(Image.fromarray(np.full((4, 4), np.nan, np.float32)), tmp_path, "c.tif")


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tif", "a.webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_camera_orientation_is_followed(tmp_path: Path, orientation: int, name: str) -> None:
    upright = quarters(64, 64)
    turn = {
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }  # fmt: skip
    stored = upright.transpose(turn[orientation]) if orientation in turn else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = decoded(stored, tmp_path, name, {"exif": exif})
    assert np.abs(corners(pixels) - QUARTERS).max() <= 30


def test_what_is_transparent_shows_the_background(tmp_path: Path) -> None:
    layer = quarters(32, 32).convert("RGBA")
    layer.putalpha(Image.fromarray(np.repeat([[255], [0]], 16, 0).repeat(32, 1).astype(np.uint8)))
    for background in (0, 255, 90):
        colours = corners(decoded(layer, tmp_path, background=background))
        assert np.abs(colours[:2] - QUARTERS[:2]).max() <= 1
        assert (colours[2:] == background).all()
    half = Image.new("RGBA", (8, 8), (200, 100, 0, 128))
    assert np.abs(decoded(half, tmp_path)[4, 4].astype(int) - [227, 177, 127]).max() <= 1
    palette = quarters(32, 32).quantize(4)
    red = palette.getpixel((0, 0))
    colours = corners(decoded(palette, tmp_path, save={"transparency": red}, background=9))
    assert colours[0].tolist() == [9, 9, 9]
    assert np.abs(colours[1:] - QUARTERS[1:]).max() <= 3


def test_the_three_ways_to_a_square(tmp_path: Path) -> None:
    wide = Image.fromarray(np.repeat(np.repeat([[10, 10, 200, 200, 60, 60]], 2, 0), 8, 1).repeat(8, 0).astype(np.uint8))
    stretched = decoded(wide, tmp_path)[8, :, 0]
    assert [stretched[2], stretched[8], stretched[13]] == [10, 200, 60]
    padded = decoded(wide, tmp_path, fit="pad", background=99)[:, :, 0]
    assert (padded[[0, -1]] == 99).all()
    assert [padded[8, 2], padded[8, 8], padded[8, 13]] == [10, 200, 60]
    assert (padded == 99).all(1).sum() == 11  # 48 x 16 at 16 wide is 5 rows high
    cropped = decoded(wide, tmp_path, fit="crop")[:, :, 0]
    assert (cropped == 200).all()


def test_a_large_jpeg_is_decoded_small_and_looks_the_same(tmp_path: Path) -> None:
    at = np.linspace(0, 4 * np.pi, 512)
    waves = (127 + 100 * np.sin(at)[:, None] * np.cos(at)).astype(np.uint8)
    picture = Image.fromarray(waves).convert("RGB")
    small = decoded(picture, tmp_path, "a.jpg", {"quality": 95}, size=32)
    whole = np.asarray(picture.resize((32, 32), Image.Resampling.BILINEAR))
    assert np.abs(small.astype(int) - whole).max() <= 6


def disc(side: int, diameter: float) -> Image.Image:
    at = np.arange(side) - (side - 1) / 2
    inside = at[:, None] ** 2 + at**2 <= (diameter / 2) ** 2
    return Image.fromarray((inside * 255).astype(np.uint8))


def test_a_common_scale_gives_equal_things_equal_sizes(tmp_path: Path) -> None:
    # A disc of 30 mm: 60 pixels of 0.5 mm in one file, 120 of 0.25 mm in another, and one in a file larger than shown.
    for name, side, spacing in (("a.png", 100, 0.5), ("b.png", 200, 0.25), ("c.png", 500, 0.2), ("d.png", 64, 0.5)):
        disc(side, 30 / spacing).save(tmp_path / name)
    rows = table(tmp_path, image=["a.png", "b.png", "c.png", "d.png"], mm=[0.5, 0.25, 0.2, 0.5])
    fitted = settings(spacing="mm", size=80, background=0).fit_extent(rows, np.array([0, 1]))
    assert fitted.extent == pytest.approx(50)
    source = fitted.bind(rows)
    seen = source.read(np.arange(4))[:, 0].numpy() > 127
    widths, heights = seen.any(1).sum(1), seen.any(2).sum(1)
    assert np.abs(widths - 30 / 50 * 80).max() <= 1
    assert np.abs(heights - 30 / 50 * 80).max() <= 1
    middle = np.array([np.argwhere(picture).mean(0) for picture in seen])
    assert np.abs(middle - 39.5).max() <= 1


def test_a_pixel_size_that_is_wrong_costs_a_row_and_not_all_memory(tmp_path: Path) -> None:
    for name in "abcd":
        disc(40, 20).save(tmp_path / f"{name}.png")
    rows = table(tmp_path, image=["a.png", "b.png", "c.png", "d.png"], mm=[1.0, None, -1.0, 1e7])
    fitted = settings(spacing="mm").fit_extent(rows, np.arange(3))
    assert fitted.extent == pytest.approx(40)
    source = fitted.bind(rows)
    assert source.present.tolist() == [True, False, False, True]
    assert "column 'mm' holds no positive pixel size" in source.problems[1]
    alone = table(tmp_path, image=["b.png"], mm=[None])
    assert list(fitted.bind(alone).problems) == [0]
    with pytest.raises(
        TableError, match=r"no training row of t\.csv has both a readable image in 'image' and a positive"
    ):
        settings(spacing="mm").fit_extent(rows, np.array([1, 2]))


def test_an_unreadable_image_does_not_stop_the_choice_of_the_scale(tmp_path: Path) -> None:
    disc(40, 20).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"no picture")
    rows = table(tmp_path, image=[" a.png ", "b.png", "missing.png", None], mm=[1.0, 1.0, 1.0, 1.0])
    fitted = settings(spacing="mm").fit_extent(rows, np.arange(4))
    assert fitted.extent == pytest.approx(40)
    assert sorted(fitted.bind(rows).problems) == [1, 2]


def png(**changes: Any) -> bytes:
    data = io.BytesIO()
    quarters(64, 64).save(data, "PNG", **changes)
    return data.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("empty.png", b"", "not an image in a known format"),
        ("text.jpg", b"this is a text", "not an image in a known format"),
        ("cut.png", png()[:100], "damaged image"),
        ("cut.jpg", None, "damaged image"),
        ("missing.png", None, "there is no such file"),
        ("folder.png", None, "cannot be opened"),
        ("nul\0l.png", None, "cannot be opened"),
        ("~nobody.png", None, "there is no such file"),
    ],
)
def test_what_cannot_be_read_is_a_problem_of_its_row(
    tmp_path: Path, name: str, content: bytes | None, problem: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    if name == "cut.jpg":
        quarters(64, 64).save(tmp_path / name)
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:700])
    if name == "folder.png":
        (tmp_path / name).mkdir()
    quarters().save(tmp_path / "good.png")
    source = settings().bind(table(tmp_path, image=["good.png", name, "good.png"]))
    assert source.present.tolist() == [True, False, True]
    assert list(source.problems) == [1]
    assert source.problems[1].startswith(f"{name}: ")
    assert problem in source.problems[1]
    assert (source.read(np.array([1])) == 127).all()
    with pytest.raises(ImageError, match=r"1 image\(s\) of column 'image' cannot be read:\n  - row second: "):
        raise_for_problems(source, pd.Series(["first", "second", "third"]))


def test_many_problems_are_cut_short(tmp_path: Path) -> None:
    source = settings().bind(table(tmp_path, image=[f"{i}.png" for i in range(14)]))
    with pytest.raises(ImageError, match="14 image") as error:
        raise_for_problems(source, pd.Series(range(14)))
    assert "row 9: 9.png: there is no such file" in str(error.value)
    assert "row 10" not in str(error.value)
    assert "and 4 more" in str(error.value)
    assert "data.unreadable=mask" in str(error.value)


def test_random_damage_never_ends_in_anything_but_a_problem(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    noise = Image.fromarray(generator.integers(0, 256, (20, 20, 3), dtype=np.uint8))
    for name in ("jpeg", "png", "webp", "bmp", "gif"):
        data = io.BytesIO()
        noise.save(data, name)
        for _ in range(25):
            broken = bytearray(data.getvalue())
            for place in generator.integers(0, min(len(broken), 300), 6):
                broken[place] = generator.integers(256)
            (tmp_path / "a").write_bytes(broken[: generator.integers(1, len(broken) + 1)])
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    assert decode(settings(), "a", tmp_path).shape == (16, 16, 3)
            except ImageError as error:
                assert len(str(error)) > 15


def test_too_many_pixels_are_refused_unread(tmp_path: Path) -> None:
    before = Image.MAX_IMAGE_PIXELS
    # A header that promises 30000 x 30000 pixels, and nothing behind it: more than Pillow itself would open.
    head = bytearray(png())
    head[16:24] = (30_000).to_bytes(4, "big") * 2
    import zlib

    head[29:33] = zlib.crc32(bytes(head[12:29])).to_bytes(4, "big")
    (tmp_path / "bomb.png").write_bytes(head)
    with pytest.raises(ImageError, match=r"30,000 x 30,000 pixels are more than data.pixel_limit=200,000,000"):
        decode(settings(), "bomb.png", tmp_path)
    with pytest.raises(ImageError, match="damaged image"):  # the limit is ours alone
        decode(settings(pixel_limit=10**9), "bomb.png", tmp_path)
    quarters(20, 20).save(tmp_path / "a.png")
    assert decode(settings(pixel_limit=400), "a.png", tmp_path).shape == (16, 16, 3)
    with pytest.raises(ImageError, match=r"data\.pixel_limit=399"):
        decode(settings(pixel_limit=399), "a.png", tmp_path)
    assert before == Image.MAX_IMAGE_PIXELS


def test_images_above_the_limit_of_pillow_are_read_without_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    quarters(64, 64).save(tmp_path / "a.png")
    filters = list(warnings.filters)
    source = settings().bind(table(tmp_path, image=["a.png"] * 50))
    assert source.problems == {}
    assert Image.MAX_IMAGE_PIXELS == 100
    assert warnings.filters == filters


@pytest.mark.parametrize(
    "address",
    [
        "https://example.invalid/a.png", "http://example.invalid/a.png", "s3://bucket/a.png", "gs://bucket/a.png",
        "zip://a.png::https://example.invalid/b.zip", "simplecache::https://example.invalid/a.png",
        "filecache::zip://a.png::s3://bucket/b.zip", "HTTPS://example.invalid/a.png",
    ],
)  # fmt: skip
def test_addresses_that_need_a_network_are_refused_without_asking_it(
    tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def touched(*_: Any, **__: Any) -> Any:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "getaddrinfo", touched)
    monkeypatch.setattr(socket.socket, "connect", touched)
    monkeypatch.setattr(fsspec, "open", touched)
    with pytest.raises(ImageError, match="needs a network; set allow_download=true"):
        decode(settings(), address, tmp_path)


def test_local_addresses_are_read_through_fsspec(tmp_path: Path) -> None:
    with fsspec.open("memory://pictures/a.png", "wb") as file:
        file.write(png())
    (tmp_path / "a.png").write_bytes(png())
    with ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.write(tmp_path / "a.png", "inside/a.png")
    plain = decode(settings(), "a.png", tmp_path)
    assert np.abs(corners(plain) - QUARTERS).max() == 0
    for address in (
        "memory://pictures/a.png", f"file://{tmp_path}/a.png", f"zip://inside/a.png::file://{tmp_path}/b.zip",
        f"zip://inside/a.png::{tmp_path}/b.zip", str(tmp_path / "a.png"),
    ):  # fmt: skip
        assert np.array_equal(decode(settings(), address, Path("/nowhere")), plain), address
    with pytest.raises(ImageError, match="there is no such file"):
        decode(settings(), "memory://pictures/b.png", tmp_path)


def coloured(tmp_path: Path, rows: int) -> list[str]:
    """Write pictures whose one colour tells their number."""
    for row in range(rows):
        Image.new("RGB", (30 + row, 40), (row, 255 - row, 7 * row % 256)).save(tmp_path / f"{row}.png")
    return [f"{row}.png" for row in range(rows)]


@pytest.mark.parametrize("memory", [0, images._MEMORY])
def test_every_row_gets_its_own_pixels(tmp_path: Path, memory: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "_MEMORY", memory)
    monkeypatch.setattr(images, "_WINDOW", 7)  # several rounds of the threads
    names: list[str | None] = list(coloured(tmp_path, 40))
    order = np.random.default_rng(0).permutation(40)
    shuffled = [names[i] for i in order]
    for gap in (0, 13, 39):
        shuffled[gap] = [None, "", "gone.png"][gap % 3]
    source = settings().bind(table(tmp_path, image=shuffled))
    rows = np.random.default_rng(1).permutation(40)
    read = source.read(rows)
    assert read.shape == (40, 3, 16, 16)
    for place, row in enumerate(rows):
        number = int(order[row])
        expected = [number, 255 - number, 7 * number % 256] if row not in (0, 13, 39) else [127] * 3
        assert (read[place].flatten(1) == torch.tensor(expected)[:, None]).all()
        assert source.present[row] == (row not in (0, 13, 39))
    assert (source.pixels is None) == (memory == 0)


def test_reading_on_demand_equals_reading_from_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    names: list[str | None] = [f"{row}.jpg" for row in range(6)]
    for name in names:
        noise = generator.integers(0, 256, (*generator.integers(8, 200, 2), 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / str(name))
    (tmp_path / "3.jpg").write_bytes(b"x")
    rows = table(tmp_path, image=[*names, None, "gone.png"])
    kept = settings().bind(rows)
    monkeypatch.setattr(images, "_MEMORY", 0)
    fresh = settings().bind(rows)
    for some in (np.arange(8), np.array([7, 2, 2, 0]), np.array([6]), np.array([], dtype=np.int64)):
        assert torch.equal(kept.read(some), fresh.read(some))
    assert np.array_equal(kept.digests, fresh.digests)
    assert np.array_equal(kept.present, fresh.present)
    assert kept.problems == fresh.problems
    (tmp_path / "2.jpg").unlink()
    with pytest.raises(ImageError, match=r"2\.jpg \(table row 2\) was readable before, but now: there is no such file"):
        fresh.read(np.array([2]))


def test_a_file_that_changes_in_the_middle_of_a_run_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = coloured(tmp_path, 3)
    monkeypatch.setattr(images, "_MEMORY", 0)
    source = settings().bind(table(tmp_path, image=names))
    (tmp_path / "1.png").write_bytes((tmp_path / "2.png").read_bytes())
    with pytest.raises(ImageError, match=r"1\.png \(table row 1\) was changed since the images were first read"):
        source.read(np.array([0, 1]))


@pytest.mark.parametrize("memory", [0, images._MEMORY])
def test_a_second_run_decodes_nothing(tmp_path: Path, memory: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "_MEMORY", memory)
    names: list[str | None] = list(coloured(tmp_path, 30))
    (tmp_path / "copy.png").write_bytes((tmp_path / "3.png").read_bytes())
    (tmp_path / "broken.png").write_bytes(b"no picture")
    rows = table(tmp_path, image=[*names, None, "copy.png", "broken.png"])
    plain = settings().bind(rows)
    reading = Reading(workers=3, cache=tmp_path / "cache", cache_gb=1)
    first = settings().bind(rows, reading)
    assert first.cached == 0
    decoded: list[Encoded] = []
    square = ImageInput.square
    monkeypatch.setattr(ImageInput, "square", lambda self, file, *more: decoded.append(file) or square(self, file))
    second = settings().bind(rows, reading)
    assert second.cached == 31
    for source in (first, second):
        assert torch.equal(source.read(np.arange(33)), plain.read(np.arange(33)))
        assert np.array_equal(source.digests, plain.digests)
        assert source.present.tolist() == [True] * 30 + [False, True, False]
        assert list(source.problems) == [32]
    ours = [file for file in decoded if file.content != b"no picture"]
    assert len(ours) == (0 if memory else 62)  # by `plain`, which has no cache and was read twice
    assert settings(background=3).bind(rows, reading).cached == 0
    assert "31 images read with 3 threads (data.workers=3); 31 of them decoded before" in second.describe()
    kept = "kept in memory" if memory else "too many for memory, fetched from the cache"
    assert kept in second.describe()
    assert "decoded for every batch" in plain.describe() or memory


def test_a_damaged_cache_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = table(tmp_path, image=coloured(tmp_path, 6))
    reading = Reading(cache=tmp_path / "cache", cache_gb=1)
    expected = settings().bind(rows, reading).read(np.arange(6))
    (stored,) = (tmp_path / "cache").rglob("pixels.npy")
    data = bytearray(stored.read_bytes())
    data[-1] ^= 255
    stored.write_bytes(data)
    monkeypatch.setattr(images, "_MEMORY", 0)
    during = settings().bind(rows, reading)
    assert during.cached == 6  # whether it can be trusted is known when it is read
    assert torch.equal(during.read(np.arange(6)), expected)
    assert settings().bind(rows, reading).cached == 0
    assert settings().bind(rows, reading).cached == 6


def test_the_same_file_at_another_scale_is_another_image(tmp_path: Path) -> None:
    disc(40, 20).save(tmp_path / "a.png")
    rows = table(tmp_path, image=["a.png", "a.png", "a.png"], mm=[1.0, 2.0, 1.0])
    fitted = settings(spacing="mm").fit_extent(rows, np.arange(3))
    source = fitted.bind(rows, Reading(cache=tmp_path / "cache", cache_gb=1))
    first, second, third = source.digests
    assert first == third != second
    assert torch.equal(
        fitted.bind(rows, Reading(cache=tmp_path / "cache", cache_gb=1)).read(np.arange(3)), source.read(np.arange(3))
    )


def test_reading_a_long_table_keeps_no_object_per_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = 40_000
    names = pd.Series([f"{row}.png" for row in range(rows)], dtype="str")
    long = table(tmp_path, image=names)
    one = np.zeros((1, 1, 3), np.uint8)
    monkeypatch.setattr(images, "read_encoded", lambda value, *_: Encoded(value.encode()))
    monkeypatch.setattr(ImageInput, "digest", lambda self, encoded, _: int(encoded.content[:-4]))
    monkeypatch.setattr(ImageInput, "square", lambda self, data, _: one)
    tracemalloc.start()
    source = settings(size=1).bind(long, Reading(workers=1))
    kept, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert source.digests[-1] == rows - 1
    # present, spacing, digest and pixels are 20 bytes per row; a Python object alone would be 28 or more.
    assert kept < 24 * rows
    assert most < 60 * rows


def test_digests_follow_the_content(tmp_path: Path) -> None:
    coloured(tmp_path, 3)
    (tmp_path / "copy.png").write_bytes((tmp_path / "1.png").read_bytes())
    digests = settings().bind(table(tmp_path, image=["0.png", "1.png", "2.png", "copy.png"])).digests
    assert len(set(digests.tolist())) == 3
    assert digests[1] == digests[3]
    smaller = settings(size=15).bind(table(tmp_path, image=["0.png"])).digests
    assert smaller[0] != digests[0]


def test_no_thread_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = coloured(tmp_path, 10)
    before = set(threading.enumerate())
    kept = settings().bind(table(tmp_path, image=names))
    monkeypatch.setattr(images, "_MEMORY", 0)
    source = settings().bind(table(tmp_path, image=names))
    source.read(np.arange(10))
    assert set(threading.enumerate()) <= before
    assert isinstance(kept, ImageSource)


def test_paths_of_other_types_are_words(tmp_path: Path) -> None:
    coloured(tmp_path, 2)
    source = settings().bind(table(tmp_path, image=[tmp_path / "0.png", Path("1.png")]))
    assert source.present.all()
    assert source.read(np.array([1]))[0, 0, 0, 0] == 1


def test_files_of_several_frames_are_said_once_also_from_the_cache(tmp_path: Path) -> None:
    names = coloured(tmp_path, 3)
    Image.new("L", (9, 9)).save(tmp_path / "a.gif", save_all=True, append_images=[Image.new("L", (9, 9), 200)])
    rows = table(tmp_path, image=[*names, "a.gif", "a.gif#frame=2", "a.gif"])
    for _ in range(2):
        source = settings().bind(rows, Reading(cache=tmp_path / "cache", cache_gb=1))
        note = source.note()
        assert note is not None
        assert note.startswith(
            "2 of 6 images in 'image' hold several frames or pages (such as a.gif): the first is read"
        )
        assert source.read(np.arange(6))[[3, 4, 5], 0, 5, 5].tolist() == [0, 200, 0]
    assert settings().bind(table(tmp_path, image=names)).note() is None


def test_too_little_memory_stops_with_the_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def short(*_: Any) -> Any:
        raise MemoryError

    names = coloured(tmp_path, 3)
    for place in ("load_pixels", "read_encoded", "opened"):
        with monkeypatch.context() as patch:
            patch.setattr(images, place, short)
            with pytest.raises(ShortageError, match=r"\.png \(column 'image', table row \d\).*data\.workers"):
                settings().bind(table(tmp_path, image=names))
