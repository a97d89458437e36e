"""How long until a command says something: CPU seconds of a process (one thread), the least of several runs.

OMP_NUM_THREADS=1 python benchmarks/start.py
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys

COMMANDS = (
    "--help",
    "fit -h",
    "fti table.csv",
    "fit table.csv --lable x",
    "fit no-such-table.csv --label x",
    "fit tests/bundles/format_5/rows.csv --label lable",
    "fit pyproject.toml --label x --preset quik",
    "fit pyproject.toml --label x --strategy umtt",
    "export src --to onx",
    "predict no-such-run no-such-table.csv --out told.csv",
    "predict pyproject.toml src --out told.csv",
)


def seconds(words: list[str], runs: int) -> float:
    """Return the CPU seconds of a process, user and system."""
    found = []
    for _ in range(runs):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *words], capture_output=True, check=False)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        found.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(found)


def main() -> None:
    """Print a line per command, and one for what a command needs that trains or predicts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    runs = parser.parse_args().runs
    for line in COMMANDS:
        print(f"{seconds(['-m', 'fusetune', *line.split()], runs):6.2f}  fusetune {line}")
    print(f"{seconds(['-c', 'import fusetune'], runs):6.2f}  import fusetune")
    print(f"{seconds(['-c', 'import fusetune; fusetune.load'], runs):6.2f}  import fusetune; fusetune.load")


if __name__ == "__main__":
    main()
