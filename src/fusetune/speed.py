"""How fast this machine is: pictures and texts that an encoder reads in a second, for `fusetune doctor` and plans."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fusetune.config import Config
from fusetune.encoders import load_image_encoder, load_text_encoder, train_tokenizer
from fusetune.encoders.packages import IMAGE_PACKAGES, TEXT_PACKAGES
from fusetune.process import threads_restored
from fusetune.runtime import start_runtime

_SECONDS = 0.7  # of each measurement
_BATCH = 8
_SIDE = 224  # pixels
_TOKENS = 32
_SENTENCE = "a painted wooden box with two handles, found below the stairs of the old house by the river"
ROWS = 10_000


@dataclass(frozen=True)
class Speed:
    """What a second is good for.

    Attributes:
        pictures: Pictures (of 224 x 224 pixels, unless others were asked for) that `picture_encoder` reads in a second.
        texts: Texts of 32 tokens that `text_encoder` reads in a second.
        picture_encoder: Its name.
        text_encoder: Its name.
        threads: How many threads computed.
        device: Where.
        picture_width: Numbers of a picture's features.
        text_width: Numbers of a text's features.
    """

    pictures: float
    texts: float
    picture_encoder: str
    text_encoder: str
    threads: int
    device: str
    picture_width: int
    text_width: int

    @property
    def minutes(self) -> float:
        """Minutes in which so many rows of a picture and a text are encoded once."""
        return ROWS * (1 / self.pictures + 1 / self.texts) / 60


def measure(side: int = _SIDE, threads: int | None = None, clock: Callable[[], float] = time.perf_counter) -> Speed:
    """Encode random pictures and one sentence for about two seconds, as a run does that reads each row once.

    Args:
        side: Of the pictures, in pixels.
        threads: That compute; None: as many as a run would have.
        clock: By which seconds are told; `time.process_time` on a machine that does other work, too.
    """
    picture, text = "efficientnet-lite0", "all-MiniLM-L6-v2"
    picture = picture if IMAGE_PACKAGES[picture].is_here else "builtin"
    text = text if TEXT_PACKAGES[text].is_here else "builtin"
    with threads_restored(), torch.inference_mode():
        runtime = start_runtime(Config(threads=threads))
        images = load_image_encoder(picture).to(runtime.device)
        own = train_tokenizer([_SENTENCE] * _BATCH) if text == "builtin" else None
        words, tokenizer = load_text_encoder(text, max_tokens=_TOKENS, tokenizer=own)
        words = words.to(runtime.device)
        ids = (tokenizer.encode(_SENTENCE).ids * _TOKENS)[:_TOKENS]
        pixels = torch.rand(_BATCH, 3, side, side, generator=torch.Generator().manual_seed(0)).to(runtime.device)
        batch = {"ids": torch.tensor([ids] * _BATCH).to(runtime.device)}
        batch["mask"] = torch.ones_like(batch["ids"], dtype=torch.bool)
        with runtime.autocast():
            return Speed(
                _rate(images, pixels, clock), _rate(words, batch, clock), picture, text, torch.get_num_threads(),
                runtime.device.type, images.dim, words.dim,
            )  # fmt: skip


def _rate(encoder: Callable[[Any], Tensor], batch: Any, clock: Callable[[], float]) -> float:
    encoder(batch).sum().item()  # the first pass also gets memory, and a GPU's kernels
    begun, done = clock(), 0
    while (spent := clock() - begun) < _SECONDS or not done:
        encoder(batch).sum().item()  # a sum, so that a GPU has ended when the clock is read
        done += _BATCH
    return done / spent
