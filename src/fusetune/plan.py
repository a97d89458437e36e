"""What a run on many rows will take of this machine, said before any work, and refused where it cannot be had.

Features of pretrained encoders are what grows with the rows: one pass for each row, input and view. Their size follows
from the table and the settings; how long they take, from what this machine encodes in a second.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fusetune.config import Config
from fusetune.data.schema import Schema
from fusetune.data.several import is_list
from fusetune.data.table import Table
from fusetune.errors import UserError, listed
from fusetune.features.store import IN_MEMORY, default_folder
from fusetune.files import expanded
from fusetune.inputs import image_input
from fusetune.prepare import image_folder
from fusetune.progress import Log
from fusetune.runtime import free_memory
from fusetune.speed import Speed, measure
from fusetune.vault import GIGABYTE

# Pictures and texts from which on a plan is worth the seconds that measuring takes.
LARGE = 50_000
_FLOAT = 4  # bytes
# Arrays that hold features of one input while they are encoded: the rows that have it, and all rows.
_ARRAYS = 2
_REMEDY = (
    "take --preset quick or fewer views (--set views=1), a sample of the rows, or a larger disk for the store (--set "
    "store.folder=...); `fusetune encode` fills a store beforehand, on a cluster with --engine ray"
)


@dataclass(frozen=True)
class Plan:
    """What a run will take, in rows, bytes and seconds.

    Attributes:
        rows: Of the table.
        pictures: Elements of image columns, each counted once.
        texts: Elements of text columns.
        passes: How often each is encoded: once for each view, and once as it is.
        features: Bytes of all features.
        kept: Bytes of the decoded pictures that are kept on disk.
        stored: Bytes of features that are in the store already, which may be these.
        scratch: Bytes on disk of features while they are encoded, beside those that are kept.
        memory: Bytes of the table, and of features while they are encoded.
        disk_free: Bytes free where the store is.
        memory_free: Bytes of memory that are free; None: nobody knows.
        folder: The store.
        speed: What this machine encodes in a second.
    """

    rows: int
    pictures: int
    texts: int
    passes: int
    features: int
    kept: int
    stored: int
    scratch: int
    memory: int
    disk_free: int
    memory_free: int | None
    folder: Path
    speed: Speed

    @property
    def seconds(self) -> float:
        """Seconds that all passes take, if nothing of them is stored."""
        return self.passes * (self.pictures / self.speed.pictures + self.texts / self.speed.texts)

    @property
    def disk(self) -> int:
        """Bytes that the store will grow by, at most."""
        return max(0, self.features - self.stored) + self.kept + self.scratch

    def lines(self) -> list[str]:
        """Return what is said before the work."""
        free = "" if self.memory_free is None else f" ({_size(self.memory_free)} are free)"
        there = f", of which {_size(self.stored)} may be there" if self.stored else ""
        rate = f"{self.speed.pictures:,.0f} pictures ({self.speed.picture_encoder})"
        rate += f" and {self.speed.texts:,.0f} texts of 32 tokens ({self.speed.text_encoder}) a second"
        return [
            f"plan: {self.rows:,} rows with {self.pictures:,} pictures and {self.texts:,} texts, each encoded "
            f"{self.passes} times",
            f"plan: disk {_size(self.disk)} in {self.folder} ({_size(self.disk_free)} are free): features "
            f"{_size(self.features)}{there}, while they are made {_size(self.scratch)}, decoded pictures "
            f"{_size(self.kept)}",
            f"plan: memory {_size(self.memory)}{free}",
            f"plan: {self.seconds / 3600:,.1f} hours for features without any stored, at {rate}, measured now on "
            f"{self.speed.device} with {self.speed.threads} thread(s); fine-tuning keeps to `minutes`",
        ]

    def refuse(self) -> None:
        """Refuse what this machine cannot hold.

        Raises:
            UserError: Naming what is short and the remedies.
        """
        short = []
        if self.disk > self.disk_free:
            short.append(f"{_size(self.disk)} of disk in {self.folder}, where {_size(self.disk_free)} are free")
        if self.memory_free is not None and self.memory > self.memory_free:
            short.append(f"{_size(self.memory)} of memory, of which {_size(self.memory_free)} are free")
        if short:
            raise UserError(f"this run needs {listed(short).replace(', where', ' where')}: {_REMEDY}")


def announce_plan(
    table: Table, schema: Schema, config: Config, log: Log, measured: Callable[..., Speed] = measure
) -> Plan | None:
    """Say what a run on many pictures or texts will take, and refuse it where it cannot be had; None of small tables.

    Args:
        table: As it was read.
        schema: Its columns.
        config: The settings.
        log: Told the plan.
        measured: Returns what this machine encodes in a second, of pictures of so many pixels a side.

    Raises:
        UserError: If disk or memory cannot hold it.
    """
    pictures, texts = (_elements(table, schema, kind) for kind in ("image", "text"))
    if pictures + texts < LARGE:
        return None
    speed, passes = measured(config.image.encode_side), config.views + 1
    widths = {"image": speed.picture_width, "text": speed.text_width}
    sizes = [
        _FLOAT * passes * len(table) * widths[modality.kind]
        for modality in schema.modalities().values()
        if modality.kind in widths
    ]
    folder = expanded(config.store.folder) if config.store.folder else default_folder()
    side, home = image_input(config, "").size, image_folder(config)
    kept = 0 if home is None else min(3 * side**2 * pictures, int(config.store.images_gb * GIGABYTE))
    stored = sum(file.stat().st_size for file in folder.glob("*/*/features.npy"))
    new = _ARRAYS * max(sizes) if sum(sizes) > stored else 0
    here = min(new, _ARRAYS * IN_MEMORY)
    plan = Plan(
        len(table), pictures, texts, passes, sum(sizes), kept, stored, new - here,
        here + int(table.frame.memory_usage(index=False).sum()),
        shutil.disk_usage(_there(folder)).free, free_memory(), folder, speed,
    )  # fmt: skip
    for line in plan.lines():
        log.say(f"  {line}")
    plan.refuse()
    return plan


def _elements(table: Table, schema: Schema, kind: str) -> int:
    """Return how many pictures or texts there are; cells with several in one word count once."""
    columns = [name for it in schema.modalities().values() if it.kind == kind for name in it.columns]
    cells = (table.frame[name].dropna() for name in columns if name in table.frame)
    return sum(sum(len(cell) if is_list(cell) else 1 for cell in some) for some in cells)


def _there(folder: Path) -> Path:
    return next(place for place in (folder, *folder.absolute().parents) if place.exists())


def _size(count: int) -> str:
    return f"{count / GIGABYTE:,.1f} GB"
