"""Names of a user's columns and classes: whatever they are, nothing of fusetune's own is taken for one of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import settings

import fusetune
from fusetune import api
from fusetune.augment.random import Moment
from fusetune.data.choices import Kind
from fusetune.data.schema import Column, Schema, free_name
from fusetune.data.table import read_table
from fusetune.encoders import Identity
from fusetune.estimator import FusionClassifier
from fusetune.files import cleaned, plain_name
from fusetune.folder import find_folder
from fusetune.heads.base import PRETRAINED, WORDS, drop_modalities
from fusetune.networks import Wiring
from fusetune.report.explanation import render_explanation
from fusetune.track import MLflow

NASTY = (
    "key words", "note", "note words", "note as pretrained", "note words′", "columns", "columns′", "whole", "a alone",
    "strategy umt", "two-stage", "a, fold 1 of 2", "a", "A", "a/b", "a b", "..", ".", "CON", "nul.txt", "self", "index",
    "row id", "prediction", "probability", "problem", "p(cat)", "items", "x" * 270, "𝒳" * 130, "<script>alert(1)",
    "</td>", "{{x}}", "{% raw %}", "$x$", "scan [/1]", "[bold]x[/bold]", "\u202eabc", "\x1b[31mred", "tab\there",
)  # fmt: skip
CLASSES = ("problem", "prediction", "row_id", "p(cat)", "<b>", "[/red]")


def table(texts: Sequence[str], numbers: Sequence[str], classes: Sequence[str], rows: int = 72) -> pd.DataFrame:
    """Return a table of columns that all tell the class, and its label, `the label`."""
    generator, code = np.random.default_rng(0), np.arange(rows) % len(classes)
    sounds = ("purrs", "barks", "sings", "moos", "neighs", "bleats")
    frame = pd.DataFrame(
        {name: [f"today it {sounds[k]}, they say, {generator.integers(99)}" for k in code] for name in texts}
        | {name: (3 * code + generator.normal(0, 2, rows)).round(2) for name in numbers}
    )
    frame["the label"] = [classes[k] for k in code]
    return frame


def kinds(texts: Sequence[str], numbers: Sequence[str]) -> dict[str, str]:
    return dict.fromkeys(texts, "text") | dict.fromkeys(numbers, "number")


TABLES: dict[str, tuple[tuple[str, ...], tuple[str, ...], dict[str, Any]]] = {
    "a text's own words": (("key words",), (), {"crossfit": {"how": "k", "folds": 2}}),
    "blocks": (
        ("note", "note words", "note as pretrained", "note words words"), ("age",),
        {"crossfit": {"how": "k", "folds": 2}, "head": {"pretrained": True}},
    ),
    "cells": (("columns", "whole"), ("self", "prediction", "problem", "probability"), {}),
    "stages": (
        ("strategy umt", "umt", "a, fold 1 of 2", "a"), ("head (mlp)",), {"strategy": {"name": "umt", "epochs": 1}},
    ),
    "folders and markup": (
        ("a/b", "a b", "..", "x" * 270, "<script>alert(1)</script>", "{{x}} $x$ [/b]", "\u202eabc\x1b[31m"),
        ("A", "a", "index", "items", "CON"), {},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TABLES)
def test_columns_of_any_name_train_resume_predict_and_explain(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts, numbers, more = TABLES[name]
    frame, strategy = table(texts, numbers, CLASSES[:3]), more.get("strategy")
    config = settings(tmp_path / "store", evaluate__baselines=True) | {k: v for k, v in more.items() if k != "strategy"}
    config["train"] = {"epochs": 1, "batch_size": 16, "patience": 0}
    how: dict[str, Any] = {"config": config, "kinds": kinds(texts, numbers), "strategy": strategy, "quiet": True}
    inputs = {*texts, "columns" if "columns" not in texts else "columns′"} - (set() if numbers else {"columns"})
    # Killed at the end of training, and gone on with: every stage is found again.
    with monkeypatch.context() as patch:
        patch.setattr(api, "judge", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            fusetune.fit(frame, "the label", out=tmp_path / "run", **how)
    run = fusetune.fit(frame, "the label", out=tmp_path / "run", resume=True, **how)
    whole = fusetune.fit(frame, "the label", out=tmp_path / "whole", **how)
    model = fusetune.load(tmp_path / "run")
    assert set(model.network.owners) == set(model.readers) == inputs
    told = model.predict_table(frame)
    assert list(told) == ["row_id", "prediction", "probability", *(f"p({c})" for c in sorted(CLASSES[:3])), "problem"]
    pd.testing.assert_frame_equal(told, whole.model.predict_table(frame))
    assert run.metrics["gain"] == whole.metrics["gain"]
    assert {f"{one} alone" for one in inputs} <= {row["name"] for row in run.metrics["gain"]}
    assert set(run.metrics["notes"]) == {*inputs, "whole′" if "whole" in texts else "whole"}
    explanation = model.explain(frame, "3")
    assert set(explanation.shares) == inputs
    for page in (run.report.read_text("utf-8"), render_explanation(explanation)):
        assert "<script>alert" not in page
        assert not {"\u202e", "\x1b"} & set(page)
    assert {share["modality"] for share in model.evaluate(frame)["shapley"]} == inputs


def on_two_columns(folder: Path, name: str) -> tuple[FusionClassifier, pd.DataFrame]:
    """Return a classifier on a column of a name and another one, and these."""
    frame = table([], [name, "other"], CLASSES[:2], rows=48)
    names = [column for column in frame if column != "the label"]
    config = settings(folder / "store", train__epochs=0)
    model = FusionClassifier(config=config, seed=0, kinds=kinds([], names)).fit(frame[names], frame["the label"])
    return model, frame[names]


@pytest.fixture(scope="module")
def plainly(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The probabilities of the same rows under a name that means nothing."""
    model, rows = on_two_columns(tmp_path_factory.mktemp("plain"), "plain")
    return model.predict_proba(rows)


