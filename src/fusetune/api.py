"""`fit`, `load` and `Run`: the whole library from Python; the command line calls nothing else."""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fusetune.bundle import load_bundle, save_bundle
from fusetune.config import Config
from fusetune.data.schema import Schema, infer_schema
from fusetune.data.split import PARTS, Split
from fusetune.data.table import Table, read_table
from fusetune.errors import UserError, listed
from fusetune.features.store import weights_hash
from fusetune.files import write_text, written_aside
from fusetune.judge import Judgement, judge
from fusetune.model import Model, encode_labels
from fusetune.progress import Log
from fusetune.report.facts import EpochRecord, Facts, Input
from fusetune.report.page import write_report
from fusetune.runtime import start_runtime
from fusetune.strategies.context import Context
from fusetune.strategies.prepare import NEUTRAL, class_list, prepare, split_rows
from fusetune.strategies.two_stage import two_stage
from fusetune.version import VERSION

_PACKAGES = ("torch", "transformers", "lightning-fabric", "scikit-learn", "numpy", "pandas", "pillow", "onnxruntime")
_PAPER_EPOCHS = 5


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        folder: Where its files are.
        model: The trained model.
        metrics: The content of `metrics.json`.
    """

    folder: Path
    model: Model
    metrics: dict[str, Any]

    @property
    def report(self) -> Path:
        """Path of the HTML report."""
        return self.folder / "report.html"


def load(path: str | Path) -> Model:
    """Load a trained model from a run folder or its `model` folder, without network and without pickle.

    Raises:
        BundleError: If the folder is incomplete, was changed, or is of a newer format.
    """
    return load_bundle(path)


def fit(
    table: str | Path | pd.DataFrame,
    label: str,
    *,
    inputs: Iterable[str] | None = None,
    kinds: Mapping[str, str] | None = None,
    vectors: Mapping[str, str] | None = None,
    group: str | None = None,
    split: str | None = None,
    row_id: str | None = None,
    recipe: str | None = None,
    seed: int | None = None,
    config: Config | Mapping[str, Any] | str | Path | None = None,
    sets: Iterable[str] = (),
    out: str | Path | None = None,
    resume: bool = False,
    quiet: bool = False,
) -> Run:
    """Train, judge and save a classifier.

    Args:
        table: CSV, Parquet or JSON Lines file, or a DataFrame.
        label: Column to predict.
        inputs: Columns to use; default: all that are not label, group, split or an id.
        kinds: Column -> image, text, number, category, boolean, date or vector, where the guess would be wrong.
        vectors: Name -> pattern of number columns that form one vector, such as ``{"mrna": "mrna__*"}``.
        group: Column whose rows belong together (patient, video): never on both sides of the split.
        split: Column that says train, valid (or val, dev) or test.
        row_id: Column that names rows; default: one that looks like an id, else the row number.
        recipe: sound (default), fast (frozen encoders) or paper (the published settings).
        seed: Decides split, augmentation and training.
        config: A `Config`, a mapping or a YAML file. A file named by the environment variable FUSETUNE_CONFIG comes
            below it: your own defaults.
        sets: Overrides such as ``"image.train.epochs=3"``.
        out: Folder for the results; default: `runs/<table>-<label>`.
        resume: Continue a run that was stopped.
        quiet: Print nothing.

    Raises:
        UserError: If the table or the configuration cannot be used.
        RunError: If something fails while running.
    """
    started = time.perf_counter()
    given = {name: value for name, value in (("recipe", recipe), ("seed", seed)) if value is not None}
    settings = Config.build(os.environ.get("FUSETUNE_CONFIG"), config, given, sets=sets)
    data = read_table(table)
    folder = _open_folder(out, data, label, resume)
    if resume and (folder / "metrics.json").exists():
        return _finished(folder, settings)
    log = Log(folder / "log.jsonl", quiet)
    schema = _schema(data, label, settings, folder, resume, inputs, kinds, vectors, group, split, row_id)
    classes = class_list(data, label)
    labels = encode_labels(data, label, classes)
    ids = data.ids(schema.named("id"))
    rows = split_rows(data, schema, ids, labels, settings, folder / "split.parquet" if resume else None)
    if resume:
        _refuse_other_settings(folder, settings)
    write_text(folder / "config.yaml", settings.to_yaml())
    schema.save(folder / "schema.json")
    rows.save(folder / "split.parquet")
    runtime = start_runtime(settings)
    log.record("start", version=VERSION, recipe=settings.recipe, seed=settings.seed, split=rows.hash)
    log.say(f"fusetune {VERSION}: {data.name} -> {label} ({len(classes)} classes) on {runtime.describe()}")
    log.say(f"  rows: {_counts(rows)}  ({rows.how})")
    for name, modality in schema.modalities().items():
        log.say(
            f"  input {name}: {modality.kind}"
            + (f" ({', '.join(modality.columns[:8])})" if modality.kind == "columns" else "")
        )
    ctx, readers = prepare(data, schema, rows, labels, classes, settings, runtime, log, folder / "stages", resume)
    network, _ = two_stage(ctx)
    model = Model(network, readers, schema, classes, settings, runtime)
    with log.timed(ctx.seconds, "judge"):
        found = judge(ctx, model)
    ctx.seconds["total"] = time.perf_counter() - started
    save_bundle(model, folder / "model")
    metrics = _metrics(ctx, found)
    _save_predictions(ctx, found, folder / "predictions.parquet")
    write_report(folder / "report.html", _facts(data, label, schema, ctx, found, model, folder))
    # Last of all: a folder with this file is a finished run.
    write_text(folder / "metrics.json", json.dumps(metrics, indent=1))
    shutil.rmtree(folder / "stages", ignore_errors=True)  # optimiser states, of use only to an unfinished run
    log.record("done", seconds=ctx.seconds["total"], accuracy=found.test["accuracy"].value)
    return Run(folder, model, metrics)


def _open_folder(out: str | Path | None, table: Table, label: str, resume: bool) -> Path:
    folder = Path(out) if out is not None else Path("runs") / f"{Path(table.name).stem.replace(' ', '-')}-{label}"
    if (folder / "metrics.json").exists() and not resume and out is None:
        number = 2
        while folder.with_name(f"{folder.name}-{number}").exists():
            number += 1
        folder = folder.with_name(f"{folder.name}-{number}")
    if folder.exists() and any(folder.iterdir()) and not resume:
        raise UserError(
            f"{folder} is not empty; choose another folder with --out, or continue the run in it with --resume"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot create the folder {folder}: {error.strerror}") from error
    return folder


def _finished(folder: Path, settings: Config) -> Run:
    """Return a run that was finished before: its test part was read, and is not read again."""
    if Config.build(folder / "config.yaml") != settings:
        raise UserError(f"the run in {folder} is finished, with other settings than these; choose another --out")
    return Run(folder, load(folder), json.loads((folder / "metrics.json").read_text(encoding="utf-8")))


def _refuse_other_settings(folder: Path, settings: Config) -> None:
    """Refuse to continue a run with settings that would change its result."""
    if not (folder / "config.yaml").exists():
        return
    before, now = _leaves(Config.build(folder / "config.yaml")), _leaves(settings)
    changed = [f"{key}: {before.get(key)} then, {now.get(key)} now" for key in now if before.get(key) != now[key]]
    if changed:
        raise UserError(
            f"the run in {folder} was started with other settings ({listed(changed)}); resume it with the same "
            "settings, or choose another --out"
        )


def _leaves(config: Config) -> dict[str, Any]:
    found: dict[str, Any] = {}
    rest: list[tuple[str, Any]] = list(config.model_dump(mode="json", exclude=set(NEUTRAL)).items())
    while rest:
        name, value = rest.pop()
        if isinstance(value, dict):
            rest += [(f"{name}.{key}", inner) for key, inner in value.items()]
        else:
            found[name] = value
    return found


def _schema(
    table: Table,
    label: str,
    config: Config,
    folder: Path,
    resume: bool,
    inputs: Iterable[str] | None,
    kinds: Mapping[str, str] | None,
    vectors: Mapping[str, str] | None,
    group: str | None,
    split: str | None,
    row_id: str | None,
) -> Schema:
    edited = config.data.schema_file
    if edited or (resume and (folder / "schema.json").exists()):
        schema = Schema.load(Path(edited) if edited else folder / "schema.json")
        schema.check(table)
        return schema
    return infer_schema(
        table, label, inputs=inputs, kinds=kinds, vectors=vectors, group=group, split=split, row_id=row_id
    )


def _counts(split: Split) -> str:
    return ", ".join(f"{part} {count:,}" for part, count in split.counts().items())


def _metrics(ctx: Context, found: Judgement) -> dict[str, Any]:
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
                "verdict": c.verdict,
                "accuracy": c.accuracy.as_dict(),
                "nll": c.nll.as_dict(),
            }
            for c in found.comparisons
        ],
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


def _save_predictions(ctx: Context, found: Judgement, path: Path) -> None:
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


def _facts(
    table: Table, label: str, schema: Schema, ctx: Context, found: Judgement, model: Model, folder: Path
) -> Facts:
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
            name: [
                EpochRecord(r.epoch + 1, r.train_loss, r.valid_nll, r.valid_accuracy, r.learning_rate, r.seconds)
                for r in history.records
            ]
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
    )


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
