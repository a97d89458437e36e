"""From a folder as downloaded to the rows of an experiment; a phantom that is not there is drawn first."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

from fusetune.data.table import read_table
from fusetune.errors import ConfigError, did_you_mean
from fusetune_papers.datasets.food101 import food101_table
from fusetune_papers.datasets.fpus23 import fpus23_table
from fusetune_papers.datasets.fpus23_labels import CSV_PARTS
from fusetune_papers.phantom.draw import write_phantom
from fusetune_papers.phantom.script import Knobs
from fusetune_papers.reproduce.flaws import FOOD101, FPUS23, PHANTOM
from fusetune_papers.reproduce.material import Material, material_of

TASKS = {FPUS23: ["head"], FOOD101: ["label"], PHANTOM: ["head", "abdomen", "arms", "legs"]}
_QUICK = 240
# Names and sentences that say little, so that what is learned comes from pictures: there, by-frame splits show.
PHANTOM_KNOBS = Knobs(frames=24, metadata_share=0.3, text_share=0.3)


def load_material(
    data: str, folder: Path, task: str, seed: int = 0, missing: Literal["error", "drop"] = "error"
) -> Material:
    """Read a data set and take one target from it.

    Args:
        data: fpus23, upmc-food101 or phantom.
        folder: As its publisher lays it out. Without pictures in it, the table has no column `image`.
        task: The target's column.
        seed: Decides how single frames are dealt (L1) where no files of the publisher do.
        missing: What to do about rows without their picture.

    Raises:
        UserError: What is in the folder cannot be used.
    """
    known = TASKS[PHANTOM] if data != FOOD101 else TASKS[FOOD101]
    if task not in known:
        raise ConfigError(f"--task {task}: unknown on {data}{did_you_mean(task, known)}; known: {', '.join(known)}")
    if data == PHANTOM and not folder.exists():
        write_phantom(folder, PHANTOM_KNOBS)
    dev = False
    if data == FOOD101:
        frame = food101_table(folder, images=(folder / "images").is_dir(), root=folder, missing=missing)
        dev = all((folder / name).is_file() for name in ("train.jsonl", "dev.jsonl"))
    else:
        published = all((folder / name).is_file() for name in CSV_PARTS)
        frame = fpus23_table(
            folder,
            images=_has_frames(folder),
            root=folder,
            missing=missing,
            seed=seed,
            split="given" if published else "frames",
        )
    return material_of(data, replace(read_table(frame), name=str(folder), root=folder.absolute()), task, dev)


def thinned(material: Material) -> Material:
    """Return every n-th row, about 240 in all, in their order."""
    step = max(len(material.table) // _QUICK, 1)
    frame = material.table.frame.iloc[::step].reset_index(drop=True)
    dev = material.given is not None and "valid" in material.given
    return material_of(material.data, replace(material.table, frame=frame), material.task, dev)


def _has_frames(folder: Path) -> bool:
    return any(folder.glob("**/stream_*/*.png")) or any(folder.glob("**/stream_*/*.jpg"))
