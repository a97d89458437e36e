"""Food-101: titles, JSON lines and the text-only manifest, and what goes wrong with them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from fusetune.errors import UserError
from fusetune_papers.datasets.food101 import food101_table, names_dish

CLASSES = ("apple_pie", "hot_dog")


def plant(root: Path, pictures: bool = True) -> Path:
    """Write a miniature in the published layout: 2 classes, 10 training rows and 3 test rows each; no header."""
    (root / "texts").mkdir(parents=True)
    for part, count in (("train", 10), ("test", 3)):
        rows = []
        for label in CLASSES:
            for number in range(count):
                rows.append(f'{label}_{number}.jpg,"Best {label.replace("_", "-")}, no. {number}",{label}\n')
                path = root / "images" / part / label / f"{label}_{number}.jpg"
                if pictures:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.touch()
        (root / "texts" / f"{part}_titles.csv").write_text("".join(rows))
    return root


def plant_lines(root: Path, *names: str) -> Path:
    for name in names:
        rows = [
            {"id": f"{name}{label}{n}.jpg", "label": label, "text": f"{label} {n}", "img": f"images/{name}/{n}.jpg"}
            for label in CLASSES
            for n in range(10)
        ]
        (root / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


def quiet(text: str) -> None:
    assert "has 2 classes, the whole data set has 101" in text


def test_titles_and_pictures(tmp_path: Path) -> None:
    table = food101_table(plant(tmp_path / "food"), valid=0.2, root=tmp_path, warn=quiet)
    assert list(table) == ["id", "image", "text", "label", "dish_in_title", "split"]
    assert table["split"].value_counts().to_dict() == {"train": 16, "test": 6, "valid": 4}
    assert table["image"][0] == "food/images/train/apple_pie/apple_pie_0.jpg", "the first row is no header"
    assert table["text"][0] == "Best apple-pie, no. 0"
    assert (table.groupby(["split", "label"]).size().unstack().nunique(axis=1) == 1).all(), "stratified"
    assert set(table.loc[table["split"] == "test", "id"]) == {
        f"images/test/{label}/{label}_{n}.jpg" for label in CLASSES for n in range(3)
    }
    again = food101_table(tmp_path / "food", valid=0.2, root=tmp_path, warn=quiet)
    pd.testing.assert_frame_equal(table, again)
    other = food101_table(tmp_path / "food", valid=0.2, seed=1, warn=quiet)
    assert other["split"].tolist() != table["split"].tolist()


@pytest.mark.parametrize(
    ("title", "label", "named"),
    [
        ("Mom&#39;s Maple-Apple Pie | Taste", "apple_pie", True),
        ("apple and pie", "apple_pie", False),
        ("The best pie of apple", "apple_pie", False),
        ("HOT DOGS", "hot_dog", True),
        ("", "hot_dog", False),
    ],
)
def test_dish_in_title(title: str, label: str, named: bool) -> None:
    assert names_dish(title, label) is named


def test_an_empty_title_is_a_missing_text(tmp_path: Path) -> None:
    folder = plant(tmp_path)
    with (folder / "texts/test_titles.csv").open("a") as file:
        file.write('hot_dog_7.jpg," ",hot_dog\n')
    table = food101_table(folder, images=False, warn=quiet)
    assert table["text"].isna().sum() == 1
    assert len(table) == 27


@pytest.mark.parametrize("row", ["Images,Titles,Labels", "apple_pie_1.jpg,apple pie"])
def test_rows_that_are_none(tmp_path: Path, row: str) -> None:
    folder = plant(tmp_path)
    path = folder / "texts/train_titles.csv"
    path.write_text(f"{row}\n{path.read_text()}")
    with pytest.raises(UserError, match=r"train_titles\.csv: row 1 is not `image,title,label`"):
        food101_table(folder)


def test_files_in_another_encoding_and_without_training_rows(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    path = tmp_path / "texts" / "test_titles.csv"
    path.write_bytes("soup_1.jpg,Soup,soup\nsoup_2.jpg,Crème,soup\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"test_titles\.csv: line 2 is not UTF-8.*iconv"):
        food101_table(tmp_path, images=False, warn=lambda _: None)
    path.write_text("soup_1.jpg,Soup,soup\nsoup_2.jpg,Crème,soup\n", encoding="utf-8")
    warnings: list[str] = []
    food101_table(tmp_path, images=False, warn=warnings.append)
    assert any("no training titles" in text for text in warnings)


def test_missing_and_extra_pictures(tmp_path: Path) -> None:
    folder = plant(tmp_path)
    (folder / "images/train/hot_dog/hot_dog_3.jpg").rename(folder / "images/train/hot_dog/other.jpg")
    with pytest.raises(UserError, match=r"1 of 26 rows have no picture.*hot_dog_3\.jpg.*--without-images"):
        food101_table(folder, warn=lambda text: None)
    warnings: list[str] = []
    assert len(food101_table(folder, missing="drop", warn=warnings.append)) == 25
    assert any("1 files" in text and "other.jpg" in text for text in warnings)
    with pytest.raises(UserError, match="26 of 26 rows"):
        food101_table(plant(tmp_path / "bare", pictures=False), missing="drop", warn=quiet)


def test_json_lines_keep_their_dev_part(tmp_path: Path) -> None:
    table = food101_table(plant_lines(tmp_path, "train", "dev", "test"), images=False, warn=quiet)
    assert table["split"].value_counts().to_dict() == {"train": 20, "valid": 20, "test": 20}
    alone = plant_lines(tmp_path / "alone", "dev", "test") if (tmp_path / "alone").mkdir() is None else tmp_path
    parts = food101_table(alone, images=False, warn=quiet)["split"].value_counts().to_dict()
    assert parts == {"test": 20, "train": 18, "valid": 2}, "a dev file alone is divided"


def test_broken_json_lines(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text('{"id": "a", "label": "b", "text": "c", "img": "d"}\n{"id": "a"}\n')
    with pytest.raises(UserError, match=r"train\.jsonl: line 2 is no object with id, label, text and img"):
        food101_table(tmp_path)


def test_repeated_rows_and_nothing_at_all(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds neither"):
        food101_table(tmp_path)
    folder = plant(tmp_path / "food")
    path = folder / "texts/train_titles.csv"
    path.write_text(path.read_text() + path.read_text().splitlines()[0] + "\n")
    with pytest.raises(UserError, match="stands in it more than once"):
        food101_table(folder, warn=quiet)
    with pytest.raises(UserError, match="share between 0 and 1"):
        food101_table(folder, valid=1.0)


def test_the_real_titles(shared_data: Callable[[str], Path]) -> None:
    """Counts of the official test part; 5,000 development rows stand in for the training rows, which are not there."""
    source = shared_data("upmc_food101_text")
    table = food101_table(source, images=False)
    assert table["split"].value_counts().to_dict() == {"test": 22715, "train": 4498, "valid": 502}
    assert table["label"].nunique() == 101
    assert table["text"].isna().sum() == 1
    assert round(table["dish_in_title"].mean(), 2) == 0.73
    manifest = pd.read_csv(source / "manifest.csv.gz", keep_default_na=False).set_index("id")
    assert (table["dish_in_title"].to_numpy() == manifest.loc[table["id"], "name_in_text"].to_numpy()).all()
