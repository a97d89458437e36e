"""The end of a run: everything that it says of itself is gathered into a `Result`, and its predictions are written."""

from __future__ import annotations

import platform
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from fusetune.augment.bags import BagAugment
from fusetune.augment.sheet import small_sheet
from fusetune.context import Context, Cost
from fusetune.data.bags import pictures_of
from fusetune.data.choices import Kind
from fusetune.data.schema import Schema
from fusetune.data.source import Bag, Source
from fusetune.data.split import PARTS, Rows
from fusetune.data.table import Table
from fusetune.doctor.exhibits import Exhibit, in_short
from fusetune.evaluate.explain import Pixels
from fusetune.evaluate.measures import measure_of
from fusetune.features.store import weights_hash
from fusetune.files import written_aside
from fusetune.guidance import Guidance
from fusetune.heads.folds import has_training
from fusetune.result import Case, Column, Data, Judgement, Method, Origin, Result, Training
from fusetune.strategies import Fitted, strategy_of
from fusetune.version import VERSION

_PACKAGES = ("torch", "transformers", "scikit-learn", "numpy", "pandas", "pillow", "onnxruntime")
_PAPER_EPOCHS = 5
_SHEET_ROWS = _SHEET_EPOCHS = 4
_MISTAKES = 24


def summarise(
    ctx: Context,
    table: Table,
    schema: Schema,
    fitted: Fitted,
    judged: Judgement,
    findings: Sequence[Exhibit],
    rows_hash: str,
    guidance: Guidance | None = None,
) -> Result:
    """Gather the result of a finished run, what its strategy left and how that fared.

    `findings` are those of the table, `rows_hash` is the hash of which of its rows has which label, and `guidance` what
    its data ask for, where that was asked.
    """
    columns = [c.name for c in schema.columns if c.role == "input" and c.kind not in (Kind.IMAGE, Kind.VECTOR)]
    return Result(
        origin=Origin(
            table=table.name,
            label=str(schema.named("label")),
            command=_command(),
            created=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            preset=ctx.config.preset,
            seed=ctx.config.seed,
            config=ctx.config.model_dump(mode="json"),
            versions=_versions(),
            hashes={"split": ctx.split.hash, "rows": rows_hash, "weights": weights_hash(fitted.network)},
        ),
        data=_data(ctx, schema, findings),
        method=_method(ctx, fitted),
        judged=judged,
        training=_training(ctx),
        mistakes=most_certain_mistakes(ctx, judged, table.frame[columns]),
        warnings=ctx.log.warnings,
        guide=guidance,
        examples=examples(ctx, judged, table.frame[columns]),
    )


def _data(ctx: Context, schema: Schema, findings: Sequence[Exhibit]) -> Data:
    rows = {part: ctx.split.rows(part) for part in PARTS}
    owner = {column: m.name for m in schema.modalities().values() for column in m.columns}
    used = [c for c in schema.columns if c.role in ("input", "unused")]
    columns = [Column(c.name, str(c.kind), owner.get(c.name, ""), c.reason) for c in used]
    return Data(
        rows=ctx.split.counts(),
        groups=None if ctx.groups is None else {part: int(ctx.groups.iloc[rows[part]].nunique()) for part in PARTS},
        group_column=schema.named("group"),
        split_how=ctx.split.how,
        test_opened=ctx.split.unlocked_at,
        classes=[str(name) for name in ctx.classes],
        class_counts={part: measure_of(ctx.target).counts(ctx.labels[rows[part]]) for part in PARTS},
        inputs=[column for column in columns if column.modality],
        left_out=[column for column in columns if not column.modality],
        findings=findings,
        weight_column=None if ctx.sample_weight is None else schema.named("weight"),
    )


def _method(ctx: Context, fitted: Fitted) -> Method:
    strategy, own = strategy_of(ctx.config)
    names, settings = (strategy.name, strategy.title, strategy.paper), own.model_dump(mode="json")
    amounts = (fitted.cost.seconds, fitted.cost.passes)
    cost = Cost(*({name: amount for name, amount in kind.items() if amount} for kind in amounts))
    return Method(*names, settings, dict(fitted.notes), cost)


def _training(ctx: Context) -> Training:
    return Training(
        curves={
            name: [replace(record, epoch=record.epoch + 1) for record in history.records]
            for name, history in ctx.histories.items()
        },
        best_epochs={name: history.best_epoch + 1 for name, history in ctx.histories.items()},
        sheets=_sheets(ctx),
        seconds=dict(ctx.seconds),
        passes={f"{name}, training": rows for name, rows in ctx.trained_rows.items()}
        | {f"{name}, features": rows for name, rows in ctx.store.passes.items()},
        reused=dict(ctx.store.reused),
        passes_paper=_PAPER_EPOCHS * sum(ctx.split.counts().values()) * len(ctx.modalities),
    )


