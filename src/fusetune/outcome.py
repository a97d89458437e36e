"""What a finished run says of itself: `metrics.json`, `predictions.parquet` and the facts that the report shows."""

from __future__ import annotations

import platform
import sys
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from fusetune.augment.sheet import small_sheet
from fusetune.context import Context
from fusetune.data.kinds import Kind
from fusetune.data.schema import Schema
from fusetune.data.split import PARTS
from fusetune.data.table import Table
from fusetune.features.store import weights_hash
from fusetune.files import written_aside
from fusetune.heads.folds import has_training
from fusetune.judge import Judgement
from fusetune.model import Model
from fusetune.report.explanation import data_uri
from fusetune.report.facts import Facts, Input, Mistake
from fusetune.report.mistakes import most_certain_mistakes
from fusetune.version import VERSION

_PACKAGES = ("torch", "transformers", "lightning-fabric", "scikit-learn", "numpy", "pandas", "pillow", "onnxruntime")
_PAPER_EPOCHS = 5
_SHEET_ROWS = _SHEET_EPOCHS = 4


def metrics_of(ctx: Context, found: Judgement) -> dict[str, Any]:
    """Return the content of `metrics.json`."""
    return {
        "rows": ctx.split.counts(),
        "groups": _groups(ctx),
        "classes": [str(name) for name in ctx.classes],
        "seed": ctx.config.seed,
        "recipe": ctx.config.recipe,
        "split_hash": ctx.split.hash,
        "test_opened": ctx.split.unlocked_at,
        "test": {name: interval.as_dict() for name, interval in found.test.items()},
        "valid": {name: interval.as_dict() for name, interval in found.valid.items()},
        "gain": [
            {
                "name": row.name,
                "accuracy": row.accuracy.as_dict(),
                "nll": row.nll.as_dict() if row.nll else None,
                "valid_nll": row.valid_nll,
            }
            for row in found.gain
        ],
        "comparisons": [
            {
                "against": c.against,
                "gained": c.gained,
                "lost": c.lost,
                "p": c.p,
                "p_holm": c.p_holm,
                "p_group": c.p_group,
                "p_group_holm": c.p_group_holm,
                "verdict": c.verdict,
                "accuracy": c.accuracy.as_dict(),
                "nll": c.nll.as_dict(),
            }
            for c in found.comparisons
        ],
        **found.analysis,
        "seconds": {name: round(value, 2) for name, value in ctx.seconds.items()},
        "encoder_passes": _passes(ctx),
        "warnings": ctx.log.warnings,
    }


def _groups(ctx: Context) -> dict[str, int] | None:
    if ctx.groups is None:
        return None
    return {part: int(ctx.groups.iloc[ctx.split.rows(part)].nunique()) for part in PARTS}


def _passes(ctx: Context) -> dict[str, int]:
    """Rows through an encoder: while training it, into the feature store, and those that the store saved."""
    found = {f"{name}, training": rows for name, rows in ctx.trained_rows.items()}
    found |= {f"{name}, features": rows for name, rows in ctx.store.passes.items()}
    return found | {f"{name}, reused from the store": rows for name, rows in ctx.store.reused.items()}


def save_predictions(ctx: Context, found: Judgement, path: Path) -> None:
    """Write what the judged model says of validation and test rows."""
    frames = []
    for part, probabilities in found.probabilities.items():
        rows = ctx.split.rows(part)  # type: ignore[arg-type]
        frame = pd.DataFrame({"row_id": ctx.ids.iloc[rows].to_numpy(), "part": part})
        frame["label"] = [str(ctx.classes[i]) for i in ctx.labels[rows]]
        frame["prediction"] = [str(ctx.classes[i]) for i in probabilities.argmax(1)]
        shares = pd.DataFrame(probabilities, columns=[f"p({name})" for name in ctx.classes])
        frames.append(pd.concat([frame, shares], axis=1))
    with written_aside(path) as aside:
        pd.concat(frames, ignore_index=True).to_parquet(aside, index=False)


