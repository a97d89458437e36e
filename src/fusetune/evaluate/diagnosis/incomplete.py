"""What missing cells of a table cost: the protocol for incomplete tabular data of TIP (arXiv 2407.07582).

Cells of the modality of columns are set to missing at rates r from 0 to 0.9, in four ways; D is the number of columns.

- RVM, random values: every cell is missing independently with probability r.
- RFM, random features: the same random round(r D) columns are missing in all rows.
- MIFM, most important features: as RFM, the most important columns first.
- LIFM, least important features: the least important ones first.

Importance comes from a random forest fitted on training labels: the decrease of impurity, summed over what a column is
to the forest (a date is three numbers). Masks are drawn once and can be kept in a file, so that all compared methods
share them; they are nested, so that what is missing at one rate is missing at every higher one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from fusetune.augment.random import Moment, uniform
from fusetune.data.cells import MISSING, CellInput, CellSource
from fusetune.errors import TableError, listed
from fusetune.evaluate.diagnosis.asked import Asked, Diagnosed, as_it_is, plain_answers
from fusetune.evaluate.diagnosis.curves import Curve, curves, judged_rows
from fusetune.evaluate.measures import CLASSES, Measure
from fusetune.evaluate.metrics import FloatArray, IntArray
from fusetune.evaluate.modalities import RATES
from fusetune.files import written_aside
from fusetune.targets import Truth

VALUES, FEATURES, MOST, LEAST = "RVM", "RFM", "MIFM", "LIFM"
_TREES = 100


@dataclass(frozen=True, eq=False)
class CellMasks:
    """Which cells are missing in each way at each rate.

    Attributes:
        rows: Ids of the rows.
        columns: The table's columns.
        chance: One uniform number per cell: RVM takes those below the rate, float32 [rows, columns].
        orders: The columns in the order in which they go missing, by way (RFM; MIFM and LIFM with a forest).
        importance: Importance by column, summing to one; empty where there was nothing to fit a forest on.
        seed: What was drawn with.
    """

    rows: list[str]
    columns: list[str]
    chance: NDArray[np.float32]
    orders: dict[str, list[str]]
    importance: dict[str, float]
    seed: int

    @classmethod
    def draw(
        cls, rows: Sequence[str], keys: IntArray, columns: Sequence[str], importance: Mapping[str, float], seed: int
    ) -> CellMasks:
        """Draw masks as a function of the rows' keys, the columns' order and the seed.

        Args:
            rows: Ids of the rows.
            keys: Row keys, ``int64 [rows]``.
            columns: Names of the columns.
            importance: Importance by column; empty: MIFM and LIFM are left out.
            seed: The seed.
        """
        names = list(columns)
        chance = uniform(Moment(seed), torch.from_numpy(np.asarray(keys)), "missing cells", len(names)).numpy()
        orders = {FEATURES: [names[at] for at in np.random.default_rng(seed).permutation(len(names))]}
        if importance:
            # Equally important columns in the table's order, in both.
            orders[MOST] = sorted(names, key=lambda name: -importance[name])
            orders[LEAST] = sorted(names, key=lambda name: importance[name])
        return cls(list(rows), names, chance, orders, dict(importance), seed)

    @property
    def ways(self) -> list[str]:
        """The ways that there are masks for."""
        return [VALUES, *self.orders]

    def missing(self, way: str, rate: float) -> NDArray[np.bool_]:
        """Return which cells are missing, ``bool [rows, columns]``."""
        if way == VALUES:
            return np.asarray(self.chance < rate)
        gone = self.orders[way][: round(rate * len(self.columns))]
        return np.broadcast_to(np.isin(self.columns, gone), self.chance.shape).copy()

    def save(self, path: Path) -> None:
        """Write the masks as a Parquet file, whole or not at all.

        It has a row per row of the table with its id, and of each column the number below the rate from which on its
        cell is missing in RVM; seed, orders and importance are its metadata.
        """
        frame = pd.DataFrame(self.chance, columns=[f"cell {at}" for at in range(len(self.columns))])
        frame.insert(0, "row_id", self.rows)
        frame.attrs = {
            "columns": self.columns, "orders": self.orders, "importance": self.importance, "seed": self.seed,
        }  # fmt: skip
        with written_aside(path) as aside:
            frame.to_parquet(aside, index=False)

    @classmethod
    def load(cls, path: Path, rows: Sequence[str], columns: Sequence[str]) -> CellMasks:
        """Read what `save` wrote and line it up with rows by their ids.

        Raises:
            TableError: If it is no such file, or lacks rows or columns.
        """
        try:
            frame = pd.read_parquet(path)
            facts = dict(frame.attrs)
            masks = cls(
                frame["row_id"].tolist(), list(facts["columns"]), frame.drop(columns="row_id").to_numpy(np.float32),
                dict(facts["orders"]), dict(facts["importance"]), int(facts["seed"]),
            )  # fmt: skip
            sound = masks.chance.shape == (len(masks.rows), len(masks.columns)) and all(
                sorted(order) == sorted(masks.columns) for order in masks.orders.values()
            )
        except Exception as error:  # damaged files raise whatever the parser happens to raise
            raise TableError(f"{path} holds no masks of cells ({error}); choose a name that is free") from error
        if not sound:
            raise TableError(f"{path} holds no masks of cells: it contradicts itself; choose a name that is free")
        if set(masks.columns) != set(columns):
            raise TableError(f"{path} holds masks of other columns ({listed(masks.columns)}); choose another file")
        place = pd.Index(masks.rows)
        lacking = [row for row in rows if row not in place]
        if lacking or not place.is_unique:
            raise TableError(f"{path} has no mask of row(s) {listed(lacking)}; choose another file")
        at = place.get_indexer(pd.Index(list(rows)))
        across = [masks.columns.index(name) for name in columns]
        chance = masks.chance[at][:, across]
        return cls(list(rows), list(columns), chance, masks.orders, masks.importance, masks.seed)


def column_importance(
    fitted: CellInput,
    source: CellSource,
    rows: NDArray[np.int64],
    labels: Truth,
    seed: int,
    measure: Measure[Any] = CLASSES,
) -> dict[str, float]:
    """Return the importance of each column to a random forest, summing to one.

    Args:
        fitted: The columns' pre-processing.
        source: The cells.
        rows: Positions of the training rows.
        labels: Their labels.
        seed: Of the forest.
        measure: How answers are judged; it knows the forest that learns such labels.
    """
    numbers = [scale.column for scale in fitted.numbers]
    owners = numbers + numbers + [vocabulary.column for vocabulary in fitted.categories]
    x = np.concatenate([source.numbers[rows], source.missing[rows], source.codes[rows]], axis=1)
    # Imported here, since nothing else needs forests, and their import takes a while.
    forest = getattr(import_module("sklearn.ensemble"), measure.forest)(_TREES, random_state=seed, n_jobs=1)
    forest.fit(x, labels)
    shares = pd.Series(forest.feature_importances_).groupby(np.array(owners)).sum()
    return {name: float(shares[name]) for name in fitted.kinds}


def without_cells(fitted: CellInput, source: CellSource, missing: NDArray[np.bool_]) -> CellSource:
    """Return cells of which some are missing.

    Args:
        fitted: The columns' pre-processing.
        source: All cells.
        missing: ``bool [rows, columns]``, columns as in `fitted.kinds`.
    """
    at = {name: place for place, name in enumerate(fitted.kinds)}
    numbers = np.where(source.missing, np.float32(np.nan), source.numbers)
    numbers[missing[:, [at[scale.column] for scale in fitted.numbers]]] = np.nan
    gone = missing[:, [at[vocabulary.column] for vocabulary in fitted.categories]]
    return CellSource.of(numbers, np.where(gone, MISSING, source.codes))


def cells_of(model: Diagnosed) -> str | None:
    """Return the modality of columns that the network reads, or None."""
    return next((name for name in model.modalities if isinstance(model.readers[name].fitted, CellInput)), None)


@dataclass(frozen=True)
class Incomplete:
    """Missing cells of one modality.

    Attributes:
        modality: Its name.
        columns: How many it has.
        importance: Of each column, the most important first; empty where there were no training rows.
        seed: Of the masks.
        curves: One per way, over the missing rates.
    """

    modality: str
    columns: int
    importance: dict[str, float]
    seed: int
    curves: list[Curve]


def incomplete_columns(
    model: Diagnosed, name: str, asked: Asked, masks: CellMasks, *, resamples: int, seed: int
) -> Incomplete:
    """Judge some rows with missing cells; the encoders of all other modalities do not run.

    Args:
        model: The saved model.
        name: The modality of columns.
        asked: The rows.
        masks: Their masks, in the same order.
        resamples: Bootstrap samples behind each interval.
        seed: Of the resamples.
    """
    probe, fitted, measure = model.probe(asked), model.readers[name].fitted, asked.judged.measure
    assert isinstance(fitted, CellInput)
    y, right, lost = asked.judged.labels, {}, {}
    plain = plain_answers(probe)
    for way in masks.ways:
        masked = (masks.missing(way, rate) for rate in RATES[1:])
        versions = [_asked_without(model, name, fitted, asked, missing) for missing in masked]
        right[way], lost[way] = judged_rows([plain, *versions], y, measure)
    order = sorted(masks.importance.items(), key=lambda item: -item[1])
    found = curves(RATES, right, lost, y, asked.judged.groups, measure, resamples=resamples, seed=seed)
    return Incomplete(name, len(masks.columns), dict(order), masks.seed, found)


def _asked_without(
    model: Diagnosed, name: str, fitted: CellInput, asked: Asked, missing: NDArray[np.bool_]
) -> FloatArray:
    source: Any = asked.sources[name]
    gone = np.zeros((len(source.present), missing.shape[1]), dtype=bool)
    gone[asked.where] = missing
    fewer = without_cells(fitted, source, gone)
    (z,) = model.encode(name, asked, [as_it_is], "taking cells away", source=fewer)
    present = asked.judged.outputs.present | {name: torch.from_numpy(fewer.present[asked.where])}
    return model.probe(asked).again(present, {name: z})
