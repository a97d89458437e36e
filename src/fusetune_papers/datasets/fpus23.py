"""FPUS23 (foetal phantom ultrasound, Prabakaran et al.) as a table: one row per annotated frame of 39 video streams.

The labels come from the published CVAT files, from the three CSV files that the notebooks of arXiv 2505.06592 use, or
from one table `frames.csv` with counts of boxes. What a stream's name says is acquisition metadata, see `streams`.

Frames that follow each other are nearly the same picture. A split by frame therefore asks a model what it has seen;
`split="streams"` keeps every stream in one part.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import get_args

import numpy as np
import pandas as pd

from fusetune.data.split import PARTS, deal, seeded_order
from fusetune.errors import UserError, did_you_mean, listed
from fusetune.progress import Log
from fusetune_papers.datasets.choices import How, Missing
from fusetune_papers.datasets.fpus23_labels import Labels, read_labels, streams_below
from fusetune_papers.datasets.pictures import Warn, with_pictures
from fusetune_papers.datasets.streams import read_stream

# Which word in a frame's labels makes a task positive. The published class is `arm`: searching for `arms`, as the
# paper's code would for that task, finds nothing and makes every row negative.
MATCH = {"head": "head", "abdomen": "abdomen", "arms": "arm", "legs": "leg"}
TASKS = tuple(MATCH)
# All four at once: the list of those that are in the frame, empty where none is.
STRUCTURES = "structures"
SHARES = (0.6, 0.2, 0.2)
SENTENCES = "sentences.csv"
_FRAMES = ("four_poses", "Dataset/four_poses", ".")


def fpus23_table(
    src: Path,
    *,
    frames: Path | None = None,
    images: bool = True,
    task: str | None = None,
    match: Mapping[str, str] | None = None,
    split: How = "streams",
    missing: Missing = "error",
    seed: int = 0,
    root: Path | None = None,
    warn: Warn | None = None,
) -> pd.DataFrame:
    """Read the data set as published.

    Args:
        src: Folder with the annotations: `annotation/<stream>/annotations.xml` (also below `annos/`), or
            `train_labels.csv`, `val_labels.csv`, `test_labels.csv`, or `frames.csv`.
        frames: Folder with a folder of pictures per stream; by default `src`/four_poses.
        images: Whether there are pictures. Without them, the table has no column `image`.
        task: Keep this target alone (one of `TASKS`, or `STRUCTURES`); by default all five are given.
        match: Words to look for instead of those in `MATCH`.
        split: streams (whole streams, stratified by all four targets together), frames (the paper's, at random),
            given (by the three CSV files, which then also give the labels). Shares of streams and frames: `SHARES`.
        missing: What to do about annotated frames without a picture.
        seed: Of the split. Whole streams are dealt out by size first, so where all sizes differ, as in the published
            data, it changes nothing.
        root: Folder that paths of pictures are written relative to, if they lie below it or beside it.
        warn: Called with a sentence about what is unusual; by default it is printed.

    Returns:
        Columns id, [image,] stream, frame, the target(s) (0 or 1; of `STRUCTURES` a list of words), head_up,
        front_view, location, probe, paper_location, paper_invasive, [text,] split, source.

    Raises:
        UserError: Something is broken, missing or unknown; the message names path, folder or frame.
    """
    words = _words(task, match)
    if split not in get_args(How):
        raise UserError(f"the split '{split}' is unknown{did_you_mean(split, get_args(How))}; {listed(get_args(How))}")
    warn = warn or Log().warn
    labels = read_labels(Path(src), warn, csv_only=split == "given")
    table = _described(labels, words)
    table["split"] = labels.part if split == "given" else make_parts(table, labels.words, split, seed)
    if images:
        folder = frames or _frames_folder(Path(src))
        paths = labels.stream + "/" + labels.file
        table = with_pictures(table, paths, _pictures(folder), folder, missing, root, warn, "annotated frames")
    for name in words:
        _check_target(table, name, words[name], labels.words)
    table = _with_structures(table, task)
    table = _with_sentences(table, Path(src))
    table["source"] = labels.source
    return table.sort_values(["stream", "frame"]).reset_index(drop=True)


def make_parts(table: pd.DataFrame, labels: pd.Series, split: str, seed: int) -> np.ndarray:
    """Return train, valid or test per row.

    The parts depend on the seed and on all labels of the frames, never on the task, so that every task and every
    stage of an experiment has the same split.
    """
    if split == "frames":
        rank = np.argsort(np.argsort(seeded_order(table["id"], seed), kind="stable"), kind="stable")
        # The paper's sizes: 9,065, 3,022 and 3,021 of 15,108.
        test = int(SHARES[2] * len(table))
        held_out = test + int(np.ceil(SHARES[1] * len(table)))
        return np.select([rank < test, rank < held_out], ["test", "valid"], "train")
    kinds = np.unique([" ".join(sorted(set(words.split()))) for words in labels], return_inverse=True)[1]
    return np.array(PARTS)[deal(table["id"], kinds.astype(np.int64), table["stream"], SHARES, seed)]


def _words(task: str | None, match: Mapping[str, str] | None) -> dict[str, str]:
    """Return the word to look for by task."""
    match = match or {}
    for name in [*match, *([] if task is None else [task])]:
        known = TASKS if name in match else (*TASKS, STRUCTURES)
        if name not in known:
            raise UserError(f"the task '{name}' is unknown{did_you_mean(name, known)}; known: {listed(known)}")
    words = {**MATCH, **match}
    return {task: words[task]} if task in words else words


def _described(labels: Labels, words: dict[str, str]) -> pd.DataFrame:
    """Return ids, targets and what the streams' names say."""
    named = {name: read_stream(name).columns() for name in labels.stream.unique()}
    stems = labels.file.str.replace(r"\.\w+$", "", regex=True)
    table = pd.DataFrame({"id": labels.stream + "/" + stems, "stream": labels.stream, "frame": labels.number})
    for task, word in words.items():
        table[task] = labels.words.str.contains(word, regex=False).astype("int64")
    about = pd.DataFrame([named[name] for name in labels.stream], index=table.index)
    return pd.concat([table, about], axis=1)


def _check_target(table: pd.DataFrame, task: str, word: str, labels: pd.Series) -> None:
    if table[task].nunique() == 2:
        return
    seen = sorted({name for words in labels.unique() for name in words.split()})
    many = "every" if table[task].all() else "no"
    raise UserError(
        f"the target '{task}' has a single class: {many} frame of {len(table):,} has a label with '{word}' in it. The "
        f"labels are {listed(seen, 9)}. Name the right word with --match {task}=WORD, or another --task"
    )


def _with_structures(table: pd.DataFrame, task: str | None) -> pd.DataFrame:
    """Add the list of what is in each frame, in the order of `TASKS`, where it is asked for; alone if it alone is."""
    if task not in (None, STRUCTURES):
        return table
    there = table[[*TASKS]].to_numpy(dtype=bool)
    lists = [[name for name, has in zip(TASKS, row, strict=True) if has] for row in there]
    place = list(table.columns).index(TASKS[-1]) + 1
    table.insert(place, STRUCTURES, pd.Series(lists, index=table.index, dtype=object))
    return table if task is None else table.drop(columns=[*TASKS])


def _frames_folder(src: Path) -> Path:
    for name in _FRAMES:
        if streams_below(src / name):
            return src / name
    raise UserError(
        f"{src} has no folder four_poses with pictures. Name the folder that holds the streams' folders with --frames, "
        "or make a table without pictures with --without-images"
    )


def _pictures(folder: Path) -> set[str]:
    """Return stream/file of all pictures below the streams' folders."""
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}; it must hold a folder of pictures per stream")
    return {f"{path.name}/{entry.name}" for path in streams_below(folder) for entry in os.scandir(path)}


def _with_sentences(table: pd.DataFrame, src: Path) -> pd.DataFrame:
    """Add the column `text` if there is a file with a sentence per frame (the phantom generator writes one)."""
    path = src / SENTENCES
    if not path.is_file():
        return table
    sentences = pd.read_csv(path, dtype="str", keep_default_na=False)
    if list(sentences.columns) != ["id", "text"] or sentences["id"].duplicated().any():
        raise UserError(f"{path} must have the columns id and text, and every id once")
    table["text"] = table["id"].map(sentences.set_index("id")["text"])
    return table
