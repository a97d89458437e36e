"""UPMC Food-101 (Wang et al. 2015) as a table: a picture of a dish and the title of the web page it came from.

Titles come from `texts/{train,test}_titles.csv` (no header: image, title, label) beside `images/{train,test}/<class>/`,
or from the files `{train,dev,test}.jsonl` that MMBT and QMF use (id, label, text, img). The official test part stays.

In most titles the dish is named, so a score on text says little without its share: see the column `dish_in_title`,
which is made from the label and must never be an input.
"""

from __future__ import annotations

import csv
import html
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fusetune.data.paths import IMAGE_SUFFIXES
from fusetune.data.split import deal
from fusetune.errors import UserError, listed
from fusetune.progress import Log, track
from fusetune_papers.datasets.choices import Missing
from fusetune_papers.datasets.pictures import Warn, with_pictures

CLASSES = 101
_JSON_PARTS = {"train": "train", "dev": "valid", "test": "test"}
# A table with the same content; `valid` rows are called dev there too.
_MANIFESTS = ("manifest.csv", "manifest.csv.gz")


def food101_table(
    src: Path,
    *,
    images: bool = True,
    missing: Missing = "error",
    valid: float = 0.1,
    seed: int = 0,
    root: Path | None = None,
    warn: Warn | None = None,
) -> pd.DataFrame:
    """Read the data set as published.

    Args:
        src: Folder with `texts/`, or with `test.jsonl` and others, or with `manifest.csv` (id, split, text, label,
            image_path_original).
        images: Whether there are pictures. Without them, the table has no column `image`.
        missing: What to do about rows without their picture.
        valid: Share of the training rows that becomes the valid part, stratified by label. Where there is a dev file
            beside a train file, it is the valid part; a dev file alone is divided like a train file.
        seed: Of that division.
        root: Folder that paths of pictures are written relative to.
        warn: Called with a sentence about what is unusual; by default it is printed.

    Returns:
        Columns id, [image,] text, label, dish_in_title, split. An empty title is a missing text.

    Raises:
        UserError: Something is broken, missing or unknown; the message names file and row.
    """
    src, warn = Path(src), warn or Log().warn
    if not 0 < valid < 1:
        raise UserError(f"the valid part takes a share between 0 and 1 of the training rows, not {valid}")
    table = _read(src)
    if table["id"].duplicated().any():
        raise UserError(f"{src}: {listed(table['id'][table['id'].duplicated()].unique())} stands in it more than once")
    if (classes := table["label"].nunique()) != CLASSES:
        warn(f"{src} has {classes} classes, the whole data set has {CLASSES}")
    table["split"] = _divided(table, valid, seed)
    if not (table["split"] == "train").any():
        warn(f"{src} has no training titles, only a test part: nothing can be trained on this table alone")
    table["dish_in_title"] = [int(names_dish(t, d)) for t, d in zip(table["text"], table["label"], strict=True)]
    table["text"] = table["text"].mask(table["text"].str.strip() == "")
    if images:
        table = with_pictures(table, table["path"], _pictures(src), src, missing, root, warn)
    columns = ["id", *(["image"] if images else []), "text", "label", "dish_in_title", "split"]
    return table[columns].reset_index(drop=True)


def names_dish(title: str, label: str) -> bool:
    """Return whether a title names the dish: the label's words in their order, whatever case and punctuation."""
    plain = re.sub(r"[^a-z0-9]+", " ", html.unescape(title).lower())
    return label.replace("_", " ").lower() in plain


def _read(src: Path) -> pd.DataFrame:
    """Return the columns id, text, label, split and path (below `src`)."""
    if not src.is_dir():
        raise UserError(f"there is no folder {src}")
    titles = [path for path in (src / f"texts/{part}_titles.csv" for part in ("train", "test")) if path.is_file()]
    lines = [path for path in (src / f"{name}.jsonl" for name in _JSON_PARTS) if path.is_file()]
    manifest = next((src / name for name in _MANIFESTS if (src / name).is_file()), None)
    if titles:
        rows = [row for path in titles for row in _title_rows(path)]
    elif lines:
        rows = [row for path in lines for row in _json_rows(path)]
    elif manifest:
        return _manifest_rows(manifest)
    else:
        raise UserError(
            f"{src} holds neither texts/train_titles.csv and texts/test_titles.csv, nor train.jsonl and so on"
        )
    return pd.DataFrame(rows)


def _title_rows(path: Path) -> list[dict[str, str]]:
    part = path.name.split("_")[0]
    rows = []
    with io.StringIO(_text(path), newline="") as file:
        for number, fields in enumerate(csv.reader(file), 1):
            if len(fields) != 3 or not fields[0].lower().endswith(IMAGE_SUFFIXES):
                raise UserError(f"{path}: row {number} is not `image,title,label` with an image's file name: {fields}")
            name, title, label = (text.strip() for text in fields)
            place = f"images/{part}/{label}/{name}"
            rows.append({"id": place, "text": title, "label": label, "split": part, "path": place})
    return rows


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise UserError(
            f"{path}: line {line} is not UTF-8; fetch the file anew, or convert it: iconv -f latin1 -t utf-8"
        ) from error


def _json_rows(path: Path) -> list[dict[str, str]]:
    rows = []
    for number, line in enumerate(_text(path).splitlines(), 1):
        try:
            row: dict[str, Any] = json.loads(line)
            values = {"id": row["id"], "text": row["text"], "label": row["label"], "path": row["img"]}
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise UserError(f"{path}: line {number} is no object with id, label, text and img ({error})") from error
        rows.append({**values, "split": _JSON_PARTS[path.stem]})
    return rows


def _manifest_rows(path: Path) -> pd.DataFrame:
    table = pd.read_csv(path, dtype="str", keep_default_na=False)
    needed = {"id": "id", "text": "text", "label": "label", "split": "split", "image_path_original": "path"}
    if absent := [name for name in needed if name not in table]:
        raise UserError(f"{path} has no column {listed(absent)}")
    rows = table[list(needed)].rename(columns=needed)
    rows["split"] = rows["split"].replace(_JSON_PARTS)
    return rows


def _divided(table: pd.DataFrame, valid: float, seed: int) -> np.ndarray:
    """Return the part of each row; a valid part is taken from the training rows where none is given."""
    part = table["split"].to_numpy(dtype=object).copy()
    if not (part == "train").any():
        part[part == "valid"] = "train"
    if (part == "valid").any():
        return part
    rows = np.flatnonzero(part == "train")
    labels = pd.factorize(table["label"].iloc[rows])[0].astype(np.int64)
    ids = table["id"].iloc[rows]
    part[rows] = np.array(["train", "valid"])[deal(ids, labels, ids, (1 - valid, valid), seed)]
    return part


def _pictures(src: Path) -> set[str]:
    """Return the paths of all pictures below the folder."""
    there = set()
    for folder in track(sorted((src / "images").glob("*/*/")), "Looking at the pictures"):
        there |= {f"images/{folder.parent.name}/{folder.name}/{path.name}" for path in folder.iterdir()}
    return there
