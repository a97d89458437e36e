"""Stage M: classifiers on the concatenation of all modalities' features, aware of what is absent.

Every block of features is standardised with training statistics and divided by the square root of its width, so that
blocks weigh alike whatever their size and scale. An absent block is zero, and a bit says that it is absent.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import minimize_scalar
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge
from torch import Tensor, nn
from torch.nn import functional as F

from fusetune.augment.random import Moment, uniform
from fusetune.config import HeadConfig, TrainConfig
from fusetune.data.batch import shuffled_batches
from fusetune.features.store import Array
from fusetune.progress import Log
from fusetune.runtime import Runtime, seed_everything
from fusetune.train.loop import Task, train
from fusetune.train.optim import parameter_groups

PRETRAINED = " as pretrained"


def owner(block: str) -> str:
    """Return the modality of a block of features.

    A modality has a block of its own name and, where the head also reads the encoder from before fine-tuning, a second
    one with the ending `PRETRAINED`.
    """
    return block.removesuffix(PRETRAINED)


@dataclass(frozen=True)
class HeadData:
    """Rows for a head.

    Attributes:
        z: Features by block, float32 [views, rows, dim].
        present: bool [rows] by block.
        labels: Class index, int64 [rows].
        weights: Loss weight, float [rows].
        keys: Row keys, int64 [rows].
    """

    z: dict[str, Array]
    present: dict[str, npt.NDArray[np.bool_]]
    labels: npt.NDArray[np.int64]
    weights: npt.NDArray[np.float64]
    keys: npt.NDArray[np.int64]

    def only(self, name: str) -> HeadData:
        """Keep one modality and the rows that have it."""
        has = self.present[name]
        return HeadData(
            {name: self.z[name][:, has]}, {name: has[has]}, self.labels[has], self.weights[has], self.keys[has]
        )


class Head(nn.Module):
    """Base of all heads: standardises features and masks absent blocks.

    Args:
        dims: Width of each modality's features, by name.
        classes: Number of classes.
    """

    kind = ""

    def __init__(self, dims: Mapping[str, int], classes: int) -> None:
        super().__init__()
        self.dims, self.classes = dict(dims), classes
        for index, dim in enumerate(self.dims.values()):
            self.register_buffer(f"mean_{index}", torch.zeros(dim))
            self.register_buffer(f"scale_{index}", torch.ones(dim))

    def fit_scale(self, data: HeadData) -> None:
        """Learn mean and deviation of every feature from the training rows that have the modality."""
        for index, (name, dim) in enumerate(self.dims.items()):
            known = data.z[name][:, data.present[name]].reshape(-1, dim).astype(np.float64)
            if not len(known):
                continue
            std = known.std(0)
            # A feature that hardly varies in training must not explode on the first row where it does.
            floor = max(1e-3 * float(np.median(std[std > 0])) if (std > 0).any() else 1.0, 1e-12)
            self.get_buffer(f"mean_{index}").copy_(torch.from_numpy(known.mean(0)))
            self.get_buffer(f"scale_{index}").copy_(torch.from_numpy(1 / (np.maximum(std, floor) * dim**0.5)))

    def blocks(self, z: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> list[Tensor]:
        """Return standardised blocks [batch, dim], zero where absent."""
        found = []
        for index, name in enumerate(self.dims):
            block = (z[name] - self.get_buffer(f"mean_{index}")) * self.get_buffer(f"scale_{index}")
            # Not a product: what is stored for an absent modality may be anything, NaN included.
            found.append(block.masked_fill(~present[name][:, None], 0.0))
        return found

    def absent(self, present: Mapping[str, Tensor]) -> Tensor:
        """Return the absence bits, float [batch, modalities]."""
        return torch.stack([~present[name] for name in self.dims], 1).float()

    def describe(self) -> dict[str, Any]:
        """Return what `build_head` needs to make this head again."""
        return {"kind": self.kind, "dims": self.dims, "classes": self.classes}


class LinearHead(Head):
    """f = b + sum_m (W_m z_m if present, else c_m)."""

    kind = "linear"

    def __init__(self, dims: Mapping[str, int], classes: int) -> None:
        super().__init__(dims, classes)
        width = sum(self.dims.values()) + len(self.dims)
        self.linear = nn.Linear(width, classes)

    def forward(self, z: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
        """Return logits [batch, classes]."""
        logits: Tensor = self.linear(torch.cat([*self.blocks(z, present), self.absent(present)], 1))
        return logits

    def as_linear(self) -> nn.Linear:
        """Return the same function of one present modality's raw features as a plain linear layer."""
        (dim,) = self.dims.values()
        mean, scale = self.get_buffer("mean_0"), self.get_buffer("scale_0")
        plain = nn.Linear(dim, self.classes)
        with torch.no_grad():
            plain.weight.copy_(self.linear.weight[:, :dim] * scale)
            plain.bias.copy_(self.linear.bias - plain.weight @ mean)
        return plain


