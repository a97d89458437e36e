"""Made-up Parquet files: types that are rare in tables of people, what pandas notes about them, and damaged bytes."""

from __future__ import annotations

import datetime as dt
import io
import json
from collections.abc import Callable
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from _fuzz_text import damaged, read_all
from _meant import equal
from _trials import Family, Generator, Trial, WrongError

_UNITS = ("s", "ms", "us", "ns")
_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_ZONES = (None, "UTC", "Europe/Berlin", "+05:30", "America/New_York")
_DAY = 86_400
_WORDS = ("lung", "", "NA", "None", "007", "é", "a\nb", "a\0b", "2020-01-31", "true", "1e3", "👩", "x" * 300)
_COLUMN_NAMES = (
    "id",
    "note",
    "label",
    "when",
    "a.b",
    "x y",
    "été",
    "index",
    "__index_level_0__",
    "0",
    "a" * 300,
    "[b]",
)


def _whole(generator: Generator, low: int, high: int) -> int:
    edges = (low, high - 1, 0, 1, 2**53 + 1)
    chosen = edges[generator.integers(5)] if generator.random() < 0.3 else int(generator.integers(-100, 100))
    return min(max(chosen, low), high - 1)


def _word(generator: Generator) -> str:
    return _WORDS[generator.integers(len(_WORDS))]


Cells = Callable[[Generator], Any]


def _plain_kinds() -> list[tuple[pa.DataType, Cells]]:
    """Types that must be taken."""
    kinds: list[tuple[pa.DataType, Cells]] = [
        (pa.string(), _word),
        (pa.large_string(), _word),
        (pa.bool_(), lambda g: bool(g.integers(2))),
        (pa.dictionary(pa.int8(), pa.string()), _word),
        (pa.float64(), lambda g: float(g.normal())),
        (pa.float32(), lambda g: float(g.integers(-99, 99)) / 4),
        (pa.null(), lambda _: None),
    ]
    for bits in (8, 16, 32, 64):
        half = 2 ** (bits - 1)
        kinds.append((getattr(pa, f"int{bits}")(), partial(_whole, low=-half, high=half)))
        kinds.append((getattr(pa, f"uint{bits}")(), partial(_whole, low=0, high=2 * half)))
    kinds += [(pa.timestamp(unit, zone), _stamp(unit)) for unit in _UNITS for zone in _ZONES]
    kinds += [(pa.date32(), lambda g: dt.date(1970, 1, 1) + dt.timedelta(days=int(g.integers(-30_000, 30_000))))]
    return kinds


def _odd_kinds() -> list[tuple[pa.DataType, Cells]]:
    """Types that may be refused, or must come through as they are."""
    numbers: Cells = lambda g: [float(n) for n in g.integers(0, 9, g.integers(0, 4))]  # noqa: E731
    kinds: list[tuple[pa.DataType, Cells]] = [
        (pa.decimal128(20, 4), lambda g: Decimal(int(g.integers(-(10**9), 10**9))).scaleb(-4)),
        (pa.decimal256(50, 10), lambda g: Decimal(int(g.integers(-(10**18), 10**18))).scaleb(-10)),
        (pa.list_(pa.float64()), numbers),
        (pa.large_list(pa.float64()), numbers),
        (pa.list_(pa.float32(), 3), lambda g: [float(n) for n in g.integers(0, 9, 3)]),
        (pa.list_(pa.string()), lambda g: [_word(g) for _ in range(g.integers(0, 3))]),
        (pa.list_(pa.list_(pa.int32())), lambda g: [[int(n) for n in g.integers(0, 9, 2)]]),
        (pa.struct([("a", pa.int32()), ("b", pa.string())]), lambda g: {"a": int(g.integers(9)), "b": _word(g)}),
        (pa.struct([("bytes", pa.binary()), ("path", pa.string())]), lambda g: {"bytes": g.bytes(9), "path": _word(g)}),
        (pa.map_(pa.string(), pa.int32()), lambda g: [(f"k{n}", n) for n in range(g.integers(0, 3))]),
        (pa.binary(), lambda g: g.bytes(5)),
        (pa.binary(4), lambda g: g.bytes(4)),
        (pa.float16(), lambda g: float(g.integers(-99, 99)) / 4),
        (pa.time32("s"), lambda g: dt.time(int(g.integers(24)), int(g.integers(60)))),
        (pa.time64("us"), lambda g: dt.time(int(g.integers(24)), int(g.integers(60)), 1, int(g.integers(10**6)))),
        (pa.date64(), lambda g: dt.date(1970, 1, 1) + dt.timedelta(days=int(g.integers(-700_000, 2_900_000)))),
        (pa.dictionary(pa.int32(), pa.int64()), lambda g: int(g.integers(5))),
    ]
    kinds += [(pa.timestamp(unit, zone), _far_stamp(unit)) for unit in _UNITS[:3] for zone in _ZONES]
    kinds += [(pa.duration(unit), _stamp(unit)) for unit in _UNITS]
    return kinds


