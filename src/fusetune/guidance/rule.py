"""The rule: from what was said of held-out rows to one of five answers, and how many rows would settle an open one.

    d1 = loss(E) - loss(A),  d2 = loss(A) - loss(I)     mean NLL in nats, intervals by a bootstrap of whole groups
    d2.low > delta                 interaction: a head that is no sum
    else d1.low > delta            teacher, where joint training leaves a modality behind, else frozen_fusion
    else d1.high, d2.high < delta  ensemble
    else                           undecided: the ensemble, which is cheaper, until there are more rows

NLLs are in nats, whatever is predicted: of labels the mean over them, of a number that of a normal distribution whose
variance is that of the errors (`family` says why).

Three warnings. A linear head on all features is a sum over modalities: where the label depends on how inputs meet and
on nothing else (XOR), its best NLL is log(classes), whatever the encoders say, so that comparing it with the ensemble
cannot find that case: hence I. The comparison must be of NLL, since the accuracy of a sum on such labels can look good.
And A beats the plain mean of modalities also where it does no more than weigh them or correct their certainty: hence E,
which may do both, is its opponent.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np

from fusetune.context import Context
from fusetune.data.split import Rows
from fusetune.display import card
from fusetune.errors import TableError, listed
from fusetune.evaluate.intervals import Interval, means, plain
from fusetune.guidance.crossed import crossed_losses, steps
from fusetune.guidance.family import Family, OfClasses, family_of
from fusetune.guidance.laziness import laziness
from fusetune.heads.base import HeadData
from fusetune.heads.folds import row_folds
from fusetune.progress import bar
from fusetune.strategies.linear_probe import untrained
from fusetune.targets import TARGETS, Truth

Decision = Literal["ensemble", "teacher", "frozen_fusion", "interaction", "undecided"]

DELTA = 0.01  # nats: a smaller difference is none
_FOLDS, _FEWEST = 4, 3
_UNKNOWN = Interval(math.nan, math.nan, math.nan)
# What each answer says to run next.
_NEXT: dict[Decision, str] = {
    "ensemble": "--strategy ume",
    "teacher": "--strategy umt",
    "frozen_fusion": "--strategy two-stage",
    "undecided": "--strategy ume",
}
WARNINGS = (
    "a head that is a sum over inputs cannot see what only their meeting tells, whatever the encoders: hence the head "
    "with interactions",
    "differences are of NLL: the accuracy of a sum can look good where the label depends on how inputs meet",
    "the ensemble is weighted and calibrated: a head that does no more than that is no better than it",
)


@dataclass(frozen=True)
class Evidence:
    """What the heads reached on rows that they did not learn from.

    Attributes:
        alone: NLL of each modality alone, by name.
        ensemble: NLL of E.
        additive: NLL of A.
        interaction: NLL of I.
        weights: Of each modality in E, w_m / T_m.
        form: Of I: bilinear or mlp; additive where neither helped.
    """

    alone: dict[str, Interval]
    ensemble: Interval
    additive: Interval
    interaction: Interval
    weights: dict[str, float]
    form: str


@dataclass(frozen=True, repr=False)
class Guidance:
    """What kind of fusion the data ask for, and why.

    Attributes:
        decision: ensemble, teacher, frozen_fusion, interaction or undecided.
        d1: NLL of the ensemble minus that of an additive head on all features, in nats; NaN where nothing was compared.
        d2: NLL of the additive head minus that of one with interactions.
        delta: The least difference that counts, in nats.
        rows: Rows that were judged, all outside the test part.
        groups: What is independent of each other: groups, or rows, joined where they hold copies.
        grouped: Are these groups that the table names?
        rows_needed: About how many such rows would settle an open case; None where it is settled or nobody can say.
        groups_needed: The same in groups.
        evidence: What the heads reached; None where nothing was compared.
        lazy: Score (of classes accuracy) that joint training costs each modality's encoder, by name; empty where it was
            not measured.
        left_out: Classes in too few groups to be compared, whose rows were left out; or such labels, all rows kept.
        seed: Of folds, heads and resamples.
        family: What of it hangs on what is predicted.
    """

    decision: Decision
    d1: Interval
    d2: Interval
    delta: float
    rows: int
    groups: int
    grouped: bool
    rows_needed: int | None
    groups_needed: int | None
    evidence: Evidence | None
    lazy: dict[str, Interval]
    left_out: list[str]
    seed: int
    family: type[Family] = OfClasses

    @property
    def sentence(self) -> str:
        """The answer in plain words."""
        if self.evidence is None:
            return f"{self._amount} are too few to tell what kind of fusion the data ask for; take the ensemble."
        match self.decision:
            case "interaction":
                return (
                    f"What one input means depends on another: a head that is no sum over the inputs has a lower NLL, "
                    f"by {_bounds(self.d2)} nats."
                )
            case "frozen_fusion":
                return (
                    f"The inputs tell more together than their own {self._models}: one head on all features "
                    f"has a lower NLL than their calibrated ensemble, by {_bounds(self.d1)} nats."
                )
            case "teacher":
                behind = listed(name for name, loss in self.lazy.items() if loss.low > 0)
                return (
                    f"The inputs tell more together than their own {self._models} (one head on all features "
                    f"has a lower NLL, by {_bounds(self.d1)} nats), and training them jointly leaves {behind} behind: "
                    "use teachers."
                )
            case "ensemble":
                return (
                    "The inputs can be left to themselves: no head that was tried on all features has a lower "
                    f"NLL than their calibrated ensemble by {self.delta:g} nats or more."
                )
            case _:
                return (
                    f"{self._amount} do not decide it{self._settling}; until then take the ensemble, which is cheaper."
                )

    @property
    def next(self) -> str:
        """Options of `fusetune fit` that follow the answer."""
        if self.decision == "interaction" and self.evidence is not None:
            return f"--preset quick --strategy two-stage --set head.kind={self.evidence.form}"
        return _NEXT[self.decision]

    def __repr__(self) -> str:
        return f"Guidance({self.decision}: {self.sentence} Next: fusetune fit {self.next})"

    def _repr_html_(self) -> str:
        """Return what notebooks show: the answer, the differences behind it, and what to run next."""
        facts: dict[str, object] = {"why": self.sentence, "next": f"fusetune fit {self.next}"}
        if self.evidence is not None:
            facts |= {
                "ensemble less additive head": f"{_bounds(self.d1)} nats",
                "additive head less one with interactions": f"{_bounds(self.d2)} nats",
            }
            facts |= {f"NLL of {name} alone": f"{loss.value:.3f}" for name, loss in self.evidence.alone.items()}
        return card(f"Fusion that the data ask for: {self.decision}", facts | {"judged": self._amount})

    @property
    def _models(self) -> str:
        return f"{TARGETS[self.family.kind].model_word}s"

    @property
    def _amount(self) -> str:
        where = f" in {self.groups:,} groups" if self.grouped else ""
        return f"{self.rows:,} rows{where} outside the test part"

    @property
    def _settling(self) -> str:
        if self.rows_needed is None:
            return ""
        where = f" in {self.groups_needed:,} groups" if self.grouped else ""
        return f" (about {self.rows_needed:,} rows{where} would)"

    def as_dict(self) -> dict[str, Any]:
        """Return values for JSON; NaN becomes None."""
        names = [field.name for field in fields(self) if field.name != "family"]
        values: dict[str, Any] = {name: plain(getattr(self, name)) for name in names}
        values |= {"n": values.pop("rows"), "groups": self.groups if values.pop("grouped") else None}
        return values | {"sentence": self.sentence, "next": self.next, "warnings": list(WARNINGS)}


def guided(
    ctx: Context, *, delta: float = DELTA, lazy: bool = True, least: int = 0, most: int | None = None
) -> Guidance:
    """Compare the heads on the training and validation rows of a run; the test part stays shut.

    Features are those of the encoders before any training, which are honest about every row.

    Args:
        ctx: The run.
        delta: The least difference that counts, in nats.
        lazy: Where the answer is teacher or frozen fusion, train small networks jointly to tell which.
        least: With fewer groups (or rows, where there are none), nothing is compared.
        most: At most about so many rows are compared: whole groups by chance.

    Raises:
        TableError: If there is one modality only.
    """
    if len(ctx.modalities) < 2:
        raise TableError(
            f"the table has one input, {listed(ctx.modalities)}: there is nothing to combine. Give it more inputs with "
            "--inputs, or fit it as it is: `fusetune fit`"
        )
    family = family_of(type(ctx.target))
    rows, folds, labels, left_out = _dealt(ctx, family, most)
    groups, seed = int(ctx.units.iloc[rows].nunique()), ctx.config.seed
    facts: dict[str, Any] = {"delta": delta, "rows": len(rows), "groups": groups, "grouped": ctx.groups is not None}
    facts |= {"left_out": left_out, "seed": seed, "lazy": {}, "rows_needed": None, "groups_needed": None}
    facts["family"] = family
    if groups < least or len(np.unique(labels, axis=0)) < 2:
        return Guidance("undecided", _UNKNOWN, _UNKNOWN, evidence=None, **facts)
    features = {name: ctx.encode(name, untrained(ctx, name), rows) for name in ctx.modalities}
    present = {name: ctx.sources[name].present[rows] for name in features}
    # Rows count alike, as in the NLL that is compared.
    data = HeadData(features, present, labels, np.ones(len(rows)), ctx.keys[rows], target=type(ctx.target))
    with bar("what the data ask for", steps(len(features))) as progress:
        losses = crossed_losses(data, folds, seed, progress.advance)
    heads = [losses.ensemble, losses.additive, losses.interaction]
    columns = [heads[0] - heads[1], heads[1] - heads[2], *heads, *losses.alone.values()]
    units = ctx.units.iloc[rows].to_numpy()
    d1, d2, *reached = means(np.stack(columns, 1), units, resamples=ctx.config.evaluate.resamples, seed=seed)
    decision = decide(d1, d2, delta)
    if decision == "frozen_fusion" and lazy:
        facts["lazy"] = laziness(ctx)
        decision = decide(d1, d2, delta, facts["lazy"])
    if decision == "undecided" and (times := settling(d1, d2, delta)) is not None:
        facts |= {"rows_needed": math.ceil(times * len(rows)), "groups_needed": math.ceil(times * groups)}
    alone = dict(zip(losses.alone, reached[3:], strict=True))
    ensemble, additive, interaction = reached[:3]
    evidence = Evidence(alone, ensemble, additive, interaction, losses.weights, losses.form)
    return Guidance(decision, d1, d2, evidence=evidence, **facts)


def decide(d1: Interval, d2: Interval, delta: float, lazy: Mapping[str, Interval] | None = None) -> Decision:
    """Return the answer; `lazy` is the accuracy that joint training costs each modality's encoder, where known."""
    if d2.low > delta:
        return "interaction"
    if d1.low > delta:
        return "teacher" if any(loss.low > 0 for loss in (lazy or {}).values()) else "frozen_fusion"
    return "ensemble" if d1.high < delta and d2.high < delta else "undecided"


