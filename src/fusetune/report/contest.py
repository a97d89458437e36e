"""The report of a contest: one HTML file in the look of a run's report, and its main table for LaTeX."""

from __future__ import annotations

import math
from pathlib import Path

from fusetune.evaluate.intervals import Interval
from fusetune.files import write_text
from fusetune.report import panels, plots, prose
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
    drawing = plots.rank_plot("Rank of each by negative log-likelihood", [(one.name, one.rank) for one in ranked])
    return page(
        "contest.html",
        css=style(),
        title=standings.title,
        it=standings,
        there=there,
        failed=[one for one in standings.standings if one.errors],
        axis=panels.accuracy_axis(one.accuracy for one in there),
        ranks=drawing if len(ranked) > 1 else None,
        rivals=list(dict.fromkeys(duel.against for duel in standings.paired)),
        answer=_answer(standings, there),
        tuned=[one for one in standings.standings if one.settings],
        limit=SIGNIFICANT,
    )


def _answer(standings: Standings, there: list[Standing]) -> list[str]:
    """Return the sentences of the first paragraph."""
    if not there:
        return ["Nothing could be judged."]
    ground, best = standings.ground, there[0]
    rows = prose.count(len(ground.labels), "test row")
    if ground.groups is not None:
        rows += f" of {prose.count(ground.units, 'group')}"
    sentences = [
        f"On {rows}, {best.name} has the lowest negative log-likelihood ({prose.number(best.nll.value)}, 95 % interval "
        f"{prose.number_bounds(best.nll)}) and is right for {prose.percent(best.accuracy.value)}; that it comes first "
        "says little where intervals overlap."
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
    heads = ["method", "seeds", r"accuracy (\%)", "NLL", "macro F1", "ECE", *(f"$p$, {_tex(r)}" for r in rivals)]
    heads += ["passes", "seconds"]
    lines = [rf"\begin{{tabular}}{{l{'r' * (len(heads) - 1)}}}", r"\toprule", " & ".join(heads) + r" \\", r"\midrule"]
    for one in standings.standings:
        cells = [_tex(one.name), str(one.seeds), _range(one.accuracy, 100, 1), _range(one.nll, 1, 3)]
        cells += [_number(one.macro_f1.value, 3), _number(one.ece.value, 3)]
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


def _number(value: float, digits: int) -> str:
    return "--" if not math.isfinite(value) else f"{value:.{digits}f}"


def _range(interval: Interval, factor: float, digits: int) -> str:
    value = _number(factor * interval.value, digits)
    if not interval.bounded:
        return value
    return f"{value} [{factor * interval.low:.{digits}f}, {factor * interval.high:.{digits}f}]"
