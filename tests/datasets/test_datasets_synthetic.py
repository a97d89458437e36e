"""The made-up table: every fact that is claimed of it, by enumeration and by heads that are fitted to its rows."""

from __future__ import annotations

from itertools import product
from math import log
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import torch
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression

from fusetune.datasets import Synthetic
from fusetune.errors import UserError
from fusetune.evaluate.metrics import nll
from fusetune.evaluate.temperature import softmax
from fusetune.guidance.correction import Kind, correct


def drawn(made: Synthetic) -> tuple[pd.DataFrame, npt.NDArray[np.int64]]:
    frame = made.table()
    return frame, frame["label"].str.removeprefix("class ").astype(int).to_numpy().copy()


def vectors(frame: pd.DataFrame, *names: str) -> npt.NDArray[np.float64]:
    return np.concatenate([frame.filter(regex=f"^{name}_").to_numpy() for name in names], 1)


def linear(frame: pd.DataFrame, y: Any, *names: str, learns: Any, strength: float = 100) -> tuple[float, float]:
    """Return accuracy and NLL of a linear classifier on the rows that it does not learn from."""
    x = vectors(frame, *names)
    p = LogisticRegression(C=strength, max_iter=2000).fit(x[learns], y[learns]).predict_proba(x[~learns])
    return float((p.argmax(1) == y[~learns]).mean()), nll(p, y[~learns])


def fitted(made: Synthetic, kind: Kind) -> tuple[float, float]:
    """Return accuracy and NLL of a small network on rows of which it knows nothing."""
    frame, y = drawn(made)
    x = {name: torch.from_numpy(vectors(frame, name) * made.width**0.5).float() for name in made.modalities}
    part = np.arange(made.rows) % 4
    base = torch.zeros(1, made.rows, made.classes)
    said = correct(x, base, torch.from_numpy(y), (part < 2)[None], (part == 2)[None], kind, 0).logits[0].numpy()
    new = part == 3
    return float((said[new].argmax(1) == y[new]).mean()), nll(softmax(said[new]), y[new])


def additive(tables: npt.NDArray[np.float64], codes: Any) -> npt.NDArray[np.float64]:
    """Return the logits of a sum: tables [modalities, codes, classes] looked up."""
    return np.asarray(sum(table[codes[:, at]] for at, table in enumerate(tables)))


def every(classes: int, modalities: int = 2) -> tuple[Any, Any]:
    """Return each combination of codes once, and the label of an interactive row."""
    codes = np.array(list(product(range(classes), repeat=modalities)))
    return codes, codes.sum(1) % classes


@pytest.mark.parametrize(("classes", "modalities"), [(2, 2), (3, 2), (4, 2), (3, 3), (2, 5)])
def test_no_sum_has_an_nll_below_that_of_chance_on_interactive_rows(classes: int, modalities: int) -> None:
    codes, y = every(classes, modalities)
    onehot, shape = np.eye(classes), (modalities, classes, classes)

    def loss(flat: Any) -> tuple[float, Any]:
        p = softmax(additive(flat.reshape(shape), codes))
        back = np.stack([onehot[codes[:, at]].T @ (p - onehot[y]) for at in range(modalities)]) / len(y)
        return nll(p, y), back.ravel()

    start = np.random.default_rng(0).normal(size=np.prod(shape))
    assert minimize(loss, start, jac=True, method="L-BFGS-B").fun == pytest.approx(log(classes), abs=1e-5)
    names = "abcde"[:modalities]
    facts = Synthetic(classes=classes, pi=1, weights=[0.9] * modalities).facts()
    assert facts.nll_additive == pytest.approx(log(classes))
    assert (facts.nll, facts.accuracy) == (0, 1)
    assert facts.accuracy_alone == pytest.approx(dict.fromkeys(names, 1 / classes))
    assert facts.nll_alone == pytest.approx(dict.fromkeys(names, log(classes)))