class MLPHead(Head):
    """One hidden layer on the concatenation, beside a linear path."""

    kind = "mlp"

    def __init__(self, dims: Mapping[str, int], classes: int, hidden: int = 128) -> None:
        super().__init__(dims, classes)
        width = sum(self.dims.values()) + len(self.dims)
        self.inner = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Dropout(0.2))
        self.outer = nn.Linear(hidden, classes)
        self.linear = nn.Linear(width, classes)
        nn.init.zeros_(self.outer.weight)

    def forward(self, z: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
        """Return logits [batch, classes]."""
        x = torch.cat([*self.blocks(z, present), self.absent(present)], 1)
        logits: Tensor = self.linear(x) + self.outer(self.inner(x))
        return logits


class GatedHead(Head):
    """Each present modality's projection weighted by a gate: z = sum_m softmax(g_m) h_m."""

    kind = "gated"

    def __init__(self, dims: Mapping[str, int], classes: int, hidden: int = 128) -> None:
        super().__init__(dims, classes)
        self.project = nn.ModuleList(nn.Linear(dim, hidden) for dim in self.dims.values())
        self.gate = nn.ModuleList(nn.Linear(dim, 1) for dim in self.dims.values())
        self.outer = nn.Sequential(nn.GELU(), nn.Dropout(0.2), nn.Linear(hidden, classes))

    def forward(self, z: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
        """Return logits [batch, classes]; a row without any modality gets the logits of a zero vector."""
        blocks = self.blocks(z, present)
        scores = torch.cat([gate(block) for gate, block in zip(self.gate, blocks, strict=True)], 1)
        has = torch.stack([present[name] for name in self.dims], 1)
        gates = torch.softmax(scores.masked_fill(~has, -1e9), 1) * has
        hidden = torch.stack([layer(block) for layer, block in zip(self.project, blocks, strict=True)], 1)
        logits: Tensor = self.outer((gates[:, :, None] * hidden).sum(1))
        return logits


class BilinearHead(Head):
    """A linear path plus low-rank products of every pair of modalities."""

    kind = "bilinear"

    def __init__(self, dims: Mapping[str, int], classes: int, rank: int = 32) -> None:
        super().__init__(dims, classes)
        width = sum(self.dims.values()) + len(self.dims)
        self.linear = nn.Linear(width, classes)
        self.factor = nn.ModuleList(nn.Linear(dim, rank) for dim in self.dims.values())
        pairs = len(self.dims) * (len(self.dims) - 1) // 2
        self.outer = nn.Linear(max(pairs, 1) * rank, classes)
        nn.init.zeros_(self.outer.weight)

    def forward(self, z: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
        """Return logits [batch, classes]."""
        blocks = self.blocks(z, present)
        linear = self.linear(torch.cat([*blocks, self.absent(present)], 1))
        factors = [
            layer(block) * present[name][:, None]
            for layer, block, name in zip(self.factor, blocks, self.dims, strict=True)
        ]
        products = [a * b for i, a in enumerate(factors) for b in factors[i + 1 :]]
        logits: Tensor = linear + self.outer(torch.cat(products or factors, 1))
        return logits


HEADS: dict[str, type[Head]] = {head.kind: head for head in (LinearHead, MLPHead, GatedHead, BilinearHead)}


def build_head(description: Mapping[str, Any]) -> Head:
    """Make a head from its description, with untrained weights."""
    return HEADS[description["kind"]](description["dims"], description["classes"])


@dataclass(frozen=True)
class HeadFit:
    """A fitted head and how it was chosen.

    Attributes:
        head: The head.
        valid_nll: Its NLL on the validation rows.
        choice: What was chosen, in words.
        path: (penalty, validation NLL) pairs that were tried.
    """

    head: Head
    valid_nll: float
    choice: str
    path: list[tuple[float, float]] = field(default_factory=list)


def fit_head(
    data: HeadData, valid: HeadData, config: HeadConfig, *, classes: int, runtime: Runtime, seed: int, log: Log
) -> HeadFit:
    """Fit the head that the configuration names; choices are made on the validation rows."""
    match config.kind:
        case "logistic":
            return fit_logistic(data, valid, config, classes, seed)
        case "ridge":
            return fit_ridge(data, valid, config, classes, seed)
        case _:
            dims = {name: z.shape[-1] for name, z in data.z.items()}
            seed_everything(seed, "head", config.kind)
            return _fit_network(HEADS[config.kind](dims, classes), data, valid, config, runtime, seed, log)


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


def drop_modalities(
    present: Mapping[str, npt.NDArray[np.bool_]], keys: Tensor, moment: Moment, share: float
) -> dict[str, npt.NDArray[np.bool_]]:
    """Take random modalities away from a share of the rows; at least one that was there always stays."""
    names = list(dict.fromkeys(map(owner, present)))
    u = uniform(moment, keys, "modality dropout", 1 + 2 * len(names)).numpy()
    has = np.stack([present[name] for name in names], 1)
    drop = (u[:, 1 : 1 + len(names)] < 0.5) & has
    favourite = np.where(has, u[:, 1 + len(names) :], -1.0).argmax(1)
    drop[np.arange(len(drop)), favourite] = False
    drop &= u[:, :1] < share
    kept = {name: has[:, i] & ~drop[:, i] for i, name in enumerate(names)}
    return {block: kept[owner(block)] for block in present}


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


def _fit_network(
    head: Head, data: HeadData, valid: HeadData, config: HeadConfig, runtime: Runtime, seed: int, log: Log
) -> HeadFit:
    """Train a non-linear head with the common loop; epoch e sees view e mod V."""
    head.fit_scale(data)
    settings = TrainConfig(
        epochs=config.epochs, batch_size=128, lr=1e-2, head_lr=1e-2, weight_decay=0.02, patience=12, warmup=0.05
    )
    head.to(runtime.device)
    rows = np.arange(len(data.labels))
    shown, hidden = data.present, Moment(seed)

    def tensors(source: HeadData, at: npt.NDArray[np.int64], view: int) -> dict[str, Tensor]:
        return {name: torch.from_numpy(np.array(z[view][at])).to(runtime.device) for name, z in source.z.items()}

    def loss(at: npt.NDArray[np.int64], _: Any, epoch: int) -> Tensor:
        moment = Moment(hidden.seed, epoch)
        kept = drop_modalities(
            {name: bits[at] for name, bits in shown.items()}, torch.from_numpy(data.keys[at]), moment,
            config.modality_dropout,
        )  # fmt: skip
        z = tensors(data, at, epoch % next(iter(data.z.values())).shape[0])
        logits = head(z, {name: torch.from_numpy(bits).to(runtime.device) for name, bits in kept.items()})
        each = F.cross_entropy(logits, torch.from_numpy(data.labels[at]).to(runtime.device), reduction="none")
        return (each * torch.from_numpy(data.weights[at]).to(each)).mean()

    def validate() -> tuple[float, float]:
        return _judge(head, tensors(valid, np.arange(len(valid.labels)), 0), valid)

    task = Task(
        name=f"head ({head.kind})",
        batches=lambda epoch: shuffled_batches(rows, settings.batch_size, seed, epoch),
        read=lambda at: at,
        loss=loss,
        validate=validate,
        set_training=lambda: _set_training(head),
        row_name=str,
    )
    groups = parameter_groups([list(head.parameters())], [], settings)
    quiet = Log(log.path, quiet=True)
    history = train(head, groups, task, settings, runtime=runtime, seed=seed, log=quiet)
    head.eval()
    return HeadFit(head.cpu(), history.best_nll, f"{head.kind}, epoch {history.best_epoch + 1} of {settings.epochs}")


def _set_training(head: Head) -> None:
    head.train()


def _judge(head: Head, z: dict[str, Tensor], data: HeadData) -> tuple[float, float]:
    head.eval()
    with torch.inference_mode():
        device = next(head.parameters()).device
        logits = head(z, {name: torch.from_numpy(bits).to(device) for name, bits in data.present.items()})
        target = torch.from_numpy(data.labels).to(device)
        return float(F.cross_entropy(logits, target)), float((logits.argmax(1) == target).float().mean())
