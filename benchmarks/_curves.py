"""How fast augmentation is for batches, results and thread numbers of many sizes, as a picture."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _photos import photograph
from _race import race

from fusetune.augment.image import ImageAugment
from fusetune.augment.random import Moment
from fusetune.config import IMAGE_POLICIES
from fusetune.data.images import ImageInput
from fusetune.data.spread import Pixels
from fusetune.data.stored import Encoded
from fusetune.runtime import cores

_SIDE, _CANVAS = 224, 244
_PAPER = ImageAugment(IMAGE_POLICIES["paper"], _SIDE)
_INPUT = ImageInput(column="image", size=_CANVAS, fit="stretch")


def curves(photographs: int) -> dict[str, dict[int, float]]:
    """Return images per second by batch size, by side of the result and by number of reading threads."""
    squares = np.stack([_INPUT.square(Encoded(photograph(256, 306, seed))) for seed in range(8)])
    per_batch = {count: _rate(squares[np.arange(count) % 8], _PAPER) for count in (1, 4, 16, 64, 256)}
    per_side = {}
    for side in (96, 160, 224, 320, 448):
        scaled = np.stack(
            [_INPUT.model_copy(update={"size": round(side * _CANVAS / _SIDE)}).square(Encoded(photograph(512, 512, 0)))]
        )
        per_side[side] = _rate(scaled.repeat(32, 0), ImageAugment(_PAPER.policy, side))
    files = [Encoded(photograph(1024, 768, seed)) for seed in range(8)] * (max(1, photographs // 8))
    per_thread = {}
    for threads in sorted({1, 2, cores(), 2 * cores()}):
        with ThreadPoolExecutor(threads) as pool:
            per_thread[threads] = len(files) / _wall(lambda pool=pool: list(pool.map(_INPUT.square, files)))  # type: ignore[misc]
    return {"batch size": per_batch, "side of the result": per_side, "threads, from JPEG 1024 x 768": per_thread}


def _rate(squares: Pixels, augment: ImageAugment) -> float:
    raw, keys = torch.from_numpy(squares).permute(0, 3, 1, 2), torch.arange(len(squares))
    rounds = max(1, 64 // len(squares))
    return rounds * len(squares) / _wall(lambda: [augment.draw(raw, keys, Moment(0)) for _ in range(rounds)])


def _wall(work: Callable[[], Any]) -> float:
    return race({"it": work}, 3, time.perf_counter)["it"]


def draw(curves: dict[str, dict[int, float]], path: Path) -> None:
    """Draw one panel per curve."""
    import matplotlib as mpl  # noqa: PLC0415

    mpl.use("agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    figure, panels = plt.subplots(1, len(curves), figsize=(12, 3.6), constrained_layout=True)
    for panel, (name, curve) in zip(panels, curves.items(), strict=True):
        panel.plot(list(curve), list(curve.values()), marker="o")
        panel.set(xlabel=name, xscale="log", xticks=list(curve), xticklabels=list(curve), ylim=(0, None))
        panel.minorticks_off()
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("images per second")
    figure.savefig(path, dpi=120)
