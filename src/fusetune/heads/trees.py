"""Gradient-boosted trees as a head: LightGBM grows them (`boosted`), tensors hold them, and PyTorch alone reads them.

So a saved model is safetensors like any other, needs no LightGBM, and its sizes are known before anything is built.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fusetune.heads.base import Head

_MOST = 1 << 22  # pairs of rows and trees that are looked at in one go


@dataclass(frozen=True)
class Cells:
    """How the cells of a block lie: numbers, as many flags of missing ones, then the codes of categories."""

    numbers: int
    categories: int

    @property
    def width(self) -> int:
        """Width of the block."""
        return 2 * self.numbers + self.categories


@dataclass
class Forest:
    """Trees as lists of nodes; a leaf is its own child.

    Attributes:
        feature: The feature that a node asks about.
        threshold: x <= threshold goes left.
        subset: Where the codes that go left begin in `codes`, for nodes that ask about a category; else -1.
        size: How many codes of `codes` belong to the node.
        unknown: Where rows go that lack the feature: 1 left, 0 right, -1 as 0 does.
        left: Node to the left.
        right: Node to the right.
        value: What a leaf says.
        codes: For each code of each such node: does it go left?
        roots: First node of each tree.
        says: What the leaves of a tree count for in the logit of each class, [trees, classes].
        depth: Steps from a root to the farthest leaf.
    """

    feature: list[int] = field(default_factory=list)
    threshold: list[float] = field(default_factory=list)
    subset: list[int] = field(default_factory=list)
    size: list[int] = field(default_factory=list)
    unknown: list[int] = field(default_factory=list)
    left: list[int] = field(default_factory=list)
    right: list[int] = field(default_factory=list)
    value: list[float] = field(default_factory=list)
    codes: list[bool] = field(default_factory=list)
    roots: list[int] = field(default_factory=list)
    says: list[list[float]] = field(default_factory=list)
    depth: int = 0

    def add(self, tree: Mapping[str, Any], says: Sequence[float]) -> None:
        """Add a tree as LightGBM's `dump_model` describes it."""
        self.roots.append(len(self.feature))
        self.says.append(list(says))
        self._add(tree, 0)

    def _add(self, node: Mapping[str, Any], depth: int) -> int:
        at = len(self.feature)
        self.depth = max(self.depth, depth)
        self.feature.append(int(node.get("split_feature", 0)))
        self.value.append(float(node["leaf_value"]) if "leaf_value" in node else 0.0)
        self.left.append(at)
        self.right.append(at)
        numeric = node.get("decision_type") == "<="
        self.threshold.append(float(node["threshold"]) if numeric else 0.0)
        some = [] if numeric or "threshold" not in node else [int(code) for code in str(node["threshold"]).split("||")]
        self.subset.append(len(self.codes) if some else -1)
        self.size.append(max(some) + 1 if some else 0)
        self.codes += [code in some for code in range(self.size[at])]
        # Where training missed nothing, LightGBM takes a missing number for 0, and a missing code goes right.
        aside = int(bool(node["default_left"])) if numeric and node["missing_type"] == "NaN" else -1
        self.unknown.append(0 if some else aside)
        if "left_child" in node:
            self.left[at] = self._add(node["left_child"], depth + 1)
            self.right[at] = self._add(node["right_child"], depth + 1)
        return at


