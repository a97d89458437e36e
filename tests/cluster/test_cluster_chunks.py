"""Chunks: each row once, under one name, whatever ends, and the same results as without a cluster; Ray is left out."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from here import Here
from tiny import settings, tiny_table

import fusetune
from fusetune import answering
from fusetune.answers import Extras
from fusetune.checking import checked
from fusetune.cluster.filling import Filling
from fusetune.cluster.place import Chunk, Place
from fusetune.cluster.predicting import Asked, predicted
from fusetune.cluster.work import MOST, Doing, Worker
from fusetune.config import Config
from fusetune.data.problems import Problems
from fusetune.data.roles import Roles
from fusetune.data.schema import Modality
from fusetune.data.table import read_table
from fusetune.data.vectors import VectorSource
from fusetune.errors import InputWarning, RunError, TableError, UserError, WriteError
from fusetune.features.store import FeatureStore
from fusetune.files import written_aside

ROWS = 16


@dataclass(frozen=True)
class Doubled:
    """Writes twice the numbers of a piece; fails, or ends its process, at some."""

    suffix: str = ".safetensors"
    fails: dict[int, Exception] = field(default_factory=dict)
    ends: frozenset[int] = frozenset()

    def begin(self) -> Doing:
        def write(piece: list[int], path: Path) -> None:
            for number in piece:
                if number in self.ends:
                    os.kill(os.getpid(), signal.SIGKILL)
                if number in self.fails:
                    path.write_text("half")
                    raise self.fails[number]
            path.write_text(json.dumps([2 * number for number in piece]))

        return write

    def singly(self, piece: list[int]) -> Iterator[tuple[int, list[int]]]:
        for number in piece:
            yield number, [number]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path / "job", ".safetensors")


def handed(place: Place, count: int = 3, size: int = 4) -> list[Chunk]:
    return [place.hand(at, at + size, list(range(at, at + size)), "how") for at in range(0, count * size, size)]


def read(place: Place, chunks: list[Chunk]) -> list[list[int]]:
    return [json.loads(place.done(chunk).read_text()) for chunk in chunks]


def test_each_chunk_is_one_file_however_often_it_is_done(place: Place) -> None:
    with place.held("doubling"):
        chunks = handed(place)
        worker = Worker(Doubled(), place)
        states = [worker.work(chunk)["state"] for chunk in [*chunks, *chunks]]
        assert states == ["done"] * 3 + ["stood"] * 3
        assert read(place, chunks) == [[0, 2, 4, 6], [8, 10, 12, 14], [16, 18, 20, 22]]
        result = place.done(chunks[0]).read_bytes()
        with written_aside(place.done(chunks[0])) as aside:
            half = aside.with_name(re.sub("fusetune-[0-9a-f]{8}", "fusetune-0123abcd", aside.name))
            aside.write_bytes(result)
        half.write_text("as a worker leaves it that was killed")
        place.seal(chunks, 12)
        assert not half.exists()
        listing = json.loads((place.folder / "manifest.json").read_text())["chunks"]
        assert [(one["start"], one["stop"]) for one in listing] == [(0, 4), (4, 8), (8, 12)]
        assert handed(place) == chunks, "the same rows have the same name, in whichever process"
        assert place.hand(0, 4, [0, 1, 2, 3], "other").name != chunks[0].name
    place.discard()
    assert not place.folder.exists()


def test_a_manifest_is_refused_where_a_row_is_lost_or_doubled(place: Place) -> None:
    with pytest.raises(RunError, match="2 of 3 chunks are missing"), place.held("doubling"):
        chunks = handed(place)
        Worker(Doubled(), place).work(chunks[0])
        for wrong, words in (
            ([chunks[0], chunks[2]], "after row 4 comes rows 8 to 11"),
            ([chunks[0], chunks[0]], "after row 4 comes rows 0 to 3"),
            (chunks[:1], "rows from 4 on are missing"),
        ):
            with pytest.raises(RunError, match=words):
                place.seal(wrong, 12)
        place.seal(chunks, 12)
    assert place.done(chunks[0]).exists(), "what is done stays"


def test_an_error_is_told_and_the_other_blocks_are_done(place: Place) -> None:
    with (
        pytest.raises(UserError, match=r"rows 4 to 7: ValueError: six(.|\n)*2 of 3 chunks stand"),
        place.held("doubling"),
    ):
        chunks = handed(place)
        Here().run(Doubled(fails={6: ValueError("six")}), place, chunks, "doubling")
    assert [place.done(chunk).exists() for chunk in chunks] == [True, False, True]
    assert not list(place.folder.rglob("*.fusetune-*")), "nothing half-written"
    engine = Here()
    with place.held("doubling"):
        outcome = engine.run(Doubled(), place, handed(place), "doubling")
    assert (outcome.stood, engine.worked) == (2, 1), "what stands is not done again"


def test_a_full_disk_ends_the_job_at_once_and_it_continues(place: Place) -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    engine = Here()
    with (
        pytest.raises(WriteError, match=r"No space left on device; free(.|\n)*1 of 3 chunks stand"),
        place.held("doubling"),
    ):
        chunks = handed(place)
        engine.run(Doubled(fails={6: full}), place, chunks, "doubling")
    assert engine.worked == 2
    with place.held("doubling"):
        Here().run(Doubled(), place, handed(place), "doubling")
        place.seal(chunks, 12)


def test_a_row_that_ends_processes_is_named(place: Place) -> None:
    def in_a_process_of_its_own(chunk: Chunk) -> int:
        if not (child := os.fork()):
            Worker(Doubled(ends=frozenset({6})), place).work(chunk)
            os._exit(0)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    with place.held("doubling"):
        chunk = handed(place)[1]
        assert [in_a_process_of_its_own(chunk) for _ in range(MOST)] == [-signal.SIGKILL] * MOST
        with pytest.raises(UserError, match="row 6: 3 processes that worked on it ended without a word"):
            Here().run(Doubled(), place, [chunk], "doubling")
        assert not place.done(chunk).exists()
    with place.held("doubling"):  # given again, it is tried again
        Here().run(Doubled(), place, [chunk], "doubling")


def test_what_was_handed_out_is_not_opened_once_it_was_changed(place: Place) -> None:
    with pytest.raises(UserError, match=r"was changed since it was written"), place.held("doubling"):
        chunks = handed(place)
        (path,) = (place.folder / "given").glob(f"{chunks[1].name}*")
        path.write_bytes(path.read_bytes()[:-3] + b"xyz")
        Here().run(Doubled(), place, chunks, "doubling")


def test_a_result_that_was_changed_is_refused(place: Place) -> None:
    with pytest.raises(RunError, match="was changed after it was written"), place.held("doubling"):
        chunks = handed(place)
        Here().run(Doubled(), place, chunks, "doubling")
        place.done(chunks[1]).write_text("[8, 10, 12, 15]")
        place.seal(chunks, 12)


def test_a_folder_of_somebody_is_left_alone(place: Place) -> None:
    place.folder.mkdir()
    (place.folder / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="holds something else"), place.held("doubling"):
        raise AssertionError
    place.discard()
    assert (place.folder / "thesis.txt").read_text() == "mine"


def test_two_commands_do_not_share_a_folder(place: Place) -> None:
    with place.held("doubling"), pytest.raises(UserError, match="another"), place.held("doubling"):
        raise AssertionError


# --- the same as without ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on every kind of input, with several texts in a row, and its table."""
    folder = tmp_path_factory.mktemp("cluster")
    frame = tiny_table(folder)
    frame["words"] = [
        json.dumps([note, f"{site} again"]) for note, site in zip(frame["note"], frame["site"], strict=True)
    ]
    frame.to_csv(folder / "table.csv", index=False)
    given = settings(folder / "store", train__epochs=0, views=1)
    how: dict[str, Any] = {"vectors": {"genes": "v_*"}, "group": "patient", "split": "part", "quiet": True}
    fusetune.fit(folder / "table.csv", "organ", config=given, out=folder / "run", **how)
    broken = frame.drop(columns=["age"])
    broken.loc[[3, 40], "scan"] = ["lost.png", None]
    broken.loc[10, "scan"] = (folder / "10.png").as_uri()
    broken.loc[20, "v_1"] = None
    broken.loc[5, ["note", "words"]] = None
    broken.loc[7, "site"] = "elsewhere"
    broken.to_csv(folder / "broken.csv", index=False)
    return folder


