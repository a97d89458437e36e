"""What kind of fusion the data ask for: on tables whose answer is known, and that no head is judged by its own rows."""

from __future__ import annotations

import json
import math
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tiny import settings, tiny_table

import fusetune
from fusetune import api, cli
from fusetune.data.split import Split
from fusetune.datasets import Synthetic
from fusetune.errors import UserError
from fusetune.evaluate.intervals import Interval, means
from fusetune.guidance import DELTA, Guidance, crossed, laziness, rule
from fusetune.guidance.crossed import Losses, crossed_losses, steps
from fusetune.guidance.family import family_of
from fusetune.guidance.rule import decide, settling
from fusetune.heads.base import HeadData
from fusetune.targets import Classification, Multilabel, Regression, Target

Vectors = dict[str, np.ndarray[Any, Any]]
SEEDS = 20


def compare(
    x: Vectors,
    y: Any,
    groups: Any = None,
    present: Vectors | None = None,
    tell: Callable[[], None] = lambda: None,
    target: type[Target] = Classification,
) -> tuple[Losses, Interval, Interval, str]:
    """Return losses, d1, d2 and the decision for vectors [rows, dim] by modality, in four folds of whole groups."""
    rows = len(y)
    unit = pd.factorize(np.arange(rows) if groups is None else groups)[0]
    folds = np.random.default_rng(0).permutation(np.arange(unit.max() + 1) % 4)[unit]
    has = {name: np.ones(rows, dtype=bool) for name in x} | (present or {})
    z = {name: v[None].astype(np.float32) for name, v in x.items()}
    data = HeadData(z, has, np.array(y), np.ones(rows), np.arange(rows), target=target)
    losses = crossed_losses(data, folds, 0, tell)
    heads = losses.ensemble, losses.additive, losses.interaction
    d1, d2 = means(np.stack([heads[0] - heads[1], heads[1] - heads[2]], 1), unit)
    return losses, d1, d2, decide(d1, d2, DELTA)


def of(made: Synthetic) -> tuple[Vectors, Any, Any]:
    frame = made.table()
    x = {name: frame.filter(regex=f"^{name}_").to_numpy() for name in made.modalities}
    return x, frame["label"].str.removeprefix("class ").astype(int).to_numpy(), frame["group"].to_numpy()


def decided(made: Synthetic) -> str:
    return compare(*of(made))[3]


@pytest.mark.parametrize(("pi", "share"), [(0.0, 0), (0.5, SEEDS)])
def test_interaction_is_found_where_it_is_and_only_there(pi: float, share: int) -> None:
    found = Counter(decided(Synthetic(rows=240, width=6, pi=pi, seed=seed)) for seed in range(SEEDS))
    assert found["interaction"] == share, found


@pytest.mark.parametrize(("pi", "word"), [(0.0, "ensemble"), (1.0, "interaction")])
@pytest.mark.parametrize("weights", [(0.8, 0.6), (0.7, 0.6, 0.5), (0.5,) * 5])
def test_any_number_of_inputs(pi: float, word: str, weights: tuple[float, ...]) -> None:
    told = []
    # With two classes, five codes and their parity are learnt from few rows.
    made = Synthetic(rows=600, classes=2, width=4, pi=pi, weights=weights, sigma=0.02, seed=1)
    losses, d1, d2, decision = compare(*of(made), tell=lambda: told.append(1))
    assert len(told) == steps(len(weights))
    assert decision in (word, "undecided") if len(weights) == 5 or not pi else decision == word
    assert math.isclose(d1.value, float((losses.ensemble - losses.additive).mean()))
    assert math.isclose(d2.value, float((losses.additive - losses.interaction).mean()))
    assert set(losses.alone) == set(losses.weights) == set(made.modalities)
    assert losses.ensemble.mean() == pytest.approx(made.facts().nll_additive, abs=0.1)


