"""From the bytes of one image file to upright RGB pixels, no larger than they need to be.

JPEG goes through libjpeg-turbo's own interface (`simplejpeg`), DICOM through `dicom`, everything else through Pillow.
Pillow is silent about JPEG data that end too early where an end marker follows, and fills the rest with grey; the
strict decoder is not.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image, ImageChops, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile
from PIL.TiffImagePlugin import TiffImageFile

from fusetune.data import tiff
from fusetune.data.paths import FORMATS, KNOWN_FORMATS
from fusetune.data.spread import Pixels, in_colour, over, spread, strips, unmultiply
from fusetune.data.stored import Encoded
from fusetune.errors import FusetuneError, ImageError, ShortageError

if TYPE_CHECKING:
    from fusetune.data.dicom import DicomPicture

Picture: TypeAlias = "Image.Image | DicomPicture"
# How a DICOM file without preamble begins: little-endian groups 0002 (file meta) and 0008 (identification).
_BARE_DICOM = re.compile(rb"(\x02\0\0\0UL)|(\x02\0\x10\0UI)|(\x08\0[\0\x05\x08\x12-\x18]\0)")
# What files begin with that may hold several frames or pages; the number of a DICOM file's.
_SERIES = re.compile(rb"GIF8|II[*+]\0|MM\0[*+]|....ftypavis", re.DOTALL)
_FRAMES_TAG = re.compile(rb"\x28\0\x08\0|\0\x28\0\x08")
# What the libraries say when memory is short; Pillow and NumPy raise MemoryError.
_SHORTAGE = re.compile(
    r"out of memory|(insufficient|not enough) memory|memory allocation|(can't|cannot|could not|failed to|unable to) "
    r"allocate|bad_alloc",
    re.IGNORECASE,
)
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


@contextmanager
def opened(encoded: Encoded, pixel_limit: int) -> Iterator[Picture]:
    """Open an image whose size is within the limit; only its header is read.

    Raises:
        ImageError: For every failure, also those of the block that uses the image.
        ShortageError: Where memory is short, which is no fault of the image.
    """
    try:
        with _picture(encoded, pixel_limit) as picture:
            yield picture
    except FusetuneError:
        raise
    except Exception as error:  # damaged files raise whatever the parser of their format happens to raise
        problem = str(error) or type(error).__name__
        unknown = isinstance(error, UnidentifiedImageError)
        if encoded.content.startswith(tiff.BEGINNINGS) and (unknown or "raw mode" in problem):
            raise ImageError(f"damaged image, or a kind of TIFF file that cannot be read; {tiff.REMEDY}") from error
        if unknown:
            raise ImageError(f"not an image in a known format ({KNOWN_FORMATS})") from error
        if is_shortage(error):
            raise ShortageError(f"there is not enough memory to decode it ({problem})") from error
        raise ImageError(f"damaged image: {problem}") from error


def is_shortage(error: BaseException) -> bool:
    """Return whether an error says that memory is short."""
    return isinstance(error, MemoryError) or _SHORTAGE.search(str(error)) is not None


@contextmanager
def _picture(encoded: Encoded, pixel_limit: int) -> Iterator[Picture]:
    if encoded.content[128:132] == b"DICM" or _BARE_DICOM.match(encoded.content):
        try:
            from fusetune.data.dicom import open_dicom  # noqa: PLC0415
        except ImportError as error:
            raise ImageError("DICOM files need pydicom. Install it with: pip install 'fusetune[dicom]'") from error
        dicom = open_dicom(encoded.content, encoded.frame, pixel_limit)
        _check_size(*dicom.size, pixel_limit)
        with _own_limit():
            yield dicom
        return
    _check_canvas(encoded.content, pixel_limit)
    with _own_limit(), Image.open(io.BytesIO(encoded.content), formats=_formats()) as picture:
        _check_size(*picture.size, pixel_limit)
        if encoded.frame is not None:
            _choose(picture, encoded.frame)
            _check_size(*picture.size, pixel_limit)
        if isinstance(picture, TiffImageFile):
            tiff.check(picture, pixel_limit)
        yield picture


@lru_cache(maxsize=1)
def _formats() -> list[str]:
    """Return Pillow's names of the formats that are opened, as far as this Pillow has them."""
    Image.init()
    return [name for name in (known.upper().replace(" ", "") for known in FORMATS) if name in Image.OPEN]


def _choose(picture: Image.Image, frame: int) -> None:
    """Turn to a frame, from 1."""
    # A telephone's JPEG holds previews and maps of depth beside its picture, which are no frames of it.
    count = 1 if isinstance(picture, JpegImageFile) else int(getattr(picture, "n_frames", 1))
    if not 1 <= frame <= count:
        raise ImageError(f"there is no frame {frame}: frames are counted from 1 to {count}")
    if frame > 1:
        picture.seek(frame - 1)


def has_more(picture: Picture) -> bool:
    """Return whether an opened image has frames or pages beside the one that is read."""
    if isinstance(picture, Image.Image):
        return bool(getattr(picture, "is_animated", False)) and not isinstance(picture, JpegImageFile)
    return picture.count > 1


def is_one_of_several(encoded: Encoded, pixel_limit: int) -> bool:
    """Return whether an image is the first of several in its file (in DICOM the middle one) and nobody named it."""
    if encoded.frame is not None or not _may_have_more(encoded.content):
        return False
    try:
        with opened(encoded, pixel_limit) as picture:
            return has_more(picture)
    except ImageError:
        return False  # reading it says why


