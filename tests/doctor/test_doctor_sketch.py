"""Cheap features: edges by their definition, blocks of equal weight, and inputs that have nothing to say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from planted import look, plain_table, squares, with_pictures

from fusetune.doctor.sketch import gradient_histogram, sketch


def test_edges_are_counted_by_direction_and_cell() -> None:
    thumbs = squares(2)[:, ::3, ::3].astype(np.float32) / 255
    result = gradient_histogram(thumbs)
    for thumb, row in zip(thumbs, result, strict=True):
        down, right = np.gradient(thumb)
        naive = np.zeros((6, 6, 8))
        for y in range(24):
            for x in range(24):
                angle = np.arctan2(down[y, x], right[y, x]) % np.pi
                naive[y // 4, x // 4, int(angle / np.pi * 8) % 8] += np.hypot(down[y, x], right[y, x])
        naive = np.sqrt(naive.ravel())
        assert row == pytest.approx(naive / np.linalg.norm(naive), abs=1e-4)


def test_a_picture_of_one_colour_has_no_edges() -> None:
    assert not gradient_histogram(np.full((1, 24, 24), 0.5, dtype=np.float32)).any()


def test_every_input_weighs_the_same(tmp_path: Path) -> None:
    frame = with_pictures(plain_table(), tmp_path).assign(v_0=np.arange(60.0), v_1=1000 * np.arange(60.0) % 77)
    everything = look(frame, tmp_path, inputs=["scan", "note", "age"], vectors={"v": "v_*"})
    # Two blocks of a picture, one of texts, of cells and of a vector; each has a variance of one in sum.
    assert everything.features.var(0).sum() == pytest.approx(5, abs=1e-3)
    assert everything.features.dtype == np.float32
    for chosen in ("note", "age"):
        examination = look(frame, tmp_path, inputs=[chosen])
        assert examination.features.var(0).sum() == pytest.approx(1, abs=1e-3)


def test_columns_may_be_left_out() -> None:
    examination = look(plain_table(), inputs=["age", "site"])
    one = sketch(examination.examined, [], frozenset({"site"}))
    assert np.array_equal(one, look(plain_table(), inputs=["age"]).features)
    assert sketch(examination.examined, [], frozenset({"site", "age"})).shape == (60, 0)


def test_texts_that_share_no_word_have_no_features() -> None:
    frame = plain_table()
    frame["note"] = [f"a{row}x b{row}y c{row}z d{row}w" for row in range(60)]
    assert look(frame, inputs=["note"]).features.shape == (60, 0)
