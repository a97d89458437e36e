"""Copies of rows, pictures and texts: within a part, across parts, within a group, and what only looks like one."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from planted import ALWAYS, ROLES, check, kinds, look, named, plain_table, squares, with_pictures

from fusetune.data.infer import infer_schema
from fusetune.data.roles import Roles
from fusetune.data.split import make_split
from fusetune.data.table import Table
from fusetune.doctor.duplicates import find_copies, numbered
from fusetune.doctor.examine import Examination, copy_numbers
from fusetune.doctor.hashes import equal_sets
from fusetune.doctor.images import Pictures

NORMAL = {*ALWAYS, "label_errors"}
INPUTS = ["scan", "note", "age"]
LONG = "one and the same long report"


def copied(frame: pd.DataFrame, source: int, target: int, *columns: str) -> pd.DataFrame:
    frame = frame.copy()
    for name in columns:
        frame.at[target, name] = frame.at[source, name]
    return frame


def of_parts(frame: pd.DataFrame, one: str, other: str) -> tuple[int, int]:
    """Return a row of each of two parts, of different patients and the same class."""
    return next(
        (i, j)
        for i, j in combinations(range(len(frame)), 2)
        if (frame["part"][i], frame["part"][j]) == (one, other)
        and frame["organ"][i] == frame["organ"][j]
        and frame["patient"][i] != frame["patient"][j]
    )


def sets_of(examination: Examination, kind: str) -> list[list[str]]:
    finding = named(examination, kind)
    assert finding.evidence["set_count"] == len(finding.evidence["sets"])
    assert sorted(name for names in finding.evidence["sets"] for name in names) == sorted(finding.rows)
    return finding.evidence["sets"]  # type: ignore[no-any-return]


@pytest.mark.parametrize("part", ["train", "valid", "test"])
def test_rows_that_are_equal_in_one_part(part: str) -> None:
    frame = plain_table()
    i, j = of_parts(frame, part, part)
    examination = look(copied(frame, i, j, "note", "age"))
    check(named(examination, "duplicate_rows"), "warn", {f"r{i:03d}", f"r{j:03d}"}, (), "keep one of each")
    assert kinds(examination) <= NORMAL | {"duplicate_rows"}, "a text of equal rows is no finding of its own"


@pytest.mark.parametrize(("one", "other"), [("train", "valid"), ("train", "test"), ("valid", "test")])
def test_rows_that_are_equal_in_two_parts(one: str, other: str) -> None:
    frame = plain_table()
    i, j = of_parts(frame, one, other)
    examination = look(copied(frame, i, j, "note", "age"))
    finding = named(examination, "duplicate_rows_across_parts")
    check(finding, "error", {f"r{i:03d}", f"r{j:03d}"}, (), "drop one side")
    assert finding.evidence["parts"] == [[one, other]]
    assert kinds(examination) <= NORMAL | {"duplicate_rows_across_parts"}


def test_rows_of_no_part_cross_nothing() -> None:
    frame = plain_table().astype({"part": object})
    i, j = of_parts(frame, "train", "test")
    frame.loc[j, "part"] = "elsewhere"
    assert "duplicate_rows_across_parts" not in kinds(look(copied(frame, i, j, "note", "age")))


@pytest.mark.parametrize("kept", ["note", "age"])
def test_rows_that_differ_in_one_input_are_no_copies(kept: str) -> None:
    frame = plain_table()
    i, j = of_parts(frame, "train", "train")
    frame = copied(frame, i, j, *{"note", "age"} - {kept})
    assert "duplicate_rows" not in kinds(look(frame))


def test_a_missing_cell_equals_a_missing_cell_and_nothing_else() -> None:
    frame = plain_table()
    i, j = of_parts(frame, "train", "train")
    frame = copied(frame, i, j, "note")
    frame.loc[i, "age"] = np.nan
    assert "duplicate_rows" not in kinds(look(frame))
    frame.loc[j, "age"] = np.nan
    assert "duplicate_rows" in kinds(look(frame))


def test_texts_that_are_too_short_make_no_copies() -> None:
    frame = plain_table()
    i, j = of_parts(frame, "train", "train")
    frame = copied(frame, i, j, "age")
    frame.loc[[i, j], "note"] = "only four words here"
    assert kinds(look(frame)) <= NORMAL
    frame.loc[[i, j], "note"] = "these are five words here"
    assert "duplicate_rows" in kinds(look(frame))


def test_other_columns_do_not_make_rows_differ_but_in_tables_of_cells() -> None:
    frame = plain_table()
    i, j = of_parts(frame, "train", "train")
    frame = copied(frame, i, j, "note", "age").drop(columns="patient")
    assert frame["site"].nunique() > 1
    frame.loc[[i, j], "site"] = ["site 0", "site 1"]
    assert "duplicate_rows" in kinds(look(frame, group=None))
    assert "duplicate_rows" not in kinds(look(frame.drop(columns="note"), group=None, inputs=["age"]))
    frame = copied(frame, i, j, "site").drop(columns="note")
    assert sets_of(look(frame, group=None, inputs=["age"]), "duplicate_rows") == [[f"r{i:03d}", f"r{j:03d}"]]


@pytest.mark.parametrize(("repeats", "searched"), [(5, True), (6, False)])
def test_cells_that_repeat_often_agree_by_chance(repeats: int, searched: bool) -> None:
    frame = plain_table(100).drop(columns=["note", "patient"]).assign(age=np.arange(100) / 3)
    # A repeat beyond one of twenty rows says that the cells are too coarse to know a row by.
    for k in range(repeats):
        frame = copied(frame, 2 * k, 2 * k + 1, "age", "site", "part", "organ")
    examination = look(frame, group=None, inputs=["age", "site"])
    assert ("duplicate_rows" in kinds(examination)) == searched


def test_sets_are_whole_whatever_their_size() -> None:
    frame = plain_table(300).assign(part="train", organ="heart")
    frame.loc[frame.index % 2 == 1, "organ"] = "liver"
    frame.loc[::2, "note"], frame.loc[::2, "age"] = LONG, 50.0
    finding = named(look(frame), "duplicate_rows")
    assert len(finding.rows) == 150
    assert finding.evidence["set_count"] == 1
    assert [len(names) for names in finding.evidence["sets"]] == [150]


def test_evidence_spells_out_a_hundred_sets_and_counts_all() -> None:
    frame = plain_table(440).assign(part="train")
    frame["note"] = [f"{LONG} of {row // 4} or {row % 2}" for row in range(440)]
    frame["age"], frame["organ"] = 50.0, np.where(np.arange(440) % 8 < 4, "heart", "liver")
    finding = named(look(frame), "duplicate_rows")
    assert len(finding.rows) == 440
    assert (finding.evidence["set_count"], len(finding.evidence["sets"])) == (220, 100)


def test_copies_with_different_labels_are_a_conflict() -> None:
    frame = plain_table()
    i, j = of_parts(frame, "train", "train")
    frame = copied(frame, i, j, "note", "age")
    frame.loc[j, "organ"] = "spleen"
    frame.loc[[10, 20, 30], "organ"] = "spleen"
    examination = look(frame)
    finding = named(examination, "conflicting_labels")
    check(finding, "warn", {f"r{i:03d}", f"r{j:03d}"}, ("organ",), "correct the labels")
    assert finding.evidence["labels"] == [[frame.at[i, "organ"], "spleen"]]
    assert "duplicate_rows" not in kinds(examination), "nobody knows which one to keep"


def test_a_copy_without_a_label_contradicts_nothing() -> None:
    frame = plain_table().astype({"organ": object})
    i, j = of_parts(frame, "train", "train")
    frame = copied(frame, i, j, "note", "age")
    frame.loc[j, "organ"] = None
    assert "conflicting_labels" not in kinds(look(frame))


@pytest.mark.parametrize(
    ("parts", "groups", "kind", "severity", "remedy"),
    [
        (("train", "train"), "other", "duplicate_images", "warn", "keep one of each"),
        (("train", "train"), "same", "duplicate_images", "info", "nothing"),
        (("train", "test"), "other", "duplicate_images_across_parts", "error", "drop one side"),
    ],
)
@pytest.mark.parametrize("near", [False, True])
def test_pictures_that_are_equal_or_nearly_so(
    parts: tuple[str, str], groups: str, kind: str, severity: str, remedy: str, near: bool, tmp_path: Path
) -> None:
    frame = with_pictures(plain_table(), tmp_path)
    i, j = of_parts(frame, *parts)
    with Image.open(tmp_path / f"scan-{i}.png") as picture:
        copy = picture.resize((144, 144), Image.Resampling.BICUBIC) if near else picture.copy()
    copy.save(tmp_path / f"scan-{j}.png", compress_level=1)
    frame.loc[j, "organ"] = frame.at[i, "organ"]
    if groups == "same":
        frame.loc[j, "patient"] = frame.at[i, "patient"]
    examination = look(frame, tmp_path, inputs=INPUTS)
    kind = f"near_{kind}" if near else kind
    check(named(examination, kind), severity, {f"r{i:03d}", f"r{j:03d}"}, ("scan",), remedy)
    assert {name for name in kinds(examination) if "duplicate" in name} == {kind}


@pytest.mark.parametrize(
    ("parts", "kind", "severity", "remedy"),
    [
        (("train", "train"), "duplicate_texts", "info", "look at the examples"),
        (("train", "test"), "duplicate_texts_across_parts", "warn", "drop one side"),
    ],
)
def test_texts_that_are_equal(parts: tuple[str, str], kind: str, severity: str, remedy: str) -> None:
    frame = plain_table()
    i, j = of_parts(frame, *parts)
    frame.loc[[i, j], "note"] = [LONG, "  One and the SAME -- long report!"]
    examination = look(frame)
    check(named(examination, kind), severity, {f"r{i:03d}", f"r{j:03d}"}, ("note",), remedy)
    assert {name for name in kinds(examination) if "duplicate" in name} == {kind}
    frame.loc[j, "note"] = LONG + "s"
    assert kinds(look(frame)) <= NORMAL


def test_equal_pictures_with_different_labels_are_a_conflict_too(tmp_path: Path) -> None:
    frame = with_pictures(plain_table(), tmp_path)
    i, j = of_parts(frame, "train", "train")
    frame = copied(frame, i, j, "scan")
    assert "conflicting_labels" not in kinds(look(frame, tmp_path, inputs=INPUTS))
    frame.loc[j, "organ"] = next(name for name in ("heart", "liver") if name != frame.at[i, "organ"])
    check(
        named(look(frame, tmp_path, inputs=INPUTS), "conflicting_labels"),
        "warn", {f"r{i:03d}", f"r{j:03d}"}, ("organ",), "correct the labels",
    )  # fmt: skip


def test_a_row_that_contradicts_in_two_pictures_is_named_once(tmp_path: Path) -> None:
    frame = with_pictures(with_pictures(plain_table(), tmp_path), tmp_path, "slide", seed=1)
    i, j = of_parts(frame, "train", "train")
    frame = copied(frame, i, j, "scan", "slide")
    frame.loc[j, "organ"] = next(name for name in ("heart", "liver") if name != frame.at[i, "organ"])
    finding = named(look(frame, tmp_path, inputs=[*INPUTS, "slide"]), "conflicting_labels")
    check(finding, "warn", {f"r{i:03d}", f"r{j:03d}"}, ("organ",), "correct the labels")


def test_broken_files_and_blank_pictures_are_no_copies(tmp_path: Path) -> None:
    frame = with_pictures(plain_table(), tmp_path)
    for row in (0, 2, 4, 6):
        Image.new("RGB", (40, 40), (9, 9, 9)).save(tmp_path / f"scan-{row}.png")
    for row in (12, 14):
        (tmp_path / f"scan-{row}.png").write_bytes(b"broken")
    assert not any("duplicate" in kind for kind in kinds(look(frame, tmp_path, inputs=INPUTS)))


def pictures(thumbs: np.ndarray[Any, Any], hashes: list[int], sides: list[tuple[int, int]] | None = None) -> Pictures:
    """Return pictures without any file, none equal to another."""
    count = len(hashes)
    paths = pd.Series(["x"] * count, dtype="str")
    return Pictures(
        "scan", paths, paths, np.ones(count, np.uint8), np.arange(count, dtype=np.uint64),
        np.array(hashes, dtype=np.uint64), thumbs, np.zeros(count, dtype=bool),
        np.full((count, 2), 400, dtype=np.int32) if sides is None else np.array(sides, dtype=np.int32),
    )  # fmt: skip


def other_organ(frame: pd.DataFrame, row: int) -> str:
    return next(name for name in ("heart", "liver") if name != frame.at[row, "organ"])


def near(seen: Pictures, kind: str = "near_duplicate_images", organs: str = "heart") -> list[list[int]]:
    names = organs.split(",")
    frame = plain_table(len(seen.hashes))
    subject = look(frame.assign(organ=[names[row % len(names)] for row in range(len(frame))])).examined
    return [rows.tolist() for rows in find_copies(subject, [seen], [])[kind]["scan",]]


HASH = 0x0F0F_3C3C_5A5A_9696


@pytest.mark.parametrize(("bits", "alike"), [(1, True), (4, True), (5, False)])
def test_hashes_may_differ_in_four_bits(bits: int, alike: bool) -> None:
    thumbs = np.repeat(squares(1)[:, 24:48, 24:48], 6, 0)
    other = HASH ^ sum(1 << 13 * k for k in range(bits))
    far = [HASH ^ (0x5A << 8 * k) ^ (0xFF << 60 - 8 * k) & (2**64 - 1) for k in range(4)]
    assert near(pictures(thumbs, [HASH, other, *far])) == ([[0, 1]] if alike else [])


def correlated(correlation: float, contrast: float) -> np.ndarray[Any, Any]:
    """Return two thumbnails with a correlation, whose grey values spread by `contrast`."""
    generator = np.random.default_rng(0)
    one, noise = np.linalg.qr(generator.normal(size=(576, 3)) - [[0, 0, 0]])[0].T[:2]
    one, noise = one - one.mean(), noise - noise.mean()
    other = correlation * one / np.linalg.norm(one) + np.sqrt(1 - correlation**2) * noise / np.linalg.norm(noise)
    both = np.stack([one / np.linalg.norm(one), other])
    return (128 + 24 * contrast * both).round().clip(0, 255).astype(np.uint8).reshape(2, 24, 24)


@pytest.mark.parametrize(
    ("correlation", "contrast", "copies", "similar"),
    # What is left of one picture after the other: .17, .13 and .06 times the contrast.
    [(0.985, 15, True, False), (0.985, 29, False, True), (0.975, 15, False, False), (0.998, 40, True, False)],
)
def test_thumbnails_must_agree_too(correlation: float, contrast: float, copies: bool, similar: bool) -> None:
    thumbs = correlated(correlation, contrast)
    assert np.corrcoef(thumbs.reshape(2, -1))[0, 1] == pytest.approx(correlation, abs=0.003)
    assert near(pictures(thumbs, [HASH, HASH])) == ([[0, 1]] if copies else [])
    assert near(pictures(thumbs, [HASH, HASH]), "similar_images") == ([[0, 1]] if similar else [])


@pytest.mark.parametrize(
    ("sides", "copies"),
    [
        ([(400, 300), (200, 150)], True),
        ([(401, 300), (133, 100)], True),  # rounded
        ([(400, 300), (300, 400)], False),
        ([(400, 300), (400, 320)], False),
    ],
)
def test_pictures_of_another_shape_are_only_similar(sides: list[tuple[int, int]], copies: bool) -> None:
    thumbs = np.repeat(squares(1)[:, 24:48, 24:48], 2, 0)
    assert near(pictures(thumbs, [HASH, HASH], sides)) == ([[0, 1]] if copies else [])
    assert near(pictures(thumbs, [HASH, HASH], sides), "similar_images") == ([] if copies else [[0, 1]])


def test_pictures_of_other_classes_are_only_similar() -> None:
    thumbs = np.repeat(squares(1)[:, 24:48, 24:48], 2, 0)
    assert near(pictures(thumbs, [HASH, HASH]), organs="heart,liver") == []
    assert near(pictures(thumbs, [HASH, HASH]), "similar_images", "heart,liver") == [[0, 1]]


def leaf(width: int, height: int, lobes: int) -> Image.Image:
    """Return the silhouette of a leaf, dark on white: how long it is and how many lobes it has tell its kind."""
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    edge = 0.8 + 0.1 * np.cos(lobes * np.arctan2(y, x))
    return Image.fromarray(np.where(np.hypot(x, y) < edge, 30, 255).astype(np.uint8)).convert("RGB")


@pytest.mark.parametrize("one_class", [False, True])
def test_leaves_of_different_shape_are_no_leak(one_class: bool, tmp_path: Path) -> None:
    frame = with_pictures(plain_table(), tmp_path)
    train, test = of_parts(frame, "train", "test")
    leaf(200, 300, 5).save(tmp_path / f"scan-{train}.png")
    leaf(310, 300, 5).save(tmp_path / f"scan-{test}.png")
    frame.loc[test, "organ"] = frame.at[train, "organ"] if one_class else other_organ(frame, train)
    examination = look(frame, tmp_path, inputs=INPUTS)
    assert "near_duplicate_images_across_parts" not in kinds(examination)
    finding = named(examination, "similar_images_across_parts")
    assert (finding.severity, finding.certainty) == ("warn", "possible")
    assert set(finding.rows) == {f"r{train:03d}", f"r{test:03d}"}
    assert "seen the answer" not in finding.remedy


def test_one_picture_saved_twice_is_very_likely_a_leak(tmp_path: Path) -> None:
    frame = with_pictures(plain_table(), tmp_path)
    train, test = of_parts(frame, "train", "test")
    leaf(200, 300, 5).save(tmp_path / f"scan-{train}.png")
    leaf(200, 300, 5).resize((140, 210)).save(tmp_path / f"scan-{test}.png")
    frame.loc[test, "organ"] = frame.at[train, "organ"]
    finding = named(look(frame, tmp_path, inputs=INPUTS), "near_duplicate_images_across_parts")
    assert (finding.severity, finding.certainty) == ("error", "very likely")
    assert "seen the answer" in finding.remedy


@pytest.mark.parametrize(("ones", "alike"), [(5, False), (6, True), (58, True), (59, False)])
def test_hashes_of_flat_pictures_say_nothing(ones: int, alike: bool) -> None:
    thumbs = np.repeat(squares(1)[:, 24:48, 24:48], 2, 0)
    assert near(pictures(thumbs, [2**ones - 1] * 2)) == ([[0, 1]] if alike else [])


def test_near_copies_are_linked_through_others() -> None:
    thumbs = np.repeat(squares(1)[:, 24:48, 24:48], 4, 0)
    steps = [HASH, HASH ^ 0b1111, HASH ^ 0b1111_1111, HASH ^ (0xFFFF << 32)]
    assert near(pictures(thumbs, steps)) == [[0, 1, 2]]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=40), st.randoms(use_true_random=False))
def test_sets_of_copies_are_classes_of_an_equivalence(values: list[int], random: Any) -> None:
    order = list(range(len(values)))
    random.shuffle(order)
    use = np.array([value != 5 for value in values])
    hashes = np.array(values, dtype=np.uint64)
    sets = equal_sets(hashes, use)
    naive = {tuple(i for i, v in enumerate(values) if v == value) for value in set(values) - {5}}
    assert {tuple(rows.tolist()) for rows in sets} == {rows for rows in naive if len(rows) > 1}
    assert [int(rows[0]) for rows in sets] == sorted(int(rows.min()) for rows in sets)
    shuffled = equal_sets(hashes[order], use[order])
    assert {frozenset(order[i] for i in rows) for rows in shuffled} == {frozenset(rows.tolist()) for rows in sets}


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_near_copies_equal_a_naive_search_whatever_the_order(seed: int) -> None:
    generator = np.random.default_rng(seed)
    count = 24
    base = generator.integers(0, 2**63, 3, dtype=np.uint64)
    flips = [sum(1 << int(b) for b in generator.choice(64, k, replace=False)) for k in generator.integers(0, 6, count)]
    hashes = (base[generator.integers(0, 3, count)] ^ np.array(flips, dtype=np.uint64)).tolist()
    kept = squares(3, seed % 100)[:, :24, :24]
    thumbs = kept[generator.integers(0, 3, count)]
    flat = [not 6 <= value.bit_count() <= 58 for value in hashes]
    linked = {row: {row} for row in range(count)}
    for i, j in combinations(range(count), 2):
        close = (hashes[i] ^ hashes[j]).bit_count() <= 4 and not flat[i] and not flat[j]
        if close and np.corrcoef(thumbs[i].ravel(), thumbs[j].ravel())[0, 1] >= 0.98:
            union = linked[i] | linked[j]
            for row in union:
                linked[row] = union
    naive = {frozenset(rows) for rows in linked.values() if len(rows) > 1}
    order = generator.permutation(count)
    for places in (np.arange(count), order):
        sets = near(pictures(thumbs[places], [hashes[i] for i in places]))
        assert {frozenset(int(places[i]) for i in rows) for rows in sets} == naive


def numbers_of(frame: pd.DataFrame, root: Path, examined: bool, **roles: Any) -> np.ndarray[Any, Any]:
    """Return the copies of a table as a split is told of them, with the examination or without one."""
    table = Table(frame.reset_index(drop=True), "t", root)
    schema = infer_schema(table, Roles(**{**ROLES, "split": None, **roles}))
    return copy_numbers(table, schema, look(frame, root, split=None, **roles) if examined else None)


def together(numbers: np.ndarray[Any, Any], sets: list[set[int]]) -> bool:
    found = {frozenset(np.flatnonzero(numbers == number).tolist()) for number in set(numbers.tolist()) - {-1}}
    return found == {frozenset(rows) for rows in sets}


def test_the_numbers_of_copies_follow_chains_of_them() -> None:
    copies: Any = {
        "duplicate_images": {("a",): [np.array([0, 1]), np.array([6, 7])]},
        "near_duplicate_images": {("b",): [np.array([1, 5])]},
        "duplicate_texts": {("t",): [np.array([2, 3])]},
    }
    assert numbered(copies, 8).tolist() == [0, 0, -1, -1, -1, 0, 1, 1]
    assert numbered({}, 3).tolist() == [-1, -1, -1]


@pytest.mark.parametrize("examined", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_planted_copies_are_known_to_every_split(seed: int, examined: bool, tmp_path: Path) -> None:
    generator = np.random.default_rng(seed)
    frame = with_pictures(plain_table(seed=seed), tmp_path)
    a, b, c, d, e, f, g, h = generator.permutation(60)[:8].tolist()
    frame = copied(frame, a, b, "note", "age", "scan")  # whole rows, whatever their labels and patients
    (tmp_path / f"scan-{d}.png").write_bytes((tmp_path / f"scan-{c}.png").read_bytes())  # one picture, two files
    frame = copied(frame, e, f, "scan")  # one file for two rows
    sets = [{a, b}, {c, d}, {e, f}]
    with Image.open(tmp_path / f"scan-{g}.png") as picture:
        picture.resize((90, 80), Image.Resampling.BILINEAR).save(tmp_path / f"scan-{h}.png")
    sets += [{g, h}] if examined else []  # only who opens pictures can know
    numbers = numbers_of(frame, tmp_path, examined, inputs=INPUTS)
    assert together(numbers, sets)
    labels = pd.factorize(frame["organ"])[0].astype(np.int64)
    for groups in (None, frame["patient"]):
        split = make_split(frame["id"], labels, groups=groups, copies=numbers, seed=seed)
        assert all(len(set(split.part[list(rows)])) == 1 for rows in sets)


@pytest.mark.parametrize("examined", [True, False])
def test_copies_are_told_by_what_cells_mean_not_by_how_they_are_written(examined: bool, tmp_path: Path) -> None:
    frame = plain_table().astype({"age": object})
    frame = copied(frame, 3, 17, "note", "age", "site")
    frame.loc[17, ["age", "site"]] = [f"{frame.at[3, 'age']} ", f" {frame.at[3, 'site']}\ufeff"]
    kinds = {"age": "number", "site": "category"}
    assert together(numbers_of(frame, tmp_path, examined, inputs=["note", "age", "site"], kinds=kinds), [{3, 17}])


@pytest.mark.parametrize("times", [2, 5])
@pytest.mark.parametrize("examined", [True, False])
def test_a_table_that_was_pasted_several_times_is_all_copies(times: int, examined: bool, tmp_path: Path) -> None:
    """More rows repeat others here than the doctor takes for copies: no split may divide them all the same."""
    once = plain_table(40).drop(columns=["note", "patient", "part"])
    frame = pd.concat([once] * times, ignore_index=True).assign(id=[f"r{row}" for row in range(40 * times)])
    numbers = numbers_of(frame, tmp_path, examined, inputs=["age", "site"], group=None)
    assert together(numbers, [set(range(row, 40 * times, 40)) for row in range(40)])


@pytest.mark.parametrize("cells", [["sex"], ["age", "sex"], ["sex", "site", "smoker"], ["age"]])
@pytest.mark.parametrize("examined", [True, False])
def test_cells_too_coarse_to_know_a_row_by_keep_nothing_together(
    cells: list[str], examined: bool, tmp_path: Path
) -> None:
    generator = np.random.default_rng(0)
    frame = plain_table(400).drop(columns=["note", "patient", "part"])
    frame = frame.assign(age=generator.integers(20, 80, 400), sex=generator.choice(["m", "f"], 400))
    frame["smoker"] = generator.choice(["y", "n"], 400)
    assert (numbers_of(frame, tmp_path, examined, inputs=cells, group=None) == -1).all()


def test_a_lost_file_is_no_copy_of_another(tmp_path: Path) -> None:
    frame = with_pictures(plain_table(), tmp_path)
    frame.loc[:9, "scan"] = "lost.png"
    for examined in (True, False):
        assert (numbers_of(frame, tmp_path, examined, inputs=INPUTS) == -1).all()
    far = frame.assign(scan=["https://x.org/same.png"] * 2 + frame["scan"].tolist()[2:])
    assert together(numbers_of(far, tmp_path, False, inputs=INPUTS), [{0, 1}]), "one address, one picture"


def test_rows_that_the_policy_drops_take_their_numbers_along(tmp_path: Path) -> None:
    frame = copied(plain_table(), 3, 17, "note", "age")
    table = Table(frame, "t", tmp_path)
    schema = infer_schema(table, Roles(**{**ROLES, "split": None}))
    examination = look(frame, split=None)
    kept = Table(frame.drop(index=[0, 5]).reset_index(drop=True), "t", tmp_path)
    assert together(copy_numbers(kept, schema, examination), [{3 - 1, 17 - 2}])
