"""Who is who: one value in every spelling and type, columns that name things, and copies that no split may part."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusetune.data.choices import Kind
from fusetune.data.infer import column_notes, infer_schema, looks_like, named_like_id, spelling_notes
from fusetune.data.labels import class_list, encode_labels
from fusetune.data.roles import Roles
from fusetune.data.spelling import as_words, spellings
from fusetune.data.split import PARTS, deal, joined, make_split, part_codes
from fusetune.data.table import Table
from fusetune.errors import SplitError, TableError

NAN = float("nan")


def table(**columns: Any) -> Table:
    return Table(pd.DataFrame(columns), "t.csv", Path())


def ids(rows: int) -> pd.Series:
    return pd.Series([f"r{row:04d}" for row in range(rows)], dtype="str")


CARRIERS: list[tuple[Any, list[str]]] = [
    ([7, 8], ["7", "8"]),
    ([7.0, 8.0], ["7", "8"]),
    (["7", "8"], ["7", "8"]),
    (["7 ", "\ufeff8"], ["7", "8"]),
    (["7.0", "8.00"], ["7", "8"]),
    ([7, "8"], ["7", "8"]),
    (pd.Categorical([7, 8]), ["7", "8"]),
    (pd.Categorical(["7", " 8"]), ["7", "8"]),
    (pd.array([7, 8], dtype="Int64"), ["7", "8"]),
    (np.array([7, 8], dtype=np.float32), ["7", "8"]),
    ([True, False], ["True", "False"]),
    (pd.array([True, False], dtype="boolean"), ["True", "False"]),
    ([True, 1], ["True", "1"]),
    (["1.10", "1.1"], ["1.10", "1.1"]),
    (["007", "7"], ["007", "7"]),
    (["Jose\u0301", "José\u00a0"], ["José", "José"]),
    (pd.to_datetime(["2020-01-02", "2020-01-03"]), ["2020-01-02", "2020-01-03"]),
    ([dt.date(2020, 1, 2), "2020-01-03"], ["2020-01-02", "2020-01-03"]),
]


@pytest.mark.parametrize(("cells", "words"), CARRIERS)
def test_a_value_is_one_word_whatever_carries_it(cells: Any, words: list[str]) -> None:
    found = as_words(pd.Series(cells, name="g"))
    assert found.tolist() == words
    assert found.name == "g"
    assert as_words(found).tolist() == words, "tidy words stay as they are"


@pytest.mark.parametrize("cells", [["a", None], ["a", "  "], ["a", "\u200b"], ["a", NAN], pd.Categorical(["a", None])])
def test_missing_and_blank_cells_are_missing_words(cells: Any) -> None:
    assert as_words(pd.Series(cells)).isna().tolist() == [False, True]


def test_what_is_spelt_in_several_ways_and_what_only_looks_alike() -> None:
    one, alike = spellings(pd.Series(["p3", "p3 ", 7, 7.0, "7", "P3", "other", None, "p3"], dtype=object))
    assert one == [("p3", "p3 "), (7, 7.0, "7")]
    assert alike == [("p3", "P3")]
    assert spellings(pd.Series([1.0, 2.0])) == ([], [])


@pytest.mark.parametrize(("role", "name"), [("label", "y"), ("group", "who"), ("category", "site")])
def test_spellings_are_said_of_labels_groups_and_categories(role: str, name: str) -> None:
    plain = {"y": ["cat", "dog"] * 20, "who": [f"w{i // 4}" for i in range(40)], "site": ["north", "south"] * 20}
    odd = {**plain, name: [word.upper() if row % 3 == 0 else word for row, word in enumerate(plain[name])]}
    for columns, said in ((plain, 0), (odd, 1)):
        data = table(**columns)
        notes = spelling_notes(data, infer_schema(data, Roles("y", group="who")))
        assert len(notes) == said
    assert notes[0].kind == "value_spellings"
    assert f"column '{name}'" in notes[0].what
    assert repr(odd[name][0]) in notes[0].what, "an example is shown"
    assert "make them one" in notes[0].remedy


# What a value may become on its way through files and hands without becoming another one.
FORMS = [str, lambda n: f"{n} ", lambda n: f"\ufeff{n}", lambda n: f"{n}.0", int, float, np.int64, np.float64]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["grouped", "kfold", "time"]))
def test_a_group_in_any_spelling_is_on_one_side(seed: int, how: str) -> None:
    generator = np.random.default_rng(seed)
    number = np.arange(120) // 4
    cells = pd.Series([FORMS[k](n) for k, n in zip(generator.integers(0, 8, 120), number.tolist(), strict=True)])
    labels, times = number % 2, pd.Series(generator.permutation(120))
    how_so: dict[str, Any] = {"how": how, "seed": seed % 7, "times": times if how == "time" else None}
    split = make_split(ids(120), labels, groups=cells.astype(object), **how_so)
    plain = make_split(ids(120), labels, groups=pd.Series(number), **how_so)
    assert split.hash == plain.hash
    assert pd.Series(split.part).groupby(number).nunique().max() == 1


@pytest.mark.parametrize("empty", [None, NAN, "", "  ", pd.NA])
def test_an_empty_group_is_refused_however_it_is_written(empty: Any) -> None:
    groups = pd.Series(["a", empty, *"bcdefghijk"], name="g", dtype=object)
    with pytest.raises(SplitError, match=r"group column 'g' is empty in row\(s\) r0001; fill it in"):
        make_split(ids(12), np.arange(12) % 2, groups=groups)


def test_parts_are_known_in_any_spelling() -> None:
    words = pd.Series(["Train ", "VAL", "\ufefftest", pd.NA, "", "holdout"], dtype=object)
    assert part_codes(words).tolist() == [0, 1, 2, -1, -1, -1]
    assert part_codes(words[:3].astype("category")).tolist() == [0, 1, 2]


@pytest.mark.parametrize("values", [[3, 1, 2], ["3", "1 ", "2"], [3, "1", 2.0], pd.Categorical([3, 1, 2])])
def test_times_are_ordered_by_what_they_say(values: Any) -> None:
    times = pd.Series(list(values) * 1, name="day", dtype=getattr(values, "dtype", None))
    split = make_split(ids(3), np.zeros(3, int), how="time", times=times, fractions=(0.34, 0.33, 0.33))
    assert split.part.tolist() == [2, 0, 1]


LABELS: list[tuple[list[Any], list[Any]]] = [
    # labels of a later table -> of the one that was learnt from
    ([1, 2], ["1", "2"]),
    ([1.0, 2.0], [1, 2]),
    (["1", "2.0 "], [1, 2]),
    (["cat ", "dog"], ["cat", "dog"]),
    (["Jose\u0301", "x"], ["José", "x"]),
    (["true", "False"], [True, False]),
    ([True, False], ["true", "false"]),
    ([1, 0], [True, False]),
    ([True, False], [1, 0]),
]


@pytest.mark.parametrize(("later", "known"), LABELS)
def test_labels_of_a_later_table_are_known_in_any_spelling(later: list[Any], known: list[Any]) -> None:
    assert encode_labels(table(y=pd.Series(later, dtype=object)), "y", known).tolist() == [0, 1]
    assert encode_labels(table(y=later), "y", known).tolist() == [0, 1]


@pytest.mark.parametrize("unknown", ["Cat", "1.10", "3"])
def test_a_label_that_only_looks_alike_is_another(unknown: str) -> None:
    with pytest.raises(TableError, match=f"column 'y' holds {unknown}"):
        encode_labels(table(y=["cat", unknown]), "y", ["cat", "1.1"])


@pytest.mark.parametrize(
    "several",
    [["a", "a "], ["é", "e\u0301"], [7, "7"], [7, 7.0], ["7", "7.0"], ["a", "\u200ba"], [1, True], [True, "x"]],
)
def test_labels_that_differ_in_spelling_or_type_only_are_refused(several: list[Any]) -> None:
    with pytest.raises(TableError, match=r"differ in type, in spaces|truth values beside"):
        class_list(table(y=pd.Series([*several, "other"] * 4, dtype=object)), "y")


# Copies.


def hows(rows: int, generator: np.random.Generator) -> dict[str, dict[str, Any]]:
    groups = pd.Series([f"g{k}" for k in generator.integers(0, rows // 3, rows)], name="patient")
    return {
        "stratified": {},
        "grouped": {"groups": groups},
        "kfold": {"how": "kfold", "folds": 4, "fold": int(generator.integers(0, 4))},
        "folds of groups": {"how": "kfold", "folds": 3, "groups": groups},
        "time": {"how": "time", "times": pd.Series(generator.permutation(rows))},
        "without a test part": {"fractions": (0.7, 0.3, 0)},
    }


def planted(rows: int, generator: np.random.Generator) -> np.ndarray[Any, Any]:
    """Return the number of each row's set of copies: pairs, threes and fours, anywhere in the table; -1 for most."""
    copies = np.full(rows, -1)
    places = generator.permutation(rows)
    for number, size in enumerate(generator.integers(2, 5, int(generator.integers(1, rows // 10)))):
        copies[places[:size]], places = number, places[size:]
    return copies


@settings(max_examples=120, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(list(hows(60, np.random.default_rng(0)))))
def test_copies_and_groups_are_never_on_both_sides(seed: int, name: str) -> None:
    generator = np.random.default_rng(seed)
    labels, copies = generator.integers(0, 2, 90), planted(90, generator)
    how = hows(90, generator)[name]
    split = make_split(ids(90), labels, copies=copies, seed=seed % 5, **how)
    sides = pd.Series(split.part)[copies >= 0].groupby(copies[copies >= 0]).nunique()
    assert sides.max() == 1, "a set of copies is on both sides"
    if "groups" in how:
        assert pd.Series(split.part).groupby(how["groups"]).nunique().max() == 1
    order = generator.permutation(90)
    turned = {k: v.iloc[order].reset_index(drop=True) if isinstance(v, pd.Series) else v for k, v in how.items()}
    names = ids(90).iloc[order].reset_index(drop=True)
    again = make_split(names, labels[order], copies=copies[order], seed=seed % 5, **turned)
    assert again.hash == split.hash, "the order of the table does not matter"
    assert ("copies stay together" in split.how) == (joined(how.get("groups", ids(90)), copies).nunique() < units(how))


def units(how: dict[str, Any]) -> int:
    return int(how.get("groups", ids(90)).nunique())


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(list(hows(60, np.random.default_rng(0)))))
def test_without_copies_a_split_is_what_it_was(seed: int, name: str) -> None:
    generator = np.random.default_rng(seed)
    labels, how = generator.integers(0, 2, 60), hows(60, generator)[name]
    plain = make_split(ids(60), labels, **how)
    none = make_split(ids(60), labels, copies=np.full(60, -1), **how)
    assert (none.hash, none.how) == (plain.hash, plain.how)


def test_a_given_split_is_not_changed_but_its_missing_valid_part_keeps_copies_together() -> None:
    parts = pd.Series((["train"] * 4 + ["test"]) * 20, name="part")
    copies = np.arange(100) // 2  # pairs, some of which are on both sides of the given split
    split = make_split(ids(100), np.arange(100) // 2 % 2, parts=parts, copies=copies)
    assert ((split.part == 2) == (parts == "test")).all()
    learnt = split.part < 2
    assert pd.Series(split.part)[learnt].groupby(copies[learnt]).nunique().max() == 1
    assert (split.part == 1).any()


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_joined_units_are_the_connected_ones(seed: int) -> None:
    generator = np.random.default_rng(seed)
    names = pd.Series([f"u{k:02d}" for k in generator.integers(0, 15, 30)])
    copies = np.where(generator.random(30) < 0.5, generator.integers(0, 8, 30), -1)
    naive = {name: {name} for name in names}
    for number in set(copies) - {-1}:
        union = set().union(*(naive[name] for name in names[copies == number]))
        for name in union:
            naive[name] = union
    assert joined(names, copies).tolist() == [min(naive[name]) for name in names]


# Classes without a training row.


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32 - 1), st.booleans(), st.booleans())
def test_every_class_can_be_learnt_or_is_named(seed: int, grouped: bool, copied: bool) -> None:
    generator = np.random.default_rng(seed)
    labels = np.sort(np.unique(generator.zipf(1.5, 60) % 9, return_inverse=True)[1])
    groups = pd.Series([f"g{k}" for k in generator.integers(0, 9, 60)], name="patient") if grouped else None
    try:
        split = make_split(ids(60), labels, groups=groups, copies=planted(60, generator) if copied else None)
    except SplitError as error:
        assert grouped
        assert "no row is left" in str(error) or "have no training row" in str(error)
        return
    assert set(labels[split.part == 0]) == set(labels)


def test_a_class_that_the_deal_leaves_without_training_rows_is_moved_there() -> None:
    for seed in range(300):
        generator = np.random.default_rng(seed)
        groups = pd.Series([f"g{k}" for k in generator.integers(0, 14, 60)], name="patient")
        labels = np.where(np.arange(60) < 4, 2, generator.integers(0, 2, 60))
        dealt = deal(ids(60), labels, groups, (0.34, 0.33, 0.33), seed)
        if set(labels[dealt == 0]) != {0, 1, 2}:
            break
    else:
        pytest.fail("no deal left a class out, so nothing was tested")
    split = make_split(ids(60), labels, groups=groups, fractions=(0.34, 0.33, 0.33), seed=seed)
    assert set(labels[split.part == 0]) == {0, 1, 2}
    assert pd.Series(split.part).groupby(groups).nunique().max() == 1
    assert min(split.counts().values()) > 0


def rare(parts: list[str]) -> tuple[np.ndarray[Any, Any], pd.Series]:
    words = pd.Series(["train"] * 20 + ["val"] * 6 + ["test"] * 6 + parts, name="part")
    return np.array([0, 1] * 16 + [2] * len(parts)), words


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        (
            ["test"] * 8,
            r"1 class\(es\) .*column 'part'.*: 'rare' \(8 row\(s\), all in test\); move some of their rows to",
        ),
        (
            ["val", "test"] * 2,
            r"'rare' \(4 row\(s\), all in valid and test\); move some of their rows to train in column",
        ),
        (["test"], r"'rare' \(1 row\(s\), all in test\); merge such a class with another, or drop it"),
    ],
)
def test_a_given_split_without_training_rows_of_a_class_says_which(parts: list[str], said: str) -> None:
    labels, words = rare(parts)
    with pytest.raises(SplitError, match=said):
        make_split(ids(len(labels)), labels, parts=words, classes=["cat", "dog", "rare"])


