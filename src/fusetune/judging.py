"""A model judged on labelled tables: its scores with intervals, and what its accuracy hangs on."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from fusetune.answering import Answering, Answers, applied
from fusetune.data.choices import OnProblem
from fusetune.data.problems import ids_with_notes
from fusetune.data.spelling import word_of
from fusetune.data.split import group_words
from fusetune.data.table import Table, TableLike, row_keys
from fusetune.data.weights import counting, scaled, weights_of
from fusetune.errors import InputWarning, UserError, listed
from fusetune.evaluate.analysis import analyse
from fusetune.evaluate.calibration import Judged
from fusetune.evaluate.diagnosis import Asked, Diagnosed, Diagnosis, Wanted, diagnose, divided
from fusetune.evaluate.metrics import FloatArray
from fusetune.files import expanded
from fusetune.networks import EnsembleNetwork, Outputs


@dataclass(repr=False)
class Judging(Answering):
    """What answers, asked about rows whose labels are known.

    Its attributes are those of `Answering`.
    """

    @applied
    def evaluate(self, table: TableLike, on_problem: OnProblem = "warn") -> dict[str, Any]:
        """Judge the model on a labelled table; arguments are those of `predict`, and so are further errors.

        Returns:
            rule (how rows are decided, in words), rows, weight (of a model that was fitted with a column of weights:
            its name, where the table has it and rows count as it says, else None), groups (or None), unreadable (rows
            with an input that is absent, could not be read, or holds what was never learnt), seen (rows with the inputs
            of a row that the model was made from, whose scores say nothing about new rows), every metric as value, low,
            high of its 95
            % interval, with a threshold also those of the most probable class
            (`most_probable`), with thresholds of labels those at even odds (`even_odds`), and an
            `evaluate.analysis.Analysis`: subsets of modalities, missing inputs, prediction sets and so on.

        Raises:
            TableError: If the label column is absent, empty in a row, or holds a label the model does not know; or a
                weight is missing or none.
        """
        asked, answers = self._asked(table, on_problem)
        rows = asked.judged
        how: dict[str, Any] = {"resamples": self.config.evaluate.resamples, "seed": self.config.seed}
        scores, rule = self.measure.scores(answers.probabilities, rows.labels, rows.sampling, **how), self.rule
        acted = rule.score(answers.probabilities, rows.labels, rows.sampling, **how)
        plain = {name: scores[name] for name in acted}
        scores |= acted
        analysis = analyse(self.network, self.config.strategy.name, self.calibration, rows, self.classes, {}, **how)
        return {
            "rule": rule.words,
            "rows": len(asked),
            **({} if self.schema.named("weight") is None else {"weight": self._weight_of(asked.table)}),
            "groups": asked.group_count,
            "unreadable": sum(map(bool, answers.problems)),
            "seen": int(np.isin(answers.digests, self.seen).sum()),
            **{name: interval.as_dict() for name, interval in scores.items()},
            **({rule.without: {name: score.as_dict() for name, score in plain.items()}} if plain else {}),
            **self.measure.named(analysis.as_dict()),
        }

    @applied
    def diagnose(
        self,
        table: TableLike,
        on_problem: OnProblem = "warn",
        *,
        train: TableLike | None = None,
        alone: Judging | Sequence[Judging] = (),
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
            UserError: If a model of `alone` has other classes, or says nothing of one input alone, or the table has
                the weight column of the model.
        """
        others = [alone] if isinstance(alone, Judging) else alone
        asked, answers = self._asked(table, on_problem, weighs=False)
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
            training = self._asked(train, on_problem, weighs=False)[0]
        if len(labels := np.unique(judged.judged.labels, axis=0)) < 2:
            (only,) = self.measure.truths(labels)
            warnings.warn(f"{asked.table.name}: {self.measure.alike.format(only)}", InputWarning, stacklevel=3)
        ids, _ = ids_with_notes(judged.table, self.schema.named("id"))
        parts = None
        if training is not None and len(training):
            parts = divided(training, self.schema, None if split is None else Path(split), self.config.seed)
        wanted = Wanted(
            self.config, self.calibration.conformal, self.classes, self.config.strategy.name,
            ids.iloc[judged.where].fillna("").tolist(), self._alone(others, judged, table, on_problem),
            None if masks is None else expanded(masks), self.calibration.reaches,
        )  # fmt: skip
        model = Diagnosed(self.network, self.readers, self.calibration.temperature, self.runtime)
        return diagnose(model, judged, parts, wanted, seen=int(known.sum()), judged_seen=bool(known.all()))

    def _asked(self, table: TableLike, on_problem: OnProblem, *, weighs: bool = True) -> tuple[Asked, Answers]:
        """Return the rows of a labelled table, and what the model answers; without `weighs`, weights are refused."""
        data = self.schema.read(self.taken(table))
        weight = self._weight_of(data)
        if weight is not None and not weighs:
            raise UserError(
                f"diagnose counts every row alike, and {data.name} has the weight column '{weight}' of the model: "
                "leave it out of the table to have its rows count alike"
            )
        data = counting(data, weight)
        counted = None if weight is None else scaled(weights_of(data, weight))
        label, group = self.schema.named("label"), self.schema.named("group")
        labels = self.target.encode(data, str(label))
        ids, _ = ids_with_notes(data, self.schema.named("id"))
        member = group_words(data.frame[group], ids).to_numpy() if group in data.frame.columns else None
        answers = self.answers(data, on_problem)
        judged = Judged(answers.outputs, labels, _keys(ids, answers.digests), member, self.measure, counted)
        return Asked(answers.table, answers.sources, np.arange(len(labels)), judged), answers

    def _weight_of(self, table: Table) -> str | None:
        """Return the column of weights, where the table has the one that the model was fitted with."""
        name = self.schema.named("weight")
        return name if name in table.frame.columns else None

    def _alone(self, others: Sequence[Judging], judged: Asked, table: Any, on_problem: OnProblem) -> dict[str, Any]:
        """Return what independently trained models of one input each say of the judged rows, by modality."""
        found: dict[str, Any] = {}
        words = [word_of(name) for name in self.classes]
        for other in others:
            theirs, kind = [word_of(name) for name in other.classes], self.target.names_word
            if other.target.kind != self.target.kind:
                raise UserError(
                    f"a model to compare with predicts {other.target.describe()}, this one {self.target.describe()}"
                )
            if sorted(theirs) != sorted(words):
                raise UserError(f"a model to compare with knows the {kind} {listed(theirs)}, this one {listed(words)}")
            answers = other.answers(other.taken(table), on_problem)
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

    def _each_alone(self, outputs: Outputs) -> dict[str, FloatArray]:
        """Return answers by each modality that was trained alone: the only one, or those of an ensemble."""
        network, say = self.network, self.measure.say
        if isinstance(network, EnsembleNetwork):
            return {name: say(outputs.f_m[name].numpy(), heat) for name, heat in network.temperatures.items()}
        if len(owners := set(network.owners)) == 1:
            return {owners.pop(): say(outputs.f.numpy(), self.calibration.temperature)}
        raise UserError(
            "a model to compare with was trained on several inputs together; give models of one input each, or an "
            "ensemble of such (strategies alone and ume)"
        )


def _keys(ids: pd.Series, digests: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """Return row keys that do not depend on the order of rows, also where ids are repeated or empty."""
    shared = ids.duplicated(keep=False).to_numpy()
    return row_keys(ids.fillna("")) ^ np.where(shared, digests, np.uint64(0)).view(np.int64)
