"""Stage M: classifiers on the concatenation of all modalities' features, aware of what is absent.

Every block of features is standardised with training statistics and divided by the square root of its width, so that
blocks weigh alike whatever their size and scale. An absent block is zero, and a bit says that it is absent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from fusetune.augment.random import Moment, uniform
from fusetune.context import Context
from fusetune.data.split import Rows
from fusetune.data.weights import Weights
from fusetune.features.store import Array
from fusetune.progress import Log
from fusetune.targets import Classification, Target

# Endings of the blocks that a modality has beside the one of its own name: of the encoder from before fine-tuning, and
# of a text's words. They are for readers; which modality a block belongs to is never read from its name.
PRETRAINED = " as pretrained"
WORDS = " words"

CPU = torch.device("cpu")


@dataclass(frozen=True)
class HeadData:
    """Rows for a head.

    Attributes:
        z: Features by block, float32 [views, rows, dim].
        present: bool [rows] by block.
        labels: As the target has them: class index, int64 [rows].
        weights: Loss weight, float [rows].
        keys: Row keys, int64 [rows].
        owners: The modality of each block; of blocks that are not named, it is the one of that name.
        device: Where what is solved on them is solved; features stay where they are.
        target: What is predicted.
        sample_weight: What each row counts in statistics of features and in choices, [rows]; None: all alike. In
            losses it is part of `weights`.
    """

    z: dict[str, Array]
    present: dict[str, npt.NDArray[np.bool_]]
    labels: npt.NDArray[Any]
    weights: npt.NDArray[np.float64]
    keys: npt.NDArray[np.int64]
    owners: Mapping[str, str] = field(default_factory=dict)
    device: torch.device = CPU
    target: type[Target] = Classification
    sample_weight: Weights | None = None

    @classmethod
    def of(cls, ctx: Context, z: Mapping[str, Array], rows: Rows, owners: Mapping[str, str] | None = None) -> HeadData:
        """Put labels, weights and what is absent beside blocks of features, [views, rows, dim]."""
        owners = owners or {}
        present = {block: ctx.sources[owners.get(block, block)].present[rows] for block in z}
        labels, device = ctx.labels[rows], ctx.runtime.device
        weights, target = ctx.row_weights(rows), type(ctx.target)
        return cls(dict(z), present, labels, weights, ctx.keys[rows], owners, device, target, ctx.counted(rows))

    def some(self, rows: npt.NDArray[Any]) -> HeadData:
        """Keep some rows, by position or mask."""
        z = {name: block[:, rows] for name, block in self.z.items()}
        present = {name: bits[rows] for name, bits in self.present.items()}
        counted = None if self.sample_weight is None else self.sample_weight[rows]
        labels, weights, keys = self.labels[rows], self.weights[rows], self.keys[rows]
        return replace(self, z=z, present=present, labels=labels, weights=weights, keys=keys, sample_weight=counted)

    def nll(self, f: npt.NDArray[Any], rows: npt.NDArray[np.int64] | slice = slice(None)) -> float:
        """Return the mean NLL in nats of what is said of rows (all), f [rows, width]: what choices are made by."""
        counted = None if self.sample_weight is None else self.sample_weight[rows]
        return self.target.nll(f, self.labels[rows], counted)

    def only(self, name: str) -> HeadData:
        """Keep one modality and the rows that have it."""
        return replace(self, z={name: self.z[name]}, present={name: self.present[name]}).some(self.present[name])


class Head(nn.Module):
    """Base of all heads: standardises features and masks absent blocks.

    Args:
        dims: Width of each modality's features, by name.
        classes: Number of classes.

    Attributes:
        arguments: What else its constructor was given, as JSON values by name.
    """

    kind = ""

    def __init__(self, dims: Mapping[str, int], classes: int) -> None:
        super().__init__()
        self.dims, self.classes = dict(dims), classes
        self.arguments: dict[str, Any] = {}
        for index, dim in enumerate(self.dims.values()):
            self.register_buffer(f"mean_{index}", torch.zeros(dim))
            self.register_buffer(f"scale_{index}", torch.ones(dim))

    def fit_scale(self, data: HeadData, each: bool = True) -> None:
        """Learn mean and deviation of every feature from the training rows that have the modality, as these count.

        With `each` off, features keep their differences in size (as TF-IDF's must: they are its weights) and the block
        as a whole is scaled. Blocks that the data do not have stay as they are.
        """
        for index, (name, dim) in enumerate(self.dims.items()):
            if name not in data.z:
                continue
            if not data.present[name].any():
                continue
            mean, variance = _mean_and_variance(data.z[name], data.present[name], data.sample_weight)
            std = np.sqrt(variance) if each else np.full(dim, float(np.sqrt(variance.mean())))
            # A feature that hardly varies in training must not explode on the first row where it does.
            floor = max(1e-3 * float(np.median(std[std > 0])) if (std > 0).any() else 1.0, 1e-12)
            self.get_buffer(f"mean_{index}").copy_(torch.from_numpy(mean))
            self.get_buffer(f"scale_{index}").copy_(torch.from_numpy(1 / (np.maximum(std, floor) * dim**0.5)))

    def take_scale(self, head: Head) -> None:
        """Standardise features as another head on the same blocks does."""
        for index in range(len(self.dims)):
            for name in (f"mean_{index}", f"scale_{index}"):
                self.get_buffer(name).copy_(head.get_buffer(name))

    def statistics(self, name: str) -> tuple[Tensor, Tensor]:
        """Return the mean and the deviation of each feature of a block, [dim], as `fit_scale` learnt them."""
        index = list(self.dims).index(name)
        scale = self.get_buffer(f"scale_{index}") * self.dims[name] ** 0.5
        return self.get_buffer(f"mean_{index}"), 1 / scale

    def blocks(self, z: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> list[Tensor]:
        """Return standardised blocks [batch, dim], zero where absent."""
        return [self.block(name, z[name], present[name]) for name in self.dims]

    def block(self, name: str, z: Tensor, present: Tensor) -> Tensor:
        """Return one standardised block [batch, dim], zero where absent."""
        index = list(self.dims).index(name)
        block = (z - self.get_buffer(f"mean_{index}")) * self.get_buffer(f"scale_{index}")
        # Not a product: what is stored for an absent modality may be anything, NaN included.
        return block.masked_fill(~present[:, None], 0.0)

    def alone(self, z: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the logits of each block alone, [batch, classes], of heads that make them themselves."""
        return {}

    def absent(self, present: Mapping[str, Tensor]) -> Tensor:
        """Return the absence bits, float [batch, modalities]."""
        return torch.stack([~present[name] for name in self.dims], 1).float()

    def joined(self, z: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
        """Return all blocks and the absence bits side by side, [batch, `width`]."""
        return torch.cat([*self.blocks(z, present), self.absent(present)], 1)

    @property
    def width(self) -> int:
        """Width of `joined`."""
        return sum(self.dims.values()) + len(self.dims)

    def describe(self) -> dict[str, Any]:
        """Return what `build_head` needs to make this head again."""
        return {"kind": self.kind, "dims": self.dims, "classes": self.classes, **self.arguments}


def _mean_and_variance(
    z: Array, present: npt.NDArray[np.bool_], sample_weight: Weights | None
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Return mean and variance of each feature [dim] over the present rows of all views, read in pieces."""
    pieces = [(view, rows) for view in z for rows in np.array_split(np.flatnonzero(present), -(-len(present) // 4096))]
    count = len(z) * (int(present.sum()) if sample_weight is None else float(sample_weight[present].sum()))

    def total(values: npt.NDArray[np.float64], rows: npt.NDArray[np.int64]) -> Any:
        return values.sum(0) if sample_weight is None else sample_weight[rows] @ values

    with np.errstate(invalid="ignore"):  # who reads the features says which of them are not finite
        mean = sum(total(view[rows].astype(np.float64), rows) for view, rows in pieces) / count
        return mean, sum(total((view[rows].astype(np.float64) - mean) ** 2, rows) for view, rows in pieces) / count


@dataclass(frozen=True)
class HeadFit:
    """A fitted head and how it was chosen.

    Attributes:
        head: The head.
        valid_nll: Its NLL on the validation rows or, where choices were made by cross-validation, on all rows.
        choice: What was chosen, in words.
        path: (penalty, validation NLL) pairs that were tried.
        held: Where choices were made by cross-validation: the logits of each row by the solution that did not see it,
            float64 [rows, classes].
        tried: Logits of the rows that choices are made on by every candidate, float64 [rows, classes] each; empty where
            they are not known.
        doubts: What a user should know of the choice or of the solution.
    """

    head: Head
    valid_nll: float
    choice: str = ""
    path: list[tuple[float, float]] = field(default_factory=list)
    held: npt.NDArray[np.float64] | None = None
    tried: list[npt.NDArray[np.float64]] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)

    def tell(self, log: Log, event: str, what: str, **facts: Any) -> None:
        """Record how the head was chosen, and warn of every doubt; `what` says what it reads."""
        log.record(event, **facts, choice=self.choice, valid_nll=self.valid_nll, path=self.path)
        for doubt in self.doubts:
            log.warn(f"{what}: {doubt}")

    @property
    def score(self) -> str:
        """What the NLL that the head was chosen by is called."""
        return "valid NLL" if self.held is None else "cross-validated NLL"


def drop_modalities(
    present: Mapping[str, npt.NDArray[np.bool_]],
    keys: Tensor,
    moment: Moment,
    share: float,
    owners: Mapping[str, str] | None = None,
) -> dict[str, npt.NDArray[np.bool_]]:
    """Take random modalities away from a share of the rows; at least one that was there always stays.

    Args:
        present: bool [rows] by block.
        keys: Row keys, int64 [rows].
        moment: With the keys, decides what goes.
        share: Of the rows.
        owners: The modality of each block, as `HeadData` has it: all blocks of a modality go together.
    """
    owner = {block: (owners or {}).get(block, block) for block in present}
    names = list(dict.fromkeys(owner.values()))
    u = uniform(moment, keys, "modality dropout", 1 + 2 * len(names)).numpy()
    has = np.stack([present[next(block for block in owner if owner[block] == name)] for name in names], 1)
    drop = (u[:, 1 : 1 + len(names)] < 0.5) & has
    favourite = np.where(has, u[:, 1 + len(names) :], -1.0).argmax(1)
    drop[np.arange(len(drop)), favourite] = False
    drop &= u[:, :1] < share
    kept = {name: has[:, i] & ~drop[:, i] for i, name in enumerate(names)}
    return {block: kept[owner[block]] for block in present}


def logits_of(head: Head, data: HeadData) -> Tensor:
    """Return a head's logits for rows without augmentation, [rows, classes]."""
    z = {name: torch.from_numpy(np.array(block[0])) for name, block in data.z.items()}
    with torch.inference_mode():
        logits: Tensor = head.eval()(z, {name: torch.from_numpy(bits) for name, bits in data.present.items()})
    return logits.float()
