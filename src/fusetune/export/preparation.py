"""How inputs are prepared, as `preprocess.json` tells the runner; and what the runner cannot prepare."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fusetune.data.cells import CellInput
from fusetune.data.delimited import MISSING_WORDS, NAMES_OR_MISSING
from fusetune.data.images import ImageInput
from fusetune.data.tokens import TextInput
from fusetune.data.vectors import VectorInput
from fusetune.errors import listed
from fusetune.files import write_text
from fusetune.inputs import Reader
from fusetune.model import Model
from fusetune.version import VERSION

FILE = "preprocess.json"
_FORMAT = 1


def unprepared(model: Model) -> list[str]:
    """Return what the runner cannot prepare as the model's inputs are; empty where it can prepare all."""
    return [
        f"the runner reads no durations, and column(s) {listed(reader.fitted.durations)} hold some"
        for reader in model.readers.values()
        if isinstance(reader.fitted, CellInput) and reader.fitted.durations
    ]


def write_preparation(model: Model, folder: Path) -> None:
    """Write `preprocess.json`, and a tokenizer for each text, into a folder."""
    inputs = []
    for place, (name, reader) in enumerate(model.readers.items()):
        if isinstance(reader.fitted, TextInput):
            write_text(folder / _tokenizer(place), reader.fitted.tokenizer.to_str())
        one = {"name": name, "kind": reader.modality.kind, "columns": list(reader.columns)}
        inputs.append(one | _facts(reader, place))
    rule = model.calibration
    decision: dict[str, Any] | None = None
    if rule.threshold is not None and rule.positive is not None:
        decision = {"positive": rule.positive, "threshold": rule.threshold, "aim": rule.aim}
    if rule.limits:
        decision = {"thresholds": [one.at for one in rule.limits]}
    facts = {
        "format": _FORMAT,
        "fusetune": VERSION,
        "label": model.schema.named("label"),
        "id": model.schema.named("id"),
        "classes": model.classes,
        "decision": decision,
        **({} if model.target.kind == "classification" else {"target": model.target.kind}),
        "missing_words": [*MISSING_WORDS, *NAMES_OR_MISSING],
        "inputs": inputs,
    }
    write_text(folder / FILE, json.dumps(facts, indent=1, ensure_ascii=False) + "\n")


def _tokenizer(place: int) -> str:
    return f"tokenizer_{place}.json"


def _facts(reader: Reader, place: int) -> dict[str, Any]:
    match reader.fitted:
        case ImageInput() as image:
            kept = image.model_dump(include={"fit", "background", "spacing", "extent", "pixel_limit"})
            return {"side": image.size, "confined": image.outside == "refuse", **kept}
        case TextInput() as text:
            return {"tokenizer": _tokenizer(place), "pad": text.pad, "max_tokens": text.max_tokens}
        case CellInput() as cells:
            scales = [scale.model_dump() | {"kind": str(cells.kinds[scale.column])} for scale in cells.numbers]
            return {"numbers": scales, "categories": [one.model_dump() for one in cells.categories]}
        case VectorInput() as vector:
            return {"mean": vector.mean, "std": vector.std}