def test_a_class_in_one_group_that_the_test_part_needs_is_named_with_its_group() -> None:
    labels, times = np.array([0, 1] * 18 + [2] * 4), pd.Series(range(40), name="day")
    groups = pd.Series([f"g{k}" for k in np.arange(40) // 4], name="patient")
    with pytest.raises(SplitError) as error:
        make_split(ids(40), labels, how="time", times=times, groups=groups, classes=["cat", "dog", "rare"])
    assert "'rare' (4 row(s), all in test and of one group, 'g9')" in str(error.value)
    assert "groups of column 'patient'" in str(error.value)
    assert "give rows of more groups, or merge such a class with another, or drop it" in str(error.value)


def test_many_lost_classes_are_counted_and_the_first_ones_named() -> None:
    labels, words = np.array([0] * 4 + list(range(1, 8))), pd.Series(["train"] * 3 + ["val"] + ["test"] * 7, name="p")
    with pytest.raises(SplitError, match=r"7 class\(es\) have .*'1' .*'2' .*'3' .* and 4 more; merge"):
        make_split(ids(11), labels, parts=words)
    assert PARTS[2] == "test"


# Columns that name rows, patients and other things.

SURE = """
PatientID patientId PATIENT_ID Patient_ID patient-id patient.id PassengerId MRN mrn patientid caseid subject_id uid
study_uid StudyInstanceUID Index index ID Id row_id rowid id_patient user_uuid sampleGUID patient_id_2 level_0
__index_level_0__
"""
HONEST = """
grid valid acid humid paid fluid age_at_visit patient_age number_of_children bmi_index zip_code phone_number idea
identity solid_mass guide steroid weight sex case_severity key_signature
"""


@pytest.mark.parametrize("name", [*SURE.split(), "Patient ID", "Unnamed: 0.1", "Unnamed: 0"])
def test_names_of_ids(name: str) -> None:
    assert named_like_id(name)
    labels = np.where(np.arange(200) // 4 >= 25, "ill", "well")
    for values in (100_000 + np.arange(200) // 4, [f"P-{k:03d}" for k in np.arange(200) // 4]):
        data = table(**{name: values, "age": np.random.default_rng(0).normal(50, 9, 200), "y": labels})
        schema = infer_schema(data, Roles("y"))
        (column,) = (c for c in schema.columns if c.name == name)
        assert column.role == "unused"
        assert "--group" in column.reason
        (note,) = column_notes(data, schema)
        assert note.kind == "column_by_heart"
        assert f"add --group {name}" in note.remedy
        used = infer_schema(data, Roles("y", inputs=[name, "age"]))
        assert name in [c.name for c in used.inputs], "what the user names is used"
        unique = Table(data.frame.assign(**{name: range(200)}), "t", Path())
        assert infer_schema(unique, Roles("y")).named("id") == name, "where all values differ, it names the rows"


@pytest.mark.parametrize("name", HONEST.split())
def test_names_that_are_not_of_ids(name: str) -> None:
    assert not named_like_id(name)
    generator = np.random.default_rng(0)
    values = generator.permutation(np.arange(200) % 60)
    data = table(**{name: values, "y": generator.choice(["a", "b"], 200)})
    assert [c.role for c in infer_schema(data, Roles("y")).columns] == ["input", "label"]


@pytest.mark.parametrize(
    "name", ["case", "case_no", "CaseNo", "subject", "accession", "patient", "patient number", "Patient#"]
)
def test_names_of_things_are_ids_where_the_values_are_codes(name: str) -> None:
    generator = np.random.default_rng(1)
    y = generator.choice(["a", "b"], 200)
    codes = infer_schema(table(**{name: [f"c{k}" for k in np.arange(200) // 4], "y": y}), Roles("y"))
    assert codes.columns[0].role == "unused"
    few = infer_schema(table(**{name: ["upper", "lower"] * 100, "y": y}), Roles("y"))
    assert few.columns[0].role == "input", "words of a language that say something"


@pytest.mark.parametrize("name", ["key", "nr", "No.", "code", "number", "ref"])
def test_names_that_may_be_honest_are_decided_by_what_the_values_do(name: str) -> None:
    generator = np.random.default_rng(2)
    things = np.arange(200) // 4
    constant = np.where(things % 2, "a", "b")
    data = table(**{name: generator.permutation(50)[things], "y": constant})
    schema = infer_schema(data, Roles("y"))
    assert schema.columns[0].role == "unused", "many values, and each has one label"
    assert [note.kind for note in column_notes(data, schema)] == ["column_by_heart"]
    honest = infer_schema(table(**{name: things, "y": generator.choice(["a", "b"], 200)}), Roles("y"))
    assert honest.columns[0].role == "input"


def test_a_column_that_knows_rows_by_heart_is_said_whatever_its_name() -> None:
    generator = np.random.default_rng(3)
    who = generator.permutation([f"name {'abcdefghijklmnopqrstuvwxyz'[k // 2]}{'xy'[k % 2]}" for k in range(40)])
    things = np.arange(200) // 5
    data = table(who=who[things], site=generator.choice(["n", "s"], 200), y=np.where(things % 2, "a", "b"))
    schema = infer_schema(data, Roles("y"))
    assert [c.role for c in schema.columns] == ["input", "input", "label"]
    (note,) = column_notes(data, schema)
    assert "column 'who': all rows of each of its 40 values have one label" in note.what
    assert "--group who" in note.remedy
    grouped = infer_schema(data, Roles("y", group="who"))
    assert not column_notes(data, grouped)
    mixed = Table(data.frame.assign(y=generator.choice(["a", "b"], 200)), "t", Path())
    assert not column_notes(mixed, infer_schema(mixed, Roles("y")))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([f"https://x.org/{k}?a=1" for k in range(9)], "addresses"),
        ([f"someone.{k}@example.org" for k in range(9)], "addresses"),
        ([f"{k}f3b9{k}ac-1234-5678" for k in range(9)], "codes"),
        (["north", "south", "east", "west", "centre"], ""),
        (["T1", "T2", "T3", "T4", "T5"], ""),
        (["left knee", "right knee", "hip", "see https://x.org", "none"], ""),
    ],
)
def test_what_cells_look_like(values: list[str], said: str) -> None:
    look = looks_like(as_words(pd.Series(values)), Kind.CATEGORY)
    assert (look is not None) == bool(said)
    assert look is None or said in look[0]
    assert looks_like(as_words(pd.Series(values)), Kind.IMAGE) is None