def facts_of(table: Table, label: str, schema: Schema, ctx: Context, found: Judgement, model: Model) -> Facts:
    """Return everything that the report shows."""
    counts: dict[str, list[int]] = {
        part: np.bincount(ctx.labels[ctx.split.rows(part)], minlength=len(ctx.classes)).tolist() for part in PARTS
    }
    owner = {column: m.name for m in schema.modalities().values() for column in m.columns}
    columns = [c for c in schema.columns if c.role in ("input", "unused")]
    return Facts(
        title=f"{label} from {' + '.join(ctx.modalities)}",
        table=table.name,
        label=label,
        command=_command(),
        created=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        recipe=ctx.config.recipe,
        seed=ctx.config.seed,
        classes=[str(name) for name in ctx.classes],
        rows=ctx.split.counts(),
        groups=_groups(ctx),
        group_column=schema.named("group"),
        split_how=ctx.split.how,
        class_counts=counts,
        inputs=[Input(c.name, str(c.kind), owner[c.name], c.reason) for c in columns if c.name in owner],
        left_out=[Input(c.name, str(c.kind), "", c.reason) for c in columns if c.name not in owner],
        probabilities=found.probabilities["test"],
        labels=ctx.labels[ctx.split.rows("test")],
        test=found.test,
        valid=found.valid,
        gain=found.gain,
        comparisons=found.comparisons,
        curves={
            name: [replace(record, epoch=record.epoch + 1) for record in history.records]
            for name, history in ctx.histories.items()
        },
        best_epochs={name: history.best_epoch + 1 for name, history in ctx.histories.items()},
        seconds=ctx.seconds,
        encoder_passes={name: rows for name, rows in _passes(ctx).items() if "reused" not in name},
        encoder_passes_paper=_PAPER_EPOCHS * sum(ctx.split.counts().values()) * len(ctx.modalities),
        warnings=ctx.log.warnings,
        config=ctx.config.model_dump(mode="json"),
        versions=_versions(),
        hashes={"split": ctx.split.hash, "weights": weights_hash(model.network)},
        analysis=found.analysis,
        mistakes=_mistakes(table, schema, ctx, found),
        sheets=_sheets(ctx),
    )


def _sheets(ctx: Context) -> dict[str, str]:
    """Return what fine-tuned image encoders were shown: a few training rows and random views of each."""
    found = {}
    for name, modality in ctx.modalities.items():
        rows = ctx.split.rows("train")
        rows = rows[ctx.sources[name].present[rows]][:_SHEET_ROWS]
        if modality.kind != "image" or not len(rows) or not has_training(ctx.settings(name), ctx.pristine[name]):
            continue
        pictures: Any = ctx.sources[name].read(rows)
        # One view per epoch: those that training drew.
        moments = [ctx.moment(epoch, 0) for epoch in range(_SHEET_EPOCHS)]
        sheet = small_sheet(ctx.augments[name], pictures, torch.from_numpy(ctx.keys[rows]), moments)
        found[name] = data_uri(sheet)
    return found


def _mistakes(table: Table, schema: Schema, ctx: Context, found: Judgement) -> list[Mistake]:
    """Return the most certain mistakes on the test part, without encoding anything."""
    rows = ctx.split.rows("test")
    inputs = [c for c in schema.columns if c.role == "input"]
    return most_certain_mistakes(
        table.frame, rows, [c.name for c in inputs if c.kind not in (Kind.IMAGE, Kind.VECTOR)], ctx.sources, ctx.ids,
        ctx.groups, [str(name) for name in ctx.classes], ctx.labels[rows], found.probabilities["test"], found.shares,
        found.prior,
    )  # fmt: skip


def _versions() -> dict[str, str]:
    found = {"fusetune": VERSION, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _command() -> str:
    program = Path(sys.argv[0]).name
    return " ".join([program, *sys.argv[1:]]) if program == "fusetune" else "fusetune.fit(...) from Python"
