"""The real data sets of the benchmarks: how each is fitted, and what its result is compared with.

References are logistic regression on frozen features (EfficientNet-Lite2 and MiniLM; for rosmap the average of three
logistic regressions), as given with the data. Every choice behind the settings below was made on validation rows.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt

from fusetune.config import Config
from fusetune.context import Context
from fusetune.data.infer import infer_schema
from fusetune.data.roles import Roles
from fusetune.data.schema import Schema
from fusetune.data.split import PART_WORDS, Rows
from fusetune.data.table import Table, read_table
from fusetune.errors import UserError
from fusetune.evaluate.temperature import softmax
from fusetune.prepare import prepare, split_rows
from fusetune.progress import Log
from fusetune.runtime import start_runtime
from fusetune.strategies import strategy_of
from fusetune.strategies.base import held_by
from fusetune.targets import Classification

DATA = Path(os.environ.get("FUSETUNE_DATA", "../shared/data"))


# Does it run? Each kind of input by name, for a case may have said how long it is trained; and with what `make env`
# installs.
QUICK = (
    "train.epochs=0", "image.train.epochs=0", "text.train.epochs=0", "text.encoder=all-MiniLM-L6-v2", "views=1",
)  # fmt: skip


# Of the settings of a case, those that say how inputs are read; the others say how encoders are trained.
READING = ("image.spacing", "image.background", "image.encode_size", "image.augment", "vector.augment")


@dataclass(frozen=True)
class Case:
    """One data set: how to fit it and what to compare with."""

    folder: str
    label: str
    reference: str
    goal: str
    options: dict[str, Any] = field(default_factory=dict)
    sets: tuple[str, ...] = ()

    @property
    def reading(self) -> list[str]:
        """Those of its settings that say how inputs are read."""
        return [one for one in self.sets if one.startswith(READING)]


CASES = {
    "medpix2": Case(
        "medpix2",
        "label",
        "79.0 % / .60",
        ">= 88 % / <= .45",
        {"inputs": ["image", "history", "age", "sex"], "group": "uid", "split": "split"},
        # Frozen: on 600 cases, fine-tuning a sentence encoder gave nothing.
        ("text.encoder=all-mpnet-base-v2", "text.train.epochs=0", "text.augment.drop=0"),
    ),
    "hc18": Case(
        "hc18_trimester",
        "label_hc_quartile",
        "65.6 % / .80",
        ">= 80 %",
        {"inputs": ["image", "pixel_size_mm"], "group": "subject", "split": "split"},
        (
            "image.spacing=pixel_size_mm",
            "image.background=0",
            "image.augment=scan",
            "image.encode_size=160",
            "image.train.epochs=12",
        ),
    ),
    "flipkart": Case(
        "flipkart_1050",
        "label",
        "92.4 % / .32",
        ">= 96 %",
        {"inputs": ["image", "text", "retail_price", "discounted_price", "brand"], "split": "split"},
        # Frozen: on 800 photographs, a fine-tuned image encoder was worse on held-out folds than an untouched one and
        # would be undone; the text encoder as for medpix2.
        ("text.encoder=all-mpnet-base-v2", "text.train.epochs=0", "text.augment.drop=0", "image.train.epochs=0"),
    ),
    "rosmap": Case(
        "rosmap",
        "label",
        "86.8 %",
        ">= 88 % (mean of 5 seeds)",
        {"vectors": {name: f"{name}__*" for name in ("mrna", "meth", "mirna")}, "split": "split"},
        ("vector.augment.corrupt=0", "views=1", "head.inputs=logits"),
    ),
}


@contextmanager
def opened(
    name: str, sets: Sequence[str], seed: int, inputs: list[str] | None = None, outer: bool = False
) -> Iterator[tuple[Context, Schema]]:
    """Prepare a data set as `fusetune.fit` would; its test part stays locked, and nothing is kept but the store.

    Args:
        name: Which case.
        sets: KEY=VALUE settings, above those of the case.
        seed: The run's seed.
        inputs: Columns to use instead of the case's.
        outer: Leave the test part out; the validation part takes its place, and some of the training rows its.
    """
    case = CASES[name]
    config = Config.build({"seed": seed}, sets=[*case.sets, *sets])
    options = case.options | ({"inputs": inputs} if inputs else {})
    table = read_table(DATA / case.folder / "manifest.csv")
    if outer:
        table = _one_part_less(table, case.options["split"])
    with prepared(table, case.label, options, config) as found:
        yield found


def _one_part_less(table: Table, split: str) -> Table:
    parts = table.frame[split].map(PART_WORDS)
    if "valid" not in set(parts):
        raise SystemExit(f"{table.name} names no validation rows that could take the place of its test part")
    frame = table.frame.assign(**{split: parts.replace({"valid": "test"})})[parts != "test"]
    return Table(frame.reset_index(drop=True), table.name, table.root)


@contextmanager
def prepared(table: Table, label: str, options: dict[str, Any], config: Config) -> Iterator[tuple[Context, Schema]]:
    """Prepare a table as `fusetune.fit` would, up to the first training step.

    Args:
        table: The table.
        label: Its label column.
        options: More of `Roles`.
        config: The settings.
    """
    schema = infer_schema(table, Roles(label, **options))
    table = schema.read(table)
    split, target, labels = split_rows(table, schema, Classification.learn(table, label), config)
    runtime, log = start_runtime(config), Log(None, quiet=True)
    with TemporaryDirectory() as folder:
        ctx = prepare(table, schema, split, target, labels, config, runtime, log, Path(folder), False)
        yield ctx, schema


def fitted_on(
    level: Context, names: Sequence[str], rows: Rows, **vector: Any
) -> Iterator[tuple[str, npt.NDArray[np.float64]]]:
    """Fit strategies on stored features and yield what each says of some rows; those that do not apply are named.

    Args:
        level: A run on features, its test part open where `rows` are of it.
        names: The strategies.
        rows: Row positions.
        vector: How small networks are trained (`vector.train`), where not by default.
    """
    for name in names:
        own = {"strategy": {"name": name, "level": "features"}, "vector": {"train": vector}}
        strategy, settings = strategy_of(Config.build(own))
        try:
            fitted = strategy.fit(level, settings)
        except UserError as error:
            print(f"{name}: left out, {error}", flush=True)
            continue
        yield name, softmax(held_by(level, fitted.network, rows).f.double().numpy())
