"""The diagnosis of saved models, from Python and from the command line: what it takes, refuses and leaves behind."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from tiny import settings, tiny_table

import fusetune
from fusetune import cli
from fusetune.data.table import read_table
from fusetune.encoders import Stacked
from fusetune.errors import InputWarning, RunError, TableError, UserError
from fusetune.evaluate import metrics
from fusetune.evaluate.diagnosis import CellMasks
from fusetune.evaluate.temperature import softmax
from fusetune.model import Model
from fusetune.report.diagnosis import render_diagnosis
from fusetune.targets.classification import Classification


@dataclass
class Made:
    folder: Path
    table: Path
    frame: pd.DataFrame

    def written(self, frame: pd.DataFrame, name: str) -> Path:
        path = self.table.with_name(name)
        frame.to_csv(path, index=False)
        return path

    @property
    def fresh(self) -> Path:
        return self.written(self.frame[self.frame["part"] == "test"], "fresh.csv")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Models of a joint strategy, of the same on stored features, and of an ensemble trained alone."""
    folder = tmp_path_factory.mktemp("diagnose")
    frame = tiny_table(folder / "data")
    frame.to_csv(folder / "data" / "table.csv", index=False)
    how: dict[str, Any] = {"vectors": {"genes": "v_*"}, "group": "patient", "split": "part", "quiet": True}
    given = settings(folder / "store", train__epochs=1, views=1, evaluate__baselines=False)
    strategies = {"run": {"name": "joint"}, "light": {"name": "joint", "level": "features"}, "ume": {"name": "ume"}}
    for name, strategy in strategies.items():
        fusetune.fit(folder / "data" / "table.csv", "organ", config=given, strategy=strategy, out=folder / name, **how)
    return Made(folder, folder / "data" / "table.csv", frame)


