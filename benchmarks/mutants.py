"""Would a test notice? Faults that make scores dishonest are planted one by one (`_mutants*.py`), and tests are run.

A fault is planted into a copy of the sources; only the tests that are said to cover it run there, up to the first
failure. `killed`: a test failed. `SURVIVED`: none did, and the run's exit status is 1.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from _mutants import MUTANTS, Mutant
from _mutants_doctor import DOCTOR
from _mutants_papers import PAPERS

ROOT = Path(__file__).parents[1]
ALL = (*MUTANTS, *DOCTOR, *PAPERS)
_COPIED = ("src", "tests", "benchmarks", "pyproject.toml")
_PASSED, _FAILED, _BROKEN = 0, 1, 2


@dataclass
class Outcome:
    """What became of a test run; a plug-in of pytest, which notes the first failure.

    Attributes:
        status: 0: all passed, 1: one failed, 2: they could not be run.
        test: The test that failed.
        reason: Its last words.
    """

    status: int
    test: str = ""
    reason: str = ""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note a failure."""
        if report.failed and not self.test:
            self.test = report.nodeid
            crash = getattr(report.longrepr, "reprcrash", None)
            self.reason = str(crash.message if crash else report.longrepr).split("\n")[0][:200]


def main() -> None:
    args = _arguments()
    chosen = [mutant for mutant in ALL if args.only.lower() in f"{mutant.file} {mutant.what}".lower()]
    chosen = chosen[:: max(1, len(chosen) // 5)] if args.quick else chosen
    if not chosen:
        sys.exit(f"no mutant's file or words hold '{args.only}'")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    # What the library imports takes most of a short test's time: it is there already in processes that are forked.
    importlib.import_module("fusetune.api")
    for name in [name for name in sys.modules if name.partition(".")[0] == "fusetune"]:
        del sys.modules[name]
    _refuse_what_fails_anyway(chosen)
    results = [_tried(mutant) for mutant in chosen]
    survivors = [result for result in results if not result["killed"]]
    print(f"{len(results) - len(survivors)} of {len(results)} mutants killed")
    if args.json:
        Path(args.json).write_text(json.dumps({"mutants": results, "quick": args.quick}, indent=1), encoding="utf-8")
    sys.exit(bool(survivors))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0] if __doc__ else "")
    parser.add_argument("--only", metavar="WORD", default="", help="mutants whose file or description holds this")
    parser.add_argument("--quick", action="store_true", help="a handful of them: does it run?")
    parser.add_argument("--json", metavar="FILE", help="also write the result to this file")
    return parser.parse_args()


def _refuse_what_fails_anyway(chosen: Sequence[Mutant]) -> None:
    """Run all covering tests on the sources as they are: a test that fails anyway would kill every mutant."""
    tests = list(dict.fromkeys(test for mutant in chosen for test in mutant.tests))
    with TemporaryDirectory() as folder:
        started, outcome = time.perf_counter(), run_tests(copied(Path(folder)), tests)
    if outcome.status != _PASSED:
        sys.exit(f"the tests do not pass on the sources as they are: {outcome.test} {outcome.reason}")
    print(
        f"{len(tests)} covering tests and files pass without a fault, {time.perf_counter() - started:.1f} s", flush=True
    )


def _tried(mutant: Mutant) -> dict[str, Any]:
    started = time.perf_counter()
    with TemporaryDirectory() as folder:
        root = copied(Path(folder))
        plant(mutant, root)
        outcome = run_tests(root, mutant.tests)
    if outcome.status == _BROKEN:
        sys.exit(f"{mutant.file}: {mutant.what}: its tests could not be run; {outcome.test} {outcome.reason}")
    seconds, killed = time.perf_counter() - started, outcome.status == _FAILED
    print(f"{'killed' if killed else 'SURVIVED':8} {seconds:5.1f} s  {mutant.file}: {mutant.what}", flush=True)
    facts = {"file": mutant.file, "what": mutant.what, "killed": killed, "seconds": round(seconds, 2)}
    return {**facts, "by": outcome.test, "because": outcome.reason}


def copied(root: Path) -> Path:
    """Copy what the tests need into a folder and return it."""
    for name in _COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        else:
            shutil.copy(ROOT / name, root / name)
    return root


def plant(mutant: Mutant, root: Path) -> None:
    """Write a fault into the sources below a folder; refuse one whose place is not found exactly once."""
    path = root / mutant.file
    text = path.read_text("utf-8")
    if text.count(mutant.old) != 1:
        sys.exit(f"{mutant.file} holds {text.count(mutant.old)} times instead of once:\n{mutant.old}")
    path.write_text(text.replace(mutant.old, mutant.new), encoding="utf-8")


def run_tests(root: Path, tests: Sequence[str]) -> Outcome:
    """Run tests of a copy in a process of their own up to the first failure."""
    note = root / "outcome.json"
    child = os.fork()
    if not child:
        try:
            outcome = _run_here(root, tests)
        except BaseException as error:
            outcome = Outcome(_BROKEN, reason=repr(error))
        note.write_text(json.dumps(asdict(outcome)), encoding="utf-8")
        os._exit(0)
    os.waitpid(child, 0)
    return Outcome(**json.loads(note.read_text("utf-8"))) if note.exists() else Outcome(_BROKEN)


def _run_here(root: Path, tests: Sequence[str]) -> Outcome:
    folders = [str(root / name) for name in ("src", "tests", "benchmarks")]
    os.chdir(root)
    os.environ["PYTHONPATH"] = os.pathsep.join(folders)  # for processes that tests start
    sys.path[:0] = folders
    sys.dont_write_bytecode = True
    nowhere, outcome = os.open(os.devnull, os.O_WRONLY), Outcome(_BROKEN)
    for stream in (1, 2):
        os.dup2(nowhere, stream)
    # Plug-ins that came with the libraries are there already, which would be warned of, and warnings are errors.
    options = ["-x", "-q", "--tb=line", "-p", "no:cacheprovider", "-W", "ignore:Module already imported"]
    status = int(pytest.main([*options, *tests], plugins=[outcome]))
    home = Path(str(sys.modules["fusetune"].__file__)) if "fusetune" in sys.modules else root
    if root in (home, *home.parents) and status in (_PASSED, _FAILED):
        outcome.status = status
    return outcome


if __name__ == "__main__":
    main()
