"""What lies beside a run in its folder is never touched, and what is the run's own is believed only if it is intact."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from tiny import settings, tiny_table
from typer.testing import CliRunner

import fusetune
from fusetune.cli.frame import app
from fusetune.data.table import Table
from fusetune.errors import UserError
from fusetune.folder import find_folder, held, refuse_taken
from fusetune.progress import Log
from fusetune.record import METRICS, NAME, Record, read_metrics
from fusetune.strategies import STRATEGIES

# Names like those of half-written files: dates are hexadecimal digits.
PLANTED = (
    ".bashrc.20240131", ".vault.deadbeef/keys", ".notes.20231224.bak", ".model.20240131/bundle.json",
    ".metrics.json.20240131.json", ".config.yaml.deadbeef.yaml", ".DS_Store",
)  # fmt: skip


def plant(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"mine: {name}")


def state(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def assert_untouched(folder: Path, *names: str) -> None:
    assert {name: (folder / name).read_text() for name in names} == {name: f"mine: {name}" for name in names}


class Place:
    """A table, its settings, and how it is fitted."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        frame = tiny_table(folder / "data", rows=48, classes=("heart", "lung"))
        frame["scan"] = [str(folder / "data" / name) for name in frame["scan"]]
        self.frame = frame.assign(size=1.0, aside="unused")
        self.config = settings(folder / "store", train__epochs=0, views=1, evaluate__baselines=False)

    def fit(self, out: Path, frame: pd.DataFrame | None = None, **how: Any) -> fusetune.Run:
        given: dict[str, Any] = {"inputs": ["scan", "note", "age"], "group": "patient", "split": "part"}
        given |= {"row_id": "case_id", "config": self.config, "quiet": True}
        return fusetune.fit(self.frame if frame is None else frame, "organ", out=out, **(given | how))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("folder"))


@pytest.fixture(scope="module")
def finished(place: Place) -> Path:
    plant(place.folder / "finished", *PLANTED)
    return place.fit(place.folder / "finished").folder


@pytest.fixture(scope="module")
def started(place: Place) -> Path:
    """Return a run that was stopped in the judge."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("fusetune.api.judge", _interrupt)
        place.fit(place.folder / "started")
    return place.folder / "started"


def _interrupt(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


@pytest.fixture(params=["finished", "started"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Return a copy of a run that is finished, and of one that is not."""
    return Path(shutil.copytree(request.getfixturevalue(request.param), tmp_path / "run"))


def test_dot_files_of_the_user_outlive_a_run_and_its_resumption(place: Place, finished: Path, tmp_path: Path) -> None:
    assert_untouched(finished, *PLANTED)
    out = Path(shutil.copytree(finished, tmp_path / "run"))
    (out / METRICS).unlink()
    plant(out, "thesis.tex", "stages/notes.txt", "stages/scan-0123abcd/epoch-mine.pt")
    half = [".model.fusetune-0123abcd/bundle.json", ".metrics.json.fusetune-0123abcd.json"]
    plant(out, *half)
    place.fit(out, resume=True)
    assert_untouched(out, *PLANTED, "thesis.tex", "stages/notes.txt", "stages/scan-0123abcd/epoch-mine.pt")
    assert not [name for name in half if (out / name).exists()]


WRONG: dict[str, dict[str, Any]] = {
    "no such label": {"label": "no such column"},
    "a label of one class": {"label": "size"},
    "no such input": {"inputs": ["no such column"]},
    "a wrong setting": {"sets": ["train.epoch=3"]},
    "a policy that refuses": {"sets": ["doctor.policy.column_constant=error"], "inputs": ["size", "age"]},
    "a tracker that is not there": {"sets": ["track=mlflow"]},
}


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("wrong", WRONG)
def test_a_refused_run_creates_and_changes_nothing(
    place: Place, started: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: str, resume: bool
) -> None:
    monkeypatch.setattr("fusetune.track.import_module", _absent)
    how = {"label": "organ"} | WRONG[wrong]
    for folder in ("new", "with dot-files", "a run"):
        out = tmp_path / folder
        if folder == "with dot-files":
            plant(out, *PLANTED, ".metrics.json.fusetune-0123abcd.json")
        elif folder == "a run":
            shutil.copytree(started, out)
            plant(out, ".metrics.json.fusetune-0123abcd.json")
        before = state(out)
        with pytest.raises(UserError):
            fusetune.fit(place.frame, out=out, config=place.config, resume=resume, quiet=True, **how)
        assert state(out) == before
        assert out.exists() == (folder != "new")


