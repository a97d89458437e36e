"""`fit`, `guide`, `encode`, `load` and `Run`: the whole library from Python; the command line calls nothing else."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from fusetune.arguments import gather as gather_settings
from fusetune.augment.own import Own
from fusetune.bundle import load_bundle, save_bundle
from fusetune.cluster.engine import Cluster, joined
from fusetune.cluster.filling import Filling
from fusetune.config import MINUTES, Config
from fusetune.context import Context
from fusetune.data.choices import TargetKind
from fusetune.data.roles import Roles, Share
from fusetune.data.table import Table, TableLike
from fusetune.doctor.exhibits import Exhibit, exhibits
from fusetune.encoding import Elsewhere, Encoded, encoded
from fusetune.errors import UserError
from fusetune.files import write_text
from fusetune.folder import (
    LOG,
    MODEL,
    STAGES,
    find_folder,
    held,
    refuse_other_rows,
    refuse_taken,
    sweep_folder,
    warn_of_earlier,
)
from fusetune.guidance import DELTA, Guidance, guided
from fusetune.inputs import Reader, picture_input
from fusetune.intake import (
    Intake,
    announce,
    part_counts,
    picture_hashes,
    read_for,
    refuse_weight,
    report_findings,
    schema_of,
    take_in,
    warn_about_parts,
    warn_of_reading,
)
from fusetune.judge import judge, reference_of
from fusetune.model import Model
from fusetune.plan import announce_plan
from fusetune.prepare import reading_of
from fusetune.process import threads_restored
from fusetune.progress import Log, without_bars
from fusetune.ranks import Ranks, find_place, met
from fusetune.record import END, METRICS, START, Record, is_finished, read_metrics, text_hash
from fusetune.report.page import write_report
from fusetune.run import Run
from fusetune.runtime import find_runtime, start_runtime
from fusetune.strategies import strategy_of
from fusetune.strategies.base import Fitted
from fusetune.strategies.level import at_level, grounded
from fusetune.strategies.rivals import fit_rivals
from fusetune.strategies.weighted import Weighted
from fusetune.summary import save_predictions, summarise
from fusetune.track import tracked
from fusetune.train.checkpoint import discard
from fusetune.trials import tried, with_trials
from fusetune.version import VERSION

# What a run spends on saying what the data ask for: nothing on fewer groups, which would decide nothing, and no more
# than on so many rows, of which a `quick` run has less time. The command `guide` has no such limits.
_GUIDED_LEAST, _GUIDED_MOST, _GUIDED_QUICK = 100, 5000, 2000
# Sets of rows that the report shows of a finding; findings.html shows more.
_SETS = 3

_STEPS = (
    "looking at the table",
    "training the model",
    "fitting simpler models to compare it with",
    "judging all on the test part",
    "writing model and report",
)


def load(path: str | Path) -> Model:
    """Load a trained model from a run folder or its `model` folder, without network and without pickle.

    Raises:
        BundleError: If the folder is incomplete, was changed, or is of a newer format.
    """
    return load_bundle(path)


def fit(
    table: TableLike,
    label: str,
    *,
    inputs: str | Iterable[str] | None = None,
    kinds: Mapping[str, str] | None = None,
    vectors: Mapping[str, str] | None = None,
    group: str | None = None,
    split: str | None = None,
    row_id: str | None = None,
    share: Share | None = None,
    gather: str | None = None,
    weight: str | None = None,
    preset: str | None = None,
    minutes: float | None = None,
    target: TargetKind | None = None,
    seed: int | None = None,
    strategy: str | Mapping[str, Any] | None = None,
    augment: Mapping[str, Any] | None = None,
    config: Config | Mapping[str, Any] | str | Path | None = None,
    sets: str | Iterable[str] = (),
    out: str | Path | None = None,
    resume: bool = False,
    quiet: bool = False,
    devices: int | None = None,
    nodes: int | None = None,
    sharded: bool = False,
) -> Run:
    """Train, judge and save a classifier.

    In a program that PyTorch's launcher started several times (`torchrun`), all of them train one model together; each
    calls `fit` alike, gets the same `Run`, and the first alone prints and writes.

    Args:
        table: CSV, Parquet or JSON Lines file, a folder of Parquet files, or a table in memory: of pandas, polars (also
            a `LazyFrame`), pyarrow (also a dataset) or DuckDB, a dict of columns, or a list of dicts. Cells can be
            pictures: PIL pictures, arrays, bytes of files.
        label: Column to predict.
        inputs: Columns to use, or patterns such as ``lab_*``; a word alone is one of them. Default: all that are not
            label, group, split, weight or an id.
        kinds: Column -> image, text, number, category, boolean, date or vector, where the guess would be wrong;
            image+ocr for pictures, and the words in them as one more input of texts.
        vectors: Name -> pattern of number columns that form one vector, such as ``{"mrna": "mrna__*"}``.
        group: Column whose rows belong together (patient, video): never on both sides of the split.
        split: Column that says train, valid (or val, dev) or test.
        row_id: Column that names rows; default: one that looks like an id, else the row number.
        share: Columns of pictures, or of texts, that are one input with one encoder: ``["front", "back"]``, or by the
            input's name ``{"views": ["front", "back"]}``.
        gather: Column of ids of a long table: rows with the same id become one row, with all their pictures and texts.
        weight: Column that says what each row counts, a number from 0 on: in losses, choices, scores and their
            intervals, relative to other rows. Rows of weight 0 are left out. It is no input, and predictions need none.
        preset: quick (encoders as they were pretrained), good (default; fine-tuned where that pays), best (the same
            with more folds and views) or paper (the published settings).
        minutes: How long the run may take; default: 3 for quick, 20 for good. What would be too late is left out, and
            encoders are fine-tuned in fewer epochs.
        target: What the label is: classification (one class of several), multilabel (any number of labels) or
            regression (a number). Default: as its column looks.
        seed: Decides split, augmentation and training.
        strategy: How the model is fitted, by name: weighted-ensemble (default), two-stage, ume, umt, joint and so on
            (`fusetune.strategies.STRATEGIES`), or a mapping with its settings: ``{"name": "umt", "weight": 5}``.
        augment: ``{"image": it}``, where it is a policy or its name, or any callable on a batch of pictures, such as a
            kornia or albumentations transform; `fusetune.augment.own.Own` says what else it may take.
        config: A `Config`, a mapping or a YAML file. A file named by the environment variable FUSETUNE_CONFIG comes
            below it: your own defaults.
        sets: One override such as ``"image.train.epochs=3"``, or several.
        out: Folder for the results; default: `runs/<table>-<label>`.
        resume: Continue a run that was stopped.
        quiet: Print nothing.
        devices: How many processes are expected on each machine; default: as many as the launcher started.
        nodes: How many machines are expected.
        sharded: Divide weights, gradients and optimiser states among them in training (FSDP), for encoders that one
            device could not train.

    Raises:
        UserError: If the table or the configuration cannot be used.
        RunError: If something fails while running.
    """
    started = time.perf_counter()
    settings, own = gather_settings(preset, seed, strategy, augment, config, sets, minutes, target)
    roles = Roles(label, inputs, kinds, vectors, group, split, row_id, share, gather, weight)
    with met(find_place(devices, nodes), sharded, settings=text_hash(settings.to_yaml())[:8]) as ranks:
        log = Log(None, quiet or not ranks.first)
        data, intake, folder = ranks.lead(lambda: _look(table, label, roles, settings, out, resume, log, ranks))
        _refuse_idle(ranks, intake)
        with ExitStack() as stack:
            stack.enter_context(threads_restored())
            if ranks.first:
                stack.enter_context(tracked(settings, folder, log))
                stack.enter_context(held(folder))
                refuse_taken(folder, resume)
                if resume:
                    warn_of_earlier(folder, intake.before, log)
                warn_of_reading(log, data)
            else:
                stack.enter_context(without_bars())
            if ranks.agree(is_finished(folder)):
                return ranks.last(lambda: _finished(folder, intake, settings, log))
            return _fit(intake, settings, own, folder, resume, log, started, ranks)


def _look(
    table: TableLike,
    label: str,
    roles: Roles,
    settings: Config,
    out: str | Path | None,
    resume: bool,
    log: Log,
    ranks: Ranks,
) -> tuple[Table, Intake, Path]:
    """Return the table as it was read and after every check, and the run's folder."""
    data = read_for(table, roles, settings)
    schema = schema_of(data, roles, settings)
    folder = find_folder(out, data, label, resume)
    log.keep(folder / LOG)
    log.plan(*_STEPS)
    log.step()
    # All that can be refused is, before anything is created or changed.
    if not is_finished(folder):
        announce_plan(data, schema, settings, log)
    intake = take_in(data, label, schema, settings, folder if resume else None)
    if not is_finished(folder):
        find_runtime(settings, ranks)
    return data, intake, folder


