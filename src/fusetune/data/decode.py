"""From the bytes of one image file to upright RGB pixels, no larger than they need to be.

JPEG goes through libjpeg-turbo's own interface (`simplejpeg`), DICOM through `dicom`, everything else through Pillow.
Pillow is silent about JPEG data that end too early where an end marker follows, and fills the rest with grey; the
strict decoder is not.
"""

from __future__ import annotations

import io
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeAlias

import cv2
import fsspec
import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

from fusetune.data.kinds import FRAME
from fusetune.errors import ImageError

if TYPE_CHECKING:
    from fusetune.data.dicom import DicomPicture

Pixels = npt.NDArray[np.uint8]
Picture: TypeAlias = "Image.Image | DicomPicture"
# How a DICOM file without preamble begins: little-endian groups 0002 (file meta) and 0008 (identification).
_BARE_DICOM = re.compile(rb"(\x02\0\0\0UL)|(\x02\0\x10\0UI)|(\x08\0[\0\x05\x08\x12-\x18]\0)")
_LOCAL_PROTOCOLS = ("file", "local", "memory", "zip", "tar", "dir", "simplecache", "filecache", "blockcache")
_ORIENTATION = 0x0112
# What Pillow's limit was when each of the images that are open now was opened.
_LOCK, _LIMITS = Lock(), list[int | None]()
_TURNS: dict[int, Callable[[Pixels], Pixels]] = {
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.transpose(1, 0, 2),
    6: lambda pixels: pixels[::-1].transpose(1, 0, 2),
    7: lambda pixels: pixels[::-1, ::-1].transpose(1, 0, 2),
    8: lambda pixels: pixels[:, ::-1].transpose(1, 0, 2),
}


@dataclass(frozen=True)
class Encoded:
    """An image as it is stored.

    Attributes:
        content: The file's bytes.
        frame: Which frame of a DICOM file, from 1; None where none was named.
    """

    content: bytes
    frame: int | None = None


def read_encoded(value: str, root: Path, allow_remote: bool, confined: bool = False) -> Encoded:
    """Read a file whole.

    Args:
        value: Path relative to `root`, absolute path, or URL; `#frame=3` at its end chooses a frame of a DICOM file.
        root: The table's folder.
        allow_remote: May URLs be opened that need a network?
        confined: Must it be a file within `root`, links followed?

    Raises:
        ImageError: Saying why the file cannot be opened.
    """
    suffix = FRAME.search(value)
    address, frame = (value, None) if suffix is None else (value[: suffix.start()], int(suffix[1]))
    try:
        local = address.removeprefix("file://")
        if "://" not in local:
            # Only a leading "~/" is the home folder; "~x.png" is a file's name.
            path = root / (Path(local).expanduser() if local.startswith("~/") else local)
            return Encoded(_read_local(path.resolve(), root.resolve() if confined else None), frame)
        _check_address(address, allow_remote, confined)
        with fsspec.open(address, "rb") as file:
            return Encoded(bytes(file.read()), frame)
    except ImageError:
        raise
    except FileNotFoundError as error:
        raise ImageError("there is no such file") from error
    except Exception as error:  # every kind of remote storage has errors of its own
        raise ImageError(f"cannot be opened: {str(error) or type(error).__name__}") from error


def _read_local(path: Path, root: Path | None) -> bytes:
    if root is not None and not path.is_relative_to(root):
        raise ImageError(f"it is outside the table's folder {root}, and data.outside=refuse reads nothing there")
    # A device such as /dev/zero has no end, and a pipe keeps its reader waiting for ever.
    if not stat.S_ISREG(path.stat().st_mode):
        raise ImageError("cannot be opened: it is a folder, a device or a pipe, not a file")
    return path.read_bytes()


@contextmanager
def opened(encoded: Encoded, pixel_limit: int) -> Iterator[Picture]:
    """Open an image whose size is within the limit; only its header is read.

    Raises:
        ImageError: For every failure, also those of the block that uses the image.
    """
    try:
        with _picture(encoded) as picture:
            _check_size(*picture.size, pixel_limit)
            yield picture
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        raise ImageError("not an image in a known format (JPEG, PNG, WebP, TIFF, BMP, GIF, DICOM)") from error
    except Exception as error:  # damaged files raise whatever the parser of their format happens to raise
        raise ImageError(f"damaged image: {str(error) or type(error).__name__}") from error


@contextmanager
def _picture(encoded: Encoded) -> Iterator[Picture]:
    if encoded.content[128:132] == b"DICM" or _BARE_DICOM.match(encoded.content):
        try:
            from fusetune.data.dicom import open_dicom  # noqa: PLC0415
        except ImportError as error:
            raise ImageError("DICOM files need pydicom. Install it with: pip install 'fusetune[dicom]'") from error
        yield open_dicom(encoded.content, encoded.frame)
    elif encoded.frame is not None:
        raise ImageError("'#frame=' names a frame of a DICOM file, and this is none")
    else:
        with _own_limit(), Image.open(io.BytesIO(encoded.content)) as picture:
            yield picture


