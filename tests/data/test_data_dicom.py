"""DICOM: every kind of pixel comes out as the formulas of the standard say; everything else is refused by name."""

from __future__ import annotations

import io
import math
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from PIL import Image
from pydicom import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    RLELossless,
)

from fusetune.data import spread
from fusetune.data.choices import Kind
from fusetune.data.decode import load_pixels, opened
from fusetune.data.images import ImageInput
from fusetune.data.kinds import infer_kind
from fusetune.data.stored import Encoded, read_encoded
from fusetune.doctor.images import _state
from fusetune.errors import ImageError

Array = npt.NDArray[Any]
INPUT = ImageInput(column="image", size=8, fit="stretch")
NAME = "Doe^Jane"


def dataset(stored: Array, bits: int | None = None, syntax: str = ExplicitVRLittleEndian, **elements: Any) -> Dataset:
    """A file in memory: `stored` is [rows, columns], [frames, rows, columns] or, with three samples, [.., 3]."""
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = syntax
    made.PatientName = NAME
    samples = 3 if stored.shape[-1] == 3 else 1
    shape = stored.shape[: stored.ndim - (samples == 3)]
    made.Rows, made.Columns = shape[-2:]
    if len(shape) == 3:
        made.NumberOfFrames = shape[0]
    made.SamplesPerPixel = samples
    made.PhotometricInterpretation = "RGB" if samples == 3 else "MONOCHROME2"
    if samples == 3:
        made.PlanarConfiguration = 0
    made.BitsAllocated = 8 * stored.dtype.itemsize
    made.BitsStored = bits or made.BitsAllocated
    made.HighBit = made.BitsStored - 1
    made.PixelRepresentation = int(stored.dtype.kind == "i")
    data = stored.tobytes()
    made.PixelData = data + b"\0" * (len(data) % 2)
    made["PixelData"].VR = "OW" if made.BitsAllocated > 8 else "OB"
    for name, value in elements.items():
        setattr(made, name, value)
    return made


def written(made: Dataset) -> bytes:
    file = io.BytesIO()
    made.save_as(file, enforce_file_format=False)
    return file.getvalue()


def with_preamble(made: Dataset) -> bytes:
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID = "1.2.3"
    file = io.BytesIO()
    made.save_as(file, enforce_file_format=True)
    return file.getvalue()


def load(made: Dataset) -> Array:
    return decoded(Encoded(with_preamble(made)))


def decoded(encoded: Encoded, limit: int = 10**6) -> Array:
    with opened(encoded, limit) as picture:
        pixels = load_pixels(picture, encoded, (1, 1), 255)
        assert pixels.shape[:2] == picture.size[::-1]
    assert pixels.dtype == np.uint8
    return pixels


def decode(reader: ImageInput, value: str, root: Path) -> Array:
    return reader.square(reader.fetch(value, root))


def grey(pixels: Array) -> Array:
    assert (pixels == pixels[..., :1]).all()
    return pixels[..., 0]


def naive(values: Array, center: float, width: float, function: str = "LINEAR") -> Array:
    """The standard's pseudo-code, one pixel at a time."""
    out = np.empty(values.shape)
    for place, x in np.ndenumerate(values.astype(float)):
        if function == "SIGMOID":
            out[place] = 255 / (1 + math.exp(-4 * (x - center) / width))
        elif function == "LINEAR_EXACT":
            low, high = center - width / 2, center + width / 2
            out[place] = 0 if x <= low else 255 if x > high else ((x - center) / width + 0.5) * 255
        else:
            low, high = center - 0.5 - (width - 1) / 2, center - 0.5 + (width - 1) / 2
            out[place] = 0 if x <= low else 255 if x > high else ((x - (center - 0.5)) / (width - 1) + 0.5) * 255
    return out.round().astype(np.uint8)