@pytest.fixture(scope="module")
def whole(made: Made) -> Any:
    return fusetune.load(made.folder / "run").diagnose(
        made.table, alone=fusetune.load(made.folder / "ume"), split=made.folder / "run" / "split.parquet"
    )


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("COLUMNS", "80")

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["fusetune", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            cli.main()
        told = capsys.readouterr()
        return int(stop.value.code or 0), told.out, told.err

    return run


def test_rows_that_the_model_knows_teach_the_probes_and_the_others_are_judged(made: Made, whole: Any) -> None:
    assert (whole.rows, whole.groups, whole.seen, whole.learnt) == (12, 6, 84, 72)
    assert not whole.judged_seen
    model, fresh = fusetune.load(made.folder / "run"), made.fresh
    scores = model.evaluate(fresh)
    assert whole.scores["nll"].value == pytest.approx(scores["nll"]["value"], rel=1e-4)
    assert [curve.name for curve in whole.incomplete.curves] == ["RVM", "RFM", "MIFM", "LIFM"]
    assert [one.modality for one in whole.laziness] == ["scan", "note", "columns", "genes"]
    for one in whole.laziness:
        assert (one.rows, one.groups, one.learnt, one.chosen) == (12, 6, 72, 12)
        assert [other.name for other in one.references] == ["before training", "alone"]
    assert len(whole.subsets) == 16
    assert [curve.name for curve in whole.noise] == ["scan", "note", "columns", "genes", "all inputs"]
    assert [one.lost for one in whole.certainty] == [None, "scan", "note", "columns", "genes"]


def test_a_modality_alone_is_what_its_network_says(made: Made, whole: Any) -> None:
    frame = pd.read_csv(made.fresh)
    ensemble, labels = fusetune.load(made.folder / "ume"), frame["organ"].map({"heart": 0, "liver": 1, "lung": 2})
    outputs = ensemble.outputs(ensemble.bind(ensemble.schema.read(read_table(made.fresh))), np.arange(12))
    for one in whole.laziness:
        p = softmax(outputs.f_m[one.modality].numpy(), ensemble.network.temperatures[one.modality])
        assert one.references[1].nll.value == pytest.approx(metrics.nll(p, labels.to_numpy()), rel=1e-4)


def test_everything_is_json_with_rows_groups_seed_and_intervals(whole: Any) -> None:
    values = whole.as_dict()
    assert json.loads(json.dumps(values, allow_nan=False)) == values
    assert {"rows": 12, "groups": 6, "seed": 0, "resamples": 100, "level": 0.95}.items() <= values.items()
    found = 0

    def look(node: Any) -> None:
        nonlocal found
        if isinstance(node, dict) and "value" in node:
            assert node.keys() == {"value", "low", "high"}
            assert node["low"] is None or node["low"] - 1e-9 <= node["high"]
            found += 1
        for below in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
            look(below)

    look(values)
    assert found > 500


def test_encoders_run_once_and_again_only_for_changed_inputs(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    model = fusetune.load(made.folder / "run")
    rows = {name: 0 for name, _ in model.network.members}
    for name, encoder in model.network.members:

        def counted(inputs: Any, own: Any = encoder.forward, name: str = name) -> Any:
            z = own(inputs)
            rows[name] += len(z)
            return z

        monkeypatch.setattr(encoder, "forward", counted)
    model.diagnose(made.table)
    # All rows once; of the 12 judged ones, pictures and texts at 4 levels of noise, cells in 4 ways at 9 rates.
    assert rows["scan"] == rows["note"] == 96 + 4 * 12
    assert rows["genes"] == 96
    assert 96 + 12 * 9 < rows["columns"] <= 96 + 12 * 36


def test_the_same_diagnosis_whatever_the_order_of_the_rows(made: Made, whole: Any) -> None:
    model = fusetune.load(made.folder / "run")
    order = np.random.default_rng(0).permutation(len(made.frame))
    mixed = model.diagnose(made.written(made.frame.iloc[order], "mixed.csv"))
    for one, other in zip(whole.noise + whole.missing, mixed.noise + mixed.missing, strict=True):
        for point, again in zip(one.points, other.points, strict=True):
            assert again.nll.value == pytest.approx(point.nll.value, abs=1e-4)


def test_a_model_on_stored_features_is_diagnosed_from_pictures_and_texts(made: Made) -> None:
    model = fusetune.load(made.folder / "light")
    stacked = [name for name, encoder in model.network.members if isinstance(encoder, Stacked)]
    assert stacked == ["scan", "note"]
    found = model.diagnose(made.table)
    assert {one.modality: [other.name for other in one.references] for one in found.laziness} == {
        name: ["before training"] for name in ("scan", "note", "columns", "genes")
    }
    assert found.noise[0].points[0].nll.value != found.noise[0].points[-1].nll.value
    assert "right on 12 rows" in repr(found) and "\n" not in repr(found)
    assert all(escape(name) in found._repr_html_() for name, _, _ in found.lines())


def test_new_rows_alone_have_no_probes_unless_training_rows_are_given(made: Made) -> None:
    model, fresh = fusetune.load(made.folder / "run"), made.fresh
    bare = model.diagnose(fresh)
    assert (bare.seen, bare.learnt, bare.laziness) == (0, 0, [])
    assert bare.incomplete is not None
    assert [curve.name for curve in bare.incomplete.curves] == ["RVM", "RFM"]
    assert any("no probes" in note for note in bare.notes)
    assert any("MIFM" in note for note in bare.notes)
    taught = model.diagnose(fresh, train=made.written(made.frame[made.frame["part"] != "test"], "known.csv"))
    assert (taught.rows, taught.learnt) == (12, 72)
    assert len(taught.laziness) == 4
    assert taught.incomplete is not None
    assert len(taught.incomplete.curves) == 4
    unsaid = made.written(made.frame[made.frame["part"] != "test"].drop(columns="part"), "unsaid.csv")
    divided = model.diagnose(made.written(pd.read_csv(fresh).drop(columns="part"), "bare.csv"), train=unsaid)
    sizes = divided.laziness[0].learnt, divided.laziness[0].chosen
    assert sum(sizes) == 84
    assert 8 <= sizes[1] <= 26  # a fifth of the groups


def test_rows_that_the_model_was_made_from_are_warned_of(made: Made) -> None:
    model = fusetune.load(made.folder / "run")
    known = made.written(made.frame[made.frame["part"] == "val"], "val.csv")
    with pytest.warns(InputWarning, match="all 12 rows have the inputs of rows that the model was made from"):
        found = model.diagnose(known)
    assert found.judged_seen
    assert (found.rows, found.seen) == (12, 12)
    assert "nothing on this page is about new rows" in render_diagnosis(found, "val.csv")


def test_rows_of_one_class_are_warned_of(made: Made) -> None:
    model, frame = fusetune.load(made.folder / "run"), pd.read_csv(made.fresh)
    one = made.written(frame[frame["organ"] == "heart"], "one.csv")
    with pytest.warns(InputWarning, match="all judged rows are of class heart"):
        found = model.diagnose(one)
    values = json.dumps(found.as_dict(), allow_nan=False)
    assert '"auroc": {"value": null' in values
    assert "Diagnosis of a model" in render_diagnosis(found, "one.csv")


def test_models_that_cannot_be_compared_are_refused(made: Made) -> None:
    model = fusetune.load(made.folder / "run")
    with pytest.raises(UserError, match="trained on several inputs together"):
        model.diagnose(made.table, alone=[model])
    other = fusetune.load(made.folder / "ume")
    other.target = Classification(["heart", "liver", "kidney"])
    with pytest.raises(UserError, match="knows the classes heart, liver, kidney"):
        model.diagnose(made.table, alone=[other])
    seen = fusetune.load(made.folder / "ume")
    seen.seen = np.concatenate([seen.seen, model._asked(made.fresh, "warn")[1].digests])
    with pytest.warns(InputWarning, match="was made from 12 of the judged rows"):
        model.diagnose(made.table, alone=[seen])


def test_masks_are_written_once_and_shared_by_models(made: Made, tmp_path: Path) -> None:
    path = tmp_path / "masks.parquet"
    first = fusetune.load(made.folder / "run").diagnose(made.table, masks=path)
    content = path.read_bytes()
    again = fusetune.load(made.folder / "run").diagnose(made.table, masks=path)
    assert path.read_bytes() == content
    assert again.incomplete == first.incomplete
    ids = made.frame["case_id"][made.frame["part"] == "test"].tolist()
    masks = CellMasks.load(path, ids, ["age", "site"])
    flipped = CellMasks(masks.rows, masks.columns, masks.chance, masks.orders, {"age": 0.0, "site": 1.0}, 99)
    flipped.save(path)
    assert fusetune.load(made.folder / "light").diagnose(made.table, masks=path).incomplete.seed == 99
    twice = made.written(pd.read_csv(made.fresh).assign(case_id="same"), "twice.csv")
    with pytest.raises(TableError, match="masks are kept by row id"):
        fusetune.load(made.folder / "run").diagnose(twice, masks=tmp_path / "none.parquet")
    assert not (tmp_path / "none.parquet").exists()


def test_the_command_writes_numbers_and_a_page(ask: Any, made: Made, whole: Any, tmp_path: Path) -> None:
    files = ["--json", tmp_path / "new" / "d.json", "--out", tmp_path / "d.html", "--masks", tmp_path / "m.parquet"]
    code, out, err = ask("diagnose", made.folder / "run", made.table, *files, "--alone", made.folder / "ume")
    assert (code, err) == (0, "")
    assert json.loads((tmp_path / "new" / "d.json").read_text()) == json.loads(json.dumps(whole.as_dict()))
    assert "12 rows in 6 groups" in out
    assert "empirical only: it certifies nothing" in out
    assert "84 further rows" in out
    page = (tmp_path / "d.html").read_text()
    assert page.count("<svg") == 4
    assert "certifies nothing" in page
    assert "the most important columns first" in page
    assert "<script" not in page
    assert "http" not in page.replace("http-equiv", "")
    assert (tmp_path / "m.parquet").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d.html", "m.parquet", "new"]


def test_a_page_shows_names_as_text(whole: Any) -> None:
    assert "<b>x</b>" not in render_diagnosis(whole, "<b>x</b>.csv")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda frame: frame.drop(columns="organ"), "organ"),
        (
            lambda frame: frame.assign(organ=[None, *frame["organ"].iloc[1:]]),
            "label column 'organ' is empty in row(s) 0",
        ),
        (lambda frame: frame.assign(organ="kidney"), "label column 'organ' holds kidney"),
        (lambda frame: frame.rename(columns={"age": "agee"}), "agee"),
        (lambda frame: frame.iloc[:0], "rows"),
    ],
)
def test_a_table_that_cannot_be_used_leaves_nothing_behind(
    ask: Any, made: Made, tmp_path: Path, change: Any, text: str
) -> None:
    table = made.written(change(pd.read_csv(made.fresh)), "bad.csv")
    words = ["--json", tmp_path / "d.json", "--out", tmp_path / "d.html", "--masks", tmp_path / "m.parquet"]
    code, out, err = ask("diagnose", made.folder / "run", table, *words)
    assert code == 2
    assert err.startswith("error: ")
    assert text in err
    assert out == ""
    assert list(tmp_path.iterdir()) == []


