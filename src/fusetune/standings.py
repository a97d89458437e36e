"""What a contest of several strategies says of itself, as one typed object; and how it follows from their outputs.

The contest hands in answers about the same test rows by strategy and seed (`Entry`). `Standings` are their scores with
intervals, paired tests against the two rivals that everything must beat, ranks, costs, and answers to the questions
that a fair comparison has to answer (arXiv 2512.22991). What a score is, is the affair of the measure
(`evaluate.measures`): `accuracy` and `nll` are its score and its loss, which files and pages call by their own names.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.stats import rankdata

from fusetune.errors import listed
from fusetune.evaluate import Interval, holm, mcnemar, permutation_test
from fusetune.evaluate.bootstrap import clusters
from fusetune.evaluate.intervals import percentile, plain
from fusetune.evaluate.measures import CLASSES, Measure
from fusetune.evaluate.metrics import FloatArray
from fusetune.evaluate.seeds import crossed_draws, crossed_mean
from fusetune.result import SIGNIFICANT
from fusetune.targets import Truth

# The rivals that everything is tested against: the first of each that is there.
ENSEMBLES, FUSIONS = ("ume",), ("frozen-fusion", "linear-probe", "two-stage")
_ALONE = ("alone", "majority")
_TOLERANCE = 1.1  # of a budget, since epochs are whole


@dataclass(frozen=True)
class Field:
    """The rows that all entries are judged on.

    Attributes:
        labels: As the target has them: class indices, int64 [rows].
        classes: What the numbers of an answer stand for.
        groups: The group of each row, or None.
        group_column: What the groups are called, or None.
        measure: How answers are judged.
    """

    labels: Truth
    classes: list[str]
    groups: npt.NDArray[Any] | None
    group_column: str | None = None
    measure: Measure[Any] = CLASSES

    @property
    def units(self) -> int:
        """The number of groups, or of rows where there are none."""
        return clusters(self.groups, len(self.labels)).count


@dataclass(frozen=True, eq=False)
class Entry:
    """One strategy, trained with each seed, and what it says of the test rows.

    Attributes:
        name: Its name.
        note: Where it comes from.
        p: Answers by seed, such as calibrated probabilities, float [rows, width] each; seeds that failed are not there.
        valid: Metrics of the validation rows by seed.
        seconds: As if nothing had been trained before, by seed.
        passes: Rows through encoders, as if nothing had been stored before, by seed.
        training: Those of them that were sent through in training, by seed.
        epochs: Epochs of each of its loops; None: unknown, or nothing is trained.
        settings: What tuning chose, by name of the setting.
        errors: Why seeds failed, by seed.
    """

    name: str
    note: str
    p: Mapping[int, FloatArray]
    valid: Mapping[int, Mapping[str, float]] = field(default_factory=dict)
    seconds: Mapping[int, float] = field(default_factory=dict)
    passes: Mapping[int, float] = field(default_factory=dict)
    training: Mapping[int, float] = field(default_factory=dict)
    epochs: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    errors: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Standing:
    """How one entry fared: score and loss on the test part, its rank, what it cost; NaN where every seed failed.

    `further` are metrics (`Measure.over_seeds`), means over seeds with the lowest and the highest of them as bounds,
    which say how seeds differ and nothing about other rows. `rank` is by the loss, 1 the best, with bounds from the
    same resamples for all. `seconds`, `passes` and `training` are means over seeds.
    """

    name: str
    note: str
    seeds: int
    accuracy: Interval
    nll: Interval
    further: dict[str, Interval]
    rank: Interval
    valid_nll: float
    seconds: float
    passes: float
    training: float
    epochs: int | None
    settings: dict[str, Any]
    errors: dict[int, str]

    def as_dict(self) -> dict[str, Any]:
        """Return JSON values, further metrics among the others."""
        values = dict[str, Any]()
        for name, value in plain(self).items():
            values |= value if name == "further" else {name: value}
        return values


@dataclass(frozen=True)
class Paired:
    """One entry against a rival on the same rows and the same seeds; differences are the entry's minus the rival's.

    Attributes:
        name: The entry.
        against: The rival.
        seeds: Seeds that both were trained with.
        gained: Rows that the entry answers more rightly (of classes: it alone decides correctly), a mean over seeds.
        lost: Rows that the rival answers more rightly, a mean over seeds.
        accuracy: Difference of scores.
        nll: Difference of losses; negative speaks for the entry.
        p: Two-sided p-value of the difference of scores: rows or whole groups are swapped between the two, their
            scores averaged over seeds; of classes and one seed the exact McNemar test, or with groups the larger of
            both.
        p_holm: The same, corrected for the number of entries that are tested against this rival.
        p_nll: Of the difference of losses, swapped likewise.
        p_nll_holm: The same, corrected.
    """

    name: str
    against: str
    seeds: int
    gained: float
    lost: float
    accuracy: Interval
    nll: Interval
    p: float
    p_holm: float
    p_nll: float
    p_nll_holm: float

    @property
    def verdict(self) -> Literal["better", "worse", "not shown"]:
        """Better or worse by its score, only where the corrected test and the interval both say so."""
        if self.p_holm >= SIGNIFICANT or not self.accuracy.bounded:
            return "not shown"
        if self.accuracy.low > 0:
            return "better"
        return "worse" if self.accuracy.high < 0 else "not shown"


@dataclass(frozen=True)
class Check:
    """One question that a fair comparison answers, whether it is answered well (None: it does not apply), and how."""

    question: str
    met: bool | None
    evidence: str


@dataclass(frozen=True)
class Protocol:
    """Under which rules all entries were made, for readers.

    Attributes:
        level: features or encoders; runs, where finished runs are compared.
        seeds: The seeds.
        trials: Tuning trials of each strategy.
        untuned: Strategies that have nothing to tune.
        budget: What was equal for all, in words.
        selected: Were all strategies entered that there are?
        same_table: Were all made by this contest, from one split and one preparation?
        allowance: Rows through encoders in training that each may have; None: there is no such budget.
    """

    level: str
    seeds: list[int]
    trials: int
    untuned: list[str]
    budget: str
    selected: bool
    same_table: bool = True
    allowance: float | None = None


@dataclass(frozen=True, eq=False)
class Standings:
    """Everything that a contest says of itself.

    Attributes:
        title: What was compared.
        facts: Of the table or the runs, for the head of the page.
        rules: The protocol.
        ground: The test rows.
        standings: Each entry, the lowest loss first, those without any result last.
        paired: Each entry against each rival.
        checks: The questions of a fair comparison.
        warnings: As sentences.
    """

    title: str
    facts: dict[str, str]
    rules: Protocol
    ground: Field
    standings: list[Standing]
    paired: list[Paired]
    checks: list[Check]
    warnings: list[str]

    def summary(self) -> dict[str, Any]:
        """Return the content of `summary.json`."""
        named = self.ground.measure.named
        values = {
            "title": self.title,
            "facts": self.facts,
            **self.ground.measure.facts(),
            "protocol": self.rules,
            "test": {
                "rows": len(self.ground.labels),
                "groups": None if self.ground.groups is None else self.ground.units,
                "classes": self.ground.classes,
            },
            "strategies": named([one.as_dict() for one in self.standings]),
            "paired": named([plain(one) | {"verdict": one.verdict} for one in self.paired]),
            "checklist": self.checks,
            "warnings": self.warnings,
        }
        return {name: plain(value) for name, value in values.items()}


def stand(
    entries: Sequence[Entry],
    ground: Field,
    rules: Protocol,
    *,
    title: str,
    facts: dict[str, str],
    rivals: Sequence[str],
    warnings: Sequence[str] = (),
    resamples: int = 2000,
    seed: int = 0,
) -> Standings:
    """Judge all entries on the same rows.

    Args:
        entries: What they say, each by seed.
        ground: The rows.
        rules: How they were made.
        title: What is compared.
        facts: For the head of the page.
        rivals: Names of the entries that all others are tested against.
        warnings: What there is to know, as sentences.
        resamples: Bootstrap samples behind each interval.
        seed: Of all draws.
    """
    how = {"resamples": resamples, "seed": seed}
    ranks = _ranks(entries, ground, how)
    standings = [_standing(entry, ground, ranks.get(entry.name), how) for entry in entries]
    standings.sort(key=lambda one: (math.isnan(one.nll.value), one.nll.value, one.name))
    by_name = {entry.name: entry for entry in entries if entry.p}
    paired = [
        duel
        for rival in rivals
        if rival in by_name
        for duel in _duels([one for name, one in by_name.items() if name != rival], by_name[rival], ground, how)
    ]
    checks = _checks(entries, standings, paired, rules, ground)
    return Standings(title, facts, rules, ground, standings, paired, checks, list(warnings))


def rivals_of(names: Sequence[str]) -> list[str]:
    """Return which of some strategies the others are tested against: the ensemble, and a plain fusion."""
    found = (next((name for name in kind if name in names), None) for kind in (ENSEMBLES, FUSIONS))
    return [name for name in found if name is not None]


def score_rows(entry: Entry, ground: Field) -> dict[int, dict[str, float]]:
    """Return every metric of the test rows by seed."""
    return {seed: ground.measure.values(p, ground.labels) for seed, p in entry.p.items()}


def _standing(entry: Entry, ground: Field, rank: Interval | None, how: Mapping[str, int]) -> Standing:
    nothing = Interval(math.nan, math.nan, math.nan)
    measure, scores, done = ground.measure, score_rows(entry, ground), bool(entry.p)
    return Standing(
        name=entry.name,
        note=entry.note,
        seeds=len(entry.p),
        accuracy=_score(_right(entry, ground), ground, how) if done else nothing,
        nll=crossed_mean(_lost(entry, ground), ground.groups, **how) if done else nothing,
        rank=rank or nothing,
        valid_nll=_mean([own[measure.loss] for own in entry.valid.values()]),
        epochs=entry.epochs,
        settings=dict(entry.settings),
        errors=dict(entry.errors),
        further={name: _spread([own[name] for own in scores.values()]) for name in measure.over_seeds},
        seconds=_mean(entry.seconds.values()),
        passes=_mean(entry.passes.values()),
        training=_mean(entry.training.values()),
    )


def _mean(values: Any) -> float:
    found = list(values)
    return float(np.mean(found)) if found else math.nan


def _spread(values: list[float]) -> Interval:
    return Interval(_mean(values), min(values, default=math.nan), max(values, default=math.nan))


def _right(entry: Entry, ground: Field) -> FloatArray:
    """Return how right each row's answer is, float [seeds, rows]."""
    return np.stack([ground.measure.right_rows(p, ground.labels) for p in entry.p.values()])


