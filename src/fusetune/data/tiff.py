"""What Pillow and OpenCV read of a TIFF file, and whether it is what the file says.

TIFF allows nearly any combination of what the numbers mean (photometric interpretation), their depth and type, alpha
and planes. Pillow decodes some of them to other values than the file holds, without a word. Those are set right here
or refused; whatever Pillow does not know it refuses itself.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL.TiffImagePlugin import TiffImageFile

from fusetune.errors import ImageError

_BITS, _PHOTOMETRIC, _SAMPLES, _PLANES, _COLOURS, _EXTRA, _FORMAT = 258, 262, 277, 284, 320, 338, 339
_COUNTS, _TILE_WIDTH, _TILE_HEIGHT, _COEFFICIENTS, _SUBSAMPLING, _RANGE = 279, 322, 323, 529, 530, 532
_WHITE_IS_ZERO, _RGB, _CMYK, _YCBCR, _LAB = 0, 2, 5, 6, 8
_UNSIGNED, _SIGNED = 1, 2
_ASSOCIATED = 1
BEGINNINGS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
# What a file of several bytes per number is read as. libtiff has brought the bytes into this machine's order by then.
_SWAPPED = {"I;16BS": "I;16S", "I;32BS": "I;32S", "F;32BF": "F;32F"}
REMEDY = "save it as PNG, or as a TIFF of 8 or 16 bits, grey or RGB"


def check(picture: TiffImageFile, pixel_limit: int) -> None:
    """Refuse a file that would be decoded to something else than it says, or to more pixels than it says.

    Raises:
        ImageError: Saying what it is.
    """
    tags = picture.tag_v2
    photometric, bits = tags.get(_PHOTOMETRIC), tags.get(_BITS, (1,))
    if photometric is None:
        raise ImageError(f"this TIFF file does not say what its numbers mean (no PhotometricInterpretation); {REMEDY}")
    width, height = tags.get(_TILE_WIDTH, 1), tags.get(_TILE_HEIGHT, 1)
    if width * height > max(pixel_limit, 2**20):
        raise ImageError(f"its tiles of {width:,} x {height:,} pixels are more than data.pixel_limit={pixel_limit:,}")
    raw, extra = bool(picture.tile) and picture.tile[0].codec_name == "raw", tuple(tags.get(_EXTRA, ()))
    if photometric == _YCBCR and raw and not _plain_chroma(picture):
        raise ImageError(f"this TIFF file holds its colours as uncompressed YCbCr, which cannot be read; {REMEDY}")
    if (
        tags.get(_PLANES, 1) == 2
        and len(bits) > 1
        and (
            max(bits) > 8
            or photometric == _LAB
            or len(extra) > 1
            or (photometric in (_RGB, _CMYK) and _has_unnamed(picture))
            or (raw and (photometric == _YCBCR or extra == (_ASSOCIATED,)))
        )
    ):
        raise ImageError(f"this TIFF file holds each of its channels on its own, which cannot be read here; {REMEDY}")


def _has_unnamed(picture: TiffImageFile) -> bool:
    colours = 3 if picture.tag_v2[_PHOTOMETRIC] == _RGB else 4
    return bool(picture.tag_v2.get(_SAMPLES, 1) > colours) and _EXTRA not in picture.tag_v2


def _plain_chroma(picture: TiffImageFile) -> bool:
    """Return whether each pixel has its own three numbers, of the full range and with the usual coefficients."""
    tags, (width, height) = picture.tag_v2, picture.size
    counts = tags.get(_COUNTS, ())
    whole = tuple(tags.get(_SUBSAMPLING, (2, 2))) == (1, 1) or sum(counts) == 3 * width * height
    usual = [float(number) for number in tags.get(_RANGE, (0, 255, 128, 255, 128, 255))] == [0, 255, 128, 255, 128, 255]
    factors = np.array([float(number) for number in tags.get(_COEFFICIENTS, (0.299, 0.587, 0.114))])
    return whole and usual and bool(np.abs(factors - (0.299, 0.587, 0.114)).max() < 1e-3)


def mend_order(picture: TiffImageFile) -> None:
    """Correct, before it is loaded, what Pillow makes of the order of bytes where libtiff has changed it."""
    picture.tile = [
        tile._replace(args=(_SWAPPED.get(tile.args[0], tile.args[0]), *tile.args[1:]))
        if tile.codec_name == "libtiff" and isinstance(tile.args, tuple)
        else tile
        for tile in picture.tile
    ]


def mend_palette(picture: TiffImageFile) -> None:
    """Take the colours of old files, whose palette has 8 bits instead of 16 and would be black, as they are meant."""
    colours = picture.tag_v2.get(_COLOURS, ())
    if picture.mode in ("P", "PA") and colours and max(colours) < 256:
        entries = np.array(colours, np.uint8).reshape(3, -1).T
        picture.putpalette(entries.tobytes())


def grey_numbers(picture: TiffImageFile) -> npt.NDArray[np.generic] | None:
    """Return the numbers [height, width] of a loaded grey picture whose own range is to be spread, or None.

    Of Pillow's modes only the whole and the floating ones say so; a signed byte is one of them, and a number of 32 bits
    without a sign comes as one with it.
    """
    kind = (*picture.tag_v2.get(_FORMAT, ()), _UNSIGNED)[0]
    if picture.mode == "L" and kind == _SIGNED:
        return np.asarray(picture).view(np.int8)
    if not picture.mode.startswith(("I", "F")):
        return None
    numbers = np.asarray(picture)
    return numbers.view(np.uint32) if kind == _UNSIGNED and numbers.dtype == np.int32 else numbers


def is_inverted(picture: TiffImageFile) -> bool:
    """Return whether 0 is white; Pillow has turned only numbers of up to 8 bits."""
    return picture.tag_v2.get(_PHOTOMETRIC) == _WHITE_IS_ZERO


def is_multiplied(picture: TiffImageFile) -> bool:
    """Return whether the colours were multiplied by alpha when the file was written."""
    return tuple(picture.tag_v2.get(_EXTRA, ()))[:1] == (_ASSOCIATED,)


def guesses_alpha(picture: TiffImageFile) -> bool:
    """Return whether nothing but the number of channels says that the last one is alpha."""
    return _EXTRA not in picture.tag_v2
