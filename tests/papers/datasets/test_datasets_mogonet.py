"""MOGONET's folders: miniature ones, broken ones, and the real ROSMAP written in that layout."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fusetune.errors import UserError
from fusetune_papers.datasets.mogonet import VIEWS, mogonet_table


def plant(root: Path, rows: tuple[int, int] = (4, 2), features: int = 3) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for part, count in zip(("tr", "te"), rows, strict=True):
        np.savetxt(root / f"labels_{part}.csv", np.arange(count) % 2)
        for view in (1, 2, 3):
            np.savetxt(root / f"{view}_{part}.csv", rng.uniform(size=(count, features)), delimiter=",")
            (root / f"{view}_featname.csv").write_text("".join(f"v{view}f{n}\n" for n in range(features)))
    return root


def test_a_miniature(tmp_path: Path) -> None:
    table = mogonet_table(plant(tmp_path))
    assert list(table) == [
        "id", "split", *(f"{view}__v{n}f{f}" for n, view in enumerate(VIEWS, 1) for f in range(3)), "label",
    ]  # fmt: skip
    assert table["split"].tolist() == ["train"] * 4 + ["test"] * 2
    assert table["label"].tolist() == [0, 1, 0, 1, 0, 1]
    assert table["id"].tolist() == ["train_0", "train_1", "train_2", "train_3", "test_0", "test_1"]
    expected = np.concatenate([np.loadtxt(tmp_path / f"2_{part}.csv", delimiter=",") for part in ("tr", "te")])
    np.testing.assert_array_equal(table[[f"meth__v2f{n}" for n in range(3)]].to_numpy(), expected)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("2_te.csv", "1,2,3\n1,x,3\n", r"2_te\.csv: row 2, column 2 holds 'x', which is no number"),
        ("2_te.csv", "1,2,3\n1,nan,3\n", "which is no number"),
        ("2_te.csv", "1,2,3\n1,2\n", "row 2 has 2 cells, the first has 3"),
        ("2_te.csv", "1,2,3\n", "has 1 rows and 3 columns, but there are 2 labels"),
        ("3_featname.csv", "a\nb\n", "and 2 names in 3_featname.csv"),
        ("3_featname.csv", "a\nb\na\n", "names a twice"),
        ("labels_tr.csv", "0\n1\n.5\n1\n", "one whole number per row"),
        ("labels_tr.csv", "", "is empty"),
        ("1_tr.csv", None, r"1_tr\.csv is missing"),
    ],
)
def test_broken_files_are_named(tmp_path: Path, name: str, text: str | None, message: str) -> None:
    plant(tmp_path)
    (tmp_path / name).unlink() if text is None else (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message):
        mogonet_table(tmp_path)


def test_the_real_rosmap(shared_data: Callable[[str], Path], tmp_path: Path) -> None:
    source = shared_data("rosmap")
    manifest = pd.read_csv(source / "manifest.csv")
    names = json.loads((source / "features.json").read_text())
    for part, rows in (("tr", manifest[manifest["split"] == "train"]), ("te", manifest[manifest["split"] == "test"])):
        rows["label"].to_csv(tmp_path / f"labels_{part}.csv", header=False, index=False)
        for number, view in enumerate(VIEWS, 1):
            columns = [f"{view}__{name}" for name in names[view]]
            rows[columns].to_csv(tmp_path / f"{number}_{part}.csv", header=False, index=False)
            (tmp_path / f"{number}_featname.csv").write_text("\n".join(names[view]))
    table = mogonet_table(tmp_path)
    assert table["split"].value_counts().to_dict() == {"train": 245, "test": 106}
    pd.testing.assert_frame_equal(table[list(manifest)], manifest, check_dtype=False)
