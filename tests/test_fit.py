from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from tiny import CLASSES, settings, tiny_table

import fusetune
from fusetune.config import Config
from fusetune.data.split import PARTS, Split
from fusetune.errors import ConfigError, FusetuneError, LockedTestError, TableError, UserError
from fusetune.intake import Intake
from fusetune.strategies.two_stage import whole_note

HOW: dict[str, Any] = {"vectors": {"genes": "v_*"}, "group": "patient", "split": "part", "quiet": True}
FILES = {
    "config.yaml",
    "schema.json",
    "split.parquet",
    "metrics.json",
    "predictions.parquet",
    "report.html",
    "findings.json",
    "findings.html",
    "log.jsonl",
}
# Where nobody asks for rivals, none are fitted.
BARE = {"evaluate": {"resamples": 100, "baselines": False}}
METRICS = {"accuracy", "balanced_accuracy", "macro_f1", "auroc", "nll", "ece"}


@dataclass
class Done:
    """A finished run and what it was made from."""

    run: fusetune.Run
    table: Path
    frame: pd.DataFrame
    settings: dict[str, Any]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Done:
    folder = tmp_path_factory.mktemp("fit")
    frame = tiny_table(folder / "data")
    for row, column in {5: "scan", 11: "note", 44: "scan", 45: "note", 90: "scan", 95: "note", 47: "age"}.items():
        frame.loc[row, column] = None
    frame.loc[[6, 92], ["v_0", "v_1", "v_2", "v_3"]] = np.nan
    table = folder / "data" / "table.csv"
    frame.to_csv(table, index=False)
    given = settings(folder / "store")
    run = fusetune.fit(table, "organ", config=given, out=folder / "run", **HOW)
    return Done(run, table, frame, given)


def strict_json(path: Path) -> Any:
    def refuse(word: str) -> None:
        raise AssertionError(f"{path.name} holds {word}, which is no JSON")

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


def test_every_file_is_there(done: Done) -> None:
    assert {path.name for path in done.run.folder.iterdir()} >= FILES | {"model"}
    report = done.run.report.read_text(encoding="utf-8")
    assert report.lstrip().lower().startswith("<!doctype html")
    assert "scan: what it was shown" in report
    assert Config.build(done.run.folder / "config.yaml") == Config.build(done.settings)
    assert yaml.safe_load((done.run.folder / "config.yaml").read_text())["views"] == 2
    for line in (done.run.folder / "log.jsonl").read_text(encoding="utf-8").splitlines():
        assert {"time", "event"} <= json.loads(line).keys()


def test_metrics_keep_the_contract(done: Done) -> None:
    metrics = strict_json(done.run.folder / "metrics.json")
    assert metrics == json.loads(json.dumps(done.run.metrics))
    assert metrics["rows"] == {"train": 72, "valid": 12, "test": 12}
    assert metrics["groups"] == {"train": 36, "valid": 6, "test": 6}
    for part in ("test", "valid"):
        assert metrics[part].keys() >= METRICS
        assert all(score.keys() == {"value", "low", "high"} for score in metrics[part].values())
    names = [row["name"] for row in metrics["gain"]]
    alone = [f"{name} alone" for name in ("scan", "note", "columns", "genes")]
    assert names == ["majority", *alone, "ensemble", "traditional", "two-stage"]
    for row in metrics["gain"]:
        assert row["accuracy"]["low"] <= row["accuracy"]["value"] <= row["accuracy"]["high"]
        assert row["nll"]["value"] >= 0
    assert {"stage_u", "encode", "stage_m", "total"} <= metrics["seconds"].keys()
    assert metrics["seconds"]["total"] >= metrics["seconds"]["stage_u"]
    assert all(isinstance(count, int) and count > 0 for count in metrics["encoder_passes"].values())
    assert metrics["gain"][-1]["accuracy"] == metrics["test"]["accuracy"]