@pytest.mark.parametrize(("classes", "known"), [(2, 3 / 4), (3, 7 / 9), (4, 11 / 16)])
def test_the_accuracy_of_a_sum_looks_good_all_the_same(classes: int, known: float) -> None:
    """Why nothing may be concluded from accuracy.

    Of i + j, each class takes the value nearest to its own, s_k: -(i + j - s_k)^2 = 2 (i + j) s_k - s_k^2 + what all
    classes have in common, which is a sum. Of the two values that mean class k, s_k is the one that occurs more often.
    """
    codes, y = every(classes)
    values = np.array([k if k + 1 >= classes - 1 - k else k + classes for k in range(classes)])
    tables = np.stack([2 * np.outer(np.arange(classes), values) - share * values**2 for share in (0, 1)])
    accuracy = float((additive(tables, codes).argmax(1) == y).mean())
    assert accuracy >= known
    assert accuracy == sum(max(k + 1, classes - 1 - k) for k in range(classes)) / classes**2
    for sharpness in (0.01, 0.1, 1.0):
        assert nll(softmax(sharpness * additive(tables, codes)), y) >= log(classes)


def test_heads_on_interactive_rows_reach_what_is_said() -> None:
    made = Synthetic(rows=600, pi=1, sigma=0.05)
    frame, y = drawn(made)
    learns = np.arange(600) % 2 == 0
    for names in (("a",), ("b",)):
        accuracy, lowest = linear(frame, y, *names, learns=learns)
        assert abs(accuracy - 1 / 3) < 0.1
        assert lowest > log(3) - 0.02
    assert linear(frame, y, "a", "b", learns=learns)[1] > log(3) - 0.02
    assert fitted(made, "additive")[1] > log(3) - 0.02
    kinds: tuple[Kind, ...] = ("bilinear", "mlp")
    for kind in kinds:
        accuracy, lowest = fitted(made, kind)
        assert accuracy == 1
        assert lowest < 0.02


@pytest.mark.parametrize("weights", [(1.0, 0.4), (0.8, 0.5), (0.6, 0.6), (0.0, 0.9)])
def test_plain_rows_are_decided_as_well_as_is_said(weights: tuple[float, ...]) -> None:
    made, chance = Synthetic(rows=4000, weights=weights, sigma=0.02, seed=3), 1 / 3
    facts, (frame, y) = made.facts(), drawn(made)
    learns = np.arange(made.rows) % 2 == 0
    for name, w in zip("ab", weights, strict=True):
        accuracy, lowest = linear(frame, y, name, learns=learns)
        assert facts.accuracy_alone[name] == pytest.approx(w + (1 - w) * chance)
        assert accuracy == pytest.approx(facts.accuracy_alone[name], abs=0.03)
        assert lowest == pytest.approx(facts.nll_alone[name], abs=0.05)
    best = max(weights)
    assert facts.accuracy == pytest.approx(best + (1 - best) * chance)
    accuracy, lowest = linear(frame, y, "a", "b", learns=learns)
    assert accuracy == pytest.approx(facts.accuracy, abs=0.03)
    assert lowest == pytest.approx(facts.nll, abs=0.05)
    assert facts.nll == facts.nll_additive


def test_no_gain_of_accuracy_is_no_lack_of_information() -> None:
    facts = Synthetic(weights=(0.8, 0.6)).facts()
    assert facts.accuracy == pytest.approx(facts.accuracy_alone["a"])
    assert facts.nll < facts.nll_alone["a"] - 0.1


def test_a_modality_that_always_carries_the_label_decides_every_plain_row() -> None:
    made = Synthetic(rows=300, weights=(1, 0.3), sigma=0.02)
    frame, y = drawn(made)
    assert linear(frame, y, "a", learns=np.arange(300) % 2 == 0)[0] == 1
    assert made.facts().nll == pytest.approx(0)


