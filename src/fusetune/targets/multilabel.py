"""Any number of labels of several: log-odds, binary cross-entropy of every label."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional as F

from fusetune.config import Config
from fusetune.data.several import is_list
from fusetune.data.spelling import word_of
from fusetune.data.table import Table
from fusetune.data.weights import Weights
from fusetune.errors import ConfigError, TableError, listed
from fusetune.targets.base import Boosted, Target, Truth
from fusetune.targets.links import Bernoulli

SEPARATOR = ";"


class Multilabel(Target):
    """f are log-odds, and sigmoid(f) are the probabilities of the labels."""

    kind, names_word = "multilabel", "labels"
    loss_word, score_word = "NLL", "label accuracy"
    prior_word = "label frequencies"
    link = Bernoulli()
    always = "It says of each of its labels whether a row has it, also of rows that have others."

    @classmethod
    def learn(cls, table: Table, label: str) -> Self:
        """Return the labels of a column, sorted.

        Raises:
            TableError: If a cell is empty, no label is there, or one is in every row or in one only.
        """
        cells = labels_of(table, label)
        names = sorted({name for cell in cells for name in cell})
        if not names:
            raise TableError(f"label column '{label}' of {table.name} holds no label in any row: nothing to learn")
        for name in names:
            count = sum(name in cell for cell in cells)
            if count < 2 or count > len(cells) - 2:
                where = "one row only" if count == 1 else "all rows but one" if count < len(cells) else "every row"
                raise TableError(
                    f"label column '{label}': '{name}' is in {where}: nothing to learn of it; take it out of the cells"
                )
        return cls(names)

    def describe(self) -> str:
        """Return how many labels there are."""
        return f"{self.width} labels, any number a row"

    def called(self, label: str, names: str) -> str:
        """Return that it tells labels."""
        return f"A model of the labels in {label}, any number of {self.width} a row ({names})"

    def answered(self, f: Tensor, temperature: float | Tensor = 1.0) -> Tensor:
        """Return sigmoid(f / T)."""
        return torch.sigmoid(f / temperature)

    def facts(self) -> dict[str, Any]:
        """Return nothing: names are kept beside it."""
        return {}

    def encode(self, table: Table, label: str) -> Truth:
        """Return label bits, float32 [rows, labels]."""
        places = {name: at for at, name in enumerate(self.names)}
        cells = labels_of(table, label)
        truth = np.zeros((len(cells), self.width), dtype=np.float32)
        for row, cell in enumerate(cells):
            if unknown := [name for name in cell if name not in places]:
                raise TableError(
                    f"label column '{label}' holds {listed(unknown)} in row {row}; the model knows "
                    f"{listed(self.names, 12)}"
                )
            truth[row, [places[name] for name in cell]] = 1.0
        return truth

    def strata(self, truth: Truth) -> npt.NDArray[np.int64]:
        """Return the rarest label of each row, or that it has none."""
        rarity = np.argsort(np.argsort(truth.sum(0), kind="stable"), kind="stable")
        rank = np.where(truth > 0, rarity, self.width)
        return np.asarray(rank.min(1), dtype=np.int64)

    def lost(self, truth: Truth, some: npt.NDArray[np.bool_]) -> list[Any]:
        """Return the labels that no row has among these, or every one."""
        told, left = (_told_apart(part > 0) for part in (truth, truth[some]))
        return [name for at, name in enumerate(self.names) if told[at] and not left[at]]

    def prior(self, truth: Truth, sample_weight: Weights | None = None) -> Tensor:
        """Return log-odds of the label frequencies, with half a row more with and without each."""
        weights = np.ones(len(truth)) if sample_weight is None else sample_weight
        has = weights @ truth + 0.5
        return torch.from_numpy(np.log(has / (weights.sum() + 1 - has))).float()

    def weights(
        self, config: Config, truth: Truth, train: npt.NDArray[np.int64], sample_weight: Weights | None = None
    ) -> Weights:
        """Return ones."""
        if config.data.class_weights != "none":
            raise ConfigError("data.class_weights weighs classes, and a row can have several labels; leave it out")
        return np.ones(len(truth))

    @classmethod
    def losses(cls, f: Tensor, truth: Tensor, smoothing: float = 0.0) -> Tensor:
        """Return the binary cross-entropy of each row summed over labels."""
        target = truth.to(f) * (1 - smoothing) + smoothing / 2
        return F.binary_cross_entropy_with_logits(f, target, reduction="none").sum(1)

    @classmethod
    def scores(cls, f: Tensor, truth: Tensor) -> Tensor:
        """Return the share of labels that are decided rightly at even odds."""
        return ((f > 0) == (truth > 0)).to(f.dtype).mean(1)

    @classmethod
    def summable(cls, f: Tensor) -> Tensor:
        """Return log-odds."""
        return f

    @classmethod
    def mean_of_views(cls, f: Tensor) -> Tensor:
        """Return the log-odds of the mean probability."""
        return torch.logit(f.double().sigmoid().mean(0), eps=1e-12)

    @classmethod
    def boosted(cls, truth: Truth, width: int) -> list[Boosted]:
        """Return a booster for every label."""
        return [Boosted({"objective": "binary"}, truth[:, at], np.eye(width)[at : at + 1]) for at in range(width)]


def _told_apart(bits: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Return which labels some rows have and some have not, bool [labels]."""
    return np.asarray(bits.any(0) & ~bits.all(0))


def labels_of(table: Table, label: str) -> list[list[str]]:
    """Return the labels of each row, each once: of a list, of JSON's list, or of words with `;` between them.

    Raises:
        TableError: Naming the rows that are empty.
    """
    series = table.column(label)
    cells = [split_labels(value) for value in series]
    missing = [row for row, cell in enumerate(cells) if cell is None]
    if missing:
        raise TableError(
            f"label column '{label}' of {table.name} is empty in row(s) {listed(missing)}{table.empty(label)}; where a "
            "row has none of the labels, write []"
        )
    return [cell for cell in cells if cell is not None]


def split_labels(value: Any) -> list[str] | None:
    """Return the labels of a cell; None where it is empty."""
    if is_list(value):
        parts: Sequence[Any] = list(value)
    elif pd.isna(value):
        return None
    else:
        text = str(value).strip()
        if text.startswith("[") and text.endswith("]"):
            try:
                parts = json.loads(text)
            except ValueError:
                parts = [part.strip(" '\"") for part in text[1:-1].split(",") if part.strip()]
        else:
            parts = text.split(SEPARATOR)
    return list(dict.fromkeys(word for part in parts if (word := word_of(part).strip())))
