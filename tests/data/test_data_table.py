"""Tables: formats, missing words, types that lose nothing, clear refusals, and keys that never change."""

from __future__ import annotations

import gzip
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from fusetune.data.infer import infer_schema
from fusetune.data.roles import Roles
from fusetune.data.table import Table, read_table, row_keys
from fusetune.data.words import day_order, parse_dates
from fusetune.errors import TableError

FRAME = pd.DataFrame({"id": ["a", "b", "c"], "age": [1.5, None, 3.0], "word": ["x", "None", None], "n": [1, 2, 3]})


def written(tmp_path: Path, content: str | bytes, name: str = "t.csv") -> Path:
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def read(tmp_path: Path, content: str | bytes, name: str = "t.csv") -> pd.DataFrame:
    return read_table(written(tmp_path, content, name)).frame


def values(frame: pd.DataFrame, column: str) -> list[object]:
    return [None if pd.isna(value) else value for value in frame[column]]


@pytest.mark.parametrize(
    "name", ["t.csv", "t.tsv", "t.csv.gz", "t.tsv.gz", "t.parquet", "t.jsonl", "t.jsonl.gz", "t.ndjson"]
)
def test_every_format_gives_the_same_table(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if "sv" in name:
        FRAME.to_csv(path, index=False, sep="\t" if "tsv" in name else ",")
    elif "json" in name:
        FRAME.to_json(path, orient="records", lines=True)
    else:
        FRAME.to_parquet(path)
    table = read_table(str(path))
    assert table.name == name
    assert table.root == tmp_path
    assert len(table) == 3
    assert list(table.frame.columns) == list(FRAME.columns)
    assert table.spelled == ("sv" in name)
    schema = infer_schema(table, Roles("word", kinds={"age": "number", "n": "number"}))
    typed = schema.read(table).frame
    for column in FRAME.columns:
        assert values(typed, column) == values(FRAME, column)
    assert typed["n"].dtype == np.int64
    assert typed["age"].dtype == np.float64
    assert schema.read(schema.read(table)).frame.equals(typed)


def test_a_dataframe_is_taken_as_it_is_and_not_changed() -> None:
    frame = FRAME.set_index(pd.Index([7, 7, 9]))
    frame[5] = 1
    table = read_table(frame)
    assert table.frame.index.tolist() == [0, 1, 2]
    assert list(table.frame.columns) == [*FRAME.columns, "5"]
    assert frame.columns[-1] == 5
    assert table.name == "the DataFrame"


def test_a_byte_order_mark_is_no_part_of_the_first_name(tmp_path: Path) -> None:
    assert list(read(tmp_path, b"\xef\xbb\xbfid,b\r\n1,2\r\n").columns) == ["id", "b"]
    assert list(read(tmp_path, b'\xef\xbb\xbf{"id": 1}\n', "t.jsonl").columns) == ["id"]


def test_cells_keep_commas_quotes_lines_and_every_script(tmp_path: Path) -> None:
    frame = read(tmp_path, 'a,b\n"x, ""y""\nz",日本語\n  , ü\n')
    assert values(frame, "a") == ['x, "y"\nz', "  "]
    assert values(frame, "b") == ["日本語", " ü"]


def test_missing_words_are_missing_and_told_apart_from_empty_cells(tmp_path: Path) -> None:
    words = ["NA", "N/A", "n/a", "NaN", "nan", "null", "NULL", "<NA>", "None", "#N/A"]
    path = written(tmp_path, "a,b\n,1\n" + "".join(f"{word},1\n" for word in [*words, "-", "none", "?", '"NA"', '""']))
    table = read_table(path)
    assert values(table.frame, "a") == [None, *[None] * len(words), "-", "none", "?", "NA", None]
    assert table.blanks["a"].to_dict() == dict(enumerate(words, start=1))
    # As a name, None is a word, and so is whatever else the model knows.
    names = table.names("a", ["null"])
    assert set(names.dropna()) == {"None", "#N/A", "null", "-", "none", "?", "NA"}
    assert "NA, NULL" in table.empty("a")
    assert table.empty("b") == ""


def test_words_are_typed_by_the_kind_of_their_column(tmp_path: Path) -> None:
    content = (
        "count,price,code,case,gap,flag,half,mixed,zero,emb,stay\n"
        '1,1.50,007,12345678901234567890123,12345678901234567,true,True,1,0,"[0.1, 2]",3 days 12:00:00\n'
        "-2,1e3,12,1,,FALSE,,x,0.5,[3 4.5],1 days\n"
    )
    table = read_table(written(tmp_path, content))
    assert all(str(dtype) == "str" for dtype in table.frame.dtypes)
    names = ["code", "case", "gap", "mixed"]
    kinds = {**dict.fromkeys(names, "category"), "count": "number", "price": "number", "zero": "number"}
    kinds |= {"flag": "boolean", "half": "boolean", "emb": "vector", "stay": "number"}
    frame = infer_schema(table, Roles(kinds=kinds)).read(table).frame
    assert values(frame, "count") == [1, -2]
    assert frame["count"].dtype == np.int64
    assert values(frame, "price") == [1.5, 1000.0]
    assert values(frame, "code") == ["007", "12"]
    assert values(frame, "case") == ["12345678901234567890123", "1"]
    assert values(frame, "gap") == ["12345678901234567", None]  # as a float it would end in 8
    assert values(frame, "flag") == [True, False]
    assert values(frame, "half") == ["True", None]
    assert values(frame, "mixed") == ["1", "x"]
    assert values(frame, "zero") == [0, 0.5]
    assert frame["emb"].tolist() == [[0.1, 2.0], [3.0, 4.5]]
    assert values(frame, "stay") == ["3 days 12:00:00", "1 days"]  # as numbers, they would pass for any unit


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["1.1", "1.10", "1.2"], ["1.1", "1.10", "1.2"]),
        (["1", "2", "10"], [1, 2, 10]),
        (["1", "1.0", "2"], ["1", "1.0", "2"]),
        (["1", "2.5", "0.001"], [1, 2.5, 0.001]),
        (["1e3", "1000", "7"], ["1e3", "1000", "7"]),
        (["+1", "2", "3"], ["+1", "2", "3"]),
        (["True", "false", "TRUE"], [True, False, True]),
        (["None", "mild", "None"], ["None", "mild", "None"]),
    ],
)
def test_labels_become_numbers_only_where_each_prints_back(
    tmp_path: Path, words: list[str], expected: list[object]
) -> None:
    table = read_table(written(tmp_path, "x,y\n" + "".join(f"{i},{word}\n" for i, word in enumerate(words))))
    labels = infer_schema(table, Roles("y")).read(table).frame["y"].tolist()
    assert labels == expected
    assert list(map(type, labels)) == list(map(type, expected)) or isinstance(labels[0], float)