def test_metrics_say_what_each_input_is_worth(done: Done) -> None:
    metrics = done.run.metrics
    subsets = {tuple(row["modalities"]): row for row in metrics["subsets"]}
    everything = ("scan", "note", "columns", "genes")
    assert len(subsets) == 16
    assert subsets[everything]["accuracy"] == metrics["test"]["accuracy"]
    assert subsets[everything]["nll"]["value"] == pytest.approx(metrics["test"]["nll"]["value"])
    gained = subsets[everything]["nll"]["value"] - subsets[()]["nll"]["value"]
    assert sum(row["nll"]["value"] for row in metrics["shapley"]) == pytest.approx(-gained)
    whole = {row["method"]: row["accuracy"]["value"] for row in metrics["missing"] if row["rate"] == 0}
    assert whole == {row["name"]: pytest.approx(row["accuracy"]["value"]) for row in metrics["gain"][1:]}
    assert len(metrics["interference"]) == 4 * 5


def test_metrics_say_how_far_its_certainty_goes(done: Done) -> None:
    metrics = done.run.metrics
    assert metrics["calibration"]["crossfitted"]
    assert metrics["calibration"]["test"]["before"].keys() == {"nll", "brier", "ece", "classwise_ece"}
    held = {(row["method"], row["mondrian"]): row for row in metrics["conformal"]["sets"]}
    assert len(held) == 4
    assert "group" in metrics["conformal"]["caveat"]
    # 6 validation groups cannot promise 90 %: every class is in every set.
    assert held["lac", False]["coverage"]["value"] == 1
    assert held["lac", False]["size"]["value"] == len(CLASSES)
    assert metrics["risk_coverage"]["points"][-1]["error"]["value"] == pytest.approx(
        1 - metrics["test"]["accuracy"]["value"]
    )
    assert metrics["threshold"] is None
    assert metrics["worst_group"]["group"] is None  # no group has ten rows
    assert all(c["p_group"] >= 2 / 2**6 for c in metrics["comparisons"])


def test_the_report_shows_the_mistakes(done: Done) -> None:
    told = pd.read_parquet(done.run.folder / "predictions.parquet")
    wrong = told[(told["part"] == "test") & (told["label"] != told["prediction"])]
    page = done.run.report.read_text(encoding="utf-8")
    assert page.count("data-classes=") == len(wrong)
    assert all(f"Row {name}," in page for name in wrong["row_id"])


def test_a_threshold_for_an_aim(tmp_path: Path) -> None:
    frame = tiny_table(tmp_path / "data", classes=("ill", "well"))
    how: dict[str, Any] = {"inputs": ["age"], "group": "patient", "split": "part", "quiet": True}
    given = settings(tmp_path / "store", evaluate__aim="sensitivity >= 0.8", evaluate__positive="ill")
    run = fusetune.fit(frame, "organ", config=given, out=tmp_path / "run", **how)
    found = run.metrics["threshold"]
    assert (found["aim"], found["positive"]) == ("sensitivity >= 0.8", "ill")
    told = pd.read_parquet(run.folder / "predictions.parquet")
    test = told[told["part"] == "test"]
    called, ill = test["p(ill)"] >= found["threshold"], test["label"] == "ill"
    assert found["sensitivity"]["value"] == pytest.approx(called[ill].mean())
    assert found["counts"]["false_positive"] == int((called & ~ill).sum())
    assert fusetune.load(run.folder).calibration == run.model.calibration
    assert run.model.evaluate(frame)["threshold"]["threshold"] == found["threshold"]
    with pytest.raises(ConfigError, match="'sick' is no class"):
        fusetune.fit(frame, "organ", config=given, sets=["evaluate.positive=sick"], out=tmp_path / "no", **how)


def test_it_learns(done: Done) -> None:
    gain = {row["name"]: row for row in done.run.metrics["gain"]}
    assert gain["majority"]["accuracy"]["value"] == pytest.approx(1 / 3)
    assert gain["two-stage"]["accuracy"]["value"] >= 0.75
    assert gain["two-stage"]["nll"]["value"] < gain["majority"]["nll"]["value"]