def opposed(rows: int = 500, seed: int = 0) -> tuple[Vectors, Any]:
    """Return two inputs of which one is mostly the other's noise: their difference tells what neither tells alone."""
    random = np.random.default_rng(seed)
    y, noise = random.integers(0, 2, rows), 2 * random.normal(size=(rows, 3))
    a = noise + 0.3 * random.normal(size=noise.shape)
    a[:, 0] += 0.7 * (2 * y - 1)
    return {"a": a, "b": noise + 0.3 * random.normal(size=noise.shape)}, y


def test_what_only_a_joint_sum_tells_is_fusion_and_no_interaction() -> None:
    losses, d1, d2, decision = compare(*opposed())
    assert decision == "frozen_fusion"
    assert d1.low > 0.2
    assert d2.high < 0.05
    assert losses.alone["b"].mean() > 0.6


def test_weights_and_certainty_are_no_fusion() -> None:
    """A plain mean would lose to any head here: one input tells nothing, and says so at length."""
    random, rows = np.random.default_rng(0), 600
    y = random.integers(0, 3, rows)
    told = np.eye(3)[np.where(random.random(rows) < 0.8, y, random.integers(0, 3, rows))]
    losses, d1, _, decision = compare({"a": told, "b": random.normal(size=(rows, 80))}, y)
    assert decision in ("ensemble", "undecided")
    assert d1.value < DELTA
    assert losses.weights["b"] < 0.3 < losses.weights["a"]


def test_what_is_bent_within_one_input_is_no_interaction() -> None:
    """The label is the XOR of two numbers of one input: no meeting of inputs, though no linear head can tell."""
    random, rows = np.random.default_rng(0), 500
    a = random.normal(size=(rows, 2))
    y = ((a[:, 0] > 0) ^ (a[:, 1] > 0)).astype(int)
    losses, _, d2, decision = compare({"a": a, "b": random.normal(size=(rows, 2))}, y)
    assert losses.alone["a"].mean() < 0.3
    assert decision != "interaction", d2


def test_absent_inputs_are_no_interaction() -> None:
    """Two inputs say the same, and a row may lack one: how much the other counts then depends on that."""
    for seed in range(4):
        random, rows = np.random.default_rng(seed), 500
        y = random.integers(0, 3, rows)
        seen = np.eye(3)[np.where(random.random(rows) < 0.7, y, random.integers(0, 3, rows))]
        x = {name: seen + 0.1 * random.normal(size=seen.shape) for name in "ab"}
        without = random.integers(0, 3, rows)
        present = {"a": without != 1, "b": without != 2}
        for name, has in present.items():
            x[name][~has] = np.nan  # what is stored there must not matter
        losses, _, d2, decision = compare(x, y, present=present)
        assert np.isfinite(losses.interaction).all()
        assert decision != "interaction", d2


def noise(seed: int, groups: int | None) -> tuple[Vectors, Any, Any]:
    """Return labels that no input tells, and groups that one input gives away."""
    made = Synthetic(
        rows=240,
        width=8,
        weights=(0.5, 0.5),
        signal=0,
        sigma=0.5,
        groups=groups,
        group_effect=2,
        purity=0.95,
        seed=seed,
    )
    return of(made)


@pytest.mark.parametrize("groups", [None, 60])
def test_labels_that_no_input_tells_ask_for_nothing(groups: int | None) -> None:
    found = Counter(compare(*noise(seed, groups))[3] for seed in range(8))
    assert set(found) <= {"ensemble", "undecided"}, found


def test_no_head_is_judged_by_its_own_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """On labels that no input tells none beats chance, unless rows are learnt from by what judges them."""
    rows = noise(0, None)

    def reached() -> list[float]:
        losses = compare(*rows)[0]
        return [float(each.mean()) for each in (losses.ensemble, losses.additive, losses.interaction)]

    assert min(reached()) > math.log(3) - 0.02
    monkeypatch.setattr(crossed, "learners", lambda folds, *held: np.ones(len(folds), dtype=bool))
    assert max(reached()) < math.log(3) - 0.2


