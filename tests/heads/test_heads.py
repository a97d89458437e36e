from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import log_softmax
from torch.nn import functional as F

from fusetune.augment.mix import Mixing
from fusetune.augment.random import Moment
from fusetune.config import Config, HeadConfig
from fusetune.heads import HEADS, build_head
from fusetune.heads.base import PRETRAINED, HeadData, HeadFit, drop_modalities
from fusetune.heads.linear import LinearHead
from fusetune.heads.solver import fit_crossed, fit_logistic, fit_temperature
from fusetune.heads.trained import fit_head, with_augmented
from fusetune.progress import Log
from fusetune.runtime import Runtime, start_runtime

Matrix = npt.NDArray[np.float64]
KINDS = ["logistic", "ridge", "mlp", "gated", "bilinear", "transformer"]


@pytest.fixture(scope="module")
def runtime() -> Iterator[Runtime]:
    yield start_runtime(Config(device="cpu", threads=1))


def make_data(
    z: Mapping[str, Matrix], y: npt.NDArray[np.int64], present: Mapping[str, Any] | None = None, start: int = 0
) -> HeadData:
    has = {name: np.ones(len(y), bool) for name in z} | dict(present or {})
    views = {name: np.asarray(block, np.float32)[None] if block.ndim == 2 else block for name, block in z.items()}
    return HeadData(views, has, y, np.ones(len(y)), np.arange(start, start + len(y)))


def codes_to_vectors(code: npt.NDArray[np.int64], classes: int, seed: int, noise: float = 0.05) -> Matrix:
    """Return x = E[code] + u + noise with orthonormal rows of E and a common shift u, 8 dimensions."""
    basis = np.linalg.qr(np.random.default_rng(seed).normal(size=(8, 8)))[0]
    generator = np.random.default_rng([seed, len(code)])
    return basis[code] + basis[classes] + noise * generator.normal(size=(len(code), 8))


def interactive(rows: int, classes: int = 3, seed: int = 0) -> HeadData:
    """Return rows whose class is (code_1 + code_2) mod C: no modality and no sum of them tells anything."""
    one, two = np.random.default_rng([seed, rows]).integers(0, classes, (2, rows))
    blocks = {"a": codes_to_vectors(one, classes, 1), "b": codes_to_vectors(two, classes, 2)}
    return make_data(blocks, (one + two) % classes)


def redundant(rows: int, classes: int = 3, seed: int = 0, noise: float = 0.3) -> HeadData:
    """Return rows whose class both modalities tell, each with its own noise."""
    y = np.random.default_rng([seed, rows, 5]).integers(0, classes, rows)
    blocks = {"a": codes_to_vectors(y, classes, 1, 1.2 * noise), "b": codes_to_vectors(y, classes, 2, noise)}
    return make_data(blocks, y)


def fit(kind: str, data: HeadData, valid: HeadData, runtime: Runtime, classes: int = 3, **more: Any) -> HeadFit:
    torch.manual_seed(0)
    config = HeadConfig(kind=kind, **more)
    return fit_head(data, valid, config, classes=classes, runtime=runtime, seed=0, log=Log(quiet=True))


def logits(head: Any, data: HeadData, present: Mapping[str, Any] | None = None, view: int = 0) -> torch.Tensor:
    z = {name: torch.from_numpy(np.array(block[view])) for name, block in data.z.items()}
    has = {name: torch.from_numpy(bits) for name, bits in (data.present | dict(present or {})).items()}
    with torch.inference_mode():
        told: torch.Tensor = head.eval()(z, has)
    return told


def accuracy(told: torch.Tensor, data: HeadData) -> float:
    return float((told.argmax(1).numpy() == data.labels).mean())


def nll(told: torch.Tensor, data: HeadData) -> float:
    return float(F.cross_entropy(told, torch.from_numpy(data.labels)))


def rest(data: HeadData) -> tuple[Any, Any, Any]:
    return data.labels, data.weights, data.keys


