"""What is said of a row beyond its class: the judged threshold, sets, margins, likeness, drift; piece by piece."""

from __future__ import annotations

import html
import json
import re
import shutil
import sys
import warnings
import weakref
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from here import Here
from PIL import Image
from tiny import settings, tiny_table
from typer.testing import CliRunner

import fusetune
from fusetune import answering, cli
from fusetune.answers import Extras
from fusetune.cli.frame import app
from fusetune.cluster.predicting import Asked, predicted
from fusetune.data.choices import Kind
from fusetune.data.kinds import fits
from fusetune.data.schema import Column, Schema
from fusetune.data.table import as_dataset, read_dataset, read_pieces
from fusetune.errors import BundleError, InputWarning, SchemaError, UserError
from fusetune.evaluate.conformal import sets_at
from fusetune.evaluate.threshold import judge_threshold
from fusetune.files import facts_hash
from fusetune.handing import Streamed

OLD = Path(__file__).parent / "bundles" / "format_1"


@dataclass
class Made:
    """A run on two classes with an aim, its table, and as many fresh rows of the same kind."""

    run: fusetune.Run
    table: Path
    fresh: pd.DataFrame

    @property
    def model(self) -> fusetune.Model:
        return self.run.model


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("predict")
    table = folder / "data" / "table.csv"
    frame = tiny_table(folder / "data", rows=240, classes=("ill", "well"))
    frame["age"] = np.random.default_rng(1).normal(50, 9, len(frame)).round(1)
    frame.to_csv(table, index=False)
    aim = {"evaluate__aim": "sensitivity >= 0.95", "evaluate__positive": "ill", "evaluate__neighbours": True}
    given = settings(folder / "store", views=1, **aim)
    how: dict[str, Any] = {"vectors": {"genes": "v_*"}, "group": "patient", "split": "part", "quiet": True}
    sets = ["evaluate.baselines=false", "train.epochs=1"]
    run = fusetune.fit(table, "organ", config=given, sets=sets, out=folder / "run", **how)
    fresh = tiny_table(folder / "fresh", rows=240, classes=("ill", "well"), seed=7)
    fresh["scan"] = [str(folder / "fresh" / name) for name in fresh["scan"]]
    fresh["age"] = np.random.default_rng(2).normal(50, 9, len(fresh)).round(1)
    return Made(run, table, fresh)


def with_threshold(model: fusetune.Model, threshold: float | None) -> fusetune.Model:
    return replace(model, calibration=replace(model.calibration, threshold=threshold))


@pytest.mark.parametrize("threshold", [0.02, 0.5, 0.97])
def test_every_answer_follows_the_threshold(made: Made, threshold: float) -> None:
    model = with_threshold(made.model, threshold)
    p = model.predict_proba(made.fresh)["ill"].to_numpy()
    expected = np.where(p >= threshold, "ill", "well")
    assert model.predict(made.fresh).tolist() == expected.tolist()
    table = model.predict_table(made.fresh)
    assert table["prediction"].tolist() == expected.tolist()
    np.testing.assert_allclose(table["probability"], np.where(p >= threshold, p, 1 - p), atol=1e-12)
    assert model.rule.words == f"'ill' from a probability of {threshold:.4g}, for sensitivity >= 0.95"
    scores = model.evaluate(made.fresh)
    assert scores["rule"] == model.rule.words
    assert scores["accuracy"]["value"] == pytest.approx((expected == made.fresh["organ"]).mean())
    plain = np.where(p >= 0.5, "ill", "well")
    assert scores["most_probable"]["accuracy"]["value"] == pytest.approx((plain == made.fresh["organ"]).mean())
    rates = judge_threshold(threshold, p, (made.fresh["organ"] == "ill").to_numpy(), made.fresh["patient"])
    assert scores["threshold"]["sensitivity"]["value"] == pytest.approx(rates.sensitivity.value)
    row = str(made.fresh["case_id"].iloc[0])
    why = model.explain(made.fresh, row)
    assert why.decision == expected[0]
    assert sum(why.shares.values()) + why.prior == pytest.approx(why.probability, abs=1e-5)


