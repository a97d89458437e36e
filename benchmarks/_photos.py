"""Pictures for benchmarks, and the published way of augmenting them: one at a time, through Pillow."""

from __future__ import annotations

import io
import random
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_CANVAS, _SIDE, _ANGLE = 244, 224, 15.0


def real_files(folder: Path, count: int) -> list[bytes]:
    """Return JPEG files of a folder, or synthetic ones of 256 x 306 pixels where there are none."""
    files = sorted(folder.glob("*.jpg"))[:count]
    return [file.read_bytes() for file in files] or [photograph(256, 306, seed) for seed in range(count)]


def photograph(width: int, height: int, seed: int) -> bytes:
    """Return a JPEG (quality 90, 4:2:0) with large shapes, edges, fine texture and sensor noise, as cameras give."""
    generator = np.random.default_rng(seed)
    canvas = np.zeros((height, width, 3), np.float32)
    for cells, weight in ((4, 60), (16, 40), (64, 25), (256, 12)):
        canvas += weight * (_enlarged(generator.random((cells, cells, 3)), width, height) - 0.5)
    canvas += 60 * (_enlarged(generator.random((12, 12, 1)).repeat(3, 2), width, height) > 0.5)
    canvas += generator.normal(0, 3, (height, width, 1)).astype(np.float32)
    data = io.BytesIO()
    Image.fromarray((canvas + 110).clip(0, 255).astype(np.uint8)).save(data, "JPEG", quality=90, subsampling=2)
    return data.getvalue()


def _enlarged(values: npt.NDArray[np.float64], width: int, height: int) -> npt.NDArray[np.float32]:
    small = Image.fromarray((values * 255).astype(np.uint8))
    return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC)).astype(np.float32) / np.float32(255)


def published(data: bytes) -> Tensor:
    """Return one augmented image from its file, float32 [3, 224, 224], as the loader of arXiv 2505.06592 does."""
    return published_from(Image.open(io.BytesIO(data)).convert("RGB"))


def published_from(picture: Image.Image, turning: Image.Resampling = Image.Resampling.NEAREST) -> Tensor:
    """Resize to 244, rotate by up to 15 degrees, crop 224 at random, flip both ways, normalise.

    As published, the rotation takes the nearest pixel, which is torchvision's default and costs a fifth of
    interpolation, unless `turning` says otherwise.
    """
    picture = picture.resize((_CANVAS, _CANVAS), Image.Resampling.BILINEAR)
    picture = picture.rotate(random.uniform(-_ANGLE, _ANGLE), turning)
    left, top = random.randint(0, _CANVAS - _SIDE), random.randint(0, _CANVAS - _SIDE)
    picture = picture.crop((left, top, left + _SIDE, top + _SIDE))
    if random.random() < 0.5:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if random.random() < 0.5:
        picture = picture.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous().float() / 255
    return normalise(pixels)


def drafted(data: bytes) -> npt.NDArray[np.uint8]:
    """Return the square of 244 pixels that Pillow makes when JPEG is decoded at reduced scale."""
    picture = Image.open(io.BytesIO(data))
    picture.draft("RGB", (_CANVAS, _CANVAS))
    return np.asarray(picture.convert("RGB").resize((_CANVAS, _CANVAS), Image.Resampling.BILINEAR, reducing_gap=2.0))


def normalise(images: Tensor) -> Tensor:
    """Subtract the channels' means and divide by their deviations, in place."""
    mean, std = (torch.tensor(values, device=images.device)[:, None, None] for values in (MEAN, STD))
    return images.sub_(mean).div_(std)
