"""FPUS23's four tasks as one of several labels, on drawn frames of which everything is known exactly."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fpus23_structures import left_out, scores
from made import HEAD, IMAGE, command, frozen, lab, recipe, run
from scipy.special import expit
from sklearn.metrics import f1_score
from tiny import settings

import fusetune
from fusetune.errors import UserError
from fusetune.targets.multilabel import split_labels
from fusetune_papers.datasets.fpus23 import STRUCTURES, TASKS, fpus23_table
from fusetune_papers.phantom.draw import write_phantom
from fusetune_papers.phantom.knobs import COMBINATIONS, Knobs
from fusetune_papers.reproduce.flaws import FPUS23, PHANTOM, flaws_of
from fusetune_papers.reproduce.head import fuse, published_layer
from fusetune_papers.reproduce.material import Material, load_material
from fusetune_papers.reproduce.recipe import Printed

KNOBS = Knobs(streams=12, frames=16, difficulty=0.0, image_share=1.0, metadata_share=0.0, text_share=0.0, width=64,
              combinations=True)  # fmt: skip
NONE = 1 / COMBINATIONS


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_phantom(tmp_path_factory.mktemp("structures") / "synthetic", KNOBS)


@pytest.fixture(scope="module")
def material(folder: Path) -> Material:
    return load_material(PHANTOM, folder, STRUCTURES)


def bits(cells: pd.Series) -> np.ndarray:
    return np.array([[task in (split_labels(cell) or ()) for task in TASKS] for cell in cells])


def test_a_fit_on_pictures_tells_what_is_in_unseen_streams(folder: Path, tmp_path: Path) -> None:
    table = fpus23_table(folder, task=STRUCTURES)
    given = settings(
        tmp_path / "store", strategy__name="linear-probe", image__encode_size=64, evaluate__aim="even odds"
    )  # fmt: skip
    done = fusetune.fit(table, STRUCTURES, inputs=["image"], group="stream", split="split", config=given,
                        out=tmp_path / "run", quiet=True)  # fmt: skip
    said = pd.read_parquet(done.folder / "predictions.parquet").query("part == 'test'")
    there = bits(said["label"])
    assert there.mean(0).tolist() == [0.5] * 4
    assert [row["rows"] for row in done.metrics["each"]] == [len(said) / 2] * 4
    gain = {row["name"]: row["label_accuracy"]["value"] for row in done.metrics["gain"]}
    assert gain["majority"] == 0.5
    found = done.metrics["test"]
    assert found["label_accuracy"]["low"] > 0.5
    assert found["subset_accuracy"]["value"] > 2 * NONE
    called = bits(said["prediction"])
    assert found["macro_f1"]["value"] == pytest.approx(f1_score(there, called, average="macro"))
    assert (~called).all(1).any(), "no structure at all is an answer"


def test_both_forms_are_judged_by_label_and_the_baselines_are_exact(material: Material, tmp_path: Path) -> None:
    image = IMAGE.model_copy(update={"epochs": 1})
    plans = [recipe(stage="image", image=image, head=None), recipe(image=image, views=1)]
    for flaws in (flaws_of(PHANTOM), frozenset[str]()):
        series = run(material, plans, flaws, tmp_path)
        for outcome in series.outcomes:
            assert outcome.score == "label_accuracy"
            each = [outcome.scores[f"accuracy of {task}"].value for task in TASKS]
            assert outcome.test.value == pytest.approx(np.mean(each))
            assert outcome.scores["subset_accuracy"].value <= min(each)
        json.dumps([outcome.as_dict() for outcome in series.outcomes])
    # Whatever is said of a whole stream is right in half of its frames, and in full in one of sixteen.
    assert series.facts is not None
    for found in (series.facts.majority, series.facts.side_alone):
        assert found["label_accuracy"].value == 0.5
        assert found["subset_accuracy"].value == NONE
    assert series.facts.constants == (0.5, 0.5)
    assert series.facts.nearest == 0.5
    json.dumps(series.facts.as_dict())


def test_one_step_of_the_published_head_is_that_of_four_logistic_regressions(
    material: Material, tmp_path: Path
) -> None:
    whole = recipe(head=HEAD.model_copy(update={"epochs": 1, "batch_size": 1000, "lr": 5e-4}), side=())
    made = lab(material, tmp_path, "L16")
    image = frozen(made, whole)
    predict = fuse(image, whole, {})
    rows, valid = made.parts.head, made.parts.valid
    x = image.views(rows, 1, 1000)[0].astype(np.float64)
    layer = published_layer(x.shape[1], 4, made.seed)
    W, b = layer.weight.detach().numpy(), layer.bias.detach().numpy()
    error = expit(x @ W.T + b) - material.labels[rows]
    W, b = W - 5e-4 * error.T @ x / len(rows), b - 5e-4 * error.mean(0)
    assert np.abs(predict(valid) - expit(image.plain(valid, "again") @ W.T + b)).max() < 1e-10


def test_the_command_prints_what_hangs_on_several_labels(folder: Path) -> None:
    code, text = command("phantom", "--data", str(folder), "--task", STRUCTURES, "--quick", "--recipe", "sound",
                         "--only", "phantom-image")  # fmt: skip
    words = " ".join(text.split())
    assert code == 0
    assert "test label accuracy with its 95 % interval" in words
    assert "structures, sound, the most frequent answer: all right 0.0625 [" in words
    assert "structures, sound, image alone, fine-tuned: all right" in words
    assert "accuracy of legs" in words


def test_what_a_notebook_printed_stands_beside_its_own_task(
    material: Material, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def guess(image: object, plan: object, side: object) -> object:
        return lambda rows: np.full((len(rows), 4), 0.5)

    monkeypatch.setattr("fusetune_papers.reproduce.series.fuse", guess)
    monkeypatch.setattr("fusetune_papers.reproduce.series.facts_of", lambda _: None)
    plan = recipe(image=None, printed=Printed(kept={"test": 0.9, "valid": 0.8}, rows=9))
    published = {
        task: run(replace(material, data=FPUS23, task=task), [plan], frozenset(), tmp_path).outcomes[0].published
        for task in ("head", STRUCTURES)
    }
    assert published == {"head": 0.9, STRUCTURES: None}


def test_scores_of_the_benchmark_are_those_of_scikit_learn() -> None:
    generator = np.random.default_rng(0)
    there, called = generator.random((2, 60, 4)) < 0.4
    found = scores(called, there, np.arange(60) // 6)
    assert found["macro F1"].value == pytest.approx(f1_score(there, called, average="macro"))
    assert found["F1 legs"].value == pytest.approx(f1_score(there[:, 3], called[:, 3]))
    assert found["F1 legs"].low < found["F1 legs"].value < found["F1 legs"].high
    assert found["label accuracy"].value == pytest.approx((there == called).mean())
    assert found["all four right"].value == pytest.approx((there == called).all(1).mean())


def test_the_real_frames_hold_several_structures(shared_data: object) -> None:
    source = shared_data("fpus23_annotations")  # type: ignore[operator]
    material = load_material(FPUS23, source, STRUCTURES)
    frame = material.table.frame
    there = frame[[*TASKS]].to_numpy(dtype=bool)
    assert (bits(frame[STRUCTURES]) == there).all()
    assert material.target.names == sorted(TASKS)
    assert (material.labels == frame[sorted(TASKS)].to_numpy()).all()
    assert (~there).all(1).sum() == 5658
    with pytest.raises(UserError, match="no folder four_poses with pictures"):
        fpus23_table(source, task=STRUCTURES)
    said = left_out(material, there)
    # By hand: the four frequencies of the other streams around the head, of one of them.
    stream = "stream_huvf_aroundhead_h"
    others = frame[(frame["location"] == "aroundhead") & (frame["stream"] != stream)]
    own = np.flatnonzero(frame["stream"] == stream)[0]
    np.testing.assert_allclose(said["location"][own], others[[*TASKS]].mean())
    most = others[STRUCTURES].map(tuple).mode()[0]
    assert tuple(np.array(TASKS)[said["location, one set"][own] > 0.5]) == most
