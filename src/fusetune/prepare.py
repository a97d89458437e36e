"""From a table and a configuration to everything that a strategy works with."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor

from fusetune.augment.own import Own, chosen, try_out
from fusetune.augment.safety import check_policy
from fusetune.config import Config
from fusetune.context import Context
from fusetune.data.bags import BagSource, pictures_of
from fusetune.data.images import Opener, Reading, raise_for_problems
from fusetune.data.infer import column_notes, spelling_notes
from fusetune.data.schema import Modality, Schema
from fusetune.data.source import Source
from fusetune.data.spelling import as_words, spellings, word_of
from fusetune.data.split import Codes, Rows, Split, group_words, joined, make_split
from fusetune.data.table import Table, row_keys
from fusetune.errors import ConfigError, TableError, did_you_mean, listed
from fusetune.features.store import Engine, FeatureStore, default_folder
from fusetune.files import cache_is_temporary, expanded
from fusetune.inputs import Reader, prepare_modality, truncation_note
from fusetune.progress import Log
from fusetune.runtime import Runtime

# A set of copies with more than this share of the rows is said.
_LARGE = 0.1
# Settings that change how fast or where a run happens, but not its result.
NEUTRAL = dict.fromkeys(
    ("device", "threads", "onnx", "store", "evaluate", "allow_download", "track", "track_to", "preset", "minutes"), True
) | {"data": {"workers": True}}


def class_list(table: Table, label: str, least: int = 2) -> list[Any]:
    """Return the classes, sorted, as plain Python values.

    Args:
        table: The table.
        label: Its label column.
        least: How many rows a class must have; two to train and judge.

    Raises:
        TableError: If a label is missing, all are equal, or a class has too few rows.
    """
    series = table.column(label)
    words = as_words(series)
    if words.isna().any():
        rows = listed(np.flatnonzero(words.isna().to_numpy()))
        raise TableError(
            f"label column '{label}' of {table.name} is empty in row(s) {rows}{table.empty(label)}; fill it in "
            "or drop them"
        )
    if pd.api.types.is_datetime64_any_dtype(series):
        raise TableError(f"label column '{label}' of {table.name} holds dates; make classes of them first")
    counts = words.value_counts()
    firsts = series[~words.duplicated()]
    values = [value.item() if hasattr(value, "item") else value for value in firsts.astype(object)]
    if len(counts) < 2:
        raise TableError(
            f"label column '{label}' of {table.name} is {values[0]!r} in every row: one class, nothing to learn"
        )
    if counts.min() < least:
        raise TableError(
            f"label column '{label}': {listed(counts[counts < least].index)} occur(s) in one row only, "
            "too few to train and judge; merge or drop such classes"
        )
    if len(counts) > 0.5 * len(series) and len(series) > 20:
        raise TableError(
            f"label column '{label}' has {len(counts):,} different values in {len(series):,} rows: that is no class "
            "label. Name another column, or make classes of the values first"
        )
    odd = [value for value in values if not isinstance(value, (str, int, float, bool))]
    if odd:
        raise TableError(
            f"label column '{label}' holds {odd[0]!r} of type {type(odd[0]).__name__}; labels are words, numbers or "
            "truth values: convert the column first"
        )
    if several := spellings(series)[0]:
        raise TableError(
            f"label column '{label}' holds several labels that read '{word_of(several[0][0])}' and differ in type, in "
            f"spaces at the ends or in invisible marks only ({listed(map(repr, several[0]))}); make them one"
        )
    if {type(value) for value in values} > {bool}:
        raise TableError(f"label column '{label}' holds truth values beside other labels; write all of them as words")
    try:
        return sorted(values)
    except TypeError:
        return sorted(values, key=str)


def split_rows(
    table: Table,
    schema: Schema,
    ids: pd.Series,
    labels: npt.NDArray[np.int64],
    config: Config,
    saved: Path | None,
    *,
    classes: Sequence[Any] | None = None,
    copies: Codes | None = None,
) -> Split:
    """Return the saved split, if there is one, or make it (`make_split`)."""
    if saved is not None and saved.exists():
        return Split.load(saved, ids)
    group, part, how = schema.named("group"), schema.named("split"), config.split
    if part is not None and how.how not in ("auto", "given"):
        raise ConfigError(f"column '{part}' gives the split, but split.how is '{how.how}'; leave out one of the two")
    return make_split(
        ids,
        labels,
        how=how.how,
        groups=None if group is None else table.column(group),
        parts=None if part is None else table.column(part),
        times=None if how.time is None else table.column(how.time),
        copies=copies,
        classes=classes,
        fractions=how.fractions,
        folds=how.folds,
        fold=how.fold,
        seed=config.seed,
    )


def prepare(
    table: Table,
    schema: Schema,
    split: Split,
    labels: npt.NDArray[np.int64],
    classes: list[Any],
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
    check_policy(config.image, config.image.policy if call is None else call.before, schema, log, classes, settled)
    for note in [*spelling_notes(table, schema), *column_notes(table, schema)]:
        log.warn(f"{note.kind}: {note.what}; {note.remedy}")
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
        labels=labels,
        classes=classes,
        class_weights=_class_weights(config, classes, labels[train]),
        keys=row_keys(split.ids),
        ids=split.ids,
        groups=groups,
        units=units,
        store=store,
        folder=folder,
        key=_key(config, split, sources.values(), labels, None if units is groups or units is split.ids else units),
        resume=resume,
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


def _class_weights(config: Config, classes: Sequence[Any], labels: Rows) -> Tensor:
    """Return the loss weight per class, scaled to mean 1 over the training rows."""
    counts = np.bincount(labels, minlength=len(classes)).astype(np.float64)
    match config.data.class_weights:
        case "none":
            weights = np.ones(len(classes))
        case "balanced":
            weights = 1 / np.maximum(counts, 1)
        case weight_of:
            names = [str(name) for name in classes]
            unknown = [name for name in weight_of if name not in names]
            if unknown:
                raise ConfigError(
                    f"data.class_weights: '{unknown[0]}' is no class{did_you_mean(unknown[0], names)}; "
                    f"the classes are {listed(names, 12)}"
                )
            weights = np.array([weight_of.get(name, 1.0) for name in names])
            if not np.isfinite(weights).all() or weights.min() < 0 or not (weights * counts).sum() > 0:
                raise ConfigError(
                    "data.class_weights must be finite and not negative, with at least one above 0 (classes that are "
                    f"not named get 1); got {weight_of}"
                )
    return torch.tensor(weights * counts.sum() / (weights * counts).sum(), dtype=torch.float32)


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


def _key(config: Config, split: Split, sources: Any, labels: Rows, units: pd.Series | None) -> str:
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
    return digest.hexdigest()