def _sheets(ctx: Context) -> dict[str, Pixels]:
    """Return what fine-tuned image encoders were shown: a few training rows and random views of each."""
    sheets = {}
    for name, modality in ctx.modalities.items():
        rows = ctx.split.rows("train")
        rows = rows[ctx.sources[name].present[rows]][:_SHEET_ROWS]
        if modality.kind != "image" or not len(rows) or not has_training(ctx.settings(name), ctx.pristine[name]):
            continue
        pictures: Any = ctx.sources[name].read(rows)
        augment, keys = ctx.augments[name], torch.from_numpy(ctx.keys[rows])
        if isinstance(pictures, Bag) and isinstance(augment, BagAugment):  # the first picture of each row
            pictures, augment = pictures.elements[pictures.rank == 0], augment.one
        # One view per epoch: those that training drew.
        moments = [ctx.moment(epoch, 0) for epoch in range(_SHEET_EPOCHS)]
        sheets[name] = small_sheet(augment, pictures, keys, moments)
    return sheets


def most_certain_mistakes(ctx: Context, judged: Judgement, cells: pd.DataFrame) -> list[Case]:
    """Return up to 24 wrongly decided test rows, the worst first, with the cells of the table that can be read."""
    worst = judged.measure.mistakes(judged.probabilities["test"], judged.labels["test"], judged.rule(ctx.classes))
    return [case(ctx, judged, cells, at) for at in worst[:_MISTAKES]]


def examples(ctx: Context, judged: Judgement, cells: pd.DataFrame) -> dict[str, Case]:
    """Return a few telling test rows, such as a usual answer and the worst mistake, by what they are."""
    shown = dict[int, str]()
    said = (judged.probabilities["test"], judged.labels["test"], judged.rule(ctx.classes))
    for why, at in judged.measure.telling(*said).items():
        shown[at] = f"{shown[at]}, and {why.lower()}" if at in shown else why
    return {why: case(ctx, judged, cells, at) for at, why in shown.items()}


def case(ctx: Context, judged: Judgement, cells: pd.DataFrame, at: int) -> Case:
    """Return one test row, by its place among them, with what can be seen and read of it."""
    row, measure = ctx.split.rows("test")[at], judged.measure
    p, truth = judged.probabilities["test"][at : at + 1], judged.labels["test"][at : at + 1]
    rule = judged.rule(ctx.classes)
    decided = rule.decide(p)
    return Case(
        row=str(ctx.ids.iloc[row]),
        group=None if ctx.groups is None else str(ctx.groups.iloc[row]),
        label=measure.shown(measure.truths(truth)[0]),
        decision=measure.shown(measure.answers(p, rule)[0]),
        probability=float(p[0, decided[0]]),
        label_probability=float(p[0, measure.right_at(truth)[0]]),
        pictures={
            name: _first_picture(source, ctx.split.rows("test")[at : at + 1]).permute(1, 2, 0).numpy()
            for name, source in ctx.sources.items()
            if pictures_of(source) is not None and source.present[row]
        },
        words={name: in_short(cells[name].iloc[row]) for name in cells.columns},
        shares={name: float(share[at]) for name, share in judged.shares.items()},
        prior=float(judged.prior[at, decided[0]]),
        about=str(measure.target.names[decided[0]]),
    )


def _first_picture(source: Source, row: Rows) -> Tensor:
    """Return the picture of a row, of several the first in the order of their content, uint8 [3, side, side]."""
    read: Any = source.read(row)
    pixels: Tensor = (read.elements if isinstance(read, Bag) else read)[0]
    return pixels


def _versions() -> dict[str, str]:
    versions = {"fusetune": VERSION, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions


def _command() -> str:
    program = Path(sys.argv[0]).name
    return " ".join([program, *sys.argv[1:]]) if program == "fusetune" else "fusetune.fit(...) from Python"


def save_predictions(ctx: Context, judged: Judgement, path: Path) -> None:
    """Write what the judged model says of validation and test rows."""
    frames, measure = [], judged.measure
    rule = judged.rule(ctx.classes)
    for part, probabilities in judged.probabilities.items():
        rows = ctx.split.rows(part)  # type: ignore[arg-type]
        frame = pd.DataFrame({"row_id": ctx.ids.iloc[rows].to_numpy(), "part": part})
        if ctx.groups is not None:
            frame["group"] = ctx.groups.iloc[rows].to_numpy()
        if (counted := ctx.counted(rows)) is not None:
            frame["weight"] = counted
        frame["label"] = measure.kept(measure.truths(judged.labels[part]))
        frame["prediction"] = measure.kept(measure.answers(probabilities, rule))
        frames.append(pd.concat([frame, measure.shares(probabilities)], axis=1))
    with written_aside(path) as aside:
        pd.concat(frames, ignore_index=True).to_parquet(aside, index=False)
