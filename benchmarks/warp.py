"""How one picture is best resampled on a CPU: the candidates that the image engine was chosen from, in one run.

Each side warps the same pictures (256 to 224 pixels, turned by up to 15 degrees, one thread, processor time, in turns)
to float32 in 0..1, and is compared with sampling in float64. Chosen by this measurement; there was no prediction.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from fusetune.augment.geometry import compose
from fusetune.augment.image import ImageAugment
from fusetune.augment.random import Moment
from fusetune.augment.warp import warp
from fusetune.config import IMAGE_POLICIES, ImagePolicy
from fusetune.encoders.base import standardise
from fusetune.process import keep_freed_memory

_SIDE, _SIZE = 256, 224
# A crop at the scale of the picture, so that no filter is needed and resampling alone is compared.
_TURN = ImageAugment(ImagePolicy(rotate=15, crop=_SIZE / _SIDE), _SIZE)
_FLAGS = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0] if __doc__ else "")
    parser.add_argument("--json", help="write the result to this file")
    parser.add_argument("--quick", action="store_true", help="few pictures: does it run?")
    args = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    keep_freed_memory()
    rows, repeats = (8, 3) if args.quick else (32, 15)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (rows, _SIDE, _SIDE, 3), dtype=torch.uint8, generator=generator).permute(0, 3, 1, 2)
    keys = torch.arange(rows)
    matrices = compose(_TURN.parameters(keys, Moment(0)), _TURN.policy.crop, _SIDE, _SIZE)
    exact = warp(images.double() / 255, matrices, _SIZE)
    sides: dict[str, Callable[[], Tensor]] = {
        "fusetune, everything included": lambda: _TURN.draw(images, keys, Moment(0)),
        "OpenCV on float32": lambda: _opencv(images, matrices, np.float32),
        "OpenCV on float32, four channels": lambda: _opencv(images, matrices, np.float32, fourth=True),
        "OpenCV on uint8": lambda: _opencv(images, matrices, np.uint8),
        "grid_sample on the batch": lambda: warp(images.contiguous().float() / 255, matrices, _SIZE),
    }
    seconds = {name: 1e3 * value / rows for name, value in _race(sides, repeats).items()}
    result = []
    for name, side in sides.items():
        worst = 255 * float((side() - exact).abs().max())
        ratio = seconds[name] / seconds["OpenCV on float32"]
        result.append({"name": name, "milliseconds": seconds[name], "ratio": ratio, "error_of_255": worst})
        print(f"{name:32s} {seconds[name]:.3f} ms/picture  x {ratio:.2f}  largest error {worst:.4f} of 255")
    _statistics(_TURN.draw(images, keys, Moment(0)), repeats)
    policies = _policies(images, keys, repeats)
    if args.json:
        found = {"quick": args.quick, "rows": result, "policies": policies}
        Path(args.json).write_text(json.dumps(found, indent=1), encoding="utf-8")


def _policies(images: Tensor, keys: Tensor, repeats: int) -> dict[str, float]:
    """Print what every policy costs, colours and noise included."""
    sides: dict[str, Callable[[], Tensor]] = {
        name: partial(ImageAugment(policy, _SIZE).draw, images, keys, Moment(0))
        for name, policy in IMAGE_POLICIES.items()
    }
    found = {name: 1e3 * seconds / len(images) for name, seconds in _race(sides, repeats).items()}
    for name, milliseconds in found.items():
        print(f"policy {name:25s} {milliseconds:.3f} ms/picture")
    return found


def _statistics(pictures: Tensor, repeats: int) -> None:
    """Compare two ways to apply pixel statistics to pictures with channels innermost."""
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    sides = {
        "over lines of pixels": lambda: standardise(pictures, mean, std),
        "over channels": lambda: (pictures - mean) / std,
    }
    for name, seconds in _race(sides, repeats).items():
        print(f"pixel statistics {name:21s}  {1e3 * seconds / len(pictures):.3f} ms/picture")


def _race(sides: dict[str, Callable[[], Tensor]], repeats: int) -> dict[str, float]:
    """Return the median processor time of each side; they take turns."""
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats + 1):
        for name, side in sides.items():
            start = time.process_time()
            side()
            taken[name].append(time.process_time() - start)
    return {name: statistics.median(values[1:]) for name, values in taken.items()}


def _opencv(images: Tensor, matrices: Tensor, kind: type[np.generic], fourth: bool = False) -> Tensor:
    result = torch.empty(len(images), _SIZE, _SIZE, 3)
    for image, matrix, place in zip(images.permute(0, 2, 3, 1).numpy(), matrices.numpy(), result, strict=True):
        cornered = matrix[:2].copy()
        cornered[:, 2] += (_SIDE - 1) / 2 - cornered[:, :2].sum(1) * (_SIZE - 1) / 2
        picture = (cv2.cvtColor(image, cv2.COLOR_RGB2RGBA) if fourth else image).astype(kind)
        warped = cv2.warpAffine(picture, cornered, (_SIZE, _SIZE), flags=_FLAGS, borderMode=cv2.BORDER_REPLICATE)
        warped = cv2.cvtColor(warped, cv2.COLOR_RGBA2RGB) if fourth else warped
        torch.mul(torch.from_numpy(warped), 1 / 255, out=place)
    return result.permute(0, 3, 1, 2)


if __name__ == "__main__":
    main()
