"""What notebooks show: a card of a few lines for an object, and a whole page in a frame of its own.

IPython is asked only where it is already imported; nothing here needs it.
"""

from __future__ import annotations

import os
import sys
import tempfile
import webbrowser
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from fusetune.errors import UserError
from fusetune.files import written_aside
from fusetune.progress import visible

_HEIGHT = 640  # pixels of the frame
_LONGEST = 300


def card(title: str, facts: Mapping[str, object], table: str = "") -> str:
    """Return a small HTML table of facts by name; everything is escaped but `table`, HTML that is put below."""
    rows = "".join(
        f'<tr><th style="text-align:left">{_words(name)}</th><td style="text-align:left">{_words(value)}</td></tr>'
        for name, value in facts.items()
    )
    return f"<div><b>{_words(title)}</b><table>{rows}</table>{table}</div>"


def with_bounds(row: Mapping[str, Any], scores: Sequence[str] = ("accuracy", "nll")) -> dict[str, Any]:
    """Return scores of a row, each with the bounds of its interval beside it, as columns of a table."""
    ends = (("", "value"), (" low", "low"), (" high", "high"))
    return {f"{score}{end}": row[score][key] for score in scores for end, key in ends}


def _words(value: object) -> str:
    words = str(value)
    return escape(visible(words if len(words) <= _LONGEST else f"{words[:_LONGEST]} …"))


def show_page(page: str, name: str) -> None:
    """Show an HTML page: in a notebook below the cell; else it becomes a temporary file, and its path is printed.

    Args:
        page: The page.
        name: What it is, in words.

    Raises:
        WriteError: If the file cannot be written.
    """
    if _in_notebook(page, name):
        return
    handle, path = tempfile.mkstemp(prefix="fusetune-", suffix=".html")
    os.close(handle)
    with written_aside(Path(path)) as aside:
        aside.write_text(page, encoding="utf-8")
    _opened(Path(path), name)


def show_file(path: Path, name: str) -> None:
    """Show an HTML page that is a file: in a notebook below the cell; else its path is printed.

    Raises:
        UserError: If the file is not there.
    """
    try:
        page = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"the {name} {path} cannot be read: {error.strerror}") from error
    if not _in_notebook(page, name):
        _opened(path, name)


def _opened(path: Path, name: str) -> None:
    print(f"{visible(name)}: {path}")
    # Without a screen, a browser for terminals would take the terminal over.
    if sys.platform in ("darwin", "win32") or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
        webbrowser.open(path.resolve().as_uri())


def _in_notebook(page: str, name: str) -> bool:
    """Show a page below the cell of a notebook; return whether there is one. IPython's terminal is none."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    if shell is None or getattr(shell, "kernel", None) is None:
        return False
    # In a frame, so that the page's style and the notebook's leave each other alone; nothing in it may run.
    frame = (
        f'<iframe title="{_words(name)}" srcdoc="{escape(page)}" sandbox="" '
        f'style="width:100%;height:{_HEIGHT}px;border:1px solid #8886"></iframe>'
    )
    shell.display_pub.publish({"text/html": frame, "text/plain": visible(name)})
    return True
