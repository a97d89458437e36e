"""The report of a contest: one HTML file in the look of a run's report, and its main table for LaTeX."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

from fusetune.evaluate.intervals import Interval
from fusetune.files import write_text
from fusetune.report import plots, prose
from fusetune.report.form import Forms
from fusetune.report.kinds import KINDS, Kind
from fusetune.report.template import page, style
from fusetune.result import SIGNIFICANT
from fusetune.standings import Paired, Standing, Standings

_LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
        "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    }
)  # fmt: skip


def write_contest(path: Path, standings: Standings) -> None:
    """Write the report of a contest; a file that is already there is replaced in one step. Same result, same bytes."""
    write_text(path, render_contest(standings))


def render_contest(standings: Standings) -> str:
    """Return the report as HTML."""
    there = [one for one in standings.standings if math.isfinite(one.nll.value)]
    ranked = sorted(there, key=lambda one: (one.rank.value, one.name))
    kind, forms = _kind(standings), _forms(standings)
    drawing = plots.rank_plot(f"Rank of each by {kind.loss_in_words}", [(one.name, one.rank) for one in ranked])
    return page(
        "contest.html",
        css=style() + kind.styled(),
        title=standings.title,
        it=standings,
        there=there,
        failed=[one for one in standings.standings if one.errors],
        kind=kind,
        forms=forms,
        measure=standings.ground.measure,
        axis=forms.score.axis(one.accuracy for one in there),
        ranks=drawing if len(ranked) > 1 else None,
        rivals=list(dict.fromkeys(duel.against for duel in standings.paired)),
        answer=_answer(standings, there, kind, forms),
        tuned=[one for one in standings.standings if one.settings],
        limit=SIGNIFICANT,
    )


def _kind(standings: Standings) -> type[Kind]:
    return KINDS[standings.ground.measure.kind]


def _forms(standings: Standings) -> Forms:
    """Return how scores are printed."""
    return _kind(standings).forms(_size(standings))


def _size(standings: Standings) -> float:
    """Return the loss of the best, as finely as which others are printed."""
    loss = standings.standings[0].nll.value
    return loss if loss > 0 else standings.ground.measure.target.unit


def _answer(standings: Standings, there: list[Standing], kind: type[Kind], forms: Forms) -> list[str]:
    """Return the sentences of the first paragraph."""
    if not there:
        return ["Nothing could be judged."]
    ground, best = standings.ground, there[0]
    rows = prose.count(len(ground.labels), "test row")
    if ground.groups is not None:
        rows += f" of {prose.count(ground.units, 'group')}"
    sentences = [
        f"On {rows}, {best.name} has the lowest {kind.loss_in_words} ({forms.loss.value(best.nll.value)}, 95 % "
        f"interval {forms.loss.bounds(best.nll)}) and "
        f"{kind.score_in_words.format(forms.score.value(best.accuracy.value))}; that it comes first says little where "
        "intervals overlap."
    ]
    for rival in dict.fromkeys(duel.against for duel in standings.paired):
        duels = [duel for duel in standings.paired if duel.against == rival]
        sentences.append(f"{_said(duels, 'better')} shown to be better than {rival}, {_said(duels, 'worse').lower()} "
                         f"to be worse, of {len(duels)} that were tested.")  # fmt: skip
    return sentences


def _said(duels: list[Paired], verdict: str) -> str:
    names = [duel.name for duel in duels if duel.verdict == verdict]
    if not names:
        return "None is"
    joined = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
    return f"{joined} {'is' if len(names) == 1 else 'are'}"


def latex_table(standings: Standings) -> str:
    """Return the main table for LaTeX (package booktabs): scores with 95 % intervals, corrected p-values, costs."""
    rivals = list(dict.fromkeys(duel.against for duel in standings.paired))
    p = {(duel.name, duel.against): duel.p_holm for duel in standings.paired}
    measure, meanings = standings.ground.measure, _kind(standings).meanings
    unit = r" (\%)" if measure.share else ""
    heads = ["method", "seeds", f"{_tex(measure.score_word)}{unit}", _tex(measure.loss_word)]
    heads += [*(_tex(_begun(meanings[key][0])) for key in measure.over_seeds), *(f"$p$, {_tex(r)}" for r in rivals)]
    heads += ["passes", "seconds"]
    share = _percent if measure.share else "{:.3f}".format
    loss = partial(measure.shown_loss, size=_size(standings))
    lines = [rf"\begin{{tabular}}{{l{'r' * (len(heads) - 1)}}}", r"\toprule", " & ".join(heads) + r" \\", r"\midrule"]
    for one in standings.standings:
        cells = [_tex(one.name), str(one.seeds), _range(one.accuracy, share), _range(one.nll, loss)]
        cells += [_printed(own.value, loss) for own in one.further.values()]
        cells += [_number(p.get((one.name, rival), math.nan), 3) for rival in rivals]
        cells += [_number(one.passes, 0), _number(one.seconds, 1)]
        lines.append(" & ".join(cells) + r" \\")
    rows = f"{len(standings.ground.labels)} test rows"
    if standings.ground.groups is not None:
        rows += f" of {standings.ground.units} groups"
    note = f"% {rows}; 95 % intervals; p-values after Holm's correction; seeds: {len(standings.rules.seeds)}"
    return "\n".join([note, *lines, r"\bottomrule", r"\end{tabular}", ""])


def _tex(text: str) -> str:
    return text.translate(_LATEX)


def _begun(name: str) -> str:
    """Return a name as it stands within a sentence."""
    return name if name[1:2].isupper() else name[:1].lower() + name[1:]


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _number(value: float, digits: int) -> str:
    return _printed(value, f"{{:.{digits}f}}".format)


def _printed(value: float, form: Callable[[float], str]) -> str:
    return "--" if not math.isfinite(value) else form(value)


def _range(interval: Interval, form: Callable[[float], str]) -> str:
    value = _printed(interval.value, form)
    return f"{value} [{form(interval.low)}, {form(interval.high)}]" if interval.bounded else value