def ramp(dtype: str, low: int, high: int) -> Array:
    return np.linspace(low, high, 30).reshape(5, 6).astype(dtype)


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_hounsfield_units_go_through_the_window(function: str, syntax: str) -> None:
    stored = ramp("<u2", 0, 4000)
    elements = {"RescaleSlope": 2, "RescaleIntercept": -1024, "WindowCenter": 40, "WindowWidth": 400}
    pixels = load(dataset(stored, 12, syntax, VOILUTFunction=function, **elements))
    assert (grey(pixels) == naive(stored.astype(float) * 2 - 1024, 40, 400, function)).all()


def test_signed_values_and_the_first_of_several_windows() -> None:
    stored = ramp("<i2", -1000, 1000)
    pixels = load(dataset(stored, WindowCenter=[-50, 300], WindowWidth=[600, 10]))
    assert (grey(pixels) == naive(stored, -50, 600)).all()


@pytest.mark.parametrize("dtype", ["u1", "<u2", "<i2"])
@pytest.mark.parametrize(
    "window", [{}, {"WindowCenter": None, "WindowWidth": None}, {"WindowCenter": 9, "WindowWidth": 0}]
)
def test_without_a_window_the_own_range_is_used(dtype: str, window: dict[str, Any]) -> None:
    stored = ramp(dtype, 20, 120)
    expected = ((stored.astype(float) - 20) / 100 * 255).round()
    assert (grey(load(dataset(stored, **window))) == expected).all()
    assert (load(dataset(np.full((4, 4), 7, dtype), **window)) == 0).all()


def test_a_window_one_wide_is_a_threshold() -> None:
    pixels = grey(load(dataset(ramp("u1", 0, 29), WindowCenter=10, WindowWidth=1)))
    assert pixels.ravel().tolist() == [0] * 10 + [255] * 20


def test_inverted_grey() -> None:
    stored = ramp("u1", 0, 255)
    pixels = load(dataset(stored, PhotometricInterpretation="MONOCHROME1", WindowCenter=128, WindowWidth=256))
    assert (grey(pixels) == 255 - naive(stored, 128, 256)).all()


def test_padding_does_not_widen_the_range() -> None:
    stored = ramp("<i2", 0, 290)
    stored[0, 0] = -2000
    pixels = grey(load(dataset(stored, PixelPaddingValue=-2000)))
    assert pixels[0, 0] == 0 and pixels[0, 1] == 0 and pixels[-1, -1] == 255
    assert len(np.unique(pixels)) == 29
    pixels = grey(load(dataset(stored, PixelPaddingValue=-2000, PixelPaddingRangeLimit=10)))
    assert pixels[0, 2] == 0


def test_a_table_of_grey_values_is_followed() -> None:
    table = Dataset()
    table.LUTDescriptor, table.LUTData = [256, 0, 12], [(i * 997) % 4096 for i in range(256)]
    table["LUTData"].VR = "US"
    stored = ramp("u1", 0, 255)
    pixels = load(dataset(stored, VOILUTSequence=[table], WindowCenter=1, WindowWidth=2))
    assert (grey(pixels) == ((stored.astype(int) * 997) % 4096 / 4095 * 255).round()).all()


@pytest.mark.parametrize("planar", [0, 1])
@pytest.mark.parametrize("dtype", ["u1", "<u2"])
def test_colour(planar: int, dtype: str) -> None:
    top = 255 if dtype == "u1" else 65535
    stored = np.random.default_rng(0).integers(0, top, (6, 5, 3), endpoint=True).astype(dtype)
    made = dataset(stored, PlanarConfiguration=planar)
    made.PixelData = (np.moveaxis(stored, 2, 0) if planar else stored).tobytes()
    assert (load(made) == (stored / top * 255).round()).all()


def test_luminance_and_chrominance_become_colour() -> None:
    stored = np.random.default_rng(1).integers(60, 190, (4, 4, 3)).astype("u1")
    y, cb, cr = np.moveaxis(stored.astype(float), 2, 0)
    red, blue = y + 1.402 * (cr - 128), y + 1.772 * (cb - 128)
    green = (y - 0.299 * red - 0.114 * blue) / 0.587
    expected = np.stack([red, green, blue], 2).clip(0, 255)
    pixels = load(dataset(stored, PhotometricInterpretation="YBR_FULL"))
    assert np.abs(pixels - expected).max() <= 1.5