def settling(d1: Interval, d2: Interval, delta: float) -> float | None:
    """Return how many times as many groups would settle an open case, or None: a difference is delta to all digits.

    An interval's half-width h falls with 1 / sqrt(groups), so that it takes (h / |d - delta|)^2 times as many until
    it no longer holds delta. Of d2 above delta, or else of d1 above delta, nothing else has to be known.
    """
    times = [_times(d, delta) for d in (d1, d2)]
    if d2.value > delta:
        times = times[1:]
    elif d1.value > delta:
        times = times[:1]
    return max(times) if all(map(math.isfinite, times)) else None


def _times(d: Interval, delta: float) -> float:
    reach = d.high - d.value if d.value < delta else d.value - d.low
    away = abs(d.value - delta)
    return max(1.0, (reach / away) ** 2) if away > 0 else math.inf


def _dealt(ctx: Context, family: type[Family], most: int | None) -> tuple[Rows, Rows, Truth, list[str]]:
    """Return the rows to compare, the fold of each, their labels, and the classes or labels that are left out."""
    rows = np.sort(np.concatenate([ctx.split.rows("train"), ctx.split.rows("valid")]))
    if most is not None and len(rows) > most:
        # The parts are about equal, and each is like the whole.
        rows = rows[row_folds(ctx, rows, math.ceil(len(rows) / most)) == 0]
    folds = row_folds(ctx, rows, _FOLDS)
    # Of each class there must be something to learn from where one fold is judged and another one chooses.
    lost, kept, labels = family.comparable(ctx.labels[rows], folds, _FEWEST)
    return rows[kept], folds[kept], labels, [str(ctx.target.names[k]) for k in lost]


def _bounds(d: Interval) -> str:
    return f"{d.value:.3f} ({d.low:.3f} to {d.high:.3f})"
