from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from tiny import settings, tiny_table

import fusetune
from fusetune.errors import UserError
from fusetune.train import loop

HOW: dict[str, Any] = {"inputs": ["scan", "note", "age", "site"], "group": "patient", "split": "part"}
OPTIONS = ["--inputs", "scan,note,age,site", "--group", "patient", "--split", "part"]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return a table and a configuration; the pictures' epochs are long enough to be killed in the middle of."""
    folder = tmp_path_factory.mktemp("resume")
    frame = tiny_table(folder / "data", rows=144)
    frame.loc[[3, 40], "note"] = None
    frame.to_csv(folder / "data" / "table.csv", index=False)
    head = {"kind": "mlp", "epochs": 10}
    # The doctor is interrupted in test_bad_input.
    brief = {"text__train__batch_size": 16, "columns__train__batch_size": 16, "doctor__check": False}
    config = settings(folder / "store", train__epochs=5, train__batch_size=4, image__size=48, head=head, **brief)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder / "data" / "table.csv", folder / "config.yaml"


@pytest.fixture(scope="module")
def whole(files: tuple[Path, Path]) -> Path:
    """Return the folder of a run that nobody stopped, with a feature store of its own."""
    table, config = files
    store = f"store.folder={table.parent.parent / 'other store'}"
    run = fusetune.fit(
        table, "organ", config=config, sets=[store], out=table.parent.parent / "whole", quiet=True, **HOW
    )
    return run.folder


def start(files: tuple[Path, Path], out: Path, *more: str) -> subprocess.Popen[bytes]:
    table, config = files
    command = [sys.executable, "-m", "fusetune.cli", "fit", str(table), "--label", "organ", "--config", str(config)]
    return subprocess.Popen(
        [*command, "--out", str(out), *OPTIONS, *more], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def events(out: Path) -> list[dict[str, Any]]:
    try:
        lines = (out / "log.jsonl").read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in lines if line.endswith("}")]


def kill_when(process: subprocess.Popen[bytes], reached: Callable[[], bool], later: float = 0.0) -> None:
    """Kill a process some seconds after a condition holds; it must not have ended by itself."""
    try:
        while not reached():
            assert process.poll() is None, "the run ended before it could be killed"
            time.sleep(0.002)
        time.sleep(later)
        assert process.poll() is None, "the run ended before it could be killed"
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def has_epoch(out: Path, stage: str, epoch: int) -> bool:
    return any(e["event"] == "epoch" and e["stage"] == stage and e["epoch"] == epoch for e in events(out))


def epoch_seconds(out: Path) -> float:
    return next(e["seconds"] for e in events(out) if e["event"] == "epoch")


