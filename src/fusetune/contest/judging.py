"""The end of a contest: the test part is opened, once, and what was fitted is judged on it, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from fusetune.contest import place as places
from fusetune.contest.finished import Contest, written
from fusetune.contest.kept import Fit, Job, Kept
from fusetune.contest.rules import named
from fusetune.contest.work import JOBS, Workplace, in_words
from fusetune.context import Context
from fusetune.data.split import PARTS
from fusetune.errors import RunError
from fusetune.evaluate.measures import Measure, measure_of
from fusetune.evaluate.metrics import FloatArray
from fusetune.files import written_aside
from fusetune.networks.run import outputs_of
from fusetune.progress import Log, bar
from fusetune.standings import Entry, Field, Protocol, rivals_of, stand, table_of


def judge(place: Workplace, table: str, log: Log) -> Contest:
    """Open the test part, once, ask everything that was fitted about it, and write all results.

    Args:
        place: The contest, with every fit in its folder.
        table: What its table is called.
        log: Where warnings stand that go with the results.

    Raises:
        RunError: If no strategy could be fitted.
    """
    intake, rules, split, measure = place.intake, place.rules, place.intake.split, measure_of(place.intake.target)
    log.record("test part opened", at=split.unlock_test())
    rows = {"valid": split.rows("valid"), "test": split.rows("test")}
    labels = {part: intake.labels[own] for part, own in rows.items()}
    found: dict[str, dict[str, dict[int, Any]]] = {
        name: {what: {} for what in ("p", "valid", "seconds", "passes", "training", "errors", "said")}
        for name in rules.strategies
    }
    with bar("judging on test rows", len(rules.seeds) * len(rules.strategies)) as progress:
        for seed in rules.seeds:
            ctx = place.at(seed)
            for name in rules.strategies:
                own = found[name]
                try:
                    fit, valid, p = _asked(ctx, Job("fit", name, seed).path(place.folder / JOBS), rows["test"])
                    scores = measure.values(valid, labels["valid"])
                    measure.values(p, labels["test"])
                except Exception as error:  # a network that cannot be asked is a failure like any other
                    own["errors"][seed] = str(error) if isinstance(error, _NotThereError) else in_words(error)
                else:
                    own["p"][seed], own["valid"][seed], own["said"][seed] = p, scores, valid
                    own["seconds"][seed] = fit.seconds
                    own["passes"][seed], own["training"][seed] = fit.passes, fit.training
                progress.advance()
    entries = [_entry(name, found[name], place) for name in rules.strategies]
    if not any(entry.p for entry in entries):
        first = next(iter(entries[0].errors.values()))
        raise RunError(f"no strategy could be fitted; {entries[0].name}: {first}")
    said = {name: own["said"] for name, own in found.items()}
    return _write(entries, place, rows, labels, said, table, log)


def _entry(name: str, own: Mapping[str, Any], place: Workplace) -> Entry:
    plan = place.plan_of(name)
    note = f"{named(name).title}: {named(name).paper}"
    facts = {what: own[what] for what in ("p", "valid", "seconds", "passes", "training", "errors")}
    return Entry(name, note, epochs=plan.epochs, settings=plan.chosen, **facts)


def _write(
    entries: Sequence[Entry],
    place: Workplace,
    rows: Mapping[str, Any],
    labels: Mapping[str, Any],
    said: Mapping[str, Mapping[int, FloatArray]],
    table: str,
    log: Log,
) -> Contest:
    intake, rules, ctx = place.intake, place.rules, place.at(place.rules.seeds[0])
    groups = None if ctx.groups is None else ctx.groups.iloc[rows["test"]].to_numpy()
    classes = [str(name) for name in intake.target.names]
    measure = measure_of(intake.target)
    ground = Field(labels["test"], classes, groups, intake.schema.named("group"), measure)
    plans = {name: place.plan_of(name) for name in rules.strategies}
    untuned = [name for name, plan in plans.items() if rules.trials and not plan.trials and not plan.error]
    allowance = place.allowance() if rules.budget == "passes" else None
    protocol = Protocol(
        rules.level, list(rules.seeds), rules.trials, untuned, rules.words, rules.selected, True, allowance
    )
    counts = intake.split.counts()
    standings = stand(
        entries,
        ground,
        protocol,
        title=f"{intake.label} from {' + '.join(ctx.modalities)}",
        facts={
            "Table": table,
            "Label": f"{intake.label}, {intake.target.describe()}",
            "Rows": ", ".join(f"{part} {counts[part]:,}" for part in PARTS),
            "Split": intake.split.how,
            "Split hash": intake.split.hash,
            "Test part opened": str(intake.split.unlocked_at),
        },
        rivals=rivals_of([entry.name for entry in entries if entry.p]),
        warnings=log.warnings,
        resamples=place.config.evaluate.resamples,
        seed=place.config.seed,
    )
    frames = [
        _predictions(entry.name, seed, part, ctx, rows[part], labels[part], p, measure)
        for entry in entries
        for seed in entry.p
        for part, p in (("valid", said[entry.name][seed]), ("test", entry.p[seed]))
    ]
    with written_aside(place.folder / places.PREDICTIONS) as aside:
        pd.concat(frames, ignore_index=True).to_parquet(aside, index=False)
    return written(place.folder, standings, table_of(entries, ground, rules.level, rules.seeds))


class _NotThereError(RunError):
    """A fit that failed; the message is the failure's."""


def _asked(ctx: Context, path: Path, rows: Any) -> tuple[Fit, FloatArray, FloatArray]:
    """Return what a fit left, and answers about the validation and the test rows, calibrated."""
    kept = Kept.read(path)
    if kept is None or not isinstance(kept.facts, Fit):
        raise _NotThereError("its file is damaged; run again with --resume")
    if kept.network is None or kept.valid is None:
        raise _NotThereError(kept.facts.error)
    network = kept.network.to(ctx.runtime.device)
    how: dict[str, Any] = {"config": ctx.config, "runtime": ctx.runtime, "target": type(ctx.target)}
    how["description"] = "judging on test rows"
    outputs = outputs_of({"": network}, ctx.readers, ctx.sources, rows, **how)[""]
    return kept.facts, kept.valid, measure_of(ctx.target).say(outputs.f.numpy(), kept.facts.temperature)


def _predictions(
    name: str, seed: int, part: str, ctx: Context, rows: Any, labels: Any, p: FloatArray, measure: Measure[Any]
) -> pd.DataFrame:
    frame = pd.DataFrame({"strategy": name, "seed": seed, "part": part, "row_id": ctx.ids.iloc[rows].to_numpy()})
    frame["label"] = measure.kept(measure.truths(labels))
    if not measure.chances:  # else every number of the answer has a column of its own
        frame["prediction"] = measure.answers(p, measure.plainly)
    return pd.concat([frame, measure.shares(p)], axis=1)
