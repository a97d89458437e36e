"""Pictures in every format that Pillow writes, and DICOM files: sound, damaged, cut, joined, with absurd headers."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from _fuzz_text import damaged
from _trials import Family, Generator, Trial, WrongError
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
    SecondaryCaptureImageStorage,
)

from fusetune.data.images import ImageInput

_SIDE, _PIXELS = 16, 1_000_000
# Formats that the product says it reads; those that keep pixels as they are.
_NAMED, _EXACT = {"JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF"}, {"PNG", "TIFF", "BMP"}
_MODES = ("RGB", "L", "RGBA", "P", "1", "LA", "I;16", "I", "F", "CMYK", "YCbCr")


def _pixels() -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(0).integers(0, 256, (_SIDE, _SIDE, 3), dtype=np.uint8)


def _written() -> list[tuple[str, str, bytes]]:
    """Return small pictures: format, mode, bytes."""
    Image.init()
    found = []
    for form in sorted(Image.SAVE):
        for mode in _MODES:
            picture = Image.fromarray(_pixels())
            picture = picture.convert("I").convert("I;16") if mode == "I;16" else picture.convert(mode)
            stream = io.BytesIO()
            try:
                picture.save(stream, form, **({"lossless": True} if form == "WEBP" else {}))
            except Exception:  # many formats have not all modes, and some no writer of their own
                continue
            found.append((form, mode, stream.getvalue()))
    for form in ("GIF", "TIFF", "WEBP", "PNG", "MPO", "AVIF"):
        stream = io.BytesIO()
        first = Image.fromarray(_pixels())
        first.save(stream, form, save_all=True, append_images=[Image.fromarray(255 - _pixels())])
        found.append((form, "several", stream.getvalue()))
    return found


def _reader(folder: Path) -> Callable[[bytes], np.ndarray[Any, np.dtype[np.uint8]]]:
    reader = ImageInput(column="image", size=_SIDE, fit="stretch", pixel_limit=_PIXELS)

    def read(data: bytes) -> np.ndarray[Any, np.dtype[np.uint8]]:
        (folder / "picture").write_bytes(data)
        pixels = reader.square(reader.fetch("picture", folder))
        if pixels.shape != (_SIDE, _SIDE, 3) or pixels.dtype != np.uint8:
            raise WrongError("changed", f"an array {pixels.shape} of {pixels.dtype}")
        return pixels

    return read


def open_pictures(folder: Path) -> Callable[[Generator], Trial]:
    """Return what makes a file of a picture."""
    files, read = _written(), _reader(folder)

    def make(generator: Generator) -> Trial:
        form, mode, data = files[generator.integers(len(files))]
        how = _CHANGES[generator.integers(len(_CHANGES))]
        changed = how(data, form, generator, files)

        def use() -> None:
            pixels = read(changed)
            if changed == data and mode == "RGB" and form in _EXACT and not np.array_equal(pixels, _pixels()):
                raise WrongError("changed", "other pixels than were written")
            if form in ("EPS", "PDF") and changed == data:
                raise WrongError("program", f"a page in {form} was taken for a picture")

        return Trial(use, changed == data and form in _NAMED, f"{form} {mode}: {how.__name__}; {changed[:24]!r}")

    return make


Files = list[tuple[str, str, bytes]]


def _as_it_is(data: bytes, form: str, generator: Generator, files: Files) -> bytes:
    del form, generator, files
    return data


def _damaged(data: bytes, form: str, generator: Generator, files: Files) -> bytes:
    del form, files
    return damaged(data, generator)


def _head(data: bytes, form: str, generator: Generator, files: Files) -> bytes:
    """Put an absurd number into the first bytes."""
    del form, files
    changed = bytearray(data)
    for _ in range(generator.integers(1, 3)):
        place = int(generator.integers(0, max(1, min(len(data) - 4, 64))))
        number = (0, 1, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 0x80000000, 65536, 30000)[generator.integers(9)]
        order = ("<I", ">I", "<H", ">H")[generator.integers(4)]
        packed = struct.pack(order, number & (0xFFFF if order[1] == "H" else 0xFFFFFFFF))
        changed[place : place + len(packed)] = packed
    return bytes(changed)


def _cut(data: bytes, form: str, generator: Generator, files: Files) -> bytes:
    del form, files
    return data[: generator.integers(len(data) + 1)]


def _joined(data: bytes, form: str, generator: Generator, files: Files) -> bytes:
    """Put the beginning of one file before the rest of another."""
    del form
    other = files[generator.integers(len(files))][2]
    return data[: generator.integers(len(data) + 1)] + other[generator.integers(len(other)) :]


def _behind(data: bytes, form: str, generator: Generator, files: Files) -> bytes:
    """Put another file, or nothing but zeros, behind."""
    del form
    other = files[generator.integers(len(files))][2]
    return data + (other if generator.random() < 0.5 else bytes(int(generator.integers(1, 999))))


def _inside(data: bytes, form: str, generator: Generator, files: Files) -> bytes:
    """Change a number within the format's own structure, and mend its checksum; in other formats anything."""
    if form == "PNG":
        return _png(data, generator)
    if form == "ICO":
        return _icon(generator)
    if form in ("TIFF", "MPO"):
        return _tiff(data, generator)
    return _head(data, form, generator, files)


