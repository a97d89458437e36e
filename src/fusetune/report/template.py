"""What the pages share: the template environment with its filters, the style sheet and the script."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from fusetune.report import prose

_HERE = Path(__file__).parent
_FILTERS = (
    "percent",
    "number",
    "duration",
    "count",
    "percent_bounds",
    "number_bounds",
    "points",
    "point_bounds",
    "p_value",
    "interval",
)


def environment() -> Environment:
    """Return the environment of all pages; every value is escaped."""
    found = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    found.filters.update({name: getattr(prose, name) for name in _FILTERS})
    return found


def style() -> str:
    """Return the style sheet."""
    return (_HERE / "page.css").read_text(encoding="utf-8")


def script() -> str:
    """Return the script that sorts and filters; without it the page shows everything."""
    return (_HERE / "page.js").read_text(encoding="utf-8")
