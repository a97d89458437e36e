"""Linear heads solved to convergence: multinomial logistic regression along a penalty path, and ridge."""

from __future__ import annotations

from dataclasses import replace
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
from fusetune.heads.base import Head, HeadData, HeadFit, drop_modalities
from fusetune.heads.linear import LinearHead
from fusetune.process import without_warnings


def fit_logistic(data: HeadData, valid: HeadData, config: HeadConfig, classes: int, seed: int) -> HeadFit:
    """Solve multinomial logistic regression to convergence along an L2 path; the best validation NLL wins.

    The objective is the weighted mean NLL + penalty / 2 * |W|^2 on standardised blocks; biases are not penalised.
    With `blockwise`, each block's own penalty is then doubled, halved, ... as long as validation NLL falls.
    """
    return _walk(_SetAside(_Problem(data, valid, config, classes, seed)), config, list(data.z))


def fit_crossed(
    data: HeadData,
    plain: HeadData,
    folds: npt.NDArray[np.int64],
    config: HeadConfig,
    classes: int,
    seed: int,
    each: bool = True,
) -> HeadFit:
    """Like `fit_logistic`, with the penalty chosen by cross-validation; the head is then solved on all rows.

    No row has to be set aside for the choice. The features of every row must come from encoders that did not learn from
    it. Means and deviations of the features are those of all rows: they do not depend on labels.

    Args:
        data: All rows, in their augmented views.
        plain: The same rows without augmentation: what is predicted in the fold that a row is held out in.
        folds: Fold of each row, whole groups together.
        config: The head's settings.
        classes: Number of classes.
        seed: Decides modality dropout.
        each: Standardise every feature, or only blocks as a whole.

    Returns:
        The head; `held` holds what each row was given by the solution that did not see it, and `valid_nll` its NLL.
    """
    return _walk(_Crossed(_Problem(data, plain, config, classes, seed, each), folds), config, list(data.z))


def _walk(problem: _SetAside, config: HeadConfig, names: list[str]) -> HeadFit:
    """Walk the penalty path, refine per block if asked, and solve for what was chosen."""
    ones = np.ones(len(names))
    path: Path = []
    tried: list[npt.NDArray[np.float64]] = []
    solution = problem.zero()
    best, worse = (np.inf, 0.0, solution), 0
    for penalty in sorted(config.penalties, reverse=True):
        solution = problem.solve(penalty, ones, solution)
        nll = problem.nll(solution)
        path.append((penalty, nll))
        tried.append(problem.logits(solution))
        worse = 0 if nll < best[0] else worse + 1
        if nll < best[0]:
            best = (nll, penalty, solution)
        if worse == 2:  # the path has a single minimum in practice; two steps past it are enough to know
            break
    nll, penalty, solution = best
    factors, choice = ones, f"penalty {penalty:g}"
    if config.blockwise and len(names) > 1:
        nll, solution, factors = _blockwise(problem, penalty, nll, solution)
        tried = []  # the penalties per block were chosen on all of these rows
        choice += ", per block " + ", ".join(f"{n} x{f:g}" for n, f in zip(names, factors, strict=True))
    # The path is walked roughly; what is kept is solved to convergence.
    return replace(problem.finish(penalty, factors, solution, choice, path), tried=tried)


def fit_ridge(data: HeadData, valid: HeadData, config: HeadConfig, classes: int, seed: int) -> HeadFit:
    """Ridge regression on one-hot labels with a temperature: closed form, a preview within a second."""
    problem = _Problem(data, valid, config, classes, seed)
    onehot = np.eye(classes)[problem.y]
    best: HeadFit | None = None
    tried = []
    for penalty in config.penalties:
        model = Ridge(alpha=penalty * problem.w.sum()).fit(problem.x, onehot, sample_weight=problem.w)
        coef, bias = np.asarray(model.coef_).reshape(classes, -1), np.asarray(model.intercept_).reshape(-1)
        sharp = fit_temperature(problem.valid_logits((coef, bias)), problem.valid_y)
        solution = (coef / sharp, bias / sharp)
        nll = _nll(problem.valid_logits(solution), problem.valid_y)
        tried.append(problem.valid_logits(solution))
        if best is None or nll < best.valid_nll:
            best = HeadFit(problem.head(solution), nll, f"penalty {penalty:g}, temperature {sharp:.2g}")
    assert best is not None
    return replace(best, tried=tried)


