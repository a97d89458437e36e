"""`fusetune check`: what is wrong with a table, before anything is trained on it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fusetune.cli.frame import Debug, app, guarded, out
from fusetune.cli.given import check_table
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
    Workers,
    cluster_of,
    column_roles,
    engine_of,
)
from fusetune.cli.outputs import refuse_loss
from fusetune.config import Config
from fusetune.errors import UserError, listed
from fusetune.files import written_aside
from fusetune.progress import Steps

if TYPE_CHECKING:
    from fusetune.cluster.engine import Engine as EngineThere
    from fusetune.doctor.findings import Finding

_WARNED = 3
_STYLES = {"error": "bold red", "warn": "yellow", "info": "dim"}


@app.command(
    short_help="Look for what is wrong with a table: broken images, copies, leaks, label errors.",
    epilog="Example:  fusetune check scans.csv --label region --group patient --split part --html check.html",
)
@guarded
def check(
    table: TableFile,
    label: Annotated[str | None, typer.Option(metavar="COLUMN", help="Column to predict.")] = None,
    inputs: Inputs = None,
    kind: Kinds = None,
    vectors: Vectors = None,
    group: Group = None,
    split: SplitColumn = None,
    row_id: RowId = None,
    share: ShareColumns = None,
    gather: Gather = None,
    weight: Weight = None,
    set_: Sets = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write all findings, with all row ids.")
    ] = None,
    html_file: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write a page to look at, with pictures and texts.")
    ] = None,
    redact: Annotated[
        bool, typer.Option("--redact", help="Leave ids, texts and pictures of rows out of the page, to hand it on.")
    ] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 3 if there are warnings.")] = False,
    engine: Engine = None,
    address: Address = None,
    workers: Workers = None,
    debug: Debug = False,
) -> None:
    """Look for what is wrong with a table; nothing is changed. At the installation looks: fusetune doctor.

    Exit code: 0 nothing wrong, 2 at least one error, 3 warnings under --strict. What `fit` does about each kind of
    finding is the setting doctor.policy.
    """
    del debug
    check_table(table, label, group, split, row_id, gather)
    if redact and html_file is None:
        raise UserError("--redact is about the page: add --html FILE")
    settings = Config.build(sets=set_ or ())
    cluster = cluster_of(engine, address, workers, None)
    steps = Steps(
        "starting up",
        f"reading {Path(table).name}",
        "looking at every picture, text and column",
        "writing the findings",
    )
    steps.begin()
    from fusetune.checking import checked
    from fusetune.data.roles import Roles
    from fusetune.doctor.findings import counts
    from fusetune.intake import read_for

    with engine_of(cluster) as joined:  # what is wrong with a cluster is told first
        steps.begin()
        roles = Roles(label, **column_roles(inputs, kind, vectors, group, split, row_id, share, gather, weight))
        data = read_for(table, roles, settings)
        for option, file in (("--json", json_file), ("--html", html_file)):
            refuse_loss(option, file, table, table=data)
        steps.begin()
        found = checked(data, roles, settings, **_looking(joined, settings))
    steps.begin()
    if json_file:
        with written_aside(json_file) as aside:
            listing = {"findings": [finding.as_dict() for finding in found.findings]}
            aside.write_text(json.dumps(listing, indent=1, ensure_ascii=False), encoding="utf-8")
    if html_file:
        with written_aside(html_file) as aside:
            aside.write_text(found.html(redact=redact), encoding="utf-8")
    for finding in found.findings:
        _print(finding)
    tally = counts(found.findings)
    out.print(found.words)
    raise typer.Exit(UserError.exit_code if tally["error"] else _WARNED if strict and tally["warn"] else 0)


def _looking(engine: EngineThere | None, settings: Config) -> dict[str, Any]:
    """Return who looks at pictures, where it is not this process."""
    if engine is None:
        return {}
    from fusetune.cluster.filling import Filling

    return {"look": Filling(engine, settings).look}


def _print(finding: Finding) -> None:
    out.print(f"{finding.severity:5} {finding.kind} ({finding.certainty})", style=_STYLES[finding.severity])
    rows = f" (rows {listed(finding.rows)})" if finding.rows else ""
    out.print(f"      {finding.evidence['what']}{rows}", soft_wrap=True)
    if finding.severity != "info":
        out.print(f"      -> {finding.remedy}", soft_wrap=True)