def _absent(name: str) -> Any:
    raise ImportError(name)


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize(
    "there",
    ["thesis.tex", "metrics.json", "config.yaml", "stages/a/epoch-0000.pt", "model/bundle.json", "log.jsonl", ".lock"],
)
def test_a_folder_that_holds_something_else_is_refused_and_stays(
    place: Place, tmp_path: Path, there: str, resume: bool
) -> None:
    plant(tmp_path, *PLANTED, there)
    before = state(tmp_path)
    said = (
        "is not the lock" if there == ".lock" else "holds no run that could be continued" if resume else "is not empty"
    )
    with pytest.raises(UserError, match=rf"(?s){said}.*--out"):
        place.fit(tmp_path, resume=resume)
    assert state(tmp_path) == before


@pytest.mark.parametrize("resume", [False, True])
def test_a_file_of_the_start_that_somebody_wrote_anew_stays(place: Place, tmp_path: Path, resume: bool) -> None:
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("fusetune.intake.prepare", _interrupt)
        place.fit(tmp_path / "run")
    plant(tmp_path / "run", "config.yaml")
    with pytest.raises(UserError, match=r"config\.yaml was changed or damaged.*--out"):
        place.fit(tmp_path / "run", resume=resume)
    assert_untouched(tmp_path / "run", "config.yaml")


def test_something_else_in_the_place_of_the_model_stays(place: Place, started: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(started, tmp_path / "run"))
    plant(out, "model/weights.safetensors")
    with pytest.raises(UserError, match="model is not a model as the run writes it; move it away"):
        place.fit(out, resume=True)
    assert_untouched(out, "model/weights.safetensors")


def _change(frame: pd.DataFrame, column: str, row: int = 5) -> pd.DataFrame:
    changed = frame.copy()
    cell = frame.at[row, column]
    changed.at[row, column] = cell + 1 if isinstance(cell, float) else f"{cell} too"
    return changed


OTHER: dict[str, tuple[Callable[[pd.DataFrame], pd.DataFrame], dict[str, Any], str]] = {
    "a number": (lambda t: _change(t, "age"), {}, r"made from other rows \(other values.* in column\(s\) age\)"),
    "a text": (lambda t: _change(t, "note"), {}, r"made from other rows .*column\(s\) note"),
    "several": (lambda t: _change(_change(t, "note"), "age"), {}, r"made from other rows .*column\(s\) age, note"),
    "a gap": (lambda t: t.assign(note=t["note"].where(t.index != 3)), {}, r"made from other rows .*column\(s\) note"),
    "a group": (lambda t: t.assign(patient=t["patient"] + "x"), {}, r"made from other rows .*column\(s\) patient"),
    "an id": (lambda t: _change(t, "case_id"), {}, r"made from other rows .*column\(s\) case_id"),
    "a row less": (lambda t: t.iloc[:-1], {}, "made from other rows .48 rows then, 47 now"),
    "the order": (lambda t: t.iloc[::-1], {}, "made from other rows .*another order"),
    "another input": (lambda t: t, {"inputs": ["scan", "note"]}, "column 'age': input, number then, unused"),
    "no group": (lambda t: t, {"group": None}, "column 'patient': group"),
    "a setting": (lambda t: t, {"sets": ["image.size=30"]}, "image.size: 32 then, 30 now"),
    "a strategy": (lambda t: t, {"strategy": "ume"}, "strategy.name: two-stage then, ume now"),
}  # fmt: skip


@pytest.mark.parametrize("other", OTHER)
def test_a_run_of_other_inputs_is_refused_by_name_and_untouched(place: Place, run: Path, other: str) -> None:
    change, how, said = OTHER[other]
    before = state(run)
    with pytest.raises(UserError, match=f"(?s){said}.*--out"):
        place.fit(run, change(place.frame), resume=True, **how)
    assert state(run) == before


