"""What each modality is worth: every subset of them, their Shapley shares, missing and misleading inputs.

Everything follows from features that were encoded once (``Network.again``): no encoder runs here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, combinations, product
from math import factorial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fusetune.augment.random import Moment, uniform
from fusetune.evaluate.bootstrap import Groups
from fusetune.evaluate.intervals import Interval, means
from fusetune.evaluate.measures import CLASSES, Measure
from fusetune.evaluate.metrics import FloatArray, IntArray, decisions
from fusetune.evaluate.temperature import Heat
from fusetune.networks import Network, Outputs
from fusetune.progress import track
from fusetune.targets import Truth

Subset = frozenset[str]
Masked = Callable[[Mapping[str, Tensor]], FloatArray]

MOST = 8  # modalities; their subsets double with each
RATES = tuple(rate / 10 for rate in range(10))
_DRAWS = 5
INTERFERENCE = ("blank", "mean", "same class", "other class", "noise")


@dataclass(frozen=True, eq=False)
class Probe:
    """A network and what it says of some rows as they are, to be asked again with less present or other features.

    Logits are divided by the temperature. `decide` says which class probabilities [rows, classes] stand for, and
    `measure` what is predicted: answers are probabilities of classes, or what else it makes of what the network says.
    `said` is what the network has said with less present, by what was: subsets, missing rates and shares ask alike.
    """

    network: Network
    outputs: Outputs
    temperature: Heat
    decide: Callable[[FloatArray], IntArray] = decisions
    measure: Measure[Any] = CLASSES
    said: dict[bytes, Tensor] = field(default_factory=dict)

    @property
    def p(self) -> FloatArray:
        """Answers for the rows as they are, ``float [rows, classes]``."""
        return self.measure.say(self.outputs.f.numpy(), self.temperature)

    def again(self, present: Mapping[str, Tensor], z: Mapping[str, Tensor] | None = None) -> FloatArray:
        """Return their answers with this present, and other features of some modalities (`Network.again`)."""
        if z is not None:
            return self.measure.say(self.network.again(self.outputs, present, z).f.cpu().numpy(), self.temperature)
        has = [(bits & self.outputs.present[name]).cpu().numpy() for name, bits in sorted(present.items())]
        key = np.packbits(np.concatenate(has)).tobytes() if has else b""
        if key not in self.said:
            self.said[key] = self.network.again(self.outputs, present).f.cpu()
        return self.measure.say(self.said[key].numpy(), self.temperature)


@dataclass(frozen=True)
class SubsetScore:
    """How the model fares with some of its modalities."""

    modalities: list[str]
    accuracy: Interval
    nll: Interval


@dataclass(frozen=True)
class Share:
    """A modality's share of the accuracy gained and the NLL lowered from no input to all."""

    modality: str
    accuracy: Interval
    nll: Interval


@dataclass(frozen=True)
class MissingScore:
    """How a method fares when each modality of each row is missing with some probability."""

    rate: float
    method: str
    accuracy: Interval
    nll: Interval


@dataclass(frozen=True)
class MisledScore:
    """How the model fares when a modality says something false in some way, a word of `INTERFERENCE`."""

    modality: str
    kind: str
    accuracy: Interval
    nll: Interval


def subsets(names: Iterable[str]) -> list[Subset]:
    """Return all subsets, small ones first, from none to all."""
    players = list(names)
    return [frozenset(some) for size in range(len(players) + 1) for some in combinations(players, size)]


def keep_only(outputs: Outputs, kept: Subset) -> dict[str, Tensor]:
    """Return what is present when only some modalities are kept."""
    return {name: bits if name in kept else torch.zeros_like(bits) for name, bits in outputs.present.items()}


def subset_probabilities(probe: Probe) -> dict[Subset, FloatArray]:
    """Return the model's probabilities with each subset of its modalities, ``float [rows, classes]``."""
    return {kept: probe.again(keep_only(probe.outputs, kept)) for kept in subsets(probe.outputs.present)}


