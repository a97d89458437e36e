from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest

from fusetune.evaluate import holm, mcnemar
from fusetune.standings import Entry, Field, Protocol, rivals_of, stand, table_of

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
