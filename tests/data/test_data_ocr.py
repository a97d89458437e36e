"""Words in pictures as one more input: what is read, kept and filled, and what a model asks for later."""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageDraw, ImageFont
from starlette.testclient import TestClient
from tiny import settings
from typer.testing import CliRunner

import fusetune
from fusetune.cli.frame import app
from fusetune.data import ocr
from fusetune.data.absent import with_empty_columns
from fusetune.data.images import ImageInput
from fusetune.data.infer import infer_schema, needed_columns
from fusetune.data.roles import Roles
from fusetune.data.table import Table
from fusetune.errors import SchemaError, UserError
from fusetune.serve.app import create
from fusetune.serve.options import Options

SIGNS = {"stop": ("STOP HERE", "ROAD CLOSED"), "go": ("OPEN NOW", "WELCOME")}


def sign(path: Path, words: str, colour: tuple[int, int, int]) -> str:
    picture = Image.new("RGB", (220, 60), colour)
    ImageDraw.Draw(picture).text((10, 12), words, fill="black", font=ImageFont.load_default(30))
    picture.save(path)
    return path.name


def signs(folder: Path, count: int = 48) -> pd.DataFrame:
    """A table of pictures whose words alone tell the class: the colours are drawn."""
    rng, rows = np.random.default_rng(0), []
    for number in range(count):
        kind = ("stop", "go")[number % 2]
        words = SIGNS[kind][number // 2 % 2]
        colour = tuple(rng.integers(150, 256, 3).tolist())
        rows.append({"photo": sign(folder / f"{number}.png", words, colour), "kind": kind, "n": float(rng.normal())})
    return pd.DataFrame(rows)


@pytest.fixture
def reader(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A reader that says how bright a picture is, and nothing of grey ones; what it was asked is returned."""
    asked: list[Any] = []

    def read(pixels: Any) -> SimpleNamespace:
        asked.append(pixels)
        bright = int(pixels.mean()) // 100
        return SimpleNamespace(txts=None if bright == 1 else ("level", str(bright)))

    monkeypatch.setattr(ocr, "_version", lambda: "1")
    monkeypatch.setattr(ocr, "_RECENT", {})
    monkeypatch.setattr(ocr, "_reader", lambda threads: read)
    return asked


def filled(frame: pd.DataFrame, folder: Path, kept: Path | None = None) -> list[Any]:
    table = Table(frame, "table", folder)
    schema = infer_schema(table, Roles(label="kind", kinds={"photo": "image+ocr"}))
    inputs = {"photo": ImageInput(column="photo", size=8, fit="pad")}
    texts = ocr.with_words(schema.read(table), schema, inputs, kept).frame["photo words"]
    return [None if pd.isna(text) else text for text in texts]


def grey(folder: Path, *levels: int) -> pd.DataFrame:
    names = []
    for number, level in enumerate(levels):
        Image.new("RGB", (40, 40), (level,) * 3).save(folder / f"{number}.png")
        names.append(f"{number}.png")
    return pd.DataFrame({"photo": names, "kind": ["a", "b"] * (len(levels) // 2)})


def test_words_are_read_where_the_text_is_missing(tmp_path: Path, reader: list[Any]) -> None:
    frame = grey(tmp_path, 0, 120, 250, 0)
    assert filled(frame, tmp_path) == ["level 0", None, "level 2", "level 0"]
    assert [pixels.shape for pixels in reader] == [(40, 40, 3)] * 3  # equal pictures once
    frame["photo"] = ["0.png", None, "lost.png", "2.png"]
    assert filled(frame, tmp_path) == ["level 0", None, None, "level 2"]


def test_what_the_table_says_counts(tmp_path: Path, reader: list[Any]) -> None:
    frame = grey(tmp_path, 0, 0, 0, 0)
    table = Table(frame, "table", tmp_path)
    schema = infer_schema(table, Roles(label="kind", kinds={"photo": "image+ocr"}))
    said: dict[str, Any] = {"photo words": ["by hand", None, " ", "mine"]}
    given = frame.assign(**said)
    inputs = {"photo": ImageInput(column="photo", size=8, fit="pad")}
    words = ocr.with_words(schema.read(Table(given, "table", tmp_path)), schema, inputs).frame["photo words"]
    assert words.tolist() == ["by hand", "level 0", "level 0", "mine"]
    assert len(reader) == 1


def test_a_column_that_is_there_is_the_one_that_is_filled(tmp_path: Path, reader: list[Any]) -> None:
    said: dict[str, Any] = {"photo words": ["by hand", None, "by hand", None]}
    frame = grey(tmp_path, 0, 250, 0, 250).assign(**said)
    schema = infer_schema(Table(frame, "table", tmp_path), Roles(label="kind", kinds={"photo": "image+ocr"}))
    assert [column.name for column in schema.inputs if column.kind == "text"] == ["photo words"]
    assert filled(frame, tmp_path) == ["by hand", "level 2", "by hand", "level 2"]
    named = Roles(label="photo words", kinds={"photo": "image+ocr"})  # what has another use keeps it
    others = infer_schema(Table(frame, "table", tmp_path), named)
    assert [column.name for column in others.columns if column.read_in] == ["photo words\N{PRIME}"]
    assert needed_columns(list(frame), Roles("kind", ["photo"], {"photo": "image+ocr"}), []) == set(frame)


def test_rows_that_are_gathered_bring_all_their_words(tmp_path: Path, reader: list[Any]) -> None:
    said: dict[str, Any] = {"photo words": ["HONEY", "DRILL", None, ""], "case": ["a", "a", "b", "b"]}
    frame = grey(tmp_path, 0, 120, 0, 250).assign(kind=["x", "x", "y", "y"], **said)
    table = Table(frame, "table", tmp_path)
    schema = infer_schema(table, Roles(label="kind", kinds={"photo": "image+ocr"}, gather="case"))
    inputs = {"photo": ImageInput(column="photo", size=8, fit="pad")}
    words = ocr.with_words(schema.read(table), schema, inputs).frame["photo words"]
    assert words.tolist() == ["HONEY\nDRILL", "level 0\nlevel 2"]


def test_a_slip_in_the_name_of_the_words_is_told(tmp_path: Path) -> None:
    frame = grey(tmp_path, 0, 120)
    schema = infer_schema(Table(frame, "table", tmp_path), Roles(label="kind", kinds={"photo": "image+ocr"}))
    slip = Table(frame.assign(photo_words=["a", "b"]), "table", tmp_path)
    with pytest.raises(SchemaError, match=r"'photo words' is missing.*photo_words"):
        schema.check(with_empty_columns(slip, schema)[0])


def test_a_strip_is_given_a_margin(tmp_path: Path, reader: list[Any]) -> None:
    frame = grey(tmp_path, 0, 0)
    Image.new("RGB", (1200, 3)).save(tmp_path / "0.png")
    filled(frame, tmp_path)
    assert reader[0].shape == (60, 1200, 3)
    assert (reader[0][:3] == 0).all()
    assert (reader[0][3:] == 255).all()


def test_a_list_of_pictures_is_read_one_after_the_other(tmp_path: Path, reader: list[Any]) -> None:
    frame = grey(tmp_path, 0, 120, 250, 0)
    frame["photo"] = [["0.png", "2.png"], [], ["1.png"], ["2.png", "lost.png"]]
    assert filled(frame, tmp_path) == ["level 0\nlevel 2", None, None, "level 2"]


def test_words_are_kept_by_what_is_in_the_pictures(tmp_path: Path, reader: list[Any]) -> None:
    frame, kept = grey(tmp_path, 0, 120, 250, 0), tmp_path / "kept"
    first = filled(frame, tmp_path, kept)
    ocr._RECENT.clear()
    assert (filled(frame, tmp_path, kept), len(reader)) == (first, 3)
    Image.new("RGB", (40, 40), (250,) * 3).save(tmp_path / "0.png")
    assert filled(frame, tmp_path, kept)[0] == "level 2"
    for path in kept.iterdir():
        path.write_text(json.dumps(["too few"]))
    ocr._RECENT.clear()
    assert filled(frame, tmp_path, kept)[2] == "level 2"
    (tmp_path / "file").write_text("a file where a folder would have to be")
    assert filled(frame, tmp_path, tmp_path / "file")[2] == "level 2"


def test_what_is_no_input_is_not_read(tmp_path: Path) -> None:
    table = Table(grey(tmp_path, 0, 1).assign(n=[1.0, 2.0]), "table", tmp_path)
    with pytest.raises(SchemaError, match="column 'photo' is no input"):
        infer_schema(table, Roles(label="kind", inputs=["n"], kinds={"photo": "image+ocr"}))


def test_words_in_pictures_are_of_no_other_kind(tmp_path: Path) -> None:
    said: dict[str, Any] = {"photo words": ["a", "b"]}
    table = Table(grey(tmp_path, 0, 1).assign(**said), "table", tmp_path)
    with pytest.raises(SchemaError, match="--kind photo words=category"):
        infer_schema(table, Roles(label="kind", kinds={"photo": "image+ocr", "photo words": "category"}))


def test_without_the_package_the_remedy_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    ocr._version.cache_clear()
    with pytest.raises(UserError, match=r"pip install 'fusetune\[ocr\]'"):
        filled(grey(tmp_path, 0, 1), tmp_path)


def test_a_model_reads_the_words_in_new_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("rapidocr")
    monkeypatch.chdir(tmp_path)
    frame = signs(tmp_path)
    config = settings(
        tmp_path / "store", evaluate__baselines=False, doctor__check=False, crossfit={"how": "k", "folds": 2}
    )
    run = fusetune.fit(
        frame, "kind", kinds={"photo": "image+ocr"}, config=config, strategy="trees", out=tmp_path / "run", quiet=True
    )
    words = next(column for column in run.model.schema.inputs if column.name == "photo words")
    assert (words.read_in, words.kind) == ("photo", "text")
    new = pd.DataFrame({"photo": [sign(tmp_path / f"new-{k}.png", w[0], (250, 230, 240)) for k, w in SIGNS.items()]})
    model = fusetune.load(run.folder)
    assert model.predict(new.assign(n=0.0)).tolist() == ["stop", "go"]
    # The words are what is said in their place, and others count.
    said: dict[str, Any] = {"read": [None, None], "same": ["STOP HERE", "OPEN NOW"], "other": ["WELCOME"] * 2}
    new["n"] = 0.0
    tables = {what: pd.concat([new, pd.Series(words, name="photo words")], axis=1) for what, words in said.items()}
    p = {what: model.predict_proba(table)["stop"].tolist() for what, table in tables.items()}
    assert p["same"] == p["read"]
    assert p["other"][0] < p["read"][0]
    # Of a row that is asked about, no other is read.
    monkeypatch.setattr(ocr, "_RECENT", recent := dict[bytes, str]())
    assert model.explain(new, "1").decision == "go"
    assert len(recent) == 1
    # Streamed, piece by piece, it answers the same.
    new.assign(n=0.0).to_parquet(tmp_path / "new.parquet")
    result = CliRunner().invoke(app, ["predict", str(run.folder), "new.parquet", "--out", "out.csv"])
    assert result.exit_code == 0, result.output
    assert pd.read_csv("out.csv")["prediction"].tolist() == ["stop", "go"]
    refused = CliRunner().invoke(app, ["export", str(run.folder), "--to", "onnx", "--out", "graph"])
    assert refused.exit_code == 2
    assert "words in pictures" in refused.output
    assert not Path("graph").exists()
    exported = CliRunner().invoke(app, ["export", str(run.folder), "--to", "mlflow", "--out", "flavour"])
    assert exported.exit_code == 0, exported.output
    assert f"fusetune[ocr]=={fusetune.__version__}" in Path("flavour/requirements.txt").read_text()
    # So does the server, which is sent the picture alone.
    with TestClient(create(Options(folder=str(run.folder)))) as client:
        files = {"photo": ("new-stop.png", (tmp_path / "new-stop.png").read_bytes())}
        reply = client.post("/v1/predict", data={"n": "0"}, files=files)
    assert reply.status_code == 200, reply.text
    assert reply.json()["rows"][0]["prediction"] == "stop"
