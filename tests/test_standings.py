from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import f1_score, mean_absolute_error, r2_score, root_mean_squared_error

from fusetune.evaluate import holm, mcnemar, permutation_test, score
from fusetune.evaluate.measures import CLASSES, Labels, Measure, Numbers
from fusetune.report.contest import latex_table, render_contest
from fusetune.standings import Entry, Field, Protocol, rivals_of, stand, table_of
from fusetune.targets import Multilabel, Regression

RULES = Protocol("features", [0, 1], 0, [], "equal", True)


def ground(rows: int = 12, grouped: bool = False) -> Field:
    labels = np.arange(rows) % 2
    return Field(labels, ["no", "yes"], np.arange(rows) // 2 if grouped else None)


def entry(name: str, hits: Any, sure: float = 0.9, **more: Any) -> Entry:
    """An entry that decides these rows correctly, bool [seeds, rows], and is equally sure of all."""
    right = np.asarray(hits, dtype=bool)
    p = {}
    for seed, own in enumerate(right):
        labels = np.arange(len(own)) % 2
        share = np.where(own, sure, 1 - sure)
        p[seed] = np.where(np.eye(2)[labels] == 1, share[:, None], 1 - share[:, None])
    return Entry(name, "made up", p, {seed: {"nll": 0.5} for seed in p}, **more)


def standings(entries: list[Entry], where: Field, rules: Protocol = RULES) -> Any:
    names = [one.name for one in entries]
    return stand(entries, where, rules, title="t", facts={}, rivals=rivals_of(names), resamples=200)


def test_the_p_value_is_that_of_all_swaps_of_groups() -> None:
    generator, where = np.random.default_rng(0), ground(grouped=True)
    ours, theirs = generator.random((2, 12)) < 0.9, generator.random((2, 12)) < 0.4
    (duel,) = standings([entry("joint", ours), entry("ume", theirs)], where).paired
    sums = (ours.astype(float) - theirs).mean(0).reshape(6, 2).sum(1)
    totals = [abs(np.dot(signs, sums)) for signs in product((1, -1), repeat=6)]
    assert duel.p == pytest.approx(np.mean([total >= abs(sums.sum()) - 1e-9 for total in totals]))
    assert duel.accuracy.value == pytest.approx(ours.mean() - theirs.mean())
    assert duel.gained - duel.lost == pytest.approx(12 * (ours.mean() - theirs.mean()))


def test_one_seed_takes_the_exact_mcnemar_test_and_holm_corrects_each_rival_apart() -> None:
    generator, where = np.random.default_rng(1), ground(60)
    rules = Protocol("features", [0], 0, [], "equal", True)
    own = {n: generator.random((1, 60)) < share for n, share in
           {"joint": 0.95, "umt": 0.6, "ume": 0.5, "linear-probe": 0.7}.items()}  # fmt: skip
    found = standings([entry(name, hits) for name, hits in own.items()], where, rules).paired
    for rival in ("ume", "linear-probe"):
        duels = [duel for duel in found if duel.against == rival]
        assert [duel.p for duel in duels] == [mcnemar(own[d.name][0], own[rival][0]).p for d in duels]
        assert [duel.p_holm for duel in duels] == holm([duel.p for duel in duels])
    verdicts = {(duel.name, duel.against): duel.verdict for duel in found}
    assert verdicts["joint", "ume"] == "better"
    assert verdicts["umt", "ume"] == "not shown"


def test_only_seeds_that_both_have_are_compared_and_failures_come_last() -> None:
    where, generator = ground(), np.random.default_rng(2)
    hits = generator.random((2, 12)) < 0.7
    one = entry("joint", hits[:1], errors={1: "it broke"})
    gone = Entry("umt", "made up", {}, errors={0: "no", 1: "no"})
    found = standings([gone, one, entry("ume", hits)], where)
    assert [standing.name for standing in found.standings][-1] == "umt"
    (duel,) = found.paired
    assert (duel.name, duel.seeds, duel.accuracy.value, duel.p) == ("joint", 1, 0.0, 1.0)
    checks = {check.question: check for check in found.checks}
    assert checks["Are failures reported?"].evidence == "joint (1 of 2), umt (2 of 2)"
    table = table_of([gone, one], where, "features", [0, 1])
    assert table["error"].tolist() == ["no", "no", "", "it broke"]
    assert table["test_nll"].isna().tolist() == [True, True, False, True]


def test_ranks_follow_the_nll_and_ties_share_one() -> None:
    where, hits = ground(), np.random.default_rng(3).random((2, 12)) < 0.7
    found = standings([entry("a", hits), entry("b", hits), entry("c", np.ones((2, 12)))], where)
    ranks = {one.name: one.rank for one in found.standings}
    assert ranks["a"] == ranks["b"]
    assert (ranks["c"].value, ranks["a"].value) == (1.0, 2.5)
    assert ranks["c"].high <= ranks["a"].value


def test_labels_without_a_signal_leave_chance_in_every_interval() -> None:
    """Grouped or not: entries that guess are neither shown to be good nor to differ."""
    generator = np.random.default_rng(4)
    for grouped in (False, True):
        where = ground(200, grouped)
        names = ("ume", "linear-probe", "joint", "umt")
        entries = [entry(name, generator.random((3, 200)) < 0.5, sure=0.6) for name in names]
        found = standings(entries, where)
        assert all(one.accuracy.low < 0.5 < one.accuracy.high for one in found.standings)
        assert {duel.verdict for duel in found.paired} == {"not shown"}


def test_who_spent_more_than_allowed_is_named() -> None:
    hits = np.ones((2, 12))
    rules = Protocol("features", [0, 1], 0, [], "equal", True, True, 100.0)
    entries = [entry("tip", hits, training={0: 250, 1: 250}), entry("ume", hits, training={0: 104, 1: 104})]
    check = next(one for one in standings(entries, ground(), rules).checks if "budget" in one.question)
    assert check.met is False
    assert check.evidence == "equal; 104 to 250 rows where 100 were allowed; more had tip (2.50 x)"


def test_the_rivals_are_the_ensemble_and_the_first_plain_fusion() -> None:
    assert rivals_of(["joint", "two-stage", "linear-probe", "ume"]) == ["ume", "linear-probe"]
    assert rivals_of(["frozen-fusion", "linear-probe"]) == ["frozen-fusion"]
    assert rivals_of(["joint"]) == []


NUMBERS, LABELS = Numbers(Regression("y", 100.0, 20.0)), Labels(Multilabel(["u", "v", "w"]))


def numbers(rows: int = 60) -> tuple[Field, list[Entry]]:
    """Rows with a number, and entries that are off by so much, with two seeds each."""
    random = np.random.default_rng(5)
    truth, groups = random.normal(size=rows), np.arange(rows) // 2
    entries = []
    for name, off in {"joint": 0.2, "umt": 0.55, "ume": 0.5}.items():
        p = {seed: NUMBERS.say((truth + off * random.normal(size=rows))[:, None]) for seed in (0, 1)}
        valid = {seed: NUMBERS.values(own, truth) for seed, own in p.items()}
        entries.append(Entry(name, "made up", p, valid))
    return Field(truth, ["y"], groups, None, NUMBERS), entries


def test_numbers_stand_by_their_error_and_are_tested_by_it() -> None:
    where, entries = numbers()
    found, y = standings(entries, where), NUMBERS.target.numbers(where.labels)
    assert found.standings[0].name == "joint"
    for entry in entries:
        one = next(own for own in found.standings if own.name == entry.name)
        said = list(entry.p.values())
        assert one.accuracy.value == pytest.approx(np.mean([r2_score(y, p) for p in said]))
        assert one.nll.value == pytest.approx(np.mean([mean_absolute_error(y, p) for p in said]))
        errors = [root_mean_squared_error(y, p[:, 0]) for p in said]
        spread = one.further["rmse"]
        assert (spread.value, spread.low, spread.high) == pytest.approx((np.mean(errors), min(errors), max(errors)))
        assert one.accuracy.low < one.accuracy.value < one.accuracy.high
    duels = {duel.name: duel for duel in found.paired}
    losses = [np.mean([np.abs(p[:, 0] - y) for p in entry.p.values()], axis=0) for entry in entries]
    own = [permutation_test(each - losses[2], where.groups) for each in losses[:2]]
    assert [duels[name].p_nll for name in ("joint", "umt")] == pytest.approx(own)
    assert [duels[name].p_nll_holm for name in ("joint", "umt")] == pytest.approx(holm(own))
    assert {name: duel.verdict for name, duel in duels.items()} == {"joint": "better", "umt": "not shown"}
    squares = [np.mean([(p[:, 0] - y) ** 2 for p in entry.p.values()]) for entry in entries]
    assert duels["joint"].accuracy.value == pytest.approx((squares[2] - squares[0]) / y.var())


def test_of_one_seed_a_number_is_tested_by_how_much_nearer_it_is() -> None:
    where, entries = numbers()
    single = [replace(entry, p={0: entry.p[0]}) for entry in entries]
    duel = standings(single, where, replace(RULES, seeds=[0])).paired[0]
    mine, his = (NUMBERS.right_rows(single[at].p[0], where.labels) for at in (0, 2))
    assert duel.p == permutation_test(mine - his, where.groups)
    assert (duel.gained, duel.lost) == ((mine > his).sum(), (his > mine).sum())


def test_r2_of_several_seeds_is_that_of_one_where_they_agree() -> None:
    """Seeds that say the same add nothing to what rows leave open: bounds are those of a single training."""
    where, entries = numbers()
    right = NUMBERS.right_rows(entries[0].p[0], where.labels)
    how = {"resamples": 300, "seed": 1}
    (alone,) = NUMBERS.score_means(right[:, None], where.labels, where.groups, **how)
    for seeds in (1, 2):
        both = NUMBERS.trained_score(np.stack([right] * seeds), where.labels, where.groups, **how)
        assert (both.value, both.low, both.high) == pytest.approx((alone.value, alone.low, alone.high))
    none = NUMBERS.trained_score(np.zeros((2, len(right))), where.labels, where.groups, perfect=0.0, **how)
    assert (none.value, none.low, none.high) == (0, 0, 0)


def test_labels_stand_by_all_of_their_labels() -> None:
    random = np.random.default_rng(6)
    truth = random.integers(0, 2, (80, 3)).astype(np.float32)
    p = {seed: np.clip(truth + random.normal(0, 0.6, truth.shape), 0.01, 0.99) for seed in (0, 1)}
    entries = [
        Entry(name, "made up", p, {seed: LABELS.values(own, truth) for seed, own in p.items()})
        for name in ("ume", "joint")
    ]
    where = Field(truth, ["u", "v", "w"], None, None, LABELS)
    one = standings(entries, where).standings[0]
    called = [own > 0.5 for own in p.values()]
    assert one.accuracy.value == pytest.approx(np.mean([(own == truth).mean() for own in called]))
    assert one.nll.value == pytest.approx(-np.mean([np.log(np.where(truth, q, 1 - q)).sum(1) for q in p.values()]))
    for name, how in (("macro_f1", "macro"), ("micro_f1", "micro")):
        assert one.further[name].value == pytest.approx(np.mean([f1_score(truth, own, average=how) for own in called]))
    whole = np.mean([(own == truth).all(1).mean() for own in called])
    assert one.further["subset_accuracy"].value == pytest.approx(whole)


@pytest.mark.parametrize("measure", [CLASSES, NUMBERS, LABELS])
def test_values_are_those_of_the_scores_with_intervals(measure: Measure[Any]) -> None:
    random = np.random.default_rng(7)
    f = random.normal(size=(40, {"classification": 2, "regression": 1, "multilabel": 3}[measure.kind]))
    truth = {"classification": f.argmax(1), "regression": f[:, 0], "multilabel": (f > 0.3) * 1.0}[measure.kind]
    p = measure.say(f + random.normal(size=f.shape))
    whole = measure.scores(p, truth, resamples=20)
    assert measure.values(p, truth) == {name: one.value for name, one in whole.items()}
    if measure is CLASSES:
        assert measure.values(p, truth) == score(p, truth)


def test_files_and_pages_of_numbers_name_their_own_scores() -> None:
    where, entries = numbers()
    found = standings(entries, where)
    summary = found.summary()
    assert summary["target"] == {"kind": "regression", "mean": 100.0, "deviation": 20.0, "whole": False}
    one, duel = summary["strategies"][0], summary["paired"][0]
    assert {"r2", "mae", "valid_mae", "rmse", "median_absolute_error", "bias", "rank"} <= set(one)
    assert {"r2", "mae", "p", "p_holm", "p_mae", "p_mae_holm", "verdict"} <= set(duel)
    assert not {"accuracy", "nll", "macro_f1", "ece"} & (set(one) | set(duel))
    table = table_of(entries, where, "features", [0, 1])
    names = ["r2", "mae", "rmse", "median_absolute_error", "bias"]
    assert [name for name in table if name.startswith("test_")] == [f"test_{name}" for name in names]
    assert [name for name in table if name.startswith("valid_")] == [f"valid_{name}" for name in names]
    checks = {check.question: check.evidence for check in found.checks}
    assert checks["How many beat ume at corrected p < .05?"] == "1 of 2 by R² (joint); 1 by MAE (joint)"
    page, latex = render_contest(found), latex_table(found)
    for word in ("R²", "MAE", "RMSE", "Median error", "Bias", "mean absolute error"):
        assert word in page
    for word in ("NLL", "Accuracy", "ECE", "certainties"):
        assert word not in page.split("</style>")[1]
    assert latex.splitlines()[3].startswith("method & seeds & R² & MAE & RMSE & median error & bias & $p$, ume")
    mae = found.standings[0].nll
    assert f"{mae.value:.2f}" in page  # as finely as shows three digits of the best
