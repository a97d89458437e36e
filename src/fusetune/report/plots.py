"""Drawings of the report as inline SVG, coloured by the page's style sheet so that dark mode and print apply to them.

Text stays text, every drawing carries a description for screen readers, and all values from the user are escaped by
``Markup.format``. Lengths are SVG units, about one pixel each at the drawings' usual size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from fusetune.evaluate.intervals import Interval
from fusetune.evaluate.metrics import Reliability
from fusetune.report.prose import count, number, percent
from fusetune.train.loop import EpochRecord

_WIDTH, _LEFT, _TOP = 320, 44, 26
_RIGHT = _WIDTH - 12
_MANY_EPOCHS = 20  # more points than this would hide the line


@dataclass(frozen=True)
class Scale:
    """A linear map from values ``low .. high`` to positions ``start .. end``."""

    low: float
    high: float
    start: float = 0.0
    end: float = 100.0

    def __call__(self, value: float) -> float:
        """Return the position of a value; values outside are kept at the border."""
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 2)


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Return round values (1, 2 or 5 times a power of ten apart) that enclose ``low .. high``."""
    spread = (high - low) or max(abs(high), 1.0)
    rough = spread / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(step * power for step in (1, 2, 5, 10) if step * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{index * step:.12g}") for index in range(first, max(last, first + 1) + 1)]


def reliability_plot(bins: Reliability, across: str = "stated certainty (top probability)") -> Markup:
    """Draw accuracy against stated certainty, with the number of rows per bin below."""
    x, y, bar = Scale(0, 1, _LEFT, _RIGHT), Scale(0, 1, 254, _TOP), Scale(0, max(int(bins.count.max()), 1), 0, 46)
    quarters = {quarter / 4: f"{25 * quarter} %" for quarter in range(5)}
    parts = [_levels(y, quarters), _labels(x, quarters, 331)]
    parts.append(_line("ideal", [(x(0), y(0)), (x(1), y(1))]))
    filled = [index for index, rows in enumerate(bins.count.tolist()) if rows]
    dots = [(x(float(bins.confidence[index])), y(float(bins.accuracy[index]))) for index in filled]
    parts.append(_line("guide", dots))
    for index, (right_of, up) in zip(filled, dots, strict=True):
        rows = int(bins.count[index])
        hint = (
            f"{count(rows, 'row')}: stated {percent(float(bins.confidence[index]))}, "
            f"right {percent(float(bins.accuracy[index]))}"
        )
        radius = 2.5 + 3.5 * math.sqrt(rows / int(bins.count.max()))
        left, right = x(float(bins.edges[index])), x(float(bins.edges[index + 1]))
        parts.append(_dot("series-a", right_of, up, round(radius, 2), hint))
        parts.append(_bar(left + 1, 316 - bar(rows), right - left - 2, bar(rows), hint))
    parts.append(_text("axis", (_LEFT + _RIGHT) / 2, 348, across, "middle"))
    parts.append(_text("axis", 0, 11, "share right", "start"))
    parts.append(_text("axis", 0, 278, "rows", "start"))
    return _svg(354, "Reliability: share of right answers against stated certainty", parts)


def losses_axis(curves: Iterable[Sequence[EpochRecord]]) -> list[float]:
    """Return the levels of one axis for all learning curves, so that heights can be compared.

    Curves that run away are cut off at the top: the axis ends at twice what nine tenths of all values stay below.
    """
    both = ((record.train_loss, record.valid_nll) for epochs in curves for record in epochs)
    losses = sorted(value for pair in both for value in pair if math.isfinite(value))
    if not losses:
        return ticks(0.0, 1.0)
    most = losses[int(0.9 * (len(losses) - 1))]
    return ticks(min(losses[0], 0.0) if losses[0] < 0.3 * most else losses[0], min(losses[-1], 2 * most))


def learning_plot(
    modality: str,
    epochs: Sequence[EpochRecord],
    best: int | None,
    levels: Sequence[float],
    valid: str = "validation NLL",
    unit: str = "nats",
) -> Markup:
    """Draw training and validation loss over the epochs and mark the epoch whose weights were kept."""
    first, last = epochs[0].epoch, epochs[-1].epoch
    x = Scale(first, last, _LEFT + 8, _RIGHT - 8) if last > first else Scale(first - 1, first + 1, _LEFT, _RIGHT)
    y = Scale(levels[0], levels[-1], 190, _TOP)
    whole = {tick: f"{tick:.0f}" for tick in ticks(first, last) if tick == int(tick) and first <= tick <= last}
    parts = [_levels(y, _decimals(levels)), _labels(x, whole, 207)]
    chosen = next((record for record in epochs if record.epoch == best), None)
    if chosen is not None:
        parts.append(_line("chosen", [(x(chosen.epoch), y(levels[0])), (x(chosen.epoch), y(levels[-1]))]))
    parts.append(_series("series-b", "training loss", [(r.epoch, r.train_loss) for r in epochs], x, y))
    parts.append(_series("series-a", valid, [(r.epoch, r.valid_nll) for r in epochs], x, y))
    if chosen is not None and math.isfinite(chosen.valid_nll):
        hint = f"epoch {chosen.epoch}, kept: {valid} {number(chosen.valid_nll)}"
        parts.append(_dot("kept", x(chosen.epoch), y(chosen.valid_nll), 5.5, hint))
    parts.append(_text("axis", (_LEFT + _RIGHT) / 2, 224, "epoch", "middle"))
    parts.append(_text("axis", 0, 11, unit, "start"))
    return _svg(230, f"Learning curve of {modality}: training loss and {valid} per epoch", parts)


@dataclass(frozen=True)
class Line:
    """One curve of shares, with or without a band of its intervals."""

    name: str
    kind: str
    points: Sequence[tuple[float, Interval]]
    band: bool


def share_plot(
    description: str,
    lines: Sequence[Line],
    across: str,
    up: str,
    form: Callable[[float], str] = percent,
    least: float = -math.inf,
) -> Markup:
    """Draw scores against shares, the last line on top; what is below `least` is drawn there."""
    shares = [(share, line.band) for line in lines for _, share in line.points]
    ends = [end for share, band in shares for end in ([share.low, share.value, share.high] if band else [share.value])]
    finite = [end for end in ends if math.isfinite(end)]
    inside = [max(end, least) for end in finite]
    levels = ticks(min(inside, default=0.0), max(inside, default=1.0))
    names = {level: f"{100 * level:.0f} %" for level in levels} if form is percent else _decimals(levels)
    x, y = Scale(0, 1, _LEFT, _RIGHT), Scale(levels[0], levels[-1], 190, _TOP)
    quarters = {quarter / 4: f"{25 * quarter} %" for quarter in range(5)}
    parts = [_levels(y, names), _labels(x, quarters, 207)]
    for line in lines:
        if line.band:
            parts.append(_band([(x(at), y(share.low), y(share.high)) for at, share in line.points if share.bounded]))
        parts.append(_line(line.kind, [(x(at), y(share.value)) for at, share in line.points]))
        for at, share in line.points:
            hint = f"{line.name}: {form(share.value)} at {percent(at)}"
            parts.append(_dot(line.kind, x(at), y(share.value), 3 if line.band else 1.5, hint))
    parts.append(_text("axis", (_LEFT + _RIGHT) / 2, 224, across, "middle"))
    parts.append(_text("axis", 0, 11, up, "start"))
    return _svg(230, description, parts)


FEW_POINTS = 200  # more are gathered in hexagons
_SHADES = 5
_HEXAGON = 4.0  # half its width
_KEPT = (0.005, 0.995)  # of the values; axes show these at least


def span(values: NDArray[np.float64]) -> tuple[float, float]:
    """Return the ends of an axis: all values, or nearly all where a few would take more than two thirds of it."""
    low, high = float(values.min()), float(values.max())
    inner = np.quantile(values, _KEPT)
    wide = float(inner[1] - inner[0])
    if wide > 0:
        low, high = max(low, float(inner[0]) - wide), min(high, float(inner[1]) + wide)
    return low, high


def agreement_plot(said: NDArray[np.float64], true: NDArray[np.float64], show: Callable[[float], str]) -> Markup:
    """Draw what was said against what is, each float [rows], with the line on which both agree.

    Args:
        said: Predicted numbers.
        true: The labels.
        show: Prints a number.
    """
    levels = _few_ticks(*span(np.concatenate([said, true])))
    x, y = Scale(levels[0], levels[-1], _LEFT, _RIGHT), Scale(levels[0], levels[-1], 290, _TOP)
    names, unit = _short(levels)
    parts = [_levels(y, names), _labels(x, names, 307)]
    parts.append(_cloud(true, said, x, y, lambda is_, told: f"said {show(told)}, is {show(is_)}"))
    parts.append(_line("ideal", [(x(levels[0]), y(levels[0])), (x(levels[-1]), y(levels[-1]))]))
    parts.append(_text("axis", (_LEFT + _RIGHT) / 2, 324, f"is{unit}", "middle"))
    parts.append(_text("axis", 0, 11, f"said{unit}", "start"))
    return _svg(330, f"What was said against what is, {count(len(said), 'test row')}", parts)


def residual_plot(said: NDArray[np.float64], errors: NDArray[np.float64], show: Callable[[float], str]) -> Markup:
    """Draw errors, what was said minus what is, against what was said, each float [rows]."""
    across = _few_ticks(*span(said))
    low, high = span(errors)
    up = ticks(min(low, 0.0), max(high, 0.0))
    x, y = Scale(across[0], across[-1], _LEFT, _RIGHT), Scale(up[0], up[-1], 190, _TOP)
    (below, unit), (beside, tall) = _short(across), _short(up)
    parts = [_levels(y, beside), _labels(x, below, 207)]
    parts.append(_cloud(said, errors, x, y, lambda told, off: f"said {show(told)}, off by {show(off)}"))
    parts.append(_line("ideal", [(_LEFT, y(0.0)), (_RIGHT, y(0.0))]))
    parts.append(_text("axis", (_LEFT + _RIGHT) / 2, 224, f"said{unit}", "middle"))
    parts.append(_text("axis", 0, 11, f"said minus is{tall}", "start"))
    return _svg(230, f"Errors against what was said, {count(len(said), 'test row')}", parts)


def error_plot(errors: NDArray[np.float64], show: Callable[[float], str]) -> Markup:
    """Draw how many rows have which error, float [rows]; the first and last bar hold all beyond them, too."""
    low, high = span(errors)
    levels = _few_ticks(min(low, 0.0), max(high, 0.0))
    edges = np.linspace(levels[0], levels[-1], 2 * 4 * 3 + 1)
    rows = np.histogram(np.clip(errors, levels[0], levels[-1]), edges)[0]
    heights = ticks(0, max(int(rows.max()), 1), about=3)
    x, y = Scale(levels[0], levels[-1], _LEFT, _RIGHT), Scale(0, heights[-1], 190, _TOP)
    names, unit = _short(levels)
    whole = {level: f"{level:,.0f}" for level in heights if level == int(level)}
    parts = [_levels(y, whole), _labels(x, names, 207)]
    for at, number_of in enumerate(rows.tolist()):
        if number_of:
            left, right = x(float(edges[at])), x(float(edges[at + 1]))
            hint = f"{count(number_of, 'row')}: {show(float(edges[at]))} to {show(float(edges[at + 1]))}"
            parts.append(_bar(left + 0.5, y(number_of), right - left - 1, 190 - y(number_of), hint))
    parts.append(_line("ideal", [(x(0.0), y(0)), (x(0.0), y(heights[-1]))]))
    parts.append(_text("axis", (_LEFT + _RIGHT) / 2, 224, f"said minus is{unit}", "middle"))
    parts.append(_text("axis", 0, 11, "rows", "start"))
    return _svg(230, f"How many of {count(len(errors), 'test row')} have which error", parts)


def _cloud(
    across: NDArray[np.float64],
    up: NDArray[np.float64],
    x: Scale,
    y: Scale,
    hint: Callable[[float, float], str],
) -> Markup:
    """Draw points, few as dots with hints, many as hexagons whose shade says how many are in each."""
    places = [(x(a), y(b)) for a, b in zip(across.tolist(), up.tolist(), strict=True)]
    if len(places) <= FEW_POINTS:
        dots = [_dot("point", *at, 3, hint(a, b)) for at, a, b in zip(places, across, up, strict=True)]
        return Markup("").join(dots)
    counts: dict[tuple[float, float], int] = {}
    for at in places:
        middle = _hexagon(*at)
        counts[middle] = counts.get(middle, 0) + 1
    most = math.log1p(max(counts.values()))
    shades: dict[int, list[str]] = {}
    side = round(_HEXAGON / math.sqrt(3), 2)
    shape = f"l{_HEXAGON} {side}v{2 * side}l-{_HEXAGON} {side}l-{_HEXAGON}-{side}v-{2 * side}z"
    for (a, b), rows in sorted(counts.items()):
        shade = min(_SHADES, 1 + int(_SHADES * math.log1p(rows) / (most * 1.0001)))
        shades.setdefault(shade, []).append(f"M{a:g} {b - 2 * side:g}{shape}")
    path = Markup('<path class="cell shade-{}" d="{}"/>')
    return Markup("").join(path.format(shade, "".join(cells)) for shade, cells in sorted(shades.items()))


def _hexagon(a: float, b: float) -> tuple[float, float]:
    """Return the middle of the hexagon of a grid that a place is in: the nearest of two rectangular grids' places."""
    wide, tall = 2 * _HEXAGON, 2 * _HEXAGON * math.sqrt(3)
    first = (round(a / wide) * wide, round(b / tall) * tall)
    second = ((math.floor(a / wide) + 0.5) * wide, (math.floor(b / tall) + 0.5) * tall)
    near = min(first, second, key=lambda at: (at[0] - a) ** 2 + (at[1] - b) ** 2)
    return round(near[0], 2), round(near[1], 2)


def _few_ticks(low: float, high: float) -> list[float]:
    return ticks(low, high, about=4)


def _short(levels: Sequence[float]) -> tuple[dict[float, str], str]:
    """Return short labels of an axis in the label's unit, and what follows its name: what they are multiples of."""
    most = max(abs(level) for level in levels)
    power = 3 * math.floor(math.log10(most) / 3) if most > 0 else 0
    power = 0 if (power in (0, -3) and most >= 0.01) or (most < 10_000 and power == 3) else power
    unit = {0: "", 3: " (thousands)", 6: " (millions)"}.get(power, f" (× 10^{power})".replace("-", "\N{MINUS SIGN}"))
    step = float(f"{(levels[1] - levels[0]) / 10.0**power:.6g}")
    digits = max(0, math.ceil(-math.log10(step) - 1e-9))
    return {level: number(level / 10.0**power, digits) for level in levels}, unit


def _band(edges: Sequence[tuple[float, float, float]]) -> Markup:
    """Shade between the lower and the upper edges."""
    around = [f"{x},{low}" for x, low, _ in edges] + [f"{x},{high}" for x, _, high in reversed(edges)]
    return Markup('<polygon points="{}"/>').format(" ".join(around))


def _decimals(levels: Sequence[float]) -> dict[float, str]:
    """Return axis labels with just enough decimals to tell them apart."""
    digits = max(0, math.ceil(-math.log10(levels[1] - levels[0]) - 1e-9))
    return {level: number(level, digits) for level in levels}


def _series(kind: str, name: str, values: Sequence[tuple[int, float]], x: Scale, y: Scale) -> Markup:
    """Draw one curve over the epochs; epochs without a finite value are left out."""
    finite = [(epoch, value) for epoch, value in values if math.isfinite(value)]
    curve = _line(kind, [(x(epoch), y(value)) for epoch, value in finite])
    if len(finite) > _MANY_EPOCHS:
        return curve
    dots = [_dot(kind, x(epoch), y(value), 2.5, f"epoch {epoch}: {name} {number(value)}") for epoch, value in finite]
    return curve + Markup("").join(dots)


def _svg(height: int, description: str, parts: Sequence[Markup]) -> Markup:
    opening = '<svg viewBox="0 0 {} {}" role="img" aria-label="{}">'
    return Markup(opening).format(_WIDTH, height, description) + Markup("").join(parts) + Markup("</svg>")


def _levels(y: Scale, labels: dict[float, str]) -> Markup:
    """Draw a horizontal line with its label at each level."""
    line = Markup('<path class="grid" d="M{} {}H{}"/>')
    lines = [line.format(_LEFT, y(level), _RIGHT) + _text("", _LEFT - 6, y(level) + 4, label, "end")
             for level, label in labels.items()]  # fmt: skip
    return Markup("").join(lines)


def _labels(x: Scale, labels: dict[float, str], height: float) -> Markup:
    """Write the labels of the horizontal axis."""
    return Markup("").join(_text("", x(value), height, label, "middle") for value, label in labels.items())


def _text(kind: str, x: float, y: float, text: str, anchor: str) -> Markup:
    return Markup('<text class="{}" x="{}" y="{}" text-anchor="{}">{}</text>').format(
        kind, x, round(y, 2), anchor, text
    )


def _line(kind: str, points: Sequence[tuple[float, float]]) -> Markup:
    path = " ".join(f"{x},{y}" for x, y in points)
    return Markup('<polyline class="{}" points="{}"/>').format(kind, path)


def _dot(kind: str, x: float, y: float, radius: float, hint: str) -> Markup:
    return Markup('<circle class="{}" cx="{}" cy="{}" r="{}"><title>{}</title></circle>').format(
        kind, x, y, radius, hint
    )


def _bar(x: float, y: float, width: float, height: float, hint: str) -> Markup:
    shape = '<rect class="bar" x="{}" y="{}" width="{}" height="{}"><title>{}</title></rect>'
    return Markup(shape).format(round(x, 2), round(y, 2), round(width, 2), round(height, 2), hint)


def rank_plot(description: str, ranks: Sequence[tuple[str, Interval]]) -> Markup:
    """Draw the rank of each name with its interval, one line each, from the first to the last."""
    left, step = 118, 20
    height = _TOP + step * len(ranks)
    x = Scale(1, max(len(ranks), 2), left, _RIGHT)
    levels = [level for level in ticks(1, max(len(ranks), 2)) if level == int(level) and 1 <= level <= len(ranks)]
    line = Markup('<path class="grid" d="M{} {}V{}"/>')
    parts = [line.format(x(level), _TOP - 6, height - 6) + _text("", x(level), 13, f"{level:.0f}", "middle")
             for level in dict.fromkeys([1.0, *levels])]  # fmt: skip
    for at, (name, rank) in enumerate(ranks):
        y = _TOP + step * at + 5
        parts.append(_text("", left - 10, y + 4, name, "end"))
        hint = f"{name}: rank {number(rank.value, 1)}"
        if rank.bounded:
            parts.append(_line("series-a", [(x(rank.low), y), (x(rank.high), y)]))
            hint += f", {number(rank.low, 1)} to {number(rank.high, 1)}"
        parts.append(_dot("series-a", x(rank.value), y, 4, hint))
    return _svg(height, description, parts)
