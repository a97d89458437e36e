"""Arguments that are lists: a word where one is meant is one item, not its letters."""

from __future__ import annotations

from collections.abc import Iterable


def as_items(given: str | Iterable[str]) -> list[str]:
    """Return the items of an argument that is a list.

    A word stays whole, commas too: names of columns may hold them, and in Python a list is as easily written. Only the
    command line, where there is no other way, takes words apart at commas.
    """
    return [given] if isinstance(given, str) else list(given)