def _stamp(unit: str) -> Cells:
    return lambda g: int(g.integers(-20_000, 30_000)) * _DAY * _PER_SECOND[unit] + int(g.integers(_PER_SECOND[unit]))


def _far_stamp(unit: str) -> Cells:
    """Return days from year 1 to year 9999, which nanoseconds cannot hold."""
    first, last = -719_162, 2_932_896
    return lambda g: int(g.choice([first, last, int(g.integers(first, last))])) * _DAY * _PER_SECOND[unit]


def open_parquet(folder: Path) -> Callable[[Generator], Trial]:
    """Return what makes a Parquet file."""
    plain, odd = _plain_kinds(), _odd_kinds()

    def make(generator: Generator) -> Trial:
        table, truth, sound = _table(generator, plain, odd)
        table, truth, note, sound = _with_notes(table, truth, generator, sound)
        stream = io.BytesIO()
        pq.write_table(table, stream, **_options(generator))
        data = stream.getvalue()
        note += f"; {table.schema.types}"
        if generator.random() < 0.35:
            return _damaged_trial(folder / "t.parquet", damaged(data, generator), note)

        def use() -> None:
            (folder / "t.parquet").write_bytes(data)
            _compare(read_all(folder / "t.parquet")[0], truth, table.num_rows)

        return Trial(use, sound, note)

    return make


Truth = dict[str, list[Any]]


def _table(
    generator: Generator, plain: list[tuple[pa.DataType, Cells]], odd: list[tuple[pa.DataType, Cells]]
) -> tuple[pa.Table, Truth, bool]:
    height, gaps = int(generator.choice([1, 2, 5, 5, 30])), float(generator.choice([0, 0, 0.3]))
    sound, columns, truth = True, {}, Truth()
    for place in generator.permutation(len(_COLUMN_NAMES))[: generator.integers(1, 5)]:
        rare = bool(generator.random() < 0.3)
        kind, cell = (odd if rare else plain)[generator.integers(len(odd if rare else plain))]
        sound = sound and not rare
        values = [None if generator.random() < gaps else cell(generator) for _ in range(height)]
        name = _COLUMN_NAMES[place]
        sound = sound and not (kind == pa.null() or any(isinstance(v, int) and abs(v) > 2**53 for v in values))
        columns[name] = (
            pa.array(values, kind) if not pa.types.is_float16(kind) else pa.array(values, pa.float32()).cast(kind)
        )
        truth[name] = [_meaning(value, kind) for value in values]
    return pa.table(columns), truth, sound


