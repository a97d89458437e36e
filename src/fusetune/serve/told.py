"""What a server says: predictions, explanations and the model itself, as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import pandas as pd

from fusetune.answers import Extras, Said, as_table, distances_of
from fusetune.data.cells import CellInput
from fusetune.data.choices import Kind
from fusetune.data.schema import Column
from fusetune.data.vectors import VectorInput
from fusetune.errors import RunError
from fusetune.evaluate.explain import Effect, Explanation
from fusetune.model import Model
from fusetune.networks import Outputs
from fusetune.report.explanation import overlay
from fusetune.report.template import data_uri
from fusetune.serve.batcher import Prepared
from fusetune.serve.current import Served
from fusetune.serve.options import Options
from fusetune.serve.refusal import RefusedError

_MOST_EFFECTS = 200


def predicted(asked: Prepared, outputs: Outputs, extras: Extras) -> pd.DataFrame:
    """Return the lines of `Model.predict_table` for the rows of a request.

    Raises:
        RefusedError: If the model gives no finite probability for a row.
    """
    model = asked.served.model
    try:
        p = model.certainty(outputs, "the request")
    except RunError as error:
        raise RefusedError(422, str(error)) from error
    likeness = {} if model.reference is None or not extras.unlike else model.reference.likeness
    distances = distances_of(outputs, likeness)
    decided = model.rule_by(extras.by).decide(p)
    said = Said(asked.ids, p, decided, outputs, asked.problems, distances)
    return as_table(said, model.measure, model.calibration, extras, likeness)


def as_json(served: Served, table: pd.DataFrame, extras: Extras, options: Options) -> dict[str, Any]:
    """Return the reply of /v1/predict."""
    model = served.model
    return {
        "model": {"name": options.name, "version": served.version, "target": model.target.kind},
        "rule": model.rule_by(extras.by).words,
        "rows": [_row(line, model.classes) for line in table.to_dict("records")],
    }


def _row(line: dict[Any, Any], classes: Sequence[Any]) -> dict[str, Any]:
    """Return a line of the table with its probabilities, distances and set as what they are."""
    reply = {name: line.pop(name) for name in ("row_id", "prediction", "probability") if name in line}
    if said := {str(label): line.pop(f"p({label})") for label in classes if f"p({label})" in line}:
        reply["probabilities"] = said
    if "set" in line:
        line["set"] = json.loads(line["set"])
    far = [name for name in line if str(name).startswith("as_far(")]
    if "unlike" in line:
        reply["as_far"] = {str(name)[7:-1]: _number(line.pop(name)) for name in far}
    for end in {"low", "high"} & line.keys():  # JSON knows no infinity
        line[end] = line[end] if math.isfinite(line[end]) else None
    reply |= line
    reply["row_id"] = None if pd.isna(reply["row_id"]) else str(reply["row_id"])
    return reply


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def explained(served: Served, explanation: Explanation, options: Options) -> dict[str, Any]:
    """Return the reply of /v1/explain; pictures and maps as data: addresses."""

    def effects(some: Sequence[Effect]) -> list[dict[str, Any]]:
        return [asdict(effect) for effect in some[:_MOST_EFFECTS]]

    return {
        "model": {"name": options.name, "version": served.version},
        "target": served.model.target.kind,
        "decision": explanation.decision,
        "probability": explanation.probability,
        "prior": explanation.prior,
        "probabilities": explanation.probabilities,
        "shares": explanation.shares,
        "absent": explanation.absent,
        "pictures": {
            name: {
                "picture": data_uri(pixels),
                "map": data_uri(overlay(pixels, explanation.maps[name])),
                "least": float(explanation.maps[name].min()),
                "most": float(explanation.maps[name].max()),
            }
            for name, pixels in explanation.pictures.items()
        },
        "effects": {name: effects(some) for name, some in explanation.effects.items()},
    }


def described(served: Served, options: Options) -> dict[str, Any]:
    """Return the reply of /v1/model: what it reads, what it says, and what may be asked of it."""
    model = served.model
    return {
        "name": options.name,
        "version": served.version,
        "loaded": served.loaded,
        "label": model.schema.named("label"),
        "classes": model.classes,
        "rule": model.rule.words,
        "columns": [_column(column, model) for column in single_columns(model)],
        "vectors": [{"name": name, "columns": names} for name, names in model.schema.vectors.items()],
        "target": model.target.kind,
        "sets": bool(model.calibration.conformal.pooled or model.calibration.reaches.levels),
        "unlike": model.reference is not None and bool(model.reference.likeness),
        "limits": {"rows": options.rows, "bytes": options.body, "pixels": options.pixels, "seconds": options.seconds},
        "hosts": list(options.hosts),
    }


def single_columns(model: Model) -> list[Column]:
    """Return the input columns that are no part of a vector."""
    grouped = {name for group in model.schema.vectors.values() for name in group}
    return [column for column in model.schema.inputs if column.name not in grouped]


def _column(column: Column, model: Model) -> dict[str, Any]:
    facts: dict[str, Any] = {"name": column.name, "kind": str(column.kind)}
    if column.kind is Kind.NUMBER and model.reference is not None:
        usual = model.reference.profile.middle(column.name)
        facts |= {} if usual is None else {"usual": usual}
    if column.read_in is not None:
        facts["read_in"] = column.read_in  # left empty, it is read in the picture
    if column.several:
        facts["several"] = True  # a cell may be a list of pictures or texts
    for reader in model.readers.values():
        match reader.fitted:
            case CellInput() as cells if column.name in cells.kinds:
                for vocabulary in cells.categories:
                    if vocabulary.column == column.name:
                        facts["choices"] = vocabulary.categories
                for scale in cells.numbers:
                    if scale.column == column.name and scale.part == "value":
                        facts |= {"mean": scale.mean, "deviation": scale.std}
            case VectorInput() as vector if list(vector.columns) == [column.name]:
                facts["length"] = len(vector.mean)
            case _:
                pass
    return facts