def test_the_most_probable_class_can_be_asked_for(made: Made) -> None:
    model = with_threshold(made.model, 0.999999)
    p = model.predict_proba(made.fresh)["ill"].to_numpy()
    told = model.predict_table(made.fresh, by="most-probable")
    assert told["prediction"].tolist() == np.where(p >= 0.5, "ill", "well").tolist()
    assert model.predict_table(made.fresh)["prediction"].tolist() != told["prediction"].tolist()
    with pytest.raises(UserError, match="must be by one of judged, most-probable"):
        model.predict_table(made.fresh, by="chance")  # type: ignore[arg-type]


def test_a_threshold_out_of_reach_is_said(made: Made) -> None:
    model = with_threshold(made.model, None)
    assert (
        model.rule.words
        == "the most probable class, since no threshold reached sensitivity >= 0.95 on the validation rows"
    )
    assert "most_probable" not in model.evaluate(made.fresh)


def test_a_run_and_its_report_say_what_its_model_does(tmp_path: Path) -> None:
    """Matrix, recalls, accuracy, examples and mistakes are by the threshold that `predict` follows."""
    frame = tiny_table(tmp_path / "data", rows=240, classes=("ill", "well"))
    wrong = np.random.default_rng(3).random(len(frame)) < 0.3  # else every rule would decide the same
    frame["organ"] = np.where(wrong, np.where(frame["organ"] == "ill", "well", "ill"), frame["organ"])
    frame.to_csv(tmp_path / "data" / "table.csv", index=False)
    aim = {"evaluate__aim": "sensitivity >= 0.95", "evaluate__positive": "ill", "evaluate__baselines": False}
    given = settings(tmp_path / "store", views=1, **aim)
    how: dict[str, Any] = {"inputs": ["note", "age"], "group": "patient", "split": "part", "quiet": True}
    how |= {"strategy": "linear-probe", "config": given, "out": tmp_path / "run"}
    run = fusetune.fit(tmp_path / "data" / "table.csv", "organ", **how)
    model, threshold = run.model, run.model.calibration.threshold
    assert threshold is not None
    written = pd.read_parquet(run.folder / "predictions.parquet")
    test = written[written["part"] == "test"]
    assert (test["prediction"] == np.where(test["p(ill)"] >= threshold, "ill", "well")).all()
    plain = np.where(test["p(ill)"] > 0.5, "ill", "well")
    assert (test["prediction"] != plain).any()  # else the two rules could not be told apart
    right = test["prediction"] == test["label"]
    assert run.metrics["rule"] == model.rule.words
    assert run.metrics["acted"]["accuracy"]["value"] == pytest.approx(right.mean())
    assert run.metrics["test"]["accuracy"]["value"] == pytest.approx((plain == test["label"]).mean())
    table, recalls = run.confusion(), run.recalls()
    for name in ("ill", "well"):
        assert recalls.loc[name, "value"] == pytest.approx(table.loc[name, name] / table.loc[name].sum())
    sensitivity = run.metrics["threshold"]["sensitivity"]["value"]
    assert recalls.loc["ill", "value"] == pytest.approx(sensitivity)
    assert f"{right.mean():.1%}" in run.summary().splitlines()[0]
    assert model.rule.words in run.summary()
    page = html.unescape(run.report.read_text(encoding="utf-8"))
    assert f'<p class="big">{100 * right.mean():.1f}\N{NO-BREAK SPACE}%</p>' in page
    assert f"It decides {model.rule.words}." in page
    for actual in ("ill", "well"):
        for said in ("ill", "well"):
            rows = table.loc[actual, said]
            assert f'title="{actual} decided as {said}: {rows} of {table.loc[actual].sum()}"' in page
    told = dict(zip(test["row_id"], test["prediction"], strict=True))
    cases = re.findall(r"said <b>(\w+)</b>.*?Row ([\w-]+)", page, re.DOTALL)
    assert cases
    assert all(told[row] == said for said, row in cases)


