from __future__ import annotations

import hashlib
import json
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from tiny import CLASSES, settings, tiny_table

import fusetune
from fusetune import bundle
from fusetune.bundle import save_bundle
from fusetune.errors import BundleError
from fusetune.files import facts_hash
from fusetune.version import VERSION

SHARES = [f"p({name})" for name in CLASSES]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[fusetune.Run, Path]:
    folder = tmp_path_factory.mktemp("bundle")
    frame = tiny_table(folder / "data")
    frame.loc[[1, 90], "note"] = None
    table = folder / "data" / "table.csv"
    frame.to_csv(table, index=False)
    how: dict[str, Any] = {"vectors": {"genes": "v_*"}, "group": "patient", "split": "part", "quiet": True}
    given = settings(folder / "store", train__epochs=1)
    return fusetune.fit(table, "organ", config=given, out=folder / "run", **how), table


@pytest.fixture
def copy(made: tuple[fusetune.Run, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(made[0].folder / "model", tmp_path / "model"))


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def rewrite(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the manifest and make it consistent again, as a program that means harm would."""
    facts = json.loads((folder / "bundle.json").read_text(encoding="utf-8"))
    facts.pop("checksum")
    change(facts)
    facts["checksum"] = facts_hash(facts)
    (folder / "bundle.json").write_text(json.dumps(facts), encoding="utf-8")


def test_another_process_elsewhere_predicts_the_same(made: tuple[fusetune.Run, Path], tmp_path: Path) -> None:
    run, table = made
    moved = Path(shutil.copytree(run.folder / "model", tmp_path / "a model" / "somewhere else"))
    out = tmp_path / "told.parquet"
    ask = (
        "import sys, fusetune; model = fusetune.load(sys.argv[1]);"
        "model.predict_table(sys.argv[2]).to_parquet(sys.argv[3])"
    )
    subprocess.run([sys.executable, "-c", ask, str(moved), str(table), str(out)], cwd=tmp_path, check=True)
    told = pd.read_parquet(out).set_index("row_id")
    expected = pd.read_parquet(run.folder / "predictions.parquet").set_index("row_id")
    np.testing.assert_allclose(told.loc[expected.index, SHARES], expected[SHARES], rtol=0, atol=1e-6)
    assert told.loc[expected.index, "prediction"].tolist() == expected["prediction"].tolist()


def test_a_run_folder_is_as_good_as_its_model_folder(made: tuple[fusetune.Run, Path]) -> None:
    run, table = made
    told = [fusetune.load(path).predict_proba(table) for path in (run.folder, run.folder / "model", str(run.folder))]
    pd.testing.assert_frame_equal(told[0], told[1], check_exact=True)
    pd.testing.assert_frame_equal(told[0], told[2], check_exact=True)


def test_saving_again_gives_the_same_model(made: tuple[fusetune.Run, Path], tmp_path: Path) -> None:
    run, table = made
    save_bundle(fusetune.load(run.folder), tmp_path / "model")
    pd.testing.assert_frame_equal(
        fusetune.load(tmp_path / "model").predict_proba(table), fusetune.load(run.folder).predict_proba(table)
    )
    same = [path.relative_to(tmp_path / "model") for path in files(tmp_path / "model") if path.name != "bundle.json"]
    assert len(same) >= 7
    for name in same:
        assert (tmp_path / "model" / name).read_bytes() == (run.folder / "model" / name).read_bytes()


@pytest.mark.parametrize("damage", ["flip", "cut", "longer", "empty", "gone"])
def test_every_damaged_file_is_refused(copy: Path, damage: str) -> None:
    for path in files(copy):
        good = path.read_bytes()
        data = bytearray(good)
        match damage:
            case "flip":
                # A digit or letter in the middle, so that text files stay valid JSON or YAML.
                middle = next(i for i in range(len(data) // 2, len(data)) if chr(data[i]).isalnum())
                data[middle] ^= 1
            case "cut":
                del data[len(data) // 2 :]
            case "longer":
                data += b"x"
            case "empty":
                data.clear()
        if damage == "gone":
            path.unlink()
        else:
            path.write_bytes(data)
        with pytest.raises(BundleError, match=r"changed|missing|damaged|not a model folder") as caught:
            fusetune.load(copy)
        assert str(copy) in str(caught.value)
        path.write_bytes(good)
    fusetune.load(copy)


def test_every_byte_of_the_manifest_counts(copy: Path) -> None:
    path = copy / "bundle.json"
    good = path.read_bytes()
    for index in [i for i, byte in enumerate(good) if chr(byte).isalnum()][::17]:
        data = bytearray(good)
        data[index] ^= 1
        path.write_bytes(data)
        with pytest.raises(BundleError):
            fusetune.load(copy)


@pytest.mark.parametrize("version", [8, 0, "1", None])
def test_another_format_is_refused(copy: Path, version: Any) -> None:
    rewrite(copy, lambda facts: facts.update(format=version, fusetune="9.9"))
    with pytest.raises(BundleError, match=r"format .* reads formats 1, 2, .* 7; it was written by fusetune 9\.9"):
        fusetune.load(copy)
    assert VERSION != "9.9"


@pytest.mark.parametrize("name", ["../secret.json", "/etc/hostname", "inputs/../../secret.json"])
def test_files_outside_are_not_read(copy: Path, name: str) -> None:
    secret = copy.parent / "secret.json"
    secret.write_text("{}")
    digest = hashlib.sha256(b"{}").hexdigest()
    rewrite(copy, lambda facts: facts["files"].update({name: digest}))
    with pytest.raises(BundleError, match="outside the model folder"):
        fusetune.load(copy)


def test_an_input_folder_outside_is_not_read(copy: Path) -> None:
    outside = copy.parent / "outside"
    shutil.copytree(copy / "inputs" / "0", outside)

    def change(facts: dict[str, Any]) -> None:
        name = next(iter(facts["inputs"]))
        facts["inputs"][name] = "../outside"

    rewrite(copy, change)
    with pytest.raises(BundleError, match=r"does not list \.\./outside/reader\.json"):
        fusetune.load(copy)


def test_a_link_to_a_file_outside_is_not_followed(copy: Path) -> None:
    outside = copy.parent / "schema.json"
    shutil.move(copy / "schema.json", outside)
    (copy / "schema.json").symlink_to(outside)
    with pytest.raises(BundleError, match="outside the model folder"):
        fusetune.load(copy)


@pytest.mark.parametrize("name", ["weights.safetensors", "schema.json", "config.yaml", "inputs/0/reader.json"])
def test_a_manifest_must_vouch_for_every_file(copy: Path, name: str) -> None:
    rewrite(copy, lambda facts: facts["files"].pop(name))
    with pytest.raises(BundleError, match=f"does not list {name}"):
        fusetune.load(copy)


@pytest.mark.parametrize("value", [None, 3, "x"])
def test_a_senseless_manifest_is_refused(copy: Path, value: Any) -> None:
    good = (copy / "bundle.json").read_text(encoding="utf-8")
    for key in json.loads(good).keys() - {"format", "fusetune", "created", "checksum"}:
        rewrite(copy, lambda facts, key=key: facts.update({key: value}))
        with pytest.raises(BundleError):
            fusetune.load(copy)
        (copy / "bundle.json").write_text(good, encoding="utf-8")


@pytest.mark.parametrize("text", ["", "[]", "null", '"x"', "{}", "{"])
def test_a_manifest_of_another_shape_is_refused(copy: Path, text: str) -> None:
    (copy / "bundle.json").write_text(text)
    with pytest.raises(BundleError):
        fusetune.load(copy)


def test_weights_of_another_model_are_refused(copy: Path) -> None:
    def change(facts: dict[str, Any]) -> None:
        facts["classes"].append("spleen")

    rewrite(copy, change)
    with pytest.raises(BundleError, match="does not hold a usable model"):
        fusetune.load(copy)


@pytest.mark.parametrize("where", ["nowhere", "empty"])
def test_a_folder_without_a_model_is_named(tmp_path: Path, where: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(BundleError, match=f"{where} is not a model folder"):
        fusetune.load(tmp_path / where)


def test_there_is_no_pickle(made: tuple[fusetune.Run, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    run, table = made

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("something was unpickled")

    for owner, name in ((pickle, "load"), (pickle, "loads"), (pickle, "Unpickler"), (torch, "load")):
        monkeypatch.setattr(owner, name, refuse)
    assert len(fusetune.load(run.folder).predict(table)) == 96
    kept = files(run.folder / "model")
    assert {path.suffix for path in kept} == {".json", ".yaml", ".safetensors"}
    for path in kept:
        start = path.read_bytes()[:4]
        assert start[:1] != b"\x80", f"{path} starts like a pickle"
        assert start != b"PK\x03\x04", f"{path} is an archive, as torch.save writes it"


def test_saving_is_all_or_nothing(made: tuple[fusetune.Run, Path], copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, _ = made
    before = {path: path.read_bytes() for path in files(copy)}

    def fail(*_: Any, **__: Any) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr("fusetune.inputs.Reader.save", fail)
    with pytest.raises(OSError, match="the disk is full"):
        save_bundle(run.model, copy)
    assert {path: path.read_bytes() for path in files(copy.parent)} == before


def test_the_manifest_tells_what_it_is(made: tuple[fusetune.Run, Path]) -> None:
    facts = json.loads((made[0].folder / "model" / "bundle.json").read_text(encoding="utf-8"))
    assert facts["fusetune"] == VERSION
    assert facts["classes"] == list(CLASSES)
    assert list(facts["inputs"]) == ["scan", "note", "columns", "genes"]
    there = {path.relative_to(made[0].folder / "model").as_posix() for path in files(made[0].folder / "model")}
    assert set(facts["files"]) == there - {"bundle.json"}


def test_a_loaded_model_is_frozen_and_leaves_threads_alone(made: tuple[fusetune.Run, Path]) -> None:
    torch.set_num_threads(1)
    model = fusetune.load(made[0].folder)
    assert not any(parameter.requires_grad for parameter in model.network.parameters())
    assert not any(module.training for module in model.network.modules())


# What each release wrote. Of format 1: cross-fitted networks, an encoder that was left as it was, words. Of format 2:
# several networks weighed, one of them trees; dates and truth values. Of format 4: ids of training rows. Of format 5: a
# number. Of format 6: labels with thresholds and temperatures of their own. Of format 7: two texts that one encoder
# reads. Written once, never again: a format that has no sample here is not known to load.
SAMPLES = Path(__file__).parent / "bundles"


@pytest.mark.parametrize("version", bundle._READABLE)
def test_a_model_of_each_format_predicts_what_it_did(version: int) -> None:
    folder = SAMPLES / f"format_{version}"
    assert json.loads((folder / "model" / "bundle.json").read_text(encoding="utf-8"))["format"] == version
    predictions = fusetune.load(folder / "model").predict_table(folder / "rows.csv").drop(columns="problem")
    expected = pd.read_csv(folder / "predictions.csv").drop(columns="problem")
    if predictions["prediction"].dtype == float:
        np.testing.assert_allclose(predictions["prediction"], expected["prediction"], rtol=1e-6)
    else:
        assert predictions["prediction"].tolist() == expected["prediction"].fillna("").tolist()  # no label
    columns = [name for name in expected if name.startswith("p") and name != "prediction"]
    np.testing.assert_allclose(predictions[columns], expected[columns], rtol=0, atol=1e-6)
    if (folder / "neighbours.csv").exists():
        near = fusetune.load(folder / "model").neighbours(folder / "rows.csv", 2)
        pd.testing.assert_frame_equal(near, pd.read_csv(folder / "neighbours.csv"), check_dtype=False, atol=1e-4)


def test_a_model_of_the_first_format_can_be_saved_again(tmp_path: Path) -> None:
    model = fusetune.load(Path(__file__).parent / "bundles" / "format_1" / "model")
    save_bundle(model, tmp_path / "model")
    rows = Path(__file__).parent / "bundles" / "format_1" / "rows.csv"
    pd.testing.assert_frame_equal(fusetune.load(tmp_path / "model").predict_proba(rows), model.predict_proba(rows))
