"""A tiny run is ended at random moments, by SIGKILL and by Ctrl-C, and resumed: does it end with the same bits?

Files of a user lie in its folder and beside it; none of them may change. Each run is a fork of this process, which has
imported all that it needs and started no thread.

Prediction, written before the first measurement: all resume bit-equal, and no file of the user is touched.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}

import yaml
from _workshop import clean, settings

from fusetune import cli
from fusetune.cli.frame import INTERRUPTED
from fusetune.progress import track

SIGNALS = {"SIGKILL": signal.SIGKILL, "Ctrl-C": signal.SIGINT}
# What is planted before a run, with names like those of half-written files (dates are hexadecimal digits), and what is
# put among a run's own files before it is resumed.
HIDDEN = (".bashrc.20240131", ".vault.deadbeef/keys", ".model.20240131/bundle.json", ".metrics.json.20231224.json")
AMONG = ("thesis.tex", "stages/todo.txt", "stages/note-0123abcd/epoch-mine.pt", ".log.jsonl.20240131.jsonl")
BESIDE = ("run.bak/weights", ".run.20240131", ".run.20240131.old/all", "run.csv")
_TIMES = ("seconds", "cost", "encoder_passes", "test_opened", "warnings")  # of metrics, what tells of this one run
_QUICK, _FULL = 3, 200


@dataclass
class Tally:
    """What became of the runs that one signal ended; `wrong` says why one was not survived."""

    tried: int = 0
    stopped: int = 0
    equal: int = 0
    untouched: int = 0
    said: int = 0
    where: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


def main() -> None:
    args = _arguments()
    chance, tallies = random.Random(args.seed), {name: Tally() for name in SIGNALS}
    with TemporaryDirectory() as folder:
        home = Path(folder)
        words = _prepare(home)
        _import_all(home, words)
        started = time.perf_counter()
        _finish(home / "whole", words)
        seconds = time.perf_counter() - started
        print(f"a run that nobody stops takes {seconds:.1f} s", flush=True)
        names = [name for name in SIGNALS for _ in range(_QUICK if args.quick else args.trials)]
        for number, name in enumerate(track(names, "ending runs")):
            _try(
                home / str(number),
                home / "whole" / "run",
                words,
                SIGNALS[name],
                chance.random() * seconds,
                tallies[name],
            )
            shutil.rmtree(home / str(number))
    _print(tallies)
    if args.json:
        facts = {name: tally.__dict__ for name, tally in tallies.items()}
        Path(args.json).write_text(json.dumps(facts, indent=1), encoding="utf-8")
    sys.exit(any(tally.wrong for tally in tallies.values()))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help=f"{_QUICK} runs for each signal")
    parser.add_argument("--trials", type=int, default=_FULL, metavar="N", help="runs for each signal")
    parser.add_argument("--seed", type=int, default=0, help="decides the moments")
    parser.add_argument("--json", metavar="FILE", help="also write the numbers to this file")
    return parser.parse_args()


def _prepare(home: Path) -> list[str]:
    """Write the table and the settings; return the words of the command but for the folder."""
    clean(home / "pictures").to_csv(home / "table.csv", index=False)
    # The store is where FUSETUNE_CACHE says, so that the settings of all runs are the same.
    tree = settings(home, epochs=3)
    del tree["store"]
    (home / "config.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    columns = ["--label", "organ", "--inputs", "scan,note,age,site", "--group", "patient", "--id", "id"]
    return ["fit", str(home / "table.csv"), *columns, "--config", str(home / "config.yaml")]


def _import_all(home: Path, words: Sequence[str]) -> None:
    """Import here what a run imports on its way."""
    _finish(home / "first", words, home / "modules.json")
    for name in json.loads((home / "modules.json").read_text(encoding="utf-8")):
        with contextlib.suppress(Exception):  # parts of programs that cannot be imported alone
            importlib.import_module(name)


def _finish(folder: Path, words: Sequence[str], modules: Path | None = None) -> None:
    """Run from the start to the end; raise RuntimeError if it does not get there."""
    folder.mkdir()
    if code := _ended(_forked(folder, words, modules)):
        raise RuntimeError(f"exit code {code}: {_said(folder)}")


def _forked(folder: Path, words: Sequence[str], modules: Path | None = None) -> int:
    """Start a run in another process, and return its number."""
    if process := os.fork():
        return process
    code = 70
    try:
        with (folder / "said.txt").open("w") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        # A shell lets what it starts in the background ignore Ctrl-C, and children inherit that.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.environ["FUSETUNE_CACHE"] = str(folder / "cache")
        sys.argv = ["fusetune", *words, "--out", str(folder / "run")]
        cli.main()
    except SystemExit as stop:
        code = int(stop.code or 0)
        if modules is not None:
            modules.write_text(json.dumps(sorted(sys.modules)), encoding="utf-8")
    except KeyboardInterrupt:
        code = INTERRUPTED
    finally:
        os._exit(code)


def _ended(process: int) -> int:
    """Wait for a process and return its exit code, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def _said(folder: Path) -> str:
    return (folder / "said.txt").read_text(encoding="utf-8", errors="replace")