def _meaning(value: Any, kind: pa.DataType) -> Any:
    if value is None:
        return None
    if pa.types.is_timestamp(kind) or pa.types.is_duration(kind):
        return (value * (10**9 // _PER_SECOND[kind.unit]), "instant")
    if pa.types.is_map(kind):
        return dict(value)
    return value


def _with_notes(table: pa.Table, truth: Truth, generator: Generator, sound: bool) -> tuple[pa.Table, Truth, str, bool]:
    """Note for pandas which columns are an index, or something that makes no sense."""
    how = int(generator.integers(8))
    names = table.column_names
    if how == 0:
        notes = _notes([names[0]]) | {"columns": [_note_of(name) for name in names]}
        return (
            table.replace_schema_metadata({"pandas": json.dumps(notes)}),
            truth,
            "its first column is an index",
            sound,
        )
    if how == 1:
        made = _notes([{"kind": "range", "name": None, "start": 5, "stop": 5 + table.num_rows, "step": 1}])
        return table.replace_schema_metadata({"pandas": json.dumps(made)}), truth, "an index of numbers", sound
    if how == 2:
        odd: list[Any] = [
            "", "{", "[]", "null", "{}", json.dumps(_notes(["absent"])), "\xff",
            json.dumps(_notes([{"kind": "range"}])),
            json.dumps(_notes([{"kind": "range", "name": "a", "start": 0, "stop": 10**12, "step": 1}])),
            json.dumps(_notes([{"kind": "range", "name": None, "start": 0, "stop": table.num_rows, "step": 0}])),
            json.dumps(_notes([names[0]]) | {"columns": 3}), json.dumps(_notes(None)),
            json.dumps({"index_columns": []}),
            json.dumps(_notes([]) | {"columns": [{"name": names[0], "field_name": names[0], "pandas_type": "datetimetz",
            "numpy_type": "datetime64[ns]", "metadata": {"timezone": "Nowhere/City"}}]}),
            json.dumps(_notes([]) | {"columns": [{"name": names[0], "field_name": names[0], "numpy_type": "int8",
            "pandas_type": "categorical", "metadata": {"num_categories": 2, "ordered": False}}]}),
        ]  # fmt: skip
        note = odd[generator.integers(len(odd))]
        return table.replace_schema_metadata({"pandas": note}), truth, f"notes for pandas: {note[:60]}", False
    if how == 3:
        double = pa.table([table.column(0), table.column(0)], names=[names[0], names[0]])
        return double, truth, "two columns of one name", False
    return table, truth, "no notes", sound


def _note_of(name: str) -> dict[str, Any]:
    return {"name": name, "field_name": name, "pandas_type": "object", "numpy_type": "object", "metadata": None}


def _notes(index: Any) -> dict[str, Any]:
    return {"index_columns": index, "column_indexes": [], "columns": [], "pandas_version": "2.0.0", "creator": {}}


def _options(generator: Generator) -> dict[str, Any]:
    return {
        "compression": ("snappy", "none", "gzip", "zstd", "brotli", "lz4")[generator.integers(6)],
        "version": ("1.0", "2.4", "2.6")[generator.integers(3)] if generator.random() < 0.0 else "2.6",
        "row_group_size": int(generator.choice([1, 3, 100])),
        "use_dictionary": bool(generator.integers(2)),
        "data_page_version": ("1.0", "2.0")[generator.integers(2)],
        "write_page_checksum": bool(generator.integers(2)),
    }


def _damaged_trial(path: Path, data: bytes, note: str) -> Trial:
    def use() -> None:
        path.write_bytes(data)
        frame, _ = read_all(path)
        rows = pq.ParquetFile(pa.BufferReader(data)).metadata.num_rows
        if len(frame) != rows:
            raise WrongError("rows", f"{len(frame)} rows were read, the file says {rows}")

    return Trial(use, False, f"damaged bytes; {note}")


def _compare(frame: pd.DataFrame, truth: Truth, rows: int) -> None:
    if len(frame) != rows:
        raise WrongError("rows", f"{len(frame)} rows were read, the file has {rows}")
    for name, values in truth.items():
        if name not in frame.columns:
            if name == "__index_level_0__":
                continue  # an index without a name says nothing but the order
            raise WrongError(
                "columns", f"column {name[:30]!r} is lost; there are {[str(c)[:30] for c in frame.columns]}"
            )
        for row, truly in enumerate(values):
            value = frame[name].iloc[row]
            if not (_instant(value) == truly[0] if isinstance(truly, tuple) else _equal(value, truly)):
                raise WrongError(
                    "changed", f"row {row} of {name[:30]!r}: {truly!r} became {type(value).__name__} {value!r}"
                )


def _equal(value: Any, truth: Any) -> bool:
    if isinstance(truth, dt.date) and isinstance(value, pd.Timestamp | dt.datetime):
        return bool(pd.Timestamp(value) == pd.Timestamp(truth))
    if isinstance(truth, dict) and isinstance(value, list):
        value = dict(value)
    if isinstance(value, list | tuple) or type(value).__name__ == "ndarray":
        return equal([list(v) if isinstance(v, tuple) else v for v in value], truth)
    return equal(value, truth)


def _instant(value: Any) -> int | None:
    """Return a time or a duration in whole nanoseconds, of any size."""
    if value is None or pd.isna(value):
        return None
    if isinstance(value, pd.Timedelta):
        return int(value.value if value.unit == "ns" else value.as_unit("ns").value)
    if isinstance(value, dt.timedelta):
        return (value.days * _DAY + value.seconds) * 10**9 + value.microseconds * 1000
    if isinstance(value, dt.datetime):
        stamp = pd.Timestamp(value)
        since = (stamp.tz_convert("UTC").tz_localize(None) if stamp.tzinfo else stamp).to_numpy()
        unit = str(since.dtype)[len("datetime64[") : -1]
        return int(since.astype("int64")) * (10**9 // _PER_SECOND[unit])
    return None


PARQUET = [Family("parquet", open_parquet)]
