"""Decoding: the strict JPEG decoder and Pillow agree, at every scale; and half a picture is never a picture."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zlib
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import simplejpeg
from PIL import Image, ImageOps

from fusetune.data import decode, spread
from fusetune.data.decode import is_one_of_several, load_pixels, opened
from fusetune.data.square import resize, to_scale, to_square
from fusetune.data.stored import Encoded
from fusetune.errors import ImageError, ShortageError

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


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(values: npt.NDArray[Any], bits: int, kind: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG file of any depth, byte by byte."""
    height, width = values.shape[:2]
    rows = values.reshape(height, -1).astype(np.int64)
    unpacked = (rows[:, :, None] >> np.arange(bits - 1, -1, -1)) & 1
    packed = np.packbits(unpacked.reshape(height, -1).astype(np.uint8), axis=1)
    data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in packed))
    head = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    parts = [(b"IHDR", head), *chunks, (b"IDAT", data), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def own_range(values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    numbers = values.astype(np.float64)
    return np.asarray((numbers - numbers.min()) / (numbers.max() - numbers.min()) * 255)


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_colour_that_is_transparent_in_every_depth(bits: int, channels: int) -> None:
    if channels == 3 and bits < 8:
        return  # there is no such file
    values = np.random.default_rng(bits).integers(1, 2**bits, (6, 10, channels))
    values[2, 3] = values[4, 4] = 0 if bits == 1 else values[0, 0]
    hidden = (values == values[2, 3]).all(2)
    expected = own_range(values) if bits == 16 else values / (2**bits - 1) * 255
    expected[hidden] = 255
    plain = load(png(values, bits, channels - 1, (b"tRNS", struct.pack(f">{channels}H", *values[2, 3].tolist()))))
    assert np.abs(plain - expected).max() <= 1


@pytest.mark.parametrize("bits", [8, 16])
def test_grey_with_alpha_in_every_depth(bits: int) -> None:
    values = np.random.default_rng(bits).integers(0, 2**bits, (6, 10, 2))
    alpha = values[..., 1:] / (2**bits - 1)
    grey = own_range(values[..., :1]) if bits == 16 else values[..., :1]
    assert np.abs(load(png(values, bits, 4)) - (alpha * grey + (1 - alpha) * 255)).max() <= 1.01


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_palettes_with_transparent_colours(bits: int) -> None:
    generator = np.random.default_rng(bits)
    palette, alphas = generator.integers(0, 256, (2**bits, 3)), generator.integers(0, 256, 2**bits)
    values = generator.integers(0, 2**bits, (6, 10))
    share = alphas[values][..., None] / 255
    data = png(values, bits, 3, (b"PLTE", bytes(palette.ravel().tolist())), (b"tRNS", bytes(alphas.tolist())))
    assert np.abs(load(data) - (share * palette[values] + (1 - share) * 255)).max() <= 1.01


def bitmap(alpha: int) -> bytes:
    """A bitmap of 32 bits whose header says that the fourth byte is alpha: red above, blue below."""
    pixels = np.zeros((32, 32, 4), np.uint8)
    pixels[:16, :, 2], pixels[16:, :, 0], pixels[..., 3] = 200, 200, alpha
    head = struct.pack("<IiiHHIIiiII", 108, 32, 32, 1, 32, 3, pixels.nbytes, 0, 0, 0, 0)
    head += struct.pack("<5I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000, 0x73524742) + bytes(48)
    return (
        b"BM"
        + struct.pack("<IHHI", 14 + len(head) + pixels.nbytes, 0, 0, 14 + len(head))
        + head
        + pixels[::-1].tobytes()
    )


def test_a_bitmap_whose_alpha_is_0_everywhere_is_opaque() -> None:
    for alpha in (0, 255):
        pixels = load(bitmap(alpha))
        assert (pixels[:16] == [200, 0, 0]).all() and (pixels[16:] == [0, 0, 200]).all()
    assert np.abs(load(bitmap(128))[0, 0].astype(int) - [227, 127, 127]).max() <= 1


def test_printing_colours_are_turned_round_where_adobe_says_so_only() -> None:
    data = jpeg(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), quality=95)
    assert np.abs(load(data)[8, 8].astype(int) - [255, 0, 0]).max() <= 3
    place = data.index(b"\xff\xee")
    plain = data[:place] + data[place + 2 + int.from_bytes(data[place + 2 : place + 4], "big") :]
    assert (load(plain) <= 3).all(), "255 of the last ink is black"


SERIES = ["GIF", "WEBP", "PNG", "TIFF", "AVIF"]


def series(kind: str) -> bytes:
    """A file of a red, a green and a blue frame."""
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("#ff0000", "#00ff00", "#0000ff")]
    data = io.BytesIO()
    frames[0].save(data, kind, save_all=True, append_images=frames[1:])
    return data.getvalue()


@pytest.mark.parametrize("kind", SERIES)
def test_frames_and_pages_are_counted_from_1(kind: str) -> None:
    data = series(kind)
    for frame, channel in ((None, 0), (1, 0), (2, 1), (3, 2)):
        encoded = Encoded(data, frame)
        with opened(encoded, 10**6) as picture:
            pixels = load_pixels(picture, encoded, (20, 20), 255)
        assert np.abs(pixels[8, 8].astype(int) - np.eye(3)[channel] * 255).max() <= 6
        assert is_one_of_several(encoded, 10**6) == (frame is None)
    for frame in (0, 4, 10**12):
        text = f"there is no frame {frame}: frames are counted from 1 to 3"
        with pytest.raises(ImageError, match=text), opened(Encoded(data, frame), 10**6):
            pass


def test_a_deep_page_is_the_one_that_is_named() -> None:
    pages = [np.full((8, 8, 3), level, np.uint16) for level in (0, 0)]
    pages[0][:4], pages[1][4:] = 4000, 4000
    encoded = Encoded(cv2.imencodemulti(".tiff", pages)[1].tobytes(), 2)
    with opened(encoded, 10**6) as picture:
        assert (load_pixels(picture, encoded, (8, 8), 255)[:, 0, 0] == [0] * 4 + [255] * 4).all()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "AVIF", "JPEG2000", "PPM", "MPO"])
