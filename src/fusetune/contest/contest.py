"""`compare`: strategies on one table under one protocol, or finished runs on their common test rows.

    table ──► intake (one split for all) ──► plan and tune each strategy, with the first seed, on validation rows
                                                  │
                                                  ▼
                              fit each strategy with each seed, each in a file of its own
                                                  │
                                                  ▼
                       the test part is opened, once: what was fitted is judged on it, side by side

Seeds vary what networks begin from and the order of batches; the split is one for all of them. Whatever is stopped goes
on with `resume`, and ends with the same results.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from fusetune.arguments import gather as gather_settings
from fusetune.config import Config
from fusetune.contest import place as places
from fusetune.contest.finished import Contest, finished, written
from fusetune.contest.judging import judge
from fusetune.contest.kept import Fit, Job, Kept, Plan
from fusetune.contest.pool import Run, worker_count, working
from fusetune.contest.rules import ALL, Rules, configured, for_inputs, for_target, rules_of
from fusetune.contest.runs import stand_runs
from fusetune.contest.tuning import make_file
from fusetune.contest.work import JOBS, STAGES, STUDIES, Workplace
from fusetune.data.roles import Roles, Share
from fusetune.data.table import Table, TableLike, read_table
from fusetune.errors import ConfigError, UserError, listed
from fusetune.evaluate.measures import measure_of
from fusetune.files import expanded, file_hash, sweep, write_text
from fusetune.folder import held
from fusetune.intake import (
    Intake,
    announce,
    part_counts,
    picture_hashes,
    refuse_weight,
    report_findings,
    schema_of,
    take_in,
    warn_about_parts,
    warn_of_reading,
)
from fusetune.prepare import NEUTRAL
from fusetune.process import threads_restored
from fusetune.progress import Log
from fusetune.record import is_run
from fusetune.runtime import find_runtime
from fusetune.strategies import unread
from fusetune.strategies.level import refuse_views
from fusetune.train.checkpoint import discard
from fusetune.version import VERSION

RunsLike = Sequence[str | Path]


def compare(
    what: TableLike | RunsLike,
    label: str | None = None,
    *,
    strategies: str | Iterable[str] = ALL,
    seeds: int = 5,
    level: str = "features",
    trials: int = 0,
    budget: str = "passes",
    minutes: float | None = None,
    epochs: int | None = None,
    jobs: int | None = None,
    inputs: str | Iterable[str] | None = None,
    kinds: Mapping[str, str] | None = None,
    vectors: Mapping[str, str] | None = None,
    group: str | None = None,
    split: str | None = None,
    row_id: str | None = None,
    share: Share | None = None,
    gather: str | None = None,
    preset: str | None = None,
    seed: int | None = None,
    config: Config | Mapping[str, Any] | str | Path | None = None,
    sets: str | Iterable[str] = (),
    out: str | Path | None = None,
    resume: bool = False,
    quiet: bool = False,
) -> Contest:
    """Fit several strategies on one table under one protocol and judge them side by side; or compare finished runs.

    Args:
        what: A table, as for `fit`; or the folders of two or more finished runs, which are compared on their test rows.
        label: Column to predict; none for runs.
        strategies: Names, or `all` that are defined for what the label is; `import:package.module:Class` names one of
            your own.
        seeds: How many seeds: they vary initialisation and batches. The split is one for all.
        level: features: pictures and texts are read once by their pretrained encoders, and strategies train small
            networks on that (seconds); encoders: strategies train the encoders (minutes).
        trials: Tuning trials of each strategy, on validation rows, with the first seed; 0: defaults only.
        budget: What is equal for all: passes (rows through encoders in training) or seconds.
        minutes: How long one fit of one strategy may train.
        epochs: Epochs of joint training, of which the budget of passes is made; default: those of the settings.
        jobs: Processes, of one thread each; default: as many as there are cores and memory.
        inputs: Columns to use, as for `fit`.
        kinds: Column -> kind, where the guess would be wrong.
        vectors: Name -> pattern of number columns that form one vector.
        group: Column whose rows belong together: never on both sides of the split.
        split: Column that says train, valid or test.
        row_id: Column that names rows.
        share: Columns that are one input with one encoder, as for `fit`.
        gather: Column of ids of a long table, as for `fit`.
        preset: quick, good (default), best or paper, as `fit` takes it.
        seed: The first seed, which also decides the split.
        config: Settings of all strategies: a `Config`, a mapping or a YAML file.
        sets: Overrides such as ``"vector.width=64"``.
        out: Folder for the results; default: `runs/<table>-<label>-compare`. Runs are compared without one.
        resume: Go on with what was stopped.
        quiet: Print nothing.

    Raises:
        UserError: If the table, the runs or the arguments cannot be used.
        RunError: If no strategy could be fitted.
    """
    if isinstance(what, list | tuple) and all(isinstance(one, str | Path) for one in what):
        if label is not None:
            raise UserError("runs know their label; leave out label, or give one table in place of runs")
        return _compare_runs([Path(one) for one in what], out, quiet)
    if isinstance(what, str | Path) and is_run(expanded(what)):
        raise UserError(f"{what} is a run, not a table; name two or more runs to compare them, or give the table")
    if label is None:
        raise UserError("label is missing: the column to predict")
    settings, _ = gather_settings(preset, seed, None, None, config, sets)
    rules = rules_of(strategies, seeds, settings.seed, level, trials, budget, minutes, epochs)
    if settings.strategy.model_extra:
        raise ConfigError(
            f"strategy.{next(iter(settings.strategy.model_extra))}: settings of one strategy cannot be set for all; "
            "leave it out, or tune with trials"
        )
    if jobs is not None and jobs < 1:
        raise ConfigError(f"jobs: must be 1 or more, got {jobs}")
    settings = _for_contest(settings, rules)
    data = read_table(what)
    schema = schema_of(data, Roles(label, inputs, kinds, vectors, group, split, row_id, share, gather), settings)
    folder = places.find_place(out, data, label, resume)
    log = Log(places.log_of(folder), quiet)
    refuse_weight(schema, "compare")
    rules, undefined = for_target(rules, schema.target)
    intake = take_in(data, label, schema, settings, None)
    chosen, said = for_inputs(rules, schema.modalities())
    rules = replace(rules, strategies=chosen)
    with threads_restored(), held(folder):
        places.refuse_taken(folder, resume)
        return _Course(intake, settings, rules, folder, data, log).run(jobs, [one for one in (undefined, said) if one])


def _for_contest(settings: Config, rules: Rules) -> Config:
    """Return the settings with the level, and one thread a process, so that their number changes no sum.

    Raises:
        ConfigError: If they ask for what there is not at that level.
    """
    strategy = settings.strategy.model_copy(update={"level": rules.level})
    settings = settings.model_copy(update={"strategy": strategy, "threads": settings.threads or 1})
    refuse_views(settings)
    return settings


@dataclass(frozen=True, eq=False)
class _Course:
    """One contest on a table, from its folder's first file to its last."""

    intake: Intake
    settings: Config
    rules: Rules
    folder: Path
    table: Table
    log: Log

    def run(self, jobs: int | None, said: Sequence[str]) -> Contest:
        """Run it, or what is left of it."""
        started = time.perf_counter()
        log, intake, rules = self.log, self.intake, self.rules
        facts = self._facts()
        places.begin(self.folder, facts)
        if (self.folder / places.RESULTS).exists():
            log.say(f"{self.folder} is finished: nothing to do")
            self._clear()
            return finished(self.folder)
        if (self.folder / JOBS).is_dir():
            sweep(self.folder / JOBS, ".*")
        write_text(self.folder / "config.yaml", self.settings.to_yaml())
        intake.schema.save(self.folder / "schema.json")
        intake.split.save(self.folder / "split.parquet")
        if intake.examination is not None:
            report_findings(intake.examination, intake.treatment, log, self.folder)
        log.record("start", version=VERSION, rules=rules.facts(), split=intake.split.hash)
        log.say(
            f"fusetune {VERSION}: {self.table.name} -> {intake.label} ({intake.target.describe()}), "
            f"{len(rules.strategies)} strategies x {len(rules.seeds)} seed(s) at level {rules.level}"
        )
        log.say(f"  rows: {part_counts(intake.split)}  ({intake.split.how})")
        announce(log, intake)
        warn_of_reading(log, self.table)
        for text in [*said, *self._unread()]:
            log.warn(text)
        place = Workplace(replace(intake, examination=None), self.settings, rules, self.folder)
        ctx = place.at(rules.seeds[0])  # everything is read, and features of pictures and texts are stored for all
        self._same_pictures(place)
        for text in place.read.log.warnings:
            log.warn(text)
        warn_about_parts(replace(ctx, log=log))
        count, why = worker_count(jobs, find_runtime(self.settings).device.type)
        log.say(f"  {count} process(es): {why}; every fit may train {rules.words}")
        if rules.trials:
            make_file(self.folder / STUDIES)
        with working(place, min(count, len(self._jobs("fit")))) as run:
            self._do("plans", self._jobs("plan"), run)
            self._do("fits", self._jobs("fit"), run)
        contest = judge(place, self.table.name, log)
        self._clear()
        log.record("done", seconds=time.perf_counter() - started)
        return contest

    def _unread(self) -> list[str]:
        """Say which settings some of the strategies do not follow."""
        by: dict[str, list[str]] = {}
        for name in self.rules.strategies:
            for setting in unread(configured(self.settings, self.rules, name, self.settings.seed, None)):
                by.setdefault(setting, []).append(name)
        return [f"{setting} is not read by {listed(names, 99)}" for setting, names in by.items()]

    def _jobs(self, what: Literal["plan", "fit"]) -> list[Job]:
        """Return the plans of all strategies, made with the first seed, or all fits."""
        seeds = self.rules.seeds if what == "fit" else self.rules.seeds[:1]
        return [Job(what, name, seed) for seed in seeds for name in self.rules.strategies]

    def _clear(self) -> None:
        """Remove what only an unfinished contest needs."""
        for job in [*self._jobs("plan"), *self._jobs("fit")]:
            job.path(self.folder / JOBS).unlink(missing_ok=True)
            discard(self.folder / STAGES / job.path(Path()).name)
        for name in (JOBS, STAGES):
            with suppress(OSError):  # something else lies there, or nothing does
                (self.folder / name).rmdir()

    def _facts(self) -> dict[str, Any]:
        """Return what the contest is made from."""
        made = self.intake.made_from
        return {
            "rules": self.rules.facts(),
            "table": {"rows": made.rows, "rows_hash": made.rows_hash, "columns": made.columns},
            "split": self.intake.split.hash,
            "settings": {name: str(value) for name, value in self.settings.leaves(NEUTRAL).items()},
        }

    def _same_pictures(self, place: Workplace) -> None:
        """Refuse to go on with other pictures under the same names."""
        path, now = self.folder / "pictures.json", json.dumps(picture_hashes(place.read.sources), sort_keys=True)
        if path.exists() and path.read_text(encoding="utf-8") != now:
            raise UserError(
                f"the comparison in {self.folder} was made from other pictures, or from pictures that are read in "
                "another way; resume it with those, or choose another --out"
            )
        write_text(path, now)

    def _do(self, what: str, jobs: Sequence[Job], run: Run) -> None:
        """Do what is not done yet, and say how far it is."""
        kept = self.folder / JOBS
        left = [job for job in jobs if not _is_done(job, kept)]
        done, started = len(jobs) - len(left), time.monotonic()
        if done:
            self.log.say(f"  {what}: {done} of {len(jobs)} are there")

        def told(job: Job, failed: str) -> None:
            nonlocal done
            done += 1
            ended = done - (len(jobs) - len(left))
            after = (time.monotonic() - started) / ended * (len(left) - ended)
            name = job.strategy if job.what == "plan" else f"{job.strategy}, seed {job.seed}"
            said = f"failed: {failed}" if failed else self._said(job)
            self.log.say(f"  {what[:-1]} {done} of {len(jobs)}: {name}: {said}; about {after:.0f} s left")
            self.log.record(job.what, strategy=job.strategy, seed=job.seed, error=failed)
            if failed and not job.path(kept).exists():  # its process was ended before it could leave anything
                Kept((Fit if job.what == "fit" else Plan)(error=failed)).write(job.path(kept))

        run(left, told)

    def _said(self, job: Job) -> str:
        kept = Kept.read(job.path(self.folder / JOBS), whole=False)
        if kept is None:
            return "its file is damaged"
        if isinstance(kept.facts, Fit):
            for text in kept.facts.warnings:
                self.log.warn(f"{job.strategy}: {text}")
            return f"{self._valid_loss(kept)}{kept.facts.seconds:.1f} s"
        plan = kept.facts
        loops = "as its settings say" if plan.epochs is None else f"{plan.epochs} epoch(s) a loop"
        return (loops if plan.trains else "nothing is trained") + (f", {plan.trials} trial(s)" if plan.trials else "")

    def _valid_loss(self, kept: Kept) -> str:
        if kept.valid is None:
            return ""
        measure, labels = measure_of(self.intake.target), self.intake.labels[self.intake.split.rows("valid")]
        loss = float(measure.lost_rows(kept.valid, labels).mean())
        return f"valid {measure.loss_word} {measure.shown_loss(loss)}, "


def _is_done(job: Job, folder: Path) -> bool:
    """Return whether a job has left what it should; one that failed is tried again."""
    kept = Kept.read(job.path(folder), whole=False)
    return kept is not None and not kept.facts.error


def _compare_runs(runs: Sequence[Path], out: str | Path | None, quiet: bool) -> Contest:
    standings, table = stand_runs(runs)
    log = Log(None, quiet)
    for text in standings.warnings:
        log.warn(text)
    if out is None:
        return Contest(None, table, standings.summary())
    folder = expanded(out)
    places.refuse_taken(folder, False)
    with held(folder):
        places.begin(folder, {"runs": {str(run): file_hash(run / "metrics.json") for run in runs}})
        return written(folder, standings, table)