def test_the_run_writes_the_predictions_of_its_model(made: Made) -> None:
    written = pd.read_parquet(made.run.folder / "predictions.parquet").set_index("row_id")
    told = fusetune.load(made.run.folder).predict_table(made.table).set_index("row_id").loc[written.index]
    assert told["prediction"].tolist() == written["prediction"].tolist()


def test_sets_hold_the_classes_that_the_thresholds_say(made: Made) -> None:
    told = {level: made.model.predict_table(made.fresh, sets=level) for level in (0.5, 0.9, 0.905, 0.99)}
    p = told[0.9][["p(ill)", "p(well)"]].to_numpy()
    pattern = np.full(len(p), " + ".join(made.model.readers))
    for level, frame in told.items():
        within = sets_at(made.model.calibration.conformal, level, p, pattern)
        expected = [[name for name, has in zip(("ill", "well"), row, strict=True) if has] for row in within]
        assert [json.loads(text) for text in frame["set"]] == expected
        assert frame["set_size"].tolist() == [len(names) for names in expected]
    sizes = [frame["set_size"].to_numpy() for frame in told.values()]
    assert all((a <= b).all() for a, b in pairwise(sizes))
    assert (sizes[-1] == 2).all()  # 99 % is more than so few validation groups can promise


def test_margins_are_distances_from_another_decision(made: Made) -> None:
    told = made.model.predict_table(made.fresh, margin=0.3)
    p, limit = told["p(ill)"].to_numpy(), made.model.calibration.threshold
    assert limit is not None
    np.testing.assert_allclose(told["margin"], np.abs(p - limit), atol=1e-12)
    assert told["abstain"].tolist() == (told["margin"] < 0.3).tolist()
    plain = made.model.predict_table(made.fresh, margin=0.3, by="most-probable")
    np.testing.assert_allclose(plain["margin"], np.abs(2 * p - 1), atol=1e-9)


