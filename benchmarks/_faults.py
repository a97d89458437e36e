"""Forty faults of twelve kinds, planted into a copy of a clean table in places that a seed decides."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from fusetune.doctor.findings import Finding

COUNTS = {
    "image_missing": 4,
    "image_empty": 3,
    "image_truncated": 4,
    "image_unreadable": 3,
    "image_tiny": 3,
    "image_enormous": 2,
    "text_empty": 4,
    "duplicate_rows_across_parts": 4,
    "near_duplicate_images_across_parts": 4,
    "group_across_parts": 2,
    "column_gives_label": 1,
    "label_errors": 6,
}


@dataclass
class Planted:
    """A table with faults.

    Attributes:
        frame: The table.
        faults: Kind -> what to find: row ids, or the column's name.
        innocent: Kind -> rows that a finding of the kind names rightly besides: the originals of copies, whole groups.
    """

    frame: pd.DataFrame
    faults: dict[str, list[str]] = field(default_factory=dict)
    innocent: dict[str, set[str]] = field(default_factory=dict)


def plant(clean: pd.DataFrame, root: Path, folder: Path, seed: int = 0) -> Planted:
    """Plant all faults into rows of the training part, but copies, which go into the test part.

    Args:
        clean: Columns id, split, image, history, uid and label; no faults of its own.
        root: Folder of the pictures.
        folder: Where broken pictures are written.
        seed: Decides where.
    """
    frame = clean.copy()
    frame["image"] = [str(root / name) for name in frame["image"]]
    frame["region_code"] = frame["label"].map({name: 10 * i for i, name in enumerate(sorted(set(frame["label"])))})
    generator = np.random.default_rng(seed)
    train = iter(generator.permutation(frame.index[(frame["split"] == "train") & frame["history"].notna()]).tolist())
    made = Planted(frame, {"column_gives_label": ["region_code"]})
    for kind, damage in _DAMAGE.items():
        rows = [next(train) for _ in range(COUNTS[kind])]
        for row in rows:
            path = folder / f"{kind}-{row}.jpg"
            damage(Path(str(frame.at[row, "image"])), path)
            frame.at[row, "image"] = str(path)
        made.faults[kind] = frame.loc[rows, "id"].tolist()
    rows = [next(train) for _ in range(COUNTS["text_empty"])]
    frame.loc[rows, "history"] = ["...", " - ", "?", "***"]
    made.faults["text_empty"] = frame.loc[rows, "id"].tolist()
    _shared_groups(made, train)
    _swapped_labels(made, train, generator)
    _near_copies(made, train, folder)
    _copied_rows(made, train)
    return made


def found_of(planted: Planted, findings: list[Finding]) -> dict[str, list[str]]:
    """Return for each kind which of the planted faults a finding of that kind names."""
    matches: dict[str, list[str]] = {}
    for kind, names in planted.faults.items():
        named = {name for f in findings if f.kind == kind for name in (*f.rows, *f.columns)}
        matches[kind] = [name for name in names if name in named]
    return matches


def false_alarms(planted: Planted, findings: list[Finding]) -> list[str]:
    """Return what findings of severity error name without reason."""
    alarms = []
    for finding in findings:
        if finding.severity == "error":
            true = {*planted.faults.get(finding.kind, ()), *planted.innocent.get(finding.kind, ())}
            named = finding.columns if finding.kind == "column_gives_label" else finding.rows
            alarms += [f"{finding.kind}: {name}" for name in named if name not in true]
    return alarms


def _missing(_: Path, __: Path) -> None:
    return


def _empty(_: Path, path: Path) -> None:
    path.write_bytes(b"")


def _truncated(source: Path, path: Path) -> None:
    data = source.read_bytes()
    path.write_bytes(data[: len(data) * 6 // 10])


def _unreadable(_: Path, path: Path) -> None:
    path.write_text("<html><body>404 Not Found</body></html>")


def _tiny(_: Path, path: Path) -> None:
    Image.new("RGB", (1, 1), (90, 90, 90)).save(path)


def _bomb(_: Path, path: Path) -> None:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + data)


_DAMAGE: dict[str, Callable[[Path, Path], None]] = {
    "image_missing": _missing,
    "image_empty": _empty,
    "image_truncated": _truncated,
    "image_unreadable": _unreadable,
    "image_tiny": _tiny,
    "image_enormous": _bomb,
}


def _shared_groups(made: Planted, train: Iterator[int]) -> None:
    frame = made.frame
    rows: list[int] = []
    while len(rows) < COUNTS["group_across_parts"]:
        row = next(train)
        if (frame["uid"] == frame.at[row, "uid"]).sum() > 1:
            rows.append(row)
    frame.loc[rows, "split"] = "test"
    made.faults["group_across_parts"] = frame.loc[rows, "id"].tolist()
    made.innocent["group_across_parts"] = set(frame.loc[frame["uid"].isin(frame.loc[rows, "uid"]), "id"])
    # Pictures and texts of one patient are alike: with the patient they cross the split.
    for kind in ("near_duplicate_images_across_parts", "duplicate_texts_across_parts"):
        made.innocent.setdefault(kind, set()).update(made.innocent["group_across_parts"])


def _swapped_labels(made: Planted, train: Iterator[int], generator: np.random.Generator) -> None:
    frame = made.frame
    rows = [next(train) for _ in range(COUNTS["label_errors"])]
    classes = sorted(set(frame["label"]))
    for row in rows:
        frame.at[row, "label"] = generator.choice([name for name in classes if name != frame.at[row, "label"]])
    # The leaked column keeps telling the label that the table states.
    frame["region_code"] = frame["label"].map({name: 10 * i for i, name in enumerate(classes)})
    made.faults["label_errors"] = frame.loc[rows, "id"].tolist()


def _near_copies(made: Planted, train: Iterator[int], folder: Path) -> None:
    frame, kind = made.frame, "near_duplicate_images_across_parts"
    tests = frame.index[frame["split"] == "test"][5 : 5 + 3 * COUNTS[kind] : 3]
    for test in tests:
        row = next(train)
        with Image.open(str(frame.at[row, "image"])) as picture:
            smaller = picture.convert("RGB").resize((picture.width * 4 // 5, picture.height * 4 // 5))
        smaller.save(folder / f"near-{test}.jpg", quality=70)
        frame.at[test, "image"] = str(folder / f"near-{test}.jpg")
        # One specimen has one label; pictures of different classes are only called similar.
        frame.at[test, "label"] = str(frame.at[row, "label"])
        frame.at[test, "region_code"] = int(frame["region_code"].iloc[row])
        made.faults.setdefault(kind, []).append(str(frame.at[test, "id"]))
        # All pictures of that patient may be alike.
        made.innocent.setdefault(kind, set()).update(frame.loc[frame["uid"] == frame.at[row, "uid"], "id"])


def _copied_rows(made: Planted, train: Iterator[int]) -> None:
    kind = "duplicate_rows_across_parts"
    rows = [next(train) for _ in range(COUNTS[kind])]
    copies = made.frame.loc[rows].copy()
    made.innocent[kind] = set(copies["id"])
    # Whoever copied the patient gave it another name.
    for other in ("near_duplicate_images_across_parts", "duplicate_images_across_parts"):
        same = made.frame.loc[made.frame["uid"].isin(copies["uid"]), "id"]
        made.innocent.setdefault(other, set()).update({*same, *("copy-" + copies["id"])})
    copies["id"], copies["uid"], copies["split"] = "copy-" + copies["id"], "copy-" + copies["uid"], "test"
    made.frame = pd.concat([made.frame, copies], ignore_index=True)
    made.faults[kind] = copies["id"].tolist()