def test_rows_are_taken_with_what_is_said_of_them(tmp_path: Path) -> None:
    path = written(tmp_path, "a,b\nNA,1\nx,null\nNone,3\n")
    some = replace(read_table(path), problems={0: "p", 2: "q"}).take(np.array([2, 1]))
    assert values(some.frame, "b") == ["3", None]
    assert some.blanks["a"].to_dict() == {0: "None"}
    assert some.blanks["b"].to_dict() == {1: "null"}
    assert some.problems == {0: "q"}
    assert len(some.take(np.array([False, True]))) == 1


def test_headers_are_read_as_everybody_reads_them(tmp_path: Path) -> None:
    frame = read(tmp_path, "id,label , e\u0301t\u0301\ufeff\n1,2,3\n")
    assert list(frame.columns) == ["id", "label", "\u00e9t\u0301"]
    assert list(read_table(pd.DataFrame({" a\u00a0": [1]})).frame.columns) == ["a"]
    with pytest.raises(TableError, match="several columns named label"):
        read(tmp_path, "label,label \n1,2\n")


@pytest.mark.parametrize("carrier", ["polars-like", "arrow", "batches"])
def test_tables_of_other_libraries_are_taken(carrier: str) -> None:
    arrow = pa.table({"n": [1, None, 3], "word": ["x", None, "z"]})

    class Offers:
        def __arrow_c_stream__(self, requested_schema: object = None) -> object:
            return arrow.__arrow_c_stream__(requested_schema)

    sources = {"polars-like": Offers(), "arrow": arrow, "batches": pa.RecordBatchReader.from_batches(
        arrow.schema, arrow.to_batches()
    )}  # fmt: skip
    frame = read_table(sources[carrier]).frame
    assert values(frame, "n") == [1, None, 3]
    assert frame["n"].dtype == "Int64"
    assert values(frame, "word") == ["x", None, "z"]


