"""The end of a run: the test part is opened, once, and what was fitted is judged on it beside everything simpler.

Whatever is judged is judged by one rule: its certainty is corrected by a temperature that is fitted on held-out rows,
and used only where it helps rows that it was not fitted on. So the NLLs of all rows of the gain table can be compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from fusetune.context import Context
from fusetune.data.split import Rows
from fusetune.data.table import Table
from fusetune.evaluate import Interval, holm, mcnemar, permutation_test
from fusetune.evaluate.analysis import analyse, row_shares, without_inputs
from fusetune.evaluate.bootstrap import sampling
from fusetune.evaluate.calibration import Calibration, Judged, Scaled, judge_temperature, learn, scale
from fusetune.evaluate.likeness import Likeness, some_rows
from fusetune.evaluate.measures import Measure, measure_of
from fusetune.evaluate.metrics import IntArray, average
from fusetune.evaluate.modalities import Probe
from fusetune.evaluate.profile import Profile
from fusetune.evaluate.reference import Reference
from fusetune.heads.folds import row_folds
from fusetune.model import Model
from fusetune.networks import Outputs
from fusetune.networks.run import outputs_of
from fusetune.result import Comparison, GainRow, Judgement
from fusetune.strategies.base import WHOLE, Fitted
from fusetune.strategies.rivals import ALONE, IN_WORDS, MAJORITY


@dataclass(frozen=True)
class _Candidate:
    """One row of the gain table: a fitted strategy, its held-out rows scaled, and what it says of the test part."""

    name: str
    fitted: Fitted
    scaled: Scaled
    outputs: Outputs
    measure: Measure[Any]
    said: dict[bytes, Tensor] = field(default_factory=dict)

    @property
    def probe(self) -> Probe:
        return Probe(self.fitted.network, self.outputs, self.scaled.heat.value, measure=self.measure, said=self.said)


def judge(ctx: Context, fitted: Mapping[str, Fitted], chosen: str) -> Judgement:
    """Open the test part and judge what was fitted.

    Args:
        ctx: The run.
        fitted: What strategies left, by the name of their row in the gain table, in its order.
        chosen: The row that the model is made of; it comes last.
    """
    names = [*(name for name in fitted if name != chosen), chosen]
    rows = {"valid": ctx.split.rows("valid")}
    scaled = {name: scaled_on_valid(ctx, fitted[name]) for name in names}
    calibration = _learnt(ctx, fitted[chosen], scaled[chosen])
    opened = ctx.split.unlock_test()
    ctx.log.record("test part opened", at=opened)
    rows["test"] = ctx.split.rows("test")
    outputs = outputs_of(
        {name: fitted[name].network for name in names}, ctx.readers, ctx.sources, rows["test"],
        config=ctx.config, runtime=ctx.runtime, description="judging on test rows", target=type(ctx.target),
    )  # fmt: skip
    measure = measure_of(ctx.target)
    candidates = [_Candidate(name, fitted[name], scaled[name], outputs[name], measure) for name in names]
    ours, test, labels = candidates[-1], _judged(ctx, outputs[chosen], rows["test"]), ctx.labels[rows["valid"]]
    how: dict[str, Any] = {"resamples": ctx.config.evaluate.resamples, "seed": ctx.config.seed}
    scores = {c.name: measure.scores(c.probe.p, test.labels, test.sampling, **how) for c in candidates}
    valid = measure.say(fitted[chosen].held_on(rows["valid"]).f.numpy(), ours.scaled.heat.value)
    counted = ctx.counted(rows["valid"])
    losses = {c.name: float(average(measure.lost_rows(c.scaled.p, labels), counted)) for c in candidates}
    rivals = {c.name: c.probe.again for c in candidates[:-1] if c.name != MAJORITY}
    frequent = next((c for c in candidates[:-1] if c.name == MAJORITY), None)
    rule = calibration.rule(ctx.classes, measure=measure)
    return Judgement(
        chosen=chosen,
        test=scores[chosen],
        valid=measure.scores(valid, labels, sampling(_groups(ctx, rows["valid"]), counted), **how),
        gain=[_gain_row(c, scores[c.name], losses[c.name]) for c in candidates],
        comparisons=_holm([_compare(ours, other, words, test, how) for words, other in _rivals(candidates, losses)]),
        labels={"valid": labels, "test": test.labels},
        probabilities={"valid": valid, "test": ours.probe.p},
        calibration=calibration,
        analysis=replace(
            analyse(fitted[chosen].network, chosen, calibration, test, ctx.classes, rivals, **how, said=ours.said),
            calibration=judge_temperature(ours.scaled, test, scores[chosen], **how),
        ),
        shares=row_shares(replace(ours.probe, decide=rule.decide)),
        prior=without_inputs(ours.probe),
        frequent=None if frequent is None else _compare(ours, frequent, measure.constant, test, how),
        acted=rule.score(ours.probe.p, test.labels, test.sampling, **how),
        outputs=ours.outputs,
        measure=measure,
        counted={part: own for part, of in rows.items() if (own := ctx.counted(of)) is not None},
        **measure.beyond(ours.probe.p, test.labels, test.sampling, rule=rule, seed=ctx.config.seed),
    )


def reference_of(
    model: Model, ctx: Context, table: Table, rows: Rows, outputs: Outputs | None = None
) -> Reference | None:
    """Return what a finished model keeps of its training part, to compare later rows and tables with.

    Args:
        model: The model, calibrated.
        ctx: The run, as its readers see it.
        table: Its table.
        rows: Rows that no encoder of the model was trained on: distances are measured against what theirs are.
        outputs: What the model's network says of these rows, where that is known.

    Returns:
        None where none is wanted (`evaluate.reference=0`), or there are no such rows.
    """
    most = ctx.config.evaluate.reference
    if not most or not len(rows):
        return None
    learnt = ctx.split.rows("train")
    kept = some_rows(learnt, ctx.keys, most)
    train, names = model.outputs(ctx.sources, kept, "features of training rows"), ctx.ids.iloc[kept].to_numpy()
    widths = {name: z.shape[1] for name, z in train.z.items()}
    if outputs is None or {name: z.shape[1] for name, z in outputs.z.items()} != widths:
        outputs = model.outputs(ctx.sources, rows, "features of held-out rows")
    held, groups = outputs, _groups(ctx, rows)
    p = measure_of(ctx.target).say(held.f.double().numpy(), model.calibration.temperature)
    count = None if groups is None else len(np.unique(groups))
    profile = Profile.learn(table.take(learnt), model.schema, model.rule.decide(p), *_shown(ctx, rows), count)
    likeness, ids = {}, {}
    for name in train.z:
        has, known = held.present[name].numpy(), train.present[name].numpy()
        there = None if groups is None else groups[has]
        unit = ctx.modalities[name].kind in ("image", "text")
        one = Likeness.learn(train.z[name].numpy()[known], held.z[name].numpy()[has], there, unit=unit)
        if one is not None:
            likeness[name], ids[name] = one, names[known].tolist()
    return Reference(profile, likeness, ids if ctx.config.evaluate.neighbours else {})


def _shown(ctx: Context, rows: Rows) -> tuple[IntArray, int]:
    """Return which of an answer's numbers is right for each row, and how many there are, where that can be said."""
    return measure_of(ctx.target).right_at(ctx.labels[rows]), ctx.target.width