def test_interactions_that_are_only_memorised_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """One number each, with labels by chance: nothing but their meeting tells rows apart, and memory uses that."""
    random = np.random.default_rng(0)
    x = {name: random.integers(0, 5, 60)[:, None].astype(float) for name in "ab"}
    x = {name: np.eye(5)[block[:, 0].astype(int)] for name, block in x.items()}
    y = random.integers(0, 2, 60)
    assert compare(x, y)[3] in ("ensemble", "undecided")
    monkeypatch.setattr(crossed, "learners", lambda folds, *held: np.ones(len(folds), dtype=bool))
    assert compare(x, y)[3] == "interaction"


def test_groups_in_several_folds_would_tell_what_is_not_there() -> None:
    """The leak that whole groups in one fold prevent is really in these rows."""
    made = Synthetic(rows=300, width=24, signal=0, sigma=0.2, groups=20, group_effect=4, purity=0.95)
    x, y, groups = of(made)
    apart, mixed = compare(x, y, groups)[0], compare(x, y)[0]
    assert mixed.additive.mean() < apart.additive.mean() - 0.3
    assert apart.additive.mean() > math.log(3) - 0.1


def met(rows: int, seed: int, blur: float = 0.1) -> tuple[Vectors, Any, Any, np.random.Generator]:
    """Return two inputs that show one code each, -1 or 1, and the codes."""
    random = np.random.default_rng(seed)
    a, b = random.choice([-1.0, 1.0], (2, rows))
    axis = np.eye(4)[0]
    x = {name: code[:, None] * axis + blur * random.normal(size=(rows, 4)) for name, code in (("a", a), ("b", b))}
    return x, a, b, random


def number_of(rows: int, pi: float, seed: int, sigma: float = 0.5, blur: float = 0.1) -> tuple[Vectors, Any]:
    """Return inputs and a number of variance 1: of its signal, a share `pi` is the product of their codes.

    The best sum leaves an error of variance (pi + sigma^2) / (1 + sigma^2), and the best rule sigma^2 / (1 + sigma^2).
    """
    x, a, b, random = met(rows, seed, blur)
    y = (1 - pi) ** 0.5 * (0.8 * a + 0.6 * b) + pi**0.5 * a * b + sigma * random.normal(size=rows)
    return x, y / (1 + sigma**2) ** 0.5


def labels_of(rows: int, pi: float, seed: int) -> tuple[Vectors, Any]:
    """Return inputs and two labels of log-odds 2 a + b; but in a share `pi` of the rows the first is a = b.

    The best sum knows nothing of the first where pi is 1, and the best rule everything.
    """
    x, a, b, random = met(rows, seed)
    u, v = (random.random((2, rows)) < 1 / (1 + np.exp(-2 * a - b))) * 1.0
    return x, np.stack([np.where(random.random(rows) < pi, a == b, u), v], 1).astype(np.float32)


def normal_nll(variance: float) -> float:
    return 0.5 * math.log(2 * math.pi * math.e * variance)


@pytest.mark.parametrize("pi", [0.0, 0.5])
def test_of_a_number_interaction_is_found_where_it_is_and_only_there(pi: float) -> None:
    for seed in range(2):
        losses, d1, d2, decision = compare(*number_of(200, pi, seed), target=Regression)
        assert (decision == "interaction") == bool(pi), (d1, d2)
        assert losses.additive.mean() == pytest.approx(normal_nll((pi + 0.25) / 1.25), abs=0.15)
        # From 150 rows, what is multiplied is learnt less exactly than a sum.
        assert losses.interaction.mean() == pytest.approx(normal_nll(0.25 / 1.25), abs=0.35 if pi else 0.15)
        assert losses.alone["b"].mean() == pytest.approx(normal_nll((1.25 - 0.36 * (1 - pi)) / 1.25), abs=0.15)


