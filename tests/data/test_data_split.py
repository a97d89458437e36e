"""Splits: whole groups, close to their shares, equal everywhere for equal seeds, tamper-evident, and a locked test."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest

from fusetune.data.split import PARTS, Split, deal, make_split, seeded_order
from fusetune.errors import LockedTestError, SplitError

Codes = npt.NDArray[np.int64]


def ids(rows: int) -> pd.Series:
    return pd.Series(np.arange(rows)).astype("str")


def labelled(rows: int, classes: int = 3, seed: int = 0) -> Codes:
    weights = np.arange(1, classes + 1) / np.arange(1, classes + 1).sum()
    return np.random.default_rng(seed).choice(classes, rows, p=weights)


def grouped(rows: int, groups: int, seed: int = 0) -> pd.Series:
    sizes = np.random.default_rng(seed).pareto(2, groups) + 0.2
    chosen = np.random.default_rng(seed + 1).choice(groups, rows, p=sizes / sizes.sum())
    return pd.Series([f"g{i}" for i in chosen], name="patient")


def parts_by_id(split: Split) -> dict[str, int]:
    return dict(zip(split.ids, split.part.tolist(), strict=True))


def test_a_stratified_split_has_the_shares_in_every_class() -> None:
    labels = labelled(1000, 5)
    split = make_split(ids(1000), labels, fractions=(0.7, 0.2, 0.1))
    assert split.how == "stratified by label"
    for code in range(5):
        rows = split.part[labels == code]
        for part, share in enumerate((0.7, 0.2, 0.1)):
            assert abs((rows == part).sum() - share * len(rows)) <= 1


def test_many_rare_classes_leave_no_part_empty() -> None:
    for size in (3, 4):
        labels = np.repeat(np.arange(100), size)
        counts = make_split(ids(len(labels)), labels).counts()
        assert abs(counts["valid"] - counts["test"]) <= 2
    dealt = deal(ids(300), np.repeat(np.arange(100), 3), ids(300), (0.2,) * 5, 0)
    assert np.ptp(np.bincount(dealt, minlength=5)) <= 1


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_groups_are_never_shared_and_classes_stay_in_proportion(seed: int) -> None:
    labels, groups = labelled(2000, 4, seed), grouped(2000, 300, seed)
    split = make_split(ids(2000), labels, groups=groups, seed=seed)
    assert split.how == "whole groups, stratified by label"
    assert pd.Series(split.part).groupby(groups).nunique().max() == 1
    shares = np.array([[np.mean(split.part[labels == c] == p) for p in range(3)] for c in range(4)])
    assert np.abs(shares - [0.7, 0.15, 0.15]).max() < 0.03


def naive_deal(
    names: list[str], labels: list[int], units: list[str], shares: tuple[float, ...], seed: int
) -> list[int]:
    """The stated rule, with the chi-square recomputed in full for every choice."""
    totals = {c: labels.count(c) for c in set(labels)}
    members = {u: [label for label, unit in zip(labels, units, strict=True) if unit == u] for u in set(units)}
    hashed = dict(zip(members, seeded_order(pd.Series(list(members)), seed).tolist(), strict=True))
    counts: list[dict[int, int]] = [dict.fromkeys(totals, 0) for _ in shares]
    chosen = {}

    def chi_square(after: list[dict[int, int]]) -> float:
        expected = {(p, c): shares[p] * totals[c] for p in range(len(shares)) for c in totals}
        return sum((after[p][c] - e) ** 2 / e for (p, c), e in expected.items())

    for unit in sorted(members, key=lambda u: (-len(members[u]), hashed[u])):
        outcomes = []
        for part in range(len(shares)):
            after = [dict(count) for count in counts]
            for label in members[unit]:
                after[part][label] += 1
            outcomes.append(chi_square(after))
        best = [p for p in range(len(shares)) if outcomes[p] <= min(outcomes) + 1e-9]
        part = min(best, key=lambda p: (round(sum(counts[p].values()) / shares[p], 6), p))
        chosen[unit] = part
        for label in members[unit]:
            counts[part][label] += 1
    return [chosen[unit] for unit in units]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("shares", [(0.7, 0.15, 0.15), (0.25, 0.25, 0.25, 0.25), (0.5, 0.3, 0.2)])
def test_dealing_follows_its_stated_rule(seed: int, shares: tuple[float, ...]) -> None:
    labels, groups = labelled(120, 3, seed), grouped(120, 40, seed)
    part = deal(ids(120), labels, groups, shares, seed)
    assert part.tolist() == naive_deal(ids(120).tolist(), labels.tolist(), groups.tolist(), shares, seed)
    alone = deal(ids(60), labels[:60], ids(60), shares, seed)
    names = ids(60).tolist()
    assert alone.tolist() == naive_deal(names, labels[:60].tolist(), names, shares, seed)


HOWS: list[dict[str, Any]] = [
    {"how": "stratified"}, {"how": "grouped", "groups": True}, {"how": "kfold", "fold": 2},
    {"how": "kfold", "fold": 4, "groups": True}, {"how": "time", "times": True},
]  # fmt: skip


@pytest.mark.parametrize("settings", HOWS)
def test_the_order_of_the_rows_does_not_matter(settings: dict[str, Any]) -> None:
    labels, groups = labelled(400), grouped(400, 80)
    times = pd.Series(np.random.default_rng(3).integers(0, 10_000, 400), name="day")
    names = ids(400)
    splits = {}
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(400) if seed else np.arange(400)
        shuffled = {
            **settings,
            **({"groups": groups.iloc[order].reset_index(drop=True)} if "groups" in settings else {}),
            **({"times": times.iloc[order].reset_index(drop=True)} if "times" in settings else {}),
        }
        split = make_split(names.iloc[order].reset_index(drop=True), labels[order], **shuffled, seed=7)
        splits[split.hash] = parts_by_id(split)
    assert len(splits) == 1
    other = make_split(names, labels, **{**settings, **({"groups": groups} if "groups" in settings else {}),
                                         **({"times": times} if "times" in settings else {})}, seed=8)  # fmt: skip
    assert (other.hash in splits) == ("times" in settings)


def test_splits_are_what_they_always_were() -> None:
    labels = np.array([0, 1, 2] * 8)
    alone = make_split(ids(24), labels, fractions=(0.5, 0.25, 0.25), seed=1)
    groups = pd.Series([f"g{i // 2}" for i in range(24)], name="g")
    together = make_split(ids(24), labels, groups=groups, fractions=(0.5, 0.25, 0.25), seed=1)
    assert "".join(map(str, alone.part)) == "100012220120002200011001"
    assert "".join(map(str, together.part)) == "002200220011111100000022"
    assert alone.hash == "2d8e3331413a4a87cc5c282711e7d109998b6b5a2e985696308f4d4b084d2938"


def test_every_row_is_in_test_and_in_valid_once_over_all_folds() -> None:
    labels, groups = labelled(500), grouped(500, 90)
    for units in (None, groups):
        splits = [make_split(ids(500), labels, how="kfold", folds=4, fold=fold, groups=units) for fold in range(4)]
        for part in (1, 2):
            assert (sum((split.part == part).astype(int) for split in splits) == 1).all()
        assert [split.counts()["test"] for split in splits] == pytest.approx(
            [125] * 4, abs=15 if units is not None else 1
        )
        assert splits[1].how == "fold 1 of 4 is the test part"


@pytest.mark.parametrize("with_groups", [False, True])
def test_without_a_test_part_all_rows_are_dealt_to_the_two_others(with_groups: bool) -> None:
    labels, groups = labelled(1000, 4), grouped(1000, 150)
    split = make_split(ids(1000), labels, groups=groups if with_groups else None, fractions=(0.75, 0.25, 0), seed=3)
    counts = split.counts()
    assert counts["test"] == 0
    assert counts["train"] + counts["valid"] == 1000
    assert counts["valid"] == pytest.approx(250, abs=25 if with_groups else 4)
    if with_groups:
        assert pd.Series(split.part).groupby(groups).nunique().max() == 1


def test_without_a_test_part_too_few_groups_are_refused() -> None:
    with pytest.raises(SplitError, match="no row is left for valid"):
        make_split(ids(6), np.array([0, 1, 0, 1, 0, 1]), groups=pd.Series(["one"] * 6), fractions=(0.8, 0.2, 0))


def test_given_names_have_aliases() -> None:
    words = ["train", "Training", " val", "DEV", "validation", "valid", "test", "testing", "train"]
    split = make_split(ids(9), np.zeros(9, int), parts=pd.Series(words, name="part"))
    assert split.part.tolist() == [0, 0, 1, 1, 1, 1, 2, 2, 0]
    assert split.how == "column 'part'"


def test_unknown_and_empty_parts_are_refused() -> None:
    words = pd.Series(["train", "tset", "valid"], name="part")
    with pytest.raises(
        SplitError, match="column 'part' says 'tset', which names no part, in row b, did you mean 'test'"
    ):
        make_split(pd.Series(["a", "b", "c"]), np.zeros(3, int), parts=words)
    with pytest.raises(SplitError, match="column 'part' is empty in row 2"):
        make_split(ids(3), np.zeros(3, int), parts=pd.Series(["train", "test", None], name="part"))


@pytest.mark.parametrize("with_groups", [False, True])
def test_valid_rows_are_taken_from_train_where_none_are_named(with_groups: bool) -> None:
    labels = labelled(400)
    groups = pd.Series([f"g{i // 4}" for i in range(400)], name="g") if with_groups else None
    words = pd.Series(["train"] * 300 + ["test"] * 100, name="part")
    split = make_split(ids(400), labels, parts=words, groups=groups, fractions=(0.6, 0.2, 0.2))
    assert split.counts()["test"] == 100
    assert (split.part[300:] == 2).all()
    assert split.counts()["valid"] == pytest.approx(75, abs=4)
    assert "it names no valid rows, so 25% of the training rows became the valid part" in split.how
    if groups is not None:
        assert pd.Series(split.part).groupby(groups).nunique().max() == 1


@pytest.mark.parametrize(
    "times",
    [
        np.arange(20) * 3, np.arange(20) + 0.5, pd.date_range("2020-01-01", periods=20),
        pd.date_range("2020-01-01", periods=20).strftime("%Y-%m-%d").tolist(), [str(n) for n in range(20)],
        pd.date_range("2020-01-25", periods=20).strftime("%d/%m/%Y").tolist(),
        [f"2020-01-{d + 1:02}T00:00:00+0{d % 2}:00" for d in range(20)],
    ],
)  # fmt: skip
def test_the_newest_rows_become_the_test_part(times: Any) -> None:
    order = np.random.default_rng(0).permutation(20)
    shuffled = pd.Series(times, name="day").iloc[order].reset_index(drop=True)
    split = make_split(ids(20), np.zeros(20, int), how="time", times=shuffled, fractions=(0.6, 0.2, 0.2))
    assert [split.part[np.flatnonzero(order == i)[0]] for i in range(20)] == [0] * 12 + [1] * 4 + [2] * 4


def test_equal_times_and_groups_stay_together_in_time() -> None:
    times = pd.Series(np.repeat(np.arange(10), 3), name="day")
    split = make_split(ids(30), np.zeros(30, int), how="time", times=times)
    assert pd.Series(split.part).groupby(times).nunique().max() == 1
    groups = pd.Series([f"g{i % 10}" for i in range(30)], name="g")
    late = make_split(ids(30), np.zeros(30, int), how="time", times=pd.Series(np.arange(30)), groups=groups)
    newest = pd.Series(np.arange(30)).groupby(groups).transform("max")
    ends = [newest[late.part == part] for part in range(3)]
    assert ends[0].max() < ends[1].min()
    assert ends[1].max() < ends[2].min()


def test_a_group_is_as_new_as_its_newest_row() -> None:
    """A patient with one old and one new visit belongs to the test part: nothing later is learnt from."""
    times = pd.Series(np.arange(20), name="day")
    groups = pd.Series([f"g{i}" if i not in (0, 19) else "back again" for i in range(20)], name="patient")
    split = make_split(ids(20), np.zeros(20, int), how="time", times=times, groups=groups, fractions=(0.6, 0.2, 0.2))
    assert (split.part[[0, 19]] == 2).all()
    later = (split.part > 0) & (groups != "back again")
    assert times[split.part == 0].max() < times[later].min()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"how": "grouped"}, "'grouped' but no group column was named; add --group"),
        ({"how": "given"}, "'given' but no split column was named; add --split"),
        ({"how": "time"}, "'time' but split.time names no column"),
        ({"how": "random"}, "split.how 'random' is unknown"),
        ({"how": "time", "times": pd.Series([None, *range(11)], name="day")}, r"'day' is empty in row\(s\) 0;"),
        ({"how": "time", "times": pd.Series(["soon", *map(str, range(11))], name="day")}, r"row\(s\) .* hold no"),
        ({"how": "time", "times": pd.Series([5] * 12, name="day")}, "no row is left for valid and test"),
        ({"groups": pd.Series(["a"] * 12, name="g")}, "no row is left for valid and test .*give more rows or groups"),
        ({"groups": pd.Series(["a", None] * 6, name="g")}, r"column 'g' is empty in row\(s\) 1, 3, 5, 7, 9 and"),
        ({"parts": pd.Series(["train"] * 12, name="p")}, "no row is left for test"),
        ({"parts": pd.Series(["test"] * 12, name="p")}, "no row is left for train and valid"),
        (
            {"parts": pd.Series(list(PARTS) * 4, name="p"), "groups": pd.Series(["a", "b"] * 6, name="g")},
            r"2 group\(s\) of column 'g' have rows in more than one part, such as a, b; split by group",
        ),
        ({"how": "stratified", "groups": pd.Series(["a", "b"] * 6, name="g")}, "have rows in more than one part"),
    ],
)  # fmt: skip
def test_impossible_splits_say_why(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SplitError, match=message):
        make_split(ids(12), np.zeros(12, int), **settings)


def test_a_class_without_training_rows_is_refused() -> None:
    words = pd.Series(["train", "valid", "test", "train"], name="p")
    with pytest.raises(
        SplitError, match=r"1 class\(es\) have no training row .*'1' \(1 row\(s\), all in test\); merge"
    ):
        make_split(ids(4), np.array([0, 0, 1, 0]), parts=words)


def made(rows: int = 30) -> Split:
    return make_split(ids(rows), labelled(rows, 2))


def test_the_hash_follows_every_row_and_no_order() -> None:
    split = made()
    turned = Split(split.ids[::-1], split.part[::-1], "")
    assert turned.hash == split.hash
    part = split.part.copy()
    part[[0, 1]] = (part[[0, 1]] + 1) % 3
    assert Split(split.ids, part, "").hash != split.hash
    assert Split(split.ids + "x", split.part, "").hash != split.hash


def test_a_saved_split_comes_back_for_any_order_of_the_table(tmp_path: Path) -> None:
    split = made()
    split.save(tmp_path / "split.parquet")
    assert [path.name for path in tmp_path.iterdir()] == ["split.parquet"]
    order = np.random.default_rng(0).permutation(30)
    loaded = Split.load(tmp_path / "split.parquet", split.ids.iloc[order].reset_index(drop=True))
    assert parts_by_id(loaded) == parts_by_id(split)
    assert loaded.ids.tolist() == split.ids.iloc[order].tolist()
    assert loaded.hash == split.hash
    assert loaded.how == split.how
    frame = pd.read_parquet(tmp_path / "split.parquet")
    assert list(frame.columns) == ["row_id", "part"]
    assert set(frame["part"]) == set(PARTS)


@pytest.mark.parametrize("change", ["swap", "word", "attrs", "twice", "columns", "bytes", "cut", "gone"])
def test_a_changed_split_is_refused(tmp_path: Path, change: str) -> None:
    split, path = made(), tmp_path / "split.parquet"
    split.save(path)
    frame = pd.read_parquet(path)
    match change:
        case "swap":
            frame.loc[split.part == 2, "part"] = "train"
        case "word":
            frame.loc[0, "part"] = "Train"
        case "attrs":
            frame.attrs = {}
        case "twice":
            frame.loc[1, "row_id"] = "0"
        case "columns":
            frame = frame.rename(columns={"part": "fold"})
    frame.to_parquet(path)
    if change == "bytes":
        path.write_bytes(b"no split")
    elif change == "cut":
        path.write_bytes(path.read_bytes()[:-20])
    elif change == "gone":
        path.unlink()
    with pytest.raises(
        SplitError, match=r"split\.parquet (was changed|was made for another|is no saved split).*new run"
    ):
        Split.load(path, split.ids)


def test_the_split_of_another_table_is_refused(tmp_path: Path) -> None:
    split = made()
    split.save(tmp_path / "s.parquet")
    for other in (split.ids[:-1], ids(31), ids(30) + "x"):
        with pytest.raises(SplitError, match="was made for another table"):
            Split.load(tmp_path / "s.parquet", other)


def test_rows_outside_a_part_are_refused() -> None:
    split = made()
    train, valid = split.rows("train"), split.rows("valid")
    split.check(train, "train")
    split.check(np.concatenate([train, valid]), "train", "valid")
    split.check(np.array([], dtype=np.int64), "train")
    with pytest.raises(SplitError, match=r"may only see rows of train, but was given 1 of valid, such as \d+$"):
        split.check(np.append(train, valid[0]), "train")
    outside = np.flatnonzero(split.part == 2)
    with pytest.raises(SplitError, match=f"train and valid, but was given {len(outside)} of test"):
        split.check(np.arange(30), "train", "valid")


def test_the_test_part_is_locked_until_opened_and_opens_once() -> None:
    split = made()
    assert split.counts()["test"] == (split.part == 2).sum()
    with pytest.raises(LockedTestError, match="locked until every choice has been made"):
        split.rows("test")
    time = split.unlock_test()
    assert split.unlocked_at == time
    assert split.rows("test").tolist() == np.flatnonzero(split.part == 2).tolist()
    with pytest.raises(LockedTestError, match=f"already opened at {time[:10]}"):
        split.unlock_test()
    parts = [split.rows(part).tolist() for part in PARTS]
    assert sorted(itertools.chain(*parts)) == list(range(30))
