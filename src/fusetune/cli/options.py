"""Options that several commands share: what the columns of a table are, and single settings."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from fusetune.cli.words import commas, pairs, shares
from fusetune.config import Config
from fusetune.data.choices import Kind

TableFile = Annotated[
    str, typer.Argument(metavar="TABLE", help="CSV, TSV, Parquet or JSON Lines file; image paths start at its folder.")
]
Inputs = Annotated[
    str | None,
    typer.Option(
        metavar="COLUMN,...",
        help="Columns to use, separated by commas (a name with a comma in double quotes), or patterns such as lab_*. "
        "Default: all but label, group, split and ids.",
    ),
]
Kinds = Annotated[
    list[str] | None,
    typer.Option(
        metavar="COLUMN=KIND",
        help=f"Where the guess is wrong (repeatable). Kinds: {', '.join(Kind)}.",
    ),
]
Vectors = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=PATTERN", help="Number columns that form one vector, such as 'mrna=mrna__*' (repeatable)."
    ),
]
Group = Annotated[
    str | None,
    typer.Option(metavar="COLUMN", help="Column whose rows belong together (patient, video); never split apart."),
]
SplitColumn = Annotated[str | None, typer.Option(metavar="COLUMN", help="Column with train / valid (val, dev) / test.")]
RowId = Annotated[str | None, typer.Option("--id", metavar="COLUMN", help="Column that names the rows.")]
ShareColumns = Annotated[
    list[str] | None,
    typer.Option(
        "--share",
        metavar="[NAME=]COLUMN,...",
        help="Columns of pictures, or of texts, that are one input with one encoder, such as 'front,back' or "
        "'views=front,back' (repeatable).",
    ),
]
Gather = Annotated[
    str | None,
    typer.Option(
        metavar="COLUMN",
        help="Column of ids of a long table: rows with the same id become one row, with all their pictures and texts.",
    ),
]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="One setting, such as train.epochs=3 (repeatable)."),
]


def check_settings(sets: list[str] | None) -> None:
    """Refuse single settings that no configuration knows, before anything that takes time is imported."""
    Config.build(sets=sets or ())


def column_roles(
    inputs: str | None,
    kind: list[str] | None,
    vectors: list[str] | None,
    group: str | None,
    split: str | None,
    row_id: str | None,
    share: list[str] | None = None,
    gather: str | None = None,
) -> dict[str, Any]:
    """Return what the options say of a table's columns, as the functions of the library take it."""
    return {
        "inputs": commas(inputs),
        "kinds": pairs(kind, "--kind", "age=number"),
        "vectors": pairs(vectors, "--vectors", "mrna=mrna__*"),
        "group": group,
        "split": split,
        "row_id": row_id,
        "share": shares(share),
        "gather": gather,
    }
