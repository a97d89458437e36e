"""Which rows each stage sees, and whose scores they get."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made import streams, titles

from fusetune.data.table import Table
from fusetune.errors import TableError
from fusetune_papers.datasets.streams import LOCATIONS
from fusetune_papers.reproduce.division import divide, shared_groups, shifted_join, test_rows
from fusetune_papers.reproduce.flaws import flaws_of
from fusetune_papers.reproduce.material import Material, material_of, place_numbers
from fusetune_papers.reproduce.recipe import load_recipe

test_rows.__test__ = False  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Material:
    return streams(tmp_path_factory.mktemp("frames"))


def test_the_published_join_misaligns_42_percent() -> None:
    kept, source = shifted_join(67972, 39338)
    wrong = kept != source
    assert (len(kept), int(wrong.sum())) == (67970, 28632)
    assert round(100 * wrong.mean(), 1) == 42.1
    assert (kept[wrong][0], kept[wrong][-1]) == (39339, 67970)
    assert (source[wrong] == kept[wrong] + 1).all()


def test_the_join_is_what_pandas_makes_of_it() -> None:
    labels = pd.DataFrame({"label": np.arange(12)}).drop(index=5)  # dropped, not numbered anew
    scores = pd.DataFrame({"score": labels["label"].to_numpy()})  # one per remaining row, numbered from 0
    joined = pd.concat([labels, scores], axis=1).dropna()
    kept, source = shifted_join(12, 5)
    assert joined["label"].tolist() == kept.tolist()
    assert joined["score"].tolist() == source.tolist()


def test_sound_parts_are_disjoint_and_whole_streams(frames: Material) -> None:
    parts = divide(frames, frozenset(), 0)
    parts.split.unlock_test()
    test = test_rows(frames, parts, frozenset(), image=True)
    assert not set(parts.head) & set(parts.valid)
    assert shared_groups(frames, parts.head, test)[0] == 0
    assert (parts.source == parts.head).all()
    assert (parts.image == parts.text).all()


def test_l1_splits_streams(frames: Material) -> None:
    parts = divide(frames, frozenset({"L1"}), 0)
    parts.split.unlock_test()
    shared, streams_of_test = shared_groups(frames, parts.head, parts.split.rows("test"))
    assert shared == streams_of_test
    assert np.allclose([n / len(frames.labels) for n in parts.split.counts().values()], (0.6, 0.2, 0.2), atol=0.02)


@pytest.mark.parametrize(("flaw", "leaks"), [("L3", "image"), ("L5", "text")])
def test_l3_and_l5_train_on_validation_rows(frames: Material, flaw: str, leaks: str) -> None:
    parts = divide(frames, frozenset({flaw}), 0)
    for stage in ("image", "text"):
        assert (set(parts.valid) <= set(getattr(parts, stage))) == (stage == leaks)
        assert bool(set(parts.valid) & set(getattr(parts, stage))) == (stage == leaks)


def test_the_notebooks_rows_on_the_whole_of_food101() -> None:
    split = np.repeat(["train", "test"], [67972, 22716])
    frame = pd.DataFrame({"id": np.arange(len(split)).astype(str), "text": "soup", "split": split})
    frame["label"] = np.arange(len(split)) % 101
    frame.loc[39338, "text"] = "x"
    material = material_of("upmc-food101", Table(frame, "t", Path()), "label")
    flaws = frozenset({"L3", "L5", "L6", "L15"})
    parts = divide(material, flaws, 0)
    assert (len(parts.image), len(parts.head), len(parts.valid)) == (67971, 67970, 6797)
    assert set(parts.valid) <= set(parts.head)
    assert int((parts.source != parts.head).sum()) == 28632
    parts.split.unlock_test()
    assert len(test_rows(material, parts, flaws, image=True)) == 22715
    assert len(test_rows(material, parts, flaws, image=False)) == 22716  # as the text and fused notebooks print
    sound = divide(material, frozenset(), 0)
    assert len(sound.head) + len(sound.valid) == 67972


def test_the_gpt2_notebook_divides_its_rows_honestly() -> None:
    """61,174 / 6,797 / 22,716 rows, disjoint; the one row less than here has a title that is too short."""
    recipe = load_recipe("food101-text-gpt2", "paper")
    split = np.repeat(["train", "test"], [67972, 22716])
    frame = pd.DataFrame({"id": np.arange(len(split)).astype(str), "text": "soup", "split": split})
    frame["label"] = np.arange(len(split)) % 101
    material = material_of("upmc-food101", Table(frame, "t", Path()), "label")
    flaws = flaws_of("upmc-food101") - frozenset(recipe.without)
    parts = divide(material, flaws, 0)
    assert (len(parts.text), len(parts.valid)) == (61174, 6798)
    assert not set(parts.valid) & set(parts.text)
    parts.split.unlock_test()
    assert len(test_rows(material, parts, flaws, image=False)) == 22716


def test_frames_are_dealt_as_the_publisher_deals_them(frames: Material) -> None:
    order = np.random.default_rng(0).permutation(len(frames.labels))
    dealt = np.array(["train", "valid", "test"], dtype=object)[order % 3]
    published = replace(frames, by_frame=dealt)
    parts = divide(published, frozenset({"L1"}), 0)
    assert np.array_equal(parts.split.rows("valid"), np.flatnonzero(dealt == "valid"))
    whole = divide(published, frozenset(), 0).split.rows("valid")
    assert not np.array_equal(whole, np.flatnonzero(dealt == "valid"))


def test_a_dev_file_is_the_validation_part_but_for_l5() -> None:
    frame = titles().table.frame.copy()
    frame.loc[[0, 8, 40], "split"] = "valid"
    made = material_of("upmc-food101", Table(frame, "t", Path()), "label", dev=True)
    assert divide(made, frozenset(), 0).split.rows("valid").tolist() == [0, 8, 40]
    assert divide(made, frozenset({"L5"}), 0).split.rows("valid").tolist() != [0, 8, 40]


@pytest.mark.parametrize("part", ["train", "test"])
def test_without_training_or_test_rows_nothing_is_reproduced(part: str) -> None:
    frame = titles().table.frame.assign(split=part)
    with pytest.raises(TableError, match=f"has no {'test' if part == 'train' else 'training'} rows"):
        material_of("upmc-food101", Table(frame, "t", Path()), "label")


def test_the_row_with_a_title_that_is_too_short_is_dropped() -> None:
    material = titles(short=7)
    parts = divide(material, frozenset({"L5", "L6"}), 0)
    train = np.flatnonzero(material.fixed == "train")
    assert train[7] not in parts.head
    assert (parts.source == np.where(parts.head < train[7], parts.head, np.append(parts.head[1:], train[-1]))).all()


def test_place_is_four_numbers_as_published_and_one_column_per_place_otherwise(frames: Material) -> None:
    ordinal, sound = place_numbers(frames, ordinal=True), place_numbers(frames, ordinal=False)
    assert (ordinal.shape[1], sound.shape[1]) == (4, 8)
    row = frames.table.frame.iloc[9]
    assert ordinal[9].tolist() == [
        row["head_up"], row["front_view"], LOCATIONS.index(row["location"]) / 4, float(row["probe"] == "vertical")
    ]  # fmt: skip
    assert sound[9, 2:7].tolist() == [float(place == row["location"]) for place in LOCATIONS]


def test_an_unknown_place_and_a_single_class_are_refused(frames: Material) -> None:
    frame = frames.table.frame.assign(location="aroundneck", none=0)
    material = material_of("fpus23", Table(frame, "t", Path()), "head")
    with pytest.raises(TableError, match="aroundneck"):
        place_numbers(material, ordinal=True)
    with pytest.raises(TableError, match="single class"):
        material_of("fpus23", Table(frame, "t", Path()), "none")