def _lost(entry: Entry, ground: Field) -> FloatArray:
    """Return the loss of each row, float [seeds, rows]."""
    return np.stack([ground.measure.lost_rows(p, ground.labels) for p in entry.p.values()])


def _score(right: FloatArray, ground: Field, how: Mapping[str, int], perfect: float = 1.0) -> Interval:
    return ground.measure.trained_score(right, ground.labels, ground.groups, perfect=perfect, **how)


def _ranks(entries: Sequence[Entry], ground: Field, how: Mapping[str, int]) -> dict[str, Interval]:
    """Return the rank of each entry by its loss, with bounds from resamples that are the same for all."""
    there = [entry for entry in entries if entry.p]
    if not there:
        return {}
    losses = [_lost(entry, ground) for entry in there]
    values = rankdata([own.mean() for own in losses])
    if ground.units < 2:
        return {e.name: Interval(float(v), math.nan, math.nan) for e, v in zip(there, values, strict=True)}
    draws = rankdata(np.stack([crossed_draws(own, ground.groups, **how) for own in losses]), axis=0)
    ranks = {}
    for entry, value, own in zip(there, values, draws, strict=True):
        found = percentile(float(value), own, ground.units)
        ranks[entry.name] = Interval(found.value, min(found.low, found.value), max(found.high, found.value))
    return ranks


