"""`fusetune fit` in which one stage ends with a signal, as a program of its own: STAGE SIGNAL WORDS-OF-FIT..."""

from __future__ import annotations

import importlib
import itertools
import signal
import sys
from typing import Any

from fusetune.cli import main

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


if __name__ == "__main__":
    end_in(sys.argv[1], int(sys.argv[2]))
    sys.argv[1:] = ["fit", *sys.argv[3:]]
    main()
