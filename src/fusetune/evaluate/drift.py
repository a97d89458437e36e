"""Is a whole table like the training part? Tests per column, per modality and of the decisions, corrected together.

Columns: a chi-square test of homogeneity on the counts of `profile`, sparse ones pooled
(Fisher's exact test where rows are few). Modalities: the two-sample
Kolmogorov-Smirnov test on distances to training rows (`likeness`), of this table's rows against held-out ones.
Decisions: how often each class is decided here and on held-out rows; what the shares of the classes are then, if rows
of a class look as they did (label shift), follows from the confusion of held-out rows (Lipton, Wang and Smola 2018,
arXiv 1802.03916).

Where rows form groups the number of groups stands in for that of rows, which is cautious. P-values are corrected by
Holm's method over all tests. A difference that is shown says where to look, not that the answers are wrong; one that
is not shown may be there all the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import nnls
from scipy.stats import chi2_contingency, fisher_exact, kstwobign

from fusetune.data.choices import Kind
from fusetune.data.schema import Schema
from fusetune.data.table import Table
from fusetune.display import card
from fusetune.evaluate.likeness import Likeness
from fusetune.evaluate.metrics import FloatArray, IntArray
from fusetune.evaluate.paired import holm
from fusetune.evaluate.profile import Counted, Profile, group_count

SIGNIFICANT = 0.05
_EXPECTED = 5  # below this, counts are pooled (Cochran's rule)
_FEWEST = 20
_TOLD = 5


@dataclass(frozen=True)
class Shift:
    """One comparison of a table with the training part.

    Attributes:
        kind: column, modality or decisions.
        name: Of the column or modality.
        size: Share of the rows that lie elsewhere: total variation distance of counts, or the largest distance of two
            cumulative distributions, 0 to 1.
        p: P-value by itself.
        p_holm: Corrected for the number of comparisons.
        words: What differs most.
    """

    kind: Literal["column", "modality", "decisions"]
    name: str
    size: float
    p: float
    p_holm: float
    words: str

    @property
    def shown(self) -> bool:
        """Whether a difference is shown."""
        return self.p_holm < SIGNIFICANT


@dataclass(frozen=True, repr=False)
class Drift:
    """How a table differs from the training part.

    Attributes:
        rows: Rows of the table.
        groups: Groups of them; None: they count as independent.
        shifts: All comparisons, the least likely by chance first.
        decided: Class -> share of the rows decided so, here; and on held-out rows.
        held: Class -> the same of held-out rows.
        estimated: Class -> its share in this table if rows of a class look as they did; None where that is unknown.
        notes: What could not be compared.
    """

    rows: int
    groups: int | None
    shifts: list[Shift]
    decided: dict[str, float]
    held: dict[str, float]
    estimated: dict[str, float] | None
    notes: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        facts = asdict(self)
        for facts_of, shift in zip(facts["shifts"], self.shifts, strict=True):
            facts_of["shown"] = shift.shown
        return facts

    def table(self) -> pd.DataFrame:
        """Return all comparisons, the least likely by chance first: kind, name, size, p, p_holm, shown, words."""
        return pd.DataFrame([{**asdict(shift), "shown": shift.shown} for shift in self.shifts])

    def __repr__(self) -> str:
        return f"Drift({self.rows:,} rows: {self._first})"

    def _repr_html_(self) -> str:
        """Return what notebooks show: the sentences, and the comparisons that show a difference."""
        facts = {"rows": f"{self.rows:,}", "groups": "-" if self.groups is None else f"{self.groups:,}"}
        shown = [shift for shift in self.shifts if shift.shown][:_TOLD]
        facts |= {f"{shift.kind} {shift.name}": shift.words for shift in shown}
        return card(f"Drift: {self._first}", facts)

    @property
    def _first(self) -> str:
        return (self.lines() or ["nothing was compared"])[0].removeprefix("drift: ")

    def lines(self) -> list[str]:
        """Return what is to be said, in sentences without full stops."""
        shown = [shift for shift in self.shifts if shift.shown]
        count = f"{len(self.shifts)} comparisons with the training part"
        if not self.shifts:
            said = []
        elif not shown:
            said = [f"drift: none shown in {count}"]
        else:
            said = [f"drift: shown in {len(shown)} of {count}"]
            said += [
                f"  {shift.kind} {shift.name}: {shift.words} ({shift.size:.0%} of the rows lie elsewhere, p = "
                f"{shift.p_holm:.2g} after Holm's correction)"
                for shift in shown[:_TOLD]
            ]
            said += [f"  and {len(shown) - _TOLD} more"] if len(shown) > _TOLD else []
            if self.estimated and any(shift.kind == "decisions" for shift in shown):
                shares = ", ".join(f"{name} {share:.0%}" for name, share in self.estimated.items())
                said.append(f"  if rows of a class look as they did, the classes' shares are now: {shares}")
        return [*said, *(f"drift: {note}" for note in self.notes)]


class Tally:
    """What is gathered of a table while its rows are predicted, piece by piece.

    Args:
        classes: Class names.
    """

    def __init__(self, classes: Sequence[Any]) -> None:
        self.classes = [str(name) for name in classes]
        self.decided = np.zeros(len(self.classes), dtype=np.int64)
        self.distances: dict[str, list[NDArray[np.float32]]] = {}

    def add(self, decided: IntArray, distances: Mapping[str, NDArray[np.float32]]) -> None:
        """Add some rows: their decisions, and by modality the distances of those that have it and are new."""
        self.decided += np.bincount(decided, minlength=len(self.classes))
        for name, some in distances.items():
            self.distances.setdefault(name, []).append(some)

    def drift(self, table: Table, schema: Schema, profile: Profile, likeness: Mapping[str, Likeness]) -> Drift:
        """Compare what was gathered with the training part.

        Args:
            table: All rows.
            schema: What its columns are.
            profile: What the training part looked like.
            likeness: What distances are compared with, by modality.
        """
        groups, notes = group_count(table, schema), []
        units = len(table) if groups is None else groups
        known = profile.rows if profile.groups is None else profile.groups
        held = profile.held if profile.held_groups is None else profile.held_groups
        if units < _FEWEST:
            what = "rows" if groups is None else "groups"
            notes.append(f"{units} {what} are too few to be compared ({_FEWEST} at least)")
        found = [_column(one, table, schema.kind_of(one.column), known, units) for one in profile.columns]
        for name, reference in likeness.items():
            distances = np.concatenate(self.distances.get(name, [np.zeros(0, np.float32)]))
            share = len(distances) / len(table)
            if share * units >= _FEWEST:
                found.append(_modality(name, distances, reference, share * units))
        matrix = np.asarray(profile.decided, dtype=np.float64).reshape(len(profile.decided), -1)
        estimated = None
        if matrix.size and held:
            found.append(_decisions(self.decided, matrix.sum(1), held, units, self.classes))
            estimated = _priors(matrix, self.decided)
        found = found if units >= _FEWEST else []
        corrected = holm([shift.p for shift in found])
        shifts = [Shift(**{**asdict(s), "p_holm": p}) for s, p in zip(found, corrected, strict=True)]
        shifts.sort(key=lambda shift: (shift.p_holm, shift.p, -shift.size))
        return Drift(
            len(table), groups, shifts, self._named(self.decided), self._named(matrix.sum(1)) if matrix.size else {},
            None if estimated is None else self._named(estimated), notes,
        )  # fmt: skip

    def _named(self, counts: NDArray[Any]) -> dict[str, float]:
        return dict(zip(self.classes, (counts / max(counts.sum(), 1e-12)).tolist(), strict=True))


def homogeneity(one: NDArray[Any], other: NDArray[Any], units: tuple[float, float]) -> tuple[float, float]:
    """Compare two rows of counts.

    Args:
        one: Counts of the first rows.
        other: Of the second, in the same places.
        units: How many independent units the rows of each are.

    Returns:
        The total variation distance, and the p-value of the chi-square test of homogeneity; of Fisher's exact test of
        the most frequent count against the others where rows are too few for that.
    """
    if not one.sum() or not other.sum():
        return 0.0, 1.0
    shares = np.stack([one / one.sum(), other / other.sum()])
    size = float(np.abs(shares[0] - shares[1]).sum() / 2)
    counts = shares * np.asarray(units, dtype=np.float64)[:, None]
    counts = counts[:, counts.sum(0) > 0]
    sparse = counts.sum(0) * min(units) / sum(units) < _EXPECTED
    pooled = np.concatenate([counts[:, sparse].sum(1, keepdims=True), counts[:, ~sparse]], 1)
    pooled = pooled[:, pooled.sum(0) > 0]
    rest = pooled.sum(0) * min(units) / sum(units)
    if pooled.shape[1] > 2 and rest[0] < _EXPECTED:  # still sparse: to the rarest of the others
        rarest = 1 + int(rest[1:].argmin())
        pooled[:, rarest] += pooled[:, 0]
        pooled = pooled[:, 1:]
    if pooled.shape[1] > 1 and (pooled.sum(0) * min(units) / sum(units) >= _EXPECTED).all():
        return size, float(chi2_contingency(pooled, correction=False).pvalue)
    # Too few for the approximation: the most frequent against all others, exactly.
    most = int(counts.sum(0).argmax())
    pair = np.stack([counts[:, most], counts.sum(1) - counts[:, most]], 1)
    return size, float(fisher_exact(pair.round().astype(np.int64)).pvalue)


def _column(one: Counted, table: Table, kind: Kind, known: float, units: float) -> Shift:
    before, now = np.asarray(one.counts), one.of(table, kind)
    size, p = homogeneity(before, now, (known, units))
    then, here = before / max(before.sum(), 1), now / max(now.sum(), 1)
    most = int(np.abs(here - then).argmax())
    words = f"{one.name(most)} in {here[most]:.0%} of the rows, {then[most]:.0%} in training"
    return Shift("column", one.column, size, p, p, words)


def _modality(name: str, distances: NDArray[np.float32], reference: Likeness, units: float) -> Shift:
    """Compare distances with those of held-out rows, each group of which weighs the same."""
    order = np.argsort(reference.far, kind="stable")
    far, weight = reference.far[order], np.cumsum(reference.weight[order].astype(np.float64))
    places = np.concatenate([far, distances])
    before = np.concatenate([[0.0], weight / weight[-1]])
    now = np.sort(distances)
    gaps: FloatArray = np.concatenate([
        before[np.searchsorted(far, places, side=side)] - np.searchsorted(now, places, side=side) / len(now)
        for side in ("left", "right")
    ])  # fmt: skip
    size, held = float(np.abs(gaps).max()), weight[-1]
    p = float(kstwobign.sf(size * np.sqrt(held * units / (held + units))))
    words = f"rows are {'farther from' if gaps[np.abs(gaps).argmax()] > 0 else 'nearer to'} training rows than expected"
    return Shift("modality", name, size, p, p, words)


def _decisions(now: IntArray, before: FloatArray, held: float, units: float, classes: Sequence[str]) -> Shift:
    size, p = homogeneity(before, now, (held, units))
    then, here = before / before.sum(), now / max(now.sum(), 1)
    most = int(np.abs(here - then).argmax())
    words = f"'{classes[most]}' is decided in {here[most]:.0%} of the rows, {then[most]:.0%} of held-out ones"
    return Shift("decisions", "by class", size, p, p, words)


def _priors(matrix: FloatArray, decided: IntArray) -> FloatArray | None:
    """Return the classes' shares that explain the decisions best, if each class is decided as it was."""
    of_class = matrix.sum(0)
    if (of_class == 0).any() or not decided.sum():
        return None
    shares, _ = nnls(matrix / of_class, decided / decided.sum())
    return np.asarray(shares / shares.sum()) if shares.sum() > 0 else None
