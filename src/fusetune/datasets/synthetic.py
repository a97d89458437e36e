"""A table whose answer is known: how much each modality tells alone, in sum, and only by its meeting with others.

Each row has one code per modality, which that modality shows as a vector:

    x_m = signal * E_m[code_m] + t * u_m + g_m * v_m + sigma * noise    (+ the group's vector, in the first modality)

E_m, u_m and v_m are orthonormal. t says which kind of row it is, and every modality shows it. A plain row (t = 0) has
code_m = y with probability w_m, else a code by chance. An interactive row (t = 1, a share `pi` of the rows) has codes
by chance with sum_m code_m = y (mod classes): any M - 1 of them say nothing of y, and all together say everything. g_m
says whether code_m is genuine, and is shown with `flags` only.

What is best on such rows, as noise and group vectors vanish, is in `Synthetic.facts`. Two of these facts are traps. Of
interactive rows no sum of functions of one modality each has an NLL below log(classes): the rows do not change when
codes and label are shifted together; averaging a sum over these shifts leaves logits that are equal for all classes;
and since the log-loss is convex, the average is at least as good. Yet the accuracy of a sum can be far above chance
(3/4 with 2 classes), so that accuracy does not show what is missing. And where one modality is the more reliable, the
best accuracy of two is its own: no gain of accuracy is no lack of information.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from string import ascii_lowercase

import numpy as np
import numpy.typing as npt
import pandas as pd

from fusetune.errors import UserError

LABEL, GROUP, TYPE = "label", "group", "interactive"
_MOST_CODES = 10**5  # combinations of codes that facts are summed over

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Facts:
    """What the best rules reach on new rows of new groups as noise vanishes; NLL in nats.

    Attributes:
        accuracy_alone: By modality: accuracy of the best rule that sees this one only.
        nll_alone: By modality: NLL of the same.
        accuracy: Accuracy of the best rule on all modalities.
        nll: NLL of the same.
        nll_additive: NLL of the best sum of functions of one modality each (late fusion, and every ensemble).
    """

    accuracy_alone: dict[str, float]
    nll_alone: dict[str, float]
    accuracy: float
    nll: float
    nll_additive: float


@dataclass(frozen=True)
class Synthetic:
    """How the table is drawn.

    Attributes:
        rows: Number of rows.
        classes: Number of classes, as of the codes of each modality.
        width: Numbers per vector; at least classes + 1, with `flags` classes + 2.
        pi: Share of interactive rows.
        weights: w_m, the probability that modality m carries the label in a plain row; one for each modality.
        sigma: Deviation of the noise.
        signal: Length of what a code shows; 0: codes are not shown.
        groups: Number of groups; None: every row is one.
        group_effect: Length of the group's vector in the first modality.
        purity: Probability that a row has the label of its group, else a label by chance.
        flags: Whether modalities show which codes are genuine.
        seed: The same seed draws the same table.

    Raises:
        UserError: If there is no such table.
    """

    rows: int = 600
    classes: int = 3
    width: int = 8
    pi: float = 0.0
    weights: Sequence[float] = (0.8, 0.6)
    sigma: float = 0.1
    signal: float = 1.0
    groups: int | None = None
    group_effect: float = 0.0
    purity: float = 0.0
    flags: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        shares = {"pi": self.pi, "purity": self.purity, **{f"weights[{m}]": w for m, w in enumerate(self.weights)}}
        wrong = [f"{name} is {share:g}" for name, share in shares.items() if not 0 <= share <= 1]
        least = self.classes + 1 + self.flags
        if wrong:
            raise UserError(f"{wrong[0]}, and must be from 0 to 1")
        if not 2 <= len(self.weights) <= len(ascii_lowercase):
            raise UserError(f"weights: give from 2 to {len(ascii_lowercase)}, one for each modality")
        if self.classes < 2 or self.rows < 1 or (self.groups is not None and self.groups < 1):
            raise UserError("there must be at least 2 classes, 1 row, and 1 group")
        if self.width < least:
            raise UserError(f"width is {self.width}, and must be at least {least}: what is shown takes as many axes")
        if min(self.sigma, self.signal, self.group_effect) < 0:
            raise UserError("sigma, signal and group_effect must not be negative")

    @property
    def modalities(self) -> list[str]:
        """Names of the modalities: a, b, c and so on."""
        return list(ascii_lowercase[: len(self.weights)])

    @property
    def vectors(self) -> dict[str, str]:
        """Which columns are which modality's vector, as `fusetune.fit` takes it."""
        return {name: f"{name}_*" for name in self.modalities}

    def table(self) -> pd.DataFrame:
        """Draw the rows.

        Returns:
            Columns `a_0`, `a_1`, ..., `b_0`, ... of the vectors, then `label` (`class 0` and so on), `group`, and
            `interactive`, whether the row is: for whoever judges, no input.
        """
        random, rows = np.random.default_rng(self.seed), self.rows
        group = np.arange(rows) if self.groups is None else random.integers(0, self.groups, rows)
        told = random.integers(0, self.classes, int(group.max()) + 1)[group]
        y = np.where(random.random(rows) < self.purity, told, random.integers(0, self.classes, rows))
        interactive = random.random(rows) < self.pi
        genuine = (random.random((rows, len(self.weights))) < np.array(self.weights)) & ~interactive[:, None]
        codes = np.where(genuine, y[:, None], random.integers(0, self.classes, genuine.shape))
        # The label is drawn first, and the first code completes the sum: it is uniform all the same.
        codes[:, 0] = np.where(interactive, (y - codes[:, 1:].sum(1)) % self.classes, codes[:, 0])
        blocks: dict[str, Floats] = {}
        for at, name in enumerate(self.modalities):
            axes = self._axes(random)
            x = self.signal * axes[codes[:, at]] + np.outer(interactive, axes[self.classes])
            if self.flags:
                x += np.outer(genuine[:, at], axes[self.classes + 1])
            if at == 0 and self.group_effect:
                x += self.group_effect * _directions(random, int(group.max()) + 1, self.width)[group]
            x += self.sigma * random.normal(size=x.shape)
            blocks |= {f"{name}_{i}": x[:, i] for i in range(self.width)}
        frame = pd.DataFrame(blocks)
        frame[LABEL], frame[GROUP] = [f"class {k}" for k in y], [f"group {k}" for k in group]
        frame[TYPE] = interactive
        return frame

    def facts(self) -> Facts:
        """Return what the best rules reach.

        Raises:
            UserError: If there are more than 100,000 combinations of codes.
        """
        chance, unknown = 1 / self.classes, float(np.log(self.classes))
        alone = {name: self._plain([w]) for name, w in zip(self.modalities, self.weights, strict=True)}
        accuracy, nll = self._plain(self.weights)
        plain, share = 1 - self.pi, self.pi
        return Facts(
            accuracy_alone={name: plain * best + share * chance for name, (best, _) in alone.items()},
            nll_alone={name: plain * lowest + share * unknown for name, (_, lowest) in alone.items()},
            accuracy=plain * accuracy + share,
            nll=plain * nll,
            # Codes of a plain row are independent given y, so that its best rule is a sum.
            nll_additive=plain * nll + share * unknown,
        )

    def _axes(self, random: np.random.Generator) -> Floats:
        """Return orthonormal vectors, one per code, one for t and one for g, [classes + 2 or fewer, width]."""
        count = self.classes + 1 + self.flags
        return np.asarray(np.linalg.qr(random.normal(size=(self.width, count)))[0].T)

    def _plain(self, weights: Sequence[float]) -> tuple[float, float]:
        """Return accuracy and NLL of the best rule on plain rows that sees modalities of these weights."""
        missed = float(np.prod([1 - w for w in weights]))
        if self.flags:
            return 1 - missed * (1 - 1 / self.classes), missed * float(np.log(self.classes))
        if self.classes ** len(weights) > _MOST_CODES:
            raise UserError("there are too many combinations of codes to sum over; take fewer classes or modalities")
        chances = [w * np.eye(self.classes) + (1 - w) / self.classes for w in weights]
        accuracy = nll = 0.0
        for codes in product(range(self.classes), repeat=len(weights)):
            joint = np.prod([chance[:, code] for chance, code in zip(chances, codes, strict=True)], 0) / self.classes
            seen = joint[joint > 0]
            if len(seen):
                accuracy += float(seen.max())
                nll -= float((seen * np.log(seen / seen.sum())).sum())
        return accuracy, nll


def _directions(random: np.random.Generator, count: int, width: int) -> Floats:
    """Return vectors of length 1 in random directions, [count, width]."""
    vectors = random.normal(size=(count, width))
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