def calibrate(ctx: Context, fitted: Fitted) -> Calibration:
    """Return what validation rows teach about a model that is judged elsewhere; the test part stays shut."""
    return _learnt(ctx, fitted, scaled_on_valid(ctx, fitted))


def scaled_on_valid(ctx: Context, fitted: Fitted) -> Scaled:
    """Correct the certainty of one candidate by its held-out rows, before the test part is opened."""
    rows = ctx.split.rows("valid")
    pooled = len(fitted.rows) > len(rows)
    return scale(_judged(ctx, fitted.held_on(rows), rows), fitted.tried, row_folds(ctx, rows), chosen_elsewhere=pooled)


def _learnt(ctx: Context, fitted: Fitted, scaled: Scaled) -> Calibration:
    wanted, rows = ctx.config.evaluate, ctx.split.rows("valid")
    valid = _judged(ctx, fitted.held_on(rows), rows)
    calibration = learn(valid, scaled, aim=wanted.aim, positive=wanted.positive, seed=ctx.config.seed)
    for line in calibration.unreached(ctx.classes):
        ctx.log.warn(line)
    return calibration


def _judged(ctx: Context, outputs: Outputs, rows: Rows) -> Judged:
    counted = ctx.counted(rows)
    return Judged(outputs, ctx.labels[rows], ctx.keys[rows], _groups(ctx, rows), measure_of(ctx.target), counted)


