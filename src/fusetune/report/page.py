"""The report as one HTML file that needs nothing else: no network, no fonts, one small script that it can do without.

This module turns the result into the rows that ``page.html`` prints; drawings come from ``plots``, words from
``prose``, what was measured beyond the scores from ``panels``, what hangs on what is predicted from ``kinds``.
"""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml

from fusetune.data.schema import free_name
from fusetune.files import write_text
from fusetune.report import panels, plots
from fusetune.report.found import found
from fusetune.report.kinds import Kind, kind_of
from fusetune.report.tables import class_rows, confused_pairs
from fusetune.report.template import page, script, style
from fusetune.result import Result
from fusetune.strategies import WHOLE

__all__ = ["class_rows", "confused_pairs", "render", "write_report"]

_STAGES = {
    "stage_u": "Fine-tuning each encoder alone",
    "encode": "Encoding augmented views, once",
    "stage_m": "Fitting the head on the combination",
    "baselines": "Models to compare with",
    "guide": "What kind of fusion the data ask for",
    "judge": "Judging on validation and test rows",
}


def write_report(path: Path, result: Result) -> None:
    """Write the report of a run; a file that is already there is replaced in one step. Same result, same bytes."""
    write_text(path, render(result))


def render(result: Result) -> str:
    """Return the report as HTML."""
    code = script()
    seal = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    sections = {field.name: getattr(result, field.name) for field in fields(result)}
    values = {**sections, **_context(result)}
    return page("page.html", css=style(), script=code, script_hash=seal, title=result.title, **values)


def _context(result: Result) -> dict[str, Any]:
    method, judged, training, kind = result.method, result.judged, result.training, kind_of(result)
    rule = judged.rule(result.data.classes)
    inputs = {column.modality for column in result.data.inputs}
    together = {free_name(f"strategy {method.name}", inputs): "all encoders and the head together"}
    first = panels.first_rows(result)
    levels = plots.losses_axis(training.curves.values())
    stages = _STAGES | {method.name: "Training all encoders and the head together"}
    loss_word, curve_form = kind.valid_loss()
    curve_words = (f"validation {loss_word}", kind.curve_unit)
    return {
        "kind": kind,
        "analysis": judged.analysis,
        "rule": rule if judged.acted else None,
        "answer": kind.answer(),
        "verdict": kind.verdict(),
        "certainty": kind.certainty(),
        "found": found(result.data.findings),
        "first": first,
        "first_axis": kind.first_form.axis(kind.first_of(row) for row in first),
        "axis": kind.score.axis(row.accuracy for row in judged.gain),
        "subset_axis": kind.score.axis(row.accuracy for row in judged.analysis.subsets or []),
        "missing": panels.missing(result, kind.score),
        "limits": panels.limits(result, kind.limits()),
        "names": {key: name for key, (name, _) in kind.meanings.items()},
        "scores": _scores(result, kind),
        "curves": [
            (
                together.get(name, name),
                plots.learning_plot(together.get(name, name), epochs, best, levels, *curve_words),
                epochs,
                best,
            )
            for name, epochs in training.curves.items()
            if epochs
            for best in (training.best_epochs.get(name),)
        ],
        "curve_loss": loss_word,
        "curve_form": curve_form,
        "whole": WHOLE,
        "terms": kind.terms,
        "stage_names": stages,
        "stages": [(stages.get(key, key), value) for key, value in training.seconds.items() if key != "total"],
        "config": _yaml(result.origin.config),
        "settings": _yaml(method.settings) if method.settings else "",
        **kind.context(),
    }


def _yaml(values: dict[str, Any]) -> str:
    return yaml.safe_dump(json.loads(json.dumps(values, default=str)), sort_keys=False, allow_unicode=True)


def _scores(result: Result, kind: Kind) -> list[dict[str, Any]]:
    """Return the score table: name, meaning, and value with bounds on the test and validation parts."""
    rows = []
    for key, interval in result.judged.test.items():
        top = key.removeprefix("top_")
        others = (f"Top {top}", f"share of rows whose label is among the {top} likeliest classes")
        name, meaning = kind.meanings.get(key, others)
        valid = result.judged.valid.get(key)
        rows.append({"name": name, "meaning": meaning, "form": kind.score_form(key), "test": interval, "valid": valid})
    return rows
