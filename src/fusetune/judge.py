"""The end of a run: the test part is opened, once, and the model and everything simpler is judged on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fusetune.data.split import Part, Rows, deal
from fusetune.encoders import CellIdentity, Encoder, is_pretrained
from fusetune.evaluate import Interval, holm, mcnemar, paired_difference, permutation_test, score_with_intervals
from fusetune.evaluate.analysis import analyse, row_shares, without_inputs
from fusetune.evaluate.calibration import Calibration, Judged, learn
from fusetune.evaluate.metrics import nll as mean_nll
from fusetune.evaluate.modalities import Masked
from fusetune.evaluate.temperature import Temperature, softmax
from fusetune.evaluate.threshold import positive_class
from fusetune.model import Model
from fusetune.report.facts import Comparison, GainRow
from fusetune.strategies.context import Context
from fusetune.strategies.ensemble import ensemble, fit_temperatures
from fusetune.strategies.heads import HeadFit
from fusetune.strategies.model import Outputs
from fusetune.strategies.plan import fit_on, logits_of, make_plan
from fusetune.train.loop import History

Probabilities = npt.NDArray[np.floating[Any]]
Present = Mapping[str, Tensor]
TWO_STAGE = "two-stage"
_FOLDS = 5


@dataclass(frozen=True)
class Judgement:
    """Everything that was measured on valid and test rows.

    Attributes:
        test: Metric -> interval, two-stage model, test part.
        valid: The same on the validation part.
        gain: The gain table; the last row is the two-stage model.
        comparisons: Paired tests of the two-stage model against each modality (the best on validation rows first), the
            ensemble and frozen encoders, p-values corrected for their number.
        probabilities: Of the two-stage model by part, float [rows, classes].
        calibration: What was learnt on validation rows and goes with the model.
        analysis: Subsets of modalities, missing inputs, sets and so on, as `metrics.json` holds them.
        shares: Each modality's share of the decision on each test row, by modality; and the probability without input.
    """

    test: dict[str, Interval]
    valid: dict[str, Interval]
    gain: list[GainRow]
    comparisons: list[Comparison]
    probabilities: Mapping[str, Probabilities]
    calibration: Calibration
    analysis: dict[str, Any]
    shares: dict[str, Probabilities]
    prior: Probabilities


@dataclass(frozen=True)
class _Candidate:
    name: str
    note: str
    valid: Probabilities
    test: Probabilities
    masked: Masked | None = None  # test probabilities when less is present


def judge(ctx: Context, model: Model, head: HeadFit) -> Judgement:
    """Open the test part and judge the model beside the baselines.

    Args:
        ctx: The run.
        model: Its finished model.
        head: How its head was chosen.
    """
    valid, tried = _validation(ctx, model, head)
    calibration, heat = _calibration(ctx, valid, tried)
    opened = ctx.split.unlock_test()
    ctx.log.record("test part opened", at=opened)
    test = _judged(ctx, model, "test")
    fused = {
        "valid": softmax(valid.outputs.f.numpy(), heat.value),
        "test": softmax(test.outputs.f.numpy(), heat.value),
    }
    ours = _Candidate(TWO_STAGE, _whole_note(ctx), fused["valid"], fused["test"])
    candidates = [*_simple(ctx, valid, test), *_frozen(ctx), ours]
    how: dict[str, Any] = {"resamples": ctx.config.evaluate.resamples, "seed": ctx.config.seed}
    scores = {c.name: score_with_intervals(c.test, test.labels, test.groups, **how) for c in candidates}
    rivals = _rivals(candidates, valid.labels)
    masked = {c.name: c.masked for c in candidates if c.masked is not None}
    crossfitted = ctx.honest is not None or len(tried) > 0
    return Judgement(
        test=scores[TWO_STAGE],
        valid=score_with_intervals(fused["valid"], valid.labels, valid.groups, **how),
        gain=[_gain_row(c, scores[c.name], valid.labels) for c in candidates],
        comparisons=_holm([_compare(ours, other, name, test, how) for name, other in rivals.items()]),
        probabilities=fused,
        calibration=calibration,
        analysis={
            **analyse(model.network, calibration, test, ctx.classes, masked, **how),
            "calibration": _calibration_facts(heat, crossfitted, test, scores[TWO_STAGE], how),
        },
        shares=row_shares(model.network, test.outputs, heat.value),
        prior=without_inputs(model.network, test.outputs, heat.value),
    )


def calibrate(ctx: Context, model: Model, head: HeadFit) -> Calibration:
    """Return what validation rows teach about a model that is judged elsewhere; the test part stays shut."""
    valid, tried = _validation(ctx, model, head)
    return _calibration(ctx, valid, tried)[0]


def _gain_row(candidate: _Candidate, scores: dict[str, Interval], valid_labels: Rows) -> GainRow:
    valid_nll = mean_nll(candidate.valid, valid_labels)
    return GainRow(candidate.name, candidate.note, scores["accuracy"], scores["nll"], valid_nll)


def _calibration(ctx: Context, valid: Judged, tried: list[Probabilities]) -> tuple[Calibration, Temperature]:
    """Learn temperature, prediction sets and threshold from validation rows, before the test part is opened."""
    aim, seed = ctx.config.evaluate.aim, ctx.config.seed
    positive = positive_class(aim, ctx.config.evaluate.positive, ctx.classes)
    found, heat = learn(valid, tried, _folds(ctx, valid), aim=aim, positive=positive, seed=seed)
    if positive is not None and found.threshold is None:
        ctx.log.warn(f"no threshold reaches '{aim}' on the validation part; none is given")
    return found, heat


def _validation(ctx: Context, model: Model, head: HeadFit) -> tuple[Judged, list[Probabilities]]:
    """Return the validation rows, and their logits by the heads that the model's was chosen from.

    Where they were also learnt from, what is said of them comes from networks and solutions that did not; the choice
    was then made on all rows, of which they are a small part, and candidates are not needed.
    """
    if ctx.honest is None:
        return _judged(ctx, model, "valid"), list(head.tried)
    rows = ctx.split.rows("valid")
    groups = None if ctx.groups is None else ctx.groups.iloc[rows].to_numpy()
    return Judged(ctx.honest, ctx.labels[rows], ctx.keys[rows], groups), []


def _judged(ctx: Context, model: Model, part: Part) -> Judged:
    """Run the model over a part, once; everything else follows from these outputs."""
    rows = ctx.split.rows(part)
    outputs = model.outputs(ctx.sources, rows, f"judging on {part} rows")
    groups = None if ctx.groups is None else ctx.groups.iloc[rows].to_numpy()
    return Judged(outputs, ctx.labels[rows], ctx.keys[rows], groups)


def _folds(ctx: Context, valid: Judged) -> Rows:
    """Deal validation rows, or whole groups of them, into up to five folds."""
    rows = ctx.split.rows("valid")
    units = (ctx.ids if ctx.groups is None else ctx.groups).iloc[rows]
    count = min(_FOLDS, int(units.nunique()))
    if count < 2:
        return np.zeros(len(rows), dtype=np.int64)
    return deal(ctx.ids.iloc[rows], valid.labels, units, (1 / count,) * count, ctx.config.seed + 3)


def _calibration_facts(
    heat: Temperature, crossfitted: bool, test: Judged, used: dict[str, Interval], how: dict[str, Any]
) -> dict[str, Any]:
    """Return what the temperature is and what it changes; on test rows also where it was not applied."""
    # What the model does is scored already; the other way is scored for comparison.
    other = softmax(test.outputs.f.numpy(), 1.0 if heat.applied else heat.fitted)
    unused = score_with_intervals(other, test.labels, test.groups, **how)
    before, after = (unused, used) if heat.applied else (used, unused)
    shown = ("nll", "brier", "ece", "classwise_ece")
    known = {"before": heat.before, "after": heat.after, "standard_error": heat.error}
    return {
        "temperature": heat.fitted,
        "applied": heat.applied,
        "rows": heat.rows,
        "crossfitted": crossfitted,
        "valid_nll": {name: value if np.isfinite(value) else None for name, value in known.items()},
        "test": {
            "before": {key: before[key].as_dict() for key in shown},
            "after": {key: after[key].as_dict() for key in shown},
        },
    }


def _simple(ctx: Context, valid: Judged, test: Judged) -> list[_Candidate]:
    """Return majority, each modality alone and their ensemble."""
    counts = np.bincount(ctx.labels[ctx.split.rows("train")], minlength=len(ctx.classes)).astype(np.float64)
    prior = torch.from_numpy(np.log((counts + 0.5) / (counts + 0.5).sum())).float()
    flat = {rows: _softmax(prior.expand(rows, -1)) for rows in (len(valid.labels), len(test.labels))}
    note = "class frequencies of the training part"
    found = [_Candidate("majority", note, flat[len(valid.labels)], flat[len(test.labels)])]
    for name in ctx.modalities:
        alone = partial(_alone, name, prior)
        found.append(_candidate(f"{name} alone", _note(ctx, name), alone, valid.outputs, test.outputs))
    if len(ctx.modalities) > 1:
        heat = fit_temperatures(valid.outputs.f_m, valid.outputs.present, valid.labels)

        def mean(outputs: Outputs, present: Present) -> Probabilities:
            something = torch.stack(list(present.values())).any(0)
            return _softmax(torch.where(something[:, None], ensemble(outputs.f_m, present, heat), prior))

        note = "mean of the modalities' calibrated logits (UME)"
        found.append(_candidate("ensemble", note, mean, valid.outputs, test.outputs))
    return found


def _alone(name: str, prior: Tensor, outputs: Outputs, present: Present) -> Probabilities:
    """Return what one modality says, and class frequencies where it is absent."""
    return _softmax(torch.where(present[name][:, None], outputs.f_m[name], prior))


def _candidate(
    name: str, note: str, says: Callable[[Outputs, Present], Probabilities], valid: Outputs, test: Outputs
) -> _Candidate:
    return _Candidate(
        name,
        note,
        says(valid, valid.present),
        says(test, test.present),
        lambda mask: says(test, {m: mask[m] & bits for m, bits in test.present.items()}),
    )


def _frozen(ctx: Context) -> list[_Candidate]:
    """Return the traditional way: pretrained encoders as they are, one head on all features."""
    if not ctx.config.evaluate.baselines:
        return []
    encoders = {name: _untrained(ctx, name) for name in ctx.modalities}
    plan, test = make_plan(ctx), ctx.split.rows("test")
    drawn, plain, shown = (
        {name: ctx.encode(name, encoder, some) for name, encoder in encoders.items()}
        for some in (plan.rows, plan.choice_rows, test)
    )
    settings = ctx.config.head.model_copy(update={"kind": "logistic", "blockwise": False})
    fit, valid = fit_on(ctx, plan, drawn, plain, settings)
    data = ctx.with_labels(shown, test)

    def masked(mask: Present) -> Probabilities:
        left = {name: bits & mask[name].numpy() for name, bits in data.present.items()}
        return _softmax(logits_of(fit, replace(data, present=left)))

    note = "frozen pretrained encoders, one head on all"
    return [_Candidate("traditional", note, _softmax(valid), _softmax(logits_of(fit, data)), masked)]


def _untrained(ctx: Context, name: str) -> Encoder:
    """Return the pretrained encoder; for columns, which have none, the cells themselves."""
    if ctx.modalities[name].kind == "columns":
        cells = ctx.pristine[name].describe()
        return CellIdentity(cells["numbers"], cells["categories"]).to(ctx.runtime.device).eval()
    return ctx.fresh_encoder(name).eval()


def _rivals(candidates: list[_Candidate], valid_labels: Rows) -> dict[str, _Candidate]:
    """Return every single modality, the ensemble and the frozen encoders, by what they are called in a sentence."""
    single = sorted((c for c in candidates if c.name.endswith(" alone")), key=lambda c: mean_nll(c.valid, valid_labels))
    found = {c.name: c for c in single} if len(single) > 1 else {}
    words = {"ensemble": "the ensemble", "traditional": "frozen pretrained encoders"}
    return found | {words[c.name]: c for c in candidates if c.name in words}


def _compare(ours: _Candidate, other: _Candidate, name: str, test: Judged, how: dict[str, Any]) -> Comparison:
    right, theirs = ours.test.argmax(1) == test.labels, other.test.argmax(1) == test.labels
    found = mcnemar(right, theirs)
    difference = paired_difference(ours.test, other.test, test.labels, test.groups, **how)
    p_group = None
    if test.groups is not None:
        p_group = permutation_test(right.astype(float) - theirs, test.groups, seed=how["seed"])
    return Comparison(
        name, found.gained, found.lost, found.p, found.p, difference["accuracy"], difference["nll"], p_group, p_group
    )


def _holm(comparisons: list[Comparison]) -> list[Comparison]:
    """Correct the p-values for their number."""
    rows = holm([c.p for c in comparisons])
    found = [replace(c, p_holm=p) for c, p in zip(comparisons, rows, strict=True)]
    known = [c.p_group for c in comparisons if c.p_group is not None]
    if not known:
        return found
    return [replace(c, p_group_holm=p) for c, p in zip(found, holm(known), strict=True)]


def _whole_note(ctx: Context) -> str:
    """Say what the two-stage model is."""
    tuned = [name for name in ctx.modalities if any(history.best_epoch >= 0 for history in _told(ctx, name))]
    if len(tuned) == len(ctx.modalities):
        return "each encoder fine-tuned alone, one head on all"
    return (
        f"{' and '.join(tuned)} fine-tuned alone, one head on all"
        if tuned
        else "no encoder fine-tuned, one head on all"
    )


def _note(ctx: Context, name: str) -> str:
    """Say what a modality alone is; cross-fitted ones have a history per fold."""
    told = _told(ctx, name)
    if not any(history.best_epoch >= 0 for history in told):
        undone = len(told) > 0 and is_pretrained(ctx.pristine[name])
        return "linear classifier on its features" + (", fine-tuning undone" if undone else "")
    return "fine-tuned" if len(told) == 1 else f"fine-tuned, mean of {len(told)} networks"


def _told(ctx: Context, name: str) -> list[History]:
    return [history for stage, history in ctx.histories.items() if stage == name or stage.startswith(f"{name}, fold ")]


def _softmax(logits: Tensor) -> Probabilities:
    found: Probabilities = torch.softmax(logits.double(), 1).numpy()
    return found
