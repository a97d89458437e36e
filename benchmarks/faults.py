"""What goes wrong around a training run, injected, and what becomes of it: fault | tried | survived.

A fault is survived if work goes on where it can, or if one error with an exit code says what is wrong, where, and what
to do; and if nothing half-written is left. Then bytes of images and tables are damaged at random.

Prediction, written before the first measurement: all faults are survived but some on a full disk, where a library's own
error gets through; of damaged bytes, none ends in anything but a result or an error of fusetune.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from _bad_clusters import CLUSTERS, SCENES
from _bad_images import IMAGES
from _bad_places import PLACES
from _bad_tables import TABLES
from _fuzz import fuzz_images, fuzz_tables
from _workshop import CannotTryError, Fault, Workshop, open_workshop, went_wrong

from fusetune.progress import track

FAULTS = [*TABLES, *IMAGES, *PLACES, *CLUSTERS]
_QUICK, _FULL = 300, 5000


def main() -> None:
    args = _arguments()
    with TemporaryDirectory() as folder:
        shop = open_workshop(Path(folder))
        faults = inject_all(shop, _one_of_each(FAULTS) if args.quick else [*FAULTS, *SCENES])
    count = _QUICK if args.quick else _FULL
    fuzzed = fuzz_images(count, args.seed) | fuzz_tables(count, args.seed)
    print_faults(faults)
    print_fuzzed(fuzzed)
    if args.json:
        Path(args.json).write_text(json.dumps({"faults": faults, "fuzzed": fuzzed}, indent=1), encoding="utf-8")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="one case of each fault, fewer damaged files")
    parser.add_argument("--seed", type=int, default=0, help="decides the random damage")
    parser.add_argument("--json", metavar="FILE", help="also write the numbers to this file")
    return parser.parse_args()


def _one_of_each(faults: list[Fault]) -> list[Fault]:
    return list({fault.name: fault for fault in reversed(faults)}.values())[::-1]


def inject_all(shop: Workshop, faults: list[Fault]) -> dict[str, Any]:
    """Inject faults one by one; return per name how many were tried and survived, and which were not, and why."""
    tried: Counter[str] = Counter()
    survived: Counter[str] = Counter()
    wrong: dict[str, str] = {}
    left_out: dict[str, str] = {}
    for number, fault in enumerate(track(faults, "injecting faults")):
        case = f"{fault.name}: {fault.case}"
        folder = shop.folder / str(number)
        folder.mkdir()
        try:
            reason = went_wrong(fault, replace(shop, folder=folder))
        except CannotTryError as error:
            left_out[case] = str(error)
            continue
        tried[fault.name] += 1
        survived[fault.name] += not reason
        if reason:
            wrong[case] = reason
    return {"tried": tried, "survived": survived, "wrong": wrong, "left out": left_out}


def print_faults(found: dict[str, Any]) -> None:
    print("| fault | tried | survived |\n|---|---:|---:|")
    for name, count in found["tried"].items():
        print(f"| {name} | {count} | {found['survived'][name]} |")
    print(f"| all | {found['tried'].total()} | {found['survived'].total()} |")
    for case, reason in {**found["wrong"], **found["left out"]}.items():
        print(f"{case}: {reason}")


def print_fuzzed(found: dict[str, Counter[str]]) -> None:
    print("\n| damaged bytes | tried | read | clear error | anything else |\n|---|---:|---:|---:|---:|")
    for name, outcomes in found.items():
        other = outcomes.total() - outcomes["ok"] - outcomes["clear error"]
        print(f"| {name} | {outcomes.total():,} | {outcomes['ok']:,} | {outcomes['clear error']:,} | {other:,} |")
        for text in outcomes.keys() - {"ok", "clear error"}:
            print(f"  {text}")


if __name__ == "__main__":
    main()