@pytest.mark.parametrize("bits", [8, 16])
def test_palette(bits: int) -> None:
    stored = np.arange(20, dtype="u1").reshape(4, 5)
    palettes = np.random.default_rng(2).integers(0, 2**bits, (3, 20)).astype(f"<u{bits // 8}")
    elements: dict[str, Any] = {"PhotometricInterpretation": "PALETTE COLOR"}
    for name, palette in zip(("Red", "Green", "Blue"), palettes, strict=True):
        elements[f"{name}PaletteColorLookupTableDescriptor"] = [20, 0, bits]
        elements[f"{name}PaletteColorLookupTableData"] = palette.tobytes()
    assert (load(dataset(stored, **elements)) == (palettes.T[stored] / (2**bits - 1) * 255).round()).all()


FRAMES = np.stack([np.full((4, 6), 10 * frame, "u1") for frame in range(1, 6)])
WIDE = {"WindowCenter": 128, "WindowWidth": 256}


@pytest.mark.parametrize(("suffix", "frame"), [("", 3), ("#frame=1", 1), ("#frame=2", 2), ("#frame=5", 5)])
def test_frames_are_chosen_by_the_path(tmp_path: Path, suffix: str, frame: int) -> None:
    (tmp_path / "film.dcm").write_bytes(with_preamble(dataset(FRAMES, **WIDE)))
    pixels = decode(INPUT, f"film.dcm{suffix}", tmp_path)
    assert (pixels == 10 * frame).all()


def test_the_middle_of_an_even_number_is_the_earlier_one() -> None:
    assert (load(dataset(FRAMES[:4], **WIDE)) == 20).all()


@pytest.mark.parametrize("frame", [0, 6, 10**12])
def test_a_frame_that_does_not_exist(tmp_path: Path, frame: int) -> None:
    (tmp_path / "film.dcm").write_bytes(with_preamble(dataset(FRAMES)))
    with pytest.raises(ImageError, match=rf"there is no frame {frame}: frames are counted from 1 to 5"):
        decode(INPUT, f"film.dcm#frame={frame}", tmp_path)


def test_other_files_have_frames_too(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    assert (decode(INPUT, "a.png#frame=1", tmp_path) == 0).all()
    with pytest.raises(ImageError, match="there is no frame 2: frames are counted from 1 to 1"):
        decode(INPUT, "a.png#frame=2", tmp_path)
    with pytest.raises(ImageError, match="there is no such file"):
        decode(INPUT, "b.dcm#frame=1", tmp_path)


def test_a_frame_does_not_lead_out_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "film.dcm").write_bytes(with_preamble(dataset(FRAMES)))
    inside = tmp_path / "inside"
    inside.mkdir()
    assert read_encoded("../film.dcm#frame=1", inside, False).frame == 1
    with pytest.raises(ImageError):
        read_encoded("../film.dcm#frame=1", inside, False, confined=True)


def test_each_frame_has_a_digest_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "film.dcm").write_bytes(with_preamble(dataset(FRAMES)))
    paths = ["film.dcm", "film.dcm#frame=3", "film.dcm#frame=4", "film.dcm#frame=4"]
    digests = [INPUT.digest(read_encoded(path, tmp_path, False), math.nan) for path in paths]
    assert len(set(digests)) == 3 and digests[2] == digests[3]


