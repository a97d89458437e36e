"""The end of a run: the test part is opened, once, and the model and everything simpler is judged on it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fusetune.data.split import Rows
from fusetune.encoders import CellIdentity, Encoder
from fusetune.evaluate import Interval, mcnemar, paired_difference, score_with_intervals
from fusetune.evaluate.metrics import nll as mean_nll
from fusetune.model import Model
from fusetune.report.facts import Comparison, GainRow
from fusetune.strategies.context import Context
from fusetune.strategies.ensemble import ensemble, fit_temperatures
from fusetune.strategies.model import Outputs
from fusetune.strategies.plan import fit_on, logits_of, make_plan

Probabilities = npt.NDArray[np.float64]
TWO_STAGE = "two-stage"


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
    """

    test: dict[str, Interval]
    valid: dict[str, Interval]
    gain: list[GainRow]
    comparisons: list[Comparison]
    probabilities: dict[str, Probabilities]


@dataclass(frozen=True)
class _Candidate:
    name: str
    note: str
    valid: Probabilities
    test: Probabilities


def judge(ctx: Context, model: Model) -> Judgement:
    """Open the test part and judge the model beside the baselines."""
    valid_rows = ctx.split.rows("valid")
    opened = ctx.split.unlock_test()
    ctx.log.record("test part opened", at=opened)
    test_rows = ctx.split.rows("test")
    rows = {"valid": valid_rows, "test": test_rows}
    outputs = {part: model.outputs(ctx.sources, some, f"judging on {part} rows") for part, some in rows.items()}
    if ctx.honest is not None:
        outputs["valid"] = ctx.honest
    fused = {part: _softmax(found.f) for part, found in outputs.items()}
    candidates = [*_simple(ctx, outputs), *_frozen(ctx, rows)]
    candidates.append(
        _Candidate(TWO_STAGE, "each encoder fine-tuned alone, one head on all", fused["valid"], fused["test"])
    )
    labels = {part: ctx.labels[some] for part, some in rows.items()}
    groups = {part: None if ctx.groups is None else ctx.groups.iloc[some].to_numpy() for part, some in rows.items()}
    how: dict[str, Any] = {"resamples": ctx.config.evaluate.resamples, "seed": ctx.config.seed}
    scores = {c.name: score_with_intervals(c.test, labels["test"], groups["test"], **how) for c in candidates}
    gain = [
        GainRow(c.name, c.note, scores[c.name]["accuracy"], scores[c.name]["nll"], mean_nll(c.valid, labels["valid"]))
        for c in candidates
    ]
    comparisons = _holm(
        [
            _compare(candidates[-1], other, name, labels["test"], groups["test"], how)
            for name, other in _rivals(candidates, labels["valid"]).items()
        ]
    )
    valid = score_with_intervals(fused["valid"], labels["valid"], groups["valid"], **how)
    return Judgement(scores[TWO_STAGE], valid, gain, comparisons, fused)


def _simple(ctx: Context, outputs: dict[str, Outputs]) -> list[_Candidate]:
    """Return majority, each modality alone and their ensemble."""
    counts = np.bincount(ctx.labels[ctx.split.rows("train")], minlength=len(ctx.classes)).astype(np.float64)
    prior = torch.from_numpy(np.log((counts + 0.5) / (counts + 0.5).sum())).float()
    flat = {part: _softmax(prior.expand(len(found.f), -1)) for part, found in outputs.items()}
    found = [_Candidate("majority", "class frequencies of the training part", flat["valid"], flat["test"])]
    alone = {
        part: {name: torch.where(out.present[name][:, None], out.f_m[name], prior) for name in out.f_m}
        for part, out in outputs.items()
    }
    for name in ctx.modalities:
        valid, test = _softmax(alone["valid"][name]), _softmax(alone["test"][name])
        found.append(_Candidate(f"{name} alone", _note(ctx, name), valid, test))
    if len(ctx.modalities) > 1:
        valid_out, test_out = outputs["valid"], outputs["test"]
        labels = ctx.labels[ctx.split.rows("valid")]
        heat = fit_temperatures(valid_out.f_m, valid_out.present, labels)
        valid = _softmax(ensemble(valid_out.f_m, valid_out.present, heat))
        test = _softmax(ensemble(test_out.f_m, test_out.present, heat))
        found.append(_Candidate("ensemble", "mean of the modalities' calibrated logits (UME)", valid, test))
    return found


def _frozen(ctx: Context, rows: dict[str, Rows]) -> list[_Candidate]:
    """Return the traditional way: pretrained encoders as they are, one head on all features."""
    if not ctx.config.evaluate.baselines:
        return []
    encoders = {name: _untrained(ctx, name) for name in ctx.modalities}
    plan = make_plan(ctx)
    drawn, plain, shown = (
        {name: ctx.encode(name, encoder, some) for name, encoder in encoders.items()}
        for some in (plan.rows, plan.choice_rows, rows["test"])
    )
    settings = ctx.config.head.model_copy(update={"kind": "logistic", "blockwise": False})
    fit, valid = fit_on(ctx, plan, drawn, plain, settings)
    found = {"valid": _softmax(valid), "test": _softmax(logits_of(fit, ctx.with_labels(shown, rows["test"])))}
    return [_Candidate("traditional", "frozen pretrained encoders, one head on all", found["valid"], found["test"])]


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


def _compare(
    ours: _Candidate, other: _Candidate, name: str, labels: Rows, groups: Any, how: dict[str, Any]
) -> Comparison:
    right, theirs = ours.test.argmax(1) == labels, other.test.argmax(1) == labels
    test = mcnemar(right, theirs)
    difference = paired_difference(ours.test, other.test, labels, groups, **how)
    return Comparison(name, test.gained, test.lost, test.p, test.p, difference["accuracy"], difference["nll"])


def _holm(comparisons: list[Comparison]) -> list[Comparison]:
    """Correct the p-values for their number (Holm 1979): the i-th smallest of m times m - i + 1, never falling."""
    found, worst = {}, 0.0
    for rank, c in enumerate(sorted(comparisons, key=lambda c: c.p)):
        worst = max(worst, min(1.0, c.p * (len(comparisons) - rank)))
        found[c.against] = replace(c, p_holm=worst)
    return [found[c.against] for c in comparisons]


def _note(ctx: Context, name: str) -> str:
    history = ctx.histories.get(name)
    return "fine-tuned" if history and history.best_epoch >= 0 else "linear classifier on its features"


def _softmax(logits: Tensor) -> Probabilities:
    found: Probabilities = torch.softmax(logits.double(), 1).numpy()
    return found
