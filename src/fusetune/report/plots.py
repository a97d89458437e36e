"""Drawings of the report as inline SVG, coloured by the page's style sheet so that dark mode and print apply to them.

Text stays text, every drawing carries a description for screen readers, and all values from the user are escaped by
``Markup.format``. Lengths are SVG units, about one pixel each at the drawings' usual size.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

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
    return [round(index * step, 12) for index in range(first, max(last, first + 1) + 1)]


def reliability_plot(bins: Reliability) -> Markup:
    """Draw accuracy against stated certainty, with the number of rows per bin below."""
    x, y, bar = Scale(0, 1, _LEFT, _RIGHT), Scale(0, 1, 254, _TOP), Scale(0, max(int(bins.count.max()), 1), 0, 46)
    quarters = {quarter / 4: f"{25 * quarter} %" for quarter in range(5)}
    parts = [_levels(y, quarters), _labels(x, quarters, 331)]
    parts.append(_line("ideal", [(x(0), y(0)), (x(1), y(1))]))
    filled = [index for index, rows in enumerate(bins.count.tolist()) if rows]
    dots = [(x(float(bins.confidence[index])), y(float(bins.accuracy[index]))) for index in filled]
    parts.append(_line("guide", dots))
    for index, (across, up) in zip(filled, dots, strict=True):
        rows = int(bins.count[index])
        hint = (
            f"{count(rows, 'row')}: stated {percent(float(bins.confidence[index]))}, "
            f"right {percent(float(bins.accuracy[index]))}"
        )
        radius = 2.5 + 3.5 * math.sqrt(rows / int(bins.count.max()))
        left, right = x(float(bins.edges[index])), x(float(bins.edges[index + 1]))
        parts.append(_dot("series-a", across, up, round(radius, 2), hint))
        parts.append(_bar(left + 1, 316 - bar(rows), right - left - 2, bar(rows), hint))
    parts.append(_text("axis", (_LEFT + _RIGHT) / 2, 348, "stated certainty (top probability)", "middle"))
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


def learning_plot(modality: str, epochs: Sequence[EpochRecord], best: int | None, levels: Sequence[float]) -> Markup:
    """Draw training loss and validation NLL over the epochs and mark the epoch whose weights were kept."""
    first, last = epochs[0].epoch, epochs[-1].epoch
    x = Scale(first, last, _LEFT + 8, _RIGHT - 8) if last > first else Scale(first - 1, first + 1, _LEFT, _RIGHT)
    y = Scale(levels[0], levels[-1], 190, _TOP)
    whole = {tick: f"{tick:.0f}" for tick in ticks(first, last) if tick == int(tick) and first <= tick <= last}
    parts = [_levels(y, _decimals(levels)), _labels(x, whole, 207)]
    chosen = next((record for record in epochs if record.epoch == best), None)
    if chosen is not None:
        parts.append(_line("chosen", [(x(chosen.epoch), y(levels[0])), (x(chosen.epoch), y(levels[-1]))]))
    parts.append(_series("series-b", "training loss", [(r.epoch, r.train_loss) for r in epochs], x, y))
    parts.append(_series("series-a", "validation NLL", [(r.epoch, r.valid_nll) for r in epochs], x, y))
    if chosen is not None and math.isfinite(chosen.valid_nll):
        hint = f"epoch {chosen.epoch}, kept: validation NLL {number(chosen.valid_nll)}"
        parts.append(_dot("kept", x(chosen.epoch), y(chosen.valid_nll), 5.5, hint))
    parts.append(_text("axis", (_LEFT + _RIGHT) / 2, 224, "epoch", "middle"))
    parts.append(_text("axis", 0, 11, "nats", "start"))
    return _svg(230, f"Learning curve of {modality}: training loss and validation NLL per epoch", parts)


@dataclass(frozen=True)
class Line:
    """One curve of shares, with or without a band of its intervals."""

    name: str
    kind: str
    points: Sequence[tuple[float, Interval]]
    band: bool


def share_plot(description: str, lines: Sequence[Line], across: str, up: str) -> Markup:
    """Draw shares against shares, the last line on top."""
    shares = [(share, line.band) for line in lines for _, share in line.points]
    ends = [end for share, band in shares for end in ([share.low, share.value, share.high] if band else [share.value])]
    finite = [end for end in ends if math.isfinite(end)]
    levels = ticks(min(finite, default=0.0), max(finite, default=1.0))
    x, y = Scale(0, 1, _LEFT, _RIGHT), Scale(levels[0], levels[-1], 190, _TOP)
    quarters = {quarter / 4: f"{25 * quarter} %" for quarter in range(5)}
    parts = [_levels(y, {level: f"{100 * level:.0f} %" for level in levels}), _labels(x, quarters, 207)]
    for line in lines:
        if line.band:
            parts.append(_band([(x(at), y(share.low), y(share.high)) for at, share in line.points if share.bounded]))
        parts.append(_line(line.kind, [(x(at), y(share.value)) for at, share in line.points]))
        for at, share in line.points:
            hint = f"{line.name}: {percent(share.value)} at {percent(at)}"
            parts.append(_dot(line.kind, x(at), y(share.value), 3 if line.band else 1.5, hint))
    parts.append(_text("axis", (_LEFT + _RIGHT) / 2, 224, across, "middle"))
    parts.append(_text("axis", 0, 11, up, "start"))
    return _svg(230, description, parts)


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
