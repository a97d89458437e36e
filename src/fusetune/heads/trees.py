"""Gradient-boosted trees as a head: LightGBM grows them (`boosted`), tensors hold them, and PyTorch alone reads them.

So a saved model is safetensors like any other, needs no LightGBM, and its sizes are known before anything is built.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from fusetune.heads.quickscorer import Scorer
from fusetune.heads.tabular import TabularHead
from fusetune.targets import Logarithm

_MOST, _TREES = 1 << 17, 128  # pairs of rows and trees that are looked at in one go, and of how many trees
_STRIDE = 4  # steps down before it is asked which pairs have reached a leaf
_SCORED = 64  # rows from which on trees of few leaves are scored, for which they are first laid out


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


class TreesHead(TabularHead):
    """f = sum over trees of what the leaf says that a row ends in, averaged over boosters of different folds.

    Args:
        dims: Width of each block, by name.
        classes: Number of classes.
        cells: Blocks of cells -> [numbers, categories].
        reduced: Blocks of which principal components are read -> how many.
        trees: Number of trees.
        nodes: Number of their nodes, leaves included.
        codes: Number of codes that nodes on categories list.
        depth: Steps from a root to the farthest leaf.
        logarithm: Scale that the leaves are on, as `Logarithm.values`; that of f without it.
    """

    kind = "trees"
    _score: tuple[torch.device, Scorer | None] | None

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
        logarithm: Sequence[float] = (),
    ) -> None:
        super().__init__(dims, classes, cells, reduced)
        self.arguments |= {"trees": trees, "nodes": nodes, "codes": codes, "depth": depth}
        self.scale = Logarithm.read(logarithm) if logarithm else None
        if self.scale is not None:
            self.arguments["logarithm"] = self.scale.values
        self.depth, self._score = depth, None
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
        new = self.remade(
            trees=len(forest.roots), nodes=len(forest.feature), codes=len(forest.codes), depth=forest.depth
        )  # fmt: skip
        for name in ("feature", "subset", "size", "unknown", "left", "right", "threshold", "value", "codes", "roots"):
            buffer = new.get_buffer(name)
            buffer.copy_(torch.tensor(getattr(forest, name), dtype=buffer.dtype))
        new.get_buffer("says").copy_(torch.tensor(forest.says, dtype=torch.float64).view(-1, self.classes))
        return new

    def forward(self, z: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
        """Return logits [batch, classes]."""
        said = self.grown(self.table(z, present))
        return (said if self.scale is None else self.scale.told(said)).float()

    def grown(self, table: Tensor) -> Tensor:
        """Return what the trees say of features [rows, features] as `table` makes them, float64 [rows, classes]."""
        trees = len(self.get_buffer("roots"))
        if not trees:
            return table.new_zeros(table.shape[0], self.classes)
        nodes, filled = self._nodes(table.shape[1]), _filled(table)
        if torch.onnx.is_in_onnx_export():  # a graph for any number of rows takes them in one go
            return self._grown(filled, nodes, slice(None))
        # Few trees at a time: their nodes, and where the rows are, stay in the processor's caches.
        several = [slice(at, at + _TREES) for at in range(0, trees, _TREES)]
        # Rows that lack everything, as all do when inputs are taken away, are all told the same.
        blank = table.isnan().all(1)
        asked = torch.cat([(~blank).nonzero()[:, 0], blank.nonzero()[:1, 0]])
        said = [
            torch.stack([self._grown(some, nodes, these) for these in several]).sum(0)
            for some in torch.split(filled[asked], max(1, _MOST // _TREES))
        ]
        places = torch.full_like(blank, len(asked) - 1, dtype=torch.long)
        places[~blank] = torch.arange(int((~blank).sum()), device=table.device)
        return torch.cat(said)[places] if said else table.new_zeros(0, self.classes)

    def _nodes(self, features: int) -> _Nodes:
        """Return the nodes as they are walked; whatever a damaged file says, nothing outside is looked at."""
        nodes = len(self.get_buffer("feature"))
        left, right = (self.get_buffer(side).long().clamp(0, nodes - 1) for side in ("left", "right"))
        # A row that lacks the feature goes left of any threshold, right of any, or is taken for 0.
        aside = self.get_buffer("unknown").long().add(1).clamp(0, 2)
        feature = self.get_buffer("feature").long().clamp(0, features - 1) + features * aside
        roots = self.get_buffer("roots").long().clamp(0, nodes - 1)
        return _Nodes(feature, self.get_buffer("threshold"), torch.stack([right, left], 1).flatten(), roots)

    def _grown(self, filled: Tensor, nodes: _Nodes, these: slice) -> Tensor:
        node = nodes.roots[these].expand(filled.shape[0], -1)
        if torch.onnx.is_in_onnx_export():  # every pair of a row and a tree goes as deep as any tree
            for _ in range(self.depth):
                node = self._below(node, filled.gather(1, nodes.feature[node]), nodes)
        elif filled.shape[0] >= _SCORED and (scorer := self._scorer()) is not None:
            node = self._scored(scorer, filled, nodes, these)
        else:
            node = self._leaves(node, filled, nodes)
        return self.get_buffer("value")[node] @ self.get_buffer("says")[these]

    def _leaves(self, node: Tensor, filled: Tensor, nodes: _Nodes) -> Tensor:
        """Return the leaves below nodes, [rows, trees]: pairs that have reached theirs are not walked on."""
        reached, table = node.flatten().clone(), filled.flatten()  # of one row, flattening copies nothing
        row = torch.arange(node.shape[0], device=node.device).repeat_interleave(node.shape[1]) * filled.shape[1]
        here, at = reached.clone(), torch.arange(len(reached), device=node.device)
        for _ in range(0, self.depth, _STRIDE):
            for _ in range(_STRIDE):
                here = self._below(here, table[row + nodes.feature[here]], nodes)
            reached[at] = here
            on = nodes.child[2 * here] != here
            here, at, row = here[on], at[on], row[on]
            if not len(at):
                break
        return reached.view(node.shape)

    def _scorer(self) -> Scorer | None:
        """Return the trees as they are scored, made once; None where they have to be walked."""
        device = self.get_buffer("left").device
        if self._score is None or self._score[0] != device:
            left, right, roots = (self.get_buffer(name).clamp(min=0).tolist() for name in ("left", "right", "roots"))
            inside = max([0, *left, *right, *roots]) < len(left)
            self._score = device, Scorer.of(left, right, roots, device) if inside else None
        return self._score[1]

    def _scored(self, scorer: Scorer, filled: Tensor, nodes: _Nodes, these: slice) -> Tensor:
        """Return the leaves that rows end in, [rows, trees]."""
        columns, bits = filled.T.contiguous(), scorer.every[these, None].expand(-1, filled.shape[0])
        for at in range(scorer.node.shape[1]):
            node = scorer.node[these, at]
            x = columns[nodes.feature[node]]
            goes = x <= nodes.threshold[node, None]
            if len(of_codes := (self.get_buffer("subset")[node] >= 0).nonzero()[:, 0]):
                goes[of_codes] = self._left(node[of_codes, None], x[of_codes], nodes)
            bits = scorer.left_over(these, at, goes, bits)
        return scorer.first(these, bits)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._score = None
        super()._load_from_state_dict(*args, **kwargs)

    def _below(self, node: Tensor, x: Tensor, nodes: _Nodes) -> Tensor:
        """Return the children that rows go to, x being what each node asks about; of leaves themselves."""
        return nodes.child[2 * node + self._left(node, x, nodes).long()]

    def _left(self, node: Tensor, x: Tensor, nodes: _Nodes) -> Tensor:
        """Return whether rows go left, x being what each node asks about."""
        subset, size, codes = self.get_buffer("subset"), self.get_buffer("size"), self.get_buffer("codes")
        goes = x <= nodes.threshold[node]
        if len(codes):
            begin, count = subset[node], size[node]
            place = (begin + x.clamp(0, 2**30)).long().clamp(0, len(codes) - 1)
            goes = _chosen(begin >= 0, codes[place] & (x < count) & (x >= 0), goes)
        return goes


class _Nodes(NamedTuple):
    """Nodes as they are walked.

    Attributes:
        feature: Place in a row of `_filled` of the feature that a node asks about, [nodes].
        threshold: x <= threshold goes left, [nodes].
        child: Node to the right and to the left of each node, [2 x nodes].
        roots: First node of each tree.
    """

    feature: Tensor
    threshold: Tensor
    child: Tensor
    roots: Tensor


def _filled(table: Tensor) -> Tensor:
    """Return features [rows, features] three times, what is missing as 0, right of any threshold, and left of any."""
    lost = table.isnan()
    return torch.cat([table.masked_fill(lost, value) for value in (0.0, math.inf, -math.inf)], 1)


def _chosen(which: Tensor, this: Tensor, that: Tensor) -> Tensor:
    """Return `torch.where` of truth values, in operations that ONNX Runtime has for them."""
    return (which & this) | (~which & that)