def test_a_strategys_own_settings_count_and_its_defaults_need_not_be_said(place: Place, tmp_path: Path) -> None:
    out, how = tmp_path / "run", {"strategy": "umt"}
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("fusetune.intake.prepare", _interrupt)
        place.fit(out, **how)
    with pytest.raises(UserError, match=r"strategy.weight: .* then, 5.0 now"):
        place.fit(out, strategy={"name": "umt", "weight": 5}, resume=True)
    weight = STRATEGIES["umt"].Settings().weight
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("fusetune.intake.prepare", _interrupt)
        place.fit(out, strategy={"name": "umt", "weight": weight}, resume=True)


def test_a_finished_run_is_not_handed_out_for_another_way_to_judge(place: Place, finished: Path) -> None:
    with pytest.raises(UserError, match=r"evaluate.resamples: 100 then, 200 now"):
        place.fit(finished, sets=["evaluate.resamples=200"], resume=True)


def test_other_pictures_under_the_same_names_are_refused(place: Place, run: Path, tmp_path: Path) -> None:
    path = Path(place.frame.at[7, "scan"])
    kept = path.read_bytes()
    try:
        Image.fromarray(np.zeros((32, 32, 3), np.uint8) + 9).save(path)
        with pytest.raises(UserError, match=r"made from other rows \(other pictures.*column\(s\) scan\)"):
            place.fit(run, resume=True)
    finally:
        path.write_bytes(kept)
    assert place.fit(run, resume=True).metrics["rows"]["test"] == 4


def test_pictures_may_be_moved(place: Place, run: Path, tmp_path: Path) -> None:
    shutil.copytree(place.folder / "data", tmp_path / "elsewhere")
    moved = place.frame["scan"].str.replace(str(place.folder / "data"), str(tmp_path / "elsewhere"))
    assert place.fit(run, place.frame.assign(scan=moved), resume=True).metrics["rows"]["test"] == 4


def test_what_is_not_used_may_change_and_the_file_may_be_another(place: Place, run: Path, tmp_path: Path) -> None:
    place.frame.assign(aside="other", size=2.0).to_parquet(tmp_path / "table.parquet")
    assert place.fit(run, pd.read_parquet(tmp_path / "table.parquet"), resume=True).metrics["rows"]["test"] == 4


def _flipped(content: bytes, generator: np.random.Generator) -> bytes:
    changed = bytearray(content)
    changed[int(generator.integers(0, len(content)))] ^= 1 << int(generator.integers(0, 8))
    return bytes(changed)


FILES = ("run.json", "metrics.json", "split.parquet", "schema.json", "config.yaml", "findings.json", "findings.html",
         "predictions.parquet", "report.html", "model/bundle.json", "model/weights.safetensors")  # fmt: skip
DAMAGE: dict[str, Callable[[bytes, np.random.Generator], bytes]] = {
    "a bit": _flipped,
    "cut": lambda content, generator: content[: int(generator.integers(0, len(content)))],
    "empty": lambda content, generator: b"",
    "something else": lambda content, generator: b"\xff[[[1",
}


@pytest.mark.parametrize("how", DAMAGE)
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_of_a_finished_run_is_named(
    place: Place, finished: Path, tmp_path: Path, name: str, how: str
) -> None:
    out = Path(shutil.copytree(finished, tmp_path / "run"))
    (out / name).write_bytes(DAMAGE[how]((out / name).read_bytes(), np.random.default_rng(len(name))))
    before = state(out)
    with pytest.raises(UserError, match=Path(name).name.replace(".", r"\.")):
        place.fit(out, resume=True)
    assert state(out) == before
    (out / name).unlink()
    if name not in (NAME, METRICS):  # without the one it is a run of an earlier version, without the other not finished
        with pytest.raises(UserError, match=Path(name).name.replace(".", r"\.")):
            place.fit(out, resume=True)


