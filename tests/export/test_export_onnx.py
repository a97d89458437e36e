"""An ONNX export says what the model says, for whatever is missing, without PyTorch; or it is not written."""

from __future__ import annotations

import io
import itertools
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from exports import fitted, left_behind, probabilities, runner_of

import fusetune
from fusetune.errors import UserError
from fusetune.export import ExportError, export_run
from fusetune.export import graph as graphs
from fusetune.export.graph import write_graph
from fusetune.features.onnx import onnx_available

pytestmark = pytest.mark.skipif(not onnx_available(), reason="onnx and onnxruntime are not installed")
GONE = ("torch", "transformers", "sklearn", "scipy", "pandas", "pyarrow", "cv2", "fusetune")
_WITHOUT = """
import runpy, sys

class Refusing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {gone}:
            raise ImportError(name + " is not to be imported here")

sys.meta_path.insert(0, Refusing())
script = sys.argv[1]
sys.argv[:1] = []
runpy.run_path(script, run_name="__main__")
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[fusetune.Run, Path, Path]:
    """A run, its table, and its export."""
    folder = tmp_path_factory.mktemp("onnx")
    run = fitted(folder)
    done = export_run(run.folder, "onnx", folder / "export")
    assert done.difference is not None
    assert done.difference <= 1e-4
    return run, folder / "data" / "table.csv", done.folder


def patterns(table: Path) -> pd.DataFrame:
    """Each of a few rows with every subset of its inputs taken away, as words."""
    frame = pd.read_csv(table, dtype=str, keep_default_na=False).iloc[[0, 3, 9, 40, 77]]
    inputs = [["scan"], ["note"], ["age", "site", "seen", "urgent"], [f"v_{i}" for i in range(4)]]
    parts = []
    for gone in itertools.product((False, True), repeat=len(inputs)):
        part = frame.copy()
        for columns, is_gone in zip(inputs, gone, strict=True):
            if is_gone:
                part[columns] = ""
        parts.append(part)
    whole = pd.concat(parts, ignore_index=True)
    return whole.assign(case_id=[f"row {row}" for row in range(len(whole))])


def test_every_pattern_of_missing_inputs(made: tuple[fusetune.Run, Path, Path], tmp_path: Path) -> None:
    run, table, export = made
    asked = table.parent / "patterns.csv"
    patterns(table).to_csv(asked, index=False)
    expected = fusetune.load(run.folder).predict_table(asked, "mask")
    module = runner_of(export)
    rows, words = module.read_rows(asked)
    found = pd.DataFrame(module.Runner(export, 1).predict(rows, asked.parent, words))
    assert len(found) == 5 * 16
    np.testing.assert_allclose(probabilities(found), probabilities(expected), rtol=0, atol=1e-4)
    assert found["row_id"].tolist() == expected["row_id"].tolist()
    assert found["prediction"].tolist() == expected["prediction"].tolist()
    assert (found["problem"] != "").tolist() == (expected["problem"] != "").tolist()
    # Rows that have something are told apart: the comparison is not one of constants.
    assert probabilities(found).drop_duplicates().round(3).shape[0] > 60


def test_it_runs_where_there_is_no_pytorch(made: tuple[fusetune.Run, Path, Path], tmp_path: Path) -> None:
    run, table, export = made
    (tmp_path / "without.py").write_text(_WITHOUT.format(gone=GONE), encoding="utf-8")
    command = [sys.executable, "without.py", str(export / "run.py"), str(table)]
    told = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, env={"PATH": ""})
    assert told.returncode == 0, told.stderr
    found, expected = pd.read_csv(io.StringIO(told.stdout)), fusetune.load(run.folder).predict_table(table)
    np.testing.assert_allclose(probabilities(found), probabilities(expected), rtol=0, atol=1e-4)
    assert found["prediction"].tolist() == expected["prediction"].tolist()
    refused = subprocess.run(
        [sys.executable, "without.py", "imports.py"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert refused.returncode != 0  # and the hook does refuse
    (tmp_path / "imports.py").write_text("import torch", encoding="utf-8")
    refused = subprocess.run(
        [sys.executable, "without.py", "imports.py"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert "torch is not to be imported here" in refused.stderr


def test_rows_as_json_are_the_same_rows(made: tuple[fusetune.Run, Path, Path], tmp_path: Path) -> None:
    _, table, export = made
    frame = pd.read_csv(table).head(20)
    lines = [{k: v for k, v in row.items() if not pd.isna(v)} for row in frame.to_dict("records")]
    (tmp_path / "rows.json").write_text(json.dumps(lines), encoding="utf-8")
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    module = runner_of(export)
    runner = module.Runner(export, 1)
    whole, words = module.read_rows(table)
    expected = runner.predict(whole[:20], table.parent, words)
    for name in ("rows.json", "rows.jsonl"):
        rows, words = module.read_rows(tmp_path / name)
        assert not words
        assert runner.predict(rows, table.parent, words) == expected


def test_rows_are_predicted_alike_alone_and_together(made: tuple[fusetune.Run, Path, Path]) -> None:
    _, table, export = made
    module = runner_of(export)
    runner = module.Runner(export, 1)
    rows, words = module.read_rows(table)
    together = runner.predict(rows, table.parent, words)
    alone = [runner.predict([row], table.parent, words)[0] for row in rows[:6]]
    for one, other in zip(alone, together, strict=False):
        assert one["prediction"] == other["prediction"]
        assert one["probability"] == pytest.approx(other["probability"], abs=1e-5)


@pytest.mark.parametrize("name", ["two-stage", "ume", "frozen-fusion"])
def test_other_strategies_go_the_same_way(name: str, tmp_path: Path) -> None:
    run = fitted(tmp_path, {"name": name})
    export = export_run(run.folder, "onnx").folder
    assert export == tmp_path / "run-onnx"
    table = tmp_path / "data" / "table.csv"
    module = runner_of(export)
    rows, words = module.read_rows(table)
    found = pd.DataFrame(module.Runner(export, 1).predict(rows, table.parent, words))
    expected = probabilities(run.model.predict_table(table))
    np.testing.assert_allclose(probabilities(found), expected, rtol=0, atol=1e-4)


def test_a_threshold_that_was_judged_is_followed(made: tuple[fusetune.Run, Path, Path]) -> None:
    _, table, export = made
    module = runner_of(export)
    runner = module.Runner(export, 1)
    runner.classes, runner.facts["decision"] = ["no", "yes"], {"positive": 1, "threshold": 0.2, "aim": "ppv >= 0.5"}
    assert [runner._line({}, np.array([1 - p, p]), [])["prediction"] for p in (0.1, 0.2, 0.9)] == ["no", "yes", "yes"]
    del table


def test_what_a_graph_cannot_do_is_refused_before_anything_is_written(
    made: tuple[fusetune.Run, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, _, _ = made
    loaded = fusetune.load(run.folder)
    many = loaded.config.model_copy(update={"evaluate": loaded.config.evaluate.model_copy(update={"test_views": 3})})
    monkeypatch.setattr("fusetune.export.origin.load_bundle", lambda _: replace(loaded, config=many))
    with pytest.raises(UserError, match=r"evaluate\.test_views.*--to dir and --to mlflow take it"):
        export_run(run.folder, "onnx", tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_weights_beyond_one_file_and_durations_are_refused(
    made: tuple[fusetune.Run, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, _, _ = made
    monkeypatch.setattr(graphs, "_LARGEST", 1000)
    with pytest.raises(UserError, match="one ONNX file holds 2 GiB"):
        export_run(run.folder, "onnx", tmp_path / "out")
    monkeypatch.undo()
    loaded = fusetune.load(run.folder)
    (name,) = (name for name, reader in loaded.readers.items() if reader.modality.kind == "columns")
    cells: Any = loaded.readers[name].fitted
    odd = replace(loaded.readers[name], fitted=cells.model_copy(update={"durations": ["age"]}))
    changed = replace(loaded, readers={**loaded.readers, name: odd})
    monkeypatch.setattr("fusetune.export.origin.load_bundle", lambda _: changed)
    with pytest.raises(UserError, match=r"no durations.*age"):
        export_run(run.folder, "onnx", tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_graph_that_says_something_else_is_not_kept(
    made: tuple[fusetune.Run, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, _, _ = made
    fuse = type(fusetune.load(run.folder).network).fuse

    def frozen(network: Any, z: Any, present: Any) -> Any:
        """What tracing would make of a choice by the number of rows."""
        said = fuse(network, z, present)
        return replace(said, f=said.f + 0.01) if len(said.f) == 3 else said

    monkeypatch.setattr(type(fusetune.load(run.folder).network), "fuse", frozen)
    with pytest.raises(ExportError, match=r"weighted-ensemble.*differs by .* is absent, and 1e-04 is allowed"):
        export_run(run.folder, "onnx", tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_traced_is_named(
    made: tuple[fusetune.Run, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = fusetune.load(made[0].folder)

    def odd(*_: Any) -> Any:
        raise RuntimeError("an operation that nobody knows\nand more")

    monkeypatch.setattr(type(model.network), "fuse", odd)
    with pytest.raises(ExportError, match=r"cannot be one ONNX graph: RuntimeError: an operation that nobody knows$"):
        write_graph(model, tmp_path / "model.onnx")


def test_the_model_is_left_as_it_was(made: tuple[fusetune.Run, Path, Path], tmp_path: Path) -> None:
    model = fusetune.load(made[0].folder)
    before = {name: tensor.clone() for name, tensor in model.network.state_dict().items()}
    write_graph(model, tmp_path / "model.onnx")
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.network.state_dict().items())
    assert not any(module.training for module in model.network.modules())
    assert not left_behind(tmp_path)