def test_pictures_and_texts_of_another_world_are_unlike(made: Made, tmp_path: Path) -> None:
    usual = made.model.predict_table(made.fresh, unlike=True)
    shares = usual[[f"as_far({name})" for name in made.model.readers]].to_numpy()
    assert ((shares > 0) & (shares <= 1)).all()
    assert (usual["unlike"] != "").mean() < 0.2
    odd = made.fresh.copy()
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3)).astype(np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    odd.loc[3, "scan"] = str(tmp_path / "noise.png")
    odd.loc[4, "v_0"] = 30.0
    odd.loc[5, "note"] = None
    told = made.model.predict_table(odd, unlike=True)
    assert told.loc[3, "unlike"].startswith("scan (")
    assert told.loc[4, "unlike"].startswith("genes (")
    assert np.isnan(told.loc[5, "as_far(note)"])
    same = [row for row in range(len(odd)) if row not in (3, 4, 5)]
    pd.testing.assert_series_equal(told["as_far(scan)"][same], usual["as_far(scan)"][same], atol=1e-6)


def test_drift_is_found_where_it_is(made: Made) -> None:
    plain = made.model.drift(made.fresh)
    assert not any(shift.shown for shift in plain.shifts if shift.name in ("age", "site", "organ"))
    moved = made.fresh.assign(age=made.fresh["age"] + 15)
    found = {shift.name: shift for shift in made.model.drift(moved).shifts}
    assert found["age"].shown
    assert "age" in found["age"].words or "of the rows" in found["age"].words
    assert not found["site"].shown
    assert found["columns"].p < 0.05
    assert "farther" in found["columns"].words
    assert any(line.startswith("  column age: ") for line in made.model.drift(moved).lines())
    ill = made.fresh[made.fresh["organ"] == "ill"]
    tilted = made.model.drift(ill)
    (decisions,) = [shift for shift in tilted.shifts if shift.kind == "decisions"]
    assert decisions.shown
    assert tilted.estimated is not None
    assert tilted.estimated["ill"] > 0.8
    assert sum(tilted.decided.values()) == pytest.approx(1)
    few = made.model.drift(made.fresh.head(6))
    assert few.shifts == []
    assert "too few to be compared" in few.lines()[-1]
    assert repr(few).startswith("Drift(6 rows: ") and "too few" in few._repr_html_()


def test_a_place_that_cannot_be_written_is_told_before_a_row_is_predicted(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def predicted(*_: Any, **__: Any) -> Any:
        raise AssertionError("a row was predicted")

    made.fresh.head(2).to_csv(tmp_path / "new.csv", index=False)
    monkeypatch.setattr(fusetune.Model, "answered", predicted)
    where = ["--out", str(tmp_path / "told.csv"), "--drift", "/proc/nowhere/drift.json"]
    result = CliRunner().invoke(app, ["predict", str(made.run.folder), str(tmp_path / "new.csv"), *where])
    assert result.exit_code == 2, result.output
    assert "/proc/nowhere" in result.output
    assert not (tmp_path / "told.csv").exists()


def test_rows_that_the_model_was_made_from_do_not_count_as_near(made: Made) -> None:
    drift = made.model.drift(made.table)
    assert {shift.name for shift in drift.shifts if shift.kind == "modality"} == set()


def test_pieces_are_the_whole(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    table = made.fresh.copy()
    table.loc[[7, 100], "note"] = None
    table.loc[33, "scan"] = "nowhere.png"
    table.index = pd.Index([f"row {i}" for i in range(len(table))])
    how: dict[str, Any] = {"sets": 0.9, "margin": 0.1, "unlike": True}
    with warnings.catch_warnings(record=True) as once:
        warnings.simplefilter("always")
        whole = made.model.predict_table(table, **how)
        proba, drift = made.model.predict_proba(table), made.model.drift(table)
    monkeypatch.setattr(answering, "PIECE", 16)
    with warnings.catch_warnings(record=True) as twice:
        warnings.simplefilter("always")
        pieces = made.model.predict_table(table, **how)
        again, drifted = made.model.predict_proba(table), made.model.drift(table)
    pd.testing.assert_frame_equal(whole, pieces, atol=1e-5)
    pd.testing.assert_frame_equal(proba, again, atol=1e-6)
    assert [str(one.message) for one in once] == [str(one.message) for one in twice]
    assert "row(s) 33: nowhere.png" in str(once[0].message)
    assert [(s.name, s.shown) for s in drift.shifts] == [(s.name, s.shown) for s in drifted.shifts]
    assert len(list(made.model.predict_pieces(table))) == 15
    with pytest.raises(UserError, match=r"row\(s\) 33: nowhere\.png"):
        made.model.predict(table, "raise")


@pytest.fixture(scope="module")
def files(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fresh rows in a folder of three files, with a column that no model reads, a lost picture and a twin's id."""
    folder = tmp_path_factory.mktemp("files")
    frame = made.fresh.assign(ballast="x")
    frame.loc[33, "scan"], frame.loc[7, "case_id"], frame.loc[20, "note"] = "nowhere.png", "case-001", None
    for part, rows in enumerate(np.split(np.arange(240), [100, 130])):
        frame.iloc[rows].to_parquet(folder / f"{part}.parquet", row_group_size=17)
    return folder


def test_files_are_predicted_as_the_table_and_held_piece_by_piece(
    made: Made, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answering, "PIECE", 32)
    how: dict[str, Any] = {"unlike": True, "margin": 0.2}
    held, most, asked = [0], [0], list[set[str]]()

    def release(rows: int) -> None:
        held[0] -= rows

    def counted(stored: Any, size: int, columns: set[str]) -> Any:
        asked.append(columns)
        for table in read_pieces(stored, size, columns):
            held[0] += len(table)
            weakref.finalize(table, release, len(table))
            most[0] = max(most[0], held[0] if "scan" in columns else 0)
            yield table

    with pytest.warns(InputWarning) as whole:
        expected = made.model.predict_table(read_dataset(as_dataset(files)).frame, **how)  # type: ignore[arg-type]
    monkeypatch.setattr("fusetune.handing.read_pieces", counted)
    with pytest.warns(InputWarning) as streamed:
        told = made.model.predict_table(files, **how)
    pd.testing.assert_frame_equal(told, expected.reset_index(drop=True), check_exact=True)
    said = [str(one.message).partition(":")[2] for one in (*whole, *streamed)]
    assert said[0] == said[1]
    assert "repeats case-001, 2 rows in all" in said[0]
    assert most[0] <= 2 * 32, "rows of one piece, while the next is read"
    assert not any("ballast" in columns or "organ" in columns for columns in asked)
    assert made.model.predict(files, "mask").tolist() == expected["prediction"].tolist()


def test_a_piece_knows_where_its_rows_stand_in_the_whole(made: Made, files: Path) -> None:
    stored, model = as_dataset(files), made.model
    assert stored is not None
    pieces = list(Streamed.of(stored, model.schema, model.readers, model.runtime).pieces(64))
    assert [(piece.start, len(piece)) for piece in pieces] == [(0, 64), (64, 64), (128, 64), (192, 48)]


def test_a_cluster_is_handed_the_same_pieces(
    made: Made, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answering, "PIECE", 64)
    asked, stored = Asked(made.run.folder, made.model, Extras(), rows=64), as_dataset(files)
    assert stored is not None
    with pytest.warns(InputWarning) as here:
        expected = made.model.predict_table(files)
    with (
        pytest.warns(InputWarning) as there,
        predicted(asked, stored, tmp_path / "chunks", Here()) as found,
    ):
        told = pd.concat(list(found.pieces), ignore_index=True)
    assert found.outcome.chunks == 4
    pd.testing.assert_frame_equal(told, expected, check_exact=True)
    assert [str(one.message) for one in here] == [str(one.message) for one in there]


def test_files_whose_cells_hang_together_are_read_at_once(made: Made, files: Path) -> None:
    stored = as_dataset(files)
    assert stored is not None
    assert made.model.why_together(stored) is None
    words = replace(
        stored, schema=stored.schema.set(stored.schema.get_field_index("age"), pa.field("age", pa.string()))
    )
    assert "how column 'age' (string) is written shows in all rows only" in str(made.model.why_together(words))


@pytest.mark.parametrize(("cells", "fitting"), [([7, 7, 0, 1, 1, 0], True), ([0, 1, 7, 7, 7, 7], False), ([7], True)])
def test_values_of_another_kind_are_counted_over_all_pieces(
    made: Made, tmp_path: Path, cells: list[int], fitting: bool
) -> None:
    frame = pd.DataFrame({"b": cells})
    assert fits(frame["b"], Kind.BOOLEAN) == fitting
    frame.to_parquet(tmp_path / "t.parquet")
    stored = as_dataset(tmp_path / "t.parquet")
    assert stored is not None
    schema = Schema(columns=[Column(name="b", kind=Kind.BOOLEAN, role="input", reason="given")])
    pieces = Streamed.of(stored, schema, {}, made.model.runtime).pieces(2)
    with nullcontext() if fitting else pytest.raises(SchemaError) as caught:
        list(pieces)
    if caught is not None:
        with pytest.raises(SchemaError) as whole:
            schema.check(read_dataset(stored))
        assert str(caught.value) == str(whole.value)


def test_the_command_streams_files_or_writes_nothing(made: Made, files: Path, ask: Any, tmp_path: Path) -> None:
    code, said, _ = ask("predict", made.run.folder, files, "--out", tmp_path / "told.parquet", "--on-problem", "mask")
    assert code == 0
    assert "held in memory at once" not in said
    told = pd.read_parquet(tmp_path / "told.parquet")
    assert told["row_id"].tolist() == pd.concat(map(pd.read_parquet, sorted(files.glob("*"))))["case_id"].tolist()
    broken = tmp_path / "broken"
    shutil.copytree(files, broken)
    content = bytearray((broken / "2.parquet").read_bytes())
    place = pq.read_metadata(broken / "2.parquet").row_group(3).column(1).data_page_offset
    content[place : place + 40] = b"\xff" * 40
    (broken / "2.parquet").write_bytes(content)
    code, _, err = ask("predict", made.run.folder, broken, "--out", tmp_path / "none.parquet", "--on-problem", "mask")
    assert code == 2
    assert "2.parquet cannot be read" in err
    assert not (tmp_path / "none.parquet").exists()


def test_an_old_model_says_what_it_cannot_give() -> None:
    model, rows = fusetune.load(OLD / "model"), OLD / "rows.csv"
    assert model.rule.words == "the most probable class"
    assert set(model.predict_table(rows, sets=0.9, margin=0.5)) >= {"set", "set_size", "margin", "abstain"}
    with pytest.raises(UserError, match=r"knows prediction sets for 0\.9 only; ask for that, or fit it again"):
        model.predict_table(rows, sets=0.8)
    for ask in (lambda: model.predict_table(rows, unlike=True), lambda: model.drift(rows)):
        with pytest.raises(UserError, match="keeps nothing of its training part"):
            ask()


@pytest.mark.parametrize("option", ["sets", "margin"])
@pytest.mark.parametrize("value", ["0.9", True, [0.9]])
def test_an_option_that_is_no_number_is_refused(made: Made, option: str, value: Any) -> None:
    with pytest.raises(UserError, match=f"{option} must be a number, such as {option}=0.9, not "):
        made.model.predict_table(made.fresh, **{option: value})


def test_a_page_says_that_a_threshold_decided(made: Made) -> None:
    row = str(made.fresh["case_id"].iloc[0])
    p = float(made.model.predict_proba(made.fresh.iloc[[0]])["ill"].iloc[0])
    assert "It is not the most probable class" not in with_threshold(made.model, 0.5).explain(made.fresh, row).html()
    model = with_threshold(made.model, p / 2 if p < 0.5 else (1 + p) / 2)
    page = html.unescape(model.explain(made.fresh, row).html())
    assert f"It is not the most probable class:</b> the model decides by {model.rule.words}." in page


@pytest.mark.parametrize("sets", [0.49, 1.0, -1.0, float("nan"), float("inf"), 1e300])
def test_a_coverage_out_of_range_is_refused(made: Made, sets: float) -> None:
    with pytest.raises(UserError, match=r"hold the label with 0\.5 to 0\.999"):
        made.model.predict_table(made.fresh, sets=sets)


@pytest.mark.parametrize("margin", [-0.1, 1.1, float("nan"), float("inf")])
def test_a_margin_out_of_range_is_refused(made: Made, margin: float) -> None:
    with pytest.raises(UserError, match="is no distance of two probabilities"):
        made.model.predict_table(made.fresh, margin=margin)


def change(folder: Path, file: str, content: bytes, facts_of: Any = lambda facts: None) -> None:
    """Replace a file of a model as a program that means harm would: the manifest speaks of the new one."""
    import hashlib

    (folder / file).write_bytes(content)
    facts = json.loads((folder / "bundle.json").read_text(encoding="utf-8"))
    facts.pop("checksum")
    facts["files"][file] = hashlib.sha256(content).hexdigest()
    facts_of(facts)
    facts["checksum"] = facts_hash(facts)
    (folder / "bundle.json").write_text(json.dumps(facts), encoding="utf-8")


@pytest.mark.parametrize(
    ("file", "harm"),
    [
        ("reference.json", lambda text: b"{}"),
        ("reference.json", lambda text: b"[" * 100_000),
        ("reference.json", lambda text: text.replace(b'"age"', b'"aged"')),
        ("reference.json", lambda text: text.replace(b'"counts":[', b'"counts":[-1,')),
        ("reference.json", lambda text: text.replace(b'"decided":[[', b'"decided":[[1],[')),
        ("reference.safetensors", lambda text: text[: len(text) // 2]),
        ("reference.safetensors", lambda text: text.replace(b"0.mean", b"9.mean")),
        ("reference.safetensors", lambda text: text[:-400] + b"\xff" * 400),
        ("neighbours.json", lambda text: text.replace(b'"case-', b'7, "case-', 1)),
        ("neighbours.json", lambda text: text.replace(b'"0"', b'"9"')),
        ("neighbours.json", lambda text: b"{}"),
        ("neighbours.json", lambda text: b"[]"),
    ],
)
def test_a_damaged_reference_is_no_model(made: Made, tmp_path: Path, file: str, harm: Any) -> None:
    model = Path(shutil.copytree(made.run.folder / "model", tmp_path / "model"))
    change(model, file, harm((model / file).read_bytes()))
    with pytest.raises(BundleError):
        fusetune.load(model)


@pytest.mark.parametrize("threshold", [-0.1, 1.5, "NaN"])
def test_a_threshold_that_is_none_is_refused(made: Made, tmp_path: Path, threshold: Any) -> None:
    model = Path(shutil.copytree(made.run.folder / "model", tmp_path / "model"))

    def facts_of(facts: dict[str, Any]) -> None:
        facts["calibration"]["threshold"] = threshold

    change(model, "config.yaml", (model / "config.yaml").read_bytes(), facts_of)
    with pytest.raises(BundleError):
        fusetune.load(model)


def test_half_a_reference_is_refused(made: Made, tmp_path: Path) -> None:
    model = Path(shutil.copytree(made.run.folder / "model", tmp_path / "model"))
    change(
        model, "config.yaml", (model / "config.yaml").read_bytes(), lambda facts: facts["files"].pop("reference.json")
    )
    with pytest.raises(BundleError, match=r"does not list reference\.json"):
        fusetune.load(model)


def test_a_model_without_a_reference_is_loaded_and_smaller(made: Made, tmp_path: Path) -> None:
    from fusetune.bundle import save_bundle

    save_bundle(replace(made.model, reference=None), tmp_path / "model")
    model = fusetune.load(tmp_path / "model")
    assert model.reference is None
    again = fusetune.load(made.run.folder)
    assert again.reference is not None
    told = [model.predict_table(made.fresh, unlike=True) for model in (again, made.model)]
    pd.testing.assert_frame_equal(*told, check_exact=True)


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["fusetune", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            cli.main()
        told = capsys.readouterr()
        return int(stop.value.code or 0), told.out, told.err

    return run


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".jsonl"])
def test_the_command_gives_what_the_library_gives(
    made: Made, ask: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    monkeypatch.setattr(answering, "PIECE", 50)
    made.fresh.to_parquet(tmp_path / "fresh.parquet")
    out, drift = tmp_path / f"told{suffix}", tmp_path / "deep" / "drift.json"
    words = ["predict", made.run.folder, tmp_path / "fresh.parquet", "--out", out]
    code, said, err = ask(*words, "--sets", "0.9", "--margin", "0.2", "--unlike", "--drift", drift)
    assert (code, err) == (0, "")
    readers = {".csv": pd.read_csv, ".parquet": pd.read_parquet, ".jsonl": lambda p: pd.read_json(p, lines=True)}
    told = readers[suffix](out)
    expected = made.model.predict_table(made.fresh, sets=0.9, margin=0.2, unlike=True)
    assert list(told.columns) == list(expected.columns)
    assert told["row_id"].tolist() == made.fresh["case_id"].tolist()
    for name in ("prediction", "set", "set_size", "abstain"):
        assert told[name].tolist() == expected[name].tolist()
    np.testing.assert_allclose(told["as_far(scan)"], expected["as_far(scan)"], atol=1e-6)
    assert f"decided by {made.model.rule.words}" in said
    assert f"{int(expected['abstain'].sum()):,} rows closer to another decision than the margin" in said
    assert "drift: " in said
    assert json.loads(drift.read_text())["rows"] == 240
    if suffix == ".parquet":
        assert pq.ParquetFile(out).num_row_groups == 5


@pytest.mark.parametrize(
    ("more", "text"),
    [
        (["--sets", "2"], "hold the label with 0.5 to 0.999"),
        (["--sets", "nan"], "hold the label with 0.5 to 0.999"),
        (["--sets", "many"], "--sets"),
        (["--sets", "9" * 400], "hold the label with"),
        (["--margin", "-1"], "no distance of two probabilities"),
        (["--margin", "1e999"], "no distance of two probabilities"),
        (["--by", "chance"], "--by"),
        (["--drift", "OUT"], "name the same file"),
        (["--drift", "TABLE"], "is read; choose another name"),
        (["--drift", "/proc/drift.json"], "cannot write /proc/drift.json"),
    ],
    ids=lambda value: " ".join(value)[:30] if isinstance(value, list) else "",
)
def test_wrong_options_leave_nothing_behind(made: Made, ask: Any, tmp_path: Path, more: list[str], text: str) -> None:
    folder = tmp_path / "told"
    folder.mkdir()
    made.fresh.to_csv(tmp_path / "fresh.csv", index=False)
    places = {"OUT": str(folder / "told.csv"), "TABLE": str(tmp_path / "fresh.csv")}
    code, said, err = ask(
        "predict", made.run.folder, tmp_path / "fresh.csv", "--out", folder / "told.csv",
        *(places.get(word, word) for word in more),
    )  # fmt: skip
    assert code == 2
    assert text in err
    assert said == ""
    assert list(folder.iterdir()) == []
    assert (tmp_path / "fresh.csv").read_text().startswith("case_id,scan")


def test_an_old_model_is_no_reason_for_half_a_file(ask: Any, tmp_path: Path) -> None:
    for more in (["--unlike"], ["--drift", tmp_path / "drift.json"], ["--sets", "0.95"]):
        code, _, err = ask("predict", OLD / "model", OLD / "rows.csv", "--out", tmp_path / "told.csv", *more)
        assert code == 2
        assert "earlier version" in err
        assert list(tmp_path.iterdir()) == []


def test_a_command_says_its_steps_on_a_terminal(made: Made, ask: Any, tmp_path: Path, monkeypatch: Any) -> None:
    from fusetune import progress

    monkeypatch.setattr(progress.console, "_force_terminal", True)
    made.fresh.to_csv(tmp_path / "fresh.csv", index=False)
    code, _, err = ask("predict", made.run.folder, tmp_path / "fresh.csv", "--out", tmp_path / "told.csv")
    assert code == 0
    for line in (
        "step 1 of 3: starting up",
        "step 2 of 3: reading the model",
        "step 3 of 3: predicting the rows of fresh.csv",
    ):
        assert line in err


def test_the_table_that_lacks_a_column_is_warned_of_by_the_command(made: Made, ask: Any, tmp_path: Path) -> None:
    made.fresh.drop(columns="age").to_csv(tmp_path / "fresh.csv", index=False)
    words = ["predict", made.run.folder, tmp_path / "fresh.csv", "--out", tmp_path / "told.csv"]
    code, _, err = ask(*words)
    assert code == 0
    assert "age: not in the table, a missing cell of columns in every row" in err
    assert ask(*words, "--on-problem", "raise")[0] == 2
    assert ask(*words, "--on-problem", "mask")[2] == ""


def test_predict_is_warned_of_in_python_too(made: Made) -> None:
    with pytest.warns(InputWarning, match="scan: 1 of 240 cells"):
        made.model.predict(made.fresh.assign(scan=["nowhere.png", *made.fresh["scan"][1:]]))


def test_memory_holds_one_piece(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    alive: list[weakref.ref[Any]] = []
    outputs, most = answering.Answering.outputs, 0

    def watched(self: Any, *args: Any, **how: Any) -> Any:
        found = outputs(self, *args, **how)
        alive.append(weakref.ref(found.f))
        return found

    monkeypatch.setattr(answering, "PIECE", 16)
    monkeypatch.setattr(answering.Answering, "outputs", watched)
    for _ in made.model.predict_pieces(made.fresh, unlike=True, sets=0.9):
        most = max(most, sum(one() is not None for one in alive))
    assert len(alive) == 15
    assert most <= 2
