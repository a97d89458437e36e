"""Tracking: what is passed on and how it fails, with a sink of our own; then each library, where it is installed."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tiny import no_network, settings, tiny_table

import fusetune
from fusetune import track
from fusetune.config import Config
from fusetune.errors import ConfigError
from fusetune.progress import Log

WHY = 'the extra is not installed: pip install "fusetune[track]"'
METRICS = {"test": {"accuracy": {"value": 0.75, "low": 0.5, "high": 0.9}}}


class Noted:
    """A sink that keeps what it is told, and fails at one of its methods if asked to."""

    def __init__(self, fails: str = "") -> None:
        self.fails = fails
        self.calls: list[tuple[Any, ...]] = []

    def _note(self, *call: Any) -> None:
        if call[0] == self.fails:
            raise OSError(f"no {call[0]}\nand more")
        self.calls.append(call)

    def add(self, values: Mapping[str, float], step: int) -> None:
        self._note("add", dict(values), step)

    def finish(self, values: Mapping[str, float], report: Path) -> None:
        self._note("finish", dict(values), report.name)

    def close(self, finished: bool) -> None:
        self._note("close", finished)


def put(monkeypatch: pytest.MonkeyPatch, make: Any) -> Config:
    """Let `track=mlflow` lead to a sink of our own, installed or not."""
    monkeypatch.setattr(track, "_needed", lambda package: None)
    monkeypatch.setitem(track.SINKS, "mlflow", make)
    return Config.build({"track": "mlflow"})


def play(config: Config, folder: Path, error: Exception | None = None) -> Log:
    """Record what a run does."""
    log = Log(folder / "log.jsonl", quiet=True)
    (folder / "metrics.json").write_text(json.dumps(METRICS))
    (folder / "report.html").write_text("<!doctype html>")
    with track.tracked(config, folder, log):
        log.record("start", version="1")
        log.record("epoch", stage="scan", epoch=0, loss=0.5, rows=12)
        log.record("head", accuracy=0.25, name="linear")
        log.record("other", loss=9.0)
        if error is not None:
            raise error
        log.record("done", seconds=1.0)
    return log


def test_a_sink_is_told_of_numbers_scores_and_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sink = Noted()
    log = play(put(monkeypatch, lambda config, folder: sink), tmp_path)
    scores = {"test/accuracy": 0.75, "test/accuracy_low": 0.5, "test/accuracy_high": 0.9}
    assert sink.calls == [
        ("add", {"scan/loss": 0.5}, 1),
        ("add", {"head/accuracy": 0.25}, 0),
        ("finish", scores, "report.html"),
        ("close", True),
    ]
    assert log.warnings == []


def test_a_run_that_fails_is_closed_as_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sink = Noted()
    with pytest.raises(ZeroDivisionError):
        play(put(monkeypatch, lambda config, folder: sink), tmp_path, ZeroDivisionError())
    assert sink.calls[-1] == ("close", False)


@pytest.mark.parametrize("fails", ["add", "finish", "close"])
def test_a_sink_that_fails_becomes_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str) -> None:
    sink = Noted(fails)
    log = play(put(monkeypatch, lambda config, folder: sink), tmp_path)
    assert log.warnings == [f"tracking with mlflow stopped: OSError: no {fails}"]
    assert len(sink.calls) == {"add": 0, "finish": 2, "close": 3}[fails]  # after it failed, it is left alone


def test_a_place_that_cannot_be_written_to_stops_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(config: Config, folder: Path) -> Noted:
        raise PermissionError("not yours")

    with pytest.raises(ConfigError, match="cannot write to its default place: PermissionError: not yours"):
        play(put(monkeypatch, refuse), tmp_path)


def test_nothing_listens_by_default(tmp_path: Path) -> None:
    log = Log(quiet=True)
    with track.tracked(Config.build({}), tmp_path, log):
        assert log.listeners == []


@pytest.mark.parametrize("name", ["mlflow", "tensorboard"])
def test_a_missing_package_is_named_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match=r'pip install "fusetune\[track\]"') as caught:
        play(Config.build({"track": name}), tmp_path)
    assert f"track={name}" in str(caught.value)
    assert not (tmp_path / "log.jsonl").exists()


def fitted(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> fusetune.Run:
    """Fit with tracking on, from a working directory where nothing may be left, without a connection."""
    (folder / "elsewhere").mkdir()
    monkeypatch.chdir(folder / "elsewhere")
    tried = no_network(monkeypatch)
    frame = tiny_table(folder / "data")
    given = settings(folder / "store", track=name, views=1, evaluate__baselines=False)
    run = fusetune.fit(
        frame, "organ", inputs=["age", "site"], split="part", config=given, out=folder / "runs" / "one", quiet=True
    )
    assert tried == []
    assert not list((folder / "elsewhere").iterdir())
    assert not [text for text in run.metrics["warnings"] if "tracking" in text]
    return run


@pytest.mark.filterwarnings("ignore:The ``noload`` loader:DeprecationWarning")  # of MLflow's own store
def test_mlflow_keeps_settings_epochs_scores_and_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("mlflow", "sqlalchemy", "alembic"):
        pytest.importorskip(package, reason=WHY)
    run = fitted(tmp_path, "mlflow", monkeypatch)
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'runs' / 'mlflow.db'}")
    (kept,) = client.search_runs([client.get_experiment_by_name("fusetune").experiment_id])
    assert kept.info.run_name == "one"
    assert kept.info.status == "FINISHED"
    assert kept.data.params["views"] == "1"
    assert kept.data.params["track"] == "mlflow"
    assert kept.data.metrics["test/accuracy"] == run.metrics["test"]["accuracy"]["value"]
    epochs = [m for name in kept.data.metrics if name.startswith("columns/") for m in
              client.get_metric_history(kept.info.run_id, name)]  # fmt: skip
    assert {m.step for m in epochs} >= {1, 2}
    assert (tmp_path / "runs" / "mlartifacts" / kept.info.run_id / "artifacts" / "report.html").exists()


def test_tensorboard_keeps_settings_epochs_and_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorboard", reason=WHY)
    run = fitted(tmp_path, "tensorboard", monkeypatch)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run.folder / "tensorboard"))
    events.Reload()
    (score,) = events.Scalars("test/accuracy")
    assert score.value == pytest.approx(run.metrics["test"]["accuracy"]["value"])
    tags = events.Tags()
    assert {e.step for tag in tags["scalars"] if tag.startswith("columns/") for e in events.Scalars(tag)} >= {1, 2}
    assert {"config/text_summary", "report/text_summary"} <= set(tags["tensors"])