def standardised(data: HeadData, of: HeadData) -> Matrix:
    """Return [blocks standardised with the rows of `data` that have them / sqrt(width), absence bits]."""
    parts = []
    for name, block in of.z.items():
        known = data.z[name][:, data.present[name]].reshape(-1, block.shape[-1]).astype(float)
        part = (block[0].astype(float) - known.mean(0)) / known.std(0) / math.sqrt(block.shape[-1])
        parts.append(np.where(of.present[name][:, None], part, 0.0))
    absent = np.stack([~of.present[name] for name in of.z], 1).astype(float)
    return np.concatenate([*parts, absent], 1)


def solve(x: Matrix, y: npt.NDArray[np.int64], w: Matrix, penalty: float, classes: int) -> tuple[Matrix, Matrix]:
    """Minimise weighted mean NLL + penalty / 2 |W|^2 in float64, written down without any library of models."""
    onehot, share = np.eye(classes)[y], w / w.sum()

    def objective(flat: Matrix) -> tuple[float, Matrix]:
        weight, bias = flat[:-classes].reshape(classes, -1), flat[-classes:]
        logp = log_softmax(x @ weight.T + bias, axis=1)
        error = (np.exp(logp) - onehot) * share[:, None]
        gradient = np.concatenate([(error.T @ x + penalty * weight).ravel(), error.sum(0)])
        return float(-(share * logp[np.arange(len(y)), y]).sum() + penalty / 2 * (weight**2).sum()), gradient

    start = np.zeros(classes * (x.shape[1] + 1))
    options = {"maxiter": 20000, "maxfun": 40000, "ftol": 1e-16, "gtol": 1e-10}
    found = minimize(objective, start, jac=True, method="L-BFGS-B", options=options).x
    return found[:-classes].reshape(classes, -1), found[-classes:]


@pytest.mark.parametrize("penalty", [0.3, 0.01, 1e-3])
@pytest.mark.parametrize("classes", [2, 3])
def test_logistic_is_the_minimum_of_the_objective(penalty: float, classes: int) -> None:
    data, valid = redundant(120, classes), redundant(90, classes, seed=1)
    generator = np.random.default_rng(0)
    data.weights[:] = generator.uniform(0.3, 2, len(data.labels))
    data.present["a"][generator.random(len(data.labels)) < 0.3] = False
    found = fit_logistic(data, valid, HeadConfig(penalties=(penalty,), modality_dropout=0), classes, seed=0)
    weight, bias = solve(standardised(data, data), data.labels, data.weights, penalty, classes)
    expected = standardised(data, valid) @ weight.T + bias
    told = logits(found.head, valid).numpy()
    gap = (told - told.mean(1, keepdims=True)) - (expected - expected.mean(1, keepdims=True))
    assert np.abs(gap).max() < 1e-4 * max(1.0, np.abs(expected).max())
    assert found.valid_nll == pytest.approx(nll(torch.from_numpy(expected), valid), abs=1e-4)


def test_the_penalty_of_lowest_validation_nll_is_taken() -> None:
    data, valid = redundant(40, noise=0.7), redundant(300, seed=1, noise=0.7)
    penalties = (1.0, 0.3, 0.1, 0.03, 0.01, 3e-3, 1e-3, 1e-5)
    told = []
    for penalty in penalties:
        single = fit_logistic(data, valid, HeadConfig(penalties=(penalty,), modality_dropout=0), 3, seed=0)
        told.append(nll(logits(single.head, valid), valid))
    whole = fit_logistic(data, valid, HeadConfig(penalties=penalties, modality_dropout=0), 3, seed=0)
    assert whole.valid_nll == pytest.approx(min(told), abs=1e-4)
    assert whole.choice == f"penalty {penalties[int(np.argmin(told))]:g}"
    assert nll(logits(whole.head, valid), valid) == pytest.approx(whole.valid_nll, abs=1e-5)
    assert 0 < int(np.argmin(told)) < len(penalties) - 1