def test_the_grey_scale_of_an_enhanced_file_is_that_of_the_frame() -> None:
    def groups(center: float, slope: float) -> Dataset:
        window, rescale, group = Dataset(), Dataset(), Dataset()
        window.WindowCenter, window.WindowWidth = center, 100
        rescale.RescaleSlope, rescale.RescaleIntercept = slope, 5
        group.FrameVOILUTSequence, group.PixelValueTransformationSequence = [window], [rescale]
        return group

    stored = np.stack([ramp("<u2", 0, 200)] * 3)
    shared = groups(1, 1)
    made = dataset(stored, SharedFunctionalGroupsSequence=[shared])
    made.PerFrameFunctionalGroupsSequence = [groups(40, 1), groups(90, 2), groups(20, 3)]
    assert (grey(load(made)) == naive(stored[1] * 2.0 + 5, 90, 100)).all()


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian])
def test_files_without_a_preamble_are_recognised(syntax: str, tmp_path: Path) -> None:
    stored = ramp("u1", 0, 255)
    made = dataset(stored, syntax=syntax, SOPClassUID="1.2.840.10008.5.1.4.1.1.7")
    del made.file_meta
    file = io.BytesIO()
    made.save_as(file, implicit_vr=syntax == ImplicitVRLittleEndian, little_endian=True)
    assert file.getvalue()[128:132] != b"DICM"
    (tmp_path / "old").write_bytes(file.getvalue())
    for name in ("old", "old#frame=1"):
        assert (grey(decoded(read_encoded(name, tmp_path, False))) == stored).all()


def test_big_endian_files() -> None:
    stored = ramp(">u2", 0, 4000)
    made = dataset(stored, 12, ExplicitVRBigEndian, WindowCenter=2000, WindowWidth=3000)
    assert (grey(load(made)) == naive(stored, 2000, 3000)).all()


def test_run_length_encoding() -> None:
    made = dataset(FRAMES, **WIDE)
    made.compress(RLELossless, generate_instance_uid=False)
    assert (load(made) == 30).all()


def jpeg_file(picture: Image.Image, cut: float = 1) -> Dataset:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=95)
    data = file.getvalue()
    made = dataset(np.asarray(picture), syntax=JPEGBaseline8Bit)
    made.PixelData = encapsulate([data[: int(len(data) * cut)] + (b"" if cut == 1 else b"\xff\xd9")])
    made["PixelData"].VR, made["PixelData"].is_undefined_length = "OB", True
    return made


def test_jpeg_inside() -> None:
    stored = np.linspace(0, 255, 64 * 64).reshape(64, 64).astype("u1")
    made = jpeg_file(Image.fromarray(stored))
    made.WindowCenter, made.WindowWidth = 128, 256
    assert np.abs(grey(load(made)).astype(int) - stored).max() <= 4
    with pytest.raises(ImageError, match="damaged image"):
        load(jpeg_file(Image.fromarray(stored), 0.7))


def test_colour_jpeg_inside() -> None:
    x, y = np.meshgrid(np.linspace(0, 255, 64), np.linspace(0, 255, 64))
    stored = np.stack([x, y, 255 - x], 2).astype("u1")
    made = jpeg_file(Image.fromarray(stored))
    made.PhotometricInterpretation = "YBR_FULL_422"
    assert np.abs(load(made).astype(int) - stored).mean() < 4


def test_a_compression_that_nothing_decodes_is_named_with_the_remedy() -> None:
    made = jpeg_file(Image.new("L", (8, 8)))
    made.file_meta.TransferSyntaxUID = JPEGLosslessSV1
    with pytest.raises(ImageError, match=r"JPEG Lossless.*1\.2\.840\.10008\.1\.2\.4\.70.*pylibjpeg.*gdcmconv --raw"):
        load(made)
    made.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.100"  # a film in MPEG2
    with pytest.raises(ImageError, match="MPEG2"):
        load(made)


def test_a_file_without_pixels() -> None:
    made = dataset(FRAMES)
    del made.PixelData
    with pytest.raises(ImageError, match=r"holds no image.*PixelData missing"):
        load(made)


@pytest.mark.parametrize("share", [0.05, 0.3, 0.5, 0.9, 0.99])
@pytest.mark.filterwarnings("default")
def test_a_truncated_file_is_never_a_picture(share: float) -> None:
    data = with_preamble(dataset(ramp("<u2", 0, 4000).repeat(20, 0)))
    with pytest.raises(ImageError):
        decoded(Encoded(data[: int(len(data) * share)]))


