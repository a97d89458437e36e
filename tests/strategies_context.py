"""A prepared run on the small table, up to the first training step."""

from __future__ import annotations

import copy
import pickle
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from tiny import settings

from fusetune.config import Config
from fusetune.context import Context
from fusetune.data.infer import infer_schema
from fusetune.data.roles import Roles
from fusetune.data.table import read_table
from fusetune.networks.run import read_present
from fusetune.prepare import prepare, split_rows
from fusetune.progress import Log
from fusetune.runtime import start_runtime
from fusetune.strategies.batch import Batch, draw_batch
from fusetune.strategies.end_to_end import EndToEnd
from fusetune.targets import Classification

_MADE: dict[bytes, Context] = {}


def make_context(
    folder: Path, frame: pd.DataFrame, inputs: list[str], vectors: dict[str, str] | None = None, **more: Any
) -> Context:
    """Return a run of its own: a copy, where the same was prepared before, since most tests ask for the same few."""
    if "scan" in inputs:  # whoever reads pictures cannot be copied
        return fresh_context(folder, frame, inputs, vectors, **more)
    key = pickle.dumps((frame, inputs, vectors, more))
    if key not in _MADE:
        _MADE[key] = fresh_context(folder, frame, inputs, vectors, **more)
    ctx = copy.deepcopy(_MADE[key])
    ctx.config.store.folder = str(folder / "store")
    ctx.folder, ctx.store.folder = folder / "stages", folder / "store"
    ctx.runtime = ctx.store.runtime = start_runtime(ctx.config)
    return ctx


def fresh_context(
    folder: Path, frame: pd.DataFrame, inputs: list[str], vectors: dict[str, str] | None = None, **more: Any
) -> Context:
    config = Config.build(settings(folder / "store", **more))
    vectors = vectors or ({"genes": "v_*"} if "genes" in inputs else None)
    table = read_table(frame)
    schema = infer_schema(table, Roles("organ", inputs=inputs, vectors=vectors, group="patient", split="part"))
    table = schema.read(table)
    split, target, labels = split_rows(table, schema, Classification.learn(table, "organ"), config)
    runtime = start_runtime(config)
    return prepare(table, schema, split, target, labels, config, runtime, Log(quiet=True), folder / "stages", False)


def anew(ctx: Context, folder: Path | None) -> Context:
    """Return the same prepared run for another method, which remembers what that one does and shares nothing new."""
    own: dict[str, Any] = {"labels": ctx.labels.copy(), "_memory": dict(ctx._memory)}
    return replace(ctx, folder=folder, histories={}, seconds={}, trained_rows=Counter(), **own)


def batch_of(ctx: Context, rows: Any) -> Batch:
    """Return some rows as end-to-end methods see them in the first epoch, each with a weight of its own."""
    weight = torch.linspace(0.5, 1.5, len(rows))
    settings = EndToEnd.Settings()
    raw = read_present(ctx.sources, rows)
    return draw_batch(ctx, list(ctx.modalities), rows, raw, weight, 0, settings)  # type: ignore[arg-type]


def begun(strategy: type[EndToEnd], ctx: Context, **more: Any) -> Any:
    """Return a method before its first epoch, in eval mode."""
    method = strategy(ctx, strategy.Settings(**more)).eval()
    method.begin()
    return method