@pytest.mark.parametrize("name", ["table.csv", "broken.csv"])
def test_predictions_and_words_are_those_of_one_process(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(answering, "PIECE", ROWS)
    model, extras = fusetune.load(made / "run"), Extras("judged", 0.9, 0.2, True)
    said: list[list[str]] = []
    frames = []
    for engine in (None, Here()):
        with pytest.warns(InputWarning) if name == "broken.csv" else _nothing() as warned:
            if engine is None:
                pieces = model.predict_pieces(made / name, sets=0.9, margin=0.2, unlike=True)
                frames.append(pd.concat(list(pieces), ignore_index=True))
            else:
                asked = Asked(made / "run", model, extras, rows=ROWS)
                with predicted(asked, read_table(made / name), tmp_path / "chunks", engine) as found:
                    frames.append(pd.concat(list(found.pieces), ignore_index=True))
                assert found.outcome.chunks == 6
        said.append([str(one.message) for one in warned or ()])
    pd.testing.assert_frame_equal(*frames, check_exact=True)
    assert said[0] == said[1]


class _nothing:  # noqa: N801
    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        return None


def test_problems_are_refused_as_in_one_process(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answering, "PIECE", ROWS)
    model = fusetune.load(made / "run")
    with pytest.raises(TableError) as plain:
        model.predict_table(made / "broken.csv", "raise")
    asked = Asked(made / "run", model, Extras(), "raise", rows=ROWS)
    with pytest.raises(UserError) as told, predicted(asked, read_table(made / "broken.csv"), tmp_path / "b", Here()):
        raise AssertionError
    assert str(plain.value) in str(told.value)


def test_a_chunk_of_other_rows_is_refused(made: Path, tmp_path: Path) -> None:
    model = fusetune.load(made / "run")
    asked = Asked(made / "run", model, Extras(), rows=ROWS)
    with (
        pytest.raises(RunError, match="does not hold rows 0 to 15"),
        predicted(asked, read_table(made / "table.csv"), tmp_path / "b", Here()) as found,
    ):
        first, second = sorted((tmp_path / "b" / "done").iterdir())[:2]
        first.write_bytes(second.read_bytes())
        list(found.pieces)


def test_another_model_in_its_place_is_refused(made: Path, tmp_path: Path) -> None:
    model = fusetune.load(made / "run")

    class Other(Here):
        def run(self, task: Any, *more: Any) -> Any:
            return super().run(replace(task, model="another"), *more)

    asked = Asked(made / "run", model, Extras(), rows=ROWS)
    with (
        pytest.raises(UserError, match="another model here"),
        predicted(asked, read_table(made / "table.csv"), tmp_path / "b", Other()),
    ):
        raise AssertionError
    assert not (tmp_path / "b").exists(), "nothing was done, and nothing is left"


def test_fit_finds_what_a_cluster_encoded_to_the_bit(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Encoded here and on a cluster: the same features under the same keys, and `fit` asks for no others of them."""
    how: dict[str, Any] = {"inputs": ["scan", "words"], "group": "patient", "split": "part", "quiet": True}
    here, there = (
        settings(
            tmp_path / way / "store",
            image__train__epochs=0,
            text__train__epochs=0,
            crossfit__how="k",
            onnx=True,
            doctor__check=False,
        )
        for way in ("here", "there")
    )
    plain = fusetune.encode(made / "table.csv", "organ", config=here, **how)
    found = _encoded_on(Here(), made / "table.csv", there, how)
    assert (found.passes, found.reused) == (plain.passes, plain.reused)
    assert found.passes.keys() == {"scan", "words"}
    assert not any((tmp_path / "there" / "chunks").iterdir()), "chunks go once their results are kept"
    kept = [
        {file.relative_to(folder): file.read_bytes() for file in folder.rglob("features.npy")}
        for folder in (tmp_path / "here" / "store", tmp_path / "there" / "store")
    ]
    assert kept[0] == kept[1]
    assert len(kept[0]) >= 4
    computed: list[str] = []
    compute = FeatureStore._compute

    def noted(self: FeatureStore, what: Any, *more: Any) -> Any:
        computed.append(type(what.encoder).__name__)
        return compute(self, what, *more)

    monkeypatch.setattr(FeatureStore, "_compute", noted)
    fusetune.fit(made / "table.csv", "organ", config=there, out=tmp_path / "run", **how)
    assert not {"SmallCNN", "SmallTextTransformer"} & set(computed), computed


def _encoded_on(engine: Here, table: Path, given: dict[str, Any], how: dict[str, Any]) -> Any:
    from fusetune.arguments import gather
    from fusetune.encoding import encoded
    from fusetune.progress import Log

    config, own = gather(None, None, None, None, given, ())
    roles = Roles("organ", how["inputs"], None, None, how["group"], how["split"], None, None, None)
    elsewhere = Filling(engine, config, pictures=20, batches=2).elsewhere()
    return encoded(read_table(table), "organ", roles, config, own, Log(None, True), elsewhere)


def test_pictures_are_looked_at_as_in_one_process(made: Path, tmp_path: Path) -> None:
    config = Config.build({"store": {"folder": str(tmp_path / "store")}})
    roles = Roles(None, ["scan", "note"], None, None, "patient", "part", None, None, None)
    data = read_table(made / "broken.csv")
    plain = checked(data, roles, config)
    found = checked(data, roles, config, Filling(Here(), config, pictures=20).look)
    assert "image_missing" in {one.kind for one in found.findings}
    assert [one.as_dict() for one in found.findings] == [one.as_dict() for one in plain.findings]


@pytest.mark.parametrize("rows", [np.arange(10, 30), np.array([7, 3, 50]), np.arange(0)])
def test_some_rows_of_an_input_are_read_as_in_the_whole(made: Path, rows: Any) -> None:
    model = fusetune.load(made / "run")
    table, _ = model.read(read_table(made / "broken.csv"))
    for name, whole in model.bind(table).items():
        some = whole.some(rows)
        assert np.array_equal(some.present, whole.present[rows])
        assert np.array_equal(some.digests, whole.digests[rows])
        assert some.problems == {at: whole.problems[row] for at, row in enumerate(rows) if row in whole.problems}
        here = np.flatnonzero(some.present)
        if len(here):
            one, other = some.read(here), whole.read(rows[here])
            assert _flat(one) == _flat(other), name


def _flat(inputs: Any) -> Any:
    if isinstance(inputs, dict):
        return {name: value.tolist() for name, value in inputs.items()}
    if hasattr(inputs, "elements"):
        return [_flat(inputs.elements), inputs.row.tolist(), inputs.rank.tolist(), inputs.index.tolist()]
    return inputs.tolist()


def test_notes_travel_with_a_chunk() -> None:
    cells = VectorSource(np.zeros((15, 1), np.float32), np.array([True, False, True] * 5), np.zeros(15, np.uint64))
    cells.problems, cells.unseen = {1: "lost"}, {3: "unknown"}
    table = read_table(pd.DataFrame({"x": range(15)}))
    found = Problems.of(table, {"x": Modality("x", "vector", ("x",))}, {"x": cells}, start=30)
    assert Problems.of_facts(json.loads(json.dumps(found.as_facts()))) == replace(found, rows=[])