def test_what_is_no_table_is_refused() -> None:
    for source in ([1, 2], None, 7):
        with pytest.raises(TableError, match="a table cannot be a"):
            read_table(source)
    with pytest.raises(TableError, match="a Series is no table"):
        read_table(pd.Series([1.0, 2.0], name="age"))
    levels = pd.DataFrame([[1, 2]], columns=pd.MultiIndex.from_tuples([("x", "a"), ("x", "b")]))
    with pytest.raises(TableError, match="several levels"):
        read_table(levels)


def test_a_named_index_is_a_column_whatever_carries_it(tmp_path: Path) -> None:
    frame = pd.DataFrame({"patient": ["p1", "p1", "p2"], "n": [1, 2, 3]}).set_index("patient")
    frame.to_parquet(tmp_path / "t.parquet")
    for source in (frame, tmp_path / "t.parquet"):
        assert values(read_table(source).frame, "patient") == ["p1", "p1", "p2"]
    nameless = frame.rename_axis(None)
    nameless.to_parquet(tmp_path / "u.parquet")
    assert values(read_table(tmp_path / "u.parquet").frame, "Unnamed: 1") == ["p1", "p1", "p2"]


def test_half_a_character_is_a_problem_of_its_row(tmp_path: Path) -> None:
    for source in (
        pd.DataFrame({"a": pd.Series(["x\ud800", "y"], dtype=object)}),
        [{"a": "x\ud800"}, {"a": "y"}],
        {"a": ["x\ud800", "y"]},
        written(tmp_path, '{"a": "x\\ud800"}\n{"a": "y"}\n', "t.jsonl"),
    ):
        table = read_table(source)
        assert values(table.frame, "a") == ["x\ufffd", "y"]
        assert list(table.problems) == [0]
        assert "half a character" in table.problems[0]


def test_numbers_beside_half_a_character_stay_numbers() -> None:
    frame = read_table([{"a": "x\ud800", "n": 1.5}, {"a": "y", "n": None}]).frame
    assert pd.api.types.is_float_dtype(frame["n"])


def test_a_list_without_rows_is_told_as_such() -> None:
    with pytest.raises(TableError, match="no rows"):
        read_table([])