def test_predictions_are_those_of_valid_and_test_rows(done: Done) -> None:
    told = pd.read_parquet(done.run.folder / "predictions.parquet")
    part = done.frame["part"].replace({"val": "valid"})
    expected = [*done.frame["case_id"][part == "valid"], *done.frame["case_id"][part == "test"]]
    assert told["row_id"].tolist() == expected
    assert told["part"].tolist() == ["valid"] * 12 + ["test"] * 12
    assert told["label"].tolist() == done.frame.set_index("case_id")["organ"][expected].tolist()
    shares = told[[f"p({name})" for name in CLASSES]].to_numpy()
    np.testing.assert_allclose(shares.sum(1), 1, atol=1e-9)
    assert told["prediction"].tolist() == [CLASSES[i] for i in shares.argmax(1)]
    right = (told["label"] == told["prediction"])[told["part"] == "test"].mean()
    assert right == pytest.approx(done.run.metrics["test"]["accuracy"]["value"])


def test_the_model_predicts_what_the_run_predicted(done: Done) -> None:
    told = pd.read_parquet(done.run.folder / "predictions.parquet").set_index("row_id")
    again = done.run.model.predict_table(done.table).set_index("row_id").loc[told.index]
    columns = [f"p({name})" for name in CLASSES]
    np.testing.assert_allclose(again[columns].to_numpy(), told[columns].to_numpy(), rtol=0, atol=1e-6)


def test_the_split_is_the_one_given(done: Done) -> None:
    saved = pd.read_parquet(done.run.folder / "split.parquet").set_index("row_id")["part"]
    assert saved[done.frame["case_id"]].tolist() == done.frame["part"].replace({"val": "valid"}).tolist()
    assert done.run.metrics["split_hash"] == Split.load(done.run.folder / "split.parquet", done.frame["case_id"]).hash


def test_the_same_seed_gives_the_same_numbers(done: Done, tmp_path: Path) -> None:
    given = done.settings | {"store": {"folder": str(tmp_path / "another store")}}
    again = fusetune.fit(done.table, "organ", config=given, out=tmp_path / "run", **HOW)
    for name in ("rows", "groups", "test", "valid", "gain", "comparisons", "split_hash"):
        assert again.metrics[name] == done.run.metrics[name]
    told, before = (pd.read_parquet(run.folder / "predictions.parquet") for run in (again, done.run))
    pd.testing.assert_frame_equal(told, before, check_exact=True)
    other = fusetune.fit(done.table, "organ", config=given | BARE, seed=1, out=tmp_path / "other", **HOW)
    assert other.metrics["test"]["nll"] != done.run.metrics["test"]["nll"]


@pytest.mark.parametrize("kind", ["mlp", "gated", "bilinear", "transformer", "ridge"])
def test_trained_heads_depend_on_the_seed_alone(done: Done, tmp_path: Path, kind: str) -> None:
    given = done.settings | {"train": {"epochs": 0}, "head": {"kind": kind, "epochs": 3}, **BARE}
    runs = [fusetune.fit(done.table, "organ", config=given, out=tmp_path / str(i), **HOW) for i in range(2)]
    assert runs[0].metrics["test"] == runs[1].metrics["test"]


def test_the_store_saves_encoder_passes(done: Done, tmp_path: Path) -> None:
    """Plain features of unchanged encoders are there already: another seed computes only what is new."""
    given = done.settings | {"train": {"epochs": 0}, "views": 1}
    first, second = (
        fusetune.fit(done.table, "organ", config=given, out=tmp_path / str(i), **HOW).metrics["encoder_passes"]
        for i in range(2)
    )
    assert any("features" in name for name in first)
    assert not any("features" in name for name in second)
    assert sum(second.values()) >= sum(first.values()) > 0


