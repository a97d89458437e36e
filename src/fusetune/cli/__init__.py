"""The command line.

Exit codes: 0 done, 1 failed while running, 2 wrong input; 3 warnings under `check --strict`; 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import sys
import warnings
from io import TextIOWrapper

from fusetune.cli import (
    augment,
    check,
    compare,
    data,
    demo,
    diagnose,
    doctor,
    encode,
    evaluate,
    explain,
    export,
    fit,
    guide,
    predict,
    serve,
    show,
)
from fusetune.cli.added import add_commands
from fusetune.cli.frame import app
from fusetune.progress import lines_at_intervals, visible

__all__ = [
    "augment",
    "check",
    "compare",
    "data",
    "demo",
    "diagnose",
    "doctor",
    "encode",
    "evaluate",
    "explain",
    "export",
    "fit",
    "guide",
    "main",
    "predict",
    "serve",
    "show",
]

add_commands()


def main() -> None:
    """Run the command line."""
    formatted = warnings.formatwarning
    warnings.formatwarning = lambda *args, **how: visible(formatted(*args, **how))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a terminal that knows few letters is shown the others written out
            stream.reconfigure(errors="backslashreplace")
    with lines_at_intervals():
        app(prog_name="fusetune")