def test_quoted_numbers_in_json_stay_words(tmp_path: Path) -> None:
    frame = read(
        tmp_path, '{"a": "007", "date": "2020-01-02", "timestamp": 15}\n{"a": "1", "extra": [1, 2]}\n', "t.jsonl"
    )
    assert values(frame, "a") == ["007", "1"]
    assert values(frame, "date") == ["2020-01-02", None]
    assert values(frame, "timestamp") == [15, None]
    assert frame["extra"].iloc[1] == [1, 2]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", "a,b\n1,2\n3\n", r"Row #3: Expected 2 columns, got 1"),
        ("t.csv", "a,b\n1,2,3\n4,5,6\n", r"Row #2: Expected 2 columns, got 3"),
        ("t.csv", 'a,b\n1,"x\n3,4\n', "a quotation mark is opened and never closed"),
        ("t.csv", "a,b\n1,caf\xe9\n".encode("latin-1"), r"t.csv is not UTF-8 text \(byte 9.*iconv -f latin1"),
        ("t.csv", "a,b\n1,2\n".encode("utf-16"), "is not UTF-8 text.*iconv -f utf-16"),
        ("t.jsonl", '{"a": "caf\xe9"}\n'.encode("latin-1"), "is not UTF-8 text.*iconv"),
        ("t.csv", "", "t.csv cannot be read: it is empty"),
        ("t.csv", "\n\n", "t.csv cannot be read: it is empty"),
        ("t.csv", "a,b\n", "t.csv has no rows"),
        ("t.jsonl", "", "t.jsonl has no rows"),
        ("t.jsonl", '{"a": \n', "t.jsonl cannot be read: line 1 is no JSON"),
        ("t.jsonl", '{"a": 1}\n[1]\n', "line 2 is no JSON object"),
        ("t.jsonl", '{"a": 1, "a": 2}\n', "names 'a' twice"),
        ("t.csv", "a\0,b\n1,2\n", "line 1 holds a NUL byte"),
        ("t.csv", "a,b\n1,x\n2,\0\n", "line 3 holds a NUL byte"),
        ("t.parquet", "abc", "t.parquet cannot be read"),
        ("t.csv.gz", "abc", "t.csv.gz cannot be read"),
        ("t.csv.gz", gzip.compress(b"a,b\n1,2\n" * 99, mtime=0)[:30], "t.csv.gz cannot be read"),
        ("t.csv", "a,b,a\n1,2,3\n", "t.csv has several columns named a; rename all but one"),
        ("t.xlsx", "abc", r"cannot read '.xlsx' files; use one of .csv, .tsv, .parquet, .jsonl, .ndjson"),
        ("t", "abc", "cannot read '' files"),
        ("t.gz", "abc", "cannot read '' files"),
    ],
)
def test_what_cannot_be_used_is_refused_with_the_reason(
    tmp_path: Path, name: str, content: str | bytes, message: str
) -> None:
    with pytest.raises(TableError, match=message):
        read(tmp_path, content, name)


def test_missing_files_and_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TableError, match=r"there is no file .*/gone\.csv"):
        read_table(tmp_path / "gone.csv")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(TableError, match=r"folder\.csv is a folder without any Parquet file"):
        read_table(tmp_path / "folder.csv")


def test_repeated_columns_of_a_dataframe_are_refused() -> None:
    for names in (["a", "a"], [1, "1"]):
        with pytest.raises(TableError, match="several columns named"):
            read_table(pd.DataFrame([[1, 2]], columns=names))
    with pytest.raises(TableError, match="the DataFrame has no rows"):
        read_table(pd.DataFrame({"a": []}))


def test_long_cells_and_many_rows_are_read(tmp_path: Path) -> None:
    text = "word " * 400_000
    frame = read(tmp_path, "a,b\n" + f'1,"{text}"\n' + "2,x\n" * 3000)
    assert len(frame) == 3001
    assert frame["b"].iloc[0] == text


def test_ids_are_words_and_unique() -> None:
    table = read_table(pd.DataFrame({"id": [3, 1, 2], "name": ["a", None, "c"], "twice": ["x", "y", "x"]}))
    assert table.ids(None).tolist() == ["0", "1", "2"]
    assert table.ids("id").tolist() == ["3", "1", "2"]
    with pytest.raises(TableError, match=r"id column 'name' is empty in row\(s\) 1;"):
        table.ids("name")
    with pytest.raises(TableError, match="id column 'twice' repeats x; ids must be unique"):
        table.ids("twice")
    with pytest.raises(TableError, match="has no column 'Id'; its columns are id, name, twice"):
        table.ids("Id")


