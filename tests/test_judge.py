"""The end of a run: one rule of calibration for all, whole groups in every interval, the test part opened last."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from strategies_context import make_context
from tiny import tiny_table

from fusetune import judge as judge_module
from fusetune.answering import row_digests
from fusetune.context import Context
from fusetune.evaluate import holm, mcnemar, paired_difference, permutation_test, proportion, score_with_intervals
from fusetune.evaluate.calibration import Calibration
from fusetune.evaluate.metrics import nll
from fusetune.evaluate.temperature import calibrate, crossfit, softmax
from fusetune.heads.folds import row_folds
from fusetune.judge import Judgement, judge
from fusetune.model import Model
from fusetune.strategies.alone import Alone, AloneSettings
from fusetune.strategies.base import WHOLE, Fitted, NoSettings, held_by
from fusetune.strategies.linear_probe import LinearProbe
from fusetune.strategies.majority import Majority
from fusetune.strategies.rivals import ALONE, ENSEMBLE
from fusetune.strategies.ume import UME

CHOSEN = "two-stage"
HOW: dict[str, Any] = {"resamples": 100, "seed": 0}


def heated(fitted: Fitted, factor: float) -> Fitted:
    """Return the same strategy, `factor` times as sure of everything."""
    network = copy.deepcopy(fitted.network)
    plain = network.fuse
    network.fuse = lambda z, present: replace(said := plain(z, present), f=said.f * factor)  # type: ignore[method-assign]
    held = replace(fitted.held, f=fitted.held.f * factor)
    return replace(fitted, network=network, held=held, tried=[logits * factor for logits in fitted.tried])


@dataclass
class Rule:
    """What the stated rule says of one row of the gain table."""

    applied: bool
    fitted: float
    valid: npt.NDArray[np.float64]
    test: npt.NDArray[np.float64]


@dataclass
class Made:
    """A judged run and what was judged."""

    ctx: Context
    fitted: dict[str, Fitted]
    judgement: Judgement
    opened: list[bool]

    def rule(self, name: str) -> Rule:
        """Follow the rule: candidates cross-fitted where the rows chose, whole groups, a temperature that earns it."""
        ctx, fitted, rows = self.ctx, self.fitted[name], self.ctx.split.rows("valid")
        folds, labels = row_folds(ctx, rows), ctx.labels[rows]
        own = fitted.held_on(rows).f.double().numpy()
        logits = crossfit(fitted.tried, labels, folds) if len(fitted.tried) else own
        heat, heats = calibrate(logits, labels, folds, self.groups("valid"))
        f = held_by(ctx, fitted.network, ctx.split.rows("test")).f.numpy()
        return Rule(heat.applied, heat.fitted, softmax(logits / heats[:, None]), softmax(f, heat.value))

    def groups(self, part: Any) -> npt.NDArray[Any]:
        assert self.ctx.groups is not None
        return self.ctx.groups.iloc[self.ctx.split.rows(part)].to_numpy()

    def labels(self, part: Any) -> npt.NDArray[np.int64]:
        return self.ctx.labels[self.ctx.split.rows(part)]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("judge")
    frame = tiny_table(folder / "data", rows=384)
    more: dict[str, Any] = {"train__epochs": 0, "views": 1}
    ctx = make_context(folder, frame, ["age", "site", "genes"], **more)
    none = NoSettings()
    fitted = {
        "majority": Majority.fit(ctx, none),
        "columns" + ALONE: heated(alone(ctx, "columns"), 6.0),
        "genes" + ALONE: alone(ctx, "genes"),
        ENSEMBLE: heated(UME.fit(ctx, none), 8.0),
        CHOSEN: heated(LinearProbe.fit(ctx, none), 1.1),
    }
    opened: list[bool] = []
    with pytest.MonkeyPatch.context() as patch:
        for name in ("scale", "learn"):
            patch.setattr(judge_module, name, watched(getattr(judge_module, name), ctx, opened))
        return Made(ctx, fitted, judge(ctx, fitted, CHOSEN), opened)


def alone(ctx: Context, name: str) -> Fitted:
    return Alone.fit(ctx, AloneSettings(modality=name))


def watched(plain: Any, ctx: Context, opened: list[bool]) -> Any:
    def watching(*given: Any, **more: Any) -> Any:
        opened.append(ctx.split.unlocked_at is not None)
        return plain(*given, **more)

    return watching


def test_everything_is_learnt_before_the_test_part_is_opened(made: Made) -> None:
    assert len(made.opened) == len(made.fitted) + 1
    assert not any(made.opened)
    assert made.ctx.split.unlocked_at is not None


def test_every_row_of_the_gain_table_is_scored_by_the_one_rule(made: Made) -> None:
    assert [row.name for row in made.judgement.gain] == list(made.fitted)
    applied = {}
    for row in made.judgement.gain:
        rule = made.rule(row.name)
        applied[row.name] = rule.applied
        assert row.nll.value == pytest.approx(nll(rule.test, made.labels("test")), abs=1e-5), row.name
        assert row.valid_nll == pytest.approx(nll(rule.valid, made.labels("valid")), abs=1e-5), row.name
        assert row.note == made.fitted[row.name].notes[WHOLE]
    assert applied["columns" + ALONE], "no rival needs its temperature, so nothing was tested"
    assert applied[ENSEMBLE]
    assert not applied[CHOSEN]


def test_the_judged_model_uses_its_temperature_only_where_it_earns_it(made: Made) -> None:
    rule = made.rule(CHOSEN)
    assert abs(rule.fitted - 1) > 0.02
    found = made.judgement
    np.testing.assert_allclose(found.probabilities["test"], rule.test, atol=1e-6)
    said = softmax(made.fitted[CHOSEN].held_on(made.ctx.split.rows("valid")).f.numpy())
    np.testing.assert_allclose(found.probabilities["valid"], said, atol=1e-6)
    assert found.calibration.temperature == 1.0
    facts = found.analysis.as_dict()["calibration"]
    assert (facts["temperature"], facts["applied"]) == (pytest.approx(rule.fitted, rel=1e-4), False)
    assert facts["test"]["before"]["nll"]["value"] == pytest.approx(nll(rule.test, made.labels("test")), abs=1e-5)
    # A row's shares sum to the certainty of its decision less that of knowing nothing.
    top = found.probabilities["test"].argmax(1)
    shares = sum(found.shares.values()) + found.prior[np.arange(len(top)), top]
    np.testing.assert_allclose(shares, found.probabilities["test"].max(1), atol=1e-6)


def test_rows_that_chose_are_not_called_unseen(made: Made) -> None:
    assert len(made.fitted[CHOSEN].tried) > 1
    assert made.judgement.analysis.as_dict()["calibration"]["crossfitted"]
    bare = replace(made.fitted[CHOSEN], tried=[])
    assert not judge_module.scaled_on_valid(made.ctx, bare).crossfitted


def test_intervals_are_those_of_whole_groups(made: Made) -> None:
    labels, groups, rule = made.labels("test"), made.groups("test"), made.rule(CHOSEN)
    expected = score_with_intervals(rule.test, labels, groups, **HOW)
    for name in ("accuracy", "nll", "brier"):
        assert made.judgement.test[name].low == pytest.approx(expected[name].low, abs=1e-5)
        assert made.judgement.test[name].high == pytest.approx(expected[name].high, abs=1e-5)
    assert made.judgement.gain[-1].accuracy == proportion(rule.test.argmax(1) == labels, groups)
    by_row = proportion(rule.test.argmax(1) == labels)
    assert abs(made.judgement.test["accuracy"].low - by_row.low) > 1e-3
    valid = score_with_intervals(
        made.judgement.probabilities["valid"], made.labels("valid"), made.groups("valid"), **HOW
    )
    assert made.judgement.valid == valid


def test_comparisons_are_paired_by_group_and_corrected_for_their_number(made: Made) -> None:
    labels, groups, ours = made.labels("test"), made.groups("test"), made.rule(CHOSEN).test
    found = made.judgement.comparisons
    single = sorted(("columns" + ALONE, "genes" + ALONE), key=lambda n: nll(made.rule(n).valid, made.labels("valid")))
    names = [*single, ENSEMBLE]
    assert [c.against for c in found] == [*single, "the ensemble"]
    right = ours.argmax(1) == labels
    rows, by_group = [], []
    for comparison, name in zip(found, names, strict=True):
        rival = made.rule(name).test
        theirs = rival.argmax(1) == labels
        counts, apart = mcnemar(right, theirs), paired_difference(ours, rival, labels, groups, **HOW)
        rows.append(counts.p)
        by_group.append(permutation_test(right.astype(float) - theirs, groups, seed=0))
        assert (comparison.gained, comparison.lost, comparison.p) == (counts.gained, counts.lost, counts.p)
        for got, wanted in ((comparison.accuracy, apart["accuracy"]), (comparison.nll, apart["nll"])):
            assert (got.value, got.low, got.high) == pytest.approx((wanted.value, wanted.low, wanted.high), abs=1e-5)
    assert [c.p_holm for c in found] == holm(rows)
    assert [c.p_group for c in found] == by_group
    assert [c.p_group_holm for c in found] == holm(by_group)
    assert any(c.p_group_holm != c.p_group for c in found), "nothing was corrected, so nothing was tested"


def test_rivals_keep_their_temperature_when_inputs_are_taken_away(made: Made) -> None:
    missing = {
        (row["method"], row["rate"]): row["nll"]["value"] for row in made.judgement.analysis.as_dict()["missing"]
    }
    for name in made.fitted:
        if name != "majority":
            assert missing[name, 0] == pytest.approx(nll(made.rule(name).test, made.labels("test")), abs=1e-5)


def test_a_model_knows_the_rows_that_it_was_made_from(made: Made) -> None:
    ctx = made.ctx
    model = Model.of(ctx, made.fitted[CHOSEN].network, None, Calibration())  # type: ignore[arg-type]
    digests = row_digests(ctx.sources, len(ctx.ids))
    known = np.isin(digests, model.seen)
    assert known[ctx.split.rows("train")].all()
    assert known[ctx.split.rows("valid")].all()
    assert not known[ctx.split.rows("test")].any()