def assert_equal_runs(out: Path, whole: Path) -> None:
    for name in ("model/weights.safetensors", "model/schema.json", "split.parquet"):
        assert (out / name).read_bytes() == (whole / name).read_bytes()
    predictions, expected = (pd.read_parquet(folder / "predictions.parquet") for folder in (out, whole))
    pd.testing.assert_frame_equal(predictions, expected, check_exact=True)
    metrics, before = (json.loads((folder / "metrics.json").read_text()) for folder in (out, whole))
    for name in ("test", "valid", "gain", "comparisons", "rows"):
        assert metrics[name] == before[name]
    # Nothing half-written is left; the lock of a folder stays, released.
    assert not [path for path in out.rglob(".*") if path.is_file() and path.name != ".lock"]


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs POSIX signals")
def test_a_run_killed_again_and_again_ends_with_the_same_bits(
    files: tuple[Path, Path], whole: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    # In the middle of an epoch: some steps of the third have been taken and are lost.
    kill_when(start(files, out), lambda: has_epoch(out, "scan", 1), later=0.0)
    assert not has_epoch(out, "scan", 2)
    # In the middle of another epoch of the resumed run, by the duration of an epoch.
    kill_when(start(files, out, "--resume"), lambda: has_epoch(out, "scan", 3), later=epoch_seconds(out) / 2)
    assert not has_epoch(out, "note", 0)
    # Between two stages: as soon as the last epoch of the second one is saved.
    kill_when(start(files, out, "--resume"), lambda: any((out / "stages").glob("note-*/epoch-0004.pt")))
    assert not (out / "metrics.json").exists()
    table, config = files
    fusetune.fit(table, "organ", config=config, out=out, resume=True, quiet=True, **HOW)
    assert_equal_runs(out, whole)
    assert sum(e["event"] == "test part opened" for e in events(out)) == 1


@pytest.fixture(scope="module")
def interrupted(files: tuple[Path, Path]) -> Path:
    """Return the folder of a run that was interrupted in its second stage."""
    table, config = files
    plain, calls, out = loop._run_epoch, [], table.parent.parent / "interrupted"

    def until_the_seventh(*args: Any) -> float:
        calls.append(1)
        if len(calls) == 7:
            raise KeyboardInterrupt
        return plain(*args)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(loop, "_run_epoch", until_the_seventh)
        fusetune.fit(table, "organ", config=config, out=out, quiet=True, **HOW)
    return out


@pytest.fixture
def stopped(interrupted: Path, tmp_path: Path) -> Path:
    """Return a copy of the interrupted run."""
    return Path(shutil.copytree(interrupted, tmp_path / "run"))


def test_an_interrupted_run_continues_in_the_same_process(files: tuple[Path, Path], whole: Path, stopped: Path) -> None:
    table, config = files
    fusetune.fit(table, "organ", config=config, out=stopped, resume=True, quiet=True, **HOW)
    assert_equal_runs(stopped, whole)


@pytest.mark.parametrize("change", ["text.train.lr=0.01", "seed=1", "views=1", "head.kind=ridge"])
def test_another_configuration_is_refused(files: tuple[Path, Path], stopped: Path, change: str) -> None:
    table, config = files
    before = (stopped / "config.yaml").read_bytes()
    with pytest.raises(UserError, match=r"(?s)resume|--resume"):
        fusetune.fit(table, "organ", config=config, sets=[change], out=stopped, resume=True, quiet=True, **HOW)
    assert (stopped / "config.yaml").read_bytes() == before


def test_settings_that_do_not_matter_may_change(files: tuple[Path, Path], whole: Path, stopped: Path) -> None:
    table, config = files
    sets = ["device=auto", "threads=null", "store.limit_gb=3", "evaluate.baselines=false"]
    run = fusetune.fit(table, "organ", config=config, sets=sets, out=stopped, resume=True, quiet=True, **HOW)
    predictions, expected = (pd.read_parquet(folder / "predictions.parquet") for folder in (run.folder, whole))
    assert predictions["prediction"].tolist() == expected["prediction"].tolist()


@pytest.mark.parametrize("change", ["row", "cell", "label", "text"])
def test_another_table_is_refused(files: tuple[Path, Path], stopped: Path, change: str) -> None:
    table, config = files
    frame = pd.read_csv(table)
    match change:
        case "row":
            frame = frame.iloc[:-1]
        case "cell":
            frame.loc[0, "age"] += 1
        case "label":
            frame.loc[0, "organ"] = "lung"
        case "text":
            frame.loc[0, "note"] = "another text"
    other = table.with_name(f"{change}.csv")
    frame.to_csv(other, index=False)
    with pytest.raises(UserError):
        fusetune.fit(other, "organ", config=config, out=stopped, resume=True, quiet=True, **HOW)


def test_a_cross_fitted_run_continues_too(files: tuple[Path, Path], tmp_path: Path) -> None:
    table, config = files
    how: dict[str, Any] = HOW | {"inputs": ["note", "age", "site"], "quiet": True, "config": config}
    how["sets"] = ["crossfit.how=k", "crossfit.folds=2", "train.epochs=2"]
    plain, calls = loop._run_epoch, []

    def until_the_fourth(*args: Any) -> float:
        calls.append(1)
        if len(calls) == 4:  # the second fold of the first input
            raise KeyboardInterrupt
        return plain(*args)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(loop, "_run_epoch", until_the_fourth)
        fusetune.fit(table, "organ", out=tmp_path / "run", **how)
    fusetune.fit(table, "organ", out=tmp_path / "run", resume=True, **how)
    assert_equal_runs(tmp_path / "run", fusetune.fit(table, "organ", out=tmp_path / "whole", **how).folder)


def test_a_run_with_views_mixing_and_every_operation_continues_too(files: tuple[Path, Path], tmp_path: Path) -> None:
    table, config = files
    sets = [
        "train={epochs: 2, batch_size: 16, repeats: 2, mix: {kind: mixup}}",
        "image.train.mix={kind: cutmix, alpha: 1}",
        "text.augment={swap: 0.2, mask: 0.1, span: 0.3, drop: 0.1}",
        "columns.augment={corrupt: 0.2, jitter: 0.1, missing: 0.1}",
        "head={augment: {noise: 0.1, scale: 0.1}, mix: {kind: mixup}, epochs: 4}",
        "evaluate.test_views=2",
    ]
    how: dict[str, Any] = HOW | {"quiet": True, "config": config, "sets": sets}
    plain, calls = loop._run_epoch, []

    def until_the_fourth(*args: Any) -> float:
        calls.append(1)
        if len(calls) == 4:  # the second epoch of the second input
            raise KeyboardInterrupt
        return plain(*args)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(loop, "_run_epoch", until_the_fourth)
        fusetune.fit(table, "organ", out=tmp_path / "run", **how)
    fusetune.fit(table, "organ", out=tmp_path / "run", resume=True, **how)
    whole = fusetune.fit(table, "organ", out=tmp_path / "whole", **how)
    assert_equal_runs(tmp_path / "run", whole.folder)
    train = whole.metrics["rows"]["train"]
    assert whole.metrics["encoder_passes"]["scan, training"] == 2 * 2 * train
    loaded = fusetune.load(tmp_path / "run")
    assert loaded.config.evaluate.test_views == 2
    before = pd.read_parquet(tmp_path / "run" / "predictions.parquet").set_index("row_id")
    again = loaded.predict_table(table).set_index("row_id").loc[before.index]
    pd.testing.assert_series_equal(again["p(lung)"], before["p(lung)"], check_exact=False, rtol=0, atol=1e-6)


def test_resume_without_anything_to_resume_is_a_fresh_run(files: tuple[Path, Path], tmp_path: Path) -> None:
    table, config = files
    out = tmp_path / "new"
    sets = ["train.epochs=0", "views=1", "head.kind=ridge", "evaluate.baselines=false"]
    run = fusetune.fit(table, "organ", config=config, sets=sets, out=out, resume=True, quiet=True, **HOW)
    assert run.report.exists()


def test_a_run_killed_before_its_report_gets_one(files: tuple[Path, Path], tmp_path: Path) -> None:
    table, config = files
    sets = ["train.epochs=0", "views=1", "head.kind=ridge", "evaluate.baselines=false"]

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("fusetune.api.write_report", killed)
        fusetune.fit(table, "organ", config=config, sets=sets, out=tmp_path / "run", quiet=True, **HOW)
    fusetune.fit(table, "organ", config=config, sets=sets, out=tmp_path / "run", resume=True, quiet=True, **HOW)
    assert (tmp_path / "run" / "report.html").exists()
