"""The explanation of one prediction as one HTML page that needs nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup
from scipy import ndimage

from fusetune.evaluate.explain import Effect, Explanation, Pixels
from fusetune.evaluate.metrics import FloatArray
from fusetune.report.form import amounts, share
from fusetune.report.template import data_uri, page, style

PROBABILITY = share("points", "Points")
_MOST = 30
_CLASSES = 10
_EVEN, _LEAST = 10.0, 0.1  # levels of grey that are one colour; share of a picture that ground or object must have
_SPEAKS_FOR, _SPEAKS_AGAINST = (31, 95, 191), (192, 86, 0)  # the report's blue and ochre


@dataclass(frozen=True)
class Bar:
    """One line of a table of effects: `share` is the length of its bar from -1 to 1."""

    name: str
    effect: float
    share: float
    typical: float | None


def render_explanation(explanation: Explanation, facts: Mapping[str, str] | None = None) -> str:
    """Return the page as HTML; `facts` say which model and which table it is about, by name."""
    form = PROBABILITY if explanation.size is None else amounts("effect", "Effect", explanation.size)
    classes = sorted(explanation.probabilities.items(), key=lambda item: -item[1])
    pictures = {
        name: {"plain": data_uri(pixels), "map": data_uri(overlay(pixels, explanation.maps[name]))}
        for name, pixels in explanation.pictures.items()
    }
    return page(
        "explanation.html",
        css=style(),
        e=explanation,
        form=form,
        classes=classes[:_CLASSES] if explanation.size is None else [],
        more=len(classes) - _CLASSES,
        facts=facts or {},
        outside={name: outside_share(pixels, explanation.maps[name]) for name, pixels in explanation.pictures.items()},
        shares=bars([Effect(name, share) for name, share in explanation.shares.items()], ordered=False),
        pictures=pictures,
        extremes={name: (float(values.min()), float(values.max())) for name, values in explanation.maps.items()},
        strongest={name: float(np.abs(values).max()) for name, values in explanation.maps.items()},
        marked={name: marked(explanation, effects) for name, effects in explanation.effects.items()},
        effects={name: bars(effects)[:_MOST] for name, effects in explanation.effects.items()},
    )


def bars(effects: list[Effect], ordered: bool = True) -> list[Bar]:
    """Return effects with bars in proportion to the largest one, the strongest first."""
    largest = max((abs(effect.effect) for effect in effects), default=0.0) or 1.0
    rows = sorted(effects, key=lambda effect: -abs(effect.effect)) if ordered else effects
    return [Bar(row.name, row.effect, round(row.effect / largest, 4), row.typical) for row in rows]


def marked(explanation: Explanation, words: list[Effect]) -> Markup:
    """Return words in their order, shaded by what they speak for."""
    largest = max((abs(word.effect) for word in words), default=0.0) or 1.0
    one = Markup('<mark class="{}" style="--share:{}" title="{}">{}</mark>')
    return Markup(" ").join(
        one.format(
            "for" if word.effect >= 0 else "against",
            round(abs(word.effect) / largest, 3),
            explanation.changed(word.effect),
            word.name,
        )
        for word in words
    )


def overlay(pixels: Pixels, effects: FloatArray) -> Pixels:
    """Return the grey picture with regions that speak for the decision in blue, against it in ochre.

    Shades grow with the root of the effect, so that what is a quarter as strong is still half as visible.
    """
    grey = 0.35 * 255 + 0.65 * pixels.mean(axis=2, keepdims=True)
    strength = np.sqrt(np.abs(effects / (np.abs(effects).max() or 1.0)))[:, :, None] * 0.8
    colour = np.where(effects[:, :, None] >= 0, _SPEAKS_FOR, _SPEAKS_AGAINST)
    mixed: Any = (1 - strength) * grey + strength * colour
    return np.asarray(mixed.round().clip(0, 255), dtype=np.uint8)


def outside_share(pixels: Pixels, effects: FloatArray) -> float | None:
    """Return the share of all effects that lies outside of what a picture shows: on even ground that reaches its edge.

    None where there is no such ground, or hardly anything else: then nothing can be said.
    """
    grey = pixels.astype(np.float64).mean(axis=2)
    edge = np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])
    even = np.abs(grey - np.median(edge)) < _EVEN
    parts, _ = ndimage.label(even)
    touching = np.unique(np.concatenate([parts[0], parts[-1], parts[:, 0], parts[:, -1]]))
    ground = np.isin(parts, touching[touching > 0])
    if not _LEAST < ground.mean() < 1 - _LEAST or not np.abs(effects).sum():
        return None
    return float(np.abs(effects)[ground].sum() / np.abs(effects).sum())
