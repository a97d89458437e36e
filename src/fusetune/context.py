"""One run as its stages see it: modalities as sources, the split, the labels, the store and the settings."""

from __future__ import annotations

import copy
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor

from fusetune.augment import Augment
from fusetune.augment.bags import drawn_places
from fusetune.augment.random import Moment
from fusetune.config import Config, SeveralConfig, TrainConfig
from fusetune.data.bags import BagSource
from fusetune.data.schema import Modality
from fusetune.data.source import Inputs, Source, to_device
from fusetune.data.split import Rows, Split
from fusetune.data.weights import Weights, shared
from fusetune.encoders import Bagged, Encoder
from fusetune.features.bags import encode_bags
from fusetune.features.store import Array, Encoding, FeatureStore
from fusetune.inputs import Reader
from fusetune.progress import Log
from fusetune.runtime import Runtime
from fusetune.targets import Target, Truth
from fusetune.train.loop import History

T = TypeVar("T")
Words = tuple[str, ...]
# Epoch number of the head's views: no training epoch has it, so the head sees draws that no encoder was trained on.
_HEAD_EPOCH = 1_000_000
# Seconds that count as the first minutes, and what is kept of them and of all others for what comes after training.
_FEW, _OF_FEW, _OF_MORE = 240.0, 0.25, 0.1


@dataclass(frozen=True)
class Cost:
    """What was spent.

    Attributes:
        seconds: By stage.
        passes: Rows through an encoder, by modality and purpose.
    """

    seconds: dict[str, float]
    passes: dict[str, float]

    def __add__(self, other: Cost) -> Cost:
        return Cost(_sum(self.seconds, other.seconds, 1), _sum(self.passes, other.passes, 1))

    def __sub__(self, other: Cost) -> Cost:
        return Cost(_sum(self.seconds, other.seconds, -1), _sum(self.passes, other.passes, -1))


def _sum(one: dict[str, float], other: dict[str, float], sign: int) -> dict[str, float]:
    return {name: one.get(name, 0) + sign * other.get(name, 0) for name in {**one, **other}}


