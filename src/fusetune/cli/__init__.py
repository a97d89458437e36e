"""The command line. Exit codes: 0 done, 1 failed while running, 2 wrong input; 3 warnings under `check --strict`."""

from __future__ import annotations

from fusetune.cli import augment, check, data, explain, fit, reproduce, show, use, weights
from fusetune.cli.frame import app

__all__ = ["augment", "check", "data", "explain", "fit", "main", "reproduce", "show", "use", "weights"]


def main() -> None:
    """Run the command line."""
    app(prog_name="fusetune")
