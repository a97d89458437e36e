"""Tables of results in a page of the documentation, each between two marks, renewed by what measures them."""

from __future__ import annotations

import re
from pathlib import Path

_PAGE = Path(__file__).parents[1] / "docs" / "reliability.md"


def renew(name: str, table: str) -> None:
    """Write a table into the page, in place of the one of that name."""
    _PAGE.write_text(renewed(_PAGE.read_text(encoding="utf-8"), name, table), encoding="utf-8")


def renewed(page: str, name: str, table: str) -> str:
    """Return a page with another table of that name.

    Raises:
        ValueError: If the page has no place for it.
    """
    found = re.compile(f"(?<=<!-- begin {re.escape(name)} -->\n).*(?=<!-- end {re.escape(name)} -->)", re.DOTALL)
    if not found.search(page):
        raise ValueError(f"there is no '<!-- begin {name} -->' in {_PAGE}")
    return found.sub(lambda _: f"\n{table}\n\n", page)
