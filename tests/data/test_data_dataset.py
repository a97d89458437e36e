"""Files that are one table: their rows in order, some of their columns, and which file is told of what is wrong."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from fusetune.config import Config
from fusetune.data.dataset import Dataset, dataset_of
from fusetune.data.infer import infer_schema, needed_columns
from fusetune.data.roles import Roles
from fusetune.data.table import read_pieces, read_table
from fusetune.data.vectors import VectorInput
from fusetune.errors import TableError
from fusetune.intake import read_for

ROWS = 50


@pytest.fixture
def frame() -> pd.DataFrame:
    numbers = pd.array([None if row % 3 else row for row in range(ROWS)], "Int64")
    lists = [[float(row), 1.0] for row in range(ROWS)]
    return pd.DataFrame({"n": np.arange(ROWS), " w": [f"x{row}" for row in range(ROWS)], "gaps": numbers, "v": lists})


@pytest.fixture
def many(tmp_path: Path, frame: pd.DataFrame) -> Path:
    """A folder of three files of 20, 20 and 10 rows, and of what Spark leaves beside them."""
    folder = tmp_path / "many"
    folder.mkdir()
    for part in range(3):
        frame[part * 20 : part * 20 + 20].to_parquet(folder / f"part-{part}.parquet", row_group_size=7)
    (folder / "_SUCCESS").touch()
    (folder / "_temporary").mkdir()
    (folder / "_temporary" / "half.parquet").touch()
    return folder


def opened(path: Path) -> Dataset:
    found = dataset_of(path)
    assert found is not None
    return found


def test_one_file_many_and_a_dataset_are_one_table(tmp_path: Path, many: Path, frame: pd.DataFrame) -> None:
    frame.to_parquet(tmp_path / "one.parquet")
    one, several = read_table(tmp_path / "one.parquet"), read_table(many)
    pd.testing.assert_frame_equal(one.frame, several.frame)
    assert (one.root, several.root, several.name) == (tmp_path, many, "many")
    files = sorted(map(str, many.glob("*.parquet")))
    pd.testing.assert_frame_equal(read_table(ds.dataset(files)).frame, one.frame)
    pd.testing.assert_frame_equal(read_table(ds.dataset(pa.Table.from_pandas(frame))).frame, one.frame)
    arrow = tmp_path / "arrow"
    ds.write_dataset(pa.Table.from_pandas(frame), arrow, format="ipc")
    pd.testing.assert_frame_equal(read_table(ds.dataset(arrow, format="ipc")).frame, one.frame)


@pytest.mark.parametrize("size", [1, 7, 20, 33, 50, 99])
def test_pieces_are_the_rows_in_their_order(many: Path, frame: pd.DataFrame, size: int) -> None:
    pieces = list(read_pieces(opened(many), size, {"n", "v"}))
    assert [len(piece) for piece in pieces[:-1]] == [size] * (len(pieces) - 1)
    assert np.concatenate([piece.frame["n"] for piece in pieces]).tolist() == frame["n"].tolist()
    assert np.concatenate([piece.numbers for piece in pieces if piece.numbers is not None]).tolist() == [*range(ROWS)]
    assert [*pieces[0].frame.columns] == ["n", "v"]
    assert pieces[0].unread == ("w", "gaps")


def test_what_is_held_does_not_grow_with_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frame = pd.DataFrame({"n": np.arange(3000)})
    for part in range(3):
        frame.iloc[part * 1000 : part * 1000 + 1000].to_parquet(tmp_path / f"{part}.parquet", row_group_size=500)
    held: list[int] = []
    joined = pa.concat_tables
    monkeypatch.setattr(pa, "concat_tables", lambda tables: held.append(sum(map(len, tables))) or joined(tables))
    assert sum(map(len, opened(tmp_path).pieces(256))) == 3000
    assert max(held) < 256 + 1024, "a piece, and what was decoded with its last row"


def test_a_piece_names_rows_by_their_numbers_in_the_whole(tmp_path: Path) -> None:
    vectors = [[1.0, 2.0]] * 30 + [[1.0]]
    pd.DataFrame({"v": vectors, "w": [{"a": 1}] * 31}).to_parquet(tmp_path / "t.parquet")
    fitted = VectorInput(columns=["v"], mean=[0, 0], std=[1, 1])
    with pytest.raises(TableError, match="holds 2 numbers, but 1 in row 30"):
        for table in read_pieces(opened(tmp_path / "t.parquet"), 12, {"v"}):
            fitted.bind(table)
    pieces = read_pieces(opened(tmp_path / "t.parquet"), 12, {"w"})
    with pytest.raises(TableError, match=r"holds dict in row\(s\) 0, 1, 2"):
        next(pieces)


def test_a_column_that_is_not_asked_for_is_not_read(tmp_path: Path) -> None:
    frame = pd.DataFrame({"a": np.arange(2000), "b": np.random.default_rng(0).normal(size=2000)})
    frame.to_parquet(tmp_path / "t.parquet", use_dictionary=False, compression="none")
    content = bytearray((tmp_path / "t.parquet").read_bytes())
    place = pq.read_metadata(tmp_path / "t.parquet").row_group(0).column(1).data_page_offset
    content[place : place + 40] = bytes(40)
    (tmp_path / "t.parquet").write_bytes(content)
    assert len(read_table(tmp_path / "t.parquet", lambda _: ["a"])) == 2000
    with pytest.raises(TableError, match=r"t\.parquet cannot be read"):
        read_table(tmp_path / "t.parquet")


def test_folders_can_say_a_column(tmp_path: Path, frame: pd.DataFrame) -> None:
    for site in ("a", "b"):
        (tmp_path / f"site={site}").mkdir()
        frame[:5].to_parquet(tmp_path / f"site={site}" / "0.parquet")
    assert read_table(tmp_path).frame["site"].tolist() == ["a"] * 5 + ["b"] * 5
    assert read_table(tmp_path, lambda _: ["site"]).frame["site"].tolist() == ["a"] * 5 + ["b"] * 5
    frame[:5].to_parquet(tmp_path / "stray.parquet")
    with pytest.raises(TableError, match=r"stray\.parquet lacks column site, unlike site=a/0\.parquet"):
        read_table(tmp_path)


def test_a_file_without_any_value_of_a_column_has_its_type_from_the_others(many: Path, frame: pd.DataFrame) -> None:
    frame[:2].assign(gaps=None).to_parquet(many / "a.parquet")
    assert read_table(many).frame["gaps"].isna().sum() == 2 + frame["gaps"].isna().sum()
    assert read_table(many).frame["gaps"].dropna().tolist() == frame["gaps"].dropna().tolist()


def test_a_file_unlike_the_others_is_named(many: Path, frame: pd.DataFrame) -> None:
    other = many / "part-9.parquet"
    for changed, text in (
        (frame.drop(columns="gaps"), r"part-9\.parquet lacks column gaps, unlike part-0"),
        (frame.assign(more=1), r"part-9\.parquet has column more, unlike part-0\.parquet; write it again"),
        (frame.astype({"n": float}), r"part-9\.parquet: column 'n' is double, and int64 in the other files"),
        (frame.rename(columns={"n": "w"}), r"part-9\.parquet has several columns named w"),
    ):
        changed.to_parquet(other)
        with pytest.raises(TableError, match=text):
            dataset_of(many)
    other.write_bytes(b"PAR1 is not enough")
    with pytest.raises(TableError, match=r"part-9\.parquet cannot be read"):
        dataset_of(many)


def test_a_file_that_is_damaged_in_its_middle_is_named(many: Path) -> None:
    path = many / "part-1.parquet"
    content = bytearray(path.read_bytes())
    place = pq.read_metadata(path).row_group(1).column(0).data_page_offset
    content[place : place + 30] = b"\xff" * 30
    path.write_bytes(content)
    pieces = opened(many).pieces(10)
    assert len(next(pieces)) == 10, "what comes before it can be read"
    with pytest.raises(TableError, match=r"part-1\.parquet cannot be read"):
        list(pieces)


def test_a_file_that_holds_other_rows_than_it_says_is_named(many: Path) -> None:
    for more in (1, -1):
        stored = opened(many)
        parts = (stored.parts[0], replace(stored.parts[1], rows=20 + more), stored.parts[2])
        with pytest.raises(TableError, match=rf"part-1\.parquet cannot be read: it says that it has {20 + more} rows"):
            list(replace(stored, parts=parts).pieces(8))


def test_a_folder_that_is_no_table_is_refused(tmp_path: Path, many: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(TableError, match="empty is a folder without any Parquet file"):
        read_table(tmp_path / "empty")
    (many / "more.csv").write_text("n\n1\n")
    with pytest.raises(TableError, match=r"other tables than Parquet files in it, such as more\.csv"):
        read_table(many)
    for path in many.iterdir():
        if path.is_file():
            path.unlink()
    pd.DataFrame({"n": np.zeros(0)}).to_parquet(many / "0.parquet")
    with pytest.raises(TableError, match="many has no rows"):
        read_table(many)


def test_columns_that_fit_would_not_use_stay_in_the_file(tmp_path: Path) -> None:
    names = ["case_id", "scan", "age", "sex", "lab_a", "lab_b", "v_0", "site", "organ", "note", "pixel", "patient"]
    asked = {"inputs": ["scan", "lab_*"], "vectors": {"v": "v_*"}, "group": "site", "kinds": {"sex": "category"}}
    chosen = {"scan", "lab_a", "lab_b", "v_0", "site", "organ", "sex", "pixel"}
    assert needed_columns(names, Roles("organ", **asked), ["pixel"]) == chosen | {"case_id", "patient"}
    assert needed_columns(names, Roles("organ", row_id="note", **asked), ["pixel"]) == chosen | {"note"}
    assert needed_columns(names, Roles("organ"), []) is None
    frame = pd.DataFrame({name: [f"{name} {row}" for row in range(6)] for name in names})
    frame.to_parquet(tmp_path / "t.parquet")
    table = read_for(tmp_path / "t.parquet", Roles("organ", inputs=["age", "sex"]), Config())
    assert [*table.frame.columns] == ["case_id", "age", "sex", "organ", "patient"]
    assert {c.name: c.role for c in infer_schema(table, Roles("organ", inputs=["age", "sex"])).columns}[
        "age"
    ] == "input"
    with pytest.raises(TableError, match=r"no column 'ste'; its columns are .*did you mean 'site'"):
        table.column("ste")
