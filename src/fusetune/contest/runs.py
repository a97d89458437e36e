"""Finished runs side by side, on the test rows that all of them were judged on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from fusetune.data.table import Table
from fusetune.errors import UserError, listed
from fusetune.evaluate.measures import Measure, measure_of
from fusetune.record import Record, is_finished, is_run, read_metrics
from fusetune.standings import Entry, Field, Protocol, Standings, rivals_of, stand, table_of
from fusetune.targets import Classification, Target, read_target

_FILE = "predictions.parquet"
_SEED = 0  # of what a run is one training of, whatever its own seed


@dataclass(frozen=True, eq=False)
class _Run:
    """A finished run: what it says of its test rows, sorted by their ids, and its record."""

    name: str
    folder: Path
    metrics: dict[str, Any]
    frame: pd.DataFrame

    @property
    def target(self) -> Target:
        """What it predicts, as its files say; those of earlier versions are about classes."""
        facts = dict(self.metrics.get("target", {"kind": Classification.kind}))
        kind = facts.pop("kind")
        shares = [column[2:-1] for column in self.frame.columns if column.startswith("p(")]
        return read_target(kind, shares or ["label"], facts)

    @property
    def strategy(self) -> str:
        return str(self.metrics.get("strategy", {}).get("name", "two-stage"))


def stand_runs(folders: Sequence[Path]) -> tuple[Standings, pd.DataFrame]:
    """Return how finished runs stand on their test rows, and the table of their scores.

    Raises:
        UserError: If one is no finished run, was changed since, or was judged on other rows or labels.
    """
    if len(folders) < 2:
        raise UserError("comparing runs takes two or more of them; name another one")
    strangers = [str(folder) for folder in folders if not is_run(folder)]
    if strangers:
        raise UserError(
            f"{listed(strangers)} is no run; give one table (with its label), or the folders of finished runs, not both"
        )
    runs = [_read(folder, folders) for folder in folders]
    first = runs[0]
    for other in runs[1:]:
        _refuse_other_rows(first, other)
    target, (groups, warnings) = first.target, _groups(runs)
    measure = measure_of(target)
    labels = target.encode(Table(first.frame.reset_index(), str(first.folder / _FILE), first.folder), "label")
    ground = Field(labels, [str(name) for name in target.names], groups, measure=measure)
    by_strategy = {run.strategy: run.name for run in runs}
    entries = [_entry(run, measure) for run in runs]
    rivals = [by_strategy[name] for name in rivals_of(list(by_strategy))] or [first.name]
    protocol = Protocol("runs", [_SEED], 0, [], "each as it was run", True, same_table=False)
    standings = stand(
        entries,
        ground,
        protocol,
        title=f"{len(runs)} finished runs",
        facts={"Runs": listed((run.folder for run in runs), 9), "Test rows": f"{len(labels):,}"},
        rivals=rivals,
        warnings=warnings,
    )
    seeds = {run.name: int(run.metrics.get("seed", _SEED)) for run in runs}
    table = table_of(entries, ground, "runs", [_SEED])
    table["seed"] = [seeds[name] for name in table["strategy"]]
    return standings, table


def _read(folder: Path, folders: Sequence[Path]) -> _Run:
    if not is_finished(folder):
        raise UserError(f"the run in {folder} is not finished; continue it with fusetune fit ... --resume")
    metrics, record = read_metrics(folder), Record.read(folder)
    if record is not None:
        record.refuse_damage(folder, [_FILE])
    try:
        frame = pd.read_parquet(folder / _FILE)
        frame = frame[frame["part"] == "test"].assign(row_id=lambda own: own["row_id"].astype("str"))
        frame = frame.set_index("row_id").sort_index()
        lacking = [column for column in ("label", "prediction") if column not in frame]
    except Exception as error:  # damaged files raise whatever the parser happens to raise
        raise UserError(f"{folder / _FILE} is damaged ({error}); put it back from a copy, or fit again") from error
    if lacking:
        raise UserError(f"{folder / _FILE} has no column {listed(lacking)}; put it back from a copy, or fit again")
    if weight := metrics.get("weight"):
        raise UserError(
            f"{folder} was judged with rows that count as column '{weight}' says, and compare counts every row alike; "
            "its own report compares it with its rivals"
        )
    twins = sum(other.name == folder.name for other in folders) > 1
    return _Run(str(folder) if twins else folder.resolve().name, folder, metrics, frame)


def _refuse_other_rows(one: _Run, other: _Run) -> None:
    """Refuse two runs that were not judged on the same rows with the same labels."""
    remedy = "fit both on the same table with the same seed or the same split column"
    ours, theirs = one.target, other.target
    if ours.kind != theirs.kind:
        raise UserError(
            f"{one.folder} predicts {ours.describe()}, and {other.folder} {theirs.describe()}; compare runs of one "
            "target"
        )
    here, there = one.frame.index, other.frame.index
    if not here.equals(there):
        lost = [*here.difference(there), *there.difference(here)]
        raise UserError(
            f"{one.folder} and {other.folder} were judged on different test rows ({len(here):,} and {len(there):,}; "
            f"{len(lost):,} are only in one of them, such as {listed(lost)}); {remedy}"
        )
    changed = here[(one.frame["label"] != other.frame["label"]).to_numpy()]
    if len(changed):
        raise UserError(
            f"{one.folder} and {other.folder} have different labels in {len(changed):,} test row(s), such as "
            f"{listed(changed)}; {remedy}"
        )
    if set(ours.names) != set(theirs.names):
        raise UserError(f"{one.folder} and {other.folder} know different {ours.names_word}; {remedy}")


def _groups(runs: Sequence[_Run]) -> tuple[Any, list[str]]:
    """Return the group of each row where a run names it, and what there is to say where none does."""
    named = next((run.frame["group"].to_numpy() for run in runs if "group" in run.frame), None)
    if named is None and any(run.metrics.get("groups") for run in runs):
        return None, [
            "rows form groups, but these runs of an earlier version do not say which: rows are taken as independent, "
            "so intervals are too narrow and p-values too small"
        ]
    return named, []


def _entry(run: _Run, measure: Measure[Any]) -> Entry:
    cost = run.metrics.get("cost", {})
    seconds, passes = run.metrics.get("seconds", {}).get("total"), sum(cost.get("passes", {}).values())
    valid = {name: own["value"] for name, own in run.metrics.get("valid", {}).items() if own["value"] is not None}
    return Entry(
        run.name,
        f"strategy {run.strategy}",
        {_SEED: measure.answered_by(run.frame)},
        {_SEED: valid} if measure.loss in valid else {},
        {} if seconds is None else {_SEED: float(seconds)},
        {_SEED: float(passes)},
    )