@pytest.mark.filterwarnings("default")
def test_the_doctor_calls_a_truncated_file_truncated() -> None:
    data = with_preamble(dataset(ramp("<u2", 0, 4000).repeat(20, 0)))
    with pytest.raises(ImageError) as caught:
        decoded(Encoded(data[:-200]))
    assert _state(caught.value, Path("none")) == "image_truncated"


def test_too_many_pixels_are_refused_before_they_are_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    made = dataset(FRAMES)
    made.Rows = made.Columns = 20000
    monkeypatch.setattr("fusetune.data.dicom.pixel_array", None)
    with pytest.raises(ImageError, match=r"20,000 x 20,000 pixels are more than data.pixel_limit=1,000,000"):
        load(made)


def test_no_error_speaks_of_the_patient() -> None:
    broken = [dataset(FRAMES, PhotometricInterpretation="CMYK"), dataset(FRAMES, BitsAllocated=24)]
    del broken[0].PixelData
    for made in broken:
        with pytest.raises(ImageError) as caught:
            load(made)
        assert "Doe" not in str(caught.value)


def test_without_pydicom_the_command_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    data = with_preamble(dataset(FRAMES))
    monkeypatch.setitem(sys.modules, "pydicom", None)
    monkeypatch.delitem(sys.modules, "fusetune.data.dicom", raising=False)
    with pytest.raises(ImageError, match=r"pip install 'fusetune\[dicom\]'"):
        decoded(Encoded(data))


@pytest.mark.parametrize("name", ["s{}.DCM", "f.dcm#frame={}", "f.dicom"])
def test_paths_of_dicom_files_are_images(name: str) -> None:
    kind, reason, _ = infer_kind(pd.Series([name.format(i) for i in range(12)]))
    assert kind is Kind.IMAGE, reason


