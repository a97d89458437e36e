"""The phantom: its folder goes through the adapter unchanged, its knobs are monotone, and its traps are real."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from fpus23_baselines import consecutive_agreement
from PIL import Image

from fusetune.errors import UserError
from fusetune_papers.datasets.baselines import constant_accuracy, nearest_frame
from fusetune_papers.datasets.cvat import read_cvat
from fusetune_papers.datasets.fpus23 import TASKS, fpus23_table, make_parts
from fusetune_papers.datasets.streams import LOCATIONS, Stream, read_stream, stream_names
from fusetune_papers.phantom.draw import chosen_streams, write_phantom
from fusetune_papers.phantom.film import Film
from fusetune_papers.phantom.knobs import Knobs
from fusetune_papers.phantom.script import Script, write_script
from fusetune_papers.phantom.ultrasound import Ellipse, Machine, Sector, reflectivity, scan, scatter

SMALL = Knobs(streams=10, frames=12, width=96)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_phantom(tmp_path_factory.mktemp("phantom") / "small-synthetic", SMALL)


@pytest.fixture(scope="module")
def table(folder: Path) -> pd.DataFrame:
    return fpus23_table(folder, warn=pytest.fail)


def pictures(table: pd.DataFrame) -> npt.NDArray[np.float64]:
    """Return the pictures, shrunk [rows, pixels], 0 to 1."""
    shrunk = [np.asarray(Image.open(path).resize((32, 18), Image.Resampling.BOX)).ravel() for path in table["image"]]
    return np.stack(shrunk) / 255


def nearest_picture(table: pd.DataFrame, task: str) -> float:
    """Return the test accuracy of the label of the most similar training picture."""
    pixels, train, test = pictures(table), *((table["split"] == part).to_numpy() for part in ("train", "test"))
    away = ((pixels[test][:, None] - pixels[train][None]) ** 2).sum(2)
    labels = table[task].to_numpy()
    return float((labels[train][away.argmin(1)] == labels[test]).mean())


def test_the_adapter_reads_the_folder_unchanged(folder: Path, table: pd.DataFrame) -> None:
    assert len(table) == 120
    assert table["stream"].nunique() == 10
    assert all(table[task].nunique() == 2 for task in TASKS)
    assert set(table["source"]) == {"synthetic"}
    assert table["text"].notna().all()
    with Image.open(table["image"][0]) as picture:
        assert picture.size == (96, 56)
        assert picture.mode == "L"


def test_everything_says_synthetic(folder: Path) -> None:
    assert (folder / "README.txt").read_text().startswith("SYNTHETIC")
    assert all(read_cvat(path).source == "synthetic" for path in folder.glob("annotation/*/annotations.xml"))
    corners = [np.asarray(Image.open(path))[:9, :26] for path in folder.glob("four_poses/*/frame_000000.png")]
    assert all((corner == corners[0]).all() and corner.max() > 100 for corner in corners), "the mark in the corner"


def test_equal_settings_equal_frames(folder: Path, tmp_path: Path) -> None:
    few = replace(SMALL, streams=1)
    other = write_phantom(tmp_path / "synthetic", few)
    for path in sorted(other.rglob("frame_*.png")):
        assert path.read_bytes() == (folder / path.relative_to(other)).read_bytes(), "whatever else is drawn"
    changed = write_phantom(tmp_path / "other-synthetic", replace(few, seed=1))
    for path in sorted(changed.rglob("frame_*.png")):
        assert path.read_bytes() != (folder / path.relative_to(changed)).read_bytes()


def test_an_earlier_result_is_used_again_and_other_things_stay(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert write_phantom(folder, SMALL) == folder
    assert "Using the synthetic frames" in capsys.readouterr().err
    with pytest.raises(UserError, match="was not made with these settings"):
        write_phantom(folder, replace(SMALL, seed=9))
    mine = tmp_path / "synthetic" / "notes.txt"
    mine.parent.mkdir()
    mine.write_text("mine")
    with pytest.raises(UserError, match="stays as it is"):
        write_phantom(mine.parent, SMALL)
    assert mine.read_text() == "mine"


def test_frames_follow_each_other_closely(table: pd.DataFrame) -> None:
    pixels, stream = pictures(table), table["stream"].to_numpy()
    away = ((pixels[:, None] - pixels[None]) ** 2).mean(2)
    next_one = np.diagonal(away, 1)[stream[1:] == stream[:-1]]
    other = away[stream[:, None] != stream[None]]
    assert np.median(next_one) < 0.35 * np.median(other)


def test_splitting_by_frame_looks_far_better_than_it_is(table: pd.DataFrame) -> None:
    """What the real data does to an image model, shown by the simplest one: the most similar training picture."""
    words = table[list(TASKS)].astype("str").agg(" ".join, axis=1)
    scores = {
        how: np.mean([
            nearest_picture(table.assign(split=make_parts(table, words, how, seed)), task)
            for seed in range(2)
            for task in TASKS
        ])
        for how in ("frames", "streams")
    }  # fmt: skip
    assert scores["frames"] > 0.85
    assert scores["frames"] > scores["streams"] + 0.15


def test_labels_behave_as_published() -> None:
    table = labels_of(Knobs(frames=60))
    for task in TASKS:
        assert consecutive_agreement(table, task) > 0.97
        assert constant_accuracy(table[task], table["stream"]) > constant_accuracy(table[task], table["location"])
        frames = table.assign(split=make_parts(table, pd.Series(dtype="str"), "frames", 0))
        assert nearest_frame(frames, task).accuracy > 0.95
    assert constant_accuracy(table["head"], table["location"]) == pytest.approx(0.9053, abs=0.06)


def labels_of(knobs: Knobs) -> pd.DataFrame:
    """Return labels and names of all streams without drawing anything."""
    parts = []
    for name in stream_names()[: knobs.streams]:
        script = write_script(read_stream(name), knobs)
        part = pd.DataFrame(script.present.astype(int), columns=list(TASKS))
        parts.append(part.assign(stream=name, location=read_stream(name).location, frame=range(knobs.frames)))
    table = pd.concat(parts, ignore_index=True)
    return table.assign(id=table["stream"] + "/" + table["frame"].astype("str"))


def test_every_combination_is_as_frequent_in_every_stream() -> None:
    knobs = Knobs(streams=10, frames=32, metadata_share=0.0, combinations=True)
    table = labels_of(knobs)
    sets = table[list(TASKS)] @ (1 << np.arange(len(TASKS)))
    counts = pd.crosstab(table["stream"], sets)
    assert counts.shape == (10, 16)
    assert (counts == 2).all(axis=None)
    orders = {tuple(part) for _, part in sets.groupby(table["stream"])}
    assert len(orders) == 10, "another order in every stream"
    for key in ("stream", "location"):
        assert all(constant_accuracy(table[task], table[key]) == 0.5 for task in TASKS)
    script = write_script(read_stream(table["stream"][0]), knobs)
    assert (script.weight == script.present).all(), "drawn in full or not at all"


@pytest.mark.parametrize(
    ("wrong", "message"), [({"metadata_share": 1.0}, "must be 0"), ({"frames": 40}, "multiple of 16")]
)
def test_combinations_need_settings_that_let_them_be_exact(wrong: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Knobs(**{"metadata_share": 0.0, "frames": 16, "combinations": True, **wrong})  # type: ignore[arg-type]


def test_more_metadata_share_more_in_the_name() -> None:
    scores = []
    for share in (0.0, 0.5, 1.0):
        tables = [labels_of(Knobs(frames=8, metadata_share=share, seed=seed)) for seed in range(2)]
        scores.append(np.mean([constant_accuracy(t[task], t["location"]) for t in tables for task in TASKS]))
    assert scores[0] + 0.03 < scores[1]
    assert scores[1] + 0.03 < scores[2]


def test_more_text_share_more_sentences_that_tell() -> None:
    stream, shares = read_stream("stream_hdvb_aroundhead_h"), []
    talk = set(write_script(stream, Knobs(frames=300, text_share=0.0)).sentences)
    for share in (0.0, 0.3, 0.7, 1.0):
        sentences = write_script(stream, Knobs(frames=300, text_share=share)).sentences
        shares.append(np.mean([text not in talk for text in sentences]))
    assert shares == sorted(shares)
    assert shares == pytest.approx([0.0, 0.3, 0.7, 1.0], abs=0.15)
    assert shares[3] == 1.0


def test_sentences_that_tell_tell_the_truth() -> None:
    words = {"head": ("head", "skull"), "abdomen": ("abdomen",), "arms": ("arm", "limb"), "legs": ("legs", "femur")}
    for name in stream_names()[::6]:
        script = write_script(read_stream(name), Knobs(text_share=1.0))
        for text, present in zip(script.sentences, script.present, strict=True):
            named = [any(word in text.lower() for word in words[task]) for task in TASKS]
            assert named == present.tolist(), text


def test_more_image_share_more_frames_with_contact() -> None:
    stream = read_stream("stream_huvf_longrec_v")
    shares = [write_script(stream, Knobs(frames=50, image_share=share)).contact.mean() for share in (0, 0.3, 0.8, 1)]
    assert shares == [0, 0.3, 0.8, 1]


def test_without_contact_the_picture_tells_nothing() -> None:
    knobs, sector = Knobs(frames=2, width=64), Sector(64)
    stream = read_stream("stream_hdvb_aroundabd_h")
    films = []
    for weight in (0.0, 1.0):
        script = Script(np.full((2, 4), weight), np.full((2, 4), weight > 0), np.array([False, True]), ["", ""])
        film = Film(stream, script, knobs, sector)
        films.append([film.frame(number)[0] for number in range(2)])
    assert np.array_equal(films[0][0], films[1][0])
    assert not np.array_equal(films[0][1], films[1][1])


def test_more_difficulty_less_contrast() -> None:
    """The picture with all organs differs less and less from the picture with none."""
    sector, stream = Sector(96), read_stream("stream_hdvf_aroundarms_h")
    seen = [_difference(stream, Knobs(frames=2, width=96, difficulty=value), sector) for value in (0.0, 0.5, 1.0)]
    assert seen[0] > 1.3 * seen[1]
    assert seen[1] > 1.3 * seen[2]


def _difference(stream: Stream, knobs: Knobs, sector: Sector) -> float:
    frames = []
    for weight in (0.0, 1.0):
        script = Script(np.full((2, 4), weight), np.full((2, 4), weight > 0), np.ones(2, dtype=bool), ["", ""])
        frames.append(Film(stream, script, knobs, sector).frame(0)[0].astype(float))
    return float(np.abs(frames[1] - frames[0]).mean())


def test_boxes_lie_around_what_was_drawn(folder: Path) -> None:
    for path in sorted(folder.glob("annotation/*/annotations.xml")):
        for frame in read_cvat(path).frames:
            for box in frame.boxes:
                assert 0 <= box.left < box.right <= frame.width
                assert 0 <= box.top < box.bottom <= frame.height


def test_speckle_is_rayleigh_distributed() -> None:
    """In uniform tissue, mean over standard deviation of the envelope is 1.91, as Rayleigh's distribution has it."""
    sector = Sector(224)
    machine = Machine(gain=0.0, slope=-6.0, range=60.0, spot=1.0, noise=1e-6)
    ground = np.full(sector.x.shape, 0.03)
    grey = scan(sector, [], ground, scatter(np.random.default_rng(0), 256)[:176, :128], machine)
    inside = grey[20:60, 90:134].astype(float) / 255
    envelope = 10 ** ((inside - 1) * machine.range / 20)
    depth = envelope.mean(1, keepdims=True)
    assert (envelope / depth).mean() / (envelope / depth).std() == pytest.approx(1.91, rel=0.12)


def test_bone_casts_a_shadow_and_rims_are_bright() -> None:
    sector = Sector(96)
    ground = np.full(sector.x.shape, 0.1)
    echo, loss = reflectivity(sector, [Ellipse(0, 0.4, 0.1, 0.02, fill=0.9, rim=0.5, loss=9.0)], ground)
    middle = sector.x.shape[1] // 2
    assert echo[:, middle].max() > 0.85
    assert echo[:, 0].max() == 0.1
    arriving = np.exp(-np.cumsum(loss, 0))
    assert arriving[-1, middle] < 0.1 * arriving[-1, 0]


def test_streams_take_turns() -> None:
    assert chosen_streams(39) == stream_names()
    for count in (5, 10, 20):
        some = [read_stream(name) for name in chosen_streams(count)]
        assert {stream.location for stream in some} == set(LOCATIONS)
        assert len({stream.pose for stream in some}) >= 2


@pytest.mark.parametrize("wrong", [{"difficulty": 1.1}, {"text_share": -0.1}, {"streams": 40}, {"frames": 1}])
def test_settings_out_of_range(wrong: dict[str, float]) -> None:
    with pytest.raises(UserError, match=next(iter(wrong))):
        Knobs(**wrong)  # type: ignore[arg-type]