def test_flags_say_which_code_to_follow() -> None:
    made = Synthetic(rows=3000, weights=(0.6, 0.5), flags=True, sigma=0.02)
    facts, chance = made.facts(), 1 / 3
    assert facts.accuracy == pytest.approx(1 - 0.4 * 0.5 * (1 - chance))
    assert facts.nll == pytest.approx(0.4 * 0.5 * log(3))
    assert facts.accuracy > Synthetic(weights=(0.6, 0.5)).facts().accuracy
    accuracy, lowest = fitted(made, "additive")
    assert accuracy == pytest.approx(facts.accuracy, abs=0.04)
    assert lowest == pytest.approx(facts.nll, abs=0.08)


def test_between_the_two_kinds_everything_is_a_mean() -> None:
    plain, whole, made = (Synthetic(pi=pi, weights=(0.7, 0.6, 0.4)).facts() for pi in (0, 1, 0.25))
    for name in ("accuracy", "nll", "nll_additive"):
        mean = 0.75 * getattr(plain, name) + 0.25 * getattr(whole, name)
        assert getattr(made, name) == pytest.approx(mean)
    assert made.nll_additive - made.nll == pytest.approx(0.25 * log(3))


@pytest.mark.parametrize("modalities", [2, 3, 5])
def test_codes_tell_the_label_of_interactive_rows_only_together(modalities: int) -> None:
    made = Synthetic(rows=900, pi=0.5, weights=[0.9] * modalities, sigma=0)
    frame, y = drawn(made)
    # Without noise, equal vectors are equal codes.
    codes = np.stack([pd.factorize(frame[f"{name}_0"].round(9))[0] for name in made.modalities], 1)
    there = frame["interactive"].to_numpy()
    assert there.mean() == pytest.approx(0.5, abs=0.06)
    told = pd.DataFrame(codes[there]).assign(y=y[there]).groupby(list(range(modalities)))["y"].nunique()
    assert (told == 1).all()
    fewer = pd.DataFrame(codes[there, 1:]).assign(y=y[there]).groupby(list(range(modalities - 1)))["y"].nunique()
    assert fewer.max() == 3


def test_labels_of_groups_leak_through_rows_and_not_through_groups() -> None:
    made = Synthetic(rows=1200, width=32, groups=20, group_effect=3, purity=0.95, signal=0, sigma=0.2)
    frame, y = drawn(made)
    assert linear(frame, y, "a", learns=np.arange(made.rows) % 2 == 0, strength=1)[0] > 0.93
    group = pd.factorize(frame["group"])[0]
    apart = [linear(frame, y, "a", learns=(group + half) % 2 == 0, strength=1)[0] for half in (0, 1)]
    assert abs(np.mean(apart) - 1 / 3) < 0.2
    assert linear(frame, y, "b", learns=np.arange(made.rows) % 2 == 0, strength=1)[0] < 0.5


def test_the_same_seed_draws_the_same_table() -> None:
    one, same, other = (Synthetic(rows=30, pi=0.5, groups=5, seed=seed).table() for seed in (1, 1, 2))
    pd.testing.assert_frame_equal(one, same)
    assert not one.equals(other)
    assert list(one) == [*(f"a_{i}" for i in range(8)), *(f"b_{i}" for i in range(8)), "label", "group", "interactive"]
    assert Synthetic(weights=(0.5, 0.5, 0.5)).vectors == {"a": "a_*", "b": "b_*", "c": "c_*"}


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"pi": 1.2}, "pi is 1.2"), ({"weights": (0.5, -0.1)}, r"weights\[1\]"), ({"weights": (0.5,)}, "from 2 to 26"),
        ({"classes": 1}, "at least 2 classes"), ({"width": 3}, "at least 4"), ({"sigma": -1.0}, "not be negative"),
        ({"width": 4, "flags": True}, "at least 5"), ({"groups": 0}, "1 group"), ({"purity": 2.0}, "purity"),
    ],
)  # fmt: skip
def test_what_cannot_be_drawn_is_refused(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        Synthetic(**wrong)


def test_facts_of_too_many_combinations_are_refused() -> None:
    with pytest.raises(UserError, match="too many combinations"):
        Synthetic(classes=10, width=12, weights=[0.5] * 6).facts()
