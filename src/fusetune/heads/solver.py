"""Linear heads solved to convergence along a penalty path, by the loss of their target; and ridge on one-hot labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor
from torch.nn import functional as F

from fusetune.augment.random import Moment
from fusetune.config import HeadConfig
from fusetune.data.weights import Weights
from fusetune.errors import ConfigError
from fusetune.heads.base import HeadData, HeadFit, drop_modalities
from fusetune.heads.design import Design
from fusetune.heads.linear import LinearHead
from fusetune.heads.newton import Problems, minimise
from fusetune.heads.path import Step, walk
from fusetune.heads.turned import Rows, rows_of
from fusetune.targets.classification import Classification

# How far weights may be from the solution, relative to their size: while a penalty is chosen; in the head that is kept.
_ROUGH, _FINE = 1e-2, 1e-6
_WIDEST = 1e3  # factor on a block's penalty


def fit_logistic(data: HeadData, valid: HeadData, config: HeadConfig, classes: int, seed: int) -> HeadFit:
    """Solve a linear head to convergence along an L2 path; the best validation NLL wins.

    The objective is the weighted mean loss of the target (multinomial or binary cross-entropy, half the squared error)
    + penalty / 2 * |W|^2 on standardised blocks; biases are not penalised.
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
    if not issubclass(data.target, Classification):
        raise ConfigError(
            f"head.kind ridge fits one-hot labels of classes, and this is {data.target.kind}: use logistic, which "
            "solves the loss of the target"
        )
    problem = _Problem(data, valid, config, classes, seed)
    rows, problems = problem.turned(np.ones(len(data.z))), problem.problems(None)
    onehot = F.one_hot(problems.y, classes).double()
    share = problems.w[:, 0] @ onehot
    mean, gram, moment = _moments(rows, problems.w, onehot - share)
    spread, axes = torch.linalg.eigh(gram)

    def solve(penalty: float, _: Step | None) -> Step:
        inner = axes @ ((axes.T @ moment) / (spread.clamp_min(0.0) + penalty)[:, None])
        weights = rows.leave(torch.cat([inner, (share - mean @ inner)[None]]))
        coef, bias = rows.near.back(weights[:, None])
        said = problem.valid_logits(Solution(coef, bias, problems.known))
        sharp = fit_temperature(said, valid.labels, valid.sample_weight)
        solution = Solution(coef / sharp, bias / sharp, problems.known)
        logits = problem.valid_logits(solution)
        return Step(penalty, valid.nll(logits), logits, (solution, sharp))

    steps, best, choice, doubts = walk(config.penalties, solve)
    solution, sharp = best.solution
    return HeadFit(
        problem.head(solution),
        best.nll,
        f"{choice}, temperature {sharp:.2g}",
        [(step.penalty, step.nll) for step in steps],
        tried=[step.logits for step in steps],
        doubts=doubts,
    )


