"""A trained model as users hold it: predict, judge, and say which rows could not be read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt
import pandas as pd

from fusetune.answering import applied, row_digests
from fusetune.answers import NO_REFERENCE, Extras, as_table
from fusetune.config import Config
from fusetune.context import Context
from fusetune.data.choices import By, OnProblem
from fusetune.data.dataset import Dataset
from fusetune.data.images import ImageInput
from fusetune.data.problems import Problems, ids_with_notes
from fusetune.data.schema import Schema
from fusetune.data.table import Table, TableLike, read_index
from fusetune.display import card
from fusetune.errors import SchemaError, TableError, UserError, did_you_mean, listed
from fusetune.evaluate.attribution import explain_row
from fusetune.evaluate.calibration import Calibration
from fusetune.evaluate.drift import Drift, Tally
from fusetune.evaluate.modalities import Probe
from fusetune.evaluate.reference import Reference
from fusetune.inputs import Reader
from fusetune.judging import Judging
from fusetune.networks import Network
from fusetune.realtime import accelerate, some_row
from fusetune.report.explained import Explained
from fusetune.runtime import find_runtime
from fusetune.space import check_neighbours, features_of, neighbours_of
from fusetune.targets import Target
from fusetune.version import VERSION


@dataclass(repr=False)
class Model(Judging):
    """A fused classifier with everything that it needs to read a table.

    Its attributes are those of `Answering`.
    """

    @classmethod
    def of(cls, ctx: Context, network: Network, schema: Schema, calibration: Calibration) -> Model:
        """Return the model of a network that was trained in a run."""
        learnt = np.concatenate([ctx.split.rows("train"), ctx.split.rows("valid")])
        seen = np.unique(row_digests(ctx.sources, len(ctx.ids))[learnt])
        return cls(network, ctx.readers, schema, ctx.target, ctx.config, ctx.runtime, seen, calibration)

    def predict(self, table: TableLike, on_problem: OnProblem = "warn") -> pd.Series:
        """Return the label of each row as `rule` decides it, in the table's order; of gathered rows one for each id.

        Args:
            table: A file (see `fit`), or a table in memory, whose relative paths start from the working folder.
            on_problem: What becomes of cells that cannot be used, such as unreadable pictures or numbers that are none.
                They count as absent, as do columns that the table lacks. `warn`: an `InputWarning` counts them;
                `raise`: they are an error; `mask`: nothing is said.

        Raises:
            SchemaError: If an input column is of another kind, all are missing, or one has another name by a slip.
            ImageError: If an image column has several pictures and none can be read, unless `on_problem` is `mask`.
            TableError: If a row has a problem and `on_problem` is `raise`.
            RunError: If the model gives no finite probability for a row.
        """
        data = self.opened(table)
        answers = [self.measure.answers(piece.p, self.rule) for piece in self.said(data, on_problem)]
        return pd.Series([one for some in answers for one in some], name="prediction", index=_index(data))

    def predict_proba(self, table: TableLike, on_problem: OnProblem = "warn") -> pd.DataFrame:
        """Return probabilities [rows, classes], columns named by the labels, with the table's order and index.

        Arguments and errors are those of `predict`.

        Raises:
            UserError: If a number is predicted.
        """
        if not self.measure.chances:
            raise UserError("this model predicts a number, which has no probabilities; ask for predict, or intervals")
        data = self.opened(table)
        probabilities = np.concatenate([piece.p for piece in self.said(data, on_problem)])
        return pd.DataFrame(probabilities, columns=pd.Index(self.classes), index=_index(data))

    def predict_table(
        self,
        table: TableLike,
        on_problem: OnProblem = "warn",
        *,
        by: By = "judged",
        sets: float | None = None,
        margin: float | None = None,
        unlike: bool = False,
    ) -> pd.DataFrame:
        """Return one line per row: row_id, prediction, its probability, p(<label>) for each label, and problem.

        A row with an unreadable image is predicted from what else it has, and `problem` says so. So is every row where
        the table lacks a column. The index is that of the DataFrame, if one was given. `row_id` is what the table says,
        also where ids are repeated or empty, which is warned of; row numbers stand for ids only where there is no such
        column.

        Args:
            table: As for `predict`.
            on_problem: As for `predict`, but only columns that are not there, or of which most cells are of no use, are
                warned of.
            by: `judged`: as `rule` decides; `most-probable`: by the most probable class whatever the threshold.
            sets: Coverage, such as 0.9: also `set`, a JSON list of the classes that hold the label of a new row so
                often (conformal prediction; rows with the same inputs have thresholds of their own; with groups the
                promise is about a row of a new group), and `set_size`.
            margin: Also `margin`, how far a row is from another decision (0 to 1), and `abstain`, whether it is less
                than this.
            unlike: Also as_far(<input>) for each input, the share of rows that the model was not trained on which are
                at least as far from training rows, and `unlike`, the inputs of which that is at most 0.01, in words.

        Raises:
            UserError: If `sets` or `margin` is out of range, or the model does not keep what is asked for.
        """
        pieces = list(self.predict_pieces(table, on_problem, by=by, sets=sets, margin=margin, unlike=unlike))
        whole = pd.concat(pieces, ignore_index=True)
        index = None if self.schema.gather is not None else read_index(table)
        return whole if index is None else whole.set_axis(index)

    def predict_pieces(
        self,
        table: TableLike | Table | Dataset,
        on_problem: OnProblem = "warn",
        *,
        by: By = "judged",
        sets: float | None = None,
        margin: float | None = None,
        unlike: bool = False,
        tally: Tally | None = None,
    ) -> Iterator[pd.DataFrame]:
        """Yield the lines of `predict_table` in pieces: held are its cells, and pictures and lines of one piece.

        Of Parquet files and datasets of pyarrow, the cells of one piece are held, too, unless how a column is written
        shows in the whole of it only (`data.apart`). Warnings and most errors come with the last piece.

        Args:
            table: As for `predict`, a `Table` or a `Dataset`.
            on_problem: As for `predict_table`.
            by: As for `predict_table`.
            sets: As for `predict_table`.
            margin: As for `predict_table`.
            unlike: As for `predict_table`.
            tally: Gathers what `drift_of` needs.
        """
        extras = Extras(by, sets, margin, unlike)
        extras.check(self.calibration, self.reference, self.measure)
        data = self.taken(table) if isinstance(table, Table) else self.opened(table)
        likeness = {} if self.reference is None else self.reference.likeness
        for said in self.said(data, on_problem, extras, tally, listing=True):
            yield as_table(said, self.measure, self.calibration, extras, likeness)

    def accelerate(self) -> dict[str, str]:
        """Let ONNX Runtime do what pretrained encoders do, where it is installed: rows are answered in half the time.

        It takes seconds, which pay for who asks for few rows at a time, as `fusetune serve` does. On the CPU only.
        Probabilities may differ in the fifth digit.

        Returns:
            Why an encoder was left as it was, by input; empty where none was.
        """
        return accelerate(self, lambda: self.predict(some_row(self.schema), "mask"))

    def features(self, table: TableLike, on_problem: OnProblem = "warn") -> dict[str, pd.DataFrame]:
        """Return what the model's encoders say of each row: the features that its head decides by.

        Args:
            table: As for `predict`.
            on_problem: As for `predict`.

        Returns:
            Input -> a DataFrame of float32 [rows, dim], with the table's order and index and columns `<input>_0`,
            `<input>_1` and so on: the features of all encoders of the input side by side, as they are after
            fine-tuning, not scaled. NaN where a row lacks the input. Random views at prediction are left out.

        Raises:
            TableError: And other errors, as for `predict`.
        """
        data = self.taken(table)
        return features_of(self.said(data, on_problem), data.index)

    def neighbours(self, table: TableLike, count: int = 5, on_problem: OnProblem = "warn") -> pd.DataFrame:
        """Return the training rows that are nearest to each row, by input.

        They are looked up among those that the model keeps (`evaluate.reference`, 300 of the training part by default),
        in the features of its encoders, each divided by its deviation and projected as for
        `predict_table(unlike=True)`. A training row that is among these finds itself, at a distance of about 0.

        Args:
            table: As for `predict`.
            count: How many, per row and input.
            on_problem: As for `predict`.

        Returns:
            A line per row, input that the row has, and neighbour, the nearest first: row_id, input, rank (from 1),
            neighbour (the training row's id, a word), distance (comparable within an input).

        Raises:
            UserError: If the model keeps no ids of training rows, or fewer than `count`; others as for `predict`.
        """
        reference = check_neighbours(self.reference, count)
        return neighbours_of(self.said(self.taken(table), on_problem), reference, count)

    def drift(self, table: TableLike, on_problem: OnProblem = "warn") -> Drift:
        """Return how a whole table differs from the training part: by column, by modality and in what is decided.

        Arguments and errors are those of `predict`.

        Raises:
            UserError: If the model keeps nothing of its training part.
        """
        tally, data = self.tally(), self.taken(table)
        for _ in self.said(data, on_problem, tally=tally):
            pass
        return self.drift_of(tally, data)

    def tally(self) -> Tally:
        """Return what `predict_pieces` fills for `drift_of`; raises `UserError` as `drift` does."""
        if self.reference is None:
            raise UserError(NO_REFERENCE)
        return Tally(self.classes)

    def drift_of(self, tally: Tally, table: Table) -> Drift:
        """Return the drift of a table of which all rows were predicted."""
        if self.reference is None:
            raise UserError(NO_REFERENCE)
        data, _ = self.read(self.taken(table))
        return tally.drift(data, self.schema, self.reference.profile, self.reference.likeness)

    def __repr__(self) -> str:
        inputs = [f"{name} ({modality.kind})" for name, modality in self.schema.modalities().items()]
        classes = listed([str(name) for name in self.classes])
        how = f"{self.config.strategy.name}; decides by {self.rule.words}"
        return f"Model({self.schema.named('label')}: {classes}; from {listed(inputs)}; {how})"

    def _repr_html_(self) -> str:
        """Return what notebooks show: what it predicts, from what, and by which rule."""
        facts = {
            "classes": listed([str(name) for name in self.classes], 12),
            "strategy": self.config.strategy.name,
            "decides by": self.rule.words,
        }
        for name, modality in self.schema.modalities().items():
            of = "" if modality.columns == (name,) else f": {listed(modality.columns, 8)}"
            facts[f"input {name}"] = f"{modality.kind}{of}"
        return card(f"Model of {self.schema.named('label')}", facts)

    @applied
    def explain(self, table: TableLike, row: str | int | None = None, on_problem: OnProblem = "warn") -> Explained:
        """Return why one row is decided as it is: shares of the modalities, and effects of regions, words and cells.

        `show()` of what is returned shows it as a page, `save(path)` writes that.

        Args:
            table: The table, as for `predict`.
            row: The row's id, or its number from 0 where no id is a number; may be left out of a table of one row.
            on_problem: What becomes of cells of this row that cannot be used, as for `predict`.

        Raises:
            TableError: If there is no such row, or more than one.
            SchemaError: If an input column is missing or of another kind.
        """
        data = self.taken(table)
        place, name = self._place(data, None if row is None else str(row))
        one, lacking = self.read(data, np.array([place]))
        one = replace(one, index=None)
        sources = self.bind(one)
        Problems.of(one, self.schema.modalities(), sources, lacking, place).tell(one, on_problem, listing=False)
        outputs = self.outputs(sources, np.arange(1))
        self.certainty(outputs, one.name, place)  # refuses what is not finite
        probe = Probe(self.network, outputs, self.calibration.temperature, self.rule.decide, self.measure)
        explanation = explain_row(probe, self.readers, sources, one, name=name, classes=self.classes)
        facts = {
            "Model": f"{self.schema.named('label')} by {self.config.strategy.name}",
            "Table": data.name,
            "Decided by": self.rule.words,
            "Made": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC by fusetune {VERSION}",
        }
        return Explained.of(explanation, facts)

    def confined(self) -> Model:
        """Return the same model, reading no image but files within a table's folder: for tables of strangers."""
        readers = {
            name: replace(reader, fitted=reader.fitted.model_copy(update={"outside": "refuse"}))
            if isinstance(reader.fitted, ImageInput)
            else reader
            for name, reader in self.readers.items()
        }
        return replace(self, readers=readers)

    def _place(self, table: Table, row: str | None) -> tuple[int, str]:
        """Return the position of the row of this id, and the id; None stands for the only row.

        A number may also be a place, from 0, but only where no id is a number: a slip in one must not name another row.
        """
        ids, _ = ids_with_notes(table, self.schema.named("id"))
        if row is None:
            if len(table) > 1:
                raise UserError(f"{table.name} has {len(table):,} rows: say which one to explain, by its id")
            return 0, str(ids.fillna("").iloc[0])
        places = np.flatnonzero((ids == row).to_numpy(dtype=bool, na_value=False))
        if not len(places):
            column, known = self.schema.named("id"), ids.dropna().tolist()
            if row in map(str, range(len(table))) and not any(name.strip().isdecimal() for name in known):
                return int(row), str(ids.fillna("").iloc[int(row)])
            named = f"column '{column}'" if column in table.frame.columns else "their numbers, from 0"
            there = f"; rows are called by {named}: {listed(known)}"
            raise TableError(f"{table.name} has no row '{row}'{did_you_mean(row, known)}{there}")
        if len(places) > 1:
            raise TableError(f"'{row}' is the id of rows {listed(places)} of {table.name}; leave one of them in")
        return int(places[0]), row


def _index(data: Table | Dataset) -> pd.Index | None:
    return data.index if isinstance(data, Table) else None


def rebuild(
    network: Network,
    readers: dict[str, Reader],
    schema: Schema,
    target: Target,
    config: Config,
    seen: npt.NDArray[np.uint64],
    calibration: Calibration,
    reference: Reference | None,
) -> Model:
    """Put a loaded network on the best device here, whatever it was trained on."""
    runtime = find_runtime(config.model_copy(update={"device": "auto", "threads": None}))
    missing = [name for name in schema.modalities() if name not in readers]
    if missing:
        raise SchemaError(f"the model has no pre-processing for {listed(missing)}")
    return Model(network.to(runtime.device), readers, schema, target, config, runtime, seen, calibration, reference)
