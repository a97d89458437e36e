"""Labels of FPUS23's frames, from whichever form is there: CVAT files, the notebooks' three CSV files, or one table."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from fusetune.errors import UserError, listed
from fusetune.progress import track
from fusetune_papers.datasets.cvat import Annotation, read_cvat
from fusetune_papers.datasets.pictures import Warn
from fusetune_papers.datasets.streams import read_stream

CSV_PARTS = {"train_labels.csv": "train", "val_labels.csv": "valid", "test_labels.csv": "test"}
# As in the authors' repository, and as their programs expect it.
_ANNOTATIONS = ("annotation", "annos/annotation", "Dataset/annos/annotation", ".")
_COUNTS = {"n_head": "head", "n_abdomen": "abdomen", "n_arm": "arm", "n_legs": "legs"}
_NAME = "annotations.xml"


@dataclass(frozen=True)
class Labels:
    """The labels of all frames; series share one index.

    Attributes:
        stream: The stream's folder name.
        file: The picture's file name.
        number: The frame's number.
        words: The labels of the frame's boxes, separated by spaces; empty where there is none.
        part: train, valid or test as published, or None.
        source: Where the frames come from: the word in the annotation files, else FPUS23.
    """

    stream: pd.Series
    file: pd.Series
    number: pd.Series
    words: pd.Series
    part: pd.Series | None = None
    source: str = "FPUS23"


def read_labels(src: Path, warn: Warn, csv_only: bool = False) -> Labels:
    """Read the labels below `src`: CVAT files before CSV files before `frames.csv`; or, `csv_only`, CSV files.

    Raises:
        UserError: There are none, or they are broken; the message names the file.
    """
    if not src.is_dir():
        raise UserError(f"there is no folder {src}")
    files = [] if csv_only else annotation_files(src)
    if files:
        labels = _from_cvat(files, warn)
    elif any((src / name).is_file() for name in CSV_PARTS):
        labels = _from_csv(src)
    elif (src / "frames.csv").is_file() and not csv_only:
        labels = _from_table(src / "frames.csv")
    else:
        wanted = (
            listed(CSV_PARTS) if csv_only else f"annotation/<stream>/{_NAME}, nor {listed(CSV_PARTS)}, nor frames.csv"
        )
        raise UserError(f"{src} holds no annotations: there is no {wanted}")
    _refuse_repeated(labels, src)
    return labels


def annotation_files(src: Path) -> list[Path]:
    """Return the annotation files of all streams, sorted."""
    for name in _ANNOTATIONS:
        if files := sorted((src / name).glob(f"*/{_NAME}")):
            return files
    return []


def streams_below(folder: Path) -> list[Path]:
    """Return the folders in `folder` that are named like streams, sorted."""
    return sorted(path for path in folder.glob("stream_*") if path.is_dir())


def _from_cvat(files: list[Path], warn: Warn) -> Labels:
    read: dict[str, Annotation] = {}
    for path in track(files, "Reading annotations"):
        read_stream(path.parent.name)
        read[path.parent.name] = read_cvat(path)
        _warn_contradictions(path, read[path.parent.name], warn)
    if silent := sorted(path.name for path in streams_below(files[0].parents[1]) if path.name not in read):
        warn(f"{len(silent)} stream(s) have a folder without {_NAME} and are left out: {listed(silent)}")
    rows = [(stream, frame) for stream, annotation in read.items() for frame in annotation.frames]
    sources = sorted({annotation.source for annotation in read.values() if annotation.source})
    return Labels(
        pd.Series([stream for stream, _ in rows], dtype="str"),
        pd.Series([frame.name for _, frame in rows], dtype="str"),
        pd.Series([frame.number for _, frame in rows], dtype="int64"),
        pd.Series([" ".join(box.label for box in frame.boxes) for _, frame in rows], dtype="str"),
        source=", ".join(sources) or Labels.source,
    )


def _warn_contradictions(path: Path, annotation: Annotation, warn: Warn) -> None:
    stream = read_stream(path.parent.name)
    counts = Counter(what for frame in annotation.frames for what in stream.contradictions(frame.tags))
    for what, count in counts.items():
        warn(f"{path}: {what} in {count:,} frames, which is not what the folder's name says; the name is used")


def _from_csv(src: Path) -> Labels:
    """Read the notebooks' files: column 0 the stream (with or without slashes), 1 the file, 3 the labels."""
    if absent := [name for name in CSV_PARTS if not (src / name).is_file()]:
        raise UserError(f"{src} has no {listed(absent)}; all three of {listed(CSV_PARTS)} are needed")
    parts = []
    for name, part in CSV_PARTS.items():
        frame = pd.read_csv(src / name, dtype="str", keep_default_na=False)
        if frame.shape[1] < 4:
            raise UserError(f"{src / name} has {frame.shape[1]} columns; the labels are expected in the fourth")
        columns = {"stream": frame.iloc[:, 0].str.strip("/ "), "file": frame.iloc[:, 1], "words": frame.iloc[:, 3]}
        parts.append(pd.DataFrame({**columns, "part": part}))
    rows = pd.concat(parts, ignore_index=True)
    return Labels(rows["stream"], rows["file"], _numbers(rows["file"], src), rows["words"], rows["part"])


def _from_table(path: Path) -> Labels:
    rows = pd.read_csv(path)
    if absent := [name for name in ("stream", "frame", *_COUNTS) if name not in rows]:
        raise UserError(f"{path} has no column {listed(absent)}; it must give the number of boxes per frame and class")
    words = pd.Series([""] * len(rows), dtype="str")
    for column, label in _COUNTS.items():
        words += (rows[column] > 0).map({True: f"{label} ", False: ""})
    return Labels(rows["stream"], rows["frame"], _numbers(rows["frame"], path), words.str.strip())


def _numbers(files: pd.Series, path: Path) -> pd.Series:
    """Return the frames' numbers, read from their file names."""
    numbers = files.str.extract(r"(\d+)\.\w+$", expand=False)
    if numbers.isna().any():
        raise UserError(
            f"{path}: '{files[numbers.isna()].iloc[0]}' does not end in a frame number, as frame_000012.png"
        )
    return numbers.astype("int64")


def _refuse_repeated(labels: Labels, src: Path) -> None:
    names = labels.stream + "/" + labels.file
    if names.duplicated().any():
        raise UserError(f"{src}: {listed(names[names.duplicated()].unique())} is annotated more than once; correct it")
