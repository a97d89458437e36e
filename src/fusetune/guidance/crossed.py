"""Three ways to combine modalities, judged on the same rows, none of which they learnt from.

    E = log p(y) + sum_m a_m (f_m - log p_m(y)),  a_m = w_m / T_m >= 0      the calibrated, weighted ensemble
    A = b + sum_m A_m z_m  (+ sum_m g_m(z_m))                               one head, a sum over modalities
    I = A + sum_{m<n} O ((U_m z_m) * (U_n z_n)),  or  A + g(z_1, ..., z_M)  a head that is no sum

f_m is solved on z_m alone; a_m, and a temperature for each pattern of absent modalities (of E and of A), are fitted on
what is said of rows that it was not learnt from. g are small networks, in f_m as well (`correction`). Whether they
help, and which form of I does, is chosen by rows that are not judged: so that I differs from A by nothing but what no
sum can say, A from E by nothing but what is learnt jointly, and neither because a single modality's classes are bent.
What this says of labels and of a number, and what stands for a temperature there, is the affair of the `family`.

The rows are dealt into folds, whole groups together. What is judged on fold k is learnt on the others, in which another
fold j is left out in turn for the choices.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import minimize
from sklearn.decomposition import PCA
from torch import Tensor

from fusetune.config import HeadConfig
from fusetune.data.split import Rows
from fusetune.guidance.correction import Corrected, Kind, correct
from fusetune.guidance.family import Bits, Floats, family_of
from fusetune.heads.base import HeadData, logits_of
from fusetune.heads.solver import fit_crossed

# Solved four times per fold: steps of ten are enough, and the path goes on beyond its ends where that helps.
_HEAD = HeadConfig(penalties=(1.0, 0.1, 1e-2, 1e-3, 1e-4), modality_dropout=0)
_WIDEST = 48  # numbers of a modality that a correction reads
_LARGEST = 10.0  # of a_m


@dataclass(frozen=True)
class Losses:
    """What was said of each row by what did not learn from it, as NLL in nats, float64 [rows].

    Attributes:
        alone: Of each modality alone; of the label's frequencies, or its mean, where a row lacks it.
        ensemble: E.
        additive: A.
        interaction: I.
        weights: a_m by modality, mean over the folds.
        form: The form of I that was chosen most often: additive where none helped.
    """

    alone: dict[str, Floats]
    ensemble: Floats
    additive: Floats
    interaction: Floats
    weights: dict[str, float]
    form: Kind


def learners(folds: Rows, *held: int) -> Bits:
    """Return which rows may be learnt from where these folds are held out."""
    return ~np.isin(folds, held)


def crossed_losses(data: HeadData, folds: Rows, seed: int, tell: Callable[[], None] = lambda: None) -> Losses:
    """Cross-fit all heads.

    Args:
        data: Features by modality, one view; every class or label must occur in three folds at least.
        folds: Fold of each row, three at least, int64 [rows].
        seed: Of the corrections.
        tell: Called after each of `steps` steps.
    """
    return _Crossed(data, folds, seed, tell).losses()


def steps(modalities: int) -> int:
    """Return how many steps `crossed_losses` takes."""
    return 2 * modalities + 4


class _Crossed:
    """What heads say stands by the fold k that is judged, [folds, rows, width], and of rows learnt from, too.

    Of a row of another fold j it is what was learnt without k and j; of the rows of k, what was learnt without k.
    """

    def __init__(self, data: HeadData, folds: Rows, seed: int, tell: Callable[[], None]) -> None:
        self.data, self.folds, self.seed, self.tell = data, folds, seed, tell
        self.family, self.names = family_of(data.target)(data.labels), np.unique(folds)
        self.pairs = [(at, j) for at, k in enumerate(self.names) for j in self.names if j != k]
        self.x = {name: _narrowed(z[0], data.present[name], seed) for name, z in data.z.items()}
        absent = np.unique(np.stack(list(data.present.values()), 1), axis=0, return_inverse=True)[1].ravel()
        self.patterns = [absent == one for one in range(absent.max() + 1)]

    def losses(self) -> Losses:
        """Cross-fit all heads."""
        everyone = np.ones(len(self.folds), dtype=bool)
        prior, evidence = self.prior(everyone), {name: self.evidence(name) for name in self.data.z}
        weights = np.stack([self.weights(prior[at], [g[at] for g in evidence.values()], at) for at in self.places])
        added = np.zeros_like(prior)
        for m, g in enumerate(evidence.values()):
            for own, part in enumerate(self.family.parts):
                added[..., part] += weights[:, m, own, None, None] * g[..., part]
        ensemble = prior + added
        base = self.calibrated(self.solved(self.data, everyone))
        forms: dict[Kind, Corrected] = {kind: self.corrected(base, self.x, kind, everyone) for kind in get_args(Kind)}
        chosen: list[Kind] = [self.best(forms, at) for at in self.places]
        said = {kind: self.calibrated(self.joined(forms[kind])) for kind in {*chosen, "additive"}}
        return Losses(
            {name: self.judged(prior + g) for name, g in evidence.items()},
            self.judged(self.calibrated(ensemble)),
            self.judged(said["additive"]),
            self.judged(np.stack([said[kind][at] for at, kind in enumerate(chosen)])),
            weights=dict(zip(evidence, weights.mean((0, 2)).tolist(), strict=True)),
            form=max(get_args(Kind), key=chosen.count),
        )

    @property
    def shape(self) -> tuple[int, int]:
        """Rows, and how many numbers are said of each."""
        return len(self.folds), self.family.width

    @property
    def places(self) -> range:
        """Places of the judged folds."""
        return range(len(self.names))

    def learns(self, at: int, *more: int) -> Bits:
        """Return which rows may be learnt from where a fold, by its place, is judged and others are left out too."""
        return learners(self.folds, self.names[at], *more)

    def judged(self, said: Floats) -> Floats:
        """Return the NLL of each row by what was learnt without its fold, [rows]."""
        found = np.empty(len(self.folds))
        for at in self.places:
            here = self.folds == self.names[at]
            found[here] = self.family.losses(said[at], here, self.learns(at), self.patterns)
        return found

    def prior(self, has: Bits) -> Floats:
        """Return what these rows tell without inputs: of classes, the log of their frequencies."""
        known = np.stack([self.family.prior(self.learns(at) & has) for at in self.places])[:, None]
        return np.broadcast_to(known, (len(self.names), *self.shape))

    def evidence(self, name: str) -> Floats:
        """Return what a modality alone adds to the prior; zero where it is absent."""
        has = self.data.present[name]
        prior, only = self.prior(has), {name: self.x[name]}
        base = self.solved(self.data.only(name), has)
        f = self.family.unsure(self.joined(self.corrected(base, only, "additive", has)), prior)
        return np.where(has[:, None], f - prior, 0.0)

    def solved(self, data: HeadData, has: Bits) -> Floats:
        """Return what linear heads say of the rows that `data` is about; of others 0, and without labels the prior."""
        places, folds, said = np.flatnonzero(has), self.folds[has], np.zeros((len(self.names), *self.shape))
        for at in self.places:
            learns = self.learns(at)[has]
            if len(np.unique(data.labels[learns], axis=0)) < 2 or len(np.unique(folds[learns])) < 2:
                said[at] = self.prior(has)[at]
                continue
            some = data.some(learns)
            fit = fit_crossed(some, some, folds[learns], _HEAD, self.family.width, self.seed)
            said[at, places[learns]] = fit.held
            said[at, places[~learns]] = logits_of(fit.head, data.some(~learns))
        self.tell()
        return said

    def corrected(self, base: Floats, x: Mapping[str, Tensor], kind: Kind, has: Bits) -> Corrected:
        """Correct what is said without the judged fold k and another one j, which says how long: by pair of k and j."""
        learns = np.stack([self.learns(at, j) & has for at, j in self.pairs])
        stops = np.stack([(self.folds == j) & has for _, j in self.pairs])
        lines = torch.from_numpy(base[[at for at, _ in self.pairs]]).float()
        noise = [self.family.noise(base[at], rows) for (at, _), rows in zip(self.pairs, learns, strict=True)]
        target, labels = self.family.target, self.family.tensor()
        found = correct(x, lines, labels, learns, stops, kind, self.seed, target, noise)
        self.tell()
        return found

    def best(self, forms: Mapping[Kind, Corrected], at: int) -> Kind:
        """Return the form that is best on the rows that the corrections were stopped by."""
        lines = [line for line, (judged, _) in enumerate(self.pairs) if judged == at]
        return min(forms, key=lambda kind: float(forms[kind].nll[lines].mean()))

    def joined(self, corrected: Corrected) -> Floats:
        """Return for each row what was said without its fold; of judged rows, what all networks say together."""
        each = self.family.one(corrected.logits.double().numpy()).reshape(len(self.names), -1, *self.shape)
        said = self.family.mean(each)
        for line, (at, j) in enumerate(self.pairs):
            here = self.folds == j
            said[at, here] = each[at, line % each.shape[1], here]
        return said

    def calibrated(self, said: Floats) -> Floats:
        """Correct certainty for each pattern of absent modalities: of classes, divide logits by a temperature."""
        prior, scaled = self.prior(np.ones(len(self.folds), dtype=bool)), said.copy()
        for at in self.places:
            for here in self.patterns:
                scaled[at, here] = self.family.calibrated(said[at], here & self.learns(at), here, prior[at, 0])
        return scaled

    def weights(self, prior: Floats, evidence: Sequence[Floats], at: int) -> Floats:
        """Return a_m >= 0 of the lowest NLL, [modalities, parts]: what w_m / T_m is all the same."""
        learns = self.learns(at)
        g, known = np.stack([own[learns] for own in evidence]), prior[learns]

        def fitted(part: slice) -> Floats:
            def loss(a: Floats) -> tuple[float, Floats]:
                cost, error = self.family.cost(known[:, part] + np.tensordot(a, g[..., part], 1), learns, part)
                return cost, (error * g[..., part]).sum(2).mean(1)

            start = np.full(len(g), 1 / len(g))
            return np.asarray(minimize(loss, start, jac=True, bounds=[(0, _LARGEST)] * len(g)).x)

        return np.stack([fitted(part) for part in self.family.parts], 1)


def _narrowed(z: npt.NDArray[Any], has: Bits, seed: int) -> Tensor:
    """Return features [rows, dim] as a correction reads them: standardised, few, and zero where absent."""
    known = z[has].astype(np.float64)
    std = known.std(0)
    known = (known - known.mean(0)) / np.where(std > 1e-9, std, 1.0)
    if known.shape[1] > _WIDEST and len(known) > _WIDEST:
        known = PCA(_WIDEST, random_state=seed).fit_transform(known)
        known /= max(known.std(), 1e-9)
    narrow = np.zeros((len(z), known.shape[1]), np.float32)
    narrow[has] = known
    return torch.from_numpy(narrow)
