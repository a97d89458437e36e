"""The command line.

Exit codes: 0 done, 1 failed while running, 2 wrong input; 3 warnings under `check --strict`; 130 stopped by Ctrl-C.
"""

from __future__ import annotations

from fusetune.cli import augment, check, data, explain, fit, show, use
from fusetune.cli.added import add_commands
from fusetune.cli.frame import app

__all__ = ["augment", "check", "data", "explain", "fit", "main", "show", "use"]

add_commands()


def main() -> None:
    """Run the command line."""
    app(prog_name="fusetune")
