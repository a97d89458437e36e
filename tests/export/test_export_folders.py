"""Folders for MLflow, for a hub and for people; and what is refused, with nothing written and nothing lost."""

from __future__ import annotations

import base64
import importlib
import json
import re
import shutil
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub
import pandas as pd
import pytest
from exports import copied, fitted, left_behind
from tiny import no_network

import fusetune
from fusetune import cli
from fusetune.errors import BundleError, InputWarning, RunError, UserError
from fusetune.export import export_run
from fusetune.export import place as places

SAMPLE = Path(__file__).parents[1] / "bundles" / "format_2" / "model"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[fusetune.Run, Path]:
    folder = tmp_path_factory.mktemp("folders")
    return fitted(folder, {"name": "ume"}), folder / "data" / "table.csv"


def same(found: pd.DataFrame, made: tuple[fusetune.Run, Path]) -> None:
    pd.testing.assert_frame_equal(found, made[0].model.predict_table(made[1]))


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    def run(*words: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["fusetune", "export", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            cli.main()
        told = capsys.readouterr()
        return int(stop.value.code or 0), " ".join((told.out + told.err).split())

    return run


def test_mlflow_loads_it_and_predicts_the_same(
    made: tuple[fusetune.Run, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlflow")
    sent = no_network(monkeypatch)
    export = export_run(made[0].folder, "mlflow", tmp_path / "flow").folder
    model = importlib.import_module("mlflow.pyfunc").load_model(str(export))
    frame = pd.read_csv(made[1])
    frame["scan"] = [str(made[1].parent / file) if isinstance(file, str) else None for file in frame["scan"]]
    found, expected = model.predict(frame), made[0].model.predict_table(frame)
    pd.testing.assert_frame_equal(found, expected)
    with pytest.warns(InputWarning, match="scan: not in the table"):
        one = model.predict(frame[["age", "site", "seen", "urgent"]].iloc[[3]])  # whole inputs may lack
    assert one["prediction"].tolist()[0] in fusetune.load(made[0].folder).classes
    assert not any(path.suffix in (".pkl", ".pickle") for path in export.rglob("*"))
    assert str(tmp_path) not in (export / "MLmodel").read_text("utf-8")
    assert not sent


def test_a_plain_folder_predicts_the_same_and_says_how(made: tuple[fusetune.Run, Path], tmp_path: Path) -> None:
    export = export_run(made[0].folder, "dir", tmp_path / "plain").folder
    assert {path.name for path in export.iterdir()} == {"README.md", "CARD.md", "export.json", "model"}
    same(fusetune.load(export).predict_table(made[1]), made)
    readme = (export / "README.md").read_text("utf-8")
    assert "fusetune predict FOLDER rows.csv" in readme
    assert "`scan`, `note`, `age`, `site`, `seen`, `urgent`, `v_0`" in readme


def test_a_hub_folder_has_a_card_of_what_was_judged(
    made: tuple[fusetune.Run, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = no_network(monkeypatch)
    export = export_run(made[0].folder, "hub", tmp_path / "hub").folder
    assert not sent  # never by default
    same(fusetune.load(export).predict_table(made[1]), made)
    assert b"case-0" in (made[0].folder / "model" / "neighbours.json").read_bytes()
    assert not any(b"case-0" in path.read_bytes() for path in export.rglob("*") if path.is_file())
    card = huggingface_hub.ModelCard.load(export / "README.md")
    metrics = made[0].metrics
    told = {one.metric_type: one.metric_value for one in card.data.eval_results}
    assert told["accuracy"] == metrics["test"]["accuracy"]["value"]
    assert card.data.library_name == "fusetune"
    score = metrics["test"]["accuracy"]
    assert f"| accuracy | {score['value']:.3f} | {score['low']:.3f} to {score['high']:.3f} |" in card.text
    assert all(one["against"] in card.text for one in metrics["comparisons"])
    assert all(re.sub(r"[\W_]", "", text) in re.sub(r"[\W_]", "", card.text) for text in metrics["warnings"])


def test_a_card_says_nothing_of_a_row(made: tuple[fusetune.Run, Path], tmp_path: Path) -> None:
    card = (export_run(made[0].folder, "dir", tmp_path / "plain").folder / "CARD.md").read_text("utf-8")
    frame = pd.read_csv(made[1])
    for column in ("case_id", "note", "scan"):
        assert not any(str(cell) in card for cell in frame[column].dropna())
    assert not any(re.search(rf"\b{word}\b", card) for word in frame["patient"])


def test_names_cannot_write_markdown_of_their_own() -> None:
    from fusetune.export.card import _code, _plain

    assert _code("a`b|c\nd") == "`a b c d`"
    assert _plain("<b>|x|\n# [y](z)") == r"\<b\>\|x\| \# \[y\](z)"


@dataclass
class Hub:
    """A hub that takes what it is sent, on this machine."""

    address: str
    files: dict[str, bytes] = field(default_factory=dict)
    made: list[dict[str, Any]] = field(default_factory=list)
    refuses: bool = False


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

        def do_GET(self) -> None:
            self.answer({"error": "this token may not read"}, 403) if found.refuses else self.answer({})

        def do_POST(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            content = self.rfile.read(length) if length else self.chunks()
            if found.refuses:
                self.answer({"error": "this token may not write"}, 403)
            elif self.path.endswith("/api/repos/create"):
                found.made.append(json.loads(content))
                self.answer({"url": f"{found.address}/owner/name", "name": "owner/name"})
            elif "/preupload/" in self.path:
                files = [one["path"] for one in json.loads(content)["files"]]
                self.answer({"files": [{"path": p, "uploadMode": "regular", "shouldIgnore": False} for p in files]})
            elif "/commit/" in self.path:
                for line in content.splitlines():
                    one = json.loads(line)
                    if one["key"] == "file":
                        found.files[one["value"]["path"]] = base64.b64decode(one["value"]["content"])
                self.answer({"commitUrl": f"{found.address}/owner/name/commit/1", "commitOid": "1", "success": True})
            else:
                self.answer({})

        def chunks(self) -> bytes:
            parts = []
            while size := int(self.rfile.readline().strip() or b"0", 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            return b"".join(parts)

        def answer(self, facts: Any, code: int = 200) -> None:
            content = json.dumps(facts).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found = Hub(f"http://127.0.0.1:{server.server_port}")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", found.address)
    monkeypatch.setenv("HF_TOKEN", "hf_none")
    yield found
    server.shutdown()
    server.server_close()


def test_a_folder_is_sent_when_it_is_asked_for(made: tuple[fusetune.Run, Path], tmp_path: Path, hub: Hub) -> None:
    done = export_run(made[0].folder, "hub", tmp_path / "hub", push="owner/name")
    assert done.address == f"{hub.address}/owner/name"
    assert hub.made[0]["visibility"] == "private"
    there = {path.relative_to(done.folder).as_posix(): path for path in done.folder.rglob("*") if path.is_file()}
    assert hub.files.keys() == there.keys()
    assert all(hub.files[name] == path.read_bytes() for name, path in there.items())


def test_a_hub_that_refuses_leaves_the_folder(made: tuple[fusetune.Run, Path], tmp_path: Path, hub: Hub) -> None:
    hub.refuses = True
    with pytest.raises(RunError, match=r"(?s)is written, but was not sent to owner/name: .*403.*HF_TOKEN"):
        export_run(made[0].folder, "hub", tmp_path / "hub", push="owner/name")
    assert places.is_export(tmp_path / "hub")


def test_an_earlier_export_is_replaced_and_nothing_else(made: tuple[fusetune.Run, Path], tmp_path: Path) -> None:
    run, out = made[0].folder, tmp_path / "out"
    out.mkdir()  # an empty folder is nobody's
    export_run(run, "dir", out)
    export_run(run, "hub", out)
    assert json.loads((out / "export.json").read_text("utf-8"))["to"] == "hub"
    (out / "README.md").write_text("my own words", encoding="utf-8")
    with pytest.raises(UserError, match="of an export that was changed since"):
        export_run(run, "dir", out)
    assert (out / "README.md").read_text("utf-8") == "my own words"
    export_run(run, "dir", tmp_path / "other")
    (tmp_path / "other" / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(UserError, match="holds other things"):
        export_run(run, "dir", tmp_path / "other")
    assert not left_behind(tmp_path)


def test_a_failure_on_the_way_leaves_the_earlier_export(
    made: tuple[fusetune.Run, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = export_run(made[0].folder, "dir", tmp_path / "out").folder
    before = (out / "export.json").read_bytes()

    def full(*_: Any) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fusetune.export.hub_card", full)
    with pytest.raises(UserError, match=r"cannot write .*out: No space left on device; free some space"):
        export_run(made[0].folder, "hub", out)
    assert (out / "export.json").read_bytes() == before
    assert not left_behind(tmp_path)


def test_wrong_words_are_refused_with_nothing_written(
    made: tuple[fusetune.Run, Path], tmp_path: Path, ask: Any
) -> None:
    run, out = made[0].folder, tmp_path / "out"
    for words, message in (
        ((run, "--to", "onxx", "--out", out), "'hub', 'dir'. Did you mean 'onnx'?"),
        ((tmp_path / "none", "--to", "dir", "--out", out), "there is no file or folder"),
        ((made[1].parent, "--to", "dir", "--out", out), "is no run and no model"),
        ((run, "--to", "dir", "--push", "a/b", "--out", out), "--push a/b goes with --to hub"),
        ((run, "--to", "hub", "--push", "name", "--out", out), "--push name: write it as OWNER/NAME"),
        ((run, "--to", "hub", "--push", "a/..b", "--out", out), "--push a/..b: "),
        ((run, "--to", "dir", "--out", run), "are one within the other"),
        ((run, "--to", "dir", "--out", run / "model"), "are one within the other"),
        ((run, "--to", "dir", "--out", run.parent), "are one within the other"),
        ((run, "--to", "dir", "--out", made[1]), "is no folder"),
        ((SAMPLE, "--to", "hub", "--out", out), "is a model without its run"),
    ):
        code, said = ask(*words)
        assert code == 2, said
        assert message in said
    assert not list(tmp_path.iterdir())


def test_half_a_run_and_damaged_ones_are_refused(made: tuple[fusetune.Run, Path], tmp_path: Path, ask: Any) -> None:
    half = copied(made[0].folder, tmp_path / "half")
    (half / "metrics.json").unlink()
    for place in (half, half / "model"):
        code, said = ask(place, "--to", "mlflow", "--out", tmp_path / "out")
        assert (code, "is not finished" in said, "--resume" in said) == (2, True, True)
    bare = copied(made[0].folder, tmp_path / "bare")
    shutil.rmtree(bare / "model")
    code, said = ask(bare, "--to", "dir", "--out", tmp_path / "out")
    assert (code, "model/bundle.json is missing" in said) == (2, True)
    changed = copied(made[0].folder, tmp_path / "changed")
    weights = changed / "model" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(BundleError, match="was changed"):
        export_run(changed, "dir", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not left_behind(tmp_path)


@pytest.mark.parametrize(("to", "package", "extra"), [("onnx", "onnx", "onnx"), ("mlflow", "mlflow", "track")])
def test_a_package_that_lacks_is_named(
    to: str, package: str, extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ask: Any
) -> None:
    find = importlib.util.find_spec
    for name in [name for name in sys.modules if name.partition(".")[0] == "mlflow"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "mlflow", None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == package else find(name, *more))
    code, said = ask(SAMPLE, "--to", to, "--out", tmp_path / "out")
    assert code == 2
    assert f'pip install "fusetune[{extra}]"' in said
    assert not list(tmp_path.iterdir())


def test_a_model_alone_goes_to_onnx_and_mlflow(tmp_path: Path, ask: Any) -> None:
    pytest.importorskip("onnxruntime")
    code, said = ask(SAMPLE, "--to", "onnx", "--out", tmp_path / "out")
    assert code == 0, said
    assert "largest difference of a probability" in said
    assert not (tmp_path / "out" / "pictures.py").exists()  # it reads none


def test_a_link_in_the_place_of_the_target_is_refused(made: tuple[fusetune.Run, Path], tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "there")
    with pytest.raises(UserError, match="is no folder"):
        export_run(made[0].folder, "dir", tmp_path / "link")
