"""A trained model as users hold it: predict, judge, and say which rows could not be read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd

from fusetune.config import Config
from fusetune.context import Context
from fusetune.data.images import ImageInput
from fusetune.data.kinds import Kind
from fusetune.data.schema import Schema
from fusetune.data.source import Source
from fusetune.data.split import Rows
from fusetune.data.table import Table, read_table, row_keys
from fusetune.errors import SchemaError, TableError, did_you_mean, listed
from fusetune.evaluate import score_with_intervals
from fusetune.evaluate.analysis import analyse
from fusetune.evaluate.attribution import explain_row
from fusetune.evaluate.calibration import Calibration, Judged
from fusetune.evaluate.explain import Explanation
from fusetune.evaluate.modalities import Probe
from fusetune.evaluate.temperature import softmax
from fusetune.inputs import Reader
from fusetune.networks import Network, Outputs
from fusetune.networks.run import outputs_of
from fusetune.runtime import Runtime, find_runtime

P = ParamSpec("P")
T = TypeVar("T")


def _applied(method: Callable[Concatenate[Model, P], T]) -> Callable[Concatenate[Model, P], T]:
    """Compute with the threads of the model's runtime within a method, and leave the caller's as they were."""

    @wraps(method)
    def run(model: Model, /, *args: P.args, **kwargs: P.kwargs) -> T:
        with model.runtime.applied():
            return method(model, *args, **kwargs)

    return run


@dataclass
class Model:
    """A fused classifier with everything that it needs to read a table.

    Attributes:
        network: Encoders and what is made of their features, frozen.
        readers: Fitted pre-processing by modality.
        schema: The columns that it was trained on.
        classes: The labels, in the order of the probabilities.
        config: The configuration that it was trained with.
        seen: Digests of the inputs of all rows that it was trained or chosen on, uint64.
        calibration: What was learnt about it on validation rows: its temperature, prediction sets, threshold.
    """

    network: Network
    readers: dict[str, Reader]
    schema: Schema
    classes: list[Any]
    config: Config
    runtime: Runtime
    seen: npt.NDArray[np.uint64] = field(default_factory=lambda: np.zeros(0, dtype=np.uint64))
    calibration: Calibration = field(default_factory=Calibration)

    @classmethod
    def of(cls, ctx: Context, network: Network, schema: Schema) -> Model:
        """Return the model of a network that was trained in a run, not yet calibrated."""
        learnt = np.concatenate([ctx.split.rows("train"), ctx.split.rows("valid")])
        seen = np.unique(row_digests(ctx.sources, len(ctx.ids))[learnt])
        return cls(network, ctx.readers, schema, ctx.classes, ctx.config, ctx.runtime, seen)

    def predict(self, table: str | Path | pd.DataFrame) -> pd.Series:
        """Return the most probable label per row, in the table's order.

        Raises:
            SchemaError: If an input column is missing or of another kind.
        """
        return self.predict_table(table)["prediction"]

    @_applied
    def predict_proba(self, table: str | Path | pd.DataFrame) -> pd.DataFrame:
        """Return probabilities [rows, classes], columns named by the labels, with the table's order and index."""
        rows = read_table(table)
        outputs, _, _ = self._judged(rows)
        probabilities = self._certainty(outputs)
        return pd.DataFrame(probabilities, columns=pd.Index(self.classes), index=rows.index)

    @_applied
    def predict_table(self, table: str | Path | pd.DataFrame) -> pd.DataFrame:
        """Return one line per row: row_id, prediction, probability, p(<label>) for each label, and problem.

        A row with an unreadable image is predicted from what else it has, and `problem` says so. So is every row where
        the table lacks all columns of an input. The index is that of the DataFrame, if one was given.
        """
        rows = read_table(table)
        outputs, problems, _ = self._judged(rows)
        probabilities = self._certainty(outputs)
        top = probabilities.argmax(1)
        result = pd.DataFrame(
            {
                "row_id": self._ids(rows).to_numpy(),
                "prediction": [self.classes[i] for i in top],
                "probability": probabilities.max(1),
            }
        )
        shares = pd.DataFrame(probabilities, columns=[f"p({label})" for label in self.classes])
        whole = pd.concat([result, shares, pd.Series(problems, name="problem", dtype="str")], axis=1)
        return whole if rows.index is None else whole.set_axis(rows.index)

    @_applied
    def evaluate(self, table: str | Path | pd.DataFrame) -> dict[str, Any]:
        """Judge the model on a labelled table.

        Returns:
            rows, groups (or None), unreadable (rows with an input that is absent or could not be read), seen (rows with
            the inputs of a row that the model was made from, whose scores say nothing about new rows), every metric as
            value, low, high of its 95 % interval, and an `evaluate.analysis.Analysis`: subsets of modalities, missing
            inputs, prediction sets and so on.

        Raises:
            TableError: If the label column is absent, empty in a row, or holds a label the model does not know.
        """
        data = read_table(table)
        label, group = self.schema.named("label"), self.schema.named("group")
        labels = encode_labels(data, str(label), self.classes)
        groups = data.frame[group] if group in data.frame.columns else None
        outputs, problems, digests = self._judged(data)
        member = None if groups is None else groups.to_numpy()
        rows = Judged(outputs, labels, row_keys(self._ids(data)), member)
        how = {"resamples": self.config.evaluate.resamples, "seed": self.config.seed}
        scores = score_with_intervals(self._certainty(outputs), labels, member, **how)
        analysis = analyse(self.network, self.config.strategy.name, self.calibration, rows, self.classes, {}, **how)
        return {
            "rows": len(labels),
            "groups": None if groups is None else int(groups.nunique()),
            "unreadable": sum(bool(p) for p in problems),
            "seen": int(np.isin(digests, self.seen).sum()),
            **{name: interval.as_dict() for name, interval in scores.items()},
            **analysis.as_dict(),
        }

    @_applied
    def explain(self, table: str | Path | pd.DataFrame, row: str) -> Explanation:
        """Return why one row is decided as it is: shares of the modalities, and effects of regions, words and cells.

        Args:
            table: The table, as for `predict`.
            row: The row's id, or its number where the table has no ids.

        Raises:
            TableError: If there is no such row.
            SchemaError: If an input column is missing or of another kind.
        """
        rows, _ = self._with_empty_inputs(read_table(table))
        self.schema.check(rows)
        ids = self._ids(rows).astype("str")
        places = np.flatnonzero((ids == str(row)).to_numpy())
        if not len(places):
            raise TableError(f"{rows.name} has no row '{row}'{did_you_mean(str(row), ids.tolist())}")
        one = replace(rows, frame=rows.frame.iloc[places[:1]].reset_index(drop=True), index=None)
        sources = self.bind(one)
        probe = Probe(self.network, self.outputs(sources, np.arange(1)), self.calibration.temperature)
        return explain_row(probe, self.readers, sources, one, name=str(row), classes=self.classes)

    def outputs(self, sources: Mapping[str, Source], rows: Rows, description: str = "predicting") -> Outputs:
        """Return features, unimodal and fused logits of some rows, on CPU (see `networks.run.outputs_of`).

        Args:
            sources: Bound inputs by modality.
            rows: Row positions.
            description: What the progress bar says.
        """
        how: dict[str, Any] = {"config": self.config, "runtime": self.runtime, "description": description}
        return outputs_of({"": self.network}, self.readers, sources, rows, **how)[""]

    def bind(self, table: Table) -> dict[str, Source]:
        """Return the sources of a table, by modality."""
        return {name: reader.bind(table) for name, reader in self.readers.items()}

    def confined(self) -> Model:
        """Return the same model, reading no image but files within a table's folder: for tables of strangers."""
        readers = {
            name: replace(reader, fitted=reader.fitted.model_copy(update={"outside": "refuse"}))
            if isinstance(reader.fitted, ImageInput)
            else reader
            for name, reader in self.readers.items()
        }
        return replace(self, readers=readers)

    def _certainty(self, outputs: Outputs) -> npt.NDArray[np.float64]:
        """Return calibrated probabilities."""
        return softmax(outputs.f.double().numpy(), self.calibration.temperature)

    def _judged(self, table: Table) -> tuple[Outputs, list[str], npt.NDArray[np.uint64]]:
        """Return what the network says, what is wrong, and digests of the inputs per row."""
        table, lacking = self._with_empty_inputs(table)
        self.schema.check(table)
        sources = self.bind(table)
        outputs = self.outputs(sources, np.arange(len(table)))
        problems = row_problems(sources, len(table))
        note = "; ".join(f"{name}: not in the table" for name in lacking)
        problems = ["; ".join(filter(None, (note, text))) for text in problems]
        return outputs, problems, row_digests(sources, len(table))

    def _with_empty_inputs(self, table: Table) -> tuple[Table, list[str]]:
        """Give a table empty columns for every input that it lacks as a whole, unless it lacks all of them."""
        inputs, there = self.schema.modalities(), list(table.frame.columns)
        lacking = [
            name
            for name, modality in inputs.items()
            # A column of nearly the same name is more likely a slip than an input left out on purpose.
            if not any(column in there or did_you_mean(column, there) for column in modality.columns)
        ]
        if not lacking or len(lacking) == len(inputs):
            return table, []
        absent = [column for name in lacking for column in inputs[name].columns]
        numbers = {c.name for c in self.schema.columns if c.kind is Kind.NUMBER}
        empty = {
            column: np.nan if column in numbers else pd.Series([None] * len(table), dtype="str") for column in absent
        }
        frame = table.frame.copy(deep=False)
        for column, cells in empty.items():
            frame[column] = cells
        return replace(table, frame=frame), lacking

    def _ids(self, table: Table) -> pd.Series:
        name = self.schema.named("id")
        usable = name in table.frame.columns and table.frame[name].is_unique and not table.frame[name].isna().any()
        return table.ids(name if usable else None)