def fit_temperature(logits: npt.NDArray[Any], labels: npt.NDArray[np.int64]) -> float:
    """Return T > 0 that minimises the NLL of softmax(logits / T) (arXiv 1706.04599)."""
    values, target = torch.as_tensor(np.asarray(logits, dtype=np.float64)), torch.as_tensor(labels)
    best = minimize_scalar(
        lambda log_t: float(F.cross_entropy(values / np.exp(log_t), target)), bounds=(-6, 6), method="bounded"
    )
    return float(np.exp(best.x))


Solution = tuple[npt.NDArray[Any], npt.NDArray[Any]]
Path = list[tuple[float, float]]


class _Problem:
    """The design matrix of a linear head, with one masked copy per row for modality dropout."""

    def __init__(
        self, data: HeadData, valid: HeadData, config: HeadConfig, classes: int, seed: int, each: bool = True
    ) -> None:
        self.names, self.classes, self.rows = list(data.z), classes, len(data.labels)
        self.layout = LinearHead({name: z.shape[-1] for name, z in data.z.items()}, classes)
        self.layout.fit_scale(data, each)
        views, dropped = (
            next(iter(data.z.values())).shape[0],
            config.modality_dropout if len({data.owners.get(block, block) for block in data.z}) > 1 else 0.0,
        )
        parts = [_design(self.layout, data, view, data.present) for view in range(views)]
        weights = [data.weights * (1 - dropped) / views] * views
        if dropped:
            kept = drop_modalities(data.present, torch.from_numpy(data.keys), Moment(seed), 1.0, data.owners)
            parts.append(_design(self.layout, data, 0, kept))
            weights.append(data.weights * dropped)
        self.x, self.w = np.concatenate(parts), np.concatenate(weights)
        self.y = np.tile(data.labels, len(parts))
        self.valid_x, self.valid_y = _design(self.layout, valid, 0, valid.present), valid.labels

    def zero(self) -> Solution:
        return np.zeros((self.classes, self.x.shape[1])), np.zeros(self.classes)

    def solve(
        self,
        penalty: float,
        factors: npt.NDArray[Any],
        start: Solution,
        *,
        fine: bool = False,
        rows: npt.NDArray[np.bool_] | None = None,
    ) -> Solution:
        """Minimise mean NLL + penalty / 2 * sum_block factor_block |W_block|^2, starting from a near solution.

        Args:
            penalty: Of the squared weights.
            factors: Per block, on the penalty.
            start: Where to start.
            fine: To convergence in float64; otherwise roughly, in float32.
            rows: Which of the rows count; default: all.
        """
        # A penalty of its own per block is the same as one penalty after scaling the block's columns.
        widths = [*self.layout.dims.values(), len(self.names)]
        scale = np.repeat([*(1 / np.sqrt(factors)), 1.0], widths)
        some = slice(None) if rows is None else np.tile(rows, len(self.y) // self.rows)
        x, y, w = self.x[some] * scale.astype(np.float32), self.y[some], self.w[some]
        x, tolerance = (x.astype(np.float64), 1e-6) if fine else (x, 1e-4)
        present = np.unique(y)
        # For two classes scikit-learn penalises w = w_1 - w_0, and |w|^2 is twice |w_0|^2 + |w_1|^2.
        strength = penalty / (2 if len(present) == 2 else 1)
        model = LogisticRegression(
            C=1 / (strength * w.sum()), solver="lbfgs", max_iter=2000, tol=tolerance, warm_start=True
        )
        if len(present) > 2:
            model.classes_, model.coef_, model.intercept_ = present, start[0][present] / scale, start[1][present]
        with without_warnings(ConvergenceWarning):
            model.fit(x, y, sample_weight=w)
        coef, bias = np.zeros((self.classes, self.x.shape[1])), np.full(self.classes, -30.0)
        if len(present) == 2:  # scikit-learn keeps one row for two classes: f_1 - f_0
            coef[present], bias[present] = (
                np.outer([-0.5, 0.5], model.coef_[0]),
                np.array([-0.5, 0.5]) * model.intercept_,
            )
        else:
            coef[present], bias[present] = model.coef_, model.intercept_
        return coef * scale, bias

    def valid_logits(self, solution: Solution) -> npt.NDArray[np.float64]:
        return np.asarray(self.valid_x @ solution[0].T + solution[1])

    def head(self, solution: Solution) -> LinearHead:
        self.layout.linear.weight.data.copy_(torch.from_numpy(solution[0]))
        self.layout.linear.bias.data.copy_(torch.from_numpy(solution[1]))
        return self.layout


class _SetAside:
    """Choices are made on rows that were set aside; a solution is a list of one."""

    def __init__(self, problem: _Problem) -> None:
        self.problem = problem

    def zero(self) -> list[Solution]:
        return [self.problem.zero()]

    def solve(self, penalty: float, factors: npt.NDArray[Any], start: list[Solution]) -> list[Solution]:
        return [self.problem.solve(penalty, factors, start[0])]

    def logits(self, solutions: list[Solution]) -> npt.NDArray[np.float64]:
        """Return the logits of the rows that choices are made on."""
        return self.problem.valid_logits(solutions[0])

    def nll(self, solutions: list[Solution]) -> float:
        return _nll(self.logits(solutions), self.problem.valid_y)

    def finish(
        self, penalty: float, factors: npt.NDArray[Any], start: list[Solution], choice: str, path: Path
    ) -> HeadFit:
        solution = self.problem.solve(penalty, factors, start[0], fine=True)
        return HeadFit(self.problem.head(solution), self.nll([solution]), choice, path)


class _Crossed(_SetAside):
    """Choices are made by cross-validation; a solution has one part per fold, solved without that fold."""

    def __init__(self, problem: _Problem, folds: npt.NDArray[np.int64]) -> None:
        super().__init__(problem)
        self.held = [folds == fold for fold in np.unique(folds)]

    def zero(self) -> list[Solution]:
        return [self.problem.zero() for _ in self.held]

    def solve(self, penalty: float, factors: npt.NDArray[Any], start: list[Solution]) -> list[Solution]:
        return [
            self.problem.solve(penalty, factors, near, rows=~held) for near, held in zip(start, self.held, strict=True)
        ]

    def logits(self, solutions: list[Solution]) -> npt.NDArray[np.float64]:
        """Return what each row was given by the part that did not see it, [rows, classes]."""
        logits = np.zeros((self.problem.rows, self.problem.classes))
        for solution, held in zip(solutions, self.held, strict=True):
            logits[held] = self.problem.valid_logits(solution)[held]
        return logits

    def finish(
        self, penalty: float, factors: npt.NDArray[Any], start: list[Solution], choice: str, path: Path
    ) -> HeadFit:
        solution = self.problem.solve(penalty, factors, start[0], fine=True)
        return HeadFit(self.problem.head(solution), self.nll(start), choice, path, self.logits(start))


def _nll(logits: npt.NDArray[Any], labels: npt.NDArray[np.int64]) -> float:
    return float(F.cross_entropy(torch.from_numpy(logits), torch.from_numpy(labels)))


def _design(head: Head, data: HeadData, view: int, present: dict[str, npt.NDArray[np.bool_]]) -> npt.NDArray[Any]:
    z = {name: torch.from_numpy(np.array(block[view])) for name, block in data.z.items()}
    has = {name: torch.from_numpy(bits) for name, bits in present.items()}
    return torch.cat([*head.blocks(z, has), head.absent(has)], 1).float().numpy()


def _blockwise(
    problem: _SetAside, penalty: float, nll: float, solution: list[Solution]
) -> tuple[float, list[Solution], npt.NDArray[Any]]:
    factors = np.ones(len(problem.problem.names))
    for block in range(len(factors)):
        for step in (4.0, 0.25):
            while 1e-3 < factors[block] < 1e3:
                trial = factors.copy()
                trial[block] *= step
                candidate = problem.solve(penalty, trial, solution)
                lower = problem.nll(candidate)
                if lower >= nll - 1e-4:
                    break
                nll, solution, factors = lower, candidate, trial
    return nll, solution, factors