def test_test_rows_are_not_read_before_every_choice_is_made(
    done: Done, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, bool]] = []
    plain = Split.rows

    def watched(self: Split, part: Any) -> Any:
        log = tmp_path / "run" / "log.jsonl"  # which is not there yet while the table is divided
        head_is_fitted = log.exists() and "head" in log.read_text()
        asked.append((part, head_is_fitted))
        return plain(self, part)

    monkeypatch.setattr(Split, "rows", watched)
    fusetune.fit(done.table, "organ", config=done.settings, out=tmp_path / "run", **HOW)
    opened = [fitted for part, fitted in asked if part == "test"]
    assert opened
    assert all(opened)
    assert {part for part, fitted in asked if not fitted} == {"train", "valid"}


def test_labels_of_test_rows_do_not_reach_the_model(done: Done, tmp_path: Path) -> None:
    frame = done.frame.copy()
    test = frame["part"] == "test"
    frame.loc[test, "organ"] = frame.loc[test, "organ"].map(dict(zip(CLASSES, [*CLASSES[1:], CLASSES[0]], strict=True)))
    frame.to_csv(done.table.with_name("other.csv"), index=False)
    given = done.settings | BARE
    run = fusetune.fit(done.table.with_name("other.csv"), "organ", config=given, out=tmp_path / "run", **HOW)
    columns = [f"p({name})" for name in CLASSES]
    told, before = (pd.read_parquet(r.folder / "predictions.parquet")[columns] for r in (run, done.run))
    pd.testing.assert_frame_equal(told, before, check_exact=True)
    assert run.metrics["test"]["accuracy"] != done.run.metrics["test"]["accuracy"]


@pytest.mark.parametrize(
    "classes",
    [("a", "b"), (10, 20, 30), (0.5, 1.5, 2.5), (False, True)],
    ids=["two strings", "integers", "floats", "booleans"],
)
def test_labels_keep_their_type(tmp_path: Path, classes: tuple[Any, ...]) -> None:
    frame = tiny_table(tmp_path / "data", rows=24 * len(classes), classes=classes)
    given = settings(tmp_path / "store", train__epochs=0, views=1, evaluate__baselines=False)
    table = tmp_path / "data" / "t.parquet"
    frame.to_parquet(table)
    how: dict[str, Any] = {"inputs": ["age", "site"], "split": "part", "config": given, "quiet": True}
    run = fusetune.fit(table, "organ", out=tmp_path / "r", **how)
    for model in (run.model, fusetune.load(tmp_path / "r")):
        told = model.predict(table)
        assert {type(value) for value in told.tolist()} == {type(classes[0])}
        assert set(told) <= set(classes)
        assert model.predict_proba(table).columns.tolist() == list(classes)
        assert model.evaluate(table)["accuracy"]["value"] == pytest.approx((told == frame["organ"]).mean())


def test_labels_match_by_value_in_a_later_table(done: Done) -> None:
    frame = tiny_table(done.table.parent / "numbers", classes=(0, 1), rows=48)
    given = done.settings | {"train": {"epochs": 0}, "views": 1}
    out = done.table.parent / "numbers-run"
    run = fusetune.fit(frame, "organ", inputs=["age"], split="part", config=given, out=out, quiet=True)
    whole = run.model.evaluate(frame)["accuracy"]
    for kind in (float, str, bool):
        assert run.model.evaluate(frame.assign(organ=frame["organ"].astype(kind)))["accuracy"] == whole


@pytest.mark.parametrize("weights", ["balanced", {"lung": 20.0}])
def test_class_weights_shift_the_predictions(done: Done, tmp_path: Path, weights: Any) -> None:
    frame = done.frame[(done.frame["organ"] != "lung") | (np.arange(96) % 4 == 0) | (done.frame["part"] != "train")]
    how: dict[str, Any] = {"inputs": ["age"], "split": "part", "quiet": True}
    plain = done.settings | {"train": {"epochs": 0}, "views": 1, **BARE}
    shares = []
    for index, given in enumerate((plain, plain | {"data": {"class_weights": weights}})):
        run = fusetune.fit(frame, "organ", config=given, out=tmp_path / str(index), **how)
        shares.append(run.model.predict_proba(frame, on_problem="mask")["lung"].mean())
    assert shares[1] > shares[0] + 0.05


