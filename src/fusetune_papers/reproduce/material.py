"""A data set as the experiments see it: a table, one target, and what stands beside the image.

Read from a folder as downloaded; a phantom that is not there is drawn first.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from fusetune.data.split import Codes
from fusetune.data.table import Table, read_table
from fusetune.errors import ConfigError, TableError, did_you_mean, listed
from fusetune.targets import Classification, Multilabel, Target, Truth
from fusetune.targets.choose import kind_of
from fusetune_papers.datasets.choices import How, Missing
from fusetune_papers.datasets.food101 import food101_table
from fusetune_papers.datasets.fpus23 import STRUCTURES, fpus23_table
from fusetune_papers.datasets.fpus23 import TASKS as FPUS23_TASKS
from fusetune_papers.datasets.fpus23_labels import CSV_PARTS
from fusetune_papers.datasets.streams import LOCATIONS
from fusetune_papers.phantom.draw import write_phantom
from fusetune_papers.phantom.knobs import Knobs
from fusetune_papers.reproduce.flaws import FOOD101, FPUS23, PHANTOM

# Those that are run where none is named (on published data: those of the notebooks), and all that there are.
TASKS = {FPUS23: ["head"], FOOD101: ["label"], PHANTOM: list(FPUS23_TASKS)}
ALL_TASKS = {FPUS23: [*FPUS23_TASKS, STRUCTURES], FOOD101: ["label"], PHANTOM: [*FPUS23_TASKS, STRUCTURES]}
PLACE_COLUMNS = ("head_up", "front_view", "location", "probe")
# Names and sentences that say little, so that what is learned comes from pictures: there, by-frame splits show.
PHANTOM_KNOBS = Knobs(frames=24, metadata_share=0.3, text_share=0.3)
_PROBES = {"horizontal": 0.0, "vertical": 1.0}
_QUICK = 240
Parts = npt.NDArray[np.object_]


@dataclass(frozen=True)
class Material:
    """Rows to experiment on.

    Attributes:
        data: Name of the data set.
        task: What is predicted.
        table: All rows, in the publisher's order.
        labels: As the target has them: class index per row, int64 [rows]; of `structures` bits, float32 [rows, 4].
        target: The classes or labels.
        groups: The stream of each row, or None.
        fixed: train, valid or test per row as a file has them; None: the rows are divided here.
        by_frame: train, valid or test per row as the publisher deals single frames (L1), or None.
    """

    data: str
    task: str
    table: Table
    labels: Truth
    target: Target
    groups: pd.Series | None
    fixed: Parts | None
    by_frame: Parts | None = None

    @property
    def synthetic(self) -> bool:
        """Were the pictures drawn? The annotations of a phantom say so."""
        return self.has("source") and bool(self.table.frame["source"].astype("str").str.contains("synthetic").any())

    @property
    def ids(self) -> pd.Series:
        """Row ids."""
        return self.table.frame["id"].astype("str")

    @property
    def strata(self) -> Codes:
        """What parts and folds hold alike shares of, int64 [rows]."""
        return self.target.strata(self.labels)

    @property
    def units(self) -> pd.Series:
        """What must not be divided: streams, or single rows where there are none."""
        return self.ids if self.groups is None else self.groups

    def has(self, column: str) -> bool:
        """Return whether the table has a column."""
        return column in self.table.frame


def load_material(data: str, folder: Path, task: str, seed: int = 0, missing: Missing = "error") -> Material:
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
    tasks = ALL_TASKS[data]
    if task not in tasks:
        raise ConfigError(f"--task {task}: unknown on {data}{did_you_mean(task, tasks)}; known: {', '.join(tasks)}")
    if data == PHANTOM and not folder.exists():
        write_phantom(folder, PHANTOM_KNOBS)
    dev = data == FOOD101 and all((folder / name).is_file() for name in ("train.jsonl", "dev.jsonl"))
    if data == FOOD101:
        frame = food101_table(folder, images=(folder / "images").is_dir(), root=folder, missing=missing)
    else:
        pictures = any(any(folder.glob(f"**/stream_*/*.{kind}")) for kind in ("png", "jpg"))
        split: How = "given" if all((folder / name).is_file() for name in CSV_PARTS) else "frames"
        frame = fpus23_table(folder, images=pictures, root=folder, missing=missing, seed=seed, split=split)
    return material_of(data, replace(read_table(frame), name=str(folder), root=folder.absolute()), task, dev)


def thinned(material: Material) -> Material:
    """Return every n-th row, about 240 in all, in their order."""
    step = max(len(material.table) // _QUICK, 1)
    frame = material.table.frame.iloc[::step].reset_index(drop=True)
    dev = material.fixed is not None and "valid" in material.fixed
    return material_of(material.data, replace(material.table, frame=frame), material.task, dev)


def material_of(data: str, table: Table, task: str, dev: bool = False) -> Material:
    """Take a target, groups and given parts from a table.

    Args:
        data: Name of the data set.
        table: With the columns id and `task`, and, as far as they exist, image, text, stream, frame, split and what a
            stream's name says (head_up, front_view, location, probe).
        task: The target's column.
        dev: Is the table's valid part that of a file of its own, and not dealt from the training rows?

    Raises:
        TableError: The target has one class only, or there are no training rows.
    """
    frame = table.frame
    target, labels = _target_of(table, task)
    groups = frame["stream"].astype("str") if "stream" in frame else None
    parts = frame["split"].to_numpy(dtype=object) if "split" in frame else None
    material = Material(data, task, table, labels, target, groups, None, parts)
    if groups is not None or parts is None:
        return material
    fixed = parts if dev else np.where(parts == "test", "test", "train").astype(object)
    for part, name in (("train", "training"), ("test", "test")):
        if not (fixed == part).any():
            raise TableError(f"{table.name} has no {name} rows; both are needed to reproduce anything")
    return replace(material, fixed=fixed, by_frame=None)


def _target_of(table: Table, task: str) -> tuple[Target, Truth]:
    """Return what is predicted, and the label of each row as it has them."""
    if kind_of(table, task)[0] == Multilabel.kind:
        several = Multilabel.learn(table, task)
        return several, several.encode(table, task)
    labels, classes = pd.factorize(table.column(task), sort=True)
    if len(classes) < 2:
        raise TableError(f"the target '{task}' of {table.name} has a single class; choose another task")
    return Classification(list(classes)), labels.astype(np.int64)


def place_numbers(material: Material, ordinal: bool) -> npt.NDArray[np.float64]:
    """Return what a stream's name says, as numbers [rows, 4 or 8].

    Args:
        material: The rows.
        ordinal: As published (L14): head up, front view, location / 4 in the order of `LOCATIONS`, probe. Else the
            location has one column per place.
    """
    up, front, places, probes = (material.table.column(name) for name in PLACE_COLUMNS)
    codes = pd.Index(LOCATIONS).get_indexer(pd.Index(places))
    if (codes < 0).any():
        unknown = places.iloc[int(np.flatnonzero(codes < 0)[0])]
        raise TableError(
            f"column 'location' of {material.table.name} holds '{unknown}', which is no place; use {listed(LOCATIONS)}"
        )
    where = codes[:, None] / 4 if ordinal else np.eye(len(LOCATIONS))[codes]
    return np.column_stack([up, front, where, probes.map(_PROBES)]).astype(np.float64)
