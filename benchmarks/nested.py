"""Is the model that the default chooses as good as the best row of its own table, on rows that chose nothing?

The rows outside the test part are dealt into outer folds, whole groups together. The default is fitted without each
fold (encoders frozen: preset `quick` without a limit of time), and every row of its table is judged on it. The test
part of no set is read.

Expected before it was run: the weighted ensemble within .01 nats of the best row by hindsight on every set, and below
it on half of them.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from defaults import SETS, resolved
from scipy import stats
from sklearn.model_selection import StratifiedGroupKFold

import fusetune
from fusetune.data.table import read_table

CHOSEN = "weighted-ensemble"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0] if __doc__ else "")
    parser.add_argument("sets", nargs="*", default=list(SETS), help=f"which of {', '.join(SETS)}")
    parser.add_argument("--folds", type=int, default=5, help="outer folds")
    parser.add_argument("--rows", type=int, default=3000, help="rows of larger tables that are drawn")
    parser.add_argument("--out", default="runs/nested", help="folder for the runs; finished ones are not repeated")
    parser.add_argument("--json", help="write the result to this file")
    parser.add_argument("--quick", action="store_true", help="rosmap, three folds: does it run?")
    args = parser.parse_args()
    names, folds = (["rosmap"], 3) if args.quick else (args.sets, args.folds)
    told = [nested(name, folds, args.rows, Path(args.out)) for name in names if SETS[name].path.exists()]
    print(f"\n{'set':<20}{'rows':>7}{'groups':>8}  {CHOSEN:<18}best row (by hindsight)        difference [95 %]")
    for one in told:
        low, high = one["interval"]
        best = f"{one['best']} {one['nll'][one['best']]:.3f}"
        print(
            f"{one['set']:<20}{one['rows']:>7}{one['groups']:>8}  {one['nll'][CHOSEN]:<18.3f}{best:<31}"
            f"{one['difference']:+.3f} [{low:+.3f}, {high:+.3f}]"
        )
    worse = [one["set"] for one in told if one["difference"] > 0.01]
    better = [one["set"] for one in told if one["difference"] < 0]
    print(f"\nworse by more than .01: {', '.join(worse) or 'none'}; better: {len(better)} of {len(told)}")
    if args.json:
        Path(args.json).write_text(json.dumps(told, indent=1), encoding="utf-8")


def nested(name: str, folds: int, most: int, out: Path) -> dict[str, Any]:
    """Fit the default without each outer fold, and judge every row of its table on it."""
    given = SETS[name]
    table = given.divide(read_table(given.path), 0)
    frame = table.frame if table.root is None else resolved(table, given)
    part = given.options.get("split")
    frame = frame[frame[given.label].notna()]
    if part is not None:
        frame = frame[frame[part] != "test"]
    group = given.options.get("group")
    if len(frame) > most:
        frame = frame.sample(most, random_state=0)
    frame = frame.reset_index(drop=True)
    units = frame.index.to_numpy() if group is None else pd.factorize(frame[group])[0]
    deal = StratifiedGroupKFold(folds, shuffle=True, random_state=0).split(frame, frame[given.label], units)
    nll, sizes = list[dict[str, float]](), list[int]()
    for fold, (_, own) in enumerate(deal):
        outer = np.where(np.isin(np.arange(len(frame)), own), "test", "train")
        folder = out / f"{name}-{fold}"
        fitted = fusetune.fit(
            frame.assign(outer=outer), given.label, preset="quick", minutes=600, out=folder, resume=folder.exists(),
            **{**given.options, "split": "outer"},
        )  # fmt: skip
        nll.append({row["name"]: row["nll"]["value"] for row in fitted.metrics["gain"]})
        sizes.append(len(own))
    rows = [row for row in nll[0] if all(row in fold for fold in nll)]
    means = {row: float(np.average([fold[row] for fold in nll], weights=sizes)) for row in rows}
    best = min((row for row in rows if row != CHOSEN), key=lambda row: means[row])
    apart = np.array([fold[CHOSEN] - fold[best] for fold in nll])
    # Student's t of the folds: crude, since folds share rows that were learnt from, and wide, since they are few.
    reach = float(stats.t.ppf(0.975, len(apart) - 1) * apart.std(ddof=1) / len(apart) ** 0.5)
    difference = means[CHOSEN] - means[best]
    return {
        "set": name, "rows": len(frame), "groups": len(np.unique(units)), "nll": means, "best": best,
        "difference": difference, "interval": [difference - reach, difference + reach],
    }  # fmt: skip


if __name__ == "__main__":
    main()
