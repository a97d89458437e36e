"""A trained model as users hold it: predict, judge, and say which rows could not be read."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
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
from fusetune.data.problems import OnProblem, Problems, ids_with_notes
from fusetune.data.schema import Schema
from fusetune.data.source import Source
from fusetune.data.spelling import as_words, word_of
from fusetune.data.split import Rows, group_words
from fusetune.data.table import Table, read_table, row_keys, with_columns
from fusetune.errors import InputWarning, RunError, SchemaError, TableError, UserError, did_you_mean, listed
from fusetune.evaluate import score_with_intervals
from fusetune.evaluate.analysis import analyse
from fusetune.evaluate.attribution import explain_row
from fusetune.evaluate.calibration import Calibration, Judged
from fusetune.evaluate.diagnosis import Asked, Diagnosed, Diagnosis, Wanted, diagnose, divided
from fusetune.evaluate.explain import Explanation
from fusetune.evaluate.modalities import Probe
from fusetune.evaluate.temperature import softmax
from fusetune.files import expanded
from fusetune.inputs import Reader
from fusetune.networks import EnsembleNetwork, Network, Outputs
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

    @_applied
    def predict(self, table: str | Path | pd.DataFrame, on_problem: OnProblem = "warn") -> pd.Series:
        """Return the most probable label per row, in the table's order; of gathered rows one for each id.

        Args:
            table: A file (see `fit`), or a DataFrame, whose relative paths start from the working folder.
            on_problem: What becomes of cells that cannot be used, such as unreadable pictures or numbers that are none.
                They count as absent. `warn`: an `InputWarning` counts them; `raise`: they are an error; `mask`: nothing
                is said.

        Raises:
            SchemaError: If an input column is missing or of another kind.
            ImageError: If an image column has several pictures and none can be read, unless `on_problem` is `mask`.
            TableError: If a row has a problem and `on_problem` is `raise`.
            RunError: If the model gives no finite probability for a row.
        """
        data = self._taken(table)
        top = self._answers(data, on_problem).probabilities.argmax(1)
        return pd.Series([self.classes[i] for i in top], name="prediction", index=data.index)

    @_applied
    def predict_proba(self, table: str | Path | pd.DataFrame, on_problem: OnProblem = "warn") -> pd.DataFrame:
        """Return probabilities [rows, classes], columns named by the labels, with the table's order and index.

        Arguments and errors are those of `predict`.
        """
        data = self._taken(table)
        probabilities = self._answers(data, on_problem).probabilities
        return pd.DataFrame(probabilities, columns=pd.Index(self.classes), index=data.index)

    @_applied
    def predict_table(self, table: str | Path | pd.DataFrame, on_problem: OnProblem = "warn") -> pd.DataFrame:
        """Return one line per row: row_id, prediction, probability, p(<label>) for each label, and problem.

        A row with an unreadable image is predicted from what else it has, and `problem` says so. So is every row where
        the table lacks all columns of an input. The index is that of the DataFrame, if one was given. `row_id` is what
        the table says, also where ids are repeated or empty, which is warned of; row numbers stand for ids only where
        there is no such column.

        Arguments and errors are those of `predict`, but only columns of which most cells are of no use are warned of.
        """
        data = self._taken(table)
        ids, notes = ids_with_notes(data, self.schema.named("id"))
        answers = self._answers(data, on_problem, listing=True, notes=notes)
        result = pd.DataFrame(
            {
                "row_id": ids,
                "prediction": [self.classes[i] for i in answers.probabilities.argmax(1)],
                "probability": answers.probabilities.max(1),
            }
        )
        shares = pd.DataFrame(answers.probabilities, columns=[f"p({label})" for label in self.classes])
        whole = pd.concat([result, shares, pd.Series(answers.problems, name="problem", dtype="str")], axis=1)
        return whole if data.index is None else whole.set_axis(data.index)

    @_applied
    def evaluate(self, table: str | Path | pd.DataFrame, on_problem: OnProblem = "warn") -> dict[str, Any]:
        """Judge the model on a labelled table; arguments are those of `predict`, and so are further errors.

        Returns:
            rows, groups (or None), unreadable (rows with an input that is absent, could not be read, or holds what was
            never learnt), seen (rows with the inputs of a row that the model was made from, whose scores say nothing
            about new rows), every metric as value, low, high of its 95 % interval, and an `evaluate.analysis.Analysis`:
            subsets of modalities, missing inputs, prediction sets and so on.

        Raises:
            TableError: If the label column is absent, empty in a row, or holds a label the model does not know.
        """
        asked, answers = self._asked(table, on_problem)
        rows = asked.judged
        how = {"resamples": self.config.evaluate.resamples, "seed": self.config.seed}
        scores = score_with_intervals(answers.probabilities, rows.labels, rows.groups, **how)
        analysis = analyse(self.network, self.config.strategy.name, self.calibration, rows, self.classes, {}, **how)
        return {
            "rows": len(asked),
            "groups": asked.group_count,
            "unreadable": sum(map(bool, answers.problems)),
            "seen": int(np.isin(answers.digests, self.seen).sum()),
            **{name: interval.as_dict() for name, interval in scores.items()},
            **analysis.as_dict(),
        }

    @_applied
    def diagnose(
        self,
        table: str | Path | pd.DataFrame,
        on_problem: OnProblem = "warn",
        *,
        train: str | Path | pd.DataFrame | None = None,
        alone: Sequence[Model] = (),
        split: str | Path | None = None,
        masks: str | Path | None = None,
    ) -> Diagnosis:
        """Ask what the model's accuracy hangs on: lazy encoders, lost, noisy or misleading inputs, certainty.

        Rows of the table with the inputs of rows that the model was made from are not judged, but what probes learn
        from. Only where all of its rows are such they are judged, and an `InputWarning` says that this tells nothing
        about new rows.

        Args:
            table: A labelled table, as for `evaluate`; that of the run serves best.
            on_problem: What becomes of cells that cannot be used, as for `predict`.
            train: A labelled table of training rows, for tables without any.
            alone: Models to compare the probes with: of one input each, or ensembles of inputs trained alone.
            split: `split.parquet` of the run, by which the penalty of a probe is chosen on validation rows. Without,
                it is the table's split column, or else a fifth of the training rows, whole groups, is set aside.
            masks: Parquet file of the masks of missing cells: read where it is there, else written, so that all models
                that are diagnosed with it lose the same cells.

        Raises:
            TableError: If a label column is absent, empty in a row, or holds a label the model does not know, or a file
                of masks or of a split is none.
            SchemaError: If an input column is missing or of another kind.
            UserError: If a model of `alone` has other classes, or says nothing of one input alone.
        """
        asked, answers = self._asked(table, on_problem)
        known = np.isin(answers.digests, self.seen)
        judged, training = (asked, None) if known.all() else (asked.some(~known), asked.some(known))
        if known.all():
            warnings.warn(
                f"{asked.table.name}: all {len(asked):,} rows have the inputs of rows that the model was made from; "
                "what is said of them says nothing about new rows",
                InputWarning,
                stacklevel=3,
            )
        if train is not None:
            training = self._asked(train, on_problem)[0]
        if len(present := np.unique(judged.judged.labels)) < 2:
            warnings.warn(
                f"{asked.table.name}: all judged rows are of class {self.classes[int(present[0])]}; accuracy is then "
                "that of one class, and areas under ROC curves are unknown",
                InputWarning,
                stacklevel=3,
            )
        ids, _ = ids_with_notes(judged.table, self.schema.named("id"))
        parts = None
        if training is not None and len(training):
            parts = divided(training, self.schema, None if split is None else Path(split), self.config.seed)
        wanted = Wanted(
            self.config, self.calibration.conformal, self.classes, self.config.strategy.name,
            ids.iloc[judged.where].fillna("").tolist(), self._alone(alone, judged, table, on_problem),
            None if masks is None else expanded(masks),
        )  # fmt: skip
        model = Diagnosed(self.network, self.readers, self.calibration.temperature, self.runtime)
        return diagnose(model, judged, parts, wanted, seen=int(known.sum()), judged_seen=bool(known.all()))

    @_applied
    def explain(self, table: str | Path | pd.DataFrame, row: str, on_problem: OnProblem = "warn") -> Explanation:
        """Return why one row is decided as it is: shares of the modalities, and effects of regions, words and cells.

        Args:
            table: The table, as for `predict`.
            row: The row's id, or its number where the table has no ids.
            on_problem: What becomes of cells of this row that cannot be used, as for `predict`.

        Raises:
            TableError: If there is no such row, or more than one.
            SchemaError: If an input column is missing or of another kind.
        """
        data = self._taken(table)
        place = self._place(data, str(row))
        data, lacking = self._read(data)
        one = replace(data.take(np.array([place])), index=None)
        sources = self.bind(one)
        Problems.of(one, self.schema.modalities(), sources, lacking, place).tell(one, on_problem, listing=False)
        outputs = self.outputs(sources, np.arange(1))
        self._certainty(outputs, one.name, place)  # refuses what is not finite
        probe = Probe(self.network, outputs, self.calibration.temperature)
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

    def _certainty(self, outputs: Outputs, table: str, start: int = 0) -> npt.NDArray[np.float64]:
        """Return calibrated probabilities; `start` is the number of the first row."""
        with np.errstate(invalid="ignore"):  # of infinite logits; said better below
            found = softmax(outputs.f.double().numpy(), self.calibration.temperature)
        wrong = np.flatnonzero(~np.isfinite(found).all(1))
        if len(wrong):
            raise RunError(
                f"{table}: the model gives no finite probability for row(s) {listed(wrong + start)}; look for absurd "
                "numbers there, or predict the other rows alone"
            )
        return found

    def _asked(self, table: str | Path | pd.DataFrame, on_problem: OnProblem) -> tuple[Asked, _Answers]:
        """Return the rows of a labelled table, and what the model answers."""
        data = self.schema.read(self._taken(table))
        label, group = self.schema.named("label"), self.schema.named("group")
        labels = encode_labels(data, str(label), self.classes)
        ids, _ = ids_with_notes(data, self.schema.named("id"))
        member = group_words(data.frame[group], ids).to_numpy() if group in data.frame.columns else None
        answers = self._answers(data, on_problem)
        judged = Judged(answers.outputs, labels, _keys(ids, answers.digests), member)
        return Asked(answers.table, answers.sources, np.arange(len(labels)), judged), answers

    def _alone(self, others: Sequence[Model], judged: Asked, table: Any, on_problem: OnProblem) -> dict[str, Any]:
        """Return what independently trained models of one input each say of the judged rows, by modality."""
        found: dict[str, Any] = {}
        words = [word_of(name) for name in self.classes]
        for other in others:
            theirs = [word_of(name) for name in other.classes]
            if sorted(theirs) != sorted(words):
                raise UserError(f"a model to compare with knows the classes {listed(theirs)}, this one {listed(words)}")
            answers = other._answers(other._taken(table), on_problem)
            if seen := int(np.isin(answers.digests[judged.where], other.seen).sum()):
                warnings.warn(
                    f"a model to compare with was made from {seen:,} of the judged rows: it seems better than it is",
                    InputWarning,
                    stacklevel=5,
                )
            order = [theirs.index(word) for word in words]
            mine = {name: p[:, order] for name, p in other._each_alone(answers.outputs.some(judged.where)).items()}
            if not mine.keys() & set(self.network.owners):
                raise UserError(f"a model to compare with says nothing of {listed(dict.fromkeys(self.network.owners))}")
            found |= mine
        return found

    def _each_alone(self, outputs: Outputs) -> dict[str, npt.NDArray[np.float64]]:
        """Return probabilities by each modality that was trained alone: the only one, or those of an ensemble."""
        network = self.network
        if isinstance(network, EnsembleNetwork):
            return {name: softmax(outputs.f_m[name].numpy(), heat) for name, heat in network.temperatures.items()}
        if len(owners := set(network.owners)) == 1:
            return {owners.pop(): softmax(outputs.f.numpy(), self.calibration.temperature)}
        raise UserError(
            "a model to compare with was trained on several inputs together; give models of one input each, or an "
            "ensemble of such (strategies alone and ume)"
        )

    def _answers(
        self, table: Table, on_problem: OnProblem, *, listing: bool = False, notes: Sequence[str] = ()
    ) -> _Answers:
        """Predict a table; see `Problems.tell` for the arguments."""
        read, lacking = self._read(table)
        sources = self.bind(read)
        problems = Problems.of(read, self.schema.modalities(), sources, lacking)
        problems.tell(read, on_problem, listing=listing, notes=notes)
        outputs = self.outputs(sources, np.arange(len(read)))
        found, digests = self._certainty(outputs, read.name), row_digests(sources, len(read))
        return _Answers(outputs, found, problems.rows, digests, read, sources)

    def _taken(self, table: str | Path | pd.DataFrame) -> Table:
        """Return a table, its rows gathered where the model has learnt from rows that were."""
        data = read_table(table)
        if self.schema.gather is not None:
            self.schema.check(self._with_empty_inputs(data)[0])
        return self.schema.gathered(data)

    def _read(self, table: Table) -> tuple[Table, list[str]]:
        """Return a table as the schema wants it, and the inputs that it lacks as a whole."""
        table, lacking = self._with_empty_inputs(table)
        self.schema.check(table)
        return self.schema.read(table), lacking

    def _with_empty_inputs(self, table: Table) -> tuple[Table, list[str]]:
        """Give a table empty columns for every input that it lacks as a whole, unless it lacks all of them."""
        inputs, there = self.schema.modalities(), set(table.frame.columns)
        # A column of nearly the same name is more likely a slip than an input left out on purpose, unless it is known.
        strangers = there - {column.name for column in self.schema.columns}
        lacking = [
            name
            for name, modality in inputs.items()
            if not any(column in there or did_you_mean(column, strangers) for column in modality.columns)
        ]
        if not lacking or len(lacking) == len(inputs):
            return table, []
        absent = [column for name in lacking for column in inputs[name].columns]
        numbers = {c.name for c in self.schema.columns if c.kind is Kind.NUMBER}
        empty = {
            column: np.nan if column in numbers else pd.Series([None] * len(table), dtype="str") for column in absent
        }
        return replace(table, frame=with_columns(table.frame, empty)), lacking

    def _place(self, table: Table, row: str) -> int:
        """Return the position of the row of this id."""
        ids, _ = ids_with_notes(table, self.schema.named("id"))
        places = np.flatnonzero((ids == row).to_numpy(dtype=bool, na_value=False))
        if not len(places):
            raise TableError(f"{table.name} has no row '{row}'{did_you_mean(row, ids.dropna().tolist())}")
        if len(places) > 1:
            raise TableError(f"'{row}' is the id of rows {listed(places)} of {table.name}; leave one of them in")
        return int(places[0])


@dataclass(frozen=True)
class _Answers:
    """What a model says of a table: outputs, probabilities, per row what is wrong and a digest of its inputs; both."""

    outputs: Outputs
    probabilities: npt.NDArray[np.float64]
    problems: list[str]
    digests: npt.NDArray[np.uint64]
    table: Table
    sources: dict[str, Source]


def _keys(ids: pd.Series, digests: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """Return row keys that do not depend on the order of rows, also where ids are repeated or empty."""
    shared = ids.duplicated(keep=False).to_numpy()
    return row_keys(ids.fillna("")) ^ np.where(shared, digests, np.uint64(0)).view(np.int64)


def row_digests(sources: Mapping[str, Source], rows: int) -> npt.NDArray[np.uint64]:
    """Return a digest of all inputs of each row: equal inputs, equal digests."""
    digests = np.zeros(rows, dtype=np.uint64)
    for source in sources.values():
        digests = digests * np.uint64(0x9E3779B97F4A7C15) + np.where(source.present, source.digests, np.uint64(0))
    return digests


def encode_labels(table: Table, label: str, classes: list[Any]) -> npt.NDArray[np.int64]:
    """Return class indices of the label column.

    Raises:
        TableError: If a label is missing or not among the classes.
    """
    series = table.names(label, classes)
    # A later table may hold the labels as another type.
    words, names = as_words(series), [word_of(value) for value in classes]
    if pd.api.types.infer_dtype(series) == "boolean" or all(isinstance(value, bool) for value in classes):
        words, names = words.map(_truth, na_action="ignore"), [_truth(name) for name in names]
    if len(set(names)) < len(names):  # older models may tell 1.0 from 1
        words, names = series.astype("str").mask(words.isna()), [str(value) for value in classes]
    if words.isna().any():
        rows = np.flatnonzero(words.isna().to_numpy())
        raise TableError(f"label column '{label}' is empty in row(s) {listed(rows)}{table.empty(label)}; fill it in")
    codes = words.map({name: index for index, name in enumerate(names)}).fillna(-1).to_numpy().astype(np.int64)
    if (codes == -1).any():
        unknown = series[codes == -1].unique()
        raise TableError(f"label column '{label}' holds {listed(unknown)}; the model knows {listed(classes, 12)}")
    return codes


def _truth(word: str) -> str:
    return {"true": "1", "false": "0"}.get(word.lower(), word.lower())


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
