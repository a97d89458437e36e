"""The work of a contest, as one process does it: plans and fits, each left in a file of its own.

Inputs are read once in a process, features that encoders said once come from the store that all processes share, and
what was trained under one seed and the same settings is trained once (`Context.remember`), and charged to everybody who
needed it. The test part stays shut: a copy of the split goes to each process, and nobody opens it there.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fusetune.augment.random import Moment
from fusetune.config import Config
from fusetune.contest.kept import Fit, Job, Kept, Plan
from fusetune.contest.rules import Rules, configured
from fusetune.contest.tuning import space_of, tune
from fusetune.context import Context, Cost
from fusetune.data.split import Rows
from fusetune.errors import RunError
from fusetune.evaluate.measures import measure_of
from fusetune.features.store import Array, Encoding, FeatureStore
from fusetune.inputs import prepare_modality
from fusetune.intake import Intake
from fusetune.judge import scaled_on_valid
from fusetune.progress import Log
from fusetune.runtime import start_runtime
from fusetune.strategies import IMPORT, Fitted, strategy_of
from fusetune.strategies.level import at_level, on_features
from fusetune.train.checkpoint import discard

JOBS, STUDIES, STAGES = "jobs", "tuning.db", "stages"
_TRAINING = ", training"


class _Charged(FeatureStore):
    """A store that charges everybody for what it hands out, stored or not: who came first must not be the dearer."""

    def encode(self, what: Encoding, rows: Rows, views: Sequence[Moment] | None = None) -> Array:
        """Return features, see `FeatureStore.encode`."""
        before = self.passes[what.name]
        z = super().encode(what, rows, views)
        self.passes[what.name] = before + int(what.source.present[rows].sum()) * len(views or [None])
        return z


@dataclass(eq=False)
class Workplace:
    """All that one process needs to do its share of a contest.

    Attributes:
        intake: The table after every check.
        config: The settings of the contest.
        rules: Its protocol.
        folder: Its folder.
    """

    intake: Intake
    config: Config
    rules: Rules
    folder: Path
    _read: Context | None = None
    _levels: dict[int, tuple[Context, Context]] = field(default_factory=dict)
    _memories: dict[str, dict[Any, Any]] = field(default_factory=dict)
    _counting: tuple[Context, Context] | None = None

    def bare(self) -> Workplace:
        """Return the same for another process, without anything that was read here."""
        return Workplace(self.intake, self.config, self.rules, self.folder)

    @property
    def read(self) -> Context:
        """The run of the first seed, before any level: inputs read, encoders loaded."""
        if self._read is None:
            runtime, log = start_runtime(self.config), Log(quiet=True)
            self._read = self.intake.context(self.config, runtime, log, self.folder / STAGES, True)
        return self._read

    def at(self, seed: int) -> Context:
        """Return the run of a seed at the contest's level; that of the last seed is kept."""
        if seed not in self._levels:
            self._levels.clear()
            self._memories.clear()
            read = self.read if seed == self.config.seed else reseeded(self.read, self.intake, seed)
            self._levels[seed] = (read, at_level(read))
        return self._levels[seed][1]

    def do(self, job: Job) -> str:
        """Do a job, leave its file, and return why it failed, or nothing: one failure must not cost the others."""
        try:
            kept = self._plan(job) if job.what == "plan" else self._fit(job)
        except Exception as error:  # whatever a method raises is its result
            kept = Kept((Plan if job.what == "plan" else Fit)(error=in_words(error)))
        kept.write(job.path(self.folder / JOBS))
        return kept.facts.error

    def plan_of(self, strategy: str) -> Plan:
        """Return the plan of a strategy, which has been made.

        Raises:
            RunError: If there is none.
        """
        kept = Kept.read(Job("plan", strategy, self.rules.seeds[0]).path(self.folder / JOBS))
        if kept is None or not isinstance(kept.facts, Plan):
            raise RunError(f"the plan of {strategy} is not there, or is damaged; run again with --resume")
        return kept.facts

    def _plan(self, job: Job) -> Kept:
        rules, started, epochs = self.rules, time.perf_counter(), None
        passes = self._training_passes(job, 1) if rules.trials or rules.budget == "passes" else 0.0
        if passes and rules.budget == "passes":
            # What is trained beside the loops, however many epochs they have, counts too.
            each = self._training_passes(job, 2) - passes
            epochs = 1 if each <= 0 else max(1, round((self.allowance() - (passes - each)) / each))
        plan = Plan(epochs, trains=passes > 0 or not (rules.trials or rules.budget == "passes"))
        if rules.trials and passes:
            ctx = self.at(job.seed)
            settings = strategy_of(self._config(job, None))[0].Settings
            space = space_of(settings, ctx.settings(next(iter(ctx.modalities))).dropout)

            def loss(values: Mapping[str, Any]) -> float:
                config = configured(self.config, rules, job.strategy, job.seed, epochs, values)
                ctx, fitted = self._fitted(config, memory={})
                p, labels = scaled_on_valid(ctx, fitted).p, ctx.labels[ctx.split.rows("valid")]
                return float(measure_of(ctx.target).lost_rows(p, labels).mean())

            chosen = tune(self.folder / STUDIES, job.strategy, space, rules.trials, job.seed, loss)
            plan = replace(plan, chosen=chosen, trials=rules.trials)
        return Kept(replace(plan, seconds=time.perf_counter() - started))

    def _fit(self, job: Job) -> Kept:
        plan = self.plan_of(job.strategy)
        if plan.error:
            return Kept(Fit(error=plan.error))
        config = configured(self.config, self.rules, job.strategy, job.seed, plan.epochs, plan.chosen)
        stages = None
        if self.rules.level == "encoders":  # minutes may be lost there, and moments on stored features
            stages = self.folder / STAGES / job.path(Path()).name
        started = time.perf_counter()
        ctx, fitted = self._fitted(config, stages=stages)
        seconds = time.perf_counter() - started + ctx.spared
        scaled = scaled_on_valid(ctx, fitted)
        if stages is not None:
            discard(stages)
        passes, said = sum(fitted.cost.passes.values()), list(ctx.log.warnings)
        fit = Fit(scaled.heat.value, seconds, passes, _in_training(fitted), said)
        return Kept(fit, scaled.p, fitted.network)

    def _config(self, job: Job, epochs: int | None) -> Config:
        return configured(self.config, self.rules, job.strategy, job.seed, epochs)

    def _training_passes(self, job: Job, epochs: int) -> float:
        """Return how many rows a strategy sends through encoders in training with so many epochs in each loop.

        They are counted on stored features where it is to train encoders: the same file sends the same rows there, in a
        fraction of the time. A user's own may ask what kind of encoder it has, and is counted on what it will train.
        """
        on = None if job.strategy.startswith(IMPORT) else self._vectors_at(job.seed)
        _, fitted = self._fitted(self._config(job, epochs), on=on)
        return _in_training(fitted)

    def _vectors_at(self, seed: int) -> Context:
        """Return the run of a seed on stored features, whatever the contest's level."""
        level = self.at(seed)
        if self.rules.level == "features":
            return level
        if self._counting is None or self._counting[0] is not level:
            self._counting = level, on_features(level)
        return self._counting[1]

    def allowance(self) -> float:
        """Return how many rows joint training sends through encoders."""
        ctx = self.at(self.rules.seeds[0])
        return float(self.epochs * len(ctx.split.rows("train")) * len(ctx.modalities))

    @property
    def epochs(self) -> int:
        """Epochs of joint training: those of the dearest kind of input that there is."""
        if self.rules.epochs is not None:
            return self.rules.epochs
        kinds = {modality.kind for modality in self.at(self.rules.seeds[0]).modalities.values()}
        kind = next(kind for kind in ("image", "text", "vector", "columns") if kind in kinds)
        return int(getattr(self.config, kind).train.epochs)

    def _fitted(
        self,
        config: Config,
        stages: Path | None = None,
        memory: dict[Any, Any] | None = None,
        on: Context | None = None,
    ) -> tuple[Context, Fitted]:
        """Fit what some settings say, in a run of its own that shares what it can with those on the same inputs.

        Args:
            config: The settings.
            stages: Where stages are left to be resumed, if anywhere.
            memory: What was trained before; None: what was trained here under the same settings.
            on: The run that it shares inputs and store with; None: that of the contest's level.
        """
        level, log = on or self.at(config.seed), Log(quiet=True)
        words = level.key + config.model_dump_json(exclude={"strategy"})
        shared = self._memories.setdefault(hashlib.sha256(words.encode()).hexdigest(), {})
        memory = shared if memory is None and self.rules.minutes is None else memory or {}
        started = time.perf_counter()

        def over() -> bool:
            minutes = self.rules.minutes
            return minutes is not None and time.perf_counter() - started > 60 * minutes

        ctx = replace(
            level,
            config=config,
            log=log,
            store=charged(level.store, log),
            folder=stages,
            resume=stages is not None,
            histories={},
            seconds={},
            trained_rows=Counter(),
            over=over,
            spared=0.0,
            _memory=memory,
            _reused=Cost({}, {}),
        )
        strategy, settings = strategy_of(config)
        return ctx, strategy.fit(ctx, settings)


