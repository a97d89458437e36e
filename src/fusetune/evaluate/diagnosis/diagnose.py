"""All parts of a diagnosis of one model on some rows, as one typed object."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import pandas as pd

from fusetune.config import Config
from fusetune.data.cells import CellInput
from fusetune.display import card
from fusetune.errors import TableError
from fusetune.evaluate import modalities
from fusetune.evaluate.conformal import Conformal
from fusetune.evaluate.diagnosis.asked import Asked, Diagnosed, plain_answers
from fusetune.evaluate.diagnosis.attack import Attack, attack_features
from fusetune.evaluate.diagnosis.certainty import Certainty, certainty
from fusetune.evaluate.diagnosis.curves import Curve
from fusetune.evaluate.diagnosis.incomplete import (
    CellMasks,
    Incomplete,
    cells_of,
    column_importance,
    incomplete_columns,
)
from fusetune.evaluate.diagnosis.interference import Interference, interference
from fusetune.evaluate.diagnosis.laziness import Laziness, Parts, probe_laziness
from fusetune.evaluate.diagnosis.missing import missing_curves
from fusetune.evaluate.diagnosis.noise import noise_curves
from fusetune.evaluate.intervals import LEVEL, Interval, plain
from fusetune.evaluate.measures import CLASSES, Measure
from fusetune.evaluate.metrics import FloatArray
from fusetune.evaluate.modalities import MOST, SubsetScore
from fusetune.evaluate.reach import Reaches
from fusetune.telling import Telling, telling_of


@dataclass(frozen=True)
class Wanted:
    """What a diagnosis is made with.

    Attributes:
        config: The run's settings.
        conformal: Thresholds of prediction sets that the model brings.
        classes: What the numbers of an answer stand for: names of the classes.
        strategy: What the model's strategy is called.
        rows: Ids of the judged rows.
        alone: By modality, answers about the judged rows by an independently trained unimodal network, ``float
            [rows, width]``.
        masks: File of the masks of cells: read where it is there, else written. None: they are drawn and not kept.
        reaches: Of the intervals around a number that the model brings.
    """

    config: Config
    conformal: Conformal
    classes: Sequence[Any]
    strategy: str
    rows: Sequence[str]
    alone: Mapping[str, FloatArray] = field(default_factory=dict)
    masks: Path | None = None
    reaches: Reaches = field(default_factory=Reaches)


@dataclass(frozen=True, repr=False)
class Diagnosis:
    """Everything that was asked of a model; empty or None where it cannot be answered, and `notes` say why.

    Attributes:
        strategy: What the model's strategy is called.
        rows: Judged rows.
        groups: Their groups; None where rows are not grouped.
        seen: How many rows of the table have the inputs of rows that the model was made from.
        judged_seen: Whether these are judged, for want of others; then nothing here is about new rows.
        learnt: Rows that probes and forest were fitted on.
        seed: Of everything that is drawn.
        resamples: Bootstrap samples behind each interval.
        level: Coverage of all intervals.
        classes: What the numbers of an answer stand for: names of the classes.
        scores: Every metric on the judged rows as they are.
        laziness: The probe of each modality.
        subsets: Every subset of the modalities; None with more than 8 of them.
        missing: Modalities missing at rates 0 to 0.9.
        incomplete: Cells missing at rates 0 to 0.9, in four ways; None without a modality of columns.
        noise: Noisy inputs.
        attack: Features under attack; None where the network reads nothing.
        interference: Misleading modalities.
        certainty: Calibration, prediction sets and intervals, with all and without each modality.
        notes: What could not be asked, and why.
        measure: How answers are judged: `accuracy` and `nll` of all parts are its score and its loss.
    """

    strategy: str
    rows: int
    groups: int | None
    seen: int
    judged_seen: bool
    learnt: int
    seed: int
    resamples: int
    level: float
    classes: list[str]
    scores: dict[str, Interval]
    laziness: list[Laziness]
    subsets: list[SubsetScore] | None
    missing: list[Curve]
    incomplete: Incomplete | None
    noise: list[Curve]
    attack: Attack | None
    interference: list[Interference]
    certainty: list[Certainty]
    notes: list[str]
    measure: Measure[Any] = CLASSES

    def as_dict(self) -> dict[str, Any]:
        """Return JSON values: an interval is ``{"value", "low", "high"}``; score and loss have their own names."""
        values = dict[str, Any]()
        for one in fields(self):
            if one.name != "measure":
                values[one.name] = self.measure.named(plain(getattr(self, one.name)))
            if one.name == "classes":
                values |= self.measure.facts()
        if self.incomplete is not None:  # columns may be called as scores are
            values["incomplete"]["importance"] = plain(self.incomplete.importance)
        return values

    def shares(self) -> Iterator[tuple[str, Interval]]:
        """Yield the most telling scores, and shares of rows, by what they are of."""
        yield "as they are", self.scores[self.measure.score]
        for row in self.laziness:
            yield f"probe on {row.modality}", row.accuracy
            yield from ((f"  lazier than {other.name} by", other.laziness) for other in row.references)
        yield from (("inputs missing, mean over rates", curve.area) for curve in self.missing)
        cells = self.incomplete.curves if self.incomplete else []
        yield from ((f"cells missing ({curve.name}), mean", curve.area) for curve in cells)
        yield from ((f"noise on {curve.name}, mean", curve.area) for curve in self.noise)
        for curve in self.attack.curves if self.attack else []:
            yield f"attack on {curve.name}, radius {curve.points[-1].level:g}", curve.points[-1].accuracy

    def promises(self) -> Iterator[tuple[str, Interval]]:
        """Yield shares of rows, by what they are of: decisions that turn wrong, and truths that are held."""
        for one in self.interference:
            if one.kind == "other class" and one.harm is not None:
                yield f"harm by another class's {one.modality}", one.harm
        for one_lost in self.certainty:
            lost = "nothing" if one_lost.lost is None else one_lost.lost
            for sets in one_lost.sets[:1]:
                yield f"coverage, {lost} lost ({sets.target:.0%})", sets.coverage

    def lines(self) -> Iterator[tuple[str, str, str]]:
        """Yield what `shares` and `promises` do in words: what it is of, the value, and its bounds or nothing."""
        score = self.telling.score.value
        for form, found in ((score, self.shares()), ("{:.1%}".format, self.promises())):
            for name, one in found:
                yield name, form(one.value), f"{form(one.low)} to {form(one.high)}" if one.bounded else ""

    @property
    def telling(self) -> Telling:
        """How its scores are told."""
        return telling_of({**self.measure.facts(), "test": plain(self.scores)})

    def __repr__(self) -> str:
        right = self.telling.right()
        return f"Diagnosis({self.strategy}: {right} on {self.rows:,} rows; as_dict() has the rest)"

    def _repr_html_(self) -> str:
        """Return what notebooks show: the score as it is and without each thing that was taken away, with intervals."""
        facts = {name: value + (f" ({bounds})" if bounds else "") for name, value, bounds in self.lines()}
        return card(f"What {self.strategy} hangs on: {self.rows:,} rows", facts | dict.fromkeys(self.notes, ""))


def diagnose(
    model: Diagnosed,
    judged: Asked,
    training: tuple[Asked, Asked] | None,
    wanted: Wanted,
    *,
    seen: int,
    judged_seen: bool,
) -> Diagnosis:
    """Ask everything of one model.

    Args:
        model: The saved model.
        judged: The rows that it is judged on.
        training: Rows that probes and forest may learn from, and rows that probes may be chosen on; None: neither is
            known, and nothing is fitted.
        wanted: What it is asked with.
        seen: How many rows of the table the model was made from.
        judged_seen: Whether these are the judged ones.
    """
    how = {"resamples": wanted.config.evaluate.resamples, "seed": wanted.config.seed}
    probe, told, names = model.probe(judged), judged.judged, [str(name) for name in wanted.classes]
    every, notes, measure = list(told.outputs.present), [], told.measure
    cells, masks = cells_of(model), None
    if cells is None:
        notes.append("no missing cells: the model reads no columns as cells")
    else:
        masks = _masks(model, cells, judged, training, wanted, how["seed"])
        if not masks.importance:
            notes.append("no missing cells by importance (MIFM, LIFM): no forest could be fitted without training rows")
    lazy: list[Laziness] = []
    if training is None:
        notes.append("no probes: neither the table nor another one has rows that the model was made from")
    else:
        lazy, said = probe_laziness(model, Parts(*training, judged), wanted.alone, wanted.config, **how)
        notes += said
    few = modalities.subset_probabilities(probe) if len(every) <= MOST else None
    if few is None:
        notes.append(f"no subsets: there are more than {MOST} inputs")
    if not wanted.conformal.pooled and not wanted.reaches.levels:
        notes.append("no prediction sets: the model brings no thresholds for them")
    return Diagnosis(
        strategy=wanted.strategy,
        rows=len(judged),
        groups=judged.group_count,
        seen=seen,
        judged_seen=judged_seen,
        learnt=0 if training is None else len(training[0]),
        **how,
        level=LEVEL,
        classes=names,
        scores=measure.scores(plain_answers(probe), told.labels, told.groups, **how),
        laziness=lazy,
        subsets=None if few is None else modalities.subset_table(few, told.labels, told.groups, measure, **how),
        missing=missing_curves(
            {wanted.strategy: probe.again}, every, told.labels, told.keys, told.groups, measure, **how
        ),
        incomplete=None if cells is None or masks is None else incomplete_columns(model, cells, judged, masks, **how),
        noise=noise_curves(model, judged, **how),
        attack=attack_features(model, judged, **how) if model.modalities else None,
        interference=interference(model, judged, **how),
        certainty=certainty(model, judged, wanted.conformal, names, wanted.reaches, **how),
        notes=notes,
        measure=measure,
    )


def _masks(
    model: Diagnosed, name: str, judged: Asked, training: tuple[Asked, Asked] | None, wanted: Wanted, seed: int
) -> CellMasks:
    """Return masks of the judged rows' cells: those of a file that is there, else new ones, kept where asked."""
    fitted = model.readers[name].fitted
    assert isinstance(fitted, CellInput)
    columns, path = list(fitted.kinds), wanted.masks
    if path is not None and not pd.Index(wanted.rows).is_unique:
        raise TableError(f"{judged.table.name}: masks are kept by row id, and ids are repeated or empty; mend them")
    if path is not None and path.exists():
        return CellMasks.load(path, wanted.rows, columns)
    importance = {}
    if training is not None:
        learn = training[0]
        source: Any = learn.sources[name]
        importance = column_importance(fitted, source, learn.where, learn.judged.labels, seed, learn.judged.measure)
    masks = CellMasks.draw(wanted.rows, judged.judged.keys, columns, importance, seed)
    if path is not None:
        masks.save(path)
    return masks