@pytest.mark.parametrize("name", NASTY)
def test_predictions_and_cells_under_any_name(name: str, plainly: Any, tmp_path: Path) -> None:
    found, rows = on_two_columns(tmp_path, name)
    assert np.array_equal(found.predict_proba(rows), plainly)
    told = found.model_.predict_table(rows)
    assert list(told) == ["row_id", "prediction", "probability", "p(prediction)", "p(problem)", "problem"]


def test_probabilities_of_any_class_have_columns_of_their_own(tmp_path: Path) -> None:
    frame = table([], ["a", "b"], CLASSES)
    config = settings(tmp_path / "store", train__epochs=0, evaluate__baselines=False)
    run = fusetune.fit(frame, "the label", config=config, kinds=kinds([], ["a", "b"]), out=tmp_path / "run", quiet=True)
    told = run.model.predict_table(frame)
    assert told.columns.is_unique
    assert set(told["prediction"]) <= set(CLASSES)
    pd.testing.assert_frame_equal(
        told[[f"p({name})" for name in run.model.classes]].set_axis(run.model.classes, axis=1),
        run.model.predict_proba(frame),
    )
    kept = pd.read_parquet(run.folder / "predictions.parquet")
    assert list(kept) == ["row_id", "part", "label", "prediction", *(f"p({name})" for name in run.model.classes)]


@given(st.lists(st.text(max_size=3) | st.sampled_from(NASTY), max_size=8), st.sampled_from(NASTY))
def test_a_free_name_is_nobodys(taken: list[str], name: str) -> None:
    assert free_name(name, taken) not in taken
    assert name in taken or free_name(name, taken) == name


