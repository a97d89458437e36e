"""Every step of the path against scikit-learn solved to convergence, on a separable, a wide and an ordinary table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import torch
from scipy.special import log_softmax
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge

from fusetune.config import HeadConfig
from fusetune.errors import TableError
from fusetune.heads import design as design_module
from fusetune.heads import newton
from fusetune.heads import turned as turned_module
from fusetune.heads.base import HeadData, logits_of
from fusetune.heads.design import Design
from fusetune.heads.newton import Problems, minimise
from fusetune.heads.solver import fit_crossed, fit_logistic, fit_ridge
from fusetune.heads.turned import Turned, Whole
from fusetune.progress import Log

Matrix = npt.NDArray[np.float64]
PATH = tuple(10.0**-step for step in range(8))
FOLDS = 2


def rows(classes: int, each: int, width: int, apart: float, latent: int, seed: int) -> HeadData:
    """Return rows around one centre per class, in a few directions that all features share, with unequal weights."""
    generator = np.random.default_rng(seed)
    y = np.repeat(np.arange(classes), each)
    centres, mix = generator.normal(size=(classes, latent)), generator.normal(size=(latent, width))
    z = (apart * centres[y] + generator.normal(size=(len(y), latent))) @ mix
    z += 0.1 * generator.normal(size=z.shape)
    weights = generator.uniform(0.5, 2, len(y))
    return HeadData({"a": z[None].astype(np.float32)}, {"a": np.ones(len(y), bool)}, y, weights, np.arange(len(y)))


TABLES = {
    "many classes, few rows, separable": rows(30, 6, 9, 2.4, 9, 0),
    "correlated, fewer rows than features": rows(3, 20, 100, 0.5, 12, 1),
    "ordinary": rows(3, 100, 8, 0.7, 8, 2),
    "two classes": rows(2, 60, 30, 0.4, 10, 3),
}


def design(data: HeadData) -> Matrix:
    """Return the standardised features; the column that says what is absent is zero here and left out."""
    z = data.z["a"][0].astype(float)
    return np.asarray((z - z.mean(0)) / z.std(0) / z.shape[1] ** 0.5)


def reference(x: Matrix, y: npt.NDArray[np.int64], w: Matrix, penalty: float) -> tuple[Matrix, Matrix]:
    """Return scikit-learn's weights [classes, features] and biases, and make sure that they are the solution."""
    classes = int(y.max()) + 1
    strength = penalty / (2 if classes == 2 else 1)  # it penalises w_1 - w_0
    # It solves in the number of rows that the weights add up to; a mean keeps the gradient's tolerance what it says.
    model = LogisticRegression(C=1 / strength, solver="newton-cholesky", tol=1e-10, max_iter=100_000)
    model.fit(x, y, sample_weight=w / w.sum())
    coef, bias = np.asarray(model.coef_), np.asarray(model.intercept_)
    if classes == 2:
        coef, bias = np.outer([-0.5, 0.5], coef[0]), np.array([-0.5, 0.5]) * bias
    error = (np.exp(log_softmax(x @ coef.T + bias, axis=1)) - np.eye(classes)[y]) * (w / w.sum())[:, None]
    assert np.linalg.norm(error.T @ x + penalty * coef) < 1e-4 * penalty * np.linalg.norm(coef)
    return coef, bias


def cost(logits: Matrix, y: npt.NDArray[np.int64]) -> float:
    return float(-log_softmax(logits, axis=1)[np.arange(len(y)), y].mean())


def centred(logits: Matrix) -> Matrix:
    return np.asarray(logits - logits.mean(1, keepdims=True))