def test_where_inputs_tell_nearly_all_what_is_left_of_the_error_counts() -> None:
    """An interaction of a 400th of the variance is most of the error that a sum leaves; R2 would not show it."""
    made = number_of(200, 0.0025, 0, sigma=0.02, blur=0.01)
    _, _, d2, decision = compare(*made, target=Regression)
    assert decision == "interaction"
    assert d2.value > 0.1


@pytest.mark.parametrize("pi", [0.0, 1.0])
def test_of_labels_interaction_is_found_where_it_is_and_only_there(pi: float) -> None:
    odds = np.array([3.0, 1.0, -1.0, -3.0])
    p = 1 / (1 + np.exp(-odds))
    entropy = float(-(p * np.log(p) + (1 - p) * np.log(1 - p)).mean())
    for seed in range(2):
        losses, d1, d2, decision = compare(*labels_of(240, pi, seed), target=Multilabel)
        assert (decision == "interaction") == bool(pi), (d1, d2)
        assert losses.additive.mean() == pytest.approx((pi * math.log(2) + (2 - pi) * entropy) / 2, abs=0.1)
        assert losses.interaction.mean() == pytest.approx((2 - pi) * entropy / 2, abs=0.12)


def test_every_label_has_weights_of_its_own() -> None:
    """Each input tells one label and shouts about the other: one weight for both labels would call a sum better."""
    random, rows = np.random.default_rng(0), 500
    y = random.integers(0, 2, (rows, 2)).astype(np.float32)
    wide = {name: random.normal(size=(rows, 40)) for name in "ab"}
    for at, name in enumerate("ab"):
        wide[name][:, 0] = np.where(random.random(rows) < 0.85, y[:, at], 1 - y[:, at]) * 4
    _, d1, d2, decision = compare(wide, y, target=Multilabel)
    assert decision in ("ensemble", "undecided"), (d1, d2)
    assert d1.value < 2 * DELTA


def test_of_a_number_absent_inputs_are_no_interaction() -> None:
    random, rows = np.random.default_rng(1), 240
    y = random.normal(size=rows)
    x = {name: y[:, None] + 0.7 * random.normal(size=(rows, 1)) for name in "ab"}
    without = random.integers(0, 3, rows)
    present = {"a": without != 1, "b": without != 2}
    for name, has in present.items():
        x[name][~has] = np.nan
    losses, _, d2, decision = compare(x, y, present=present, target=Regression)
    assert np.isfinite(losses.interaction).all()
    assert decision != "interaction", d2
    _, _, _, decision = compare(
        {name: random.normal(size=(200, 6)) for name in "ab"}, random.normal(size=200), target=Regression
    )
    assert decision in ("ensemble", "undecided")


def test_labels_in_too_few_groups_are_left_out_and_no_row() -> None:
    bits, folds = np.ones((8, 3)), np.arange(8) % 4
    bits[:4, 0] = bits[:2, 1] = 0
    lost, kept, left = family_of(Multilabel).comparable(bits, folds, 3)
    assert (lost, kept.all(), left.shape) == ([1, 2], True, (8, 1))
    lost, kept, left = family_of(Regression).comparable(bits[:, 0], folds, 3)
    assert (lost, kept.all(), left.shape) == ([], True, (8,))


@pytest.mark.parametrize("kind", ["regression", "multilabel"])
def test_tables_of_numbers_and_labels_are_guided(kind: str) -> None:
    x, y = number_of(300, 0.5, 0) if kind == "regression" else labels_of(300, 1.0, 0)
    columns = {f"{name}_{i}": column for name, block in x.items() for i, column in enumerate(block.T)}
    frame = pd.DataFrame(columns)
    if kind == "regression":
        told = guide(frame.assign(label=1000 * y))
    else:
        cells = [";".join(name for name, has in zip("uv", row, strict=True) if has) or "[]" for row in y]
        told = guide(frame.assign(label=cells))
    assert told.decision == "interaction"
    assert told.family.kind == kind
    assert json.loads(json.dumps(told.as_dict(), allow_nan=False))["decision"] == "interaction"


