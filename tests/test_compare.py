from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest
import yaml
from contest_strategies import DYING, FAILING, PEEKING
from tiny import settings, tiny_table
from typer.testing import CliRunner

import fusetune
from fusetune.cli.frame import app
from fusetune.contest import pool, work
from fusetune.contest.kept import Fit, Job, Kept
from fusetune.contest.rules import Rules, for_inputs
from fusetune.contest.tuning import Knob, space_of, tune
from fusetune.data.split import Split
from fusetune.errors import ConfigError, UserError
from fusetune.strategies import STRATEGIES
from fusetune.strategies.end_to_end import EndToEndSettings
from fusetune.strategies.umt import UMTSettings

NAMES = ("ume", "linear-probe", "joint")
HOW: dict[str, Any] = {
    "inputs": ["age", "site", "genes"], "vectors": {"genes": "v_*"}, "group": "patient", "split": "part",
    "quiet": True, "jobs": 1, "seeds": 2,
}  # fmt: skip


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compare") / "data"
    tiny_table(folder).to_csv(folder / "table.csv", index=False)
    return folder / "table.csv"


def config(table: Path, **more: Any) -> dict[str, Any]:
    return settings(table.parent.parent / "store", doctor__check=False, head__penalties=[3.0], **more)


def compare(table: Path, out: Path, **more: Any) -> fusetune.Contest:
    how = HOW | {"strategies": NAMES, "config": config(table)} | more
    return fusetune.compare(table, "organ", out=out, **how)


@pytest.fixture(scope="module")
def whole(table: Path) -> Path:
    """Return the folder of a comparison that nobody stopped."""
    out = table.parent.parent / "whole"
    compare(table, out)
    return out


def results(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "results.csv")


def events(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text("utf-8").splitlines()]


def assert_alike(folder: Path, whole: Path) -> None:
    """Equal to the last bit, but for the clock."""
    ours, theirs = (results(one).drop(columns="seconds").to_csv(index=False) for one in (folder, whole))
    assert ours == theirs
    assert {path.name for path in folder.iterdir()} == {path.name for path in whole.iterdir()}
    assert not [path for path in folder.rglob(".*") if path.name != ".lock"]


def test_one_row_for_each_strategy_and_seed(whole: Path) -> None:
    table = results(whole)
    assert list(zip(table["strategy"], table["seed"], strict=True)) == [(n, s) for n in NAMES for s in (0, 1)]
    columns = list(table)
    assert columns[:3] == ["strategy", "level", "seed"]
    assert columns[-3:] == ["seconds", "encoder_passes", "error"]
    for name in ("accuracy", "nll", "macro_f1", "ece", "auroc", "brier"):
        assert {f"valid_{name}", f"test_{name}"} <= set(columns)
    assert table["error"].isna().all()
    assert table.drop(columns="error").notna().all(axis=None)
    assert set(table["level"]) == {"features"}


def test_scores_are_those_of_the_predictions(whole: Path) -> None:
    said = pd.read_parquet(whole / "predictions.parquet")
    probabilities = said[[column for column in said if column.startswith("p(")]]
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-9)
    said["right"] = said["label"] == [column[2:-1] for column in probabilities.idxmax(axis=1)]
    shares = said[said["part"] == "test"].groupby(["strategy", "seed"])["right"].mean()
    expected = results(whole).set_index(["strategy", "seed"])["test_accuracy"]
    pd.testing.assert_series_equal(shares.sort_index(), expected.sort_index(), check_names=False)
    seeds = said.set_index(["strategy", "seed"])["p(lung)"]
    assert not np.allclose(seeds["joint", 0], seeds["joint", 1])  # they vary something