class TreesHead(Head):
    """f = sum over trees of what the leaf says that a row ends in, averaged over boosters of different folds.

    Cells are read as they are, missing ones as missing; other blocks as they are, or their first principal components.
    An absent block is missing in all its features.

    Args:
        dims: Width of each block, by name.
        classes: Number of classes.
        cells: Blocks of cells -> [numbers, categories].
        reduced: Blocks of which principal components are read -> how many.
        trees: Number of trees.
        nodes: Number of their nodes, leaves included.
        codes: Number of codes that nodes on categories list.
        depth: Steps from a root to the farthest leaf.
    """

    kind = "trees"

    def __init__(
        self,
        dims: Mapping[str, int],
        classes: int,
        cells: Mapping[str, Sequence[int]] | None = None,
        reduced: Mapping[str, int] | None = None,
        trees: int = 0,
        nodes: int = 0,
        codes: int = 0,
        depth: int = 0,
    ) -> None:
        super().__init__(dims, classes)
        self.cells = {name: Cells(*counts) for name, counts in (cells or {}).items()}
        self.reduced = dict(reduced or {})
        self.arguments = {
            "cells": {name: [block.numbers, block.categories] for name, block in self.cells.items()},
            "reduced": self.reduced, "trees": trees, "nodes": nodes, "codes": codes, "depth": depth,
        }  # fmt: skip
        if not self.cells.keys() | self.reduced.keys() <= self.dims.keys() or self.cells.keys() & self.reduced.keys():
            raise ValueError("the trees read blocks in two ways, or blocks that are not there")
        if any(block.width != self.dims[name] for name, block in self.cells.items()):
            raise ValueError("the cells of a block are more or fewer than it is wide")
        if not all(0 < count <= self.dims[name] for name, count in self.reduced.items()):
            raise ValueError("a block is reduced to more components than it is wide")
        self.depth = depth
        for index, (name, dim) in enumerate(self.dims.items()):
            if name in self.reduced:
                self.register_buffer(f"projection_{index}", torch.zeros(dim, self.reduced[name]))
        whole: dict[str, Any] = {"dtype": torch.int32}
        for name in ("feature", "subset", "size", "unknown", "left", "right"):
            self.register_buffer(name, torch.zeros(nodes, **whole))
        self.register_buffer("threshold", torch.zeros(nodes, dtype=torch.float64))
        self.register_buffer("value", torch.zeros(nodes, dtype=torch.float64))
        self.register_buffer("codes", torch.zeros(codes, dtype=torch.bool))
        self.register_buffer("roots", torch.zeros(trees, **whole))
        self.register_buffer("says", torch.zeros(trees, classes, dtype=torch.float64))

    def planted(self, forest: Forest) -> Self:
        """Return a head that reads the same features with these trees."""
        sizes = {"trees": len(forest.roots), "nodes": len(forest.feature), "codes": len(forest.codes)}
        new = type(self)(self.dims, self.classes, **(self.arguments | sizes | {"depth": forest.depth}))
        for name, buffer in self.named_buffers():
            if name.startswith(("mean", "scale", "projection")):
                new.get_buffer(name).copy_(buffer)
        for name in ("feature", "subset", "size", "unknown", "left", "right", "threshold", "value", "codes", "roots"):
            buffer = new.get_buffer(name)
            buffer.copy_(torch.tensor(getattr(forest, name), dtype=buffer.dtype))
        new.get_buffer("says").copy_(torch.tensor(forest.says, dtype=torch.float64).view(-1, self.classes))
        return new

    def fit_reduction(self, z: Mapping[str, npt.NDArray[Any]], present: Mapping[str, npt.NDArray[np.bool_]]) -> None:
        """Learn mean and principal components of the blocks that are reduced, from rows [rows, dim] that have them."""
        for index, name in enumerate(self.dims):
            if name in self.reduced and present[name].any():
                rows = torch.from_numpy(z[name][present[name]].astype(np.float64))
                mean = rows.mean(0)
                _, _, axes = torch.linalg.svd(rows - mean, full_matrices=False)
                found = axes[: self.reduced[name]].T
                # Of two directions that an axis can have, the one whose largest weight is positive.
                found = found * torch.sign(found.gather(0, found.abs().argmax(0, keepdim=True)))
                self.get_buffer(f"mean_{index}").copy_(mean)
                self.get_buffer(f"projection_{index}")[:, : found.shape[1]] = found

    def table(self, z: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
        """Return the features that trees ask about, float64 [rows, features], NaN where missing."""
        parts = []
        for index, name in enumerate(self.dims):
            block = z[name].double()
            if name in self.cells:
                count = self.cells[name].numbers
                numbers = block[:, :count].masked_fill(block[:, count : 2 * count] > 0.5, math.nan)
                block = torch.cat([numbers, block[:, 2 * count :]], 1)
            elif name in self.reduced:
                # What is stored for an absent block may be anything.
                block = torch.where(present[name][:, None], block, 0.0)
                block = (block - self.get_buffer(f"mean_{index}")) @ self.get_buffer(f"projection_{index}").double()
            parts.append(block.masked_fill(~present[name][:, None], math.nan))
        return torch.cat(parts, 1)

    @property
    def categories(self) -> list[int]:
        """Places in `table` of the features that are codes of categories."""
        return list(self._categories())

    def _categories(self) -> Iterator[int]:
        at = 0
        for name, dim in self.dims.items():
            if name in self.cells:
                numbers, codes = self.cells[name].numbers, self.cells[name].categories
                yield from range(at + numbers, at + numbers + codes)
                at += numbers + codes
            else:
                at += self.reduced.get(name, dim)

    def forward(self, z: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
        """Return logits [batch, classes]."""
        return self.grown(self.table(z, present)).float()

    def grown(self, table: Tensor) -> Tensor:
        """Return what the trees say of features [rows, features] as `table` makes them, float64 [rows, classes]."""
        trees = len(self.get_buffer("roots"))
        if not trees:
            return table.new_zeros(len(table), self.classes)
        rows = max(1, _MOST // trees)
        return torch.cat([self._grown(some) for some in torch.split(table, rows)])

    def _grown(self, table: Tensor) -> Tensor:
        nodes = len(self.get_buffer("feature"))
        # Whatever a damaged file says, nothing outside is looked at.
        feature = self.get_buffer("feature").long().clamp(0, table.shape[1] - 1)
        left, right = (self.get_buffer(side).long().clamp(0, nodes - 1) for side in ("left", "right"))
        threshold, unknown = self.get_buffer("threshold"), self.get_buffer("unknown")
        subset, size, codes = self.get_buffer("subset"), self.get_buffer("size"), self.get_buffer("codes")
        node = self.get_buffer("roots").long().clamp(0, nodes - 1).expand(len(table), -1)
        for _ in range(self.depth):
            x = table.gather(1, feature[node])
            lost, aside = x.isnan(), unknown[node]
            x = x.masked_fill(lost, 0.0)
            goes = x <= threshold[node]
            if len(codes):
                begin, count = subset[node], size[node]
                place = (begin + x.clamp(0, 2**30)).long().clamp(0, len(codes) - 1)
                goes = torch.where(begin >= 0, codes[place] & (x < count) & (x >= 0), goes)
            goes = torch.where(lost & (aside >= 0), aside == 1, goes)
            node = torch.where(goes, left[node], right[node])
        return self.get_buffer("value")[node] @ self.get_buffer("says")
