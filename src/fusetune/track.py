"""Tracking: what the log records also goes to MLflow or TensorBoard, if `track` asks for it.

Neither needs a server: MLflow writes into one SQLite file, TensorBoard into a folder. Tracking must not cost a run: if
it fails after the start, it ends with a warning.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from posixpath import normpath
from typing import Any, Protocol

from fusetune.config import Config
from fusetune.errors import ConfigError
from fusetune.files import plain_name
from fusetune.progress import Log

_LONGEST = 200
_SCORED = ("epoch", "probe", "head")


class Sink(Protocol):
    """Where a run's numbers go."""

    def add(self, values: Mapping[str, float], step: int) -> None:
        """Take the numbers of one step."""

    def finish(self, values: Mapping[str, float], report: Path) -> None:
        """Take the final metrics and the report."""

    def close(self, finished: bool) -> None:
        """Say how the run ended."""


class MLflow:
    """A run in MLflow, in the experiment `fusetune`; the report is its artifact."""

    def __init__(self, config: Config, folder: Path) -> None:
        # It would otherwise ask its makers' server, at import, what to report to them.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        mlflow = _needed("mlflow")
        home = folder.resolve().parent
        self.client = mlflow.MlflowClient(config.track_to or f"sqlite:///{home / 'mlflow.db'}")
        there = self.client.get_experiment_by_name("fusetune")
        # Without a place of their own, artifacts would land in the working directory.
        where = None if config.track_to else (home / "mlartifacts").as_uri()
        experiment = there.experiment_id if there else self.client.create_experiment("fusetune", where)
        self.names: dict[str, str] = {}
        self.run = self.client.create_run(experiment, run_name=folder.name).info.run_id
        params = [mlflow.entities.Param(name, str(value)) for name, value in sorted(config.leaves().items())]
        for start in range(0, len(params), 100):  # MLflow takes so many at a time
            self.client.log_batch(self.run, params=params[start : start + 100])

    def add(self, values: Mapping[str, float], step: int) -> None:
        """See `Sink`."""
        for name, value in values.items():
            self.client.log_metric(self.run, self._name(name), value, step=step)

    def _name(self, name: str) -> str:
        """Return a name that MLflow takes, which is also a path, and that no other number has."""
        plain = re.sub(r"[^\w\-. /]", "_", name)
        taken = self.names.setdefault(plain, name) != name
        if taken or len(plain) > _LONGEST or normpath(plain) != plain or plain.startswith(("/", "..")):
            # No name as it is ends in a space: there is always a hash.
            plain = f"{plain_name(f'{name} ')}/{plain.rpartition('/')[2]}"
        return plain

    def finish(self, values: Mapping[str, float], report: Path) -> None:
        """See `Sink`."""
        self.add(values, 0)
        self.client.log_artifact(self.run, str(report))

    def close(self, finished: bool) -> None:
        """See `Sink`."""
        self.client.set_terminated(self.run, "FINISHED" if finished else "FAILED")


class TensorBoard:
    """Event files of TensorBoard. It keeps no files, so the report is named by its path."""

    def __init__(self, config: Config, folder: Path) -> None:
        _needed("tensorboard")
        writer = import_module("torch.utils.tensorboard").SummaryWriter
        self.writer = writer(config.track_to or str(folder / "tensorboard"))
        self.writer.add_text("config", "\n".join("    " + line for line in config.to_yaml().splitlines()))

    def add(self, values: Mapping[str, float], step: int) -> None:
        """See `Sink`."""
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def finish(self, values: Mapping[str, float], report: Path) -> None:
        """See `Sink`."""
        self.add(values, 0)
        self.writer.add_text("report", str(report.resolve()))

    def close(self, finished: bool) -> None:
        """See `Sink`."""
        self.writer.close()


SINKS: dict[str, Callable[[Config, Path], Sink]] = {"mlflow": MLflow, "tensorboard": TensorBoard}


@contextmanager
def tracked(config: Config, folder: Path, log: Log) -> Iterator[None]:
    """Pass on what the log records within the block, from the record `start` on.

    Raises:
        ConfigError: If the package is not installed, or the place cannot be written to.
    """
    if config.track == "none":
        yield
        return
    tracker = _Tracker(config, folder, log)
    log.listeners.append(tracker)
    try:
        yield
    except BaseException:
        tracker.guard(lambda sink: sink.close(False))
        raise
    tracker.guard(lambda sink: sink.close(True))


class _Tracker:
    """A listener of the log that passes numbers on."""

    def __init__(self, config: Config, folder: Path, log: Log) -> None:
        _needed(config.track)
        self.config, self.folder, self.log = config, folder, log
        self.sink: Sink | None = None

    def __call__(self, event: str, facts: Mapping[str, Any]) -> None:
        if event == "start":
            self.sink = self._start()
        elif event in _SCORED:
            step = facts.get("epoch", -1) + 1  # what comes before the first epoch has step 0
            self.guard(lambda sink: sink.add(_numbers(facts.get("stage", event), facts), step))
        elif event == "done":
            metrics = json.loads((self.folder / "metrics.json").read_text(encoding="utf-8"))
            self.guard(lambda sink: sink.finish(_scores(metrics), self.folder / "report.html"))

    def guard(self, do: Callable[[Sink], None]) -> None:
        """Do something with the sink; if it fails, warn and let go of it."""
        if self.sink is None:
            return
        try:
            do(self.sink)
        except Exception as error:
            self.sink = None
            self.log.warn(f"tracking with {self.config.track} stopped: {_first_line(error)}")

    def _start(self) -> Sink:
        try:
            return SINKS[self.config.track](self.config, self.folder)
        except Exception as error:
            where = self.config.track_to or "its default place"
            raise ConfigError(
                f"track={self.config.track} cannot write to {where}: {_first_line(error)}; correct track_to, or leave "
                "out track"
            ) from error


def _needed(package: str) -> Any:
    try:
        return import_module(package)
    except ImportError as error:
        raise ConfigError(
            f'track={package} needs packages that are not installed ({error}): pip install "fusetune[track]"'
        ) from error


def _numbers(prefix: str, facts: Mapping[str, Any]) -> dict[str, float]:
    return {f"{prefix}/{key}": value for key, value in facts.items() if isinstance(value, float)}


def _scores(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return each score of the test part with the ends of its interval."""
    ends = {"value": "", "low": "_low", "high": "_high"}
    scores = metrics["test"].items()
    return {f"test/{name}{end}": interval[key] for name, interval in scores for key, end in ends.items()}


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