def test_every_flipped_bit_of_what_is_shown_is_noticed(finished: Path, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for name in (METRICS, NAME):
        shutil.copy(finished / NAME, tmp_path), shutil.copy(finished / METRICS, tmp_path)
        good = (tmp_path / name).read_bytes()
        for _ in range(60):
            (tmp_path / name).write_bytes(_flipped(good, generator))
            answer = CliRunner().invoke(app, ["show", str(tmp_path)])
            assert answer.exit_code == 2, answer.output
            assert name in "".join(answer.output.split())


@pytest.mark.parametrize("name", ["split.parquet", "schema.json", "config.yaml", "findings.json", "run.json"])
def test_a_damaged_file_of_a_started_run_is_named(place: Place, started: Path, tmp_path: Path, name: str) -> None:
    out = Path(shutil.copytree(started, tmp_path / "run"))
    (out / name).write_bytes(_flipped((out / name).read_bytes(), np.random.default_rng(1)))
    before = state(out)
    with pytest.raises(UserError, match=name.replace(".", r"\.") + ".*--out"):
        place.fit(out, resume=True)
    assert state(out) == before


def test_metrics_that_the_run_did_not_write_are_not_its(place: Place, started: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(started, tmp_path / "run"))
    plant(out, METRICS)
    for do in (lambda: place.fit(out, resume=True), lambda: read_metrics(out)):
        with pytest.raises(UserError, match=r"metrics\.json was not written by the run"):
            do()
    assert_untouched(out, METRICS)


def test_a_run_of_an_earlier_version_is_handed_out_with_a_word(place: Place, finished: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(finished, tmp_path / "run"))
    (out / NAME).unlink()
    place.fit(out, resume=True)
    last = (out / "log.jsonl").read_text().splitlines()[-1]
    assert "of an earlier version" in last
    assert "cannot be known" in last
    with pytest.raises(UserError, match="made from other rows or labels"):
        place.fit(out, place.frame.replace({"organ": {"heart": "lung", "lung": "heart"}}), resume=True)
    os.mkfifo(out / NAME)
    with pytest.raises(UserError, match=r"run\.json is damaged \(it is no file\)"):
        place.fit(out, resume=True)
    (out / NAME).unlink()
    for content in (b"{}", b"[]", b"\xff", b"", b"[" * 100_000, b'{"rows": 1}'):
        (out / METRICS).write_bytes(content)
        with pytest.raises(UserError, match=r"metrics\.json is damaged"):
            place.fit(out, resume=True)
        assert CliRunner().invoke(app, ["show", str(out)]).exit_code == 2


def test_the_newest_run_of_a_name_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    table = Table(pd.DataFrame({"a": [1]}), "scans.csv", tmp_path)
    record = Record(1, "", {})

    def finish(folder: Path) -> Path:
        folder.mkdir(parents=True)
        record.write(folder)
        (folder / METRICS).write_text("{}")
        return folder

    assert find_folder(None, table, "y", True) == find_folder(None, table, "y", False) == Path("runs/scans-y")
    finish(Path("runs/scans-y"))
    assert find_folder(None, table, "y", False) == Path("runs/scans-y-2")
    assert find_folder(None, table, "y", True) == Path("runs/scans-y")
    finish(Path("runs/scans-y-2"))
    assert find_folder(None, table, "y", True) == Path("runs/scans-y-2")
    assert len(find_folder(None, table, "y" * 400, False).name) < 255


def test_a_folder_that_cannot_be_is_refused_at_once(tmp_path: Path) -> None:
    table = Table(pd.DataFrame({"a": [1]}), "scans.csv", tmp_path)
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "run", tmp_path / ("a" * 300)):
        with pytest.raises(UserError):
            find_folder(out, table, "y", False)


def test_a_folder_that_is_filled_while_the_table_is_checked_is_refused(tmp_path: Path) -> None:
    with held(tmp_path / "run"):
        plant(tmp_path / "run", "thesis.tex")
        with pytest.raises(UserError, match="is not empty"):
            refuse_taken(tmp_path / "run", False)


def test_a_file_that_is_no_log_is_not_added_to(tmp_path: Path) -> None:
    plant(tmp_path, "log.jsonl")
    with pytest.raises(UserError, match=r"log\.jsonl is no log of fusetune"):
        Log(tmp_path / "log.jsonl")
    assert_untouched(tmp_path, "log.jsonl")
    for begun in (b"", b'{"ti'):  # of a killed process
        (tmp_path / "log.jsonl").write_bytes(begun)
        Log(tmp_path / "log.jsonl", quiet=True).record("start")
    Log(tmp_path / "log.jsonl", quiet=True).record("again")
    assert (tmp_path / "log.jsonl").read_text().count("event") == 2


def test_a_record_of_a_newer_version_is_said_to_be_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fusetune.record._FORMAT", 9)
    Record(1, "", {}).write(tmp_path)
    monkeypatch.undo()
    with pytest.raises(UserError, match="a newer version"):
        Record.read(tmp_path)
