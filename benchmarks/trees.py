"""Boosted trees that are scored against the same trees, walked: seconds for a thousand rows, and whether they agree.

No prediction was written before it was first measured.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from statistics import median

import numpy as np
import torch

from fusetune.heads.base import HeadData
from fusetune.heads.boosted import Boosting, fit_trees
from fusetune.heads.trees import TreesHead, _filled

_NUMBERS, _CATEGORIES, _TURNS = 60, 4, 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0] if __doc__ else "")
    parser.add_argument("--json", help="write the result to this file")
    parser.add_argument("--quick", action="store_true", help="few trees and rows: does it run?")
    args = parser.parse_args()
    rows, rounds = (200, 5) if args.quick else (1000, 200)
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    cells = np.concatenate(
        [rng.normal(size=(rows, _NUMBERS)), np.zeros((rows, _NUMBERS)), rng.integers(0, 50, (rows, _CATEGORIES))], 1
    ).astype(np.float32)
    labels = np.digitize(cells[:, 0] * cells[:, 1] + (cells[:, -1] % 2), [0.0, 1.0])
    present = {"cells": np.ones(rows, dtype=bool)}
    data = HeadData({"cells": cells[None]}, present, labels, np.ones(rows), np.arange(rows))
    blank = TreesHead({"cells": cells.shape[1]}, 3, {"cells": [_NUMBERS, _CATEGORIES]})
    how = Boosting(rounds=rounds, stop_after=rounds)
    head = fit_trees(blank, data, np.arange(rows) % 5, how, seed=0, threads=1).head
    assert isinstance(head, TreesHead)
    table = head.table({"cells": torch.from_numpy(cells)}, {"cells": torch.ones(rows, dtype=torch.bool)})
    filled, nodes, scorer = _filled(table), head._nodes(table.shape[1]), head._scorer()
    assert scorer is not None
    slices = [slice(at, at + 128) for at in range(0, len(nodes.roots), 128)]
    walks, scores = list[float](), list[float]()
    for _ in range(1 if args.quick else _TURNS):
        started = time.perf_counter()
        walked = [head._leaves(nodes.roots[some].expand(rows, -1), filled, nodes) for some in slices]
        walks.append(time.perf_counter() - started)
        started = time.perf_counter()
        scored = [head._scored(scorer, filled, nodes, some) for some in slices]
        scores.append(time.perf_counter() - started)
    found = {
        "rows": rows, "trees": len(nodes.roots), "walked": median(walks), "scored": median(scores),
        "ratio": median(walks) / median(scores),
        "alike": all(torch.equal(one, other) for one, other in zip(walked, scored, strict=True)),
    }  # fmt: skip
    print("| rows | trees | walked, s | scored, s | ratio | same leaves |\n|---|---|---|---|---|---|")
    print(
        f"| {rows:,} | {found['trees']:,} | {found['walked']:.3f} | {found['scored']:.3f} | {found['ratio']:.1f} "
        f"| {found['alike']} |"
    )
    if args.json:
        Path(args.json).write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
