"""DICOM files as images: one frame, through the grey scale that its header asks for (PS3.3, C.7.6.3 and C.11).

Nothing of the header goes further than this file: size, frames and grey scale are read from it, and only pixels leave.
Only this file imports pydicom, and only `decode` imports this file, once there is a DICOM file to open.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom import Dataset, dcmread
from pydicom.encaps import get_frame
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_color_lut, apply_modality_lut, apply_voi
from pydicom.pixels.utils import pixel_array
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEGBaseline8Bit

from fusetune.data.decode import Pixels, own_range, to_8_bits
from fusetune.errors import ImageError


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
    def jpeg(self) -> bytes | None:
        """The frame's own file, where it is a baseline JPEG."""
        if self.header.file_meta.TransferSyntaxUID != JPEGBaseline8Bit:
            return None
        return bytes(get_frame(self.header.PixelData, self.frame, number_of_frames=_count(self.header)))

    def pixels(self) -> Pixels:
        """Decode the frame to uint8 [height, width, 3]."""
        header = _of_frame(self.header, self.frame)
        stored = pixel_array(header, index=self.frame)  # YCbCr has become RGB
        if stored.shape[:2] != self.size[::-1]:
            raise ImageError(
                f"damaged image: the pixels are {stored.shape[1]} x {stored.shape[0]}, not as the header says"
            )
        if stored.ndim == 3:
            return stored if stored.dtype == np.uint8 else to_8_bits(stored / (2.0**header.BitsStored - 1))
        if header.PhotometricInterpretation == "PALETTE COLOR":
            bits = int(header.RedPaletteColorLookupTableDescriptor[2])
            return to_8_bits(apply_color_lut(stored, header)[..., :3] / (2.0**bits - 1))
        shares = _grey(stored, header)
        dark = 1 - shares if header.PhotometricInterpretation == "MONOCHROME1" else shares
        return np.repeat(to_8_bits(dark)[..., None], 3, axis=2)


def open_dicom(data: bytes, frame: int | None) -> DicomPicture:
    """Read the header of a DICOM file.

    Args:
        data: The file's bytes.
        frame: Which frame, from 1; None: the middle one, of an even number the earlier.

    Raises:
        ImageError: If the file holds no image, the frame does not exist, or nothing that is installed can decode its
            compression.
    """
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


def _grey(stored: npt.NDArray[Any], header: Dataset) -> npt.NDArray[np.float64]:
    """Return shares of white [height, width]: stored values -> modality (say, Hounsfield units) -> window."""
    values = apply_modality_lut(stored, header)
    if header.get("VOILUTSequence"):
        bits = int(header.VOILUTSequence[0].LUTDescriptor[2])
        return np.asarray(apply_voi(values, header) / (2.0**bits - 1))
    center, width = (_first(header.get(name)) for name in ("WindowCenter", "WindowWidth"))
    if center is not None and width is not None and width > 0:
        return _windowed(values.astype(np.float64), center, width, str(header.get("VOILUTFunction") or "LINEAR"))
    return own_range(values, ~_padding(stored, header))


def _windowed(values: npt.NDArray[np.float64], center: float, width: float, function: str) -> npt.NDArray[np.float64]:
    """PS3.3, C.11.2.1.2 and C.11.2.1.3, with an output from 0 to 1."""
    if function == "SIGMOID":
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