def test_wrong_files_are_refused_before_anything_is_written(ask: Any, made: Made, tmp_path: Path) -> None:
    run, fresh, same = made.folder / "run", made.fresh, tmp_path / "same"
    (tmp_path / "no.parquet").write_text("nothing")
    for words, text in (
        (["--json", same, "--out", same], "name the same file"),
        (["--masks", tmp_path / "no.parquet", "--out", same], "holds no masks of cells"),
        (["--json", fresh], "which is read"),
        (["--out", run / "metrics.json"], "choose another name"),
        (["--out", made.folder / "ume" / "metrics.json", "--alone", made.folder / "ume"], "choose another name"),
        (["--train", tmp_path / "lost.csv", "--out", same], "lost.csv"),
        (["--out", tmp_path / "no.parquet" / "d.html"], "cannot write"),
    ):
        code, _, err = ask("diagnose", run, fresh, *words)
        assert code == 2, err
        assert text in err
    assert [path.name for path in tmp_path.iterdir()] == ["no.parquet"]
    assert ask("diagnose", made.folder / "nowhere", made.fresh)[0] == 2


def test_a_changed_split_is_refused(ask: Any, made: Made) -> None:
    path = made.folder / "run" / "split.parquet"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    try:
        code, _, err = ask("diagnose", made.folder / "run" / "model", made.table)
    finally:
        path.write_bytes(content)
    assert code == 2
    assert "split.parquet was changed or damaged" in err


def test_a_failure_is_no_fault_of_the_input(
    ask: Any, made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise RunError("no finite probability")

    monkeypatch.setattr(Model, "certainty", broken)
    code, _, err = ask("diagnose", made.folder / "run", made.fresh, "--json", tmp_path / "d.json")
    assert (code, list(tmp_path.iterdir())) == (1, [])
    assert err.startswith("failed: ")


def test_rows_that_lack_an_input_do_not_count_where_it_misleads(made: Made) -> None:
    frame = pd.read_csv(made.fresh)
    frame.loc[:3, "note"] = np.nan
    frame.loc[4:5, "scan"] = np.nan
    found = fusetune.load(made.folder / "run").diagnose(made.written(frame, "lacking.csv"))
    assert {one.rows for one in found.interference if one.modality == "note"} == {8}
    assert {one.rows for one in found.interference if one.modality == "scan"} == {10}
    assert torch.isfinite(torch.tensor([curve.nll_area.value for curve in found.noise])).all()