@pytest.fixture(params=["turned as a whole", "read in pieces"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether rows are few enough to be turned as a whole."""
    if request.param == "read in pieces":
        monkeypatch.setattr(turned_module, "_IN_MEMORY", 0)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("table", TABLES)
def test_every_step_of_the_path_is_the_solution(table: str) -> None:
    """Cross-validated: what each row is told, its NLL, and the penalty that is chosen."""
    data, folds = TABLES[table], np.arange(len(TABLES[table].labels)) % FOLDS
    x, y, w, classes = design(data), data.labels, data.weights, int(data.labels.max()) + 1
    fit = fit_crossed(data, data, folds, HeadConfig(penalties=PATH), classes, 0)
    assert [penalty for penalty, _ in fit.path[: len(PATH)]] == pytest.approx(PATH[: len(fit.path)])
    costs = {}
    for (penalty, nll), tried in zip(fit.path, fit.tried, strict=True):
        told = np.zeros((len(y), classes))
        for fold in range(FOLDS):
            some = folds != fold
            coef, bias = reference(x[some], y[some], w[some], penalty)
            told[~some] = x[~some] @ coef.T + bias
        costs[penalty] = cost(told, y)
        assert nll == pytest.approx(costs[penalty], abs=2e-3, rel=2e-3)
        assert np.linalg.norm(centred(tried) - centred(told)) < 0.02 * np.linalg.norm(centred(told))
    chosen = min(fit.path, key=lambda step: step[1])[0]
    assert costs[chosen] <= min(costs.values()) + 1e-3
    assert fit.choice.startswith(f"penalty {chosen:g}")
    assert fit.valid_nll == min(nll for _, nll in fit.path)
    # The head that is kept is solved finely, on all rows.
    coef, bias = reference(x, y, w, chosen)
    kept = fit_logistic(data, data, HeadConfig(penalties=(chosen,)), classes, 0)
    for head in (fit.head, kept.head):
        found = head.linear.weight.detach().double().numpy()[:, :-1]  # type: ignore[union-attr]
        assert np.linalg.norm(found - coef) < 1e-4 * np.linalg.norm(coef)


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("penalty", [1e2, 1e-2, 1e-5, 1e-8])
def test_weights_are_right_to_the_tolerance_whatever_the_penalty(table: str, penalty: float) -> None:
    data = TABLES[table]
    x, y, w = design(data), data.labels, data.weights
    turned, classes = Turned.of(torch.from_numpy(x), torch.from_numpy(w)), int(data.labels.max()) + 1
    coef, _ = reference(x, y, w, penalty)
    start = torch.zeros(len(turned.spread) + 1, 1, classes, dtype=torch.float64)
    known, weights = torch.ones(1, classes, dtype=torch.bool), torch.from_numpy(w / w.sum())[:, None]
    problems = Problems(torch.from_numpy(y), weights, known)
    for tolerance in (1e-2, 1e-3):
        found, reached = minimise(Whole(turned), problems, penalty, start, tolerance)
        assert reached.all()
        assert np.linalg.norm(turned.back(found)[0][0].numpy() - coef) < (tolerance + 1e-4) * np.linalg.norm(coef)


@pytest.mark.parametrize("shape", [(40, 7), (7, 40), (20, 20)])
def test_turned_features_are_the_same_features(shape: tuple[int, int]) -> None:
    """There and back, with the same logits, penalty and, along the axes, no covariance."""
    generator = np.random.default_rng(0)
    x, w = generator.normal(3, 2, shape), generator.uniform(0.5, 2, shape[0])
    x[:, 1] = x[:, 0]
    turned = Turned.of(torch.from_numpy(x), torch.from_numpy(w))
    assert turned.x.shape[1] <= min(shape) + 1
    coef = torch.from_numpy(generator.normal(size=(3, shape[0])) @ (x - turned.mean.numpy()))
    bias = torch.from_numpy(generator.normal(size=3))
    weights = turned.there(coef, bias)
    np.testing.assert_allclose(turned.x @ weights, x @ coef.numpy().T + bias.numpy(), atol=1e-9)
    assert weights[:-1].norm() == pytest.approx(float(coef.norm()))
    for back, given in zip(turned.back(weights), (coef, bias), strict=True):
        np.testing.assert_allclose(back, given, atol=1e-9)
    inner = turned.x[:, :-1].numpy()
    covariance = (inner.T * (w / w.sum())) @ inner
    np.testing.assert_allclose(covariance, np.diag(turned.spread), atol=1e-9)


@pytest.mark.parametrize("table", TABLES)
def test_ridge_is_the_ridge_of_scikit_learn(table: str) -> None:
    data = TABLES[table]
    x, w, onehot = design(data), data.weights, np.eye(int(data.labels.max()) + 1)[data.labels]
    fit = fit_ridge(data, data, HeadConfig(kind="ridge", penalties=(1.0, 1e-2, 1e-4)), onehot.shape[1], 0)
    assert len(fit.tried) == len(fit.path)
    for (penalty, _), tried in zip(fit.path, fit.tried, strict=True):
        model = Ridge(alpha=penalty * w.sum(), solver="svd").fit(x, onehot, sample_weight=w)
        scores = centred(model.predict(x))
        sharp = (scores * centred(tried)).sum() / (scores**2).sum()
        assert np.abs(sharp * scores - centred(tried)).max() < 1e-3 * np.abs(tried).max()


def test_a_solution_that_falls_short_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    data, log, records = TABLES["ordinary"], Log(quiet=True), []
    log.listeners.append(lambda event, facts: records.append((event, dict(facts))))
    fit_logistic(data, data, HeadConfig(penalties=(1e-3,)), 3, 0).tell(log, "head", "head on a", blocks=["a"])
    assert not log.warnings
    assert records[0][1].keys() >= {"blocks", "choice", "valid_nll", "path"}
    monkeypatch.setattr(newton, "_STEPS", 1)
    fit_logistic(data, data, HeadConfig(penalties=(1e-3,)), 3, 0).tell(log, "head", "head on a")
    assert log.warnings == [
        "head on a: 2 of 2 solutions of the linear classifier fell short of convergence, so that the choice of the "
        "penalty is less sure"
    ]


def test_features_that_tell_nothing_are_solved_at_once() -> None:
    data = TABLES["ordinary"]
    flat = HeadData({"a": np.zeros_like(data.z["a"])}, data.present, data.labels, data.weights, data.keys)
    fit = fit_logistic(flat, flat, HeadConfig(), 3, 0)
    share = np.bincount(data.labels, data.weights) / data.weights.sum()
    assert fit.valid_nll == pytest.approx(-np.log(share[data.labels]).mean())
    assert not fit.doubts


def _solved_without(data: HeadData, absent: int) -> Any:
    keep = data.labels != absent
    return fit_crossed(data, data, np.where(keep, np.arange(len(keep)) % 3, 0), HeadConfig(), 3, 0)


def test_a_class_that_a_fold_does_not_see_is_still_learnt_from_all_rows() -> None:
    data = TABLES["ordinary"]
    fit = _solved_without(data, 0)  # all rows of class 0 are held out in fold 0, whose solution comes first
    assert not fit.doubts
    whole = fit_logistic(data, data, HeadConfig(penalties=(min(fit.path, key=lambda step: step[1])[0],)), 3, 0)
    found, right = (one.head.linear.weight.detach().numpy() for one in (fit, whole))  # type: ignore[union-attr]
    np.testing.assert_allclose(found, right, atol=1e-3 * np.abs(right).max())


def test_pieces_of_a_file_and_a_sample_lead_to_the_solution(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In several views, with rows that lack an input, and inputs taken away at random: the same as on the whole."""
    generator = np.random.default_rng(4)
    y, present = generator.integers(0, 3, 1500), generator.uniform(size=1500) > 0.2
    z = {name: generator.normal(size=(2, 1500, 5)).astype(np.float32) + y[:, None] / 2 for name in "ab"}
    for name, block in z.items():
        np.save(tmp_path / f"{name}.npy", block.astype(np.float32))
    files: dict[str, Any] = {name: np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in z}
    has = {"a": np.ones(1500, bool), "b": present}
    data = HeadData(files, has, y, generator.uniform(0.5, 2, 1500), np.arange(1500))
    config, folds = HeadConfig(blockwise=True, penalties=(1e-1, 1e-2, 1e-3)), np.arange(1500) % 3
    whole = fit_crossed(data, data, folds, config, 3, 0)
    reads: list[int] = []
    read = Design._read
    monkeypatch.setattr(Design, "_read", lambda *given: reads.append(len(given[2])) or read(*given))
    for name, value in {"_IN_MEMORY": 0, "_PER_FEATURE": 10, "_LEAST": 100}.items():
        monkeypatch.setattr(turned_module, name, value)
    monkeypatch.setattr(design_module, "PIECE", 400)
    monkeypatch.setattr(design_module, "_KEPT", 0)
    pieces = fit_crossed(data, data, folds, config, 3, 0)
    assert max(reads) == 400  # never more at a time, the sample included
    assert pieces.choice == whole.choice
    assert pieces.valid_nll == pytest.approx(whole.valid_nll, abs=1e-4)
    found, right = (one.head.linear.weight.detach() for one in (pieces, whole))  # type: ignore[union-attr]
    assert (found - right).norm() < 1e-5 * right.norm()
    with pytest.raises(TableError, match="the input 'b' are not finite"):
        fit_crossed(
            replace(data, z={"a": files["a"], "b": np.full_like(files["b"], np.inf)}), data, folds, config, 3, 0
        )


def _rosmap(folder: Path) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
    frame = pd.read_csv(folder / "manifest.csv")
    x = frame[[name for name in frame if name.startswith(("mrna__", "meth__", "mirna__"))]]
    return x.to_numpy(np.float32), frame["label"].astype("category").cat.codes.to_numpy(np.int64)


def _words(folder: Path, file: str, text: str, label: str, rows: int) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
    frame = pd.read_csv(folder / file).head(rows)
    x = TfidfVectorizer(max_features=250).fit_transform(frame[text]).toarray()
    return x.astype(np.float32), frame[label].astype("category").cat.codes.to_numpy(np.int64)


REAL = {
    "rosmap": _rosmap,
    "flipkart_1050": lambda folder: _words(folder, "manifest.csv", "text", "label", 1050),
    "upmc_food101_text": lambda folder: _words(folder, "manifest.csv.gz", "text", "label", 3000),
}


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("name", REAL)
def test_real_tables_are_solved_as_scikit_learn_does(name: str, shared_data: Callable[[str], Path]) -> None:
    """To 1e-5 in every logit, 1e-6 in NLL: what both are said to have in common is the objective, solved to the end."""
    z, y = REAL[name](shared_data(name))
    data = HeadData({"a": z[None]}, {"a": np.ones(len(y), bool)}, y, np.ones(len(y)), np.arange(len(y)))
    head = fit_logistic(data, data, HeadConfig(penalties=(1e-2,)), int(y.max()) + 1, 0).head
    told = logits_of(head.double(), replace(data, z={"a": data.z["a"].astype(np.float64)})).double().numpy()
    spread = z.std(0, dtype=np.float64)
    x = (z.astype(np.float64) - z.mean(0, dtype=np.float64)) / spread / z.shape[1] ** 0.5
    strength = 1e-2 / (2 if y.max() == 1 else 1) * len(y)
    model = LogisticRegression(C=1 / strength, tol=1e-9, max_iter=10_000).fit(x, y)
    right = model.decision_function(x)
    right = np.stack([-right / 2, right / 2], 1) if y.max() == 1 else right
    assert np.abs(centred(told) - centred(right)).max() < 1e-5
    assert cost(told, y) == pytest.approx(cost(right, y), abs=1e-6)
