"""What a GPU makes of the places where data move: augmentation, the loader, stage U, the solver of heads, serving.

python benchmarks/gpu.py

Takes less than eight minutes on a GPU, most of it to draw pictures and to import. Without one it says so, and that is
all. `--cpu` does the same on the processor with a few rows: does it run?

- Warp and colours of a batch, as stage U draws them, beside what the GPU copies in the same time: a share of bandwidth.
- Copies from pinned and from ordinary memory.
- Stage U in bf16 of a ViT-S and a ResNet-50 with random weights, from JPEG files: pictures a second, and which share of
  the time the loop waits for the loader. `resident` is the same from pixels that are decoded already.
- The solver of linear heads on features that lie memory-mapped on disk, on the CPU and on the GPU.
- Serving: one row of a small model, and 256 at once.

Prediction, written before the first run on any GPU, for one H200 with 16 cores: the augmentation is some twenty kernels
that each read and write the batch in float32, so a twentieth of the copy bandwidth; pinned copies 50 GB/s, ordinary
ones 10. ViT-S 2,500 and ResNet-50 1,800 pictures a second at 224 pixels, launched kernel by kernel; 16 cores decode
6,000 JPEG of 256 pixels a second, so that the loop waits a tenth of its time. The solver 15 times as fast as 16 cores,
reading included. One row 15 ms, since kernels are launched one by one.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import numpy as np
import pandas as pd
import simplejpeg
import torch
from _cases import prepared
from solve import made
from torch import Tensor, nn

import fusetune
from fusetune.augment.image import ImageAugment
from fusetune.augment.random import Moment
from fusetune.config import Config, HeadConfig
from fusetune.data.batch import prefetch, shuffled_batches
from fusetune.data.source import pinned, to_device
from fusetune.data.table import read_table
from fusetune.encoders.vision import IMAGENET_MEAN, IMAGENET_STD, TransformersImage
from fusetune.heads.solver import fit_logistic
from fusetune.runtime import Runtime, find_runtime

NO_GPU = "no GPU: PyTorch sees no CUDA device here, so there is nothing to measure."
_NETWORKS: dict[str, dict[str, Any]] = {
    "ViT-S/16": {
        "model_type": "vit", "hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536,
        "num_hidden_layers": 12, "image_size": 224, "patch_size": 16,
    },
    "ResNet-50": {"model_type": "resnet"},
}  # fmt: skip
_SOURCE, _SIDE = 256, 224  # pixels of a picture in its file, and of what an encoder sees


@dataclass(frozen=True)
class Sizes:
    """How much is measured.

    Attributes:
        batch: Rows of a batch.
        pictures: JPEG files.
        seconds: Of each measurement.
        rows: Of the solver.
        features: Of each of these rows.
        copied: Bytes of a copy.
    """

    batch: int = 128
    pictures: int = 4096
    seconds: float = 10
    rows: int = 100_000
    features: int = 1024
    copied: int = 2**30


_TINY = Sizes(4, 24, 0.1, 400, 16, 2**20)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cpu", action="store_true", help="a few rows on the processor: does it run?")
    parser.add_argument("--json", metavar="FILE", help="also write the numbers to this file")
    args = parser.parse_args()
    if not (args.cpu or torch.cuda.is_available()):
        print(NO_GPU)
        return
    sizes = _TINY if args.cpu else Sizes()
    runtime = find_runtime(Config(device="cpu" if args.cpu else "cuda", precision="bf16"))
    print(f"on {runtime.describe()}, PyTorch {torch.__version__}", flush=True)
    found: dict[str, Any] = {"device": runtime.describe(), "augmentation": _augmentation(runtime, sizes)}
    with TemporaryDirectory() as folder:
        table = _pictures(Path(folder), sizes.pictures)
        found["stage U"] = {name: _stage_u(name, table, runtime, sizes) for name in _NETWORKS}
        found["solver"] = _solver(Path(folder), runtime, sizes)
        found["serving"] = _serving(Path(folder), table, sizes)
    if args.json:
        Path(args.json).write_text(json.dumps(found, indent=1), encoding="utf-8")


def _seconds(work: Callable[[], object], device: torch.device, least: float) -> float:
    """Return the seconds of one call, the mean of as many as fit; the first two are left out."""
    for _ in range(2):
        work()
    _done(device)
    begun, calls = time.perf_counter(), 0
    while time.perf_counter() - begun < least or not calls:
        work()
        calls += 1
        if not calls % 8:  # else calls would queue without end
            _done(device)
    _done(device)
    return (time.perf_counter() - begun) / calls


def _done(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _augmentation(runtime: Runtime, sizes: Sizes) -> dict[str, float]:
    """Draw views of a batch, and copy as long."""
    device, image = runtime.device, Config().image
    augment = ImageAugment(image.policy, _SIDE)
    generator = torch.Generator().manual_seed(0)
    host = torch.randint(0, 256, (sizes.batch, 3, _SOURCE, _SOURCE), dtype=torch.uint8, generator=generator)
    images = host.to(device).contiguous(memory_format=torch.channels_last)
    keys = torch.arange(sizes.batch, device=device)
    drawn = _seconds(lambda: augment.draw(images, keys, Moment(0, 0, 0)), device, sizes.seconds)
    block = torch.empty(sizes.copied // 4, device=device)
    copy = _seconds(block.clone, device, sizes.seconds / 4)
    moved = sizes.batch * 3 * (_SOURCE**2 + 4 * _SIDE**2)
    plain, fixed = (torch.empty(sizes.copied, dtype=torch.uint8) for _ in range(2))
    fixed = fixed.pin_memory() if device.type == "cuda" else fixed
    rates = {
        "views a second": sizes.batch / drawn,
        "GB/s drawn": moved / drawn / 1e9,
        "GB/s copied": 2 * sizes.copied / copy / 1e9,
        "GB/s from pinned memory": sizes.copied
        / _seconds(lambda: fixed.to(device, non_blocking=True, copy=True), device, sizes.seconds / 4) / 1e9,
        "GB/s from ordinary memory": sizes.copied
        / _seconds(lambda: plain.to(device, copy=True), device, sizes.seconds / 4) / 1e9,
    }  # fmt: skip
    print(
        f"augmentation ({_SOURCE} to {_SIDE} pixels, default policy): {rates['views a second']:,.0f} views a second, "
        f"{rates['GB/s drawn']:.1f} GB/s read and written, {rates['GB/s drawn'] / rates['GB/s copied']:.1%} of the "
        f"{rates['GB/s copied']:,.0f} GB/s of a copy; from pinned memory {rates['GB/s from pinned memory']:.1f} GB/s, "
        f"from ordinary {rates['GB/s from ordinary memory']:.1f}",
        flush=True,
    )
    return rates


def _pictures(folder: Path, rows: int) -> Path:
    """Write JPEG files, all different, and a table that names them."""
    generator = np.random.default_rng(0)
    (folder / "pictures").mkdir()
    for row in range(rows):
        pixels = cv2.resize(
            generator.integers(0, 256, (24, 24, 3), np.uint8), (_SOURCE, _SOURCE), interpolation=cv2.INTER_CUBIC
        )
        (folder / "pictures" / f"{row}.jpg").write_bytes(simplejpeg.encode_jpeg(pixels, quality=90))
    frame = pd.DataFrame({"image": [f"pictures/{row}.jpg" for row in range(rows)]})
    frame["number"] = generator.normal(size=rows)
    frame["label"] = np.array(["a", "b", "c", "d"])[np.arange(rows) % 4]
    frame.to_csv(folder / "table.csv", index=False)
    return folder / "table.csv"


def _stage_u(name: str, table: Path, runtime: Runtime, sizes: Sizes) -> dict[str, float]:
    """Fine-tune a network for some seconds, from files and from decoded pixels."""
    sets = [f"image.size={_SIDE}", f"image.encode_size={_SIDE}", "image.encoder=builtin", "store.images=false"]
    sets += [f"store.folder={table.parent / 'store'}", f"device={runtime.device.type}", "doctor.check=false"]
    found: dict[str, float] = {}
    with prepared(read_table(table), "label", {"inputs": "image"}, Config.build({}, sets=sets)) as (ctx, _):
        source: Any = ctx.sources["image"]
        augment = ctx.augments["image"]
        encoder = TransformersImage(
            _NETWORKS[name], mean=IMAGENET_MEAN, std=IMAGENET_STD, preferred_size=_SIDE, statistics="ImageNet"
        )
        network = nn.Sequential(encoder, nn.Linear(encoder.dim, 4)).to(runtime.device).train()
        optimiser = torch.optim.AdamW(network.parameters(), 1e-4)
        rows = np.arange(len(ctx.ids))
        resident = pinned(source.read(rows[: sizes.batch]))

        def step(batch: Any, raw: Any) -> float:
            inputs, keys = to_device(raw, runtime.device), ctx.row_keys(batch)
            seen = augment.draw(inputs, keys, Moment(0, 0, 0))
            with runtime.autocast():
                loss: Tensor = nn.functional.cross_entropy(network(seen).float(), ctx.targets(batch))
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
            return float(loss.detach())  # as the library's loop does: a step ends before the next begins

        source.pixels = None  # as where pictures are too many for memory: each batch is decoded when it is due
        ways: dict[str, Callable[[Any], Any]] = {"files": source.read, "resident": lambda _: resident}
        for way, read in ways.items():
            found |= {f"{what}, {way}": value for what, value in _looped(step, read, rows, sizes).items()}
    print(
        f"stage U, {name} in bf16, batches of {sizes.batch}: {found['pictures a second, files']:,.0f} pictures a "
        f"second from files, waiting for the loader {found['waiting, files']:.0%} of the time; "
        f"{found['pictures a second, resident']:,.0f} from decoded pixels",
        flush=True,
    )
    return found


def _looped(step: Callable[[Any, Any], float], read: Callable[[Any], Any], rows: Any, sizes: Sizes) -> dict[str, float]:
    """Run epochs until the time is over; the first two steps are left out."""
    begun = end = waited = 0.0
    steps = 0
    for place, (batch, raw, wait) in enumerate(_waited(read, rows, sizes.batch)):
        step(batch, raw)
        if place == 1:
            begun = time.perf_counter()
        elif place > 1:
            steps, waited, end = steps + 1, waited + wait, time.perf_counter()
            if end - begun > sizes.seconds:
                break
    return {"pictures a second": steps * sizes.batch / (end - begun), "waiting": waited / (end - begun)}


def _waited(read: Callable[[Any], Any], rows: Any, size: int) -> Iterator[tuple[Any, Any, float]]:
    """Yield batches of epoch after epoch, and the seconds that each was waited for."""
    for epoch in count():
        batches = [batch for batch in shuffled_batches(rows, size, 0, epoch) if len(batch) == size]
        begun = time.perf_counter()
        for batch, raw in prefetch(batches, lambda batch: (batch, read(batch))):
            yield batch, raw, time.perf_counter() - begun
            begun = time.perf_counter()


def _solver(folder: Path, runtime: Runtime, sizes: Sizes) -> dict[str, float]:
    """Solve a head with one penalty on both devices."""
    data = made(folder, 1, sizes.rows, sizes.features, 10)
    found = {}
    for device in dict.fromkeys([torch.device("cpu"), runtime.device]):
        here = replace(data, device=device)
        begun = time.perf_counter()
        fit_logistic(here, here, HeadConfig(penalties=(1e-3,)), 10, 0)
        found[device.type] = time.perf_counter() - begun
    said = ", ".join(f"{seconds:.1f} s on {name}" for name, seconds in found.items())
    print(f"solver, {sizes.rows:,} rows of {sizes.features:,} features, 10 classes, one penalty: {said}", flush=True)
    return found


def _serving(folder: Path, table: Path, sizes: Sizes) -> dict[str, float]:
    """Answer single rows and many with a model that a quick fit leaves; `predict` is what the server calls."""
    sets = ["image.encoder=builtin", "columns.train.epochs=1", "evaluate.resamples=100", f"store.folder={folder / 's'}"]
    frame = pd.read_csv(table).head(256)
    frame["image"] = [str(folder / name) for name in frame["image"]]
    run = fusetune.fit(frame, "label", preset="quick", sets=sets, out=folder / "run", quiet=True)
    model = fusetune.load(run.folder)
    single: list[float] = []
    every: list[float] = []
    for rows, times in ((1, single), (len(frame), every)):
        some = frame.head(rows)
        for _ in range(5 if sizes is _TINY else 50):
            begun = time.perf_counter()
            model.predict_proba(some, "mask")
            times.append(time.perf_counter() - begun)
    found = {"one row": statistics.median(single), f"{len(frame)} rows": statistics.median(every)}
    said = ", ".join(f"{1e3 * seconds:.1f} ms for {name}" for name, seconds in found.items())
    print(f"serving (a small network, one number and a picture from its file): {said}", flush=True)
    return found


if __name__ == "__main__":
    main()
