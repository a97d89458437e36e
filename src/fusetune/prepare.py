"""From a table and a configuration to everything that a strategy works with."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fusetune.augment.own import Own, chosen, try_out
from fusetune.augment.safety import check_policy
from fusetune.config import Config
from fusetune.context import Context
from fusetune.data.bags import BagSource, pictures_of
from fusetune.data.images import Opener, Reading, raise_for_problems
from fusetune.data.infer import column_notes, spelling_notes
from fusetune.data.schema import Modality, Schema
from fusetune.data.source import Source
from fusetune.data.split import Codes, Rows, Split, group_words, joined, make_split
from fusetune.data.table import Table, row_keys
from fusetune.data.weights import Weights, scaled, weights_of
from fusetune.errors import ConfigError, TableError, listed
from fusetune.features.store import Engine, FeatureStore, default_folder
from fusetune.files import cache_is_temporary, expanded
from fusetune.inputs import Reader, prepare_modality, truncation_note
from fusetune.progress import Log
from fusetune.runtime import Runtime
from fusetune.targets import Target, Truth
from fusetune.targets.choose import in_units

# A set of copies with more than this share of the rows is said.
_LARGE = 0.1
# Settings that change how fast or where a run happens, but not its result.
NEUTRAL = dict.fromkeys(
    ("device", "threads", "onnx", "store", "evaluate", "allow_download", "track", "track_to", "preset", "minutes"), True
) | {"data": {"workers": True}}


def split_rows(
    table: Table, schema: Schema, target: Target, config: Config, saved: Path | None = None, copies: Codes | None = None
) -> tuple[Split, Target, Truth]:
    """Divide a table: return the saved split, if there is one, or make it (`make_split`).

    Args:
        table: The table, as the schema reads it.
        schema: Its columns.
        target: What is predicted.
        config: How.
        saved: File of an earlier split.
        copies: Number of the set of copies that each row is in, -1 for none.

    Returns:
        The split, the target in units of the training rows, and each row's label as that encodes it.
    """
    label, ids, group, part = (schema.named(role) for role in ("label", "id", "group", "split"))
    rows, how = table.ids(ids), config.split
    if saved is not None and saved.exists():
        split = Split.load(saved, rows)
    else:
        if part is not None and how.how not in ("auto", "given"):
            raise ConfigError(
                f"column '{part}' gives the split, but split.how is '{how.how}'; leave out one of the two"
            )
        split = make_split(
            rows,
            target.strata(target.encode(table, str(label))),
            how=how.how,
            groups=None if group is None else table.column(group),
            parts=None if part is None else table.column(part),
            times=None if how.time is None else table.column(how.time),
            copies=copies,
            classes=target.strata_names,
            fractions=how.fractions,
            folds=how.folds,
            fold=how.fold,
            seed=config.seed,
        )
    target = in_units(target, table, str(label), split.rows("train"), sample_weight_of(table, schema))
    return split, target, target.encode(table, str(label))


def sample_weight_of(table: Table, schema: Schema) -> Weights | None:
    """Return what each row counts by the weight column, float64 [rows] of mean 1; None where all count alike."""
    name = schema.named("weight")
    return None if name is None else scaled(weights_of(table, name))


def prepare(
    table: Table,
    schema: Schema,
    split: Split,
    target: Target,
    labels: Truth,
    config: Config,
    runtime: Runtime,
    log: Log,
    folder: Path | None,
    resume: bool,
    own: Own | None = None,
    copies: Codes | None = None,
    settled: Sequence[str] = (),
    *,
    scan: Opener | None = None,
    engine: Engine | None = None,
) -> Context:
    """Read all inputs, load all encoders, and return the context of a run.

    Rows with the same number in `copies` (-1: none) stay on one side of every further division, as whole groups do.
    Of columns that are `settled`, doubts about their meaning are not repeated. `scan` opens pictures elsewhere, and
    `engine` encodes there.

    Raises:
        ImageError: If images cannot be read and `data.unreadable` is error.
        WeightsError: If an encoder's weights are not on this machine.
    """
    call = chosen(config.image.augment, own)
    if call is not None:
        try_out(call, config.image.size)
        if resume and not call.name:
            log.warn(f"image.augment: {call.label} has no name; nobody can tell whether the run began with it")
    check_policy(config.image, config.image.policy if call is None else call.before, schema, log, target.names, settled)
    for note in [*spelling_notes(table, schema), *column_notes(table, schema)]:
        log.warn(f"{note.what}; {note.remedy} ({note.kind})")
    train = split.rows("train")
    modalities, pristine = schema.modalities(), {}
    _check_several(modalities.values(), config, log)
    readers: dict[str, Reader] = {}
    sources: dict[str, Source] = {}
    reading = replace(reading_of(config), scan=scan)
    for name, modality in modalities.items():
        readers[name], pristine[name] = prepare_modality(modality, table, schema, train, config, log)
        sources[name] = readers[name].bind(table, reading)
        _report_source(modality, sources[name], split.ids, config, log)
    augments = {name: readers[name].augment(config, sources[name], train, own) for name in modalities}
    encodings = {name: readers[name].encoding(augment, config) for name, augment in augments.items()}
    if not config.store.folder and cache_is_temporary():
        log.say(f"  this user has no home folder: what is kept for the next run is in {default_folder().parent}")
    store = FeatureStore(
        expanded(config.store.folder) if config.store.folder else default_folder(),
        runtime,
        log,
        config.store.limit_gb,
        config.onnx,
        engine,
    )
    group = schema.named("group")
    groups = None if group is None else group_words(table.column(group), split.ids)
    units = joined(split.ids if groups is None else groups, copies)
    sample_weight = sample_weight_of(table, schema)
    _report_copies(copies, split.ids, log)
    return Context(
        config=config,
        runtime=runtime,
        log=log,
        modalities=modalities,
        readers=readers,
        sources=sources,
        augments=augments,
        encodings=encodings,
        pristine=pristine,
        split=split,
        target=target,
        labels=labels,
        label_weights=_label_weights(config, target, labels, train, sample_weight),
        keys=row_keys(split.ids),
        ids=split.ids,
        groups=groups,
        units=units,
        store=store,
        folder=folder,
        key=_key(
            config,
            split,
            sources.values(),
            labels,
            None if units is groups or units is split.ids else units,
            sample_weight,
        ),
        resume=resume,
        sample_weight=sample_weight,
    )


def _check_several(modalities: Iterable[Modality], config: Config, log: Log) -> None:
    """Refuse settings that rows with several elements cannot follow, and say what becomes of others."""
    for modality in modalities:
        if not modality.several:
            continue
        name, kind = modality.name, modality.kind
        section = config.image if kind == "image" else config.text
        if section.train.mix.kind == "cutmix":
            raise ConfigError(
                f"{kind}.train.mix.kind cutmix pastes rectangles of one picture into another, and '{name}' has any "
                "number of pictures in a row; use mixup"
            )
        if section.several.pool == "attention" and config.strategy.level == "features":
            raise ConfigError(
                f"{kind}.several.pool attention is trained with the encoder, and with strategy.level features no "
                "encoder is trained; use mean or max"
            )
        if section.several.pool == "attention" and not section.train.epochs:
            log.warn(
                f"{name}: attention is trained with the encoder, and {kind}.train.epochs is 0: wherever the strategy "
                "does not train it otherwise, it is the mean"
            )


def reading_of(config: Config) -> Reading:
    """Return how images are read."""
    return Reading(config.data.workers, image_folder(config), config.store.images_gb)


def image_folder(config: Config) -> Path | None:
    """Return where decoded images are kept: beside the user's features, or within the folder that is given for both."""
    if not config.store.images:
        return None
    return expanded(config.store.folder) / "images" if config.store.folder else default_folder().with_name("images")


