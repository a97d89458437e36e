"""Linear heads solved to convergence: multinomial logistic regression along a penalty path, ridge, temperature."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import minimize_scalar
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge
from torch.nn import functional as F

from fusetune.augment.random import Moment
from fusetune.config import HeadConfig
from fusetune.strategies.heads import Head, HeadData, HeadFit, LinearHead, drop_modalities, owner


def fit_logistic(data: HeadData, valid: HeadData, config: HeadConfig, classes: int, seed: int) -> HeadFit:
    """Solve multinomial logistic regression to convergence along an L2 path; the best validation NLL wins.

    The objective is the weighted mean NLL + penalty / 2 * |W|^2 on standardised blocks; biases are not penalised.
    With `blockwise`, each block's own penalty is then doubled, halved, ... as long as validation NLL falls.
    """
    problem = _Problem(data, valid, config, classes, seed)
    path: list[tuple[float, float]] = []
    best, worse = (np.inf, 0.0, problem.zero()), 0
    solution = problem.zero()
    for penalty in sorted(config.penalties, reverse=True):
        solution = problem.solve(penalty, problem.ones(), solution)
        nll = problem.valid_nll(solution)
        path.append((penalty, nll))
        worse = 0 if nll < best[0] else worse + 1
        if nll < best[0]:
            best = (nll, penalty, solution)
        if worse == 2:  # the path has a single minimum in practice; two steps past it are enough to know
            break
    nll, penalty, solution = best
    factors, choice = problem.ones(), f"penalty {penalty:g}"
    if config.blockwise and len(data.z) > 1:
        nll, solution, factors = _blockwise(problem, penalty, nll, solution)
        choice += ", per block " + ", ".join(f"{n} x{f:g}" for n, f in zip(data.z, factors, strict=True))
    # The path is walked roughly; what is kept is solved to convergence.
    solution = problem.solve(penalty, factors, solution, fine=True)
    return HeadFit(problem.head(solution), problem.valid_nll(solution), choice, path)


def fit_ridge(data: HeadData, valid: HeadData, config: HeadConfig, classes: int, seed: int) -> HeadFit:
    """Ridge regression on one-hot labels with a temperature: closed form, a preview within a second."""
    problem = _Problem(data, valid, config, classes, seed)
    onehot = np.eye(classes)[problem.y]
    best: HeadFit | None = None
    for penalty in config.penalties:
        model = Ridge(alpha=penalty * problem.w.sum()).fit(problem.x, onehot, sample_weight=problem.w)
        coef, bias = np.asarray(model.coef_).reshape(classes, -1), np.asarray(model.intercept_).reshape(-1)
        sharp = fit_temperature(problem.valid_logits((coef, bias)), problem.valid_y)
        solution = (coef / sharp, bias / sharp)
        nll = problem.valid_nll(solution)
        if best is None or nll < best.valid_nll:
            best = HeadFit(problem.head(solution), nll, f"penalty {penalty:g}, temperature {sharp:.2g}")
    assert best is not None
    return best


def fit_temperature(logits: npt.NDArray[Any], labels: npt.NDArray[np.int64]) -> float:
    """Return T > 0 that minimises the NLL of softmax(logits / T) (arXiv 1706.04599)."""
    values, target = torch.as_tensor(np.asarray(logits, dtype=np.float64)), torch.as_tensor(labels)
    found = minimize_scalar(
        lambda log_t: float(F.cross_entropy(values / np.exp(log_t), target)), bounds=(-6, 6), method="bounded"
    )
    return float(np.exp(found.x))


Solution = tuple[npt.NDArray[Any], npt.NDArray[Any]]


class _Problem:
    """The design matrix of a linear head, with one masked copy per row for modality dropout."""

    def __init__(self, data: HeadData, valid: HeadData, config: HeadConfig, classes: int, seed: int) -> None:
        self.names, self.classes = list(data.z), classes
        self.layout = LinearHead({name: z.shape[-1] for name, z in data.z.items()}, classes)
        self.layout.fit_scale(data)
        views, dropped = (
            next(iter(data.z.values())).shape[0],
            config.modality_dropout if len(set(map(owner, data.z))) > 1 else 0.0,
        )
        parts = [_design(self.layout, data, view, data.present) for view in range(views)]
        weights = [data.weights * (1 - dropped) / views] * views
        if dropped:
            kept = drop_modalities(data.present, torch.from_numpy(data.keys), Moment(seed), 1.0)
            parts.append(_design(self.layout, data, 0, kept))
            weights.append(data.weights * dropped)
        self.x, self.w = np.concatenate(parts), np.concatenate(weights)
        self.y = np.tile(data.labels, len(parts))
        self.valid_x, self.valid_y = _design(self.layout, valid, 0, valid.present), valid.labels
        self.rough = self.x.astype(np.float32)

    def zero(self) -> Solution:
        return np.zeros((self.classes, self.x.shape[1])), np.zeros(self.classes)

    def ones(self) -> npt.NDArray[Any]:
        return np.ones(len(self.names))

    def solve(self, penalty: float, factors: npt.NDArray[Any], start: Solution, fine: bool = False) -> Solution:
        """Minimise mean NLL + penalty / 2 * sum_block factor_block |W_block|^2, starting from a near solution."""
        # A penalty of its own per block is the same as one penalty after scaling the block's columns.
        widths = [*self.layout.dims.values(), len(self.names)]
        scale = np.repeat([*(1 / np.sqrt(factors)), 1.0], widths)
        present = np.unique(self.y)
        # For two classes scikit-learn penalises w = w_1 - w_0, and |w|^2 is twice |w_0|^2 + |w_1|^2.
        strength = penalty / (2 if len(present) == 2 else 1)
        x, tolerance = (self.x * scale, 1e-6) if fine else (self.rough * scale.astype(np.float32), 1e-4)
        model = LogisticRegression(
            C=1 / (strength * self.w.sum()), solver="lbfgs", max_iter=2000, tol=tolerance, warm_start=True
        )
        if len(present) > 2:
            model.classes_, model.coef_, model.intercept_ = present, start[0][present] / scale, start[1][present]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(x, self.y, sample_weight=self.w)
        coef, bias = np.zeros((self.classes, self.x.shape[1])), np.full(self.classes, -30.0)
        if len(present) == 2:  # scikit-learn keeps one row for two classes: f_1 - f_0
            coef[present], bias[present] = (
                np.outer([-0.5, 0.5], model.coef_[0]),
                np.array([-0.5, 0.5]) * model.intercept_,
            )
        else:
            coef[present], bias[present] = model.coef_, model.intercept_
        return coef * scale, bias

    def valid_logits(self, solution: Solution) -> npt.NDArray[Any]:
        return np.asarray(self.valid_x @ solution[0].T + solution[1])

    def valid_nll(self, solution: Solution) -> float:
        return float(F.cross_entropy(torch.from_numpy(self.valid_logits(solution)), torch.from_numpy(self.valid_y)))

    def head(self, solution: Solution) -> LinearHead:
        self.layout.linear.weight.data.copy_(torch.from_numpy(solution[0]))
        self.layout.linear.bias.data.copy_(torch.from_numpy(solution[1]))
        return self.layout


def _design(head: Head, data: HeadData, view: int, present: dict[str, npt.NDArray[np.bool_]]) -> npt.NDArray[Any]:
    z = {name: torch.from_numpy(np.array(block[view])) for name, block in data.z.items()}
    has = {name: torch.from_numpy(bits) for name, bits in present.items()}
    return torch.cat([*head.blocks(z, has), head.absent(has)], 1).double().numpy()


def _blockwise(problem: _Problem, penalty: float, nll: float, solution: Solution) -> tuple[float, Solution, Any]:
    factors = problem.ones()
    for block in range(len(factors)):
        for step in (4.0, 0.25):
            while 1e-3 < factors[block] < 1e3:
                trial = factors.copy()
                trial[block] *= step
                candidate = problem.solve(penalty, trial, solution)
                found = problem.valid_nll(candidate)
                if found >= nll - 1e-4:
                    break
                nll, solution, factors = found, candidate, trial
    return nll, solution, factors
