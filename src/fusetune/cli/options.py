"""Options that several commands share: what the columns of a table are, and single settings."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from fusetune.cli.words import commas, pairs, shares
from fusetune.config import OR_OWN, Config, unknown_strategies
from fusetune.data.choices import OCR, Kind
from fusetune.errors import ConfigError, UserError

if TYPE_CHECKING:
    from fusetune.cluster.engine import Cluster
    from fusetune.cluster.engine import Engine as EngineThere

TableFile = Annotated[
    str,
    typer.Argument(
        metavar="TABLE",
        help="CSV, TSV, Parquet or JSON Lines file, or a folder of Parquet files; image paths start at its folder.",
    ),
]
Inputs = Annotated[
    str | None,
    typer.Option(
        metavar="COLUMN,...",
        help="Columns to use, separated by commas (a name with a comma in double quotes), or patterns such as lab_*. "
        "Default: all but label, group, split, weight and ids.",
    ),
]
Kinds = Annotated[
    list[str] | None,
    typer.Option(
        metavar="COLUMN=KIND",
        help=f"Where the guess is wrong (repeatable). Kinds: {', '.join(Kind)}; {OCR}: pictures, and "
        "the words in them as one more text.",
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
Weight = Annotated[
    str | None,
    typer.Option(
        metavar="COLUMN",
        help="Column that says what each row counts, a number from 0 on: 2 counts as two rows of 1, 0 is left out. "
        "Never an input.",
    ),
]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="One setting, such as train.epochs=3 (repeatable)."),
]

Engine = Annotated[
    Literal["ray"] | None,
    typer.Option(help="ray: let the workers of a Ray cluster do it, chunk by chunk (extra `cluster`)."),
]
Address = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT",
        help="With --engine: the cluster; auto (default): the one that this machine belongs to; local: one of this "
        "machine alone.",
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(metavar="N", help="With --engine: how many work at once, with a core each. Default: all cores."),
]
WorkerGpus = Annotated[
    float | None,
    typer.Option(metavar="N", help="With --engine: GPUs of each worker, or a share of one. Default: none."),
]


def cluster_of(engine: str | None, address: str | None, workers: int | None, gpus: float | None) -> Cluster | None:
    """Return the cluster that options ask for, None where none is asked for; nothing is joined yet.

    Raises:
        UserError: If Ray is not installed, or what only a cluster has is named without it.
    """
    if engine is None:
        if address is not None or workers is not None or gpus is not None:
            raise UserError("--address, --workers and --worker-gpus are about a cluster: add --engine ray")
        return None
    from fusetune.cluster.engine import AUTO, Cluster, refuse_without_ray

    refuse_without_ray()
    return Cluster(address or AUTO, workers, gpus=gpus or 0)


@contextmanager
def engine_of(cluster: Cluster | None) -> Iterator[EngineThere | None]:
    """Join a cluster, if there is one, for as long as the block takes."""
    if cluster is None:
        yield None
        return
    from fusetune.cluster.engine import joined

    with joined(cluster) as engine:
        yield engine


def check_settings(sets: list[str] | None, strategies: str | None = None, **options: object) -> None:
    """Refuse settings and strategies that nobody knows, before anything that takes time is imported.

    Args:
        sets: Single settings, each as `key=value`.
        strategies: Names of strategies, separated by commas, or all.
        options: Settings that have an option of their own; None where it is not given.

    Raises:
        ConfigError: Naming those that are known.
    """
    built = Config.build({name: value for name, value in options.items() if value is not None}, sets=sets or ())
    named = [*(commas(strategies) or ()), built.strategy.name]
    if wrong := unknown_strategies((name for name in named if name != "all"), OR_OWN):
        raise ConfigError(wrong)


def column_roles(
    inputs: str | None,
    kind: list[str] | None,
    vectors: list[str] | None,
    group: str | None,
    split: str | None,
    row_id: str | None,
    share: list[str] | None = None,
    gather: str | None = None,
    weight: str | None = None,
) -> dict[str, Any]:
    """Return what the options say of a table's columns, as the functions of the library take it."""
    named = {} if weight is None else {"weight": weight}  # not all commands follow one
    return named | {
        "inputs": commas(inputs),
        "kinds": pairs(kind, "--kind", "age=number"),
        "vectors": pairs(vectors, "--vectors", "mrna=mrna__*"),
        "group": group,
        "split": split,
        "row_id": row_id,
        "share": shares(share),
        "gather": gather,
    }
