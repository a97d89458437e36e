"""Train, valid and test rows: decided once, saved by row id with a hash, and checked by every stage.

The order in which rows or groups are dealt out comes from a hash of (seed, id), so the same seed gives the same split
on any machine and for any order of the table. What is dealt out are units: rows, or whole groups, and those that hold
copies of each other are one. The test part is locked until `Split.unlock_test`, which works once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from fusetune.data.spelling import as_words
from fusetune.data.table import row_keys
from fusetune.data.words import day_order, open_order, parse_dates
from fusetune.errors import LockedTestError, SplitError, did_you_mean, listed
from fusetune.files import written_aside

Part = Literal["train", "valid", "test"]
PARTS: tuple[Part, ...] = ("train", "valid", "test")
Rows = npt.NDArray[np.int64]
Codes = npt.NDArray[np.int64]
# With fewer rows than this, a class cannot be in every part.
_RARE = len(PARTS)
_NAMED = 3
PART_WORDS = {
    "train": "train", "training": "train",
    "valid": "valid", "val": "valid", "dev": "valid", "validation": "valid",
    "test": "test", "testing": "test",
}  # fmt: skip


@dataclass
class Split:
    """Which row is in which part.

    Attributes:
        ids: Row ids, in table order.
        part: Index into `PARTS` per row, int8 [rows].
        how: How it was made, in words.
    """

    ids: pd.Series
    part: npt.NDArray[np.int8]
    how: str
    unlocked_at: str | None = field(default=None, init=False)

    @property
    def hash(self) -> str:
        """SHA-256 over the sorted (row id, part) pairs: equal for equal splits, whatever the order of the table."""
        lines = sorted(f"{row}\x1f{PARTS[code]}" for row, code in zip(self.ids, self.part, strict=True))
        return hashlib.sha256("\x1e".join(lines).encode()).hexdigest()

    def rows(self, part: Part) -> Rows:
        """Return the positions of a part's rows.

        Raises:
            LockedTestError: If the test part is asked for before `unlock_test`.
        """
        if part == "test" and self.unlocked_at is None:
            raise LockedTestError(
                "the test part is locked until every choice has been made; call unlock_test() at the end"
            )
        return np.flatnonzero(self.part == PARTS.index(part)).astype(np.int64)

    def counts(self) -> dict[str, int]:
        """Return the number of rows of each part (counting the test part does not unlock it)."""
        return {part: int((self.part == code).sum()) for code, part in enumerate(PARTS)}

    def check(self, rows: Rows, *parts: Part) -> None:
        """Refuse rows that are not in one of the given parts.

        Raises:
            SplitError: Naming rows outside.
        """
        outside = rows[~np.isin(self.part[rows], [PARTS.index(part) for part in parts])]
        if len(outside):
            others = sorted({PARTS[code] for code in self.part[outside]})
            raise SplitError(
                f"this stage may only see rows of {' and '.join(parts)}, but was given {len(outside):,} of "
                f"{' and '.join(others)}, such as {listed(self.ids.iloc[outside])}"
            )

    def unlock_test(self) -> str:
        """Open the test part, once, and return the time.

        Raises:
            LockedTestError: If it was opened before.
        """
        if self.unlocked_at is not None:
            raise LockedTestError(f"the test part was already opened at {self.unlocked_at}; it is read once")
        self.unlocked_at = datetime.now(UTC).isoformat(timespec="seconds")
        return self.unlocked_at

    def save(self, path: Path) -> None:
        """Write `split.parquet` with the columns row_id and part."""
        frame = pd.DataFrame({"row_id": self.ids.to_numpy(), "part": np.array(PARTS)[self.part]})
        frame.attrs = {"hash": self.hash, "how": self.how}
        with written_aside(path) as aside:
            frame.to_parquet(aside, index=False)

    @classmethod
    def load(cls, path: Path, ids: pd.Series) -> Split:
        """Read a saved split and line it up with a table's rows by id.

        Raises:
            SplitError: If the file was changed since it was written, or a row is in one but not the other.
        """
        try:
            frame = pd.read_parquet(path)
            saved = frame.set_index("row_id")["part"]
        except Exception as error:  # damaged files raise whatever the parser happens to raise
            raise SplitError(f"{path} is no saved split: {error}; start a new run folder") from error
        missing = ids[~ids.isin(saved.index)]
        if len(missing) or len(saved) != len(ids) or not saved.index.is_unique:
            raise SplitError(
                f"{path} was made for another table: {len(missing):,} row(s) of this table are not in it"
                f"{' (' + listed(missing) + ')' if len(missing) else ''}, {len(saved):,} are; start a new run folder"
            )
        codes = saved.loc[ids].map({part: code for code, part in enumerate(PARTS)})
        split = cls(ids, codes.fillna(0).to_numpy().astype(np.int8), str(frame.attrs.get("how", "loaded")))
        if codes.isna().any() or frame.attrs.get("hash") != split.hash:
            raise SplitError(
                f"{path} was changed after it was written (its hash does not match); start a new run folder"
            )
        return split


def make_split(
    ids: pd.Series,
    labels: Codes,
    *,
    how: str = "auto",
    groups: pd.Series | None = None,
    parts: pd.Series | None = None,
    times: pd.Series | None = None,
    copies: Codes | None = None,
    classes: Sequence[Any] | None = None,
    fractions: tuple[float, float, float] = (0.7, 0.15, 0.15),
    folds: int = 5,
    fold: int = 0,
    seed: int = 0,
) -> Split:
    """Divide rows into train, valid and test.

    Args:
        ids: Row ids, unique.
        labels: Class index per row [rows].
        how: auto (given if there is a column, else grouped if there are groups, else stratified), given, stratified,
            grouped, time or kfold.
        groups: Rows with equal words (`as_words`) never end up in different parts.
        parts: Part names per row, for `given`. If it names no valid rows, some are taken from train.
        times: Sortable values, for `time`: oldest rows train, newest test.
        copies: Number of the set of copies that each row is in, -1 for none [rows]: only a given split divides a set.
        classes: What the class indices stand for, for messages.
        fractions: Shares of train, valid, test; 0 of test for a model that is judged on rows kept elsewhere.
        folds: Number of folds, for `kfold`.
        fold: Which fold is the test part, for `kfold`; the next one is the valid part.
        seed: Decides the order in which rows or groups are dealt out.

    Raises:
        SplitError: If a part would be empty, a class or group cannot be placed, or a part's name is unknown.
    """
    groups = None if groups is None else group_words(groups, ids)
    if how == "auto":
        how = "given" if parts is not None else "grouped" if groups is not None else "stratified"
    alone = ids if groups is None or how == "stratified" else groups
    units = joined(alone, copies)
    match how:
        case "given":
            if parts is None:
                raise SplitError("split.how is 'given' but no split column was named; add --split COLUMN")
            part, words = _given(ids, labels, units, parts, fractions, seed)
        case "grouped" | "stratified":
            if how == "grouped" and groups is None:
                raise SplitError("split.how is 'grouped' but no group column was named; add --group COLUMN")
            part = _with_every_class(ids, labels, units, fractions if fractions[2] else fractions[:2], seed)
            words = "stratified by label" if alone is ids else "whole groups, stratified by label"
        case "time":
            if times is None:
                raise SplitError("split.how is 'time' but split.time names no column")
            part, words = _by_time(ids, times, units, fractions), "by time: oldest rows train, newest test"
        case "kfold":
            dealt = deal(ids, labels, units, (1 / folds,) * folds, seed)
            part = np.where(dealt == fold, 2, np.where(dealt == (fold + 1) % folds, 1, 0))
            words = f"fold {fold} of {folds} is the test part"
        case _:
            raise SplitError(f"split.how '{how}' is unknown")
    if how != "given" and not units.equals(alone):
        words += "; copies stay together"
    split = Split(ids, part.astype(np.int8), words)
    _check_parts(split, groups, PARTS if fractions[2] else PARTS[:2])
    _refuse_untaught(split, labels, classes, groups, parts if how == "given" else None)
    return split


def group_words(groups: pd.Series, ids: pd.Series) -> pd.Series:
    """Return which group each row is of, in tidy words: the groups that everything counts, whatever carries them.

    Raises:
        SplitError: If a group is missing, naming rows.
    """
    words = as_words(groups)
    if words.isna().any():
        raise SplitError(
            f"group column '{groups.name}' is empty in row(s) {listed(ids[words.isna().to_numpy()])}; fill it in, with "
            "a value of its own where a row belongs to no other"
        )
    return words


def part_codes(parts: pd.Series) -> Codes:
    """Return the index into `PARTS` that each cell of a split column names, -1 for a cell that names none."""
    words = as_words(parts).str.lower()
    codes = words.map({word: PARTS.index(part) for word, part in PART_WORDS.items()})
    return codes.fillna(-1).to_numpy().astype(np.int64)


def joined(units: pd.Series, copies: Codes | None) -> pd.Series:
    """Return the unit of each row, where units that hold copies of each other are one.

    Args:
        units: Ids or groups, dtype str.
        copies: Number of the set of copies that each row is in, -1 for none [rows].

    Returns:
        One name per row: of units that were joined, the first of the alphabet.
    """
    if copies is None or not len(linked := np.flatnonzero(copies >= 0)):
        return units
    codes, names = pd.factorize(units, sort=True)
    size = len(names) + int(copies.max()) + 1
    ends = (codes[linked], len(names) + copies[linked])
    graph = coo_array((np.ones(len(linked), dtype=np.int8), ends), shape=(size, size))
    component = connected_components(graph, directed=False)[1][: len(names)]
    first = np.full(size, size)
    np.minimum.at(first, component, np.arange(len(names)))
    return pd.Series(names[first[component[codes]]], index=units.index, name=units.name, dtype="str")


def _with_every_class(
    ids: pd.Series, labels: Codes, units: pd.Series, shares: tuple[float, ...], seed: int
) -> npt.NDArray[np.int64]:
    """Deal units out; where a class got no training row, its smallest unit that is not all of a part moves there."""
    part = deal(ids, labels, units, shares, seed)
    if (lost := np.setdiff1d(labels, labels[part == 0])).size:
        codes = pd.factorize(units, sort=True)[0]
        sizes = np.bincount(codes)
        for label in lost:
            those = np.unique(codes[labels == label])
            for unit in those[np.argsort(sizes[those], kind="stable")]:
                mine = codes == unit
                if label not in labels[part == 0] and ((part == part[mine][0]) & ~mine).any():
                    part[mine] = 0
    return part


def deal(
    ids: pd.Series, labels: Codes, units: pd.Series, shares: tuple[float, ...], seed: int
) -> npt.NDArray[np.int64]:
    """Deal units (rows or whole groups) into parts so that every part's class counts come close to its share.

    Greedy: units in order of size, largest first (ties in hashed order), each to the part where it lowers the
    chi-square ``sum_part,c (count_part,c - e_part,c)^2 / e_part,c``, ``e_part,c = share_part * total_c``, most. Where
    several parts are equally good, the one with the fewest rows in relation to its share takes it.

    Returns:
        The part's index per row, int64 [rows].
    """
    codes, names = pd.factorize(units.astype("str"))
    sizes = np.bincount(codes, minlength=len(names))
    order = np.lexsort((seeded_order(pd.Series(names), seed), -sizes))
    starts, classes, members = _members(codes, labels, len(names))
    share = np.asarray(shares, dtype=float)
    total = np.bincount(labels).astype(float)
    counts, rows = np.zeros((len(share), len(total))), np.zeros(len(share))
    chosen = np.empty(len(names), dtype=np.int64)
    for unit in order:
        some = slice(starts[unit], starts[unit + 1])
        has, count = classes[some], members[some]
        expected = share[:, None] * total[has]
        gain = ((2 * (expected - counts[:, has]) - count) * count / expected).sum(1)
        # Rounding, which may differ between machines, must not decide between equally good parts.
        equal = gain >= gain.max() - 1e-9
        chosen[unit] = int(np.argmin(np.where(equal, np.round(rows / share, 6), np.inf)))
        counts[chosen[unit], has] += count
        rows[chosen[unit]] += sizes[unit]
    return chosen[codes]


def _members(codes: Codes, labels: Codes, units: int) -> tuple[Codes, Codes, npt.NDArray[np.float64]]:
    """Return how many rows of which classes each unit has: where a unit starts in the list, classes, counts."""
    pairs, count = np.unique(np.stack([codes, labels], 1), axis=0, return_counts=True)
    return np.searchsorted(pairs[:, 0], np.arange(units + 1)), pairs[:, 1], count.astype(float)


def seeded_order(ids: pd.Series, seed: int) -> npt.NDArray[np.int64]:
    """Return one pseudo-random integer per id, a function of (seed, id) alone."""
    return row_keys(f"{seed}\x1f" + ids.astype("str"))


def _given(
    ids: pd.Series, labels: Codes, units: pd.Series, parts: pd.Series, fractions: tuple[float, float, float], seed: int
) -> tuple[Codes, str]:
    part = part_codes(parts)
    if (unknown := np.flatnonzero(part < 0)).size:
        value = as_words(parts).iloc[unknown[0]]
        problem = "is empty" if pd.isna(value) else f"says '{value}', which names no part,"
        raise SplitError(
            f"split column '{parts.name}' {problem} in row {ids.iloc[unknown[0]]}"
            f"{did_you_mean(str(value), PART_WORDS)}; use train, valid (or val, dev) and test"
        )
    words = f"column '{parts.name}'"
    if not (part == 1).any() and (part == 0).any():
        rows = np.flatnonzero(part == 0)
        share = fractions[1] / (fractions[0] + fractions[1])
        part[rows] = _with_every_class(ids.iloc[rows], labels[rows], units.iloc[rows], (1 - share, share), seed)
        words += f"; it names no valid rows, so {share:.0%} of the training rows became the valid part"
    return part, words


def _by_time(ids: pd.Series, times: pd.Series, units: pd.Series, fractions: tuple[float, float, float]) -> Codes:
    words = times
    if not pd.api.types.is_numeric_dtype(times) and not pd.api.types.is_datetime64_any_dtype(times):
        words = as_words(times)
    if words.isna().any():
        missing = ids[words.isna().to_numpy()]
        raise SplitError(f"time column '{times.name}' is empty in row(s) {listed(missing)}; fill it in")
    ordered = words if pd.api.types.is_datetime64_any_dtype(words) else pd.to_numeric(words, errors="coerce")
    if ordered.isna().any():
        order = day_order(words)
        if order == "mixed" or (order is None and open_order(words).any()):
            raise SplitError(
                f"time column '{times.name}': whether the day or the month comes first cannot be told from dates "
                f"such as {listed(words[open_order(words)], 2)}; write them as year-month-day"
            )
        ordered = parse_dates(words, order)
    if ordered.isna().any():
        wrong = ids[ordered.isna().to_numpy()]
        raise SplitError(f"time column '{times.name}': row(s) {listed(wrong)} hold no date or number")
    # A unit is as new as its newest row: whole groups stay together and no later row is in an earlier part.
    ordered = ordered.groupby(units.to_numpy()).transform("max")
    # Equal times share a rank, so that no part begins in the middle of a day.
    rank = ordered.rank(method="min", pct=True).to_numpy() - 1e-9
    return np.select([rank <= fractions[0], rank <= fractions[0] + fractions[1]], [0, 1], 2)


def _check_parts(split: Split, groups: pd.Series | None, needed: tuple[Part, ...]) -> None:
    counts = split.counts()
    empty = [name for name in needed if counts[name] == 0]
    if empty:
        raise SplitError(f"no row is left for {' and '.join(empty)} ({split.how}); give more rows or groups")
    if groups is not None:
        _refuse_shared_groups(split, groups)


def _refuse_untaught(
    split: Split, labels: Codes, classes: Sequence[Any] | None, groups: pd.Series | None, parts: pd.Series | None
) -> None:
    """Refuse a split with a class that nothing could be learnt of, saying where its rows are instead."""
    lost = np.setdiff1d(labels[split.part != 0], labels[split.part == 0])
    if not len(lost):
        return
    where = []
    for label in lost[:_NAMED]:
        rows = np.flatnonzero(labels == label)
        inside = " and ".join(PARTS[code] for code in np.unique(split.part[rows]))
        where.append(f"'{label if classes is None else classes[label]}' ({len(rows):,} row(s), all in {inside}")
        own = None if groups is None else groups.iloc[rows]
        where[-1] += (
            ")" if own is None or len(own) == 1 or own.nunique() > 1 else f" and of one group, '{own.iloc[0]}')"
        )
    rare = np.bincount(labels)[lost].max() < _RARE
    if parts is not None and not rare:
        remedy = f"move some of their {'rows' if groups is None else 'groups'} to train in column '{parts.name}'"
    else:
        remedy = "give rows of more groups, or " if groups is not None else ""
        remedy += "merge such a class with another, or drop it"
    of = f"by column '{parts.name}'" if parts is not None else split.how
    of += "" if groups is None else f", groups of column '{groups.name}'"
    more = f" and {len(lost) - _NAMED:,} more" if len(lost) > _NAMED else ""
    raise SplitError(f"{len(lost):,} class(es) have no training row ({of}): {', '.join(where)}{more}; {remedy}")


def _refuse_shared_groups(split: Split, groups: pd.Series) -> None:
    parts = pd.Series(split.part).groupby(groups.to_numpy()).nunique()
    shared = parts[parts > 1].index
    if len(shared):
        raise SplitError(
            f"{len(shared):,} group(s) of column '{groups.name}' have rows in more than one part, such as "
            f"{listed(shared)}; split by group (split.how=grouped) or correct the split column"
        )
