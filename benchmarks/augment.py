"""Batch augmentation against the published loader, a general library, decoding alone, and training without it.

Both sides of every row run in turns within one process, one thread each unless a row says otherwise; the ratio is that
of the medians. Rows with one thread count processor time, so that other programs on the machine do not count.

- *from JPEG*: file bytes to a normalised batch of 32 at 224 pixels. Theirs: per image, Pillow (see `_photos`). Ours:
  decode at reduced scale to 244 pixels, then one warp per batch with the policy `paper`. The same for five epochs, as
  published: theirs decodes every time, ours once.
- *from the cache*: theirs starts from decoded pictures, ours from the memory-mapped squares, checksums verified. As
  published, theirs turns pictures by taking the nearest pixel; the second row is theirs with interpolation, as in ours.
- *kornia*: AugmentationSequential with the same operations on a batch of 128 that is in memory.
- *Pillow's draft*: from JPEG to the square, by Pillow's own reduced decoding.
- *second run*: reading a table whose images are in the cache against reading it the first time, without a cache.
- *decoding alone*: what is left of our time when nothing but decoding (at the same reduced scale) is done.
- *views*: four views of each decoded picture against four passes from JPEG.
- *stage U*: the training loop with a small CNN, freshly augmented, against the same loop on tensors made before.
- *channels last*: forward and backward of EfficientNet-Lite0 with channels outermost against innermost.
- *GPU*: warp and colour of 1024 x 224^2 from bytes against what copying the same bytes takes.

Predictions, written before the first run, from the parts' known costs. From JPEG: 2 x at 256 pixels, 2.5 x at
1024 x 768, 5 x at 4032 x 3024, for Huffman decoding, which both sides must do, is most of our time from there on; the
goals of 6 and 10 need pixels that are kept, so over five epochs 4, 8 and 20 x. From the cache 4 x. Kornia 5 x. Ours
takes 3 x the decoding at 256 pixels, 1.4 x at 1024, 1.1 x at 4032. Pillow's draft takes 2, 1.5 and 1.1 x our time to
the square; a first run 3 x a second one at 256 pixels. Four views 1.5 x at 256 pixels. Stage U 0.95.
GPU 60 % once the warp is one kernel, 25 % with separate ones.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import numpy as np
import pandas as pd
import torch
from _curves import curves, draw
from _photos import MEAN, STD, drafted, normalise, photograph, published, published_from, real_files
from _race import Row, Sides, make_row, race, show
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from fusetune.augment.image import ImageAugment
from fusetune.augment.random import Moment
from fusetune.config import IMAGE_POLICIES, Config
from fusetune.data.batch import shuffled_batches
from fusetune.data.cache import PixelCache
from fusetune.data.decode import load_pixels, opened
from fusetune.data.images import ImageInput, Reading
from fusetune.data.spread import Pixels
from fusetune.data.stored import Encoded
from fusetune.data.table import Table
from fusetune.encoders.base import standardise
from fusetune.encoders.image import EfficientNetLite, SmallCNN
from fusetune.process import keep_freed_memory
from fusetune.progress import Log
from fusetune.runtime import cores, start_runtime
from fusetune.train.loop import Task, by_loss, train

_SIDE, _CANVAS, _BATCH = 224, 244, 32
_EPOCHS, _VIEWS = 5, 4
_PAPER = ImageAugment(IMAGE_POLICIES["paper"], _SIDE)
_INPUT = ImageInput(column="image", size=_CANVAS, fit="stretch")


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    repeats: int
    small: int
    middle: int
    large: int
    trained: int


FULL, QUICK = Size(3, 256, 48, 6, 256), Size(3, 48, 8, 2, 64)


def main() -> None:
    args = _arguments()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)  # this and the next as every run does; both sides gain
    keep_freed_memory()
    size = QUICK if args.quick else FULL
    rows = []
    for row in _rows(size, Path(os.environ.get("FUSETUNE_DATA", "../shared/data")) / "medpix2" / "images"):
        rows.append(row)
        show(row)
    result = {"quick": args.quick, "machine": _machine(), "rows": [asdict(row) for row in rows]}
    if args.plot:
        result["curves"] = curves(size.middle)
        draw(result["curves"], Path(args.plot))
    if args.json:
        Path(args.json).write_text(json.dumps(result, indent=1), encoding="utf-8")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0] if __doc__ else "")
    parser.add_argument("--json", help="write the result to this file")
    parser.add_argument("--plot", help="draw images/s against batch size, image size and threads (.png or .svg)")
    parser.add_argument("--quick", action="store_true", help="few images: does it run?")
    return parser.parse_args()


def _rows(size: Size, folder: Path) -> Iterator[Row]:
    small = real_files(folder, size.small)
    sets = {
        "256": (small, "3", "2"),
        "1024 x 768": ([photograph(1024, 768, seed) for seed in range(size.middle)], "6", "2.5"),
        "4032 x 3024": ([photograph(4032, 3024, seed) for seed in range(size.large)], "10", "5"),
    }
    for name, (files, goal, predicted) in sets.items():
        yield from _from_jpeg(name, files, goal, predicted, size.repeats)
    yield from _from_cache(small, size.repeats)
    yield _second_run(small, size.repeats)
    yield _kornia(small, size.repeats)
    yield _views(small, size.repeats)
    yield _stage_u(small, size)
    yield _channels_last(size.repeats)
    yield _gpu()


def _from_jpeg(name: str, files: list[bytes], goal: str, predicted: str, repeats: int) -> Iterator[Row]:
    five, most, draft = {
        "256": ("4", "3", "2"), "1024 x 768": ("8", "1.4", "1.5"), "4032 x 3024": ("20", "1.1", "1.1")
    }[name]  # fmt: skip
    seconds = race(
        {
            "theirs": lambda: _each(files, published),
            "ours": lambda: _batches(files, lambda part: _augmented(_squares(part))),
            "decode": lambda: [_decoded(data) for data in files],
            "square": lambda: [_INPUT.square(Encoded(data)) for data in files],
            "draft": lambda: [drafted(data) for data in files],
            "warp": _augmenting(files),
        },
        repeats,
    )
    yield make_row(f"from JPEG, {name}", seconds, files, f">= {goal}", predicted)
    once = seconds["ours"] + (_EPOCHS - 1) * seconds["warp"]
    repeated = {"ours": once, "theirs": _EPOCHS * seconds["theirs"]}
    yield make_row(f"from JPEG, {name}, {_EPOCHS} epochs", repeated, files * _EPOCHS, "", five)
    squares = {"ours": seconds["square"], "theirs": seconds["draft"]}
    yield make_row(f"Pillow's draft, {name}", squares, files, "", draft)
    floor = {"ours": seconds["ours"], "theirs": seconds["decode"]}
    yield make_row(f"decoding alone, {name}: ours / it", floor, files, "<= 1.6", most)


def _from_cache(files: list[bytes], repeats: int) -> Iterator[Row]:
    with TemporaryDirectory() as folder:
        cache = PixelCache(Path(folder), _CANVAS, 1)
        for key, data in enumerate(files, start=1):
            cache.put(key, _INPUT.square(Encoded(data)))
        cache.flush()
        pictures = [Image.fromarray(_decoded(data)) for data in files]

        def ours(keys: list[int]) -> Tensor:
            return _augmented(np.stack([square for key in keys if (square := cache.get(key)) is not None]))

        sides: Sides = {
            "theirs": lambda: _each(pictures, published_from),
            "interpolated": lambda: _each(pictures, partial(published_from, turning=Image.Resampling.BILINEAR)),
            "ours": lambda: _batches(list(range(1, len(files) + 1)), ours),
        }
        seconds = race(sides, repeats)
    yield make_row("from the cache", seconds, files, ">= 4", "4")
    alike = {"ours": seconds["ours"], "theirs": seconds["interpolated"]}
    yield make_row("from the cache, both interpolate", alike, files, "", "-")


def _second_run(files: list[bytes], repeats: int) -> Row:
    with TemporaryDirectory() as folder:
        root = Path(folder)
        for number, data in enumerate(files):
            (root / f"{number}.jpg").write_bytes(data)
        table = Table(pd.DataFrame({"image": [f"{number}.jpg" for number in range(len(files))]}), "table", root)
        cached = Reading(1, root / "cache", 1)
        _INPUT.bind(table, cached)
        sides: Sides = {
            "theirs": lambda: _INPUT.bind(table, Reading(1)),
            "ours": lambda: _INPUT.bind(table, cached),
        }
        return make_row("a table's second run, 256", race(sides, repeats), files, "", "3")


def _kornia(files: list[bytes], repeats: int) -> Row:
    name, count = "kornia, batch of 128", 128
    try:
        from kornia.augmentation import (  # noqa: PLC0415
            AugmentationSequential,
            RandomCrop,
            RandomHorizontalFlip,
            RandomRotation,
            RandomVerticalFlip,
        )
    except ImportError:
        return Row(f"{name}: not installed", 0, 0, 0, ">= 6", "5")
    squares = _squares([files[i % len(files)] for i in range(count)])
    theirs = AugmentationSequential(
        RandomRotation(15.0, p=1.0), RandomCrop((_SIDE, _SIDE), p=1.0), RandomHorizontalFlip(), RandomVerticalFlip()
    )
    sides: Sides = {
        "theirs": lambda: normalise(theirs(_channels_first(squares).contiguous().float() / 255)),
        "ours": lambda: _augmented(squares),
    }
    return make_row(name, race(sides, repeats), [b""] * count, ">= 6", "5")


def _views(files: list[bytes], repeats: int) -> Row:
    def once(part: list[bytes]) -> None:
        pixels, moments = _channels_first(_squares(part)), [Moment(0, 0, view) for view in range(_VIEWS)]
        _normalised(_PAPER.draw_views(pixels, torch.arange(len(part)), moments))

    def again(part: list[bytes]) -> None:
        for view in range(_VIEWS):
            _augmented(_squares(part), view)

    sides: Sides = {"ours": lambda: _batches(files, once), "theirs": lambda: _batches(files, again)}
    return make_row(f"{_VIEWS} views of one decoding", race(sides, repeats), files * _VIEWS, ">= 2", "1.5")


def _stage_u(files: list[bytes], size: Size) -> Row:
    """Train for an epoch on augmented images and on tensors made before."""
    count = size.trained
    squares = torch.from_numpy(_squares([files[i % len(files)] for i in range(count)])).permute(0, 3, 1, 2)
    made = torch.rand(_BATCH, 3, _SIDE, _SIDE)

    def augmented(rows: Any, raw: Tensor, epoch: int) -> Tensor:
        return _PAPER.draw(raw, torch.from_numpy(rows), Moment(0, epoch))

    sides: Sides = {
        "ours": lambda: _train(count, lambda rows: squares[torch.from_numpy(rows)], augmented),
        "theirs": lambda: _train(count, lambda rows: made[: len(rows)], lambda rows, raw, epoch: raw),
    }
    return make_row("stage U of a small CNN", race(sides, size.repeats), [b""] * count, ">= 0.9", "0.95")


def _train(count: int, read: Callable[[Any], Tensor], seen: Callable[[Any, Tensor, int], Tensor]) -> None:
    config = Config.build({"device": "cpu", "threads": 1, "image": {"train": {"epochs": 1}}})
    model = nn.Sequential(SmallCNN(), nn.Linear(SmallCNN.dim, 5))
    runtime = start_runtime(config)

    def loss(rows: Any, raw: Tensor, epoch: int) -> Tensor:
        return F.cross_entropy(model(seen(rows, raw, epoch)), torch.from_numpy(rows % 5))

    task = Task(
        name="stage U",
        batches=lambda epoch: shuffled_batches(np.arange(count), _BATCH, 0, epoch),
        read=lambda rows, epoch: read(rows),
        gradients=by_loss(runtime, loss),
        validate=lambda: (1.0, 0.0),
        set_training=lambda: None,
        row_name=str,
    )
    groups: list[dict[str, object]] = [{"params": list(model.parameters()), "lr": 1e-3, "weight_decay": 0.0}]
    train(model, groups, task, config.image.train, runtime=runtime, seed=0, log=Log(None, quiet=True))


def _channels_last(repeats: int) -> Row:
    encoder, images = EfficientNetLite(0).train(), torch.rand(8, 3, _SIDE, _SIDE)
    extract: Any = encoder.network.extract_features
    sides: Sides = {
        "theirs": lambda: extract(encoder.normalise(images).contiguous()).mean().backward(),
        "ours": lambda: (
            extract(encoder.normalise(images).contiguous(memory_format=torch.channels_last)).mean().backward()
        ),
    }
    return make_row("channels last, step of EfficientNet-Lite0", race(sides, repeats), [b""] * 8, "", "-")


def _gpu() -> Row:
    name = "GPU: 1024 images, share of copy bandwidth"
    if not torch.cuda.is_available():
        return Row(f"{name}: no GPU here", 0, 0, 0, ">= 0.6", "0.6")
    images = torch.randint(0, 256, (1024, 3, _SIDE, _SIDE), dtype=torch.uint8, device="cuda")
    result = torch.empty(images.shape, device="cuda")
    keys, augment = torch.arange(1024, device="cuda"), ImageAugment(IMAGE_POLICIES["light"], _SIDE)
    # Reading bytes and writing floats is five bytes per value: a copy that moves as many takes this long.
    copied = torch.empty(5 * images.numel() // 2, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(copied)

    def waited(work: Callable[[], Any]) -> Callable[[], None]:
        def run() -> None:
            for _ in range(20):
                work()
            torch.cuda.synchronize()

        return run

    sides: Sides = {
        "ours": waited(lambda: result.copy_(augment.draw(images, keys, Moment(0)))),
        "theirs": waited(lambda: target.copy_(copied)),
    }
    return make_row(name, race(sides, 5, time.perf_counter), [b""] * 1024 * 20, ">= 0.6", "0.6")


def _each(items: list[Any], augment: Callable[[Any], Tensor]) -> None:
    for start in range(0, len(items), _BATCH):
        torch.stack([augment(item) for item in items[start : start + _BATCH]])


def _batches(items: list[Any], work: Callable[[list[Any]], Any]) -> None:
    for start in range(0, len(items), _BATCH):
        work(items[start : start + _BATCH])


def _squares(files: list[bytes]) -> Pixels:
    return np.stack([_INPUT.square(Encoded(data)) for data in files])


def _decoded(data: bytes) -> Pixels:
    encoded = Encoded(data)
    with opened(encoded, 10**9) as picture:
        return load_pixels(picture, encoded, (_CANVAS, _CANVAS), 255)


def _channels_first(squares: Pixels) -> Tensor:
    return torch.from_numpy(squares).permute(0, 3, 1, 2)


def _augmented(squares: Pixels, view: int = 0) -> Tensor:
    keys = torch.arange(len(squares))
    return _normalised(_PAPER.draw(_channels_first(squares), keys, Moment(0, 0, view)))


def _normalised(images: Tensor) -> Tensor:
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    return standardise(images, mean, std)


def _augmenting(files: list[bytes]) -> Callable[[], None]:
    squares = _squares(files)
    return lambda: _batches(list(range(len(files))), lambda part: _augmented(squares[part]))


def _machine() -> dict[str, Any]:
    return {"cores": cores(), "processor": platform.processor() or platform.machine(), "torch": torch.__version__}


if __name__ == "__main__":
    main()
