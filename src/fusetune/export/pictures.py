"""From a picture's file to the pixels that the model was shown: what `run.py` needs where an input is a picture.

The numbers of `preprocess.json` decide: `side` of the square, `fit`, `background`, `pixel_limit`; `spacing` and
`extent` where pictures are brought to one physical scale. Formats and colours that cannot be brought to the same pixels
here are refused.
"""

import math
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

FORMATS = ["JPEG", "PNG", "WEBP", "GIF", "AVIF", "JPEG2000", "PPM"]
OTHERS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"BM")  # TIFF and BMP


class RefusedError(ValueError):
    """A file that may be fine, and is not prepared here."""


def square(path: Path, one: dict[str, Any], spacing: float) -> Any:
    """Return a picture as the model was shown it, uint8 [side, side, 3].

    Args:
        path: Its file.
        one: The input in `preprocess.json`.
        spacing: Physical size of a pixel of the file, NaN where it does not count.

    Raises:
        RefusedError: If it is of a kind that is not prepared here.
        OSError: If it is damaged, or whatever else the parser of its format raises.
    """
    side, background, extent = one["side"], one["background"], one["extent"]
    if extent and not 0 < spacing < math.inf:
        raise OSError(f"column '{one['spacing']}' holds no positive pixel size for this image")
    pixels, reduction = _decoded(path, one, spacing * side / extent if extent else None)
    if extent:
        return _centred(_scaled(pixels, spacing * side / extent * reduction, side), side, background)
    height, width = pixels.shape[:2]
    if one["fit"] == "crop":
        short = min(height, width)
        top, left = (height - short) // 2, (width - short) // 2
        pixels = pixels[top : top + short, left : left + short]
    if one["fit"] != "pad":
        return _resampled(_resampled(pixels, side, 1), side, 0)
    factor = side / max(height, width)
    pixels = _resampled(_resampled(pixels, max(1, round(width * factor)), 1), max(1, round(height * factor)), 0)
    return _centred(pixels, side, background)


def _decoded(path: Path, one: dict[str, Any], factor: float | None) -> tuple[Any, float]:
    """Return upright pixels, a JPEG at 1/2, 1/4 or 1/8 where that is enough, and by what it was divided."""
    with path.open("rb") as file:
        begins = file.read(132)
    if begins.startswith(OTHERS) or begins[128:] == b"DICM":
        raise RefusedError("TIFF, BMP and DICOM files are not prepared here; save it as PNG, or predict with fusetune")
    Image.MAX_IMAGE_PIXELS = None  # `pixel_limit` replaces it
    with Image.open(path, formats=FORMATS) as picture:
        size, layers = picture.size, str(getattr(picture, "tile", ""))
        if size[0] * size[1] > one["pixel_limit"]:
            raise OSError(f"{size[0]} x {size[1]} pixels are more than the limit of {one['pixel_limit']}")
        least = [one["side"] if factor is None else math.ceil(min(1.0, factor) * length) for length in size]
        picture.draft("RGB", (least[0], least[1]))
        picture.load()
        deep = ";16" in layers and picture.mode in ("RGB", "RGBA", "LA")
        hidden = "transparency" in picture.info and (picture.mode[0] == "I" or (picture.mode == "L" and ";" in layers))
        if deep or hidden or picture.mode == "CMYK":
            raise RefusedError(f"colours of this kind ({picture.mode}) are not prepared here; save it as RGB of 8 bits")
        pixels = np.asarray(_coloured(ImageOps.exif_transpose(picture), one["background"]))
    return pixels, max(size) / max(pixels.shape[:2])


def _coloured(picture: Any, background: int) -> Any:
    if picture.mode.startswith(("I", "F")):  # their own range becomes 0..255
        numbers = np.asarray(picture).astype(np.float64)
        low, high = numbers.min(), numbers.max()
        shares = (numbers - low) / (high - low if high > low else 1.0)
        return Image.fromarray((shares.clip(0, 1) * 255).round().astype(np.uint8)).convert("RGB")
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    layer = (picture.convert("LA") if picture.mode == "La" else picture).convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, (background,) * 3 + (255,)), layer).convert("RGB")


def _scaled(pixels: Any, factor: float, side: int) -> Any:
    """Return the middle of a picture, scaled by a factor, no larger than the square."""
    tall, wide = (min(side, max(1, round(length * factor))) for length in pixels.shape[:2])
    seen_y, seen_x = min(pixels.shape[0], tall / factor), min(pixels.shape[1], wide / factor)
    top, left = (pixels.shape[0] - seen_y) / 2, (pixels.shape[1] - seen_x) / 2
    part = (left, top, left + seen_x, top + seen_y)
    return np.asarray(Image.fromarray(pixels).resize((wide, tall), Image.Resampling.BILINEAR, box=part))


def _centred(pixels: Any, side: int, background: int) -> Any:
    top, left = (side - pixels.shape[0]) // 2, (side - pixels.shape[1]) // 2
    square = np.full((side, side, 3), background, np.uint8)
    square[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels
    return square


def _resampled(pixels: Any, size: int, axis: int) -> Any:
    """Resize along one axis, bilinear and antialiased: what PyTorch's code for bytes gives, bit by bit."""
    if pixels.shape[axis] == size:
        return pixels
    lines = np.moveaxis(pixels, axis, 0)
    weights, bits = _weights(len(lines), size)
    summed = weights @ lines.reshape(len(lines), -1).astype(weights.dtype)
    result = np.floor((summed + 2 ** (bits - 1)) / 2**bits).clip(0, 255).astype(np.uint8)
    return np.moveaxis(result.reshape(size, *lines.shape[1:]), 0, axis)


@lru_cache(maxsize=256)
def _weights(length: int, size: int) -> tuple[Any, int]:
    """Return by which whole numbers [size, length] pixels count, and of how many bits their sum is.

    Sums stay below 255 * 2^bits, which floats of 32 bits hold exactly up to 16 bits, and those of 64 beyond.
    """
    scale, places = length / size, np.arange(length)
    reach = max(scale, 1.0)
    centres = (scale * (np.arange(size) + 0.5))[:, None]
    seen = (places >= (centres - reach + 0.5).astype(int)) & (places < (centres + reach + 0.5).astype(int))
    shares = np.where(seen, np.clip(1 - np.abs((places - centres + 0.5) / reach), 0, None), 0)
    shares /= shares.sum(1, keepdims=True)
    bits = 0
    while bits < 22 and int(0.5 + shares.max() * 2 ** (bits + 1)) < 2**15:
        bits += 1
    exact = np.float32 if bits <= 16 else np.float64
    return np.floor(shares * 2**bits + 0.5).astype(exact), bits