def load_pixels(picture: Picture, encoded: Encoded, least: tuple[int, int], background: int) -> Pixels:
    """Decode an opened image and turn it as its camera was held.

    Args:
        picture: What `opened` gave.
        encoded: What it was opened from.
        least: Width and height, as stored in the file, below which the pixels would be too few. A JPEG is decoded at
            1/2, 1/4 or 1/8 of its size where that leaves this many, for a fraction of the cost.
        background: Grey value behind transparency.

    Returns:
        uint8 [height, width, 3], writable.

    Raises:
        ImageError: If pixels are lost.
    """
    if not isinstance(picture, Image.Image):
        if (jpeg := picture.jpeg) is not None:
            _strictly(jpeg)  # pydicom decodes through Pillow
        return picture.pixels()
    pixels = _jpeg(picture, encoded.content, least) if isinstance(picture, JpegImageFile) else None
    if ";16" in str(getattr(picture, "tile", "")) and not picture.mode.startswith("I"):
        picture.load()  # which notices damage that OpenCV only mentions
        pixels = _deep_colours(encoded.content, background)
    if pixels is None:
        picture.draft("RGB", least)
        pixels = np.array(_to_rgb(picture, background), dtype=np.uint8)
    # Asked after decoding, since Pillow turns TIFF files itself when it loads them.
    turn = _TURNS.get(picture.getexif().get(_ORIENTATION, 1))
    return pixels if turn is None else np.ascontiguousarray(turn(pixels))


def scale_of(picture: Picture, least: tuple[int, int]) -> int:
    """Return by what a picture's sides are divided while `load_pixels` decodes it: equal scales give equal pixels."""
    if not isinstance(picture, JpegImageFile):
        return 1
    # Only these have fast code in libjpeg-turbo; 3/8, for example, takes longer than 1/2 although it yields less.
    room = min(side // max(1, wanted) for side, wanted in zip(picture.size, least, strict=True))
    return next(factor for factor in (8, 4, 2, 1) if factor <= max(1, room))


def _jpeg(picture: JpegImageFile, data: bytes, least: tuple[int, int]) -> Pixels | None:
    """Decode a grey or colour JPEG, or return None where Pillow has to do it."""
    if picture.mode not in ("RGB", "L"):
        return None  # CMYK needs a conversion that libjpeg has not
    factor = scale_of(picture, least)
    width, height = (-(-side // factor) for side in picture.size)
    return _strictly(data, min_width=width, min_height=height, min_factor=factor)


def _strictly(data: bytes, **reduction: int) -> Pixels | None:
    """Decode a JPEG, or return None where it has a harmless oddity, or something that only Pillow knows."""
    try:
        pixels: Pixels = simplejpeg.decode_jpeg(data, "RGB", **reduction)
    except ValueError as error:
        message = str(error).lower()
        if ("premature end" in message or "corrupt jpeg data" in message) and "extraneous" not in message:
            raise ImageError(f"damaged image: {error}") from error
        return None
    return pixels


def _check_size(width: int, height: int, pixel_limit: int) -> None:
    if width * height > pixel_limit:
        raise ImageError(
            f"{width:,} x {height:,} pixels are more than data.pixel_limit={pixel_limit:,}; "
            "make the image smaller or raise the limit"
        )


@contextmanager
def _own_limit() -> Iterator[None]:
    """Switch Pillow's own pixel limit off while any image is open, since `pixel_limit` replaces it.

    Pillow's is one global number with a warning below it; a warnings filter cannot be changed safely in threads.
    """
    with _LOCK:
        _LIMITS.append(Image.MAX_IMAGE_PIXELS)
        Image.MAX_IMAGE_PIXELS = None
    try:
        yield
    finally:
        with _LOCK:
            before = _LIMITS.pop()
            if not _LIMITS:
                Image.MAX_IMAGE_PIXELS = before


def _check_address(address: str, allow_remote: bool, confined: bool) -> None:
    if confined:
        raise ImageError("it is an address, and data.outside=refuse reads nothing but files in the table's folder")
    if allow_remote:
        return
    # Addresses can be chained: in "zip://a.png::https://host/b.zip" it is the last one that needs the network.
    for part in address.split("::"):
        protocol, sign, _ = part.partition("://")
        if sign and protocol not in _LOCAL_PROTOCOLS:
            raise ImageError(f"'{protocol}://' needs a network; set allow_download=true to read images from there")


def _to_rgb(picture: Image.Image, background: int) -> Image.Image:
    if picture.mode.startswith(("I", "F")):
        return Image.fromarray(_brightness(np.asarray(picture, dtype=np.float64))).convert("RGB")
    if picture.has_transparency_data:
        layer = picture.convert("RGBA")
        behind = Image.new("RGBA", layer.size, (background, background, background, 255))
        return Image.alpha_composite(behind, layer).convert("RGB")
    return picture.convert("RGB")


def _deep_colours(data: bytes, background: int) -> Pixels | None:
    """Decode a picture of 16 bits per channel, of which Pillow keeps the upper 8; None where OpenCV cannot read it."""
    deep = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if deep is None or deep.dtype != np.uint16 or deep.ndim != 3:
        return None
    pixels = _brightness(deep[..., 2::-1].astype(np.float64))
    if deep.shape[2] == 4:
        alpha = deep[..., 3:] / 65535
        pixels = (alpha * pixels + (1 - alpha) * background).round().astype(np.uint8)
    return pixels


def _brightness(values: npt.NDArray[np.float64]) -> Pixels:
    # 16-bit and float files rarely use their whole range (scanners give 12 bits): the image's own range becomes 0..255.
    finite = np.isfinite(values)
    if not finite.any():
        raise ImageError("no pixel holds a finite number")
    return to_8_bits(np.nan_to_num(own_range(values, finite), nan=0.0, posinf=1.0, neginf=0.0))


def own_range(values: npt.NDArray[Any], counts: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """Return shares of the range that the values which count span, 0 to 1; others may lie outside."""
    counted = values[counts]
    low, high = (float(counted.min()), float(counted.max())) if counted.size else (0.0, 0.0)
    return np.asarray((values - low) / (high - low if high > low else 1.0))


def to_8_bits(shares: npt.NDArray[Any]) -> Pixels:
    """Return shares of white as grey values, uint8."""
    return (shares.clip(0, 1) * 255).round().astype(np.uint8)