def shapley(values: Mapping[frozenset[Any], Any]) -> dict[Any, Any]:
    """Return each player's Shapley value (Shapley 1953) from the value of every subset, numbers or arrays.

    ``phi_m = sum over S without m of |S|! (M - |S| - 1)! / M! * (v(S + m) - v(S))``; they sum to v(all) - v(none).
    Players keep the order in which the subsets name them.
    """
    players = list(dict.fromkeys(chain.from_iterable(values)))
    count = len(players)
    shares = {}
    for player in players:
        without = [some for some in values if player not in some]
        weights = [factorial(len(some)) * factorial(count - len(some) - 1) / factorial(count) for some in without]
        shares[player] = sum(
            w * (values[some | {player}] - values[some]) for w, some in zip(weights, without, strict=True)
        )
    return shares


def subset_table(
    probabilities: Mapping[Subset, FloatArray],
    labels: Truth,
    groups: Groups,
    measure: Measure[Any] = CLASSES,
    **how: int,
) -> list[SubsetScore]:
    """Return accuracy and NLL of every subset with their intervals; rows that lack a modality count as they are."""
    names = dict.fromkeys(chain.from_iterable(probabilities))
    scores = measure.pairs(list(probabilities.values()), labels, groups, **how)
    return [
        SubsetScore([name for name in names if name in kept], *pair)
        for kept, pair in zip(probabilities, scores, strict=True)
    ]


def shapley_table(
    probabilities: Mapping[Subset, FloatArray],
    labels: Truth,
    groups: Groups,
    measure: Measure[Any] = CLASSES,
    **how: int,
) -> list[Share]:
    """Return each modality's share of accuracy gained and NLL lowered from no input to all, with intervals.

    Shares are means of the rows' own Shapley values, so that they sum exactly and can be resampled. A positive share of
    NLL is what the modality lowers it by.
    """
    right = shapley({kept: measure.right_rows(p, labels) for kept, p in probabilities.items()})
    gain = shapley({kept: -measure.lost_rows(p, labels) for kept, p in probabilities.items()})
    rights = measure.score_means(np.stack(list(right.values()), axis=1), labels, groups, perfect=0.0, **how)
    gains = means(np.stack(list(gain.values()), axis=1), groups, **how)
    return [Share(*row) for row in zip(right, rights, gains, strict=True)]


def missing_masks(names: Sequence[str], keys: IntArray, rate: float, draw: int, seed: int) -> dict[str, Tensor]:
    """Return what is left when each modality of each row is missing with this probability, bool [rows] by modality.

    The same for every method, and nested: what is missing at one rate is missing at every higher one.
    """
    chance = uniform(Moment(seed, view=draw), torch.from_numpy(np.asarray(keys)), "missing", len(names))
    return {name: chance[:, at] >= rate for at, name in enumerate(names)}


def missing_table(
    methods: Mapping[str, Masked],
    names: Sequence[str],
    labels: Truth,
    keys: IntArray,
    groups: Groups,
    measure: Measure[Any] = CLASSES,
    **how: int,
) -> list[MissingScore]:
    """Return accuracy and NLL of each method at missing rates 0 to 0.9: means over 5 draws, intervals over rows."""
    right, lost = missing_rows(methods, names, labels, keys, measure, seed=how["seed"])
    places = [(rate, method) for rate in RATES for method in methods]
    rights, losses = (
        np.stack([rows[method][:, RATES.index(rate)] for rate, method in places], axis=1) for rows in (right, lost)
    )
    scores = zip(measure.score_means(rights, labels, groups, **how), means(losses, groups, **how), strict=True)
    return [MissingScore(*place, *pair) for place, pair in zip(places, scores, strict=True)]


def missing_rows(
    methods: Mapping[str, Masked],
    names: Sequence[str],
    labels: Truth,
    keys: IntArray,
    measure: Measure[Any] = CLASSES,
    *,
    seed: int,
) -> tuple[dict[str, FloatArray], dict[str, FloatArray]]:
    """Return how often each row is decided rightly at each of `RATES`, and its NLL: means over 5 draws.

    Returns:
        By method, ``float [rows, rates]`` each.
    """
    masks = {
        rate: [missing_masks(names, keys, rate, draw, seed) for draw in range(_DRAWS if rate else 1)] for rate in RATES
    }
    right, lost = dict[str, FloatArray](), dict[str, FloatArray]()
    for method in track(list(methods), "taking inputs away"):
        asked = _by_pattern(methods[method], names, labels, measure)
        rows = [np.mean([asked(mask) for mask in draws], axis=0) for draws in masks.values()]
        right[method], lost[method] = (np.stack([row[at] for row in rows], axis=1) for at in (0, 1))
    return right, lost