def _try(folder: Path, whole: Path, words: Sequence[str], number: signal.Signals, after: float, tally: Tally) -> None:
    """End a run after some seconds, resume it, and compare it with one that nobody ended."""
    run = folder / "run"
    planted = _plant(folder, BESIDE) | _plant(run, HIDDEN)
    process = _forked(folder, words)
    time.sleep(after)
    if os.waitpid(process, os.WNOHANG)[0]:  # the machine was faster than before: that was no moment of the run
        shutil.rmtree(folder)
        _try(folder, whole, words, number, 0.8 * after, tally)
        return
    os.kill(process, number)
    code, said = _ended(process), _said(folder)
    tally.tried += 1
    tally.stopped += code != 0
    tally.where[_place(run)] += 1
    tally.said += number == signal.SIGINT and code == INTERRUPTED and "--resume" in said
    if code not in (0, -number if number == signal.SIGKILL else INTERRUPTED):
        tally.wrong.append(f"after {after:.2f} s, exit code {code}: {said[-500:]}")
    if (run / "run.json").exists():  # else there is nothing yet that a user could take for a run's folder
        planted |= _plant(run, AMONG)
    if code := _ended(_forked(folder, [*words, "--resume"])):
        tally.wrong.append(f"after {after:.2f} s, resuming ends with exit code {code}: {_said(folder)[-500:]}")
    differing = _differing(run, whole)
    touched = [str(path) for path, content in planted.items() if not path.is_file() or path.read_text() != content]
    tally.equal += not differing
    tally.untouched += not touched
    if differing or touched:
        tally.wrong.append(f"after {after:.2f} s, differing: {differing}; touched: {touched}")


def _plant(folder: Path, names: Sequence[str]) -> dict[Path, str]:
    planted = {folder / name: f"mine: {name}" for name in names}
    for path, content in planted.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return planted


def _place(run: Path) -> str:
    """Return how far a run came."""
    steps = {"the end": "metrics.json", "its predictions": "predictions.parquet", "the model": "model/bundle.json"}
    steps |= {"training": "stages/*/epoch-*.pt", "the start": "run.json"}
    return next((step for step, pattern in steps.items() if any(run.glob(pattern))), "nothing")


def _differing(run: Path, whole: Path) -> list[str]:
    """Return what of a run differs from the other one, but for times; what is left half-written counts, too."""
    names = sorted(path.relative_to(whole).as_posix() for path in (whole / "model").rglob("*") if path.is_file())
    names = [*names, "predictions.parquet", "split.parquet", "schema.json", "metrics.json"]
    left = [path.name for path in run.rglob(".*fusetune-*")]
    return left + [name for name in names if _content(run / name) != _content(whole / name)]


def _content(path: Path) -> Any:
    if not path.is_file():
        return None
    if path.name not in ("metrics.json", "bundle.json"):
        return path.read_bytes()
    facts = json.loads(path.read_text(encoding="utf-8"))
    return {name: value for name, value in facts.items() if name not in (*_TIMES, "created", "checksum")}


def _print(tallies: dict[str, Tally]) -> None:
    print("| signal | tried | ended it | resumed bit-equal | user's files untouched | exit code 130 and --resume |")
    print("|---|---:|---:|---:|---:|---:|")
    for name, tally in tallies.items():
        said = tally.said if name == "Ctrl-C" else "-"
        print(f"| {name} | {tally.tried} | {tally.stopped} | {tally.equal} | {tally.untouched} | {said} |")
    for name, tally in tallies.items():
        print(
            f"{name} came when there was: " + ", ".join(f"{step} {count}" for step, count in tally.where.most_common())
        )
        for reason in tally.wrong:
            print(f"  {reason}")


if __name__ == "__main__":
    main()