def _refuse_idle(ranks: Ranks, intake: Intake) -> None:
    """Refuse more ranks than there are rows to divide."""
    rows = intake.split.counts()["train"]
    if ranks.count > 1 and ranks.sizes(rows) is None:
        raise UserError(
            f"{ranks.count} ranks and {rows} training rows: each takes at least two; start {max(1, rows // 2)} or "
            "fewer (--devices)"
        )


def guide(
    table: TableLike,
    label: str,
    *,
    inputs: str | Iterable[str] | None = None,
    kinds: Mapping[str, str] | None = None,
    vectors: Mapping[str, str] | None = None,
    group: str | None = None,
    split: str | None = None,
    row_id: str | None = None,
    share: Share | None = None,
    gather: str | None = None,
    seed: int | None = None,
    delta: float = DELTA,
    lazy: bool = True,
    config: Config | Mapping[str, Any] | str | Path | None = None,
    sets: str | Iterable[str] = (),
    quiet: bool = False,
) -> Guidance:
    """Say what kind of fusion a table asks for; nothing is written, and the test part stays shut.

    An ensemble of the inputs alone, a head that sums over the features of all inputs, and one with interactions are
    cross-fitted on features of the encoders as they were pretrained, and compared on rows that they did not learn from.

    Args:
        table: As `fit` takes it.
        label: Column to predict.
        inputs: As `fit` takes it.
        kinds: As `fit` takes it.
        vectors: As `fit` takes it.
        group: As `fit` takes it.
        split: As `fit` takes it.
        row_id: As `fit` takes it.
        share: As `fit` takes it.
        gather: As `fit` takes it.
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
    settings, own = gather_settings(None, seed, None, None, config, sets)
    roles = Roles(label, inputs, kinds, vectors, group, split, row_id, share, gather)
    data = read_for(table, roles, settings)
    schema = schema_of(data, roles, settings)
    refuse_weight(schema, "guide")
    log = Log(None, quiet)
    intake = take_in(data, label, schema, settings, None)
    warn_of_reading(log, data)
    for line in intake.treatment.lines:
        log.warn(line)
    with threads_restored():
        return guided(intake.context(settings, start_runtime(settings), log, own=own), delta=delta, lazy=lazy)


def encode(
    table: TableLike,
    label: str,
    *,
    inputs: str | Iterable[str] | None = None,
    kinds: Mapping[str, str] | None = None,
    vectors: Mapping[str, str] | None = None,
    group: str | None = None,
    split: str | None = None,
    row_id: str | None = None,
    share: Share | None = None,
    gather: str | None = None,
    weight: str | None = None,
    preset: str | None = None,
    seed: int | None = None,
    strategy: str | Mapping[str, Any] | None = None,
    augment: Mapping[str, Any] | None = None,
    config: Config | Mapping[str, Any] | str | Path | None = None,
    sets: str | Iterable[str] = (),
    cluster: Cluster | None = None,
    quiet: bool = False,
) -> Encoded:
    """Encode pictures and texts as `fit` with the same arguments would, and keep the features for it.

    It pays where encoders are left as they were pretrained (`preset="quick"`): `fit` then finds all of their features.
    What is trained, or tried with other settings, is encoded by `fit`.

    Args:
        table: As `fit` takes it.
        label: As `fit` takes it; the split follows from it.
        inputs: As `fit` takes it.
        kinds: As `fit` takes it.
        vectors: As `fit` takes it.
        group: As `fit` takes it.
        split: As `fit` takes it.
        row_id: As `fit` takes it.
        share: As `fit` takes it.
        gather: As `fit` takes it.
        weight: As `fit` takes it; rows of weight 0 are not encoded.
        preset: As `fit` takes it.
        seed: As `fit` takes it.
        strategy: As `fit` takes it.
        augment: As `fit` takes it.
        config: As `fit` takes it; `store.folder` is where features are kept.
        sets: As `fit` takes it.
        cluster: A Ray cluster whose workers open the pictures and encode; None: this process does.
        quiet: Print nothing.

    Raises:
        UserError: If the table, the configuration or the cluster cannot be used.
        RunError: If something fails while running.
    """
    settings, own = gather_settings(preset, seed, strategy, augment, config, sets)
    roles = Roles(label, inputs, kinds, vectors, group, split, row_id, share, gather, weight)
    log = Log(None, quiet)
    if cluster is None:
        return encoded(read_for(table, roles, settings), label, roles, settings, own, log, Elsewhere())
    with joined(cluster) as engine:
        elsewhere = Filling(engine, settings).elsewhere()
        return encoded(read_for(table, roles, settings), label, roles, settings, own, log, elsewhere)


def _fit(
    intake: Intake,
    settings: Config,
    own: Own | None,
    folder: Path,
    resume: bool,
    log: Log,
    started: float,
    ranks: Ranks,
) -> Run:
    data, label, schema, target, rows = intake.table, intake.label, intake.schema, intake.target, intake.split
    record = ranks.lead(lambda: _begin(intake, settings, folder, log))
    runtime = start_runtime(settings, ranks)
    earlier, minutes = ranks.lead(log.spent), _minutes(settings)

    def left() -> float:
        """Seconds that are left of what the run may take."""
        whole = math.inf if minutes is None else 60 * minutes - earlier - (time.perf_counter() - started)
        return ranks.agree(whole)

    log.record("start", version=VERSION, preset=settings.preset, seed=settings.seed, split=rows.hash, ranks=ranks.count)
    log.say(f"fusetune {VERSION}: {data.name} -> {label} ({target.describe()}) on {runtime.describe()}")
    log.say(f"  rows: {part_counts(rows)}  ({rows.how})")
    announce(log, intake)

    def make(config: Config, told: Log, settled: Sequence[str] = ()) -> Context:
        return intake.context(config, runtime, told, folder / STAGES, resume, own, settled)

    if settings.tries and own is None:
        ctx, trials = tried(settings, schema, len(data) - rows.counts()["test"], make, log, left())
        settings = ctx.config
    else:
        ctx, trials = make(settings, log), []
    record = replace(record, pictures=picture_hashes(ctx.sources))
    _refuse_other_pictures(ranks, record)
    if ranks.first:
        refuse_other_rows(folder, intake.before, record)
        record.write(folder)
    warn_about_parts(ctx)
    if minutes is not None:
        ctx.limit(minutes, left())
    strategy, own_settings = strategy_of(settings)
    read, ctx = ctx, at_level(ctx)
    log.step()
    fitted = with_trials(strategy.fit(ctx, own_settings), trials, ctx.modalities)
    log.step()
    with log.timed(ctx.seconds, "baselines"):
        rivals = fit_rivals(ctx, strategy, fitted)

    def finish() -> Run:
        """Judge and write, which one rank does alone."""
        return _finish(intake, settings, folder, record, read, ctx, strategy.name, fitted, rivals, started)

    return ranks.last(finish)


def _refuse_other_pictures(ranks: Ranks, record: Record) -> None:
    """Refuse ranks that read other pictures: paths can lead to other files on another machine."""
    every = ranks.merged([record.pictures])
    for rank, pictures in enumerate(every):
        odd = next((name for name in every[0] if pictures[name] != every[0][name]), None)
        if odd is not None:
            raise UserError(
                f"the pictures of '{odd}' are not the same files on rank 0 and on rank {rank}; give each machine the "
                "same pictures at the same paths"
            )


def _finish(
    intake: Intake,
    settings: Config,
    folder: Path,
    record: Record,
    read: Context,
    ctx: Context,
    chosen: str,
    fitted: Fitted,
    rivals: dict[str, Fitted],
    started: float,
) -> Run:
    """Judge what was fitted, and write all that a run leaves."""
    data, schema, rows, log = intake.table, intake.schema, intake.split, ctx.log
    guidance = _guided(ctx)
    log.step()
    with log.timed(ctx.seconds, "judge"):
        judged = judge(ctx, rivals | {chosen: fitted}, chosen)
    model = Model.of(read, grounded(fitted.network, read, ctx), schema, judged.calibration)
    with log.timed(ctx.seconds, "reference"):
        model.reference = reference_of(model, read, data, rows.rows("test"), judged.outputs)
    ctx.seconds["total"] = time.perf_counter() - started
    log.step()
    save_bundle(model, folder / MODEL)
    save_predictions(ctx, judged, folder / "predictions.parquet")
    result = summarise(ctx, data, schema, fitted, judged, _found(intake), record.rows_hash, guidance)
    write_report(folder / "report.html", result.redacted() if settings.redact else result)
    metrics = result.metrics()
    _seal(folder, record, metrics)
    score = judged.measure.score
    log.record("done", seconds=ctx.seconds["total"], **{score: judged.test[score].value})
    return Run(folder, model, metrics)


def _guided(ctx: Context) -> Guidance | None:
    """Return what kind of fusion the data ask for, where that can be said and there is time to ask."""
    able = ctx.config.evaluate.baselines and len(ctx.modalities) > 1
    # It compares NLLs in which rows count alike, and would advise on another table than the one that is judged.
    if not able or ctx.sample_weight is not None or ctx.late():
        return None
    with ctx.log.timed(ctx.seconds, "guide"):
        most = _GUIDED_QUICK if ctx.config.preset == "quick" else _GUIDED_MOST
        guidance = guided(ctx, lazy=False, least=_GUIDED_LEAST, most=most)
    ctx.log.record("guide", **guidance.as_dict())
    return guidance


def _minutes(settings: Config) -> float | None:
    """Return how long a run may take, where that is limited."""
    if settings.minutes is None and settings.strategy.name == Weighted.name:
        return MINUTES.get(settings.preset)
    return settings.minutes


def _seal(folder: Path, record: Record, metrics: dict[str, Any]) -> None:
    """Write the last files of a run, and remove what only an unfinished one needs: optimiser states."""
    text = json.dumps(metrics, indent=1)
    record.seal(folder, [*START, *END[:-1]], **{METRICS: text_hash(text)})
    # Last of all: a folder with this file is a finished run.
    write_text(folder / METRICS, text)
    discard(folder / STAGES)


def _found(intake: Intake) -> list[Exhibit]:
    """Return what the doctor found with the rows to show of it, errors first."""
    return [] if intake.examination is None else exhibits(intake.examination, _SETS)


def _begin(intake: Intake, settings: Config, folder: Path, log: Log) -> Record:
    """Write the files of a run's start, the record that makes the folder a run's first of all, and return that."""
    before = intake.before
    record = replace(intake.made_from, pictures={} if before is None else before.pictures)
    record.write(folder)
    sweep_folder(folder)
    write_text(folder / "config.yaml", settings.to_yaml())
    intake.schema.save(folder / "schema.json")
    intake.split.save(folder / "split.parquet")
    if intake.examination is not None:
        report_findings(intake.examination, intake.treatment, log, folder)
    return record.seal(folder, START)


def _finished(folder: Path, intake: Intake, settings: Config, log: Log) -> Run:
    """Return a run that was finished before: its test part was read, and is not read again."""
    metrics = read_metrics(folder)
    if metrics["rows_hash"] != intake.made_from.rows_hash:
        raise UserError(
            f"the run in {folder} is finished, and was made from other rows or labels; choose another --out"
        )
    model = load(folder)
    if intake.before is not None and intake.before.pictures:
        train, reading = intake.split.rows("train"), reading_of(settings)
        # As the run read them, which may be what it had tried.
        sources = {
            name: Reader(modality, picture_input(modality, intake.table, train, model.config)).bind(
                intake.table, reading
            )
            for name, modality in intake.schema.modalities().items()
            if modality.kind == "image"
        }
        pictures = picture_hashes(sources)
        refuse_other_rows(folder, intake.before, replace(intake.made_from, pictures=pictures))
    discard(folder / STAGES)
    log.say(f"{folder} is finished: nothing to do")
    return Run(folder, model, metrics)