def test_a_weight_for_an_unknown_class_is_refused(done: Done, tmp_path: Path) -> None:
    given = done.settings | {"data": {"class_weights": {"lungs": 2.0}}}
    with pytest.raises(ConfigError, match="did you mean 'lung'"):
        fusetune.fit(done.table, "organ", config=given, out=tmp_path / "run", **HOW)


def test_a_grouped_split_keeps_patients_together(done: Done, tmp_path: Path) -> None:
    given = done.settings | {"train": {"epochs": 0}, "views": 1}
    run = fusetune.fit(
        done.frame, "organ", inputs=["age", "site"], group="patient", config=given, out=tmp_path / "run", quiet=True
    )
    part = pd.read_parquet(run.folder / "split.parquet").set_index("row_id")["part"]
    assert done.frame.groupby("patient")["case_id"].agg(lambda names: part[names].nunique()).max() == 1
    assert set(part) == set(PARTS)
    assert run.metrics["groups"]["test"] < run.metrics["rows"]["test"]


def test_a_data_frame_is_left_as_it_was(done: Done, tmp_path: Path) -> None:
    before = done.frame.copy()
    given = done.settings | {"train": {"epochs": 0}, "views": 1}
    fusetune.fit(done.frame, "organ", inputs=["age"], split="part", config=given, out=tmp_path / "run", quiet=True)
    pd.testing.assert_frame_equal(done.frame, before)


def test_a_modality_that_no_validation_row_has_is_named(done: Done, tmp_path: Path) -> None:
    frame = done.frame.copy()
    frame.loc[frame["part"] == "val", "note"] = None
    frame.to_csv(done.table.with_name("holes.csv"), index=False)
    with pytest.raises(UserError, match="note"):
        fusetune.fit(done.table.with_name("holes.csv"), "organ", config=done.settings, out=tmp_path / "run", **HOW)


def test_a_class_without_test_rows_is_judged_without_it(done: Done, tmp_path: Path) -> None:
    frame = done.frame[(done.frame["organ"] != "lung") | (done.frame["part"] != "test")]
    given = done.settings | {"train": {"epochs": 0}, "views": 1}
    how: dict[str, Any] = {"inputs": ["age", "site"], "split": "part", "config": given, "quiet": True}
    run = fusetune.fit(frame, "organ", out=tmp_path / "run", **how)
    strict_json(run.folder / "metrics.json")
    assert run.metrics["test"]["accuracy"]["value"] is not None