def _by_pattern(
    masked: Masked, names: Sequence[str], labels: Truth, measure: Measure[Any]
) -> Callable[[Mapping[str, Tensor]], tuple[FloatArray, FloatArray]]:
    """Return who says which rows are decided rightly, and their NLL, ``float [rows]`` each, with this present.

    A row's answer depends on its own inputs alone. So with few modalities every subset is asked of all rows, once, and
    each row is told by its own; with many, whoever is asked answers for the mask as it is.
    """

    def judged(mask: Mapping[str, Tensor]) -> tuple[FloatArray, FloatArray]:
        p = masked(mask)
        return measure.right_rows(p, labels), measure.lost_rows(p, labels)

    if 2 ** len(names) >= _DRAWS * (len(RATES) - 1):
        return judged
    every = [{name: torch.full((len(labels),), bool(code >> at & 1)) for at, name in enumerate(names)}
             for code in range(2 ** len(names))]  # fmt: skip
    right, lost = (np.stack(some) for some in zip(*map(judged, every), strict=True))

    def looked_up(mask: Mapping[str, Tensor]) -> tuple[FloatArray, FloatArray]:
        code = sum(mask[name].long() << at for at, name in enumerate(names))
        places = np.zeros(len(labels), dtype=np.int64) + np.asarray(code)
        rows = np.arange(len(labels))
        return right[places, rows], lost[places, rows]

    return looked_up


def interference_table(probe: Probe, labels: Truth, groups: Groups, **how: int) -> list[MisledScore]:
    """Return accuracy and NLL when one modality says something false while claiming to be present.

    It happens to features, after the encoder: all zero (blank), the mean of the rows (mean), those of a random row of
    the same or of another class, or their own with Gaussian noise of the features' deviation added.
    """
    places, versions = misled(probe, labels, how["seed"])
    if not places:  # a network that reads nothing
        return []
    scores = probe.measure.pairs(versions, labels, groups, **how)
    return [MisledScore(*place, *pair) for place, pair in zip(places, scores, strict=True)]


def misled(probe: Probe, labels: Truth, seed: int) -> tuple[list[tuple[str, str]], list[FloatArray]]:
    """Return each modality and way of `interference_table`, and the probabilities then, ``float [rows, classes]``."""
    random, versions, labels = np.random.default_rng(seed), [], probe.measure.target.strata(labels)
    places = list(product(probe.outputs.z, INTERFERENCE))
    for name, kind in places:
        z = _disturbed(probe.outputs, name, kind, labels, random)
        versions.append(probe.again(probe.outputs.present, {name: z}))
    return places, versions


def _disturbed(outputs: Outputs, name: str, kind: str, labels: IntArray, random: np.random.Generator) -> Tensor:
    z, has = outputs.z[name], outputs.present[name].numpy()
    here = z[torch.from_numpy(has)] if has.any() else z
    match kind:
        case "blank":
            return torch.zeros_like(z)
        case "mean":
            return here.mean(0, keepdim=True).expand_as(z)
        case "noise":
            noise = torch.from_numpy(random.standard_normal(z.shape).astype(np.float32))
            return z + noise * here.std(0, correction=0)
        case _:
            return z[torch.from_numpy(_donors(labels, has, kind == "same class", random))]


def _donors(labels: IntArray, has: NDArray[np.bool_], same: bool, random: np.random.Generator) -> IntArray:
    """Return for each row a random other row that has the modality, of the same or of another class.

    Where there is none, the row keeps its own.
    """
    rows = np.arange(len(labels))
    donors = rows.copy()
    for label in np.unique(labels):
        mine = rows[labels == label]
        pool = rows[has & ((labels == label) == same)]
        if same and len(pool) > 1:
            # A random cycle: nobody is its own donor.
            order = random.permutation(pool)
            donors[order] = np.roll(order, 1)
        elif not same and len(pool):
            donors[mine] = random.choice(pool, len(mine))
    return donors
