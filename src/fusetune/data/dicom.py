"""DICOM files as images: one frame, through the grey scale that its header asks for (PS3.3, C.7.6.3 and C.11).

Nothing of the header goes further than this file: size, frames and grey scale are read from it, and only pixels leave.
Only this file imports pydicom, and only `decode` imports this file, once there is a DICOM file to open.
"""

from __future__ import annotations

import io
import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError
from pydicom import Dataset, dcmread
from pydicom.encaps import get_frame
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_color_lut, apply_modality_lut, apply_voi
from pydicom.pixels.utils import pixel_array
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
    RLELossless,
)

from fusetune.data.spread import Numbers, Pixels, in_colour, in_strips, of_range, span, strips, usable
from fusetune.data.stored import byte_limit
from fusetune.errors import ImageError

_GREY = ("MONOCHROME1", "MONOCHROME2")
# Elements of the file's own description whose length takes four bytes after two that mean nothing (PS3.5, 7.1.2).
_LONG = (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")
_PIECE = 2**22


@dataclass(frozen=True, eq=False)
class DicomPicture:
    """A frame whose header has been read and whose pixels have not been decoded.

    Attributes:
        header: The file's elements.
        frame: Which frame, from 0.
    """

    header: Dataset
    frame: int

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return int(self.header.Columns), int(self.header.Rows)

    @property
    def count(self) -> int:
        """Number of frames in the file."""
        return _count(self.header)

    @property
    def jpeg(self) -> bytes | None:
        """The frame's own file, where it is a baseline JPEG."""
        _check_frame(self.header, self.frame, self.size)
        if self.header.file_meta.TransferSyntaxUID != JPEGBaseline8Bit:
            return None
        return _packed(self.header, self.frame)

    def pixels(self) -> Pixels:
        """Decode the frame to uint8 [height, width, 3]."""
        header = _of_frame(self.header, self.frame)
        _check_numbers(header)
        stored = pixel_array(header, index=self.frame)  # YCbCr has become RGB
        if stored.shape[:2] != self.size[::-1]:
            raise ImageError(
                f"damaged image: the pixels are {stored.shape[1]} x {stored.shape[0]}, not as the header says"
            )
        kind = str(header.PhotometricInterpretation)
        if stored.ndim == 3:
            return _colours(stored, kind, int(header.BitsStored))
        if kind == "PALETTE COLOR":
            return _from_palette(stored, header)
        if kind not in _GREY:
            raise ImageError(f"its PhotometricInterpretation '{kind}' says nothing about pixels of one channel")
        shares = _grey(stored, header)
        grey = in_strips(stored.shape, (lambda rows: 1 - shares(rows)) if kind == "MONOCHROME1" else shares)
        return in_colour(grey)


def open_dicom(data: bytes, frame: int | None, pixel_limit: int) -> DicomPicture:
    """Read the header of a DICOM file.

    Args:
        data: The file's bytes.
        frame: Which frame, from 1; None: the middle one, of an even number the earlier.
        pixel_limit: Bounds what a file that is packed as a whole may unpack to.

    Raises:
        ImageError: If the file holds no image, the frame does not exist, or nothing that is installed can decode its
            compression.
    """
    _check_unpacked(data, byte_limit(pixel_limit))
    header = dcmread(io.BytesIO(data), force=True)  # `is_dicom` has looked; old files have no preamble
    _check_whole(header, data)
    if not hasattr(header.file_meta, "TransferSyntaxUID"):
        implicit = header.original_encoding[0]
        header.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
    _check_syntax(header)
    return DicomPicture(header, _position(frame, _count(header)))


def _check_whole(header: Dataset, data: bytes) -> None:
    needed = ("PixelData", "Rows", "Columns", "BitsStored", "PhotometricInterpretation")
    missing = [name for name in needed if header.get(name) is None]
    if missing:
        raise ImageError(
            f"this DICOM file of {len(data):,} bytes holds no image or was truncated ({', '.join(missing)} missing); "
            "copy it again, or leave out reports, measurements and other files without pixels"
        )


def _check_syntax(header: Dataset) -> None:
    syntax = header.file_meta.TransferSyntaxUID
    try:
        usable = get_decoder(syntax).is_available
    except NotImplementedError:
        usable = False
    if not usable:
        raise ImageError(
            f"nothing that is installed decodes its transfer syntax '{syntax.name}' ({syntax}); pip install pylibjpeg "
            "pylibjpeg-libjpeg pylibjpeg-openjpeg, or decompress the file first: gdcmconv --raw IN.dcm OUT.dcm"
        )


def _count(header: Dataset) -> int:
    return int(header.get("NumberOfFrames") or 1)


def _position(frame: int | None, count: int) -> int:
    if frame is None:
        return (count - 1) // 2
    if not 1 <= frame <= count:
        raise ImageError(f"there is no frame {frame}: frames are counted from 1 to {count}")
    return frame - 1


def _of_frame(header: Dataset, frame: int) -> Dataset:
    """Put a frame's own grey scale in place of the file's; only enhanced multi-frame files have one."""
    shared = header.get("SharedFunctionalGroupsSequence") or []
    single = header.get("PerFrameFunctionalGroupsSequence") or []
    for groups in [*shared[:1], *single[frame : frame + 1]]:
        for name in ("PixelValueTransformationSequence", "FrameVOILUTSequence"):
            for item in groups.get(name) or []:
                header.update(item)
    return header


def _check_unpacked(data: bytes, most: int) -> None:
    """Refuse a file in the deflated transfer syntax that would unpack, whole, to too many bytes."""
    place, syntax = (132 if data[128:132] == b"DICM" else 0), b""
    while data[place : place + 2] == b"\x02\0":
        long = data[place + 4 : place + 6] in _LONG
        head = place + (12 if long else 8)
        place = head + int.from_bytes(data[head - (4 if long else 2) : head], "little")
        if data[head - 8 : head - 4] == b"\x02\0\x10\0":
            syntax = data[head:place].rstrip(b"\0 ")
    if syntax != str(DeflatedExplicitVRLittleEndian).encode():
        return
    stream, packed, total = zlib.decompressobj(-zlib.MAX_WBITS), memoryview(data)[place:], 0
    while packed and not stream.eof:
        total += len(stream.decompress(packed, _PIECE))
        packed = memoryview(stream.unconsumed_tail)
        if total > most:
            raise ImageError(f"it unpacks to more than {most:,} bytes, the most that data.pixel_limit allows")


def _packed(header: Dataset, frame: int) -> bytes:
    return bytes(get_frame(header.PixelData, frame, number_of_frames=_count(header)))


def _check_frame(header: Dataset, frame: int, size: tuple[int, int]) -> None:
    """Refuse a compressed frame that holds more pixels than the header says, before it is decoded."""
    syntax = header.file_meta.TransferSyntaxUID
    if not syntax.is_encapsulated:
        return
    packed = _packed(header, frame)
    if syntax == RLELossless:
        # A run takes two bytes; what is not repeated, one more for every 128.
        samples = int(header.get("SamplesPerPixel") or 1) * int(header.get("BitsAllocated") or 8) // 8
        if len(packed) > 2 * math.prod(size) * samples + 1024:
            raise ImageError("damaged image: its compressed frame is larger than its pixels would be")
        return
    try:
        with Image.open(io.BytesIO(packed), formats=("JPEG", "JPEG2000")) as inside:
            width, height = inside.size
    except UnidentifiedImageError:
        return  # a kind that only an extension of pydicom knows
    if (width, height) != size:
        raise ImageError(
            f"damaged image: the picture inside has {width:,} x {height:,} pixels, not the {size[0]:,} x {size[1]:,} "
            "of the header"
        )


def _check_numbers(header: Dataset) -> None:
    """Refuse numbers that no device writes and that would make any picture black, white or grey."""
    for name in ("RescaleSlope", "RescaleIntercept", "WindowCenter", "WindowWidth"):
        number = _first(header.get(name))
        if number is not None and not usable(np.array(number)):
            raise ImageError(f"no pixel holds a finite number: the {name} of its header is {number}")
    if _first(header.get("RescaleSlope")) == 0:
        raise ImageError("the RescaleSlope of its header is 0, which makes all pixels equal")
    if (_first(header.get("WindowWidth")) or 0) < 0:
        raise ImageError(f"the WindowWidth of its header is {_first(header.WindowWidth)}, and widths are positive")
    stored, top = int(header.BitsStored), header.get("HighBit")
    if top is not None and int(top) != stored - 1:
        raise ImageError(f"its header puts the {stored} bits of a pixel below bit {int(top)}, which cannot be read")


def _colours(stored: npt.NDArray[Any], kind: str, bits: int) -> Pixels:
    if stored.shape[2] != 3 or stored.dtype.kind != "u" or not (kind == "RGB" or kind.startswith("YBR_")):
        raise ImageError(f"its {stored.shape[2]} channels of '{kind}' are no colours that can be read")
    if stored.dtype == np.uint8 and bits == 8:
        return np.array(stored)
    return in_strips(stored.shape, lambda rows: stored[rows] / (2.0**bits - 1))


def _from_palette(stored: npt.NDArray[Any], header: Dataset) -> Pixels:
    bits = int(header.RedPaletteColorLookupTableDescriptor[2])
    pixels = in_strips(
        (*stored.shape, 3), lambda rows: apply_color_lut(stored[rows], header)[..., :3] / (2.0**bits - 1)
    )
    if np.ptp(pixels) <= 1 and np.ptp(stored) > 0:
        raise ImageError(f"the palette of its header makes all colours alike, in {bits} bits")
    return pixels


def _grey(stored: npt.NDArray[Any], header: Dataset) -> Callable[[slice], Numbers]:
    """Return shares of white by rows: stored values -> modality (say, Hounsfield units) -> window."""

    def values(rows: slice) -> npt.NDArray[Any]:
        with np.errstate(over="ignore", invalid="ignore"):
            measured: npt.NDArray[Any] = apply_modality_lut(stored[rows], header)
        if not usable(measured).all():
            raise ImageError("not every pixel holds a finite number: the rescaling in its header is too large")
        if measured.size and np.ptp(measured) == 0 < np.ptp(stored[rows]):
            raise ImageError("all of its pixels become equal: the rescaling in its header is absurd")
        return measured

    if header.get("VOILUTSequence"):
        bits = _check_table(header)
        return lambda rows: apply_voi(values(rows), header) / (2.0**bits - 1)
    center, width = (_first(header.get(name)) for name in ("WindowCenter", "WindowWidth"))
    if center is not None and width is not None and width > 0:
        function = str(header.get("VOILUTFunction") or "LINEAR")
        _check_window(header, stored.dtype.kind == "f", center, width)
        return lambda rows: _windowed(values(rows).astype(np.float64), center, width, function)
    counted = [(rows, ~_padding(stored[rows], header)) for rows in strips(stored.shape)]
    low, high = span(values(rows)[counts] for rows, counts in counted)
    return lambda rows: of_range(values(rows), low, high)


def _check_table(header: Dataset) -> int:
    """Return the bits of a table of grey values, refusing one that is too short or holds one grey value."""
    table = header.VOILUTSequence[0]
    entries, _, bits = (int(number) for number in table.LUTDescriptor)
    data = table.LUTData
    size = len(data) // 2 if isinstance(data, bytes) else len(data)
    if size < (entries or 2**16):
        raise ImageError(f"the table of grey values in its header has {size} entries and says {entries or 2**16}")
    numbers = np.frombuffer(data[: 2 * size], np.uint16) if isinstance(data, bytes) else np.asarray(data)
    if np.ptp(numbers.astype(np.int64)) * 255 <= 2**bits - 1:
        raise ImageError(f"the table of grey values in its header makes all pixels alike, in {bits} bits")
    return bits


def _check_window(header: Dataset, floats: bool, center: float, width: float) -> None:
    """Refuse a window in which every number that a pixel can hold has one grey value, whatever the picture."""
    if floats or header.get("ModalityLUTSequence"):
        return
    bits, signed = int(header.BitsStored), bool(header.get("PixelRepresentation"))
    ends = np.array([-(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1] if signed else [0.0, 2.0**bits - 1])
    low, high = sorted(ends * (_first(header.get("RescaleSlope")) or 1) + (_first(header.get("RescaleIntercept")) or 0))
    if center + width / 2 < low or center - width / 2 > high or (high - low) * 255 < width:
        raise ImageError(
            f"the window of its header (center {center:g}, width {width:g}) shows nothing of the numbers that its "
            f"pixels can hold, {low:g} to {high:g}"
        )


def _windowed(values: Numbers, center: float, width: float, function: str) -> Numbers:
    """PS3.3, C.11.2.1.2 and C.11.2.1.3, with an output from 0 to 1."""
    if function == "SIGMOID":
        with np.errstate(over="ignore"):
            return np.asarray(1 / (1 + np.exp(-4 * (values - center) / width)))
    if function == "LINEAR_EXACT":
        return (values - center) / width + 0.5
    # A window one wide is a threshold.
    return (values - (center - 0.5)) / max(width - 1, 1e-9) + 0.5


def _first(value: Any) -> float | None:
    """Return the first of several windows, which is the one that viewers open with."""
    if value is None or value == "":
        return None
    return float(value if isinstance(value, int | float | str) else value[0])


def _padding(stored: npt.NDArray[Any], header: Dataset) -> npt.NDArray[np.bool_]:
    # Scanners fill what lies outside their circle with a value far below every measured one.
    one = header.get("PixelPaddingValue")
    if one is None:
        return np.zeros(stored.shape, dtype=bool)
    low, high = sorted((int(one), int(header.get("PixelPaddingRangeLimit", one))))
    return (stored >= low) & (stored <= high)