@given(st.lists(st.sampled_from(NASTY) | st.text(max_size=4), unique=True, min_size=1, max_size=8))
def test_blocks_of_inputs_of_any_names_have_names_of_their_own(names: list[str]) -> None:
    blocks = [*names, *(free_name(name + ending, names) for name in names for ending in (PRETRAINED, WORDS))]
    assert len(set(blocks)) == 3 * len(names)


@given(st.lists(st.sampled_from(NASTY), unique=True, min_size=3, max_size=6))
def test_inputs_of_any_names_have_names_of_their_own(names: list[str]) -> None:
    text, vector, *cells = names
    columns = [Column(name=text, kind=Kind.TEXT, role="input", reason="")]
    columns += [Column(name=vector, kind=Kind.VECTOR, role="input", reason="")]
    columns += [Column(name=name, kind=Kind.NUMBER, role="input", reason="") for name in cells]
    found = Schema(columns=columns).modalities()
    assert len(found) == 3
    assert {name: found[name].columns for name in (text, vector)} == {text: (text,), vector: (vector,)}
    (other,) = set(found) - {text, vector}
    assert found[other].columns == tuple(cells)
    assert other == "columns" or "columns" in (text, vector)


def test_blocks_belong_to_the_inputs_that_the_wiring_says() -> None:
    wiring = Wiring(["note", "note words", "note", "note"], {"note": [0], "note words": [1], "note words′": [2]},
                    {"note as pretrained": 3}, ["note", "note words′"])  # fmt: skip
    owners = {block: wiring.owner(block) for block in (*wiring.networks, *wiring.features)}
    assert owners == {
        "note": "note", "note words": "note words", "note words′": "note", "note as pretrained": "note",
    }  # fmt: skip
    assert Identity(3).dim == 3


def test_blocks_of_one_input_are_dropped_together() -> None:
    present = {name: np.ones(400, dtype=bool) for name in ("note", "note words", "note words′")}
    kept = drop_modalities(present, torch.arange(400), Moment(0), 1.0, {"note words′": "note"})
    assert np.array_equal(kept["note"], kept["note words′"])
    assert not np.array_equal(kept["note"], kept["note words"])
    assert (kept["note"] | kept["note words"]).all()


@given(st.lists(st.text(max_size=80) | st.sampled_from(NASTY), unique=True, min_size=2, max_size=6))
def test_names_of_folders_are_short_and_tell_texts_apart(texts: list[str]) -> None:
    names = [plain_name(text) for text in texts]
    assert len(set(names)) == len(texts)
    for name in (*names, *map(cleaned, texts)):
        assert len(name.encode()) < 255
        assert not set(name) & set('/\\:*?"<>|\0 \n')
        assert name not in (".", "..")
        assert name.split(".")[0].lower() not in ("con", "nul", "aux", "prn", "com1", "lpt9")


@pytest.mark.parametrize("text", ["t-organ", "scans-diagnosis", "data.v1-label_2", "naïve-é"])
def test_names_of_folders_are_the_texts_where_they_can_be(text: str) -> None:
    assert plain_name(text) == cleaned(text) == text


@pytest.mark.parametrize("label", NASTY)
def test_a_run_has_a_folder_whatever_its_label_is(label: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = find_folder(None, read_table(pd.DataFrame({label: [1]})), label, False)
    assert not found.exists()
    found.mkdir(parents=True)  # which every name of a folder must stand
    assert found.parent.resolve() == tmp_path / "runs"


@given(st.lists(st.sampled_from(NASTY), unique=True, min_size=1, max_size=6))
def test_numbers_in_mlflow_have_names_that_it_takes(stages: list[str]) -> None:
    sink = MLflow.__new__(MLflow)
    sink.names = {}
    names = {stage: sink._name(f"{stage}/valid_nll") for stage in (*stages, *stages)}
    assert len(set(names.values())) == len(stages)
    assert all(
        name.endswith("/valid_nll") and len(name) < 240 and not name.startswith((".", "/")) for name in names.values()
    )