def _groups(ctx: Context, rows: Rows) -> npt.NDArray[Any] | None:
    return None if ctx.groups is None else ctx.groups.iloc[rows].to_numpy()


def _gain_row(candidate: _Candidate, scores: dict[str, Interval], valid_loss: float) -> GainRow:
    measure, note = candidate.measure, candidate.fitted.notes[WHOLE]
    return GainRow(candidate.name, note, scores[measure.score], scores[measure.loss], valid_loss)


def _rivals(candidates: list[_Candidate], valid_losses: Mapping[str, float]) -> list[tuple[str, _Candidate]]:
    """Return every single modality, the ensemble and the frozen encoders, by what they are called in a sentence."""
    single = [c for c in candidates[:-1] if c.name.endswith(ALONE)]
    single.sort(key=lambda c: valid_losses[c.name])
    rivals = [(c.name, c) for c in single] if len(single) > 1 else []
    return rivals + [(IN_WORDS[c.name], c) for c in candidates[:-1] if c.name in IN_WORDS]


def _compare(ours: _Candidate, other: _Candidate, name: str, test: Judged, how: dict[str, Any]) -> Comparison:
    p, q, measure = ours.probe.p, other.probe.p, ours.measure
    right, theirs = measure.right_rows(p, test.labels), measure.right_rows(q, test.labels)
    # A row is gained where the answer is more right than the other's: of classes, where only it is right.
    counts, weighed = mcnemar(right > theirs, theirs > right), sampling(None, test.sample_weight)
    # McNemar's test is about numbers of rows. Where rows do not count alike, it is done on the signs of weighted rows.
    p_value = counts.p
    if weighed is not None:
        p_value = permutation_test(np.sign(right - theirs), weighed, seed=how["seed"])
    sizes = measure.difference(p, q, test.labels, test.sampling, **how)
    p_group = None
    if test.groups is not None:
        p_group = permutation_test(right - theirs, test.sampling, seed=how["seed"])
    lost = measure.lost_rows(p, test.labels) - measure.lost_rows(q, test.labels)
    p_nll = permutation_test(lost, test.sampling, seed=how["seed"])
    return Comparison(name, counts.gained, counts.lost, p_value, p_value, *sizes, p_group, p_group, p_nll, p_nll)


def _holm(comparisons: list[Comparison]) -> list[Comparison]:
    """Correct the p-values for their number."""
    both = zip(comparisons, holm([c.p for c in comparisons]), holm([c.p_nll for c in comparisons]), strict=True)
    corrected = [replace(c, p_holm=p, p_nll_holm=p_nll) for c, p, p_nll in both]
    by_group = [c.p_group for c in comparisons if c.p_group is not None]
    if not by_group:
        return corrected
    return [replace(c, p_group_holm=p) for c, p in zip(corrected, holm(by_group), strict=True)]
