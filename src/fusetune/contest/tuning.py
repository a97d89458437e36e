"""Tuning: the same number of trials for every strategy, judged on validation rows, kept in one SQLite file (Optuna).

What is tuned is the same for all: a factor on every learning rate, dropout on features, and each number among the
strategy's own settings, from a tenth of its default to ten times that. The first trial is the defaults. A trial depends
on the trials before it and on its number alone, so that a study that was killed goes on as if it had not been.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any
from zlib import crc32

from pydantic.fields import FieldInfo

from fusetune.config import Section
from fusetune.strategies.end_to_end import EndToEndSettings

Values = dict[str, Any]
_SPAN = 10.0
_RATE, _DROPOUT = "rate", "dropout"
_WAIT = 120  # seconds that one process waits for another one's writing


@dataclass(frozen=True)
class Knob:
    """One number that is tuned.

    Attributes:
        default: What the first trial has.
        low: The least, or None for a truth value.
        high: The most, or None for a truth value.
        log: Are its orders of magnitude alike?
    """

    default: float | int | bool
    low: float | None = None
    high: float | None = None
    log: bool = True

    @property
    def whole(self) -> bool:
        """Whether it is a whole number."""
        return isinstance(self.default, int)


def space_of(settings: type[Section], dropout: float) -> dict[str, Knob]:
    """Return what is tuned of a strategy, by name; those of the strategy itself begin with `strategy.`.

    Args:
        settings: The strategy's own settings. Words are not tuned (they name variants), nor what is off by default.
        dropout: The default of the dropout on features.
    """
    space = {_RATE: Knob(1.0, 1 / _SPAN, _SPAN), _DROPOUT: Knob(dropout, 0.0, 0.5, log=False)}
    for name, info in settings.model_fields.items():
        if name not in EndToEndSettings.model_fields and (knob := _knob(info)) is not None:
            space[f"strategy.{name}"] = knob
    return space


def _knob(info: FieldInfo) -> Knob | None:
    default = info.default
    if isinstance(default, bool):
        return Knob(default)
    if not isinstance(default, int | float) or not default > 0:
        return None
    least, most = default / _SPAN, default * _SPAN
    for limit in info.metadata:
        low, high = (getattr(limit, name, None) for name in ("ge", "le"))
        above, below = (getattr(limit, name, None) for name in ("gt", "lt"))
        least = max(least, low) if isinstance(low, int | float) else least
        most = min(most, high) if isinstance(high, int | float) else most
        if isinstance(above, int | float):
            least = max(least, above + (default - above) / _SPAN)
        if isinstance(below, int | float):
            most = min(most, below - (below - default) / _SPAN)
    if isinstance(default, int):
        least, most = max(1, math.ceil(least)), max(1, math.floor(most))
    return Knob(default, least, most) if least < most else None


def tune(
    path: Path, name: str, space: Mapping[str, Knob], trials: int, seed: int, loss: Callable[[Values], float]
) -> Values:
    """Return the best of some trials; empty where none of them had a result.

    Args:
        path: The SQLite file, which need not exist.
        name: Of the study: the strategy.
        space: What is tuned.
        trials: How many trials there are to be, those of earlier calls included.
        seed: Of the draws.
        loss: What is to be small. A trial that raises counts, and is never the best.
    """
    optuna, storage = _opened(path)
    study = optuna.create_study(storage=storage, study_name=name, load_if_exists=True)
    state = optuna.trial.TrialState
    for left in study.get_trials(deepcopy=False, states=(state.RUNNING,)):  # of a process that was killed
        study.tell(left.number, state=state.FAIL)
    ended = study.get_trials(deepcopy=False, states=(state.COMPLETE, state.PRUNED))
    for number in range(len(ended), trials):
        if not number:
            study.add_trial(_first(optuna, space, loss))
            continue
        study.sampler = optuna.samplers.TPESampler(seed=crc32(f"{seed} {name} {number}".encode()))
        trial = study.ask()
        found, error = _tried({key: _drawn(trial, key, knob) for key, knob in space.items()}, loss)
        if error:
            trial.set_user_attr("error", error)
            study.tell(trial, state=state.PRUNED)
        else:
            study.tell(trial, found)
    done = study.get_trials(deepcopy=False, states=(state.COMPLETE,))
    best = min(done, key=lambda one: (one.value, one.number), default=None)
    _close(storage)
    return {} if best is None else dict(best.params)


def make_file(path: Path) -> None:
    """Make the file and its tables, if they are not there: of several processes that do so at once, one fails."""
    _close(_opened(path)[1])


def _opened(path: Path) -> tuple[Any, Any]:
    """Return Optuna and its storage in a file."""
    # Imported here, since it brings a database along that nothing else needs.
    optuna = import_module("optuna")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    how = {"connect_args": {"timeout": _WAIT}}
    return optuna, optuna.storages.RDBStorage(f"sqlite:///{path}", engine_kwargs=how)


def _close(storage: Any) -> None:
    storage.remove_session()
    storage.engine.dispose()


def _first(optuna: Any, space: Mapping[str, Knob], loss: Callable[[Values], float]) -> Any:
    """Return the trial of the defaults, finished: a trial that is put into a queue could be left there."""
    values: Values = {key: knob.default for key, knob in space.items()}
    found, error = _tried(values, loss)
    state = optuna.trial.TrialState.PRUNED if error else optuna.trial.TrialState.COMPLETE
    return optuna.trial.create_trial(
        params=values,
        distributions={key: _distribution(optuna, knob) for key, knob in space.items()},
        state=state,
        value=None if error else found,
        user_attrs={"error": error} if error else {},
    )


def _tried(values: Values, loss: Callable[[Values], float]) -> tuple[float, str]:
    try:
        found = loss(values)
    except Exception as error:  # whatever a method raises at values that nobody tried
        return math.inf, f"{type(error).__name__}: {error}"
    return found, "" if math.isfinite(found) else "the loss is not finite"


def _distribution(optuna: Any, knob: Knob) -> Any:
    kinds = optuna.distributions
    if knob.low is None or knob.high is None:
        return kinds.CategoricalDistribution((False, True))
    if knob.whole:
        return kinds.IntDistribution(int(knob.low), int(knob.high), log=knob.log)
    return kinds.FloatDistribution(knob.low, knob.high, log=knob.log)


def _drawn(trial: Any, key: str, knob: Knob) -> Any:
    if knob.low is None or knob.high is None:
        return trial.suggest_categorical(key, (False, True))
    if knob.whole:
        return trial.suggest_int(key, int(knob.low), int(knob.high), log=knob.log)
    return trial.suggest_float(key, knob.low, knob.high, log=knob.log)