def _report_source(modality: Modality, source: Source, ids: pd.Series, config: Config, log: Log) -> None:
    name, pictures = modality.name, pictures_of(source)
    if source.problems:
        listing = listed(f"{ids.iloc[row]} ({text})" for row, text in source.problems.items())
        what = f"{len(source.problems):,} rows have cells in '{name}' that were not used"
        if pictures is not None:
            if config.data.unreadable == "error":
                raise_for_problems(source, ids, column=name)
            what = f"{len(source.problems):,} unreadable image(s) in '{name}' count as absent"
            if isinstance(source, BagSource):
                what = f"{len(source.problems):,} rows have unreadable images in '{name}' that count as absent"
        log.warn(f"{what}: {listing}")
    if isinstance(source, BagSource):
        pool = getattr(config, modality.kind).several.pool
        log.say(f"  {name}: {source.describe(modality.kind)}, pooled by {pool}")
    if pictures is not None:
        log.say(f"  {pictures.describe()}")
        if (several := pictures.note()) is not None:
            log.warn(several)
    if not source.present.any():
        raise TableError(f"input '{name}' is empty in every row; leave it out with --inputs")
    note = truncation_note(source, name)
    if note:
        log.warn(note)
    absent = int((~source.present).sum())
    if absent:
        log.say(f"  {name}: absent in {absent:,} of {len(ids):,} rows")


def _label_weights(
    config: Config, target: Target, labels: Truth, train: Rows, sample_weight: Weights | None
) -> Weights:
    """Return what each row weighs by its label, scaled to mean 1 over the training rows."""
    weights = target.weights(config, labels, train, sample_weight)
    return np.asarray(weights / weights[train].mean())


def _report_copies(copies: Codes | None, ids: pd.Series, log: Log) -> None:
    """Say so where so many rows hold copies of each other that no division can be as asked."""
    if copies is None or not (copies >= 0).any():
        return
    sizes = np.bincount(copies[copies >= 0])
    if sizes.max() > _LARGE * len(ids):
        rows = ids[copies == sizes.argmax()]
        log.warn(
            f"{len(rows):,} rows hold copies of one another, such as {listed(rows)}, and stay on one side of every "
            "division; if their picture is a placeholder, empty its cells"
        )


def _key(
    config: Config,
    split: Split,
    sources: Any,
    labels: Truth,
    units: pd.Series | None,
    sample_weight: Weights | None,
) -> str:
    """Hash what a training stage depends on; stage U is the same whatever strategy asks for it."""
    digest = hashlib.sha256()
    tree = config.model_dump(mode="json", exclude=NEUTRAL | {"strategy": True})
    digest.update(json.dumps(tree, sort_keys=True).encode())
    digest.update(split.hash.encode())
    digest.update(labels.tobytes())
    for source in sources:
        digest.update(source.digests.tobytes())
    if units is not None:  # rows that hold copies of each other were joined
        digest.update(row_keys(units).tobytes())
    if sample_weight is not None:
        digest.update(sample_weight.tobytes())
    return digest.hexdigest()