def _may_have_more(content: bytes) -> bool:
    """Return whether a file is of a kind that may hold several frames, without the cost of opening it."""
    if content.startswith(b"\x89PNG"):
        return content.find(b"acTL", 0, content.find(b"IDAT")) > 0
    if content.startswith(b"RIFF"):
        return content[12:16] == b"VP8X" and bool(content[20] & 2)
    if content[128:132] == b"DICM" or _BARE_DICOM.match(content):
        return _FRAMES_TAG.search(content) is not None
    return _SERIES.match(content) is not None


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
    deep = ";16" in str(getattr(picture, "tile", "")) and picture.mode in ("RGB", "RGBA", "LA")
    if isinstance(picture, TiffImageFile):
        tiff.mend_order(picture)
    if pixels is None:
        picture.draft("RGB", least)
        _mend(picture)  # which loads it and notices damage that OpenCV only mentions
        pixels = _deep_colours(picture, encoded, background) if deep else None
    if pixels is None:
        pixels = _to_rgb(picture, background)
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
        if is_shortage(error):
            raise
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


def _check_canvas(content: bytes, pixel_limit: int) -> None:
    """Refuse a WebP file whose size is too large before its decoder makes room for it."""
    if content[:4] == b"RIFF" and content[12:16] == b"VP8X" and len(content) >= 30:
        width, height = (1 + int.from_bytes(content[start : start + 3], "little") for start in (24, 27))
        _check_size(width, height, pixel_limit)


def _mend(picture: Image.Image) -> None:
    """Load a picture, with what Pillow gets wrong of it set right."""
    depth = str(getattr(picture, "tile", ""))
    picture.load()
    if isinstance(picture, TiffImageFile):
        tiff.mend_palette(picture)
    if picture.format == "PNG" and picture.mode == "L" and isinstance(picture.info.get("transparency"), int):
        # The grey value that is transparent counts in the file's own depth.
        picture.info["transparency"] *= 85 if "L;2" in depth else 17 if "L;4" in depth else 1


def _to_rgb(picture: Image.Image, background: int) -> Pixels:
    """Return a loaded picture as uint8 [height, width, 3]."""
    if isinstance(picture, TiffImageFile):
        numbers = tiff.grey_numbers(picture)
    else:
        numbers = np.asarray(picture) if picture.mode.startswith(("I", "F")) else None
    if numbers is not None:
        return _grey(picture, numbers, background)
    opaque = has_empty_alpha(picture)
    if isinstance(picture, JpegImageFile) and picture.mode == "CMYK" and "adobe" not in picture.info:
        picture = ImageChops.invert(picture)  # only Adobe writes no ink as 255, and Pillow takes every file for Adobe's
    pixels = np.empty((picture.height, picture.width, 3), np.uint8)
    for rows in strips(pixels.shape):
        bottom = min(rows.stop, picture.height)
        whole = bottom - rows.start == picture.height
        part = picture if whole else picture.crop((0, rows.start, picture.width, bottom))
        pixels[rows] = np.asarray(part.convert("RGB") if opaque else _flat(part, background))
    return pixels


def _grey(picture: Image.Image, numbers: npt.NDArray[Any], background: int) -> Pixels:
    grey = spread(numbers)
    if isinstance(picture, TiffImageFile) and tiff.is_inverted(picture):
        np.subtract(255, grey, out=grey)
    if isinstance(hidden := picture.info.get("transparency"), int):
        grey[numbers == hidden] = background
    return in_colour(grey)


def has_empty_alpha(picture: Image.Image) -> bool:
    """Return whether a picture has an alpha that is 0 everywhere and was likely not meant as one: viewers ignore it."""
    doubtful = picture.format == "BMP" or (isinstance(picture, TiffImageFile) and tiff.guesses_alpha(picture))
    return doubtful and picture.mode == "RGBA" and picture.getchannel("A").getextrema() == (0, 0)


def _flat(picture: Image.Image, background: int) -> Image.Image:
    if picture.has_transparency_data:
        layer = (picture.convert("LA") if picture.mode == "La" else picture).convert("RGBA")
        behind = Image.new("RGBA", layer.size, (background, background, background, 255))
        return Image.alpha_composite(behind, layer).convert("RGB")
    return picture.convert("RGB")


def _deep_colours(picture: Image.Image, encoded: Encoded, background: int) -> Pixels | None:
    """Decode a picture of 16 bits per channel, of which Pillow keeps the upper 8; None where OpenCV cannot read it."""
    content, place = np.frombuffer(encoded.content, np.uint8), (encoded.frame or 1) - 1
    _, pages = cv2.imdecodemulti(content, cv2.IMREAD_UNCHANGED, range=(place, place + 1))
    if not pages or pages[0].dtype != np.uint16 or pages[0].ndim != 3:
        return None
    deep = np.asarray(pages[0], np.uint16)
    colours, alpha = deep[..., 2::-1], deep[..., 3:]
    visible = alpha.shape[2] == 1
    if visible and isinstance(picture, TiffImageFile):
        visible = picture.mode == "RGBA" and (not tiff.guesses_alpha(picture) or bool(alpha.any()))
        if visible and tiff.is_multiplied(picture):
            unmultiply(colours, alpha)
    pixels = spread(colours)
    if visible:
        over(pixels, alpha, background)
    return pixels
