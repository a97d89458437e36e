"""Words that users choose among: kinds of columns, what becomes of cells of no use, endings of files.

The command line names them in its help, so this file imports nothing that takes time.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

OnProblem = Literal["warn", "raise", "mask"]
By = Literal["judged", "most-probable"]  # how rows are decided
ExportKind = Literal["onnx", "mlflow", "hub", "dir"]  # what a model is written for
TargetKind = Literal["classification", "multilabel", "regression"]  # what is predicted
READERS = (".csv", ".tsv", ".parquet", ".jsonl", ".ndjson")
JOIN = "+"  # between the names of columns, where they are the name of what they share
OCR = "image+ocr"  # pictures, and the words in them as one more column of texts
WRITTEN = (".csv", ".parquet", ".jsonl")


class Kind(StrEnum):
    """What the values of a column are."""

    IMAGE = "image"
    TEXT = "text"
    NUMBER = "number"
    CATEGORY = "category"
    BOOLEAN = "boolean"
    DATE = "date"
    VECTOR = "vector"


CELL_KINDS = (Kind.NUMBER, Kind.CATEGORY, Kind.BOOLEAN, Kind.DATE)
