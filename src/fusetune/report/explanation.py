"""The explanation of one prediction as one HTML page that needs nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from fusetune.evaluate.explain import Effect, Explanation, Pixels
from fusetune.evaluate.metrics import FloatArray
from fusetune.report.template import data_uri, page, style

_MOST = 30
_CLASSES = 10
_SPEAKS_FOR, _SPEAKS_AGAINST = (31, 95, 191), (192, 86, 0)  # the report's blue and ochre


@dataclass(frozen=True)
class Bar:
    """One line of a table of effects: `share` is the length of its bar from -1 to 1."""

    name: str
    effect: float
    share: float
    typical: float | None


def render_explanation(explanation: Explanation) -> str:
    """Return the page as HTML."""
    classes = sorted(explanation.probabilities.items(), key=lambda item: -item[1])
    pictures = {
        name: {"plain": data_uri(pixels), "map": data_uri(overlay(pixels, explanation.maps[name]))}
        for name, pixels in explanation.pictures.items()
    }
    return page(
        "explanation.html",
        css=style(),
        e=explanation,
        classes=classes[:_CLASSES],
        shares=bars([Effect(name, share) for name, share in explanation.shares.items()], ordered=False),
        pictures=pictures,
        extremes={name: (float(values.min()), float(values.max())) for name, values in explanation.maps.items()},
        marked={name: marked(effects) for name, effects in explanation.effects.items()},
        effects={name: bars(effects)[:_MOST] for name, effects in explanation.effects.items()},
    )


def bars(effects: list[Effect], ordered: bool = True) -> list[Bar]:
    """Return effects with bars in proportion to the largest one, the strongest first."""
    largest = max((abs(effect.effect) for effect in effects), default=0.0) or 1.0
    rows = sorted(effects, key=lambda effect: -abs(effect.effect)) if ordered else effects
    return [Bar(row.name, row.effect, round(row.effect / largest, 4), row.typical) for row in rows]


def marked(words: list[Effect]) -> Markup:
    """Return words in their order, shaded by what they speak for."""
    largest = max((abs(word.effect) for word in words), default=0.0) or 1.0
    one = Markup('<mark class="{}" style="--share:{}" title="{}">{}</mark>')
    return Markup(" ").join(
        one.format(
            "for" if word.effect >= 0 else "against",
            round(abs(word.effect) / largest, 3),
            f"{100 * word.effect:+.1f} points",
            word.name,
        )
        for word in words
    )


def overlay(pixels: Pixels, effects: FloatArray) -> Pixels:
    """Return the grey picture with regions that speak for the decision in blue, against it in ochre."""
    grey = pixels.mean(axis=2, keepdims=True)
    strength = np.abs(effects / (np.abs(effects).max() or 1.0))[:, :, None] * 0.75
    colour = np.where(effects[:, :, None] >= 0, _SPEAKS_FOR, _SPEAKS_AGAINST)
    mixed: Any = (1 - strength) * grey + strength * colour
    return np.asarray(mixed.round().clip(0, 255), dtype=np.uint8)