def _duels(others: Sequence[Entry], rival: Entry, ground: Field, how: Mapping[str, int]) -> list[Paired]:
    duels = [duel for other in others if (duel := _duel(other, rival, ground, how)) is not None]
    pairs = zip(duels, holm([d.p for d in duels]), holm([d.p_nll for d in duels]), strict=True)
    return [replace(duel, p_holm=p, p_nll_holm=p_nll) for duel, p, p_nll in pairs]


def _duel(entry: Entry, rival: Entry, ground: Field, how: Mapping[str, int]) -> Paired | None:
    """Compare two entries on the seeds that both have; runs have one each, whatever it is called."""
    common = [seed for seed in entry.p if seed in rival.p]
    if not common:
        return None
    one, other = (replace(own, p={seed: own.p[seed] for seed in common}) for own in (entry, rival))
    right, theirs = _right(one, ground), _right(other, ground)
    hits, losses = right - theirs, _lost(one, ground) - _lost(other, ground)
    tests = [mcnemar(mine > his, his > mine) for mine, his in zip(right, theirs, strict=True)]
    swapped = permutation_test(hits.mean(0), ground.groups, seed=how["seed"])
    exact = len(common) == 1 and ground.measure.decides  # which of two is nearer says nothing of by how much
    single = tests[0].p if ground.groups is None else max(tests[0].p, swapped)
    p_nll = permutation_test(losses.mean(0), ground.groups, seed=how["seed"])
    return Paired(
        name=entry.name,
        against=rival.name,
        seeds=len(common),
        gained=_mean(test.gained for test in tests),
        lost=_mean(test.lost for test in tests),
        accuracy=_score(hits, ground, how, perfect=0.0),
        nll=crossed_mean(losses, ground.groups, **how),
        p=single if exact else swapped,
        p_holm=1.0,
        p_nll=p_nll,
        p_nll_holm=1.0,
    )


