"""What the pages share: the template environment with its filters, pictures, the style sheet and the script."""

from __future__ import annotations

import base64
import io
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from fusetune.evaluate.explain import Pixels
from fusetune.progress import visible
from fusetune.report import prose

_HERE = Path(__file__).parent
_WORDS = (
    prose.percent, prose.number, prose.duration, prose.count, prose.percent_bounds, prose.number_bounds, prose.points,
    prose.point_bounds, prose.p_value,
)  # fmt: skip


@cache
def environment() -> Environment:
    """Return the environment of all pages, whose templates are compiled once; every value is escaped."""
    environment = Environment(
        # Other packages name their templates with the package.
        loader=FileSystemLoader([_HERE, _HERE.parent]),
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters.update({words.__name__: words for words in _WORDS}, data_uri=data_uri)
    return environment


def page(template: str, /, **values: Any) -> str:
    """Return a filled-in template; what cannot be seen of names and cells, and may hide the rest, is written out."""
    return visible(environment().get_template(template).render(**values))


def data_uri(pixels: Pixels, side: int | None = None) -> str:
    """Return a picture as a JPEG inside a data URI, at most `side` pixels wide and high."""
    picture = Image.fromarray(pixels)
    if side is not None:
        picture.thumbnail((side, side))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def style() -> str:
    """Return the style sheet."""
    return sheet("page.css")


def sheet(name: str) -> str:
    """Return a style sheet by its file's name."""
    return (_HERE / name).read_text(encoding="utf-8")


def script() -> str:
    """Return the script that sorts and filters; without it the page shows everything."""
    return (_HERE / "page.js").read_text(encoding="utf-8")