def test_a_picture_alone_is_no_series(kind: str) -> None:
    data = io.BytesIO()
    extra = {"save_all": True, "append_images": [scene(16, 16)]} if kind == "MPO" else {}
    scene(16, 16).save(data, kind, **extra)
    encoded = Encoded(data.getvalue())
    assert not is_one_of_several(encoded, 10**6), "and what a telephone puts beside its picture makes none"
    assert load(data.getvalue()).shape == (16, 16, 3)


@pytest.mark.parametrize("kind", ["DDS", "EPS", "ICNS", "ICO", "MSP", "PCX", "PDF", "SGI", "TGA", "XBM"])
def test_only_the_formats_that_the_message_names_are_opened(kind: str) -> None:
    data = io.BytesIO()
    scene(64, 64).convert("1" if kind in ("XBM", "MSP") else "RGB").save(data, kind)
    with pytest.raises(ImageError, match=r"not an image in a known format \(JPEG, .*, DICOM\)"):
        load(data.getvalue())


def test_no_other_program_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    def started(*_: Any, **__: Any) -> Any:
        raise AssertionError("a program was started")

    monkeypatch.setattr("subprocess.Popen", started)
    for text in (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n", b"%PDF-1.4\n"):
        with pytest.raises(ImageError, match="not an image in a known format"):
            load(text)


@pytest.mark.parametrize("canvas", [(20_000, 20_000), (2**24, 200)])
def test_the_canvas_of_webp_is_looked_at_before_room_is_made_for_it(canvas: tuple[int, int]) -> None:
    sides = b"".join((side - 1).to_bytes(3, "little") for side in canvas)
    body = b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4) + sides
    encoded = Encoded(b"RIFF" + struct.pack("<I", len(body)) + body)
    with pytest.raises(ImageError, match=r"pixels are more than data\.pixel_limit"), opened(encoded, 10**6):
        pass


@pytest.mark.parametrize("form", ["grey", "colours", "palette", "float"])
def test_large_pictures_are_made_in_strips(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    values = generator.integers(0, 4000, (50, 40, 4))
    data = {
        "grey": png(values[..., 0], 16, 0),
        "colours": png(values, 16, 6),
        "palette": png(values[..., 0] % 4, 2, 3, (b"PLTE", bytes(range(12))), (b"tRNS", b"\0\x80")),
        "float": cv2.imencode(".tiff", generator.random((50, 40)).astype(np.float32))[1].tobytes(),
    }[form]
    whole = load(data)
    monkeypatch.setattr(spread, "_STRIP", 100)
    assert np.array_equal(load(data), whole)


def test_a_deep_picture_takes_no_more_memory_than_its_numbers_and_its_pixels() -> None:
    side = 1500
    data = png(np.arange(side**2).reshape(side, side) % 65536, 16, 0)
    load(data)
    tracemalloc.start()
    load(data)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 20 * side**2 + 40 * 2**20, "strips of floats are a constant"


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        cv2.error("OpenCV(5.0.0) error: (-4:Insufficient memory) Failed to allocate 800000000 bytes"),
        OSError("out of memory error when reading image file"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
        ValueError("Insufficient memory (case 4)"),
    ],
)
def test_too_little_memory_is_never_a_damaged_image(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise error

    with pytest.raises(ShortageError, match="not enough memory"), opened(Encoded(jpeg(scene(9, 9))), 100):
        raise error
    monkeypatch.setattr(simplejpeg, "decode_jpeg", fail)
    with pytest.raises(ShortageError):
        load(jpeg(scene(9, 9)))
