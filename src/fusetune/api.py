"""`fit`, `guide`, `load` and `Run`: the whole library from Python; the command line calls nothing else."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from fusetune.arguments import gather
from fusetune.augment.own import Own
from fusetune.bundle import load_bundle, save_bundle
from fusetune.config import Config
from fusetune.context import Context
from fusetune.data.cache import PixelCache
from fusetune.data.images import ImageSource, Keeper
from fusetune.data.imprint import imprint
from fusetune.data.infer import infer_schema
from fusetune.data.kinds import Kind
from fusetune.data.roles import Roles
from fusetune.data.schema import Schema
from fusetune.data.source import Source
from fusetune.data.split import PARTS, Split
from fusetune.data.table import Table, read_table, row_keys
from fusetune.doctor.examine import Examination, copy_numbers, examine
from fusetune.doctor.findings import by_severity, counts
from fusetune.doctor.treat import Treatment, refuse, treat
from fusetune.errors import UserError, listed
from fusetune.evaluate.threshold import positive_class
from fusetune.files import write_text
from fusetune.folder import (
    LOG,
    MODEL,
    STAGES,
    find_folder,
    held,
    is_finished,
    refuse_other_rows,
    refuse_other_run,
    refuse_taken,
    sweep_folder,
    warn_of_earlier,
)
from fusetune.guidance import DELTA, Guidance, guided
from fusetune.inputs import image_input
from fusetune.judge import judge
from fusetune.model import Model, encode_labels
from fusetune.prepare import class_list, image_folder, prepare, reading_of, split_rows
from fusetune.process import threads_restored
from fusetune.progress import Log
from fusetune.record import END, METRICS, START, Record, read_metrics, text_hash
from fusetune.report.checks import write_checks
from fusetune.report.page import write_report
from fusetune.runtime import start_runtime
from fusetune.strategies import strategy_of
from fusetune.strategies.level import at_level, grounded
from fusetune.strategies.rivals import fit_rivals
from fusetune.summary import save_predictions, summarise
from fusetune.track import tracked
from fusetune.train.checkpoint import discard
from fusetune.version import VERSION

# What a run spends on saying what the data ask for: nothing on fewer groups, which would decide nothing, and no more
# than on so many rows. The command `guide` has no such limits.
_GUIDED = {"least": 100, "most": 5000}
# Below this many independent units, bootstrap intervals are too uncertain to lean on.
_FEW = 30


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
    strategy: str | Mapping[str, Any] | None = None,
    augment: Mapping[str, Any] | None = None,
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
        strategy: How the model is fitted, by name: two-stage (default), ume, umt, joint and so on
            (`fusetune.strategies.STRATEGIES`), or a mapping with its settings: ``{"name": "umt", "weight": 5}``.
        augment: ``{"image": it}``, where it is a policy or its name, or any callable on a batch of pictures, such as a
            kornia or albumentations transform; `fusetune.augment.own.Own` says what else it may take.
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
    settings, own = gather(recipe, seed, strategy, augment, config, sets)
    data = read_table(table)
    schema = _schema(data, Roles(label, inputs, kinds, vectors, group, split, row_id), settings)
    folder = find_folder(out, data, label, resume)
    log = Log(folder / LOG, quiet)
    # All that can be refused is, before anything is created or changed.
    intake = _take_in(data, label, schema, settings, folder if resume else None)
    with threads_restored(), tracked(settings, folder, log), held(folder):
        refuse_taken(folder, resume)
        if resume:
            warn_of_earlier(folder, intake.before, log)
        if data.problems:
            examples = listed(f"{row} ({text})" for row, text in data.problems.items())
            log.warn(f"{len(data.problems):,} row(s) were changed by reading them: {examples}")
        if is_finished(folder):
            return _finished(folder, intake, settings, log)
        return _fit(intake, settings, own, folder, resume, log, started)


def guide(
    table: str | Path | pd.DataFrame,
    label: str,
    *,
    inputs: Iterable[str] | None = None,
    kinds: Mapping[str, str] | None = None,
    vectors: Mapping[str, str] | None = None,
    group: str | None = None,
    split: str | None = None,
    row_id: str | None = None,
    seed: int | None = None,
    delta: float = DELTA,
    lazy: bool = True,
    config: Config | Mapping[str, Any] | str | Path | None = None,
    sets: Iterable[str] = (),
    quiet: bool = False,
) -> Guidance:
    """Say what kind of fusion a table asks for; nothing is written, and the test part stays shut.

    An ensemble of the inputs alone, a head that sums over the features of all inputs, and one with interactions are
    cross-fitted on features of the encoders as they were pretrained, and compared on rows that they did not learn from.

    Args:
        table: CSV, Parquet or JSON Lines file, or a DataFrame.
        label: Column to predict.
        inputs: As `fit` takes it.
        kinds: As `fit` takes it.
        vectors: As `fit` takes it.
        group: As `fit` takes it.
        split: As `fit` takes it.
        row_id: As `fit` takes it.
        seed: Decides split, folds and heads.
        delta: The least difference of NLL that counts, in nats.
        lazy: Where the answer is teacher or frozen_fusion, train small networks jointly to tell which.
        config: As `fit` takes it.
        sets: As `fit` takes it.
        quiet: Print nothing.

    Raises:
        UserError: If the table or the configuration cannot be used, or there is one input only.
        RunError: If something fails while running.
    """
    if not delta > 0:
        raise UserError(f"delta is {delta:g}, and must be above 0 nats: no interval lies below nothing")
    settings, own = gather(None, seed, None, None, config, sets)
    data = read_table(table)
    schema = _schema(data, Roles(label, inputs, kinds, vectors, group, split, row_id), settings)
    log = Log(None, quiet)
    intake = _take_in(data, label, schema, settings, None)
    for line in intake.treatment.lines:
        log.warn(line)
    with threads_restored():
        runtime = start_runtime(settings)
        taken = (intake.table, intake.schema, intake.split, intake.labels, intake.classes)
        ctx = prepare(*taken, settings, runtime, log, None, False, own, intake.copies)
        return guided(ctx, delta=delta, lazy=lazy)


@dataclass(frozen=True, eq=False)
class _Intake:
    """A table after every check, and what is known of it.

    Attributes:
        table: The table after the doctor's treatment.
        label: The column to predict.
        schema: Its columns.
        classes: The labels.
        labels: Class index per row, int64 [rows].
        split: Which row is in which part.
        copies: Number of the set of copies that each row belongs to, as `copy_numbers` returns it.
        examination: What the doctor found; None where it was not asked.
        treatment: What was done about it.
        made_from: Hashes of all of this, but for the pictures.
        before: What the run to be resumed was made from, where that is known.
    """

    table: Table
    label: str
    schema: Schema
    classes: list[Any]
    labels: npt.NDArray[np.int64]
    split: Split
    copies: npt.NDArray[np.int64]
    examination: Examination | None
    treatment: Treatment
    made_from: Record
    before: Record | None


def _take_in(data: Table, label: str, schema: Schema, settings: Config, resumed: Path | None) -> _Intake:
    """Check everything that can be refused; `resumed` is the folder of a run to go on with."""
    data = schema.read(data)
    # Pictures count by their content, wherever they lie.
    pictures = {c.name for c in schema.inputs if c.kind is Kind.IMAGE}
    used = [c.name for c in schema.columns if c.role != "unused" and c.name not in pictures]
    used += filter(None, (settings.image.spacing, settings.image.orientation, settings.split.time))
    columns = imprint(data, used)
    examination, treatment = _doctor(data, schema, settings)
    table, schema = treatment.table, treatment.schema
    classes = class_list(table, label)
    positive_class(settings.evaluate.aim, settings.evaluate.positive, classes)  # a wrong aim must not cost a run
    labels = encode_labels(table, label, classes)
    ids = table.ids(schema.named("id"))
    made_from = Record(len(data), _rows_hash(ids, labels), columns)
    before = None if resumed is None else refuse_other_run(resumed, settings, schema, made_from)
    copies = copy_numbers(table, schema, examination)
    saved = None if resumed is None else resumed / "split.parquet"
    split = split_rows(table, schema, ids, labels, settings, saved, classes=classes, copies=copies)
    if examination is not None and examination.examined.parts is None:
        examination.check_split(split)
        refuse(examination.findings, settings.doctor.policy)
    return _Intake(table, label, schema, classes, labels, split, copies, examination, treatment, made_from, before)


def _fit(
    intake: _Intake, settings: Config, own: Own | None, folder: Path, resume: bool, log: Log, started: float
) -> Run:
    data, label, schema, classes, rows = intake.table, intake.label, intake.schema, intake.classes, intake.split
    record = _begin(intake, settings, folder, log)
    runtime = start_runtime(settings)
    log.record("start", version=VERSION, recipe=settings.recipe, seed=settings.seed, split=rows.hash)
    log.say(f"fusetune {VERSION}: {data.name} -> {label} ({len(classes)} classes) on {runtime.describe()}")
    log.say(f"  rows: {_counts(rows)}  ({rows.how})")
    _announce(log, schema)
    ctx = prepare(
        data, schema, rows, intake.labels, classes, settings, runtime, log, folder / STAGES, resume, own, intake.copies
    )
    record = replace(record, pictures=_pictures(ctx.sources))
    refuse_other_rows(folder, intake.before, record)
    record.write(folder)
    _warn_about_parts(ctx)
    strategy, own_settings = strategy_of(settings)
    read, ctx = ctx, at_level(ctx)
    fitted = strategy.fit(ctx, own_settings)
    with log.timed(ctx.seconds, "baselines"):
        rivals = fit_rivals(ctx, strategy, fitted)
    guidance = None
    if settings.evaluate.baselines and len(ctx.modalities) > 1:
        with log.timed(ctx.seconds, "guide"):
            guidance = guided(ctx, lazy=False, **_GUIDED)
        log.record("guide", **guidance.as_dict())
    with log.timed(ctx.seconds, "judge"):
        judged = judge(ctx, rivals | {strategy.name: fitted}, strategy.name)
    model = Model.of(read, grounded(fitted.network, read, ctx), schema)
    model.calibration = judged.calibration
    ctx.seconds["total"] = time.perf_counter() - started
    save_bundle(model, folder / MODEL)
    save_predictions(ctx, judged, folder / "predictions.parquet")
    findings = [] if intake.examination is None else by_severity(intake.examination.findings)
    result = summarise(ctx, data, schema, fitted, judged, findings, record.rows_hash, guidance)
    write_report(folder / "report.html", result)
    metrics = result.metrics()
    text = json.dumps(metrics, indent=1)
    record.seal(folder, [*START, *END[:-1]], **{METRICS: text_hash(text)})
    # Last of all: a folder with this file is a finished run.
    write_text(folder / METRICS, text)
    discard(folder / STAGES)  # optimiser states, of use only to an unfinished run
    log.record("done", seconds=ctx.seconds["total"], accuracy=judged.test["accuracy"].value)
    return Run(folder, model, metrics)


def _begin(intake: _Intake, settings: Config, folder: Path, log: Log) -> Record:
    """Write the files of a run's start, the record that makes the folder a run's first of all, and return that."""
    before = intake.before
    record = replace(intake.made_from, pictures={} if before is None else before.pictures)
    record.write(folder)
    sweep_folder(folder)
    write_text(folder / "config.yaml", settings.to_yaml())
    intake.schema.save(folder / "schema.json")
    intake.split.save(folder / "split.parquet")
    if intake.examination is not None:
        _report_findings(intake.examination, intake.treatment, log, folder)
    return record.seal(folder, START)


def _pictures(sources: Mapping[str, Source]) -> dict[str, str]:
    """Return a hash of the content of each image column."""
    images = {name: source.digests for name, source in sources.items() if isinstance(source, ImageSource)}
    return {name: hashlib.sha256(digests.tobytes()).hexdigest() for name, digests in images.items()}


def _schema(table: Table, roles: Roles, config: Config) -> Schema:
    edited = config.data.schema_file
    if not edited:
        return infer_schema(table, roles, config.data.outside == "refuse")
    if roles.inputs is not None or roles.kinds or roles.vectors:
        raise UserError(f"{edited} says which columns are used and what they are; leave out inputs, kinds and vectors")
    schema = Schema.load(Path(edited))
    schema.check(table)
    for role, name in roles.named().items():
        if schema.named(role) != name:
            raise UserError(f"{edited} has '{schema.named(role)}' as the {role}, not '{name}'")
    return schema


def _doctor(table: Table, schema: Schema, config: Config) -> tuple[Examination | None, Treatment]:
    """Examine the table, unless that is switched off, and apply the policy."""
    if not config.doctor.check:
        return None, Treatment(table, schema, {}, {}, [])
    data = config.data
    examination = examine(
        table,
        schema,
        pixel_limit=data.pixel_limit,
        allow_remote=config.allow_download,
        outside=data.outside,
        keeper=_keeper(config),
    )
    return examination, treat(examination, config.doctor.policy)


def _keeper(config: Config) -> Keeper | None:
    """Return what keeps the images that the doctor decodes for the run; one scale for all takes another decoding."""
    folder, settings = image_folder(config), image_input(config, "")
    if folder is None or settings.spacing is not None:
        return None
    return Keeper(settings, PixelCache(folder, settings.size, config.store.images_gb))


def _report_findings(examination: Examination, treatment: Treatment, log: Log, folder: Path) -> None:
    """Write down what was found and done."""
    listing = {"findings": [finding.as_dict() for finding in examination.findings], **treatment.as_dict()}
    write_text(folder / "findings.json", json.dumps(listing, indent=1, ensure_ascii=False))
    write_checks(folder / "findings.html", examination, treatment.lines)
    for line in treatment.lines:
        log.warn(line)
    for finding in examination.findings:
        if finding.severity == "error":
            log.warn(f"{finding.kind}: {finding.evidence['what']}; {finding.remedy}")
    tally = counts(examination.findings)
    log.say(f"  checks: {tally['error']} error(s), {tally['warn']} warning(s); see {folder / 'findings.html'}")


def _rows_hash(ids: pd.Series, labels: npt.NDArray[np.int64]) -> str:
    """Hash which rows have which label."""
    return hashlib.sha256(row_keys(ids).tobytes() + labels.tobytes()).hexdigest()


def _finished(folder: Path, intake: _Intake, settings: Config, log: Log) -> Run:
    """Return a run that was finished before: its test part was read, and is not read again."""
    metrics = read_metrics(folder)
    if metrics["rows_hash"] != intake.made_from.rows_hash:
        raise UserError(
            f"the run in {folder} is finished, and was made from other rows or labels; choose another --out"
        )
    if intake.before is not None and intake.before.pictures:
        train, reading = intake.split.rows("train"), reading_of(settings)
        sources = {
            name: image_input(settings, modality.columns[0]).fit_extent(intake.table, train).bind(intake.table, reading)
            for name, modality in intake.schema.modalities().items()
            if modality.kind == "image"
        }
        pictures = _pictures(sources)
        refuse_other_rows(folder, intake.before, replace(intake.made_from, pictures=pictures))
    model = load(folder)
    discard(folder / STAGES)
    log.say(f"{folder} is finished: nothing to do")
    return Run(folder, model, metrics)


def _announce(log: Log, schema: Schema) -> None:
    for name, modality in schema.modalities().items():
        cells = f" ({', '.join(modality.columns[:8])})" if modality.kind == "columns" else ""
        log.say(f"  input {name}: {modality.kind}{cells}")
    for column in schema.columns:
        if column.role == "unused" and not column.reason.startswith("not chosen"):
            log.say(f"  left out {column.name}: {column.reason}")


def _warn_about_parts(ctx: Context) -> None:
    """Say what the test part can not tell."""
    for code, part in enumerate(PARTS[1:], start=1):
        here = set(ctx.labels[ctx.split.part == code])
        lost = [str(name) for index, name in enumerate(ctx.classes) if index not in here]
        if lost:
            ctx.log.warn(f"no {part} row is of class {listed(lost)}: nothing is known about it from that part")
    units = ctx.split.counts()["test"] if ctx.groups is None else int(ctx.groups[ctx.split.part == 2].nunique())
    if units < _FEW:
        kind = "rows" if ctx.groups is None else "groups"
        ctx.log.warn(f"the test part has only {units} {kind}: intervals are wide, and themselves uncertain")


def _counts(split: Split) -> str:
    return ", ".join(f"{part} {count:,}" for part, count in split.counts().items())
