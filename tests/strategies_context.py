"""A prepared run on the small table, up to the first training step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from tiny import settings

from fusetune.config import Config
from fusetune.context import Context
from fusetune.data.infer import infer_schema
from fusetune.data.roles import Roles
from fusetune.data.table import read_table
from fusetune.model import encode_labels
from fusetune.prepare import class_list, prepare, split_rows
from fusetune.progress import Log
from fusetune.runtime import start_runtime


def make_context(
    folder: Path, frame: pd.DataFrame, inputs: list[str], vectors: dict[str, str] | None = None, **more: Any
) -> Context:
    config = Config.build(settings(folder / "store", **more))
    if vectors is None and "genes" in inputs:
        vectors = {"genes": "v_*"}
    table = read_table(frame)
    schema = infer_schema(table, Roles("organ", inputs=inputs, vectors=vectors, group="patient", split="part"))
    classes = class_list(table, "organ")
    labels = encode_labels(table, "organ", classes)
    split = split_rows(table, schema, table.ids(schema.named("id")), labels, config, None)
    runtime = start_runtime(config)
    return prepare(table, schema, split, labels, classes, config, runtime, Log(quiet=True), folder / "stages", False)