@pytest.mark.parametrize(
    ("elements", "text"),
    [
        ({"RescaleSlope": "1e308", "RescaleIntercept": "1e308"}, "no pixel holds a finite number"),
        ({"RescaleSlope": "1e38", "RescaleIntercept": "1e37"}, "not every pixel holds a finite number"),
        ({"RescaleSlope": "-1e308", "RescaleIntercept": 0}, "no pixel holds a finite number"),
        ({"RescaleSlope": 0, "RescaleIntercept": 0}, "RescaleSlope of its header is 0"),
        ({"WindowCenter": "1e308", "WindowWidth": 100}, "no pixel holds a finite number"),
        ({"WindowCenter": 40, "WindowWidth": -400}, "WindowWidth of its header is -400"),
        ({"WindowCenter": 1e9, "WindowWidth": 10}, "shows nothing of the numbers"),
        ({"WindowCenter": -5000, "WindowWidth": 100}, "shows nothing of the numbers"),
        ({"WindowCenter": 100, "WindowWidth": 1e12}, "shows nothing of the numbers"),
        ({"RescaleSlope": 1e-9, "RescaleIntercept": 0, "WindowCenter": 40, "WindowWidth": 400}, "shows nothing"),
        ({"PixelPaddingValue": 0, "PixelPaddingRangeLimit": 255}, "no pixel holds a finite number"),
        ({"BitsStored": 12, "HighBit": 11}, "Bits Stored"),
        ({"HighBit": 3}, "puts the 8 bits of a pixel below bit 3"),
        ({"PhotometricInterpretation": "CONFUSED"}, "CONFUSED"),
        ({"BitsAllocated": 0}, "image"),
        ({"NumberOfFrames": -1}, "there is no frame|image"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_absurd_numbers_in_the_header_never_make_a_black_picture(elements: dict[str, Any], text: str) -> None:
    made = dataset(ramp("u1", 0, 255))
    for name, value in elements.items():
        setattr(made, name, value)
    with pytest.raises(ImageError, match=text):
        load(made)


@pytest.mark.parametrize("word", ["NaN", "inf", "-inf"])
@pytest.mark.parametrize("name", ["RescaleSlope", "RescaleIntercept", "WindowCenter", "WindowWidth"])
@pytest.mark.filterwarnings("ignore")
def test_numbers_that_are_none(name: str, word: str) -> None:
    elements = {"RescaleSlope": 1, "RescaleIntercept": 0, "WindowCenter": 128, "WindowWidth": 256}
    data = with_preamble(dataset(ramp("u1", 0, 255), **(elements | {name: "77777777"})))
    with pytest.raises(ImageError):
        decoded(Encoded(data.replace(b"77777777", word.encode().ljust(8))))


@pytest.mark.parametrize(
    ("descriptor", "entries", "text"),
    [
        ([256, 0, 12], [0] * 256, "makes all pixels alike"),
        ([256, 0, 16], list(range(256)), "makes all pixels alike"),
        ([256, 0, 12], list(range(100)), "has 100 entries and says 256"),
        ([256, 0, 0], list(range(256)), "image"),
    ],
)
def test_tables_of_grey_values_that_cannot_be_followed(descriptor: list[int], entries: list[int], text: str) -> None:
    table = Dataset()
    table.LUTDescriptor, table.LUTData = descriptor, entries
    table["LUTData"].VR = "US"
    with pytest.raises(ImageError, match=text):
        load(dataset(ramp("u1", 0, 255), VOILUTSequence=[table]))


def test_a_slice_of_nothing_but_air_may_be_black() -> None:
    """The window fits what a pixel can hold; that no pixel holds it is no fault of the header."""
    made = dataset(ramp("<u2", 0, 90), 12, RescaleSlope=1, RescaleIntercept=-1024, WindowCenter=300, WindowWidth=1500)
    assert (load(made) == 0).all()


def test_colours_of_fewer_bits_than_a_byte_fill_the_range() -> None:
    stored = np.random.default_rng(0).integers(0, 16, (4, 5, 3)).astype("u1")
    assert (load(dataset(stored, 4)) == stored * 17).all()


def test_a_picture_inside_that_is_larger_than_the_header_says_is_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    made = jpeg_file(Image.new("L", (64, 64)))
    made.Rows = made.Columns = 16
    monkeypatch.setattr("fusetune.data.decode.simplejpeg.decode_jpeg", None)
    monkeypatch.setattr("fusetune.data.dicom.pixel_array", None)
    with pytest.raises(ImageError, match="the picture inside has 64 x 64 pixels, not the 16 x 16 of the header"):
        load(made)


def test_what_unpacks_to_too_much_is_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = with_preamble(dataset(ramp("u1", 0, 255), syntax=DeflatedExplicitVRLittleEndian))
    assert (grey(decoded(Encoded(whole))) == ramp("u1", 0, 255)).all()
    end = 144 + int.from_bytes(whole[140:144], "little")
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    body = packer.compress(zlib.decompress(whole[end:], -zlib.MAX_WBITS))
    body += b"".join(packer.compress(bytes(2**20)) for _ in range(70)) + packer.flush()
    monkeypatch.setattr("fusetune.data.dicom.dcmread", None)
    with pytest.raises(ImageError, match="unpacks to more than 67,108,864 bytes"):
        decoded(Encoded(whole[:end] + body))


def test_large_pictures_are_made_in_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    stored = np.random.default_rng(1).integers(0, 4000, (50, 40)).astype("<u2")
    window = {"RescaleSlope": 2, "RescaleIntercept": -1024, "WindowCenter": 40, "WindowWidth": 400}
    made = [
        dataset(stored, 12, **window),
        dataset(stored, 12),
        dataset(stored, 12, PhotometricInterpretation="MONOCHROME1"),
    ]
    whole = [load(one) for one in made]
    monkeypatch.setattr(spread, "_STRIP", 100)
    assert all((load(one) == pixels).all() for one, pixels in zip(made, whole, strict=True))