def row_digests(sources: Mapping[str, Source], rows: int) -> npt.NDArray[np.uint64]:
    """Return a digest of all inputs of each row: equal inputs, equal digests."""
    digests = np.zeros(rows, dtype=np.uint64)
    for source in sources.values():
        digests = digests * np.uint64(0x9E3779B97F4A7C15) + np.where(source.present, source.digests, np.uint64(0))
    return digests


def row_problems(sources: Mapping[str, Source], rows: int) -> list[str]:
    """Return what is wrong with each row, empty where nothing is."""
    problems = [""] * rows
    for name, source in sources.items():
        for row, text in source.problems.items():
            problems[row] = f"{problems[row]}; {name}: {text}".lstrip("; ")
    bare = ~np.any([source.present for source in sources.values()], axis=0)
    for row in map(int, np.flatnonzero(bare)):
        problems[row] = f"{problems[row]}; no input is present, only class frequencies are left".lstrip("; ")
    return problems


def encode_labels(table: Table, label: str, classes: list[Any]) -> npt.NDArray[np.int64]:
    """Return class indices of the label column.

    Raises:
        TableError: If a label is missing or not among the classes.
    """
    series = table.column(label)
    # By value first (1.0 is 1), then by spelling ("1" is 1): a later table may hold the labels as another type.
    codes = {str(value): index for index, value in enumerate(classes)} | {v: i for i, v in enumerate(classes)}
    codes_of_rows = series.map(
        lambda value: codes.get(value, codes.get(str(value), -1)) if pd.notna(value) else -2
    ).to_numpy().astype(np.int64)  # fmt: skip
    if (codes_of_rows == -2).any():
        raise TableError(
            f"label column '{label}' is empty in row(s) {listed(np.flatnonzero(codes_of_rows == -2))}; fill it in"
        )
    if (codes_of_rows == -1).any():
        unknown = series[codes_of_rows == -1].unique()
        raise TableError(f"label column '{label}' holds {listed(unknown)}; the model knows {listed(classes, 12)}")
    return codes_of_rows


def rebuild(
    network: Network,
    readers: dict[str, Reader],
    schema: Schema,
    classes: list[Any],
    config: Config,
    seen: npt.NDArray[np.uint64],
    calibration: Calibration,
) -> Model:
    """Put a loaded network on the best device here, whatever it was trained on."""
    runtime = find_runtime(config.model_copy(update={"device": "auto", "threads": None}))
    missing = [name for name in schema.modalities() if name not in readers]
    if missing:
        raise SchemaError(f"the model has no pre-processing for {listed(missing)}")
    return Model(network.to(runtime.device), readers, schema, classes, config, runtime, seen, calibration)