def test_the_summary_says_how_each_fared_and_whether_it_was_fair(whole: Path) -> None:
    summary = json.loads((whole / "summary.json").read_text("utf-8"))
    names = [one["name"] for one in summary["strategies"]]
    assert sorted(names) == sorted(NAMES)
    values = [one["nll"]["value"] for one in summary["strategies"]]
    assert values == sorted(values)
    for one in summary["strategies"]:
        assert one["seeds"] == 2
        assert one["accuracy"]["low"] <= one["accuracy"]["value"] <= one["accuracy"]["high"]
        assert one["rank"]["low"] <= one["rank"]["value"] <= one["rank"]["high"]
    table = results(whole).groupby("strategy")["test_nll"].mean()
    assert {one["name"]: one["nll"]["value"] for one in summary["strategies"]} == pytest.approx(table.to_dict())
    pairs = {(one["name"], one["against"]) for one in summary["paired"]}
    plain = "frozen-fusion" if "frozen-fusion" in NAMES else "linear-probe"
    assert pairs == {(n, rival) for rival in ("ume", plain) for n in NAMES if n != rival}
    assert all(one["p"] <= one["p_holm"] <= 1 and one["p_nll"] <= one["p_nll_holm"] <= 1 for one in summary["paired"])
    checks = {one["question"]: one for one in summary["checklist"]}
    assert checks["Was every method tuned alike?"]["met"]
    assert checks["Are there several seeds?"]["met"]
    assert checks["Did every method get the same budget?"]["met"]
    spent = {one["name"]: one["training"] for one in summary["strategies"]}
    assert spent == {"ume": 288, "joint": 288, "linear-probe": 0}  # 2 epochs of 72 rows of 2 inputs
    assert checks["Are unimodal baselines there?"]["met"] is False
    assert sum("at corrected p < .05" in question for question in checks) == 2
    assert summary["test"]["rows"] == 12


def test_the_report_and_the_latex_table_stand_alone(whole: Path) -> None:
    page = (whole / "report.html").read_text("utf-8")
    assert "http" not in page.replace("http-equiv", "")
    for text in (*NAMES, "arXiv 2512.22991", "Holm", "<svg", "Rows through encoders"):
        assert text in page
    latex = (whole / "results.tex").read_text("utf-8")
    assert latex.count(r"\\") == 1 + len(NAMES)
    widths = {line.count("&") for line in latex.splitlines() if line.endswith(r"\\")}
    assert widths == {9}


def test_every_strategy_has_the_same_passes_in_training(table: Path, tmp_path: Path) -> None:
    plain = work.Workplace._fit
    spent: dict[str, float] = {}

    def noted(self: work.Workplace, job: Job) -> Kept:
        spent[job.strategy] = self._training_passes(job, self.plan_of(job.strategy).epochs or 1)
        return plain(self, job)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(work.Workplace, "_fit", noted)
        names = ("ume", "umt", "joint", "two-stage")
        more = config(table) | {"crossfit": {"how": "k", "folds": 3}}
        compare(table, tmp_path / "out", strategies=names, seeds=1, epochs=24, config=more)
    joint = 24 * 72 * 2  # epochs, rows, inputs
    assert spent["joint"] == joint
    assert all(0.95 * joint < rows < 1.05 * joint for rows in spent.values())


def test_rows_through_encoders_are_counted_without_training_them(table: Path, tmp_path: Path) -> None:
    plain = work.Workplace._fit
    counted: dict[str, tuple[float, float]] = {}

    def noted(self: work.Workplace, job: Job) -> Kept:
        kept, epochs = plain(self, job), self.plan_of(job.strategy).epochs
        assert isinstance(kept.facts, Fit) and epochs
        counted[job.strategy] = self._training_passes(job, epochs), kept.facts.training
        return kept

    names = ("joint", "ume", "umt", "g-blending", "diagnose-relearn", "structure", "ithp")
    how = {"strategies": names, "seeds": 1, "epochs": 2, "level": "encoders", "inputs": ["scan", "note", "age"]}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(work.Workplace, "_fit", noted)
        contest = compare(table, tmp_path / "out", vectors=None, **how)
    assert list(contest.results["error"].fillna("")) == [""] * len(names)
    assert counted["joint"][1] == 2 * 72 * 3  # epochs, rows, inputs
    assert all(on_features == end_to_end > 0 for on_features, end_to_end in counted.values())