def _checks(
    entries: Sequence[Entry], standings: list[Standing], paired: list[Paired], rules: Protocol, ground: Field
) -> list[Check]:
    measure, names = ground.measure, [entry.name for entry in entries]
    failed = [f"{one.name} ({len(one.errors)} of {len(one.errors) + one.seeds})" for one in standings if one.errors]
    there = [entry.name for entry in entries if entry.p]
    checks = []
    if rules.same_table:
        tuned = f"{rules.trials} trial(s) each, on validation rows" if rules.trials else "defaults for all, no trial"
        if rules.untuned:
            tuned += f"; nothing to tune in {listed(rules.untuned, 40)}"
        checks.append(Check("Was every method tuned alike?", True, tuned))
        checks.append(_budget_check(standings, rules))
        single, plain_fusion = [n for n in names if n in _ALONE], [n for n in names if n in (*ENSEMBLES, *FUSIONS)]
        checks += [
            Check("Are unimodal baselines there?", "alone" in there, listed(single, 9) or "none was entered"),
            Check("Is plain fusion there?", any(n in there for n in plain_fusion), listed(plain_fusion, 9) or "no"),
        ]
    else:
        checks.append(Check("Was every method tuned alike?", None, "finished runs do not say how they were chosen"))
    many = len(rules.seeds) > 1
    checks += [
        Check(
            "Are there several seeds?",
            many,
            f"{len(rules.seeds)} seed(s) on one split: they vary initialisation and batches, not the rows"
            if rules.same_table
            else "each run has one seed",
        ),
        Check(
            "Were differences tested in pairs and corrected for their number?",
            bool(paired),
            "on the same rows, Holm's correction within each rival"
            if paired
            else "neither the ensemble nor a plain fusion is among the entries, or nothing else is",
        ),
        Check("Are failures reported?", True, listed(failed, 40) if failed else "nothing failed"),
    ]
    word = "decisions" if measure.decides else measure.score_word
    for rival in dict.fromkeys(duel.against for duel in paired):
        duels = [duel for duel in paired if duel.against == rival]
        better = [duel.name for duel in duels if duel.verdict == "better"]
        surer = [duel.name for duel in duels if duel.p_nll_holm < SIGNIFICANT and duel.nll.value < 0]
        checks.append(
            Check(
                f"How many beat {rival} at corrected p < .05?",
                None,
                f"{len(better)} of {len(duels)} by {word}{_named(better)}; "
                f"{len(surer)} by {measure.loss_word}{_named(surer)}",
            )
        )
    rows = f"{len(ground.labels):,} rows" + ("" if ground.groups is None else f" of {ground.units:,} groups")
    opened = f"{rows}, opened once after everything was fitted and tuned"
    kept = Check("Was the test part kept from every choice?", True, opened)
    return [*checks, kept] if rules.same_table else checks


def _named(names: list[str]) -> str:
    return f" ({listed(names, 40)})" if names else ""


def _budget_check(standings: Sequence[Standing], rules: Protocol) -> Check:
    """Say whether all kept to the budget: what is trained beside the loops, and whole epochs, can exceed it."""
    question, spent = "Did every method get the same budget?", [one.training for one in standings if one.training > 0]
    if not spent:
        return Check(question, True, f"{rules.budget}; nothing was trained")
    words = f"{rules.budget}; {min(spent):,.0f} to {max(spent):,.0f} rows"
    if rules.allowance is None:
        return Check(question, True, words)
    over = [f"{one.name} ({one.training / rules.allowance:.2f} x)" for one in standings
            if one.training > _TOLERANCE * rules.allowance]  # fmt: skip
    words += f" where {rules.allowance:,.0f} were allowed"
    return Check(question, not over, words + (f"; more had {listed(over, 40)}" if over else ""))


def table_of(entries: Sequence[Entry], ground: Field, level: str, seeds: Sequence[int]) -> pd.DataFrame:
    """Return `results.csv`: one row per entry and seed, with every metric on valid and test, costs and errors."""
    tested = {entry.name: score_rows(entry, ground) for entry in entries}
    names = list(dict.fromkeys(name for own in tested.values() for scores in own.values() for name in scores))
    rows = []
    for entry in entries:
        for seed in seeds:
            row: dict[str, Any] = {"strategy": entry.name, "level": level, "seed": seed}
            valid, test = entry.valid.get(seed, {}), tested[entry.name].get(seed, {})
            row |= {f"valid_{name}": valid.get(name) for name in names}
            row |= {f"test_{name}": test.get(name) for name in names}
            row |= {"seconds": entry.seconds.get(seed), "encoder_passes": entry.passes.get(seed)}
            rows.append(row | {"error": entry.errors.get(seed, "")})
    frame = pd.DataFrame(rows)
    frame["seconds"] = frame["seconds"].astype("float64").round(3)
    return frame.astype({"encoder_passes": "Int64"})
