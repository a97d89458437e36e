"""What each modality is worth: every subset of them, their Shapley shares, missing and misleading inputs.

Everything follows from features that were encoded once (``Network.again``): no encoder runs here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain, combinations
from math import factorial
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from fusetune.augment.random import Moment, uniform
from fusetune.evaluate import metrics
from fusetune.evaluate.intervals import means, proportion
from fusetune.evaluate.metrics import FloatArray, IntArray
from fusetune.evaluate.temperature import softmax
from fusetune.networks import Network, Outputs
from fusetune.progress import track

Subset = frozenset[str]
Masked = Callable[[Mapping[str, Tensor]], FloatArray]

MOST = 8  # modalities; their subsets double with each
RATES = tuple(rate / 10 for rate in range(10))
_DRAWS = 5
INTERFERENCE = ("blank", "mean", "same class", "other class", "noise")


def subsets(names: Iterable[str]) -> list[Subset]:
    """Return all subsets, small ones first, from none to all."""
    given = list(names)
    return [frozenset(some) for size in range(len(given) + 1) for some in combinations(given, size)]


def keep_only(outputs: Outputs, kept: Subset) -> dict[str, Tensor]:
    """Return what is present when only some modalities are kept."""
    return {name: bits if name in kept else torch.zeros_like(bits) for name, bits in outputs.present.items()}


def subset_probabilities(network: Network, outputs: Outputs, temperature: float) -> dict[Subset, FloatArray]:
    """Return the model's probabilities with each subset of its modalities, ``float [rows, classes]``."""
    return {
        kept: softmax(network.again(outputs, keep_only(outputs, kept)).f.cpu().numpy(), temperature)
        for kept in subsets(outputs.present)
    }


def shapley(values: Mapping[frozenset[Any], Any]) -> dict[Any, Any]:
    """Return each player's Shapley value (Shapley 1953) from the value of every subset, numbers or arrays.

    ``phi_m = sum over S without m of |S|! (M - |S| - 1)! / M! * (v(S + m) - v(S))``; they sum to v(all) - v(none).
    Players keep the order in which the subsets name them.
    """
    players = list(dict.fromkeys(chain.from_iterable(values)))
    count = len(players)
    found = {}
    for player in players:
        without = [some for some in values if player not in some]
        weights = [factorial(len(some)) * factorial(count - len(some) - 1) / factorial(count) for some in without]
        found[player] = sum(
            w * (values[some | {player}] - values[some]) for w, some in zip(weights, without, strict=True)
        )
    return found


def subset_table(
    probabilities: Mapping[Subset, FloatArray], labels: IntArray, groups: ArrayLike | None, **how: int
) -> list[dict[str, Any]]:
    """Return accuracy and NLL of every subset with their intervals; rows that lack a modality count as they are."""
    losses = means(np.stack([metrics.nll_rows(p, labels) for p in probabilities.values()], axis=1), groups, **how)
    names = dict.fromkeys(chain.from_iterable(probabilities))
    return [
        {
            "modalities": [name for name in names if name in kept],
            "accuracy": proportion(metrics.correct_rows(p, labels), groups).as_dict(),
            "nll": loss.as_dict(),
        }
        for (kept, p), loss in zip(probabilities.items(), losses, strict=True)
    ]


def shapley_table(
    probabilities: Mapping[Subset, FloatArray], labels: IntArray, groups: ArrayLike | None, **how: int
) -> list[dict[str, Any]]:
    """Return each modality's share of accuracy gained and NLL lowered from no input to all, with intervals.

    Shares are means of the rows' own Shapley values, so that they sum exactly and can be resampled. A positive share of
    NLL is what the modality lowers it by.
    """
    right = shapley({kept: metrics.correct_rows(p, labels).astype(float) for kept, p in probabilities.items()})
    gain = shapley({kept: -metrics.nll_rows(p, labels) for kept, p in probabilities.items()})
    found = means(np.stack([*right.values(), *gain.values()], axis=1), groups, **how)
    return [
        {"modality": name, "accuracy": a.as_dict(), "nll": b.as_dict()}
        for name, a, b in zip(right, found[: len(right)], found[len(right) :], strict=True)
    ]


