"""Results as a table and sentences for the terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.table import Table as Grid
from rich.text import Text

from fusetune.errors import listed
from fusetune.evaluate.intervals import Interval
from fusetune_papers.reproduce.flaws import FLAWS, flaws_of, in_order
from fusetune_papers.reproduce.series import Outcome, Series

# Rows of the real UPMC Food-101 in the published stage M, and without the leak.
_FOOD = {"train": 67970, "valid": 6797, "test": 22716}


def outcome_grid(results: Sequence[Series]) -> Grid:
    """Return one line per experiment and form."""
    outcomes = _sorted(results)
    seeds = sorted({outcome.seed for outcome in outcomes})
    mark = "SYNTHETIC frames; " if any(outcome.synthetic for outcome in outcomes) else ""
    words = " or ".join(sorted({worded(outcome.score) for outcome in outcomes}))
    title = f"{mark}test {words} with its 95 % interval; seed {', '.join(map(str, seeds))}"
    grid = Grid(
        "task", "experiment", "form", "printed", "valid", "test", "rows", title=title, caption=flaw_caption(outcomes)
    )
    for outcome in outcomes:
        groups = "" if outcome.groups is None else f", {outcome.groups} streams"
        grid.add_row(
            Text(outcome.task),
            Text(outcome.title),
            Text(outcome.form),
            "" if outcome.published is None else f"{outcome.published:.4f}",
            f"{outcome.valid.value:.4f}",
            bounds(outcome.test),
            f"{outcome.rows['test']:,}{groups}",
        )
    return grid


def bounds(interval: Interval) -> str:
    """Return a value and its interval."""
    if not interval.bounded:
        return f"{interval.value:.4f} [unknown]"
    return f"{interval.value:.4f} [{interval.low:.3f}, {interval.high:.3f}]"


def worded(score: str) -> str:
    """Return the name of a score in words."""
    return score.replace("_", " ")


def flaw_caption(outcomes: Sequence[Outcome]) -> str:
    """Return which flaws the published form has, and for which experiment they are others."""
    published = [outcome for outcome in outcomes if outcome.form == "paper"]
    sets = list(dict.fromkeys(tuple(outcome.flaws) for outcome in published))
    if len(sets) < 2:
        return "".join(f"paper: {ranges(flaws)}" for flaws in sets)
    titles = {flaws: list(dict.fromkeys(o.title for o in published if tuple(o.flaws) == flaws)) for flaws in sets}
    return "; ".join(f"paper, {listed(titles[flaws], 99)}: {ranges(flaws)}" for flaws in sets)


def ranges(flaws: Sequence[str]) -> str:
    """Return names of flaws in short: L1-L3, L5."""
    numbers = sorted(int(name[1:]) for name in flaws)
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(f"L{run[0]}" if len(run) == 1 else f"L{run[0]}-L{run[-1]}" for run in runs)


def fact_lines(results: Sequence[Series]) -> list[str]:
    """Return what the division of the rows gives away, and where validation accuracy is not to be believed."""
    lines = []
    for series in results:
        if series.facts and "L2" not in series.flaws:
            facts = series.facts
            alone, always = (bounds(found[facts.score]) for found in (facts.side_alone, facts.majority))
            near = "" if math.isnan(facts.distance) else f" ({facts.distance:.2f} frames away on average)"
            lines.append(
                f"{series.task}, {series.form}: {leak_words(series)}; the nearest training frame's label alone: "
                f"{facts.nearest:.4f}{near}; the stream's name alone: {alone}; the most frequent answer: {always}; the "
                f"best constant per stream {facts.constants[0]:.4f}, per location {facts.constants[1]:.4f} (chosen and "
                "judged on all)"
            )
        elif series.facts:
            lines.append(f"{series.task}, {series.form}: no baseline (L2); " + leak_words(series))
        lines += [
            f"{series.task}, {series.form}, {o.title}: validation {worded(o.score)} {o.valid.value:.4f} is above the "
            f"interval of the test {worded(o.score)} {bounds(o.test)}"
            for o in series.outcomes
            if o.test.bounded and o.valid.value > o.test.high
        ]
    return lines


def label_lines(results: Sequence[Series]) -> list[str]:
    """Return, where a row may have several labels, how all together and each of them fare, baselines first."""
    lines = []
    for series in results:
        found = {outcome.title: outcome.scores for outcome in series.outcomes}
        if series.facts and "L2" not in series.flaws:
            facts = series.facts
            found = {"the most frequent answer": facts.majority, "the stream's name alone": facts.side_alone, **found}
        for title, scores in found.items():
            each = [f"{name} {bounds(value)}" for name, value in scores.items() if name.startswith("accuracy of ")]
            if each:
                together = f"all right {bounds(scores['subset_accuracy'])}, macro F1 {bounds(scores['macro_f1'])}"
                lines.append(f"{series.task}, {series.form}, {title}: {together}, {', '.join(each)}")
    return lines


def leak_words(series: Series) -> str:
    """Return whether a division leaks, as the doctor says, who sees streams, frame numbers and names but no picture."""
    assert series.facts is not None
    shared, streams = series.facts.shared, series.facts.streams
    if not series.facts.errors:
        return f"no leak by stream: none of {streams} test streams has training frames, and the doctor finds no error"
    errors = "; ".join(f"{finding.kind}: {finding.evidence['what']}" for finding in series.facts.errors)
    return f"LEAK by stream: {shared} of {streams} test streams also have training frames; the doctor: {errors}"


def published_passes(train: int, valid: int, test: int, epochs: int) -> int:
    """Return the passes of the published stage M: all three parts run through the backbone in every epoch.

    The backward pass through the backbone that follows each training batch is not counted; it costs about two more.
    """
    return epochs * (train + valid + test)


def stored_passes(train: int, valid: int, test: int, views: int) -> int:
    """Return the passes when every view of a training row, and every other row, is encoded once."""
    return views * train + valid + test


def cost_lines(results: Sequence[Series]) -> list[str]:
    """Return the image passes of stage M by form, and those of the real UPMC Food-101 by formula."""
    lines = []
    for outcome in _sorted(results):
        total = sum(outcome.passes.get(part, 0) for part in ("train", "valid", "test"))
        if total and outcome.passes.get("train"):
            lines.append(f"{outcome.task}, {outcome.title}, {outcome.form}: {total:,} image passes in stage M")
    if lines:
        repaired = {**_FOOD, "train": 61174}
        stored = ", ".join(f"{stored_passes(**repaired, views=v):,} with {v} view(s)" for v in (1, 2, 5))
        lines.append(
            f"stage M on the whole of UPMC Food-101: published {published_passes(**_FOOD, epochs=5):,} image passes "
            f"and a gradient that nobody uses; every view encoded once: {stored}"
        )
    return lines


def flaw_lines(data: str, results: Sequence[Series]) -> list[str]:
    """Return what each single flaw changed, or which flaws are no part of the published form on this data set."""
    sound = {(o.recipe, o.task): o for s in results if s.form == "sound" for o in s.outcomes}
    lines = [
        f"{o.task}, {o.title}: {', '.join(o.flaws)} ({FLAWS[o.flaws[0]].title if len(o.flaws) == 1 else 'together'}) "
        f"changes validation {worded(o.score)} by {o.valid.value - base.valid.value:+.4f}, test {worded(o.score)} by "
        f"{o.test.value - base.test.value:+.4f}"
        for o in _sorted(results)
        if o.form.startswith("sound +") and o.flaws and (base := sound.get((o.recipe, o.task)))
    ]
    if lines or not any(series.form == "paper" for series in results):
        return lines
    return [
        f"{name} is no part of `paper` here: {FLAWS[name].elsewhere[data]}"
        for name in in_order(set(FLAWS) - flaws_of(data))
    ]


def _sorted(results: Sequence[Series]) -> list[Outcome]:
    """Return outcomes with the forms of one experiment beside each other."""
    outcomes = [outcome for series in results for outcome in series.outcomes]
    titles = list(dict.fromkeys((o.task, o.title) for o in outcomes))
    return sorted(outcomes, key=lambda o: titles.index((o.task, o.title)))