@pytest.mark.parametrize(
    ("d1", "d2", "lazy", "word"),
    [
        ((0.2, 0.1, 0.3), (0.1, 0.02, 0.2), {}, "interaction"),
        ((0.2, 0.1, 0.3), (0.1, 0.009, 0.2), {}, "frozen_fusion"),
        ((0.2, 0.1, 0.3), (0.1, 0.009, 0.2), {"a": (0.1, -0.1, 0.3), "b": (0.1, 0.01, 0.2)}, "teacher"),
        ((0.2, 0.1, 0.3), (0.1, 0.009, 0.2), {"a": (0.1, -0.1, 0.3)}, "frozen_fusion"),
        ((0.0, -0.1, 0.009), (-0.1, -0.2, 0.0), {}, "ensemble"),
        ((0.0, -0.1, 0.011), (-0.1, -0.2, 0.0), {}, "undecided"),
        ((0.0, -0.1, 0.009), (0.0, -0.2, 0.02), {}, "undecided"),
        ((math.nan,) * 3, (math.nan,) * 3, {}, "undecided"),
    ],
)
def test_the_rule(d1: Any, d2: Any, lazy: dict[str, Any], word: str) -> None:
    left = {name: Interval(*bounds) for name, bounds in lazy.items()}
    assert decide(Interval(*d1), Interval(*d2), 0.01, left) == word


def test_rows_that_would_settle_it() -> None:
    """With so many times the groups, half-widths shrink by the root, and the interval no longer holds delta."""
    low, high = Interval(-0.01, -0.05, 0.03), Interval(0.03, 0.0, 0.06)
    assert settling(low, low, 0.01) == pytest.approx(4)
    assert settling(high, low, 0.01) == pytest.approx((0.03 / 0.02) ** 2)
    assert settling(Interval(0.0, -9, 9), high, 0.01) == pytest.approx((0.03 / 0.02) ** 2)
    assert settling(Interval(0.01, 0, 0.02), low, 0.01) is None
    times = settling(low, Interval(-0.02, -0.05, 0.01), 0.01)
    assert times is not None
    assert (
        decide(*(Interval(d, d - 0.04 / times**0.5, d + 0.0399 / times**0.5) for d in (-0.01, -0.02)), 0.01)
        == "ensemble"
    )


def frame_of(x: Vectors, y: Any) -> pd.DataFrame:
    columns = {f"{name}_{i}": column for name, block in x.items() for i, column in enumerate(block.T)}
    return pd.DataFrame(columns).assign(label=[f"class {k}" for k in y])


def guide(frame: pd.DataFrame, **more: Any) -> Guidance:
    how: dict[str, Any] = {"config": {"doctor": {"check": False}, "threads": 1}, "quiet": True}
    how |= {"inputs": ["a", "b"], "vectors": {"a": "a_*", "b": "b_*"}}
    return fusetune.guide(frame, "label", **{**how, **more})


