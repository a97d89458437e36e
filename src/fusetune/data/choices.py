"""Words that users choose among: kinds of columns, what becomes of cells of no use, endings of files.

The command line names them in its help, so this file imports nothing that takes time.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from fusetune.errors import UserError

OnProblem = Literal["warn", "raise", "mask"]
By = Literal["judged", "most-probable"]  # how rows are decided
ExportKind = Literal["onnx", "mlflow", "hub", "dir"]  # what a model is written for
TargetKind = Literal["classification", "multilabel", "regression"]  # what is predicted
READERS = (".csv", ".tsv", ".parquet", ".jsonl", ".ndjson")
JOIN = "+"  # between the names of columns, where they are the name of what they share
OCR = "image+ocr"  # pictures, and the words in them as one more column of texts
WRITTEN = (".csv", ".parquet", ".jsonl")
COVERAGES = (0.5, 0.999)  # of new rows: how many a prediction set can be asked to hold the truth of, least and most


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


def refuse_coverage(coverage: float) -> None:
    """Refuse a share of rows that no prediction set is known for.

    Raises:
        UserError: Naming what can be asked for.
    """
    if not COVERAGES[0] <= coverage <= COVERAGES[1]:
        meant = f"; did you mean {coverage / 100:g}?" if COVERAGES[0] <= coverage / 100 <= COVERAGES[1] else ""
        least, most = COVERAGES
        raise UserError(f"prediction sets hold the label with {least} to {most}, and {coverage:g} is asked for{meant}")


def refuse_margin(margin: float) -> None:
    """Refuse what is no distance of two probabilities.

    Raises:
        UserError: Naming it.
    """
    if not 0 <= margin <= 1:
        raise UserError(f"a margin of {margin:g} is no distance of two probabilities: 0 to 1")
