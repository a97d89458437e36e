"""`fusetune fit` in which one stage ends with a signal, in a process of its own.

As a program, this file forks such a process for each line that it reads, which holds a list in JSON: the stage, the
signal, where the output goes, and the words after `fit`. It answers with the exit code. Importing the libraries takes
most of the time of a small run, and is done once.
"""

from __future__ import annotations

import atexit
import functools
import importlib
import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fusetune.cli import main
from fusetune.doctor import columns, labels

# Which function begins the stage, and at which of its calls the signal comes: the second epoch has a checkpoint behind
# it, and the file in the middle of the model leaves half a folder.
STAGES = {
    "doctor": ("fusetune.intake", "examine", 1),
    "stage U": ("fusetune.train.loop", "_run_epoch", 2),
    "encode": ("fusetune.features.store", "FeatureStore._compute", 2),
    "stage M": ("fusetune.strategies.blocks", "fit_on", 1),
    "judge": ("fusetune.api", "judge", 1),
    "model": ("fusetune.bundle", "numpy_bytes", 1),
    "report": ("fusetune.api", "write_report", 1),
}


def end_in(stage: str, number: int) -> None:
    """Let the stage of this process end with a signal."""
    module, path, call = STAGES[stage]
    *owners, name = path.split(".")
    owner: Any = importlib.import_module(module)
    for part in owners:
        owner = getattr(owner, part)
    if number == signal.SIGINT:
        # A shell lets what it starts in the background ignore Ctrl-C, and children inherit that.
        signal.signal(number, signal.default_int_handler)
    plain, calls = getattr(owner, name), itertools.count(1)

    def until(*args: Any, **more: Any) -> Any:
        if next(calls) == call:
            signal.raise_signal(number)
        return plain(*args, **more)

    setattr(owner, name, until)


def run_to(stage: str, number: signal.Signals, words: Sequence[str], output: Path) -> int:
    """Run `fusetune fit` with some words until a stage ends with a signal; return the exit code, negative for signals.

    Args:
        stage: One of `STAGES`.
        number: The signal.
        words: What stands after `fit`.
        output: A file for what the process prints.
    """
    program = _program()
    assert program.stdin and program.stdout
    program.stdin.write(json.dumps([stage, int(number), str(output), list(words)]) + "\n")
    program.stdin.flush()
    return int(program.stdout.readline())


@functools.cache
def _program() -> subprocess.Popen[str]:
    program = subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    atexit.register(program.communicate)  # its input ends, and so does it
    return program


def _serve() -> None:
    # PyTorch's optimisers import the last one when the first of them is made: once here, not in every child.
    for module in (*(module for module, _, _ in STAGES.values()), "torch._dynamo"):
        importlib.import_module(module)
    # The doctor is interrupted, not judged.
    for part in (columns, labels):
        vars(part)["_TREES"] = 8
    for line in sys.stdin:
        stage, number, output, words = json.loads(line)
        if not (child := os.fork()):
            file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(file, 1)
            os.dup2(file, 2)
            end_in(stage, number)
            sys.argv[1:] = ["fit", *words]
            main()
            sys.exit()
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    _serve()