def test_a_penalty_per_block_helps_where_one_block_is_noise() -> None:
    generator = np.random.default_rng(0)

    def with_noise(data: HeadData) -> HeadData:
        noise = generator.normal(size=(1, len(data.labels), 60)).astype(np.float32)
        return HeadData(data.z | {"b": noise}, data.present, data.labels, data.weights, data.keys)

    data, valid = with_noise(redundant(80, noise=0.7)), with_noise(redundant(300, seed=1, noise=0.7))
    plain = fit_logistic(data, valid, HeadConfig(modality_dropout=0), 3, seed=0)
    blocks = fit_logistic(data, valid, HeadConfig(modality_dropout=0, blockwise=True), 3, seed=0)
    assert blocks.valid_nll < plain.valid_nll - 0.02
    assert nll(logits(blocks.head, valid), valid) == pytest.approx(blocks.valid_nll, abs=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_every_head_learns(runtime: Runtime, kind: str) -> None:
    data, valid = redundant(300), redundant(200, seed=1)
    found = fit(kind, data, valid, runtime)
    told = logits(found.head, valid)
    assert accuracy(told, valid) > 0.9
    assert nll(told, valid) == pytest.approx(found.valid_nll, abs=1e-5)
    assert not found.head.training


@pytest.mark.parametrize("kind", ["mlp", "bilinear"])
def test_heads_with_products_solve_an_interaction(runtime: Runtime, kind: str) -> None:
    data, valid, test = interactive(900), interactive(300, seed=1), interactive(400, seed=2)
    told = logits(fit(kind, data, valid, runtime, modality_dropout=0).head, test)
    assert nll(told, test) < 0.1
    assert accuracy(told, test) > 0.98


def test_no_additive_head_can_solve_an_interaction(runtime: Runtime) -> None:
    data, valid, test = interactive(900), interactive(300, seed=1), interactive(400, seed=2)
    for kind in ("logistic", "ridge"):
        told = logits(fit(kind, data, valid, runtime).head, test)
        assert abs(nll(told, test) - math.log(3)) < 0.03


@pytest.mark.parametrize("kind", KINDS)
def test_any_subset_of_modalities_predicts(runtime: Runtime, kind: str) -> None:
    data, valid, test = redundant(1000), redundant(200, seed=1), redundant(600, seed=2)
    head = fit(kind, data, valid, runtime, modality_dropout=0.5).head
    absent = np.zeros(len(test.labels), bool)
    for gone, left in (("a", "b"), ("b", "a")):
        alone = fit("logistic", data.only(left), valid.only(left), runtime).head
        reference = accuracy(logits(alone, test.only(left)), test.only(left))
        assert accuracy(logits(head, test, {gone: absent}), test) >= 0.95 * reference > 0.6
    nothing = logits(head, test, {"a": absent, "b": absent})
    assert torch.isfinite(nothing).all()
    assert (nothing == nothing[:1]).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rubbish", [1e6, -3.0, math.nan])
def test_what_is_stored_for_an_absent_modality_does_not_matter(runtime: Runtime, kind: str, rubbish: float) -> None:
    data, valid = redundant(100), redundant(60, seed=1)
    gone = np.arange(60) % 2 == 0
    valid.present["a"][gone] = False
    head = fit(kind, data, valid, runtime, epochs=2).head
    before = logits(head, valid)
    valid.z["a"][:, gone] = rubbish
    assert torch.equal(logits(head, valid), before)


@pytest.mark.parametrize("kind", KINDS)
def test_a_class_that_no_training_row_has(runtime: Runtime, kind: str) -> None:
    data, valid = redundant(200, classes=4), redundant(100, classes=4, seed=1)
    keep = data.labels != 2
    part = HeadData({n: z[:, keep] for n, z in data.z.items()}, {n: p[keep] for n, p in data.present.items()},
                    data.labels[keep], data.weights[keep], data.keys[keep])  # fmt: skip
    told = logits(fit(kind, part, valid, runtime, classes=4).head, valid)
    assert told.shape == (100, 4)
    assert torch.isfinite(told).all()
    seen = valid.labels != 2
    assert (told.argmax(1).numpy() == valid.labels)[seen].mean() > 0.85


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("classes", [2, 5])
def test_a_rebuilt_head_is_the_same_function(runtime: Runtime, kind: str, classes: int) -> None:
    data, valid = redundant(80, classes), redundant(50, classes, seed=1)
    head = fit(kind, data, valid, runtime, classes=classes, epochs=2).head
    again = build_head(head.describe())
    again.load_state_dict(head.state_dict())
    assert torch.equal(logits(again, valid), logits(head, valid))
    assert type(head) in HEADS.values()


def test_one_modality_as_a_plain_linear_layer() -> None:
    data, valid = redundant(100).only("a"), redundant(50, seed=1).only("a")
    head = fit_logistic(data, valid, HeadConfig(), 3, seed=0).head
    assert isinstance(head, LinearHead)
    with torch.inference_mode():
        plain = head.as_linear()(torch.from_numpy(valid.z["a"][0]))
    torch.testing.assert_close(plain, logits(head, valid), rtol=1e-4, atol=1e-4)


def test_all_views_count_alike() -> None:
    """Three equal views are one view."""
    data, valid = redundant(80), redundant(50, seed=1)
    thrice = HeadData({n: np.repeat(z, 3, 0) for n, z in data.z.items()}, data.present, data.labels, data.weights,
                      data.keys)  # fmt: skip
    config = HeadConfig(penalties=(0.01,))
    one, three = (logits(fit_logistic(d, valid, config, 3, seed=0).head, valid) for d in (data, thrice))
    torch.testing.assert_close(one, three, rtol=1e-3, atol=1e-3)


def test_features_that_do_not_vary_are_harmless(runtime: Runtime) -> None:
    data, valid = redundant(80), redundant(50, seed=1)
    data.z["a"][:, :, 0] = 7.0
    valid.z["a"][:, :, 0] = 8.0
    told = logits(fit("logistic", data, valid, runtime).head, valid)
    assert torch.isfinite(told).all()
    assert accuracy(told, valid) > 0.8


def test_dropped_modalities_leave_one() -> None:
    generator = np.random.default_rng(0)
    present = {name: generator.random(4000) < 0.7 for name in "abc"}
    present["a"][~(present["a"] | present["b"] | present["c"])] = True
    keys = torch.arange(4000) * 7919
    kept = drop_modalities(present, keys, Moment(0), 0.4)
    before, after = (np.stack(list(bits.values()), 1) for bits in (present, kept))
    assert not (after & ~before).any()
    assert after.any(1).all()
    changed = (before != after).any(1)
    several = before.sum(1) > 1
    assert not changed[~several].any()
    assert 0.2 < changed[several].mean() < 0.4
    again = drop_modalities({n: p[::-1] for n, p in present.items()}, keys.flip(0), Moment(0), 0.4)
    assert all(np.array_equal(again[name][::-1], kept[name]) for name in present)
    same = drop_modalities(present, keys, Moment(0), 0.0)
    assert all(np.array_equal(same[name], present[name]) for name in present)


@pytest.mark.parametrize("dropout", [0.15, 0.6])
def test_rows_with_a_modality_taken_away_weigh_what_they_should(dropout: float) -> None:
    """The objective, with a masked copy of every row, written down: all views together weigh the rest."""
    views = [redundant(60, noise=1.0, seed=seed) for seed in (0, 1)]
    both = {name: np.concatenate([one.z[name] for one in views]) for name in "ab"}
    data, valid = make_data(both, views[0].labels), redundant(50, seed=3)
    data.weights[:] = np.random.default_rng(0).uniform(0.3, 2, 60)
    fit = fit_logistic(data, valid, HeadConfig(penalties=(0.01,), modality_dropout=dropout), 3, seed=5)
    kept = drop_modalities(data.present, torch.from_numpy(data.keys), Moment(5), 1.0)
    one, other = (HeadData({n: z[[at]] for n, z in data.z.items()}, data.present, *rest(data)) for at in (0, 1))
    parts = [standardised(data, one), standardised(data, other), standardised(data, replace(one, present=kept))]
    shares = [(1 - dropout) / 2, (1 - dropout) / 2, dropout]
    w = np.concatenate([share * data.weights for share in shares])
    weight, bias = solve(np.concatenate(parts), np.tile(data.labels, 3), w, 0.01, 3)
    expected = standardised(data, valid) @ weight.T + bias
    said = logits(fit.head, valid).numpy()
    gap = (said - said.mean(1, keepdims=True)) - (expected - expected.mean(1, keepdims=True))
    assert np.abs(gap).max() < 1e-3


def test_temperature_finds_the_factor_that_was_applied() -> None:
    generator = np.random.default_rng(0)
    sharp = generator.normal(size=(20000, 4))
    share = np.exp(log_softmax(sharp, axis=1)).cumsum(1)
    y = (generator.random((20000, 1)) > share).sum(1).clip(max=3)
    assert fit_temperature(sharp * 5, y) == pytest.approx(5, rel=0.05)


@pytest.mark.parametrize("classes", [2, 3])
def test_the_crossed_fit_equals_one_solution_per_fold_written_down(classes: int) -> None:
    data = redundant(90, classes, noise=1.0)
    folds = np.arange(90) % 3
    config = HeadConfig(penalties=(0.3, 0.03, 0.003), modality_dropout=0)
    fit = fit_crossed(data, data, folds, config, classes, seed=0)
    x = standardised(data, data)
    said = {penalty: np.zeros((90, classes)) for penalty in config.penalties}
    for penalty, out in said.items():
        for fold in range(3):
            some, held = folds != fold, folds == fold
            weight, bias = solve(x[some], data.labels[some], data.weights[some], penalty, classes)
            out[held] = x[held] @ weight.T + bias
    scores = {penalty: nll(torch.from_numpy(out), data) for penalty, out in said.items()}
    best = min(scores, key=lambda penalty: scores[penalty])
    assert dict(fit.path) == pytest.approx(scores, abs=2e-3)
    assert fit.choice == f"penalty {best:g}"
    assert fit.held is not None
    centre = lambda z: z - z.mean(1, keepdims=True)  # noqa: E731
    np.testing.assert_allclose(centre(fit.held), centre(said[best]), atol=0.05)
    weight, bias = solve(x, data.labels, data.weights, best, classes)
    all_rows = centre(x @ weight.T + bias)
    np.testing.assert_allclose(centre(logits(fit.head, data).double().numpy()), all_rows, atol=2e-3)


def test_the_crossed_fit_finds_nothing_where_there_is_nothing() -> None:
    generator = np.random.default_rng(0)
    noise = {"a": generator.normal(size=(300, 60)), "b": generator.normal(size=(300, 60))}
    data = make_data(noise, generator.integers(0, 3, 300))
    fit = fit_crossed(data, data, np.arange(300) % 5, HeadConfig(), 3, seed=0)
    assert fit.held is not None
    assert abs((fit.held.argmax(1) == data.labels).mean() - 1 / 3) < 0.09
    assert fit.valid_nll > math.log(3) - 0.02


def test_a_crossed_fit_calls_its_nll_what_rows_that_were_held_out_cost() -> None:
    """With features that tell rows apart and nothing else, remembering is not mistaken for knowing."""
    generator = np.random.default_rng(1)
    data = make_data({"a": generator.normal(size=(90, 60))}, generator.integers(0, 3, 90))
    fit = fit_crossed(data, data, np.arange(90) % 3, HeadConfig(penalties=(1e-4,)), 3, seed=0)
    assert nll(logits(fit.head, data), data) < 0.2
    assert fit.held is not None
    assert fit.valid_nll > 2
    assert fit.valid_nll == pytest.approx(nll(torch.from_numpy(fit.held), data))


def test_candidates_are_left_behind_only_where_nothing_else_was_chosen_on_these_rows() -> None:
    data, valid = redundant(60, noise=1.0), redundant(50, seed=1, noise=1.0)
    config = HeadConfig(penalties=(0.1, 0.01, 1e-3), modality_dropout=0)
    fit = fit_logistic(data, valid, config, 3, seed=0)
    assert len(fit.tried) == len(fit.path)
    for (_, tried_nll), tried in zip(fit.path, fit.tried, strict=True):
        assert nll(torch.from_numpy(tried), valid) == pytest.approx(tried_nll)
    assert fit_logistic(data, valid, config.model_copy(update={"blockwise": True}), 3, seed=0).tried == []


def test_augmented_views_are_learnt_from_and_plain_rows_are_judged() -> None:
    """Views that tell nothing spoil what is said of rows; plain rows that tell nothing are no help either."""
    good, bad = (
        redundant(120, noise=0.2),
        make_data(
            {name: np.random.default_rng(7).normal(size=(120, 8)) for name in "ab"}, redundant(120, noise=0.2).labels
        ),
    )
    folds, config = np.arange(120) % 4, HeadConfig(modality_dropout=0)
    assert fit_crossed(good, good, folds, config, 3, 0).valid_nll < 0.2
    assert fit_crossed(bad, good, folds, config, 3, 0).valid_nll > 0.9
    assert fit_crossed(good, bad, folds, config, 3, 0).valid_nll > 0.9


@pytest.mark.parametrize("kind", ["mlp", "gated"])
def test_trained_heads_learn_from_augmented_and_mixed_features(runtime: Runtime, kind: str) -> None:
    data, valid = redundant(300), redundant(200, seed=1)
    plain = fit(kind, data, valid, runtime, epochs=12)
    told = {"augment": {"noise": 0.3, "scale": 0.2}}, {"mix": {"kind": "mixup", "alpha": 1.0}}
    for more in told:
        found = fit(kind, data, valid, runtime, epochs=12, **more)
        assert accuracy(logits(found.head, valid), valid) > 0.9
        assert found.valid_nll != plain.valid_nll
        assert fit(kind, data, valid, runtime, epochs=12, **more).valid_nll == found.valid_nll


def test_features_and_labels_are_mixed_by_one_partner_within_one_pattern(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the head is shown is, in every block, the mean that the label says."""
    rows = 40
    code = np.arange(rows, dtype=np.float64)
    blocks = {name: np.tile(code[:, None], (1, 3)) for name in ("a", "b", "a" + PRETRAINED)}
    lacks = np.arange(rows) % 4 == 0
    data = make_data(blocks, np.arange(rows) % 2, {"b": ~lacks})
    shown: list[dict[str, torch.Tensor]] = []
    used: list[Mixing] = []
    forward, loss = HEADS["mlp"].forward, Mixing.loss

    def watched_forward(self: Any, z: Any, present: Any) -> torch.Tensor:
        shown.append({name: block.detach().clone() for name, block in z.items()} | {"has b": present["b"]})
        return forward(self, z, present)

    def watched_loss(self: Mixing, *given: Any, **more: Any) -> torch.Tensor:
        used.append(self)
        shown[-1]["rows"] = torch.arange(0)  # marks a training step
        return loss(self, *given, **more)

    monkeypatch.setattr(HEADS["mlp"], "forward", watched_forward)
    monkeypatch.setattr(Mixing, "loss", watched_loss)
    fit("mlp", data, data, runtime, classes=2, epochs=2, mix={"kind": "mixup", "alpha": 1.0})
    steps = [step for step in shown if "rows" in step]
    assert len(steps) == len(used) == 2
    for step, mixing in zip(steps, used, strict=True):
        assert torch.equal(step["has b"], step["has b"][mixing.partner])
        assert torch.equal(step["a"], step["a" + PRETRAINED])
        torch.testing.assert_close(step["b"], step["a"])
        assert int((step["a"][:, 0] != step["a"][:, 0].round()).sum()) > rows / 2


def test_a_solved_head_sees_an_augmented_copy_of_every_view() -> None:
    data = make_data({"a": np.random.default_rng(0).normal(size=(2, 500, 4))}, np.zeros(500, np.int64))
    found = with_augmented(data, HeadConfig(augment={"noise": 0.5}), 2, 0)
    assert found.z["a"].shape == (4, 500, 4)
    assert np.array_equal(found.z["a"][:2], data.z["a"])
    noise = (found.z["a"][2:] - data.z["a"]).std((0, 1)) / data.z["a"].std((0, 1))
    np.testing.assert_allclose(noise, 0.5, rtol=0.1)
    assert with_augmented(data, HeadConfig(), 2, 0) is data


def test_statistics_of_a_block_are_those_of_its_training_rows() -> None:
    z = np.random.default_rng(0).normal(3, [1.0, 2.0, 5.0], (400, 3))
    head = LinearHead({"b": 2, "a": 3}, 2)
    head.fit_scale(make_data({"b": z[:, :2], "a": z}, np.zeros(400, np.int64)))
    mean, std = head.statistics("a")
    np.testing.assert_allclose(mean, z.mean(0), rtol=1e-5)
    np.testing.assert_allclose(std, z.std(0), rtol=1e-4)
