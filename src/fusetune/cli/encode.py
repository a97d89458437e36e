"""`fusetune encode`: features of a table's pictures and texts, kept for `fit`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import fusetune
from fusetune.cli.frame import Debug, app, guarded, out, starting
from fusetune.cli.given import check_table, check_there
from fusetune.cli.options import (
    Address,
    Engine,
    Gather,
    Group,
    Inputs,
    Kinds,
    RowId,
    Sets,
    ShareColumns,
    SplitColumn,
    TableFile,
    Vectors,
    Weight,
    WorkerGpus,
    Workers,
    check_settings,
    cluster_of,
    column_roles,
)


@app.command(
    short_help="Encode a table's pictures and texts for fit, here or on a cluster.",
    epilog="Example:  fusetune encode scans.csv --label region --group patient --preset quick --engine ray",
)
@guarded
def encode(
    table: TableFile,
    label: Annotated[str, typer.Option(metavar="COLUMN", help="Column to predict; the split follows from it.")],
    inputs: Inputs = None,
    kind: Kinds = None,
    vectors: Vectors = None,
    group: Group = None,
    split: SplitColumn = None,
    row_id: RowId = None,
    share: ShareColumns = None,
    gather: Gather = None,
    weight: Weight = None,
    preset: Annotated[str | None, typer.Option(metavar="NAME", help="As fit will be given it.")] = None,
    seed: Annotated[int | None, typer.Option(metavar="N", help="As fit will be given it.")] = None,
    strategy: Annotated[str | None, typer.Option(metavar="NAME", help="As fit will be given it.")] = None,
    config: Annotated[Path | None, typer.Option(metavar="FILE", help="As fit will be given it.")] = None,
    set_: Sets = None,
    engine: Engine = None,
    address: Address = None,
    workers: Workers = None,
    worker_gpus: WorkerGpus = None,
    debug: Debug = False,
) -> None:
    """Encode what fit with the same options would, and keep the features where it looks for them (store.folder).

    It pays with --preset quick, where encoders are left as they were pretrained. A command that was stopped continues
    when it is given again.
    """
    del debug
    check_table(table, label, group, split, row_id, gather)
    check_there(config)
    check_settings(set_, strategy, preset=preset, seed=seed)
    cluster = cluster_of(engine, address, workers, worker_gpus)
    starting(f"encode: pictures and texts of {table}")
    found = fusetune.encode(
        table,
        label,
        **column_roles(inputs, kind, vectors, group, split, row_id, share, gather, weight),
        preset=preset,
        seed=seed,
        strategy=strategy,
        config=config,
        sets=set_ or (),
        cluster=cluster,
    )
    for line in found.lines():
        out.print(line, soft_wrap=True)
    out.print(f"features are in {found.folder}", soft_wrap=True)