def _moments(rows: Rows, w: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the mean of the features, their covariance with each other, and with targets [rows, classes]."""
    mean: Tensor | float = 0.0
    gram: Tensor | float = 0.0
    moment: Tensor | float = 0.0
    for where, x in rows.pieces(torch.float64):
        assert isinstance(x, Tensor)
        weighted = x[:, :-1] * w[where]
        mean, gram, moment = mean + weighted.sum(0), gram + weighted.T @ x[:, :-1], moment + weighted.T @ target[where]
    assert isinstance(mean, Tensor) and isinstance(gram, Tensor) and isinstance(moment, Tensor)
    return mean, gram - torch.outer(mean, mean), moment


def fit_temperature(
    logits: npt.NDArray[Any], labels: npt.NDArray[np.int64], sample_weight: Weights | None = None
) -> float:
    """Return T > 0 that minimises the NLL of softmax(logits / T) (arXiv 1706.04599)."""
    values, target = torch.as_tensor(np.asarray(logits, dtype=np.float64)), torch.as_tensor(labels)

    def loss(log_t: float) -> float:
        if sample_weight is None:
            return float(F.cross_entropy(values / np.exp(log_t), target))
        return Classification.nll(values.numpy() / np.exp(log_t), labels, sample_weight)

    return float(np.exp(minimize_scalar(loss, bounds=(-6, 6), method="bounded").x))


class Solution(NamedTuple):
    """Weights [problems, outputs, features + absence bits], biases and whether they are known [problems, outputs]."""

    coef: Tensor
    bias: Tensor
    known: Tensor

    def problem(self, index: int) -> Solution:
        """Return one of the problems alone."""
        return Solution(*(part[index : index + 1] for part in self))


class _Problem:
    """The design matrix of a linear head, with one masked copy per row for modality dropout."""

    def __init__(
        self, data: HeadData, valid: HeadData, config: HeadConfig, classes: int, seed: int, each: bool = True
    ) -> None:
        self.names, self.classes, self.rows = list(data.z), classes, len(data.labels)
        self.layout = LinearHead({name: z.shape[-1] for name, z in data.z.items()}, classes)
        self.layout.fit_scale(data, each)
        views = next(iter(data.z.values())).shape[0]
        several = len({data.owners.get(block, block) for block in data.z}) > 1
        dropped = config.modality_dropout if several else 0.0
        copies: list[tuple[int, dict[str, npt.NDArray[np.bool_]]]] = [(view, data.present) for view in range(views)]
        weights = [data.weights * (1 - dropped) / views] * views
        if dropped:
            kept = drop_modalities(data.present, torch.from_numpy(data.keys), Moment(seed), 1.0, data.owners)
            copies.append((0, kept))
            weights.append(data.weights * dropped)
        # Where there is no float64 (Apple's GPUs), the processor solves.
        self.device = data.device if data.device.type == "cuda" else torch.device("cpu")
        scales = self.layout.to(self.device)
        self.design = Design(scales, data, copies, self.device)
        self.valid = Design(scales, valid, [(0, valid.present)], self.device)
        self.link = data.target.solved_by(config.robust)
        self.w, self.y = np.concatenate(weights), np.concatenate([data.labels] * len(copies))
        self.judged = valid
        self._read: tuple[npt.NDArray[Any], Rows] | None = None
        self.solved = self.short = 0

    def zero(self, problems: int = 1) -> Solution:
        """Return where nothing is known of the classes."""
        blank = torch.zeros(problems, self.classes, self.design.width + 1, dtype=torch.float64, device=self.device)
        return Solution(blank[..., :-1], blank[..., -1], torch.ones_like(blank[..., -1], dtype=torch.bool))

    def solve(
        self,
        penalty: float,
        factors: npt.NDArray[Any],
        start: Solution,
        *,
        fine: bool = False,
        without: Sequence[npt.NDArray[np.bool_]] | None = None,
    ) -> Solution:
        """Minimise mean NLL + penalty / 2 * sum_block factor_block |W_block|^2, starting from a near solution.

        Args:
            penalty: Of the squared weights.
            factors: Per block, on the penalty.
            start: Where to start, for each problem.
            fine: As the head that is kept; otherwise roughly.
            without: For each problem, which rows do not count; default: one problem, and all rows count.
        """
        rows, scale = self.turned(factors), self._scale(factors)
        problems = self.problems(without)
        # Where a fold lacks a class, its solution is no place to start from.
        lacks = (~start.known & problems.known).any(1)
        known = (problems.known & ~lacks[:, None])[..., None]
        near = rows.near.there(torch.where(known, start.coef, 0.0) / scale, torch.where(known[..., 0], start.bias, 0.0))
        weights, reached = minimise(rows, problems, penalty, near, _FINE if fine else _ROUGH)
        self.solved, self.short = self.solved + len(reached), self.short + int((~reached).sum())
        coef, bias = rows.near.back(weights)
        constant = problems.link.constant(problems.y, problems.w, self.classes)
        return Solution(
            torch.where(problems.known[..., None], coef * scale, 0.0),
            torch.where(problems.known, bias, constant),
            problems.known,
        )

    def problems(self, without: Sequence[npt.NDArray[np.bool_]] | None) -> Problems:
        """Return one problem for each mask of rows that do not count, or one in which all rows count."""
        copies = len(self.y) // self.rows
        counts = [np.ones(self.rows, bool)] if without is None else [~held for held in without]
        kept = np.stack([np.tile(one, copies) for one in counts], 1)
        w = np.where(kept, self.w[:, None], 0.0)
        y, link = torch.from_numpy(self.y).to(self.device), self.link
        weights = torch.from_numpy(w / w.sum(0)).to(self.device)
        # A class counts as known wherever it has rows, whatever they weigh.
        known = link.known(y, torch.from_numpy(kept.astype(np.float64)).to(self.device), self.classes)
        return Problems(y, weights, known, link)

    def turned(self, factors: npt.NDArray[Any]) -> Rows:
        """Return the rows as they are solved on; those of the last factors are kept."""
        if self._read is None or not np.array_equal(self._read[0], factors):
            w = torch.from_numpy(self.w).to(self.device)
            self._read = factors, rows_of(self.design, self._scale(factors), w)
        return self._read[1]

    def _scale(self, factors: npt.NDArray[Any]) -> Tensor:
        # A penalty of its own per block is the same as one penalty after scaling the block's columns.
        widths = [*self.layout.dims.values(), len(self.names)]
        return torch.from_numpy(np.repeat([*(1 / np.sqrt(factors)), 1.0], widths)).to(self.device)

    def doubts(self) -> list[str]:
        """Say how many solutions fell short of what they should reach."""
        if not self.short:
            return []
        what = f"{self.short} of {self.solved} solutions of the linear classifier fell short of convergence"
        return [f"{what}, so that the choice of the penalty is less sure"]

    def valid_logits(self, solution: Solution, which: npt.NDArray[np.int64] | None = None) -> npt.NDArray[np.float64]:
        """Return what is said of the rows that choices are made on, [rows, classes].

        Args:
            solution: Of one or more problems.
            which: For each row, the problem that is asked; default: the first.
        """
        logits = torch.zeros(len(self.valid), self.classes, dtype=torch.float64, device=self.device)
        for where, x in self.valid.pieces():
            said = torch.tensordot(x.double(), solution.coef, ([1], [2])) + solution.bias
            own = said[:, 0] if which is None else said[torch.arange(len(x)), torch.from_numpy(which[where])]
            logits[where] = own
        return logits.cpu().numpy()

    def head(self, solution: Solution) -> LinearHead:
        """Return the head of a single problem."""
        self.layout.linear.weight.data.copy_(solution.coef[0])
        self.layout.linear.bias.data.copy_(solution.bias[0])
        return self.layout.to("cpu")


class _SetAside:
    """Choices are made on rows that were set aside, by one solution."""

    def __init__(self, problem: _Problem) -> None:
        self.problem = problem

    def zero(self) -> Solution:
        return self.problem.zero()

    def solve(self, penalty: float, factors: npt.NDArray[Any], start: Solution) -> Solution:
        return self.problem.solve(penalty, factors, start)

    def logits(self, solution: Solution) -> npt.NDArray[np.float64]:
        """Return the logits of the rows that choices are made on."""
        return self.problem.valid_logits(solution)

    def nll(self, solution: Solution) -> float:
        return self.problem.judged.nll(self.logits(solution))

    def finish(self, penalty: float, factors: npt.NDArray[Any], start: Solution) -> HeadFit:
        solution = self.problem.solve(penalty, factors, start, fine=True)
        return HeadFit(self.problem.head(solution), self.nll(solution))


class _Crossed(_SetAside):
    """Choices are made by cross-validation; there is one problem per fold, solved without that fold."""

    def __init__(self, problem: _Problem, folds: npt.NDArray[np.int64]) -> None:
        super().__init__(problem)
        names, self.folds = np.unique(folds, return_inverse=True)
        self.held = [self.folds == fold for fold in range(len(names))]

    def zero(self) -> Solution:
        return self.problem.zero(len(self.held))

    def solve(self, penalty: float, factors: npt.NDArray[Any], start: Solution) -> Solution:
        return self.problem.solve(penalty, factors, start, without=self.held)

    def logits(self, solution: Solution) -> npt.NDArray[np.float64]:
        """Return what each row was given by the problem that did not see it, [rows, classes]."""
        return self.problem.valid_logits(solution, self.folds)

    def finish(self, penalty: float, factors: npt.NDArray[Any], start: Solution) -> HeadFit:
        solution = self.problem.solve(penalty, factors, start.problem(0), fine=True)
        return HeadFit(self.problem.head(solution), self.nll(start), held=self.logits(start))


def _blockwise(
    problem: _SetAside, penalty: float, nll: float, solution: Solution
) -> tuple[float, Solution, npt.NDArray[Any]]:
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