@dataclass
class Context:
    """One run.

    Attributes:
        modalities: The model's inputs by name.
        readers: Each modality's fitted pre-processing.
        sources: Raw inputs of the run's table, by modality.
        augments: What may happen to them in training, by modality.
        encodings: What may happen to them when features are stored and predictions made, by modality.
        pristine: Each modality's encoder before any training; copied, never trained.
        target: What is predicted.
        labels: Each row's label as the target encodes it: of classes their index, int64 [rows].
        label_weights: What each row weighs in losses by its label, float64 [rows], mean 1 over the training rows.
        keys: Row key per row, int64 [rows].
        ids: Row id per row.
        groups: Group per row, in tidy words, if rows are grouped.
        units: What stays on one side of every division: the group or the row, joined where they hold copies.
        folder: Where stages keep their checkpoints; None: nowhere.
        key: Hash of everything that the stages depend on.
        histories: What each training stage did.
        trained_rows: Row passes through each encoder in training.
        over: Must training end? Asked after each epoch.
        deadline: When training must end, by `time.monotonic()`.
        minutes: How long the whole run may take, where that is limited.
        spared: Seconds on the clock that were spent before on what was remembered.
        sample_weight: What each row counts by itself, in losses, choices and scores, float64 [rows], mean 1; None: all
            rows count alike.
    """

    config: Config
    runtime: Runtime
    log: Log
    modalities: dict[str, Modality]
    readers: dict[str, Reader]
    sources: dict[str, Source]
    augments: dict[str, Augment]
    encodings: dict[str, Augment]
    pristine: dict[str, Encoder]
    split: Split
    target: Target
    labels: Truth
    label_weights: npt.NDArray[np.float64]
    keys: npt.NDArray[np.int64]
    ids: pd.Series
    groups: pd.Series | None
    units: pd.Series
    store: FeatureStore
    folder: Path | None
    key: str
    resume: bool = False
    histories: dict[str, History] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    trained_rows: Counter[str] = field(default_factory=Counter)
    over: Callable[[], bool] = lambda: False
    deadline: float = math.inf
    minutes: float | None = None
    spared: float = 0.0
    sample_weight: Weights | None = None
    _memory: dict[Words, tuple[Any, Cost, float]] = field(default_factory=dict)
    _reused: Cost = field(default_factory=lambda: Cost({}, {}))

    def settings(self, name: str) -> TrainConfig:
        """Return the training settings of a modality."""
        section: TrainConfig = getattr(self.config, self.modalities[name].kind).train
        return section

    def fresh_encoder(self, name: str) -> Encoder:
        """Return a copy of a modality's pretrained encoder, on the device."""
        return copy.deepcopy(self.pristine[name]).to(self.runtime.device)

    def frozen_encoder(self, name: str) -> Encoder:
        """Return a modality's encoder as it is before any training: one for all who only read it."""

        def make() -> Encoder:
            return self.fresh_encoder(name).eval().requires_grad_(False)

        return self.remember(("as it is", name), make)

    def remember(self, what: Words, make: Callable[[], T]) -> T:
        """Return what was made under this name before, or make it: several strategies pay for one training.

        Names are words side by side, so that no input's name makes one look like another.
        Whoever gets it must not change it. What it cost counts for everybody who asks for it (`cost`).
        """
        if what in self._memory:
            self._reused += self._memory[what][1]
            self.spared += self._memory[what][2]
        else:
            before, started = self.cost(), time.perf_counter() + self.spared
            made = make()
            self._memory[what] = (made, self.cost() - before, time.perf_counter() + self.spared - started)
        return self._memory[what][0]  # type: ignore[no-any-return]

    def remembers(self, what: Words) -> bool:
        """Return whether something was made under this name."""
        return what in self._memory

    def forget(self, *start: str) -> None:
        """Let go of what was made under names with these first words: nobody will ask for it again."""
        for what in [name for name in self._memory if name[: len(start)] == start]:
            del self._memory[what]

    @contextmanager
    def within(self, share: float, least: float = 0.0) -> Iterator[None]:
        """End trainings within the block when a share of the time that is left until the deadline is over.

        What is worth nothing where it has hardly begun is given some seconds at `least`.
        """
        now, asked, whole = time.monotonic(), list[float](), self.over
        end = now + max(least, share * max(0.0, self.deadline - now))

        def over() -> bool:
            # Asked before the first epoch and after each: the next one must end in time as well.
            asked.append(time.monotonic())
            longest = max((later - earlier for earlier, later in pairwise(asked)), default=0.0)
            return self.runtime.ranks.agree(whole() or asked[-1] + longest > end)

        if self.deadline < math.inf:
            self.over = over
        try:
            yield
        finally:
            self.over = whole

    def limit(self, minutes: float, left: float) -> None:
        """Let training end in time for what comes after it.

        Heads, the judge and the report are left a quarter of the first minutes and a tenth of all others: what they
        take grows with the rows, and hardly with how long networks were trained.

        Args:
            minutes: How long the whole run may take.
            left: Seconds of them that are left.
        """
        few = min(left, _FEW)
        after = _OF_FEW * few + _OF_MORE * (left - few)
        self.minutes, self.deadline = minutes, time.monotonic() + left - after

    def late(self, seconds: float = 0.0) -> bool:
        """Return whether what takes so long would end after the deadline; of several ranks, the first says so."""
        return self.runtime.ranks.agree(time.monotonic() + seconds > self.deadline)

    def cost(self) -> Cost:
        """Return what the run has cost up to now; what was remembered counts each time that it was asked for."""
        passes: dict[str, float] = {f"{name}, training": rows for name, rows in self.trained_rows.items()}
        passes |= {f"{name}, features": rows for name, rows in self.store.passes.items()}
        return Cost(dict(self.seconds), passes) + self._reused

    def moment(self, epoch: int, view: int = 0) -> Moment:
        """Return the moment of a random view of this run."""
        return Moment(self.config.seed, epoch, view)

    def plain(self, name: str, raw: Inputs) -> Any:
        """Return a modality's inputs on the device, without randomness."""
        return self.encodings[name].plain(to_device(raw, self.runtime.device))

    def row_keys(self, rows: Rows) -> Tensor:
        """Return the keys of some rows on the device, int64 [rows]."""
        return torch.from_numpy(self.keys[rows]).to(self.runtime.device)

    def read(self, names: Sequence[str], rows: Rows, epoch: int) -> dict[str, Any]:
        """Return raw inputs for training, by modality, of the rows that have it; what none has is left out.

        Of rows with many elements some are drawn, others in each epoch (`image.several.most`).
        """
        found: dict[str, Any] = {}
        for name in names:
            source = self.sources[name]
            if not len(have := rows[source.present[rows]]):
                continue
            if isinstance(source, BagSource):
                places = drawn_places(source, have, self.keys, self.moment(epoch), self.several(name).most)
                found[name] = source.read_places(places, have)
            else:
                found[name] = source.read(have)
        return found

    def several(self, name: str) -> SeveralConfig:
        """Return the settings of a modality that has several elements in a row."""
        section: SeveralConfig = getattr(self.config, self.modalities[name].kind).several
        return section

    def augmented(self, name: str, raw: Inputs, rows: Rows, epoch: int, views: int = 1) -> Any:
        """Return a modality's inputs on the device, freshly augmented: all rows of the first view, then the next."""
        moments = [self.moment(epoch, view) for view in range(views)]
        return self.augments[name].draw_views(to_device(raw, self.runtime.device), self.row_keys(rows), moments)

    def encode(self, name: str, encoder: Encoder, rows: Rows, views: Sequence[Moment] | None = None) -> Array:
        """Return features of some rows, [views or 1, rows, dim]; views that cannot differ are encoded once."""
        if views is not None and not self.encodings[name].varies:
            plain = self.encode(name, encoder, rows)
            return np.broadcast_to(plain, (len(views), *plain.shape[1:]))
        batch_size = max(32, self.settings(name).batch_size)
        what = Encoding(name, encoder, self.sources[name], self.encodings[name], self.keys, batch_size)
        if isinstance(encoder, Bagged) and isinstance(what.source, BagSource):
            return encode_bags(self.store, what, encoder, what.source, rows, views)
        return self.store.encode(what, rows, views)

    def views(self) -> list[Moment]:
        """Return the moments of the head's augmented views."""
        return [self.moment(_HEAD_EPOCH, view) for view in range(self.config.views)]

    def row_weights(self, rows: Rows) -> npt.NDArray[np.float64]:
        """Return loss weights with mean 1: the row's and the label's; with `data.group_weights` groups count alike.

        A patient with twenty images would otherwise weigh as much as twenty patients. Where rows have weights of their
        own, a group counts what its rows weigh (`data.weights.shared`).
        """
        weights, own = self.label_weights[rows], self.counted(rows)
        if self.groups is not None and self.config.data.group_weights == "equal":
            names = self.groups.iloc[rows]
            if own is None:
                weights = weights / names.map(names.value_counts()).to_numpy(dtype=np.float64)
            else:
                own = shared(own, pd.factorize(names)[0])
        weights = weights if own is None else weights * own
        scaled: npt.NDArray[np.float64] = weights / weights.mean()
        return scaled

    def counted(self, rows: Rows) -> Weights | None:
        """Return what rows count in what is chosen and judged, float64 [rows] of mean 1; None: all count alike."""
        if self.sample_weight is None:
            return None
        own = self.sample_weight[rows]
        return own / own.mean() if len(own) else own

    def total(self, values: Tensor, rows: Rows) -> float:
        """Return the sum of a value of each row, [rows], each as often as it counts beside all rows of the run."""
        if self.sample_weight is None:
            return float(values.sum())
        return float(torch.from_numpy(self.sample_weight[rows]).to(values) @ values)

    def nll(self, f: npt.NDArray[Any], rows: Rows) -> float:
        """Return the mean NLL in nats of what is said of rows, f [rows, width]."""
        return self.target.nll(f, self.labels[rows], self.counted(rows))

    @property
    def classes(self) -> list[Any]:
        """What the numbers that a network says of a row stand for."""
        return self.target.names

    def targets(self, rows: Rows) -> Tensor:
        """Return labels on the device as losses take them: class indices, int64 [rows]."""
        return self.target.tensor(self.labels[rows]).to(self.runtime.device)