def test_a_table_is_guided_without_its_test_part(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Synthetic(rows=300, width=6, pi=0.5, groups=120)
    frame = made.table()
    with monkeypatch.context() as patch:
        patch.setattr(Split, "unlock_test", lambda _: (_ for _ in ()).throw(AssertionError("opened")))
        told = guide(frame, group="group")
    assert (told.decision, told.grouped) == ("interaction", True)
    assert told.rows < 0.9 * len(frame)
    facts = told.as_dict()
    assert {"decision", "d1", "d2", "delta", "rows_needed", "n", "groups", "seed"} <= set(facts)
    assert set(facts["d1"]) == {"value", "low", "high"}
    assert (facts["n"], facts["groups"]) == (told.rows, told.groups)
    assert json.loads(json.dumps(facts, allow_nan=False)) == facts
    assert repr(told).startswith("Guidance(interaction: ") and told.next in repr(told)
    assert "NLL of b alone" in told._repr_html_() and f"in {told.groups} groups" in told._repr_html_()
    assert guide(frame, group="group").as_dict() == facts
    assert guide(frame, group="group", seed=3).as_dict() != facts


@pytest.mark.parametrize(("low", "word"), [(0.05, "teacher"), (-0.05, "frozen_fusion")])
def test_joint_training_that_leaves_an_input_behind_asks_for_teachers(
    low: float, word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rule, "laziness", lambda _: {"a": Interval(0.1, low, 0.2)})
    told = guide(frame_of(*opposed(300)))
    assert told.decision == word
    assert ("leaves a behind" in told.sentence) == (word == "teacher")
    assert told.next == {"teacher": "--strategy umt", "frozen_fusion": "--strategy two-stage"}[word]


def test_laziness_is_measured_where_it_counts() -> None:
    frame = frame_of(*opposed(300))
    short = {"doctor": {"check": False}, "threads": 1, "vector": {"train": {"epochs": 3}}}
    told = guide(frame, config=short)
    assert set(told.lazy) == {"a", "b"}
    assert all(loss.low <= loss.value <= loss.high for loss in told.lazy.values())
    assert guide(frame, config=short, lazy=False).lazy == {}


def test_an_encoder_that_learnt_nothing_is_lazy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where joint training wipes out one encoder, its probe falls short of the network trained alone."""
    made = Synthetic(rows=300, width=6, weights=(0.95, 0.9))

    def emptied(cls: Any, ctx: Any, settings: Any, fit: Any = laziness.strategy_of) -> Any:
        fitted = type(cls).mro(cls)[1].fit.__func__(cls, ctx, settings)
        for name, encoder in fitted.network.members:
            if name == "b":
                for weight in encoder.parameters():
                    weight.data.zero_()
        return fitted

    from fusetune.strategies.joint import Joint

    monkeypatch.setattr(Joint, "fit", classmethod(emptied))
    monkeypatch.setattr(rule, "decide", lambda *_: "frozen_fusion")
    found = guide(
        made.table(), config={"doctor": {"check": False}, "threads": 1, "vector": {"train": {"epochs": 5}}}
    ).lazy
    assert found["b"].low > 0.2
    assert abs(found["a"].value) < 0.2


def test_classes_in_too_few_groups_are_left_out() -> None:
    frame = Synthetic(rows=260, width=6).table()
    frame.loc[frame.index[:2], "label"] = "rare"
    told = guide(frame)
    assert told.left_out == ["rare"]
    assert told.rows < 260
    told = guide(frame.iloc[:12], config={"doctor": {"check": False}, "threads": 1, "seed": 1})
    assert (told.decision, told.evidence) == ("undecided", None)
    assert "too few" in told.sentence
    assert json.loads(json.dumps(told.as_dict(), allow_nan=False))["d1"] == {"value": None, "low": None, "high": None}


def test_one_input_has_nothing_to_combine() -> None:
    with pytest.raises(UserError, match=r"one input, a: there is nothing to combine. Give it more inputs"):
        guide(Synthetic(rows=60).table(), inputs=["a"], vectors={"a": "a_*"})
    with pytest.raises(UserError, match="delta"):
        guide(Synthetic(rows=60).table(), delta=0)


def test_fit_says_it_too_and_can_be_told_not_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frame = Synthetic(rows=260, width=6, pi=1).table()
    how: dict[str, Any] = {"inputs": ["a", "b"], "vectors": {"a": "a_*", "b": "b_*"}, "quiet": True}
    config = settings(tmp_path / "store", train__epochs=0, doctor__check=False)
    run = fusetune.fit(frame, "label", config=config, out=tmp_path / "run", **how)
    assert run.metrics["guide"]["decision"] == "interaction"
    assert "What one input means depends on another" in run.report.read_text("utf-8")
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["guide"] == run.metrics["guide"]
    monkeypatch.setattr(api, "guided", lambda *_, **__: (_ for _ in ()).throw(AssertionError("asked")))
    config["evaluate"]["baselines"] = False
    run = fusetune.fit(frame, "label", config=config, out=tmp_path / "bare", **how)
    assert run.metrics["guide"] is None
    one = {**how, "inputs": ["a"], "vectors": {"a": "a_*"}}
    config["evaluate"]["baselines"] = True
    assert fusetune.fit(frame, "label", config=config, out=tmp_path / "one", **one).metrics["guide"] is None


def test_fit_spends_nothing_on_few_groups_and_little_on_many_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def counted(data: HeadData, *more: Any, **how: Any) -> Losses:
        asked.append(len(data.labels))
        return crossed_losses(data, *more, **how)

    monkeypatch.setattr(rule, "crossed_losses", counted)
    config = settings(tmp_path / "store", train__epochs=0, doctor__check=False)
    how: dict[str, Any] = {"inputs": ["a", "b"], "vectors": {"a": "a_*", "b": "b_*"}, "quiet": True, "config": config}
    few = fusetune.fit(Synthetic(rows=200, groups=40).table(), "label", group="group", out=tmp_path / "few", **how)
    assert not asked
    assert "too few to tell" in few.metrics["guide"]["sentence"]
    monkeypatch.setattr(api, "_GUIDED_MOST", 120)
    fusetune.fit(Synthetic(rows=400).table(), "label", out=tmp_path / "many", **how)
    assert len(asked) == 1
    assert 100 <= asked[0] <= 120


def test_what_it_says_to_run_next_is_better(tmp_path: Path) -> None:
    made = Synthetic(rows=400, width=6, pi=1)
    told = guide(made.table())
    words = told.next.split()
    assert words[:5] == ["--preset", "quick", "--strategy", "two-stage", "--set"]
    run = fusetune.fit(
        made.table(), "label", inputs=["a", "b"], vectors=made.vectors, preset="quick", strategy=words[3],
        sets=[words[5]], quiet=True,
        config={"doctor": {"check": False}, "threads": 1, "evaluate": {"resamples": 100}}, out=tmp_path / "run",
    )  # fmt: skip
    nll = {row["name"]: row["nll"]["value"] for row in run.metrics["gain"]}
    assert nll["two-stage"] < 0.2
    assert min(nll["ensemble"], nll["traditional"]) > 0.9


def test_pictures_texts_and_columns_on_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_table(tmp_path).to_csv(tmp_path / "table.csv", index=False)
    (tmp_path / "config.yaml").write_text(json.dumps(settings(tmp_path / "store")))
    monkeypatch.setenv("COLUMNS", "100")

    def ask(*words: str) -> tuple[int, str, str]:
        table = ["fusetune", "guide", str(tmp_path / "table.csv"), "--label", "organ", "--group", "patient"]
        monkeypatch.setattr(sys, "argv", [*table, "--split", "part", "--config", str(tmp_path / "config.yaml"), *words])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return int(stop.value.code or 0), *capsys.readouterr()

    code, out, err = ask("--inputs", "scan,note,age,site", "--json", str(tmp_path / "guide.json"))
    assert code == 0, err
    told = json.loads((tmp_path / "guide.json").read_text("utf-8"))
    assert told["decision"] in ("ensemble", "teacher", "frozen_fusion", "interaction", "undecided")
    assert set(told["evidence"]["alone"]) == {"scan", "note", "columns"}
    for words in (told["sentence"], told["next"], "84 rows in", "d1 = E - A", "mind that"):
        assert words in out
    code, _, err = ask("--inputs", "note")
    assert code == 2
    assert "nothing to combine" in err
    assert ask("--json", str(tmp_path / "table.csv"))[0] == 2