def _in_training(fitted: Fitted) -> float:
    return float(sum(rows for name, rows in fitted.cost.passes.items() if name.endswith(_TRAINING)))


def in_words(error: BaseException) -> str:
    """Return an error as one line, for a column of a table."""
    return f"{type(error).__name__}: {'; '.join(line.strip() for line in str(error).splitlines() if line.strip())}"


def charged(store: FeatureStore, log: Log) -> FeatureStore:
    """Return the same store with a count of its own."""
    return _Charged(store.folder, store.runtime, log, store.limit_gb, store.onnx)


def reseeded(ctx: Context, intake: Intake, seed: int) -> Context:
    """Return the same run with another seed: what was read stays, and encoders without weights of their own begin anew.

    Args:
        ctx: The run.
        intake: Its table.
        seed: The other seed.
    """
    config = ctx.config.model_copy(update={"seed": seed})
    train = ctx.split.rows("train")
    prepared = {
        name: prepare_modality(modality, intake.table, intake.schema, train, config, ctx.log)[1]
        for name, modality in ctx.modalities.items()
    }
    key = hashlib.sha256(f"{ctx.key} seed {seed}".encode()).hexdigest()
    return replace(
        ctx, config=config, pristine=prepared, key=key,
        histories={}, seconds={}, trained_rows=Counter(), _memory={}, _reused=Cost({}, {}),
    )  # fmt: skip
