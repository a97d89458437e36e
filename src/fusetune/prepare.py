"""From a table and a configuration to everything that a strategy works with."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
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
from fusetune.data.images import ImageSource, Reading, raise_for_problems
from fusetune.data.schema import Schema
from fusetune.data.source import Source
from fusetune.data.split import Rows, Split, make_split
from fusetune.data.table import Table, row_keys
from fusetune.errors import ConfigError, TableError, did_you_mean, listed
from fusetune.features.store import FeatureStore, default_folder
from fusetune.files import cache_is_temporary, expanded
from fusetune.inputs import Reader, prepare_modality, truncation_note
from fusetune.progress import Log
from fusetune.runtime import Runtime

# Settings that change how fast or where a run happens, but not its result.
NEUTRAL = dict.fromkeys(
    ("device", "threads", "onnx", "store", "evaluate", "allow_download", "track", "track_to"), True
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
    if series.isna().any():
        rows = listed(np.flatnonzero(series.isna().to_numpy()))
        raise TableError(f"label column '{label}' of {table.name} is empty in row(s) {rows}; fill it in or drop them")
    if pd.api.types.is_datetime64_any_dtype(series):
        raise TableError(f"label column '{label}' of {table.name} holds dates; make classes of them first")
    counts = series.value_counts()
    counts = counts[counts > 0]  # a categorical column also counts categories that no row has
    if len(counts) < 2:
        raise TableError(
            f"label column '{label}' of {table.name} is {counts.index[0]!r} in every row: one class, nothing to learn"
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
    values = [value.item() if hasattr(value, "item") else value for value in counts.index]
    odd = [value for value in values if not isinstance(value, (str, int, float, bool))]
    if odd:
        raise TableError(
            f"label column '{label}' holds {odd[0]!r} of type {type(odd[0]).__name__}; labels are words, numbers or "
            "truth values: convert the column first"
        )
    names = pd.Series([str(value).strip() for value in values])
    if names.duplicated().any():
        raise TableError(
            f"label column '{label}' holds several labels that read '{names[names.duplicated()].iloc[0]}' and differ "
            "in type or in spaces at the ends only; make them one"
        )
    try:
        return sorted(values)
    except TypeError:
        return sorted(values, key=str)


def split_rows(
    table: Table, schema: Schema, ids: pd.Series, labels: npt.NDArray[np.int64], config: Config, saved: Path | None
) -> Split:
    """Return the saved split, if there is one, or make it."""
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
    folder: Path,
    resume: bool,
    own: Own | None = None,
) -> Context:
    """Read all inputs, load all encoders, and return the context of a run.

    Raises:
        ImageError: If images cannot be read and `data.unreadable` is error.
        WeightsError: If an encoder's weights are not on this machine.
    """
    call = chosen(config.image.augment, own)
    if call is not None:
        try_out(call, config.image.size)
        if resume and not call.name:
            log.warn(f"image.augment: {call.label} has no name; nobody can tell whether the run began with it")
    check_policy(config.image, config.image.policy if call is None else call.before, schema, log, classes)
    train = split.rows("train")
    modalities, pristine = schema.modalities(), {}
    readers: dict[str, Reader] = {}
    sources: dict[str, Source] = {}
    reading = Reading(config.data.workers, image_folder(config), config.store.images_gb)
    for name, modality in modalities.items():
        readers[name], pristine[name] = prepare_modality(modality, table, schema, train, config, log)
        sources[name] = readers[name].bind(table, reading)
        _report_source(name, sources[name], split.ids, config, log)
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
    )
    group = schema.named("group")
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
        groups=None if group is None else table.column(group),
        store=store,
        folder=folder,
        key=_key(config, split, sources.values(), labels),
        resume=resume,
    )


def image_folder(config: Config) -> Path | None:
    """Return where decoded images are kept: beside the user's features, or within the folder that is given for both."""
    if not config.store.images:
        return None
    return expanded(config.store.folder) / "images" if config.store.folder else default_folder().with_name("images")


def _report_source(name: str, source: Source, ids: pd.Series, config: Config, log: Log) -> None:
    if isinstance(source, ImageSource) and source.problems:
        if config.data.unreadable == "error":
            raise_for_problems(source, ids)
        listing = listed(f"{ids.iloc[row]} ({text})" for row, text in source.problems.items())
        log.warn(f"{len(source.problems):,} unreadable image(s) in '{name}' count as absent: {listing}")
    if isinstance(source, ImageSource):
        log.say(f"  {source.describe()}")
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


def _key(config: Config, split: Split, sources: Any, labels: Rows) -> str:
    """Hash what a training stage depends on; stage U is the same whatever strategy asks for it."""
    digest = hashlib.sha256()
    tree = config.model_dump(mode="json", exclude=NEUTRAL | {"strategy": True})
    digest.update(json.dumps(tree, sort_keys=True).encode())
    digest.update(split.hash.encode())
    digest.update(labels.tobytes())
    for source in sources:
        digest.update(source.digests.tobytes())
    return digest.hexdigest()
