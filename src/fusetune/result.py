"""A run's result as one typed object: what was run, on what data, how it was made, how it fared, what it cost.

`metrics.json` is `Result.metrics()`, the report shows the `Result` itself, and nothing else is handed on.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch

from fusetune.augment.sheet import small_sheet
from fusetune.context import Context, Cost
from fusetune.data.kinds import Kind
from fusetune.data.schema import Schema
from fusetune.data.split import PARTS
from fusetune.data.table import Table
from fusetune.doctor.findings import Finding
from fusetune.evaluate.analysis import Analysis
from fusetune.evaluate.calibration import Calibration
from fusetune.evaluate.explain import Pixels
from fusetune.evaluate.intervals import Interval, plain
from fusetune.evaluate.metrics import FloatArray, IntArray
from fusetune.evaluate.mistakes import Mistake, most_certain_mistakes
from fusetune.features.store import weights_hash
from fusetune.files import written_aside
from fusetune.heads.folds import has_training
from fusetune.strategies import Fitted, strategy_of
from fusetune.train.loop import EpochRecord
from fusetune.version import VERSION

SIGNIFICANT = 0.05  # p-values below this, together with an interval without zero, make a difference shown
_PACKAGES = ("torch", "transformers", "lightning-fabric", "scikit-learn", "numpy", "pandas", "pillow", "onnxruntime")
_PAPER_EPOCHS = 5
_SHEET_ROWS = _SHEET_EPOCHS = 4


@dataclass(frozen=True)
class Origin:
    """What was run, and with what.

    Attributes:
        table: The table that was read (a path or a name).
        label: The column that is predicted.
        command: How to repeat the run.
        created: When the run ended, as it shall be printed.
        recipe: Name of the recipe.
        seed: Seed of the run.
        config: The whole configuration, as plain values.
        versions: Package -> version.
        hashes: Of the split, of which row has which label (rows), and of the weights.
    """

    table: str
    label: str
    command: str
    created: str
    recipe: str
    seed: int
    config: dict[str, Any]
    versions: dict[str, str]
    hashes: dict[str, str]


@dataclass(frozen=True)
class Column:
    """One column of the table.

    Attributes:
        name: Its name.
        kind: What it was taken for: image, text, number, category, ...
        modality: The input that it is part of; empty for a column left out.
        reason: Why it was given this kind, or why it was left out.
    """

    name: str
    kind: str
    modality: str
    reason: str


@dataclass(frozen=True)
class Data:
    """What the model was made from and judged on.

    Attributes:
        rows: Rows per part.
        groups: Groups per part, or None when the rows are not grouped.
        group_column: The column that names the group, or None.
        split_how: How the rows were split, as one sentence.
        test_opened: When the test part was opened.
        classes: Class names, in the order of the probability columns.
        class_counts: Part -> rows per class.
        inputs: Columns that were used.
        left_out: Columns that were not used, with the reason.
        findings: What is wrong with the table; errors first.
    """

    rows: dict[str, int]
    groups: dict[str, int] | None
    group_column: str | None
    split_how: str
    test_opened: str | None
    classes: list[str]
    class_counts: dict[str, list[int]]
    inputs: list[Column]
    left_out: list[Column]
    findings: Sequence[Finding] = ()


@dataclass(frozen=True)
class Method:
    """How the model was made.

    Attributes:
        name: The strategy's name.
        title: What the model is called in a sentence: "the ... model".
        paper: Where the strategy comes from.
        settings: Its own settings.
        notes: What was done: by modality, and under `WHOLE` for all together.
        cost: What it cost; training that rivals share counts here too.
    """

    name: str
    title: str
    paper: str
    settings: dict[str, Any]
    notes: dict[str, str]
    cost: Cost


@dataclass(frozen=True)
class GainRow:
    """One model of the gain table, judged on the test part.

    Attributes:
        name: Short name, such as "image alone".
        note: What it is, in a few words; may be empty.
        accuracy: Share of correct rows.
        nll: Mean negative log-likelihood in nats.
        valid_nll: The same on the validation part.
    """

    name: str
    note: str
    accuracy: Interval
    nll: Interval
    valid_nll: float


@dataclass(frozen=True)
class Comparison:
    """The judged model against another model on the same test rows.

    Attributes:
        against: Name of the other model, as it reads after "better than".
        gained: Rows that only the judged model decides correctly.
        lost: Rows that only the other model decides correctly.
        p: Exact McNemar p-value, two-sided.
        p_holm: The same after Holm's correction for the number of comparisons.
        accuracy: Accuracy of the judged model minus that of the other.
        nll: The same difference of the NLL; negative speaks for the judged model.
        p_group: Of the permutation test that swaps the two models group by group; None without groups.
        p_group_holm: The same after Holm's correction.
    """

    against: str
    gained: int
    lost: int
    p: float
    p_holm: float
    accuracy: Interval
    nll: Interval
    p_group: float | None = None
    p_group_holm: float | None = None

    @property
    def verdict(self) -> Literal["better", "worse", "not shown"]:
        """Better or worse only where the paired tests and the interval of the difference all say so."""
        if max(self.p_holm, self.p_group_holm or 0.0) >= SIGNIFICANT or not self.accuracy.bounded:
            return "not shown"
        if self.accuracy.low > 0:
            return "better"
        return "worse" if self.accuracy.high < 0 else "not shown"


@dataclass(frozen=True, eq=False)
class Judgement:
    """Everything that was measured on valid and test rows.

    Attributes:
        chosen: Name of the judged model's row in the gain table.
        test: Metric -> interval, judged model, test part.
        valid: The same on the validation part.
        gain: The gain table; the last row is the judged model.
        comparisons: Paired tests of the judged model against each modality (the best on validation rows first), the
            ensemble and frozen encoders, p-values corrected for their number.
        labels: Class indices by part, int [rows].
        probabilities: Of the judged model by part, float [rows, classes].
        calibration: What was learnt on validation rows and goes with the model.
        analysis: Subsets of modalities, missing inputs, sets and so on.
        shares: Each modality's share of the decision on each test row, by modality.
        prior: Probabilities of the test rows without any input, float [rows, classes].
    """

    chosen: str
    test: dict[str, Interval]
    valid: dict[str, Interval]
    gain: list[GainRow]
    comparisons: list[Comparison]
    labels: Mapping[str, IntArray]
    probabilities: Mapping[str, FloatArray]
    calibration: Calibration
    analysis: Analysis
    shares: dict[str, FloatArray]
    prior: FloatArray


@dataclass(frozen=True, eq=False)
class Training:
    """What training did, and what the whole run cost.

    Attributes:
        curves: Stage -> epochs, counted from 1.
        best_epochs: Stage -> the epoch whose weights were kept; 0: those from before the first.
        sheets: Modality -> training pictures and the views that were drawn of them, uint8 [height, width, 3].
        seconds: Stage -> duration; ``total`` is the whole run.
        passes: What was encoded -> rows sent through an encoder.
        reused: What was encoded -> rows that the feature store saved.
        passes_paper: Passes that training the head on re-encoded inputs in every epoch would have taken.
    """

    curves: dict[str, list[EpochRecord]]
    best_epochs: dict[str, int]
    sheets: dict[str, Pixels]
    seconds: dict[str, float]
    passes: dict[str, int]
    reused: dict[str, int]
    passes_paper: int


@dataclass(frozen=True, eq=False)
class Result:
    """Everything that a run says of itself.

    Attributes:
        origin: What was run.
        data: What it was made from and judged on.
        method: How the model was made.
        judged: How it and its rivals fared.
        training: What training did and cost.
        mistakes: The most certain mistakes on the test part, the most certain first.
        warnings: What the reader must know before relying on the numbers, one sentence each.
    """

    origin: Origin
    data: Data
    method: Method
    judged: Judgement
    training: Training
    mistakes: list[Mistake]
    warnings: list[str]

    @property
    def title(self) -> str:
        """What is predicted from what."""
        return f"{self.origin.label} from {' + '.join(dict.fromkeys(column.modality for column in self.data.inputs))}"

    def metrics(self) -> dict[str, Any]:
        """Return the content of `metrics.json`."""
        method, judged, training = self.method, self.judged, self.training
        values: dict[str, Any] = plain(
            {
                "rows": self.data.rows,
                "groups": self.data.groups,
                "classes": self.data.classes,
                "seed": self.origin.seed,
                "recipe": self.origin.recipe,
                "strategy": {key: getattr(method, key) for key in ("name", "title", "paper", "settings")},
                "notes": method.notes,
                "split_hash": self.origin.hashes["split"],
                "test_opened": self.data.test_opened,
                "test": judged.test,
                "valid": judged.valid,
                "gain": judged.gain,
                "comparisons": [plain(c) | {"verdict": c.verdict} for c in judged.comparisons],
                **judged.analysis.as_dict(),
                "seconds": _rounded(training.seconds),
                "encoder_passes": training.passes
                | {f"{name}, reused from the store": rows for name, rows in training.reused.items()},
                "cost": {"seconds": _rounded(method.cost.seconds), "passes": method.cost.passes},
                "warnings": self.warnings,
                "rows_hash": self.origin.hashes["rows"],
            }
        )
        return values


def _rounded(seconds: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 2) for name, value in seconds.items()}


def result_of(
    ctx: Context,
    table: Table,
    schema: Schema,
    fitted: Fitted,
    judged: Judgement,
    findings: Sequence[Finding],
    rows_hash: str,
) -> Result:
    """Gather the result of a finished run.

    Args:
        ctx: The run.
        table: Its table.
        schema: What the table's columns are.
        fitted: What the chosen strategy left.
        judged: How it fared.
        findings: What is wrong with the table.
        rows_hash: Hash of which row has which label.
    """
    strategy, settings = strategy_of(ctx.config.strategy)
    label = str(schema.named("label"))
    hashes = {"split": ctx.split.hash, "rows": rows_hash, "weights": weights_hash(fitted.network)}
    return Result(
        origin=Origin(
            table=table.name,
            label=label,
            command=_command(),
            created=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            recipe=ctx.config.recipe,
            seed=ctx.config.seed,
            config=ctx.config.model_dump(mode="json"),
            versions=_versions(),
            hashes=hashes,
        ),
        data=_data(ctx, schema, findings),
        method=Method(
            name=strategy.name,
            title=strategy.title,
            paper=strategy.paper,
            settings=settings.model_dump(mode="json"),
            notes=dict(fitted.notes),
            cost=Cost(_spent(fitted.cost.seconds), _spent(fitted.cost.passes)),
        ),
        judged=judged,
        training=_training(ctx),
        mistakes=_mistakes(ctx, table, schema, judged),
        warnings=ctx.log.warnings,
    )


def _spent(amounts: Mapping[str, float]) -> dict[str, float]:
    return {name: amount for name, amount in amounts.items() if amount}


def _data(ctx: Context, schema: Schema, findings: Sequence[Finding]) -> Data:
    rows = {part: ctx.split.rows(part) for part in PARTS}
    owner = {column: m.name for m in schema.modalities().values() for column in m.columns}
    columns = [
        Column(c.name, str(c.kind), owner.get(c.name, ""), c.reason)
        for c in schema.columns
        if c.role in ("input", "unused")
    ]
    return Data(
        rows=ctx.split.counts(),
        groups=None if ctx.groups is None else {part: int(ctx.groups.iloc[rows[part]].nunique()) for part in PARTS},
        group_column=schema.named("group"),
        split_how=ctx.split.how,
        test_opened=ctx.split.unlocked_at,
        classes=[str(name) for name in ctx.classes],
        class_counts={p: np.bincount(ctx.labels[rows[p]], minlength=len(ctx.classes)).tolist() for p in PARTS},
        inputs=[column for column in columns if column.modality],
        left_out=[column for column in columns if not column.modality],
        findings=findings,
    )


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
        # One view per epoch: those that training drew.
        moments = [ctx.moment(epoch, 0) for epoch in range(_SHEET_EPOCHS)]
        sheets[name] = small_sheet(ctx.augments[name], pictures, torch.from_numpy(ctx.keys[rows]), moments)
    return sheets


def _mistakes(ctx: Context, table: Table, schema: Schema, judged: Judgement) -> list[Mistake]:
    """Return the most certain mistakes on the test part, without encoding anything."""
    columns = [c.name for c in schema.columns if c.role == "input" and c.kind not in (Kind.IMAGE, Kind.VECTOR)]
    return most_certain_mistakes(
        table.frame, ctx.split.rows("test"), columns, ctx.sources, ctx.ids, ctx.groups,
        [str(name) for name in ctx.classes], judged.labels["test"], judged.probabilities["test"], judged.shares,
        judged.prior,
    )  # fmt: skip


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
    frames = []
    for part, probabilities in judged.probabilities.items():
        rows = ctx.split.rows(part)  # type: ignore[arg-type]
        frame = pd.DataFrame({"row_id": ctx.ids.iloc[rows].to_numpy(), "part": part})
        frame["label"] = [str(ctx.classes[i]) for i in judged.labels[part]]
        frame["prediction"] = [str(ctx.classes[i]) for i in probabilities.argmax(1)]
        shares = pd.DataFrame(probabilities, columns=[f"p({name})" for name in ctx.classes])
        frames.append(pd.concat([frame, shares], axis=1))
    with written_aside(path) as aside:
        pd.concat(frames, ignore_index=True).to_parquet(aside, index=False)
