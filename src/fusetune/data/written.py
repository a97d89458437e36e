"""Writing a table piece by piece, whole or not at all: the file takes its name when the last row is in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from fusetune.files import written_aside

Write = Callable[[pd.DataFrame], None]


@contextmanager
def rows_written(path: Path) -> Iterator[Write]:
    """Yield a function that appends the rows of a frame to a table in the format that the name of its file ends in.

    All frames have the columns of the first. Memory holds one of them at a time.

    Args:
        path: One of `choices.WRITTEN` by its ending.

    Raises:
        WriteError: As `files.written_aside`.
    """
    with written_aside(path) as aside, ExitStack() as stack:
        yield {".csv": _csv, ".parquet": _parquet, ".jsonl": _jsonl}[path.suffix](aside, stack)


def _csv(path: Path, stack: ExitStack) -> Write:
    file = stack.enter_context(path.open("w", encoding="utf-8", newline=""))

    def write(frame: pd.DataFrame) -> None:
        frame.to_csv(file, index=False, header=file.tell() == 0)

    return write


def _jsonl(path: Path, stack: ExitStack) -> Write:
    file = stack.enter_context(path.open("w", encoding="utf-8", newline=""))

    def write(frame: pd.DataFrame) -> None:
        frame.to_json(file, orient="records", lines=True, force_ascii=False)

    return write


def _parquet(path: Path, stack: ExitStack) -> Write:
    writers: list[pq.ParquetWriter] = []

    def write(frame: pd.DataFrame) -> None:
        if not writers:
            writers.append(stack.enter_context(pq.ParquetWriter(path, _schema(frame))))
        writers[0].write_table(pa.Table.from_pandas(frame, writers[0].schema, preserve_index=False))

    return write


def _schema(frame: pd.DataFrame) -> pa.Schema:
    """Return the types of a frame's columns; one that is empty so far may hold words later."""
    schema = pa.Schema.from_pandas(frame, preserve_index=False)
    for place, field in enumerate(schema):
        if pa.types.is_null(field.type):
            schema = schema.set(place, field.with_type(pa.string()))
    return schema
