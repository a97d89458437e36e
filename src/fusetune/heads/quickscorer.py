"""Which leaf of each tree a row ends in, without walking: QuickScorer (Lucchese et al., SIGIR 2015).

Leaves are numbered from the left. A node whose test fails sends the row to its right, so that no leaf of its left
subtree can be reached: each such node takes these leaves away, in any order, and the leftmost that is left is the one
that walking ends in. All rows are asked the same test at once, which reads memory in order; walking reads it anywhere
(`benchmarks/trees.py`). A tree's leaves are the bits of a whole number, so that trees of many leaves are walked
(`trees`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_LEAVES = 30  # of a tree at most: bits of a whole number of 32, its sign and one more aside
_ALL = -1  # every bit


@dataclass(frozen=True)
class Scorer:
    """Trees of few leaves, [trees, width] each; trees of fewer tests than `width` have some that never fail.

    Attributes:
        node: The node that holds the test, or the first of all where there is none.
        rest: Bits of the leaves that are left where the test fails: all where there is none.
        leaf: Node of each leaf, from the left, [trees, leaves].
        every: Bits of all leaves, [trees].
    """

    node: Tensor
    rest: Tensor
    leaf: Tensor
    every: Tensor

    @classmethod
    def of(cls, left: Sequence[int], right: Sequence[int], roots: Sequence[int], device: torch.device) -> Scorer | None:
        """Return the trees that start at some roots, a leaf being its own child; None where one has too many leaves.

        What is no tree, since a file was damaged, has too many leaves as well.
        """
        trees = []
        for root in roots:
            found = _numbered(left, right, root)
            if found is None:
                return None
            trees.append(found)
        width = max((len(tests) for tests, _ in trees), default=0)
        most = max((len(leaves) for _, leaves in trees), default=0)
        padded = [tests + [(0, _ALL)] * (width - len(tests)) for tests, _ in trees]
        node = torch.tensor([[node for node, _ in tests] for tests in padded], device=device).view(len(trees), width)
        rest = torch.tensor([[rest for _, rest in tests] for tests in padded], dtype=torch.int32, device=device)
        leaf = torch.tensor([leaves + [0] * (most - len(leaves)) for _, leaves in trees], device=device)
        every = torch.tensor([(1 << len(leaves)) - 1 for _, leaves in trees], dtype=torch.int32, device=device)
        return cls(node, rest.view(len(trees), width), leaf.view(len(trees), most), every)

    def left_over(self, these: slice, at: int, goes: Tensor, bits: Tensor) -> Tensor:
        """Return the bits of leaves, [trees, rows], after one test of each tree; `goes`: did it hold?"""
        return bits & (goes.to(torch.int32).neg_() | self.rest[these, at, None])  # -1 has every bit

    def first(self, these: slice, bits: Tensor) -> Tensor:
        """Return the node of the leftmost leaf that is left, [rows, trees]."""
        place = (bits & -bits).double().log2().round().long()
        return self.leaf[these].gather(1, place).T


def _numbered(left: Sequence[int], right: Sequence[int], root: int) -> tuple[list[tuple[int, int]], list[int]] | None:
    """Return the tests of a tree, each with the bits of the leaves that are left where it fails, and its leaves."""
    tests, leaves = list[tuple[int, int]](), list[int]()
    todo: list[tuple[int, int]] = [(root, -1)]  # nodes to go to, and tests whose left subtree has been gone through
    while todo:
        node, begin = todo.pop()
        if begin >= 0:
            tests.append((node, ~(((1 << len(leaves)) - 1) ^ ((1 << begin) - 1))))
            todo.append((right[node], -1))
        elif left[node] == node == right[node]:
            leaves.append(node)
            if len(leaves) > _LEAVES:
                return None
        else:
            todo += [(node, len(leaves)), (left[node], -1)]
            if len(todo) + len(tests) > 4 * _LEAVES:
                return None
    return tests, leaves
