"""Linear heads solved to convergence: multinomial logistic regression along a penalty path, and ridge."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import minimize_scalar
from torch.nn import functional as F

from fusetune.augment.random import Moment
from fusetune.config import HeadConfig
from fusetune.errors import TableError
from fusetune.heads.base import Head, HeadData, HeadFit, drop_modalities
from fusetune.heads.linear import LinearHead
from fusetune.heads.newton import Turned, minimise
from fusetune.heads.path import Step, walk

# How far weights may be from the solution, relative to their size: while a penalty is chosen; in the head that is kept.
_ROUGH, _FINE = 1e-2, 1e-5
_ABSENT = -30.0  # bias of a class that no row has
_WIDEST = 1e3  # factor on a block's penalty


def fit_logistic(data: HeadData, valid: HeadData, config: HeadConfig, classes: int, seed: int) -> HeadFit:
    """Solve multinomial logistic regression to convergence along an L2 path; the best validation NLL wins.

    The objective is the weighted mean NLL + penalty / 2 * |W|^2 on standardised blocks; biases are not penalised.
    With `blockwise`, each block's own penalty is then doubled, halved, ... as long as validation NLL falls.
    """
    return _fit(_SetAside(_Problem(data, valid, config, classes, seed)), config, list(data.z))


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
    return _fit(_Crossed(_Problem(data, plain, config, classes, seed, each), folds), config, list(data.z))


def _fit(problem: _SetAside, config: HeadConfig, names: list[str]) -> HeadFit:
    """Walk the penalty path, refine per block if asked, and solve for what was chosen."""
    ones = np.ones(len(names))

    def solve(penalty: float, near: Step | None) -> Step:
        solution = problem.solve(penalty, ones, near.solution if near else problem.zero())
        return Step(penalty, problem.nll(solution), problem.logits(solution), solution)

    steps, (penalty, nll, _, solution), choice, doubts = walk(config.penalties, solve)
    factors, tried = ones, [step.logits for step in steps]
    if config.blockwise and len(names) > 1:
        nll, solution, factors = _blockwise(problem, penalty, nll, solution)
        tried = []  # the penalties per block were chosen on all of these rows
        choice += ", per block " + ", ".join(f"{n} x{f:g}" for n, f in zip(names, factors, strict=True))
        if max(abs(np.log(factors))) > np.log(_WIDEST):
            doubts.append(f"a block's penalty is the end of its range ({choice})")
    # The path is walked roughly; what is kept is solved to convergence.
    fit = problem.finish(penalty, factors, solution)
    path = [(step.penalty, step.nll) for step in steps]
    return replace(fit, choice=choice, path=path, tried=tried, doubts=doubts + problem.problem.doubts())


def fit_ridge(data: HeadData, valid: HeadData, config: HeadConfig, classes: int, seed: int) -> HeadFit:
    """Ridge regression on one-hot labels with a temperature: closed form, a preview within a second."""
    problem = _Problem(data, valid, config, classes, seed)
    turned, w = problem.turned(np.ones(len(data.z))), problem.w / problem.w.sum()
    onehot = np.eye(classes)[problem.y]
    share = w @ onehot

    def solve(penalty: float, _: Step | None) -> Step:
        weights = turned.x[:, :-1].T @ (w[:, None] * (onehot - share)) / (turned.spread + penalty)[:, None]
        coef, bias = turned.back(np.concatenate([weights, share[None]]))
        sharp = fit_temperature(problem.valid_logits((coef, bias)), problem.valid_y)
        logits = problem.valid_logits((coef / sharp, bias / sharp))
        return Step(penalty, nll_of(logits, problem.valid_y), logits, (coef / sharp, bias / sharp, sharp))

    steps, best, choice, doubts = walk(config.penalties, solve)
    *solution, sharp = best.solution
    return HeadFit(
        problem.head((solution[0], solution[1])),
        best.nll,
        f"{choice}, temperature {sharp:.2g}",
        [(step.penalty, step.nll) for step in steps],
        tried=[step.logits for step in steps],
        doubts=doubts,
    )


def fit_temperature(logits: npt.NDArray[Any], labels: npt.NDArray[np.int64]) -> float:
    """Return T > 0 that minimises the NLL of softmax(logits / T) (arXiv 1706.04599)."""
    values, target = torch.as_tensor(np.asarray(logits, dtype=np.float64)), torch.as_tensor(labels)
    best = minimize_scalar(
        lambda log_t: float(F.cross_entropy(values / np.exp(log_t), target)), bounds=(-6, 6), method="bounded"
    )
    return float(np.exp(best.x))


Solution = tuple[npt.NDArray[Any], npt.NDArray[Any]]


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
        self._turned: tuple[npt.NDArray[Any], Turned] | None = None
        self.solved = self.short = 0

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
            fine: As the head that is kept; otherwise roughly.
            rows: Which of the rows count; default: all.
        """
        some = slice(None) if rows is None else np.tile(rows, len(self.y) // self.rows)
        turned, scale = self.turned(factors), self._scale(factors)
        present, y = np.unique(self.y[some], return_inverse=True)
        if (start[1][present] <= _ABSENT).any():  # where a fold lacks a class, its solution is no place to start from
            start = self.zero()
        near = turned.there(start[0][present] / scale, start[1][present])
        tolerance = _FINE if fine else _ROUGH
        weights, reached = minimise(turned.x[some], y, self.w[some], turned.spread, penalty, near, tolerance)
        self.solved, self.short = self.solved + 1, self.short + (not reached)
        coef, bias = np.zeros((self.classes, self.x.shape[1])), np.full(self.classes, _ABSENT)
        coef[present], bias[present] = turned.back(weights)
        return coef * scale, bias

    def turned(self, factors: npt.NDArray[Any]) -> Turned:
        """Return the features as they are solved on; those of the last factors are kept."""
        if self._turned is None or not np.array_equal(self._turned[0], factors):
            self._turned = factors, Turned.of(self.x * self._scale(factors), self.w)
        return self._turned[1]

    def _scale(self, factors: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        # A penalty of its own per block is the same as one penalty after scaling the block's columns.
        return np.repeat([*(1 / np.sqrt(factors)), 1.0], [*self.layout.dims.values(), len(self.names)])

    def doubts(self) -> list[str]:
        """Say how many solutions fell short of what they should reach."""
        if not self.short:
            return []
        what = f"{self.short} of {self.solved} solutions of the linear classifier fell short of convergence"
        return [f"{what}, so that the choice of the penalty is less sure"]

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
        return nll_of(self.logits(solutions), self.problem.valid_y)

    def finish(self, penalty: float, factors: npt.NDArray[Any], start: list[Solution]) -> HeadFit:
        solution = self.problem.solve(penalty, factors, start[0], fine=True)
        return HeadFit(self.problem.head(solution), self.nll([solution]))


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

    def finish(self, penalty: float, factors: npt.NDArray[Any], start: list[Solution]) -> HeadFit:
        solution = self.problem.solve(penalty, factors, start[0], fine=True)
        return HeadFit(self.problem.head(solution), self.nll(start), held=self.logits(start))


def nll_of(logits: npt.NDArray[Any], labels: npt.NDArray[np.int64]) -> float:
    """Return the mean negative log-likelihood of logits [rows, classes], in nats."""
    return float(F.cross_entropy(torch.from_numpy(logits), torch.from_numpy(labels)))


def _design(head: Head, data: HeadData, view: int, present: dict[str, npt.NDArray[np.bool_]]) -> npt.NDArray[Any]:
    z = {name: torch.from_numpy(np.array(block[view])) for name, block in data.z.items()}
    has = {name: torch.from_numpy(bits) for name, bits in present.items()}
    blocks = head.blocks(z, has)
    for name, block in zip(head.dims, blocks, strict=True):
        if not torch.isfinite(block).all():
            modality = data.owners.get(name, name)
            raise TableError(
                f"the features of the input '{modality}' are not finite numbers; look for extreme or broken values "
                "in it, or leave it out with --inputs"
            )
    return torch.cat([*blocks, head.absent(has)], 1).float().numpy()


def _blockwise(
    problem: _SetAside, penalty: float, nll: float, solution: list[Solution]
) -> tuple[float, list[Solution], npt.NDArray[Any]]:
    factors = np.ones(len(problem.problem.names))
    for block in range(len(factors)):
        for step in (4.0, 0.25):
            while 1 / _WIDEST < factors[block] < _WIDEST:
                trial = factors.copy()
                trial[block] *= step
                candidate = problem.solve(penalty, trial, solution)
                lower = problem.nll(candidate)
                if lower >= nll - 1e-4:
                    break
                nll, solution, factors = lower, candidate, trial
    return nll, solution, factors
