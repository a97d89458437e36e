"""What a strategy works with: the table's modalities as sources, the split, the labels, the store and the settings."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor

from fusetune.augment import Augment
from fusetune.augment.random import Moment
from fusetune.augment.views import draw_views
from fusetune.config import Config, TrainConfig
from fusetune.data.schema import Modality
from fusetune.data.source import Inputs, Source, to_device
from fusetune.data.split import Rows, Split
from fusetune.encoders import Encoder
from fusetune.features.store import Array, Encoding, FeatureStore
from fusetune.progress import Log
from fusetune.runtime import Runtime
from fusetune.strategies.heads import HeadData, owner
from fusetune.strategies.model import Outputs
from fusetune.train.loop import History

# Epoch number of the head's views: no training epoch has it, so the head sees draws that no encoder was trained on.
_HEAD_EPOCH = 1_000_000


@dataclass
class Context:
    """One run.

    Attributes:
        modalities: The model's inputs by name.
        sources: Raw inputs of the run's table, by modality.
        augments: What may happen to them in training, by modality.
        encodings: What may happen to them when features are stored and predictions made, by modality.
        pristine: Each modality's encoder before any training; copied, never trained.
        labels: Class index per row, int64 [rows].
        classes: The labels that the indices stand for.
        class_weights: Loss weight per class, float32 [classes], mean 1 over the training rows.
        keys: Row key per row, int64 [rows].
        ids: Row id per row.
        groups: Group per row, if rows are grouped.
        folder: Where stages keep their checkpoints.
        key: Hash of everything that the stages depend on.
        histories: What each training stage did.
        trained_rows: Row passes through each encoder in training.
        honest: Where validation rows were also learnt from: what is said of them by networks and solutions that did not
            learn from them (features left out).
    """

    config: Config
    runtime: Runtime
    log: Log
    modalities: dict[str, Modality]
    sources: dict[str, Source]
    augments: dict[str, Augment]
    encodings: dict[str, Augment]
    pristine: dict[str, Encoder]
    split: Split
    labels: npt.NDArray[np.int64]
    classes: list[Any]
    class_weights: Tensor
    keys: npt.NDArray[np.int64]
    ids: pd.Series
    groups: pd.Series | None
    store: FeatureStore
    folder: Path
    key: str
    resume: bool = False
    histories: dict[str, History] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    trained_rows: Counter[str] = field(default_factory=Counter)
    honest: Outputs | None = None

    def settings(self, name: str) -> TrainConfig:
        """Return the training settings of a modality."""
        section: TrainConfig = getattr(self.config, self.modalities[name].kind).train
        return section

    def fresh_encoder(self, name: str) -> Encoder:
        """Return a copy of a modality's pretrained encoder, on the device."""
        return copy.deepcopy(self.pristine[name]).to(self.runtime.device)

    def moment(self, epoch: int, view: int = 0) -> Moment:
        """Return the moment of a random view of this run."""
        return Moment(self.config.seed, epoch, view)

    def plain(self, name: str, raw: Inputs) -> Any:
        """Return a modality's inputs on the device, without randomness."""
        return self.encodings[name].plain(to_device(raw, self.runtime.device))

    def row_keys(self, rows: Rows) -> Tensor:
        """Return the keys of some rows on the device, int64 [rows]."""
        return torch.from_numpy(self.keys[rows]).to(self.runtime.device)

    def drawn(self, name: str, raw: Inputs, rows: Rows, epoch: int, views: int = 1) -> Any:
        """Return a modality's inputs on the device, freshly augmented: all rows of the first view, then the next."""
        moments = [self.moment(epoch, view) for view in range(views)]
        return draw_views(self.augments[name], to_device(raw, self.runtime.device), self.row_keys(rows), moments)

    def encode(self, name: str, encoder: Encoder, rows: Rows, views: Sequence[Moment] | None = None) -> Array:
        """Return features of some rows, [views or 1, rows, dim]; views that cannot differ are encoded once."""
        if views is not None and not self.encodings[name].varies:
            plain = self.encode(name, encoder, rows)
            return np.broadcast_to(plain, (len(views), *plain.shape[1:]))
        batch_size = max(32, self.settings(name).batch_size)
        what = Encoding(name, encoder, self.sources[name], self.encodings[name], self.keys, batch_size)
        return self.store.encode(what, rows, views)

    def views(self) -> list[Moment]:
        """Return the moments of the head's augmented views."""
        return [self.moment(_HEAD_EPOCH, view) for view in range(self.config.views)]

    def head_data(self, encoders: Mapping[str, Encoder], rows: Rows) -> HeadData:
        """Encode rows for a head, without augmentation.

        Args:
            encoders: Frozen encoders by modality.
            rows: Row positions.
        """
        return self.with_labels({name: self.encode(name, encoder, rows) for name, encoder in encoders.items()}, rows)

    def with_labels(self, z: Mapping[str, Array], rows: Rows) -> HeadData:
        """Put labels, weights and what is absent beside blocks of features [views, rows, dim]."""
        present = {block: self.sources[owner(block)].present[rows] for block in z}
        return HeadData(dict(z), present, self.labels[rows], self.row_weights(rows), self.keys[rows])

    def row_weights(self, rows: Rows) -> npt.NDArray[np.float64]:
        """Return loss weights with mean 1: the class weight, and with `data.group_weights` each group counts alike.

        A patient with twenty images would otherwise weigh as much as twenty patients.
        """
        weights = self.class_weights.double().numpy()[self.labels[rows]]
        if self.groups is not None and self.config.data.group_weights == "equal":
            names = self.groups.iloc[rows]
            weights = weights / names.map(names.value_counts()).to_numpy(dtype=np.float64)
        scaled: npt.NDArray[np.float64] = weights / weights.mean()
        return scaled

    def targets(self, rows: Rows) -> Tensor:
        """Return class indices on the device, int64 [rows]."""
        return torch.from_numpy(self.labels[rows]).to(self.runtime.device)