def test_dates_as_labels_are_refused_before_training(done: Done, tmp_path: Path) -> None:
    frame = done.frame.assign(organ=pd.Timestamp("2024-01-01") + pd.to_timedelta(np.arange(96) // 2 % 3, unit="D"))
    with pytest.raises(TableError, match="organ"):
        fusetune.fit(frame, "organ", inputs=["age"], split="part", config=done.settings, out=tmp_path / "r", quiet=True)


def test_unused_categories_are_no_classes(done: Done, tmp_path: Path) -> None:
    frame = done.frame.assign(organ=pd.Categorical(done.frame["organ"], [*CLASSES, "spleen"]))
    given = done.settings | {"train": {"epochs": 0}, "views": 1}
    run = fusetune.fit(frame, "organ", inputs=["age"], split="part", config=given, out=tmp_path / "run", quiet=True)
    assert run.model.classes == list(CLASSES)


def test_a_filled_folder_is_refused(done: Done) -> None:
    with pytest.raises(UserError, match=r"is not empty|finished run"):
        fusetune.fit(done.table, "organ", config=done.settings, out=done.run.folder, **HOW)


def test_the_test_part_is_not_opened_again(done: Done) -> None:
    """Resuming a run that is already finished would read the test part twice."""
    before = (done.run.folder / "metrics.json").read_bytes()
    try:
        again = fusetune.fit(done.table, "organ", config=done.settings, out=done.run.folder, resume=True, **HOW)
    except FusetuneError as error:
        assert "finished" in str(error)
    else:
        assert again.metrics["test_opened"] == done.run.metrics["test_opened"]
    assert (done.run.folder / "metrics.json").read_bytes() == before
    assert (done.run.folder / "log.jsonl").read_text().count("test part opened") == 1


CROSSFITS: list[dict[str, Any]] = [{"how": "off"}, {"how": "holdout", "share": 0.3}, {"how": "k", "folds": 2}]


@pytest.mark.parametrize("how", CROSSFITS, ids=lambda how: str(how["how"]))
@pytest.mark.parametrize("inputs", ["features", "logits"])
def test_cross_fitting_runs_through(done: Done, tmp_path: Path, how: dict[str, Any], inputs: str) -> None:
    given = done.settings | {"crossfit": how, "head": {"inputs": inputs}, "train": {"epochs": 1}, **BARE}
    run = fusetune.fit(done.table, "organ", config=given, out=tmp_path / "run", **HOW)
    told = pd.read_parquet(run.folder / "predictions.parquet")
    if how["how"] == "k":  # validation rows are learnt from, and what is told of them is told without them
        told = told[told["part"] == "test"]
    again = fusetune.load(run.folder).predict_table(done.table).set_index("row_id").loc[told["row_id"]]
    columns = [f"p({name})" for name in CLASSES]
    np.testing.assert_allclose(again[columns].to_numpy(), told[columns].to_numpy(), rtol=0, atol=1e-6)


def test_two_runs_in_one_folder_are_refused(tmp_path: Path) -> None:
    """A second process holds the folder; when it is killed, the folder is free again."""
    folder = tmp_path / "run"
    folder.mkdir()
    code = f"""
import time
from pathlib import Path
from fusetune.folder import held
with held(Path({str(folder)!r})):
    print("held", flush=True)
    time.sleep(60)
"""
    table = pd.DataFrame({"a": np.arange(60.0), "y": np.arange(60) % 2})
    quick = settings(tmp_path / "store", train__epochs=0, views=1, evaluate__baselines=False)
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(UserError, match="another run is working in"):
            fusetune.fit(table, "y", config=quick, out=folder, quiet=True)
        assert {path.name for path in folder.iterdir()} == {".lock"}
        other.kill()
    assert fusetune.fit(table, "y", config=quick, out=folder, quiet=True).report.exists()


def test_the_lock_itself() -> None:
    ids = pd.Series([f"r{i}" for i in range(30)])
    split = Split(ids, (np.arange(30) % 3).astype(np.int8), "by hand")
    rows: Callable[[], Any] = lambda: split.rows("test")  # noqa: E731
    with pytest.raises(LockedTestError):
        rows()
    split.unlock_test()
    assert rows().tolist() == list(range(2, 30, 3))
    with pytest.raises(LockedTestError):
        split.unlock_test()


@dataclass
class Small:
    """A finished run on two columns of numbers, and how it was asked for."""

    run: fusetune.Run
    table: pd.DataFrame
    config: dict[str, Any]

    def resume(self, rows: pd.DataFrame, label: str = "y", inputs: Sequence[str] = ("a", "b")) -> fusetune.Run:
        how: dict[str, Any] = {"config": self.config, "out": self.run.folder, "quiet": True, "resume": True}
        return fusetune.fit(rows, label, inputs=inputs, **how)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Small:
    folder, random = tmp_path_factory.mktemp("small"), np.random.default_rng(0)
    table = pd.DataFrame({"a": random.normal(size=60), "b": random.normal(size=60), "y": np.arange(60) % 2})
    table["z"] = table["y"]
    config = settings(folder / "store", train__epochs=0, views=1, evaluate__baselines=False)
    run = fusetune.fit(table, "y", inputs=["a", "b"], config=config, out=folder / "run", quiet=True)
    return Small(run, table, config)


def test_resuming_what_is_finished_shows_it(small: Small) -> None:
    assert small.resume(small.table).metrics == small.run.metrics


@pytest.mark.parametrize("change", ["label", "inputs", "rows"])
def test_resuming_with_another_label_other_inputs_or_other_rows_is_refused(change: str, small: Small) -> None:
    label, inputs = ("z" if change == "label" else "y"), (["a"] if change == "inputs" else ["a", "b"])
    rows = small.table.assign(y=1 - small.table["y"]) if change == "rows" else small.table
    with pytest.raises(UserError):
        small.resume(rows, label, inputs)


@pytest.mark.parametrize("checked", [True, False])
def test_rows_with_one_picture_are_in_one_part_of_a_split_that_is_made(
    checked: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame = tiny_table(tmp_path / "data").drop(columns=["part", "patient"])
    # Twelve pictures stand in two files each, beside other cells and, half of the time, other labels.
    pairs = np.random.default_rng(0).permutation(96)[:24].reshape(12, 2)
    for one, other in pairs:
        (tmp_path / "data" / f"{other}.png").write_bytes((tmp_path / "data" / f"{one}.png").read_bytes())
    frame.to_csv(tmp_path / "data" / "table.csv", index=False)
    taken: list[Intake] = []

    def stop(intake: Intake, *_: Any, **__: Any) -> None:
        taken.append(intake)
        raise UserError("far enough")

    monkeypatch.setattr(Intake, "context", stop)
    for seed in range(5):
        config = settings(tmp_path / "store", doctor__check=checked, seed=seed)
        with pytest.raises(UserError, match="far enough"):
            fusetune.fit(tmp_path / "data" / "table.csv", "organ", config=config, out=tmp_path / f"{seed}", quiet=True)
        split, copies = taken[-1].split, taken[-1].copies
        assert (split.part[pairs[:, 0]] == split.part[pairs[:, 1]]).all()
        assert (copies[pairs[:, 0]] == copies[pairs[:, 1]]).all()
        assert "copies stay together" in split.how


def test_copies_are_dropped_before_training_and_written_down(tmp_path: Path) -> None:
    frame = tiny_table(tmp_path / "data")
    frame["scan"] = [str(tmp_path / "data" / name) for name in frame["scan"]]
    copy = frame.iloc[[0]].assign(case_id="copy", patient="copy", part="test")
    short = settings(tmp_path / "store", train__epochs=0, views=1)
    options: dict[str, Any] = {"inputs": ["scan", "age"], "split": "part", "group": "patient", "quiet": True}
    run = fusetune.fit(pd.concat([frame, copy]), "organ", config=short, out=tmp_path / "run", **options)
    found = json.loads((run.folder / "findings.json").read_text())
    assert found["dropped"] == {"duplicate_rows_across_parts": ["case-000"]}
    assert sum(run.metrics["rows"].values()) == len(frame)
    assert any("dropped 1 row(s) for duplicate_rows_across_parts" in text for text in run.metrics["warnings"])
    assert "case-000" in (run.folder / "findings.html").read_text()
    strict = {**short, "doctor": {"policy": {"duplicate_rows_across_parts": "error"}}}
    with pytest.raises(TableError, match=r"(?s)refused.*duplicate_rows_across_parts.*case-000"):
        fusetune.fit(pd.concat([frame, copy]), "organ", config=strict, out=tmp_path / "other", **options)
    off = {**short, "doctor": {"check": False}}
    run = fusetune.fit(pd.concat([frame, copy]), "organ", config=off, out=tmp_path / "unchecked", **options)
    assert sum(run.metrics["rows"].values()) == len(frame) + 1
    assert not (run.folder / "findings.json").exists()


@pytest.mark.parametrize(
    ("improved", "note"),
    [
        (["scan", "note"], "each encoder fine-tuned alone, one head on all"),
        (["scan"], "scan fine-tuned alone, one head on all"),
        ([], "no encoder fine-tuned, one head on all"),
    ],
)
def test_the_gain_table_says_what_the_two_stage_model_is(improved: list[str], note: str) -> None:
    assert whole_note(improved, 2) == note
