"""Everything that is worth training, and a weighted ensemble of it (stacking: Wolpert 1992; Caruana et al., ICML 2004).

    f = sum_k a_k log softmax(f_k / T_k),  a_k >= 0
    a = argmin sum_i w_i CE(f(x_i), y_i) + sum_k (a_k - 1/K)^2 / (2 s^2)

The candidates k are simple and different: each modality alone, their ensemble, one head on frozen encoders, boosted
trees, two-stage. What is summed is what each says of rows that it did not learn from, so that a candidate which only
knows its own rows by heart earns no weight. The penalty is a normal prior around equal weights: it counts for little
beside thousands of rows or groups, and for much beside fifty, where the best of several is the luckiest. The weights
are used only where they lower the NLL of rows that they were not learnt from, below that of the candidate which is best
on the others; else that candidate is the model.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field, field_validator
from scipy.optimize import minimize
from torch import Tensor

from fusetune.config import Section
from fusetune.context import Context
from fusetune.data.split import Rows
from fusetune.data.weights import Weights
from fusetune.errors import TableError
from fusetune.evaluate.measures import measure_of
from fusetune.heads.folds import row_folds
from fusetune.networks import Outputs
from fusetune.networks.run import present_bits
from fusetune.networks.weighted import WeightedNetwork, pooled
from fusetune.strategies.alone import Alone, AloneSettings
from fusetune.strategies.base import ANY_TARGET, WHOLE, Fitted, NoSettings, Strategy
from fusetune.strategies.classifier import Classifier, ClassifierSettings
from fusetune.strategies.linear_probe import LinearProbe
from fusetune.strategies.majority import prior_of
from fusetune.strategies.rivals import ALONE, ENSEMBLE, RESERVED, TRADITIONAL
from fusetune.strategies.trainer import freeze
from fusetune.strategies.trees import LOG_TREES, RANDOMISED_TREES, Trees
from fusetune.strategies.two_stage import TwoStage
from fusetune.strategies.ume import UME
from fusetune.targets import Target, Truth

_SPREAD = 1.0  # s: standard deviation of the prior of each weight around 1/K
_LEAST = 0.02  # candidates of less than this share of all weight are left out: they cost as much as the others


Candidate = Literal["alone", "ume", "linear-probe", "trees", "two-stage"]


class WeightedSettings(Section):
    """What is tried."""

    candidates: list[Candidate] = Field(
        ["alone", "ume", "linear-probe", "trees", "two-stage"],
        min_length=1,
        description="what is trained and weighed: alone (each input), ume, linear-probe, trees (of numbers, randomised "
        "trees too; of those with a long tail, trees of their logarithms), two-stage",
    )
    classifiers: dict[str, ClassifierSettings] = Field(
        {}, description="classifiers of scikit-learn that are tried too, by the names of their rows"
    )

    @field_validator("classifiers")
    @classmethod
    def _free(cls, classifiers: dict[str, ClassifierSettings]) -> dict[str, ClassifierSettings]:
        for name in classifiers:
            if name in (Trees.name, LOG_TREES, RANDOMISED_TREES, TwoStage.name, *RESERVED) or name.endswith(ALONE):
                raise ValueError(f"another row of the table is called '{name}': give the classifier another name")
        return classifiers


@dataclass(frozen=True)
class _Pool:
    """Temperatures and weights of the candidates, [candidates] each."""

    temperatures: list[float]
    weights: list[float]


@dataclass(frozen=True)
class _Said:
    """What candidates say of rows that they did not learn from.

    Attributes:
        logits: [candidates, rows, classes].
        reads: Does a candidate read anything of the row? [candidates, rows].
        labels: As the target has them: class index, [rows].
        weights: Loss weight, [rows], that add up to the number of groups, or of rows where there are none.
        prior: What is said of a row of which nothing is known, such as log class frequencies, [classes].
        target: What is predicted.
        counted: What rows count by themselves, [rows]; None: all alike.
    """

    logits: Tensor
    reads: Tensor
    labels: Truth
    weights: Tensor
    prior: Tensor
    target: Target
    counted: Weights | None = None

    def some(self, rows: npt.NDArray[Any]) -> _Said:
        """Keep some rows, by mask."""
        at = torch.from_numpy(rows)
        return replace(
            self,
            logits=self.logits[:, at],
            reads=self.reads[:, at],
            labels=self.labels[rows],
            counted=None if self.counted is None else self.counted[rows],
            weights=self.weights[at],
        )

    def pooled(self, pool: _Pool) -> Tensor:
        """Return f, [rows, classes]."""
        return self.summed(pool.weights, pool.temperatures)

    def summed(self, weights: Sequence[float] | Tensor, temperatures: Sequence[float]) -> Tensor:
        """Return f for such weights, [rows, classes]."""
        return pooled(self.logits, self.reads, weights, temperatures, self.prior, type(self.target))

    def loss(self, f: Tensor) -> Tensor:
        """Return the sum of the weighted NLL of logits."""
        return self.target.total(f, torch.from_numpy(self.labels), self.weights)


class Weighted(Strategy):
    """Several strategies, and the weights with which they are summed."""

    name, title = "weighted-ensemble", "weighted"
    targets = ANY_TARGET
    paper = "stacking (Wolpert 1992), ensemble selection (Caruana et al., ICML 2004)"
    cost = "the training of everything that it weighs; what several need is trained once"
    Settings = WeightedSettings
    unread = ()

    @classmethod
    def ignored(cls, settings: WeightedSettings) -> tuple[str, ...]:
        """Return the settings of the head, where the only candidate that follows them is left out."""
        return () if TwoStage.name in settings.candidates else Strategy.unread

    @classmethod
    def unweighed(cls, settings: WeightedSettings) -> str | None:
        """Return what of a classifier that is tried too takes rows to count alike."""
        return next(filter(None, map(Classifier.unweighed, settings.classifiers.values())), None)

    @classmethod
    def fit(cls, ctx: Context, settings: WeightedSettings) -> Fitted:
        """Fit every candidate and weigh them.

        Raises:
            TableError: If none can be fitted.
        """
        before, parts = ctx.cost(), _fitted(ctx, _chosen(ctx, settings))
        rows = _common([part.rows for part in parts.values()])
        said, folds = _said(ctx, parts, rows), row_folds(ctx, rows)
        weighed, single = _crossed(said, folds, _weigh), _crossed(said, folds, _best)
        losses = {"weighted": float(said.loss(weighed)), "best": float(said.loss(single))}
        total = float(said.weights.sum())
        learn, held = (_weigh, weighed) if losses["weighted"] < losses["best"] else (_best, single)
        pool = learn(said)
        used = [at for at, weight in enumerate(pool.weights) if weight > 0]
        names = list(parts)
        ctx.log.record(
            "weights", rows=len(rows), names=names, weights=pool.weights, temperatures=pool.temperatures,
            nll={how: loss / total for how, loss in losses.items()},
        )  # fmt: skip
        shares = {names[at]: pool.weights[at] / sum(pool.weights) for at in used}
        words = ", ".join(f"{name} {share:.0%}" for name, share in sorted(shares.items(), key=lambda one: -one[1]))
        whole = f"weighted ensemble: {words}" if len(used) > 1 else f"the best of {len(parts)}: {names[used[0]]}"
        ctx.log.say(
            f"  {whole}; held-out NLL {min(losses.values()) / total:.3f}, best alone {losses['best'] / total:.3f}"
        )
        network = WeightedNetwork.gathered(
            [parts[names[at]].network for at in used],
            [pool.weights[at] for at in used],
            [pool.temperatures[at] for at in used],
            said.prior.float(),
            ctx.target.kind,
        ).to(ctx.runtime.device)
        freeze(network)
        f_m = {name: parts[name + ALONE].held_on(rows).f_m[name] for name in ctx.modalities if name + ALONE in parts}
        present = present_bits(ctx.sources, rows, torch.device("cpu"))
        notes = {name: _note(parts, name) for name in ctx.modalities} | {WHOLE: whole}
        outputs = Outputs({}, f_m, held.float(), present)
        return Fitted(network, rows, outputs, notes, ctx.cost() - before, parts=parts)


def _note(parts: Mapping[str, Fitted], name: str) -> str:
    return next((part.notes[name] for part in reversed(list(parts.values())) if name in part.notes), "")


def _chosen(ctx: Context, settings: WeightedSettings) -> dict[str, tuple[type[Strategy], Any]]:
    """Return the strategies to fit and their settings, by the names of their rows in the gain table."""
    known: dict[Candidate, dict[str, tuple[type[Strategy], Any]]] = {
        "alone": {name + ALONE: (Alone, AloneSettings(modality=name)) for name in ctx.modalities},
        "ume": {ENSEMBLE: (UME, NoSettings())} if len(ctx.modalities) > 1 else {},
        "linear-probe": {TRADITIONAL: (LinearProbe, NoSettings())},
        "trees": _trees(ctx),
        "two-stage": {TwoStage.name: (TwoStage, NoSettings())},
    }
    own = {name: (Classifier, how) for name, how in settings.classifiers.items()}
    return {row: how for name in dict.fromkeys(settings.candidates) for row, how in known[name].items()} | own


def _trees(ctx: Context) -> dict[str, tuple[type[Strategy], Any]]:
    """Return boosted trees; of numbers randomised ones too, and of those with a long tail trees of logarithms."""
    ways = {Trees.name: Trees.Settings()}
    if ctx.target.skewed(ctx.labels[ctx.split.rows("train")]):
        ways[LOG_TREES] = Trees.Settings(scale="log")
    if ctx.target.averaged:
        ways[RANDOMISED_TREES] = Trees.Settings(grow="randomised")
    return {row: (Trees, settings) for row, settings in ways.items()}


def _fitted(ctx: Context, chosen: Mapping[str, tuple[type[Strategy], Any]]) -> dict[str, Fitted]:
    """Fit what can be fitted; the failure of one candidate does not lose the others."""
    parts, problems = dict[str, Fitted](), list[TableError]()
    # What nobody has to be trained for comes first, so that something stands when time is short.
    order = sorted(chosen, key=lambda name: chosen[name][0] not in (LinearProbe, Trees, Classifier))
    ctx.log.say(f"  plan: {', '.join(order)}, then weights for them{_time_left(ctx)}")
    for number, name in enumerate(order):
        strategy, settings = chosen[name]
        # Everything else costs seconds once there is no time for fine-tuning.
        if parts and strategy is TwoStage and ctx.late():
            ctx.log.warn(f"{name}: left out, the time is up (minutes={ctx.minutes:g})")
            continue
        # No word of steps: those are of the whole run, and this is one of them.
        ctx.log.say(f"fitting {number + 1} of {len(order)}: {name}{_time_left(ctx)}")
        try:
            parts[name] = strategy.fit(ctx, settings)
        except TableError as error:
            ctx.log.warn(f"{name}: left out, {error}")
            problems.append(error)
    if not parts:
        raise problems[0]
    return {name: parts[name] for name in chosen if name in parts}


def _time_left(ctx: Context) -> str:
    """Return what is said of the time for training behind a line, nothing where it has no end."""
    if ctx.deadline == math.inf:
        return ""
    minutes = (ctx.deadline - time.monotonic()) / 60
    return f"; {minutes:.1f} minutes left" if minutes >= 0.05 else "; the time is up, so nothing more is fine-tuned"


def _common(several: Sequence[Rows]) -> Rows:
    """Return the rows that all candidates speak of."""
    rows = several[0]
    for other in several[1:]:
        rows = np.intersect1d(rows, other)
    return rows


def _said(ctx: Context, parts: Mapping[str, Fitted], rows: Rows) -> _Said:
    present = present_bits(ctx.sources, rows, torch.device("cpu"))
    reads = [torch.stack([present[name] for name in set(part.network.owners)]).any(0) for part in parts.values()]
    weights = torch.from_numpy(ctx.row_weights(rows))
    return _Said(
        torch.stack([part.held_on(rows).f.double() for part in parts.values()]),
        torch.stack(reads),
        ctx.labels[rows],
        weights * (int(ctx.units.iloc[rows].nunique()) / float(weights.sum())),
        prior_of(ctx).double().cpu(),
        ctx.target,
        ctx.counted(rows),
    )


def _crossed(said: _Said, folds: Rows, learn: Callable[[_Said], _Pool]) -> Tensor:
    """Return f of each row by what the other folds teach, [rows, classes]."""
    if not folds.any():
        return said.pooled(learn(said))
    f = torch.zeros(said.logits.shape[1:], dtype=torch.float64)
    for fold in np.unique(folds):
        f[torch.from_numpy(folds == fold)] = said.some(folds == fold).pooled(learn(said.some(folds != fold)))
    return f


def _heats(said: _Said) -> list[float]:
    """Return a temperature for each candidate, from the rows that it reads anything of."""
    temperature, heats = measure_of(said.target).temperature, list[float]()
    for logits, reads in zip(said.logits, said.reads, strict=True):
        has = reads.numpy()
        counted = None if said.counted is None else said.counted[has]
        heats.append(temperature(logits[reads].numpy(), said.labels[has], counted) if has.any() else 1.0)
    return heats


def _best(said: _Said) -> _Pool:
    """Return the candidate of the lowest NLL, alone."""
    heats = _heats(said)
    alone = np.eye(len(heats))
    losses = [float(said.loss(said.pooled(_Pool(heats, one.tolist())))) for one in alone]
    return _Pool(heats, alone[int(np.argmin(losses))].tolist())


def _weigh(said: _Said) -> _Pool:
    """Return the weights of the least penalised NLL, without candidates that count for next to nothing."""
    heats, count = _heats(said), len(said.logits)
    weights = _solved(said, heats, np.ones(count, dtype=bool))
    kept = weights > _LEAST * weights.sum()
    if not kept.all():
        weights = _solved(said, heats, kept)
    return _Pool(heats, weights.tolist())


def _solved(said: _Said, heats: list[float], kept: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    center = kept / kept.sum()

    def loss(values: npt.NDArray[np.float64]) -> tuple[float, npt.NDArray[np.float64]]:
        weights = torch.tensor(values, requires_grad=True)
        away = (weights - torch.from_numpy(center)).square().sum() / (2 * _SPREAD**2)
        whole = said.loss(said.summed(weights, heats)) + away
        whole.backward()  # type: ignore[no-untyped-call]
        assert weights.grad is not None
        return float(whole.detach()), weights.grad.numpy()

    bounds = [(0.0, None) if keep else (0.0, 0.0) for keep in kept]
    found: npt.NDArray[np.float64] = minimize(loss, center, jac=True, method="L-BFGS-B", bounds=bounds).x
    return found if found.sum() > 0 else center