def missing_masks(names: Sequence[str], keys: IntArray, rate: float, draw: int, seed: int) -> dict[str, Tensor]:
    """Return what is left when each modality of each row is missing with this probability, bool [rows] by modality.

    The same for every method, and nested: what is missing at one rate is missing at every higher one.
    """
    chance = uniform(Moment(seed, view=draw), torch.from_numpy(np.asarray(keys)), "missing", len(names))
    return {name: chance[:, at] >= rate for at, name in enumerate(names)}


def missing_table(
    methods: Mapping[str, Masked],
    names: Sequence[str],
    labels: IntArray,
    keys: IntArray,
    groups: ArrayLike | None,
    **how: int,
) -> list[dict[str, Any]]:
    """Return accuracy and NLL of each method at missing rates 0 to 0.9: means over 5 draws, intervals over rows."""
    columns, places = [], []
    for rate in track(RATES, "taking inputs away"):
        masks = [missing_masks(names, keys, rate, draw, how["seed"]) for draw in range(_DRAWS if rate else 1)]
        for method, masked in methods.items():
            told = [masked(mask) for mask in masks]
            columns.append(np.mean([metrics.correct_rows(p, labels) for p in told], axis=0))
            columns.append(np.mean([metrics.nll_rows(p, labels) for p in told], axis=0))
            places.append((rate, method))
    found = means(np.stack(columns, axis=1), groups, **how)
    return [
        {"rate": rate, "method": method, "accuracy": found[2 * at].as_dict(), "nll": found[2 * at + 1].as_dict()}
        for at, (rate, method) in enumerate(places)
    ]


def interference_table(
    network: Network,
    outputs: Outputs,
    labels: IntArray,
    temperature: float,
    groups: ArrayLike | None,
    **how: int,
) -> list[dict[str, Any]]:
    """Return accuracy and NLL when one modality says something false while claiming to be present.

    It happens to features, after the encoder: all zero (blank), the mean of the rows (mean), those of a random row of
    the same or of another class, or their own with Gaussian noise of the features' deviation added.
    """
    random, told, places = np.random.default_rng(how["seed"]), [], []
    for name in outputs.z:
        for kind in INTERFERENCE:
            z = _disturbed(outputs, name, kind, labels, random)
            f = network.again(outputs, outputs.present, {name: z}).f.cpu().numpy()
            told.append(softmax(f, temperature))
            places.append({"modality": name, "kind": kind})
    if not places:  # a network that reads nothing
        return []
    losses = means(np.stack([metrics.nll_rows(p, labels) for p in told], axis=1), groups, **how)
    return [
        place | {"accuracy": proportion(metrics.correct_rows(p, labels), groups).as_dict(), "nll": loss.as_dict()}
        for place, p, loss in zip(places, told, losses, strict=True)
    ]


def _disturbed(outputs: Outputs, name: str, kind: str, labels: IntArray, random: np.random.Generator) -> Tensor:
    z, has = outputs.z[name], outputs.present[name].numpy()
    known = z[torch.from_numpy(has)] if has.any() else z
    match kind:
        case "blank":
            return torch.zeros_like(z)
        case "mean":
            return known.mean(0, keepdim=True).expand_as(z)
        case "noise":
            noise = torch.from_numpy(random.standard_normal(z.shape).astype(np.float32))
            return z + noise * known.std(0, correction=0)
        case _:
            return z[torch.from_numpy(_donors(labels, has, kind == "same class", random))]


def _donors(labels: IntArray, has: NDArray[np.bool_], same: bool, random: np.random.Generator) -> IntArray:
    """Return for each row a random other row that has the modality, of the same or of another class.

    Where there is none, the row keeps its own.
    """
    rows = np.arange(len(labels))
    found = rows.copy()
    for label in np.unique(labels):
        mine = rows[labels == label]
        pool = rows[has & ((labels == label) == same)]
        if same and len(pool) > 1:
            # A random cycle: nobody is its own donor.
            order = random.permutation(pool)
            found[order] = np.roll(order, 1)
        elif not same and len(pool):
            found[mine] = random.choice(pool, len(mine))
    return found
