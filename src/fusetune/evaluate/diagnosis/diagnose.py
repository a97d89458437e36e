"""All parts of a diagnosis of one model on some rows, as one typed object."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from fusetune.config import Config
from fusetune.data.cells import CellInput
from fusetune.display import card
from fusetune.errors import TableError
from fusetune.evaluate import modalities
from fusetune.evaluate.conformal import Conformal
from fusetune.evaluate.diagnosis.asked import Asked, Diagnosed, plain_probabilities
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
from fusetune.evaluate.intervals import LEVEL, Interval, plain, score_with_intervals
from fusetune.evaluate.metrics import FloatArray
from fusetune.evaluate.modalities import MOST, SubsetScore


@dataclass(frozen=True)
class Wanted:
    """What a diagnosis is made with.

    Attributes:
        config: The run's settings.
        conformal: Thresholds of prediction sets that the model brings.
        classes: Names of the classes.
        strategy: What the model's strategy is called.
        rows: Ids of the judged rows.
        alone: By modality, probabilities of the judged rows by an independently trained unimodal network, ``float
            [rows, classes]``.
        masks: File of the masks of cells: read where it is there, else written. None: they are drawn and not kept.
    """

    config: Config
    conformal: Conformal
    classes: Sequence[Any]
    strategy: str
    rows: Sequence[str]
    alone: Mapping[str, FloatArray] = field(default_factory=dict)
    masks: Path | None = None


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
        classes: Names of the classes.
        scores: Every metric on the judged rows as they are.
        laziness: The probe of each modality.
        subsets: Every subset of the modalities; None with more than 8 of them.
        missing: Modalities missing at rates 0 to 0.9.
        incomplete: Cells missing at rates 0 to 0.9, in four ways; None without a modality of columns.
        noise: Noisy inputs.
        attack: Features under attack; None where the network reads nothing.
        interference: Misleading modalities.
        certainty: Calibration and prediction sets, with all and without each modality.
        notes: What could not be asked, and why.
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

    def as_dict(self) -> dict[str, Any]:
        """Return JSON values: an interval is ``{"value", "low", "high"}``."""
        return dict(plain(self))

    def shares(self) -> Iterator[tuple[str, Interval]]:
        """Yield the most telling shares, by what they are of."""
        yield "as they are", self.scores["accuracy"]
        for row in self.laziness:
            yield f"probe on {row.modality}", row.accuracy
            yield from ((f"  lazier than {other.name} by", other.laziness) for other in row.references)
        yield from (("inputs missing, mean over rates", curve.area) for curve in self.missing)
        cells = self.incomplete.curves if self.incomplete else []
        yield from ((f"cells missing ({curve.name}), mean", curve.area) for curve in cells)
        yield from ((f"noise on {curve.name}, mean", curve.area) for curve in self.noise)
        for curve in self.attack.curves if self.attack else []:
            yield f"attack on {curve.name}, radius {curve.points[-1].level:g}", curve.points[-1].accuracy
        for one in self.interference:
            if one.kind == "other class":
                yield f"harm by another class's {one.modality}", one.harm
        for one_lost in self.certainty:
            lost = "nothing" if one_lost.lost is None else one_lost.lost
            for sets in one_lost.sets:
                if (sets.method, sets.mondrian) == ("lac", False):
                    yield f"coverage, {lost} lost ({sets.target:.0%})", sets.coverage

    def __repr__(self) -> str:
        accuracy = self.scores["accuracy"].value
        return f"Diagnosis({self.strategy}: {accuracy:.1%} right on {self.rows:,} rows; as_dict() has the rest)"

    def _repr_html_(self) -> str:
        """Return what notebooks show: accuracy as it is and without each thing that was taken away, with intervals."""
        facts = {
            name: f"{share.value:.1%}" + (f" ({share.low:.1%} to {share.high:.1%})" if share.bounded else "")
            for name, share in self.shares()
        }
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
    every, notes = list(told.outputs.present), []
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
    if not wanted.conformal.pooled:
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
        scores=score_with_intervals(plain_probabilities(probe), told.labels, told.groups, **how),
        laziness=lazy,
        subsets=None if few is None else modalities.subset_table(few, told.labels, told.groups, told.measure, **how),
        missing=missing_curves({wanted.strategy: probe.again}, every, told.labels, told.keys, told.groups, **how),
        incomplete=None if cells is None or masks is None else incomplete_columns(model, cells, judged, masks, **how),
        noise=noise_curves(model, judged, **how),
        attack=attack_features(model, judged, **how) if model.modalities else None,
        interference=interference(model, judged, **how),
        certainty=certainty(model, judged, wanted.conformal, names, **how),
        notes=notes,
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
        importance = column_importance(fitted, source, learn.where, learn.judged.labels, seed)
    masks = CellMasks.draw(wanted.rows, judged.judged.keys, columns, importance, seed)
    if path is not None:
        masks.save(path)
    return masks