def _png(data: bytes, generator: Generator) -> bytes:
    """Change bytes of a chunk, and make its checksum anew."""
    chunks, place = [], 8
    while place + 12 <= len(data):
        size = int.from_bytes(data[place : place + 4], "big")
        chunks.append((data[place + 4 : place + 8], data[place + 8 : place + 8 + size]))
        place += 12 + size
    which = int(generator.integers(len(chunks)))
    name, body = chunks[which]
    chunks[which] = (name, damaged(body, generator) if body else b"\0")
    return data[:8] + b"".join(map(_chunk, chunks))


def _chunk(named: tuple[bytes, bytes]) -> bytes:
    name, body = named
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def _icon(generator: Generator) -> bytes:
    """Put a picture of another size into an icon that says it is 16 x 16."""
    side = int(generator.choice([1, 16, 900, 4000]))
    raw = zlib.compress(bytes((side // 8 + 1) * side))
    head = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + b"".join(map(_chunk, [(b"IHDR", head), (b"IDAT", raw), (b"IEND", b"")]))
    return struct.pack("<HHH", 0, 1, 1) + struct.pack("<BBBBHHII", 16, 16, 0, 0, 1, 32, len(png), 22) + png


def _tiff(data: bytes, generator: Generator) -> bytes:
    """Change one number of the first directory."""
    order = "<" if data[:2] == b"II" else ">"
    start = struct.unpack_from(order + "I", data, 4)[0] if len(data) > 8 else 0
    changed = bytearray(data)
    if data[:2] not in (b"II", b"MM") or start + 2 > len(data):
        return _head(data, "", generator, [])
    count = struct.unpack_from(order + "H", data, start)[0]
    entry = start + 2 + 12 * int(generator.integers(max(1, count)))
    number = (0, 1, 2, 3, 5, 6, 8, 16, 32, 255, 65535, 2**31, 2**32 - 1)[generator.integers(13)]
    if entry + 12 <= len(data):
        field = int(generator.choice([8, 8, 8, 4, 2]))
        struct.pack_into(
            order + ("H" if field == 2 else "I"),
            changed,
            entry + field,
            number & (0xFFFF if field == 2 else 0xFFFFFFFF),
        )
    return bytes(changed)


Change = Callable[[bytes, str, Generator, Files], bytes]
_CHANGES: tuple[Change, ...] = (_as_it_is, _damaged, _damaged, _head, _cut, _joined, _behind, _inside, _inside)


def _dicom(**more: Any) -> Dataset:
    """Return a grey picture that spans all values of a byte, with other elements."""
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID = SecondaryCaptureImageStorage
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID = UID("1.2.3")
    made.file_meta.TransferSyntaxUID = more.pop("syntax", ExplicitVRLittleEndian)
    made.PhotometricInterpretation, made.SamplesPerPixel, made.PixelRepresentation = "MONOCHROME2", 1, 0
    made.Rows = made.Columns = _SIDE
    made.BitsAllocated = made.BitsStored = 8
    made.HighBit, made.PixelData = 7, bytes(range(256))
    for name, value in more.items():
        setattr(made, name, value)
    return made


def _dicoms() -> list[Callable[[], Dataset]]:
    deep = {"BitsAllocated": 16, "BitsStored": 12, "HighBit": 11, "PixelData": np.arange(256, dtype="<u2").tobytes()}
    colour = {"PhotometricInterpretation": "RGB", "SamplesPerPixel": 3, "PlanarConfiguration": 0}
    table = (257 * np.arange(256)).astype("<u2").tobytes()
    palette: dict[str, Any] = {"PhotometricInterpretation": "PALETTE COLOR"}
    for name in ("Red", "Green", "Blue"):
        palette[f"{name}PaletteColorLookupTableDescriptor"] = [256, 0, 16]
        palette[f"{name}PaletteColorLookupTableData"] = table
    stream = io.BytesIO()
    Image.fromarray(_pixels()).save(stream, "JPEG")
    jpeg = {"syntax": JPEGBaseline8Bit, "PixelData": encapsulate([stream.getvalue()])} | colour
    return [
        _dicom,
        lambda: _dicom(syntax=ImplicitVRLittleEndian),
        lambda: _dicom(syntax=DeflatedExplicitVRLittleEndian),
        lambda: _dicom(syntax=ExplicitVRBigEndian),
        lambda: _dicom(PhotometricInterpretation="MONOCHROME1"),
        lambda: _dicom(**deep),
        lambda: _dicom(**(deep | {"PixelRepresentation": 1, "RescaleSlope": "2", "RescaleIntercept": "-1024"})),
        lambda: _dicom(**(colour | {"PixelData": _pixels().tobytes()})),
        lambda: _dicom(**palette),
        lambda: _dicom(NumberOfFrames=2, PixelData=bytes(range(256)) * 2),
        lambda: _dicom(WindowCenter="128", WindowWidth="256"),
        lambda: _dicom(**jpeg),
    ]


_ABSURD: dict[str, tuple[Any, ...]] = {
    "Rows": (0, 1, 15, 17, 65535), "Columns": (0, 1, 15, 17, 65535), "BitsStored": (0, 1, 8, 12, 16, 99),
    "BitsAllocated": (0, 1, 7, 8, 16, 32, 64), "HighBit": (0, 7, 15, 99), "PixelRepresentation": (0, 1, 2),
    "SamplesPerPixel": (0, 1, 2, 3, 4), "PlanarConfiguration": (0, 1, 9),
    "NumberOfFrames": ("0", "-1", "2", "999999", "2147483647"),
    "PhotometricInterpretation": ("", "MONOCHROME1", "RGB", "YBR_FULL", "YBR_FULL_422", "PALETTE COLOR", "NONSENSE"),
    "RescaleSlope": ("0", "-1", "1e308", "1e-308", "nan", "inf", "", "abc"),
    "RescaleIntercept": ("0", "-1e308", "1e308", "nan", "", "1\\2"),
    "WindowCenter": ("0", "1e308", "nan", "", "1\\2", "abc"),
    "WindowWidth": ("0", "-5", "1e308", "1e-308", "nan", "", "1\\2"),
    "VOILUTFunction": ("SIGMOID", "LINEAR_EXACT", "NONSENSE"), "PixelPaddingValue": (0, 255, 65535),
    "PixelData": (b"", b"\0", bytes(255), bytes(100_000)),
}  # fmt: skip
_LIGHT = {"RescaleSlope", "RescaleIntercept"}


def open_dicoms(folder: Path) -> Callable[[Generator], Trial]:
    """Return what makes a DICOM file."""
    read, made = _reader(folder), _dicoms()
    for mode in ("reading", "writing"):
        setattr(pydicom.config.settings, f"{mode}_validation_mode", pydicom.config.IGNORE)

    def make(generator: Generator) -> Trial:
        dataset = made[generator.integers(len(made))]()
        changed = [
            str(name) for name in generator.choice(list(_ABSURD), int(generator.choice([0, 1, 1, 2])), replace=False)
        ]
        said = {name: _ABSURD[name][generator.integers(len(_ABSURD[name]))] for name in changed}
        data = _dicom_bytes(dataset, said)
        broken = bool(generator.random() < 0.4)
        if broken:
            data = damaged(data, generator)

        def use() -> None:
            pixels = read(data)
            flat = pixels.min() == pixels.max()
            if not broken and flat and set(changed) <= _LIGHT and said.get("RescaleSlope") not in ("0",):
                raise WrongError("changed", "a picture of one grey, of a file that holds 256")

        note = f"{dataset.file_meta.TransferSyntaxUID.name} {said}" + (", damaged bytes" if broken else "")
        return Trial(use, not broken and not changed, note)

    return make


def _dicom_bytes(dataset: Dataset, said: dict[str, Any]) -> bytes:
    stream = io.BytesIO()
    try:
        for name, value in said.items():
            setattr(dataset, name, value)
        dataset.save_as(stream, enforce_file_format=True)
    except Exception:  # pydicom does not write everything that a damaged file may hold
        stream = io.BytesIO()
        _dicom().save_as(stream, enforce_file_format=True)
        said.clear()
    return stream.getvalue()


PICTURES = [Family("pictures", open_pictures), Family("dicom", open_dicoms)]