def test_nobody_sees_the_test_part_before_the_end(table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[int] = []
    jobs = tmp_path / "out" / "jobs"

    def unlock(self: Split) -> str:
        opened.append(len(list(jobs.iterdir())))
        return plain(self)

    plain = Split.unlock_test
    monkeypatch.setattr(Split, "unlock_test", unlock)
    contest = compare(table, tmp_path / "out", strategies=("majority", PEEKING))
    assert opened == [2 + 4]  # all plans and fits were on disk
    names = [event["event"] for event in events(tmp_path / "out")]
    assert names.count("test part opened") == 1
    assert names.index("test part opened") > max(at for at, name in enumerate(names) if name == "fit")
    errors = contest.results.set_index(["strategy", "seed"])["error"]
    assert all("LockedTestError: the test part is locked" in errors[PEEKING, seed] for seed in (0, 1))
    assert all(errors["majority", seed] == "" for seed in (0, 1))


def test_what_a_fit_leaves_says_nothing_of_the_test_part(table: Path, tmp_path: Path) -> None:
    def stop(*_: Any) -> Any:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Split, "unlock_test", stop)
        compare(table, tmp_path / "out", strategies=("linear-probe",), seeds=1)
    kept = Kept.read(Job("fit", "linear-probe", 0).path(tmp_path / "out" / "jobs"))
    assert kept is not None and isinstance(kept.facts, Fit) and kept.valid is not None and kept.network is not None
    assert len(kept.valid) == 12  # the validation rows
    path = Job("fit", "linear-probe", 0).path(tmp_path / "out" / "jobs")
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1
    path.write_bytes(damaged)
    assert Kept.read(path) is None


@pytest.mark.parametrize("calls", [2, 4])
def test_a_stopped_comparison_ends_with_the_same_results(table: Path, whole: Path, tmp_path: Path, calls: int) -> None:
    done: list[str] = []
    plain = work.Workplace._fit

    def until(self: work.Workplace, job: Job) -> Kept:
        done.append(job.strategy)
        if len(done) == calls:
            raise KeyboardInterrupt
        return plain(self, job)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(work.Workplace, "_fit", until)
        compare(table, tmp_path / "out")
    assert not (tmp_path / "out" / "results.csv").exists()
    with pytest.raises(UserError, match=r"is not empty; .*or continue the comparison in it with --resume"):
        compare(table, tmp_path / "out")
    with pytest.raises(UserError, match=r"made from something else: rules.seeds: 0, 1 then, 0, 1, 2 now"):
        compare(table, tmp_path / "out", seeds=3, resume=True)
    with pytest.raises(UserError, match=r"settings.vector.width: 128 then, 64 now"):
        compare(table, tmp_path / "out", sets=["vector.width=64"], resume=True)
    before = len(done)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(work.Workplace, "_fit", lambda self, job: (done.append(job.strategy), plain(self, job))[1])
        compare(table, tmp_path / "out", resume=True)
    assert len(done) - before == 6 - (calls - 1)  # what was done was not done again
    assert_alike(tmp_path / "out", whole)
    again = compare(table, tmp_path / "out", resume=True)  # finished: handed out as it was judged
    assert [event["event"] for event in events(tmp_path / "out")].count("test part opened") == 1
    assert list(again.results["strategy"]) == list(results(whole)["strategy"])


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs POSIX signals")
def test_processes_killed_at_work_lose_nothing(table: Path, whole: Path, tmp_path: Path) -> None:
    """Two workers; the program is killed when the first fits are there, and gone on with in one process."""
    out, file = tmp_path / "out", tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(config(table)))
    words = ["compare", str(table), "--label", "organ", "--strategies", ",".join(NAMES), "--seeds", "2", "--jobs", "2"]
    words += ["--inputs", "age,site,genes", "--vectors", "genes=v_*", "--group", "patient", "--split", "part"]
    words += ["--config", str(file), "--out", str(out)]
    quiet = subprocess.DEVNULL
    running = subprocess.Popen(
        [sys.executable, "-m", "fusetune.cli", *words], stdout=quiet, stderr=quiet, env=os.environ | {"MARK": str(out)}
    )
    until = time.monotonic() + 300
    while not list(out.glob("jobs/*.seed-*.safetensors")) and running.poll() is None and time.monotonic() < until:
        time.sleep(0.05)
    running.kill()
    running.wait()
    assert list(out.glob("jobs/*.seed-*.safetensors"))
    until = time.monotonic() + 60
    while processes_of(str(out)) and time.monotonic() < until:  # workers watch for their parent once a second
        time.sleep(0.2)
    assert not processes_of(str(out))
    compare(table, out, resume=True)
    assert_alike(out, whole)


