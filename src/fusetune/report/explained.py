"""An explanation as users hold it: a line, a card, a page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from html import escape
from pathlib import Path
from typing import Self

import numpy as np

from fusetune.display import card, show_page
from fusetune.evaluate.explain import Explanation
from fusetune.files import expanded, written_aside
from fusetune.progress import visible
from fusetune.report.explanation import overlay, render_explanation
from fusetune.report.template import data_uri

_STRONGEST, _LEAST = 5, 0.0005
_SIDE = 160


@dataclass(frozen=True, eq=False, repr=False)
class Explained(Explanation):
    """Why one row is decided as it is, ready to be shown.

    Attributes:
        facts: Which model and which table it is about, by name.
    """

    facts: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, explanation: Explanation, facts: Mapping[str, str]) -> Self:
        """Return an explanation with what it is about."""
        return cls(**{one.name: getattr(explanation, one.name) for one in fields(Explanation)}, facts=facts)

    def html(self) -> str:
        """Return the page that `fusetune explain` writes: one HTML file that needs nothing else."""
        return render_explanation(self, self.facts)

    def save(self, path: str | Path) -> Path:
        """Write the page to a file, and return its path.

        Raises:
            WriteError: If it cannot be written.
        """
        file = expanded(path)
        with written_aside(file) as aside:
            aside.write_text(self.html(), encoding="utf-8")
        return file

    def show(self) -> None:
        """Show the page: in a notebook below the cell; else write it to a temporary file and print its path.

        On a desktop a browser opens it.
        """
        show_page(self.html(), f"explanation of row {self.row}"[:80])

    def __repr__(self) -> str:
        shares = ", ".join(f"{name} {self.changed(share, '')}" for name, share in self.shares.items())
        shown = f"; {shares}{' points' if self.size is None else ''}" if shares else ""
        return visible(f"Explanation(row {self.row}: {self.decision} {self.shown(self.probability)}{shown})")

    def _repr_html_(self) -> str:
        """Return what notebooks show: the decision, what each input adds, its strongest parts, its pictures."""
        facts = {"without any input": self.shown(self.prior)}
        for name, share in self.shares.items():
            words = "absent" if name in self.absent else self.changed(share)
            least = _LEAST * (1 if self.size is None else self.size)
            told = [effect for effect in self.effects.get(name, []) if abs(effect.effect) >= least]
            strongest = sorted(told, key=lambda effect: -abs(effect.effect))[:_STRONGEST]
            parts = ", ".join(f"{effect.name} {self.changed(effect.effect, '')}" for effect in strongest)
            facts[name] = f"{words} ({parts})" if parts else words
        pictures = "".join(
            f'<img src="{data_uri(overlay(pixels, self.maps[name]), _SIDE)}" alt="{escape(visible(name))}, by effect">'
            for name, pixels in self.pictures.items()
            if name in self.maps and np.isfinite(self.maps[name]).all()
        )
        return card(f"row {self.row}: {self.decision}, {self.shown(self.probability)}", facts, pictures)