def siphash(text: str) -> int:
    """SipHash-2-4 (Aumasson & Bernstein 2012) of UTF-8 text in plain integers, as a signed number."""
    mask, data = 2**64 - 1, text.encode()
    key = [int.from_bytes(part, "little") for part in (b"01234567", b"89123456")]
    starts = (0x736F6D6570736575, 0x646F72616E646F6D, 0x6C7967656E657261, 0x7465646279746573)
    v = [start ^ key[i % 2] for i, start in enumerate(starts)]

    def turn(x: int, by: int) -> int:
        return (x << by | x >> (64 - by)) & mask

    def rounds(times: int) -> None:
        for _ in range(times):
            v[0] = (v[0] + v[1]) & mask
            v[1] = turn(v[1], 13) ^ v[0]
            v[2] = (v[2] + v[3]) & mask
            v[3] = turn(v[3], 16) ^ v[2]
            v[0], v[2] = turn(v[0], 32), (v[2] + v[1]) & mask
            v[1], v[0] = turn(v[1], 17) ^ v[2], (v[0] + v[3]) & mask
            v[3] = turn(v[3], 21) ^ v[0]
            v[2] = turn(v[2], 32)

    padded = data + bytes(7 - len(data) % 8) + bytes([len(data) % 256])
    for start in range(0, len(padded), 8):
        word = int.from_bytes(padded[start : start + 8], "little")
        v[3] ^= word
        rounds(2)
        v[0] ^= word
    v[2] ^= 0xFF
    rounds(4)
    mixed = v[0] ^ v[1] ^ v[2] ^ v[3]
    # pandas mixes once more, as SplitMix64 does at its end.
    mixed = ((mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9) & mask
    mixed = ((mixed ^ mixed >> 27) * 0x94D049BB133111EB) & mask
    mixed ^= mixed >> 31
    return mixed - 2**64 if mixed >= 2**63 else mixed


def test_keys_are_what_they_always_were() -> None:
    ids = pd.Series(["0", "1", "patient-7", "日本", "", "abcdefgh", "x" * 30]).astype("str")
    expected = [siphash(name) for name in ids]
    assert expected[0] == 8872142683093127234
    assert row_keys(ids).tolist() == expected
    assert row_keys(ids.astype(object)).tolist() == expected
    assert row_keys(ids[::-1]).tolist() == expected[::-1]
    assert row_keys(pd.Series(pd.array(ids.tolist(), dtype="string"))).tolist() == expected
    assert row_keys(ids).dtype == np.int64


def test_keys_of_many_rows_differ() -> None:
    ids = Table(pd.DataFrame({"x": np.zeros(50_000)}), "t", Path()).ids(None)
    assert len(np.unique(row_keys(ids))) == 50_000


@pytest.mark.parametrize(
    ("dates", "expected"),
    [
        (["2020-03-04", "2020/12/31"], ["2020-03-04", "2020-12-31"]),
        (["03/04/2020", "12/31/2020"], ["2020-03-04", "2020-12-31"]),
        (["03/04/2020", "31/12/2020"], ["2020-04-03", "2020-12-31"]),
        (["03.04.2020", "1.2.2020"], ["2020-04-03", "2020-02-01"]),
        (["31/12/2020", "2020-03-04"], ["2020-12-31", "2020-03-04"]),
        (["2020-03-04T23:30:00-02:00", "2020-03-04 12:00"], ["2020-03-05T01:30", "2020-03-04T12:00"]),
        (["2020-03-04", "soon", None], ["2020-03-04", None, None]),
    ],
)
def test_dates_of_one_column_are_read_in_one_order(dates: list[str | None], expected: list[str | None]) -> None:
    series = pd.Series(dates, dtype="str")
    dates = parse_dates(series, day_order(series) or "month")
    assert [None if pd.isna(time) else time for time in dates] == [
        None if time is None else pd.Timestamp(time, tz="UTC") for time in expected
    ]