def processes_of(mark: str) -> list[str]:
    """Return processes that were started with a mark in their environment; none where nobody says."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if mark.encode() in path.read_bytes():
                found.append((path.parent / "cmdline").read_text(errors="replace"))
    return found


class Growing:
    """A workplace that keeps 400 MB more with each job, and says which process does it."""

    def __init__(self) -> None:
        self.kept: list[bytes] = []

    def bare(self) -> Growing:
        return self

    def do(self, job: Job) -> str:
        self.kept.append(b"x" * 400_000_000)
        time.sleep(1.1)  # the library looks once in a second
        return str(os.getpid())


@pytest.mark.parametrize("room", [sys.maxsize, 1_000_000_000], ids=["room for all", "room for some"])
def test_what_a_process_keeps_is_no_leak(room: int) -> None:
    told: list[str] = []
    crew = pool._Crew(cast(work.Workplace, Growing()), 1)
    crew.room = room
    try:
        crew.run([Job("fit", "ume", seed) for seed in range(3)], lambda _, said: told.append(said))
    finally:
        crew.close()
    assert len(told) == 3 and str(os.getpid()) not in told
    assert (len(set(told)) == 1) == (room == sys.maxsize)


def test_a_failing_strategy_loses_no_other_in_processes_either(table: Path, tmp_path: Path) -> None:
    contest = compare(table, tmp_path / "out", strategies=("majority", FAILING, DYING), seeds=1, jobs=2)
    errors = contest.results.set_index("strategy")["error"]
    assert errors["majority"] == ""
    assert errors[FAILING] == "ValueError: this method; is broken"
    assert "Terminated" in errors[DYING]
    assert np.isfinite(contest.results.set_index("strategy")["test_nll"]["majority"])
    summary = {one["name"]: one for one in contest.summary["strategies"]}
    assert summary[FAILING]["nll"]["value"] is None
    checks = {one["question"]: one["evidence"] for one in contest.summary["checklist"]}
    assert f"{FAILING} (1 of 1)" in checks["Are failures reported?"]
    assert "is broken" in (tmp_path / "out" / "report.html").read_text("utf-8")


def test_where_everything_fails_there_is_no_result(table: Path, tmp_path: Path) -> None:
    with pytest.raises(fusetune.errors.RunError, match=r"no strategy could be fitted; .*this method; is broken"):
        compare(table, tmp_path / "out", strategies=(FAILING,), seeds=1)
    assert not (tmp_path / "out" / "results.csv").exists()


def test_wrong_names_are_told_all_at_once(table: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as told:
        compare(table, tmp_path / "out", strategies=("joynt", "ume", "nonsense"), level="pixels", budget="seconds")
    text = str(told.value)
    assert "there is no strategy 'joynt', did you mean 'joint'?, 'nonsense'" in text
    assert all(name in text for name in STRATEGIES)
    assert "level: 'pixels' is none; use features or encoders" in text
    assert "budget seconds needs minutes" in text
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("more", "text"),
    [
        (["--level", "pixels"], "level: 'pixels' is none"),
        (["--strategies", "umtt"], "'umtt', did you mean 'umt'?"),
        (["--strategies", ","], "strategies: none is named"),
        (["--seeds", "0"], "seeds: must be 1 or more"),
        (["--jobs", "0"], "jobs: must be 1 or more"),
        (["--minutes", "-1"], "minutes: must be above 0"),
        (
            ["--set", "strategy.name=umt", "--set", "strategy.weight=3"],
            "strategy.weight: settings of one strategy cannot be set for all",
        ),
        (["--label", "orgon"], "orgon"),
    ],
)
def test_wrong_words_end_with_2(table: Path, tmp_path: Path, more: list[str], text: str) -> None:
    words = ["compare", str(table), "--label", "organ", "--inputs", "age,site", "--out", str(tmp_path / "out"), *more]
    told = CliRunner().invoke(app, words)
    assert told.exit_code == 2
    assert text in told.output
    assert "Traceback" not in told.output
    assert not (tmp_path / "out").exists()


def test_a_label_is_needed_and_a_run_is_no_table(table: Path, run: Path, tmp_path: Path) -> None:
    for words, text in (
        ([str(table)], "--label is missing"),
        ([str(run)], "is a run, not a table; name two or more runs"),
        ([str(run), str(table)], "is no run; give one table (with its label), or the folders of finished runs, not"),
        ([str(run), str(run), "--label", "organ"], "runs know their label"),
    ):
        told = CliRunner().invoke(app, ["compare", *words, "--out", str(tmp_path / "out")])
        assert told.exit_code == 2, told.output
        assert text in told.output.replace("\n", " ")


def test_one_input_leaves_something_to_compare(table: Path, tmp_path: Path) -> None:
    contest = compare(
        table, tmp_path / "out", strategies=("linear-probe", "majority", "umt"), inputs=["age", "site"], vectors=None,
        seeds=1,
    )  # fmt: skip
    assert list(contest.results["strategy"]) == ["linear-probe", "majority"]
    (said,) = [text for text in contest.summary["warnings"] if "one input" in text]
    assert "'columns', so there is nothing to combine" in said
    assert "Left out: umt" in said
    with pytest.raises(UserError, match=r"what can still be compared is two-stage, .*Name some of these"):
        for_inputs(Rules(("umt",), True, (0,)), ["scan"])
    assert for_inputs(Rules(("umt",), True, (0,)), ["scan", "note"]) == (("umt",), None)


def test_minutes_end_training_alike(table: Path, tmp_path: Path) -> None:
    contest = compare(
        table, tmp_path / "out", strategies=("joint",), seeds=1, budget="seconds", minutes=1e-9,
        config=config(table, vector__train__epochs=10_000),
    )  # fmt: skip
    assert contest.results["error"].tolist() == [""]
    assert contest.summary["protocol"]["budget"].startswith("at most 1e-09 minute(s)")


def test_tuning_gives_every_strategy_its_trials_and_goes_on(table: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    contest = compare(table, out, strategies=("linear-probe", "joint"), seeds=1, trials=2)
    (tuned,) = [one for one in contest.summary["strategies"] if one["name"] == "joint"]
    assert set(tuned["settings"]) == {"rate", "dropout"}
    check = next(one for one in contest.summary["checklist"] if one["question"] == "Was every method tuned alike?")
    assert check["evidence"] == "2 trial(s) each, on validation rows; nothing to tune in linear-probe"
    assert (out / "tuning.db").exists()


def test_settings_that_not_all_strategies_read_are_said(table: Path, tmp_path: Path) -> None:
    contest = compare(table, tmp_path / "out", strategies=("two-stage", "majority"), seeds=1, sets=["head.kind=ridge"])
    assert "head.kind is not read by majority" in contest.summary["warnings"]


def test_a_study_that_was_killed_ends_alike(tmp_path: Path) -> None:
    space = {"rate": Knob(1.0, 0.1, 10.0), "strategy.steps": Knob(4, 1, 40), "strategy.on": Knob(True)}
    asked: list[dict[str, Any]] = []

    def loss(values: dict[str, Any]) -> float:
        asked.append(values)
        if values["strategy.steps"] == 4 and len(asked) > 1:
            raise ValueError("fails here")
        return abs(np.log(values["rate"] / 3)) + 0.01 * values["strategy.steps"]

    best = tune(tmp_path / "whole.db", "one", space, 14, 0, loss)
    drawn, asked[:] = list(asked), []
    assert drawn[0] == {"rate": 1.0, "strategy.steps": 4, "strategy.on": True}
    assert len(drawn) == 14

    def killed(values: dict[str, Any]) -> float:
        if len(asked) == 12:
            raise KeyboardInterrupt
        return loss(values)

    with pytest.raises(KeyboardInterrupt):
        tune(tmp_path / "killed.db", "one", space, 14, 0, killed)
    assert tune(tmp_path / "killed.db", "one", space, 14, 0, loss) == best
    assert asked == drawn
    assert tune(tmp_path / "killed.db", "one", space, 14, 0, lambda _: pytest.fail("nothing is left")) == best


def test_what_is_tuned_stays_within_its_limits() -> None:
    space = space_of(UMTSettings, 0.1)
    assert set(space) == {"rate", "dropout", "strategy.weight"}
    assert space["strategy.weight"] == Knob(10.0, 1.0, 100.0)
    assert set(space_of(EndToEndSettings, 0.1)) == {"rate", "dropout"}
    for strategy in STRATEGIES.values():
        for name, knob in space_of(strategy.Settings, 0.1).items():
            if name.startswith("strategy.") and knob.low is not None and knob.high is not None:
                for value in (knob.low, knob.high):
                    strategy.Settings(**{name.removeprefix("strategy."): value})


@pytest.fixture(scope="module")
def run(table: Path) -> Path:
    return fitted(table, "one", "linear-probe")


def fitted(table: Path, name: str, strategy: str, **more: Any) -> Path:
    how = {key: HOW[key] for key in ("inputs", "vectors", "group", "split", "quiet")} | more
    out = table.parent.parent / name
    return fusetune.fit(table, "organ", strategy=strategy, config=config(table), out=out, **how).folder


def test_finished_runs_are_compared_on_the_same_rows(table: Path, run: Path, tmp_path: Path) -> None:
    other = fitted(table, "two", "ume")
    contest = fusetune.compare([run, other], out=tmp_path / "out", quiet=True)
    metrics = {folder.name: json.loads((folder / "metrics.json").read_text()) for folder in (run, other)}
    for row in contest.results.to_dict("records"):
        test = metrics[row["strategy"]]["test"]
        assert row["test_accuracy"] == pytest.approx(test["accuracy"]["value"])
        assert row["test_nll"] == pytest.approx(test["nll"]["value"])
    assert contest.summary["test"]["groups"] == 6
    assert {(one["name"], one["against"]) for one in contest.summary["paired"]} == {("one", "two"), ("two", "one")}
    for name in ("results.csv", "summary.json", "report.html", "results.tex"):
        assert (tmp_path / "out" / name).exists()
    held, both = contest.table(), contest.paired()
    assert held["nll"].is_monotonic_increasing and set(held.index) == {"one", "two"}
    assert held.loc["one", "accuracy"] == pytest.approx(metrics["one"]["test"]["accuracy"]["value"])
    assert both.loc[("one", "two"), "nll"] == pytest.approx(held.loc["one", "nll"] - held.loc["two", "nll"])
    assert "\n" not in repr(contest) and f"lowest NLL: {held.index[0]}" in repr(contest)
    assert "12" in contest._repr_html_() and "<table" in contest._repr_html_()
    with pytest.raises(UserError, match="compare\\(runs, out=FOLDER\\)"):
        fusetune.compare([run, other], quiet=True).show()
    told = CliRunner().invoke(app, ["compare", str(run), str(other)])
    assert told.exit_code == 0, told.output
    assert "test part: 12 rows in 6 groups" in told.output


def test_runs_on_other_rows_or_labels_are_refused(table: Path, run: Path, tmp_path: Path) -> None:
    frame = pd.read_csv(table)
    moved = frame.assign(part=frame["part"].replace({"val": "test", "test": "val"}))
    moved.to_csv(tmp_path / "moved.csv", index=False)
    changed = frame.assign(organ=frame["organ"].where(frame["part"] != "test", "lung"))
    changed.to_csv(tmp_path / "changed.csv", index=False)
    how: dict[str, Any] = {key: HOW[key] for key in ("inputs", "vectors", "split", "quiet")}
    for name, text in (("moved", "different test rows"), ("changed", "different labels in 8 test row")):
        out = fusetune.fit(
            tmp_path / f"{name}.csv", "organ", strategy="linear-probe", config=config(table), out=tmp_path / name, **how
        ).folder
        with pytest.raises(UserError, match=text):
            fusetune.compare([run, out])
    with pytest.raises(UserError, match="takes two or more"):
        fusetune.compare([run])
    said = run / "predictions.parquet"
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in run.iterdir():
        if path.is_file():
            (copy / path.name).write_bytes(path.read_bytes())
    (copy / said.name).write_bytes(said.read_bytes()[:-9])
    with pytest.raises(UserError, match=r"predictions.parquet was changed or damaged"):
        fusetune.compare([run, copy])
