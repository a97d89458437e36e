"""From a table to what a network says of its rows: all at once for who asks for features, else piece by piece."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

import numpy as np
import numpy.typing as npt

from fusetune.answers import Extras, Said, distances_of
from fusetune.config import Config
from fusetune.data.absent import Lacking, with_empty_columns
from fusetune.data.apart import why_together
from fusetune.data.cells import CellInput
from fusetune.data.choices import By, OnProblem
from fusetune.data.dataset import Dataset
from fusetune.data.images import Reading
from fusetune.data.ocr import with_words
from fusetune.data.problems import Problems, ids_with_notes, refuse_choice
from fusetune.data.schema import Schema
from fusetune.data.source import Source
from fusetune.data.split import Rows
from fusetune.data.table import Table, TableLike, as_dataset, read_dataset, read_table
from fusetune.errors import RunError, listed
from fusetune.evaluate.calibration import Calibration
from fusetune.evaluate.decision import Rule
from fusetune.evaluate.drift import Tally
from fusetune.evaluate.measures import Measure, measure_of
from fusetune.evaluate.reference import Reference
from fusetune.handing import Handed, Handing, Laid, Streamed, bound_cells, pictures_of, spacings, used_columns
from fusetune.inputs import Reader
from fusetune.networks import Network, Outputs
from fusetune.networks.run import outputs_of
from fusetune.progress import Bar, bar
from fusetune.runtime import Runtime
from fusetune.targets import Target

P = ParamSpec("P")
T = TypeVar("T")
A = TypeVar("A", bound="Answering")
PIECE = 1024  # rows whose pictures, features and answers are held at a time


def applied(method: Callable[Concatenate[A, P], T]) -> Callable[Concatenate[A, P], T]:
    """Compute with the threads of the model's runtime within a method, and leave the caller's as they were."""

    @wraps(method)
    def run(asked: A, /, *args: P.args, **kwargs: P.kwargs) -> T:
        with asked.runtime.applied():
            return method(asked, *args, **kwargs)

    return run


@dataclass
class Answering:
    """A network with everything that it needs to read a table.

    Attributes:
        network: Encoders and what is made of their features, frozen.
        readers: Fitted pre-processing by modality.
        schema: The columns that it was trained on.
        target: What is predicted.
        config: The configuration that it was trained with.
        seen: Digests of the inputs of all rows that it was trained or chosen on, uint64.
        calibration: What was learnt about it on validation rows: its temperature, prediction sets, threshold.
        reference: What later rows and tables are compared with; None where the model keeps nothing of the kind.
    """

    network: Network
    readers: dict[str, Reader]
    schema: Schema
    target: Target
    config: Config
    runtime: Runtime
    seen: npt.NDArray[np.uint64] = field(default_factory=lambda: np.zeros(0, dtype=np.uint64))
    calibration: Calibration = field(default_factory=Calibration)
    reference: Reference | None = None

    @property
    def classes(self) -> list[Any]:
        """The labels, in the order of the probabilities; of a number, its name."""
        return self.target.names

    @property
    def measure(self) -> Measure[Any]:
        """How its answers are made and judged."""
        return measure_of(self.target)

    @property
    def rule(self) -> Rule:
        """How rows are decided: by the threshold for `evaluate.aim` where one was reached, else by probability."""
        return self.rule_by("judged")

    def rule_by(self, by: By) -> Rule:
        """Return how rows are decided, by the threshold or whatever it says."""
        return self.calibration.rule(self.classes, by, self.measure)

    def bind(self, table: Table) -> dict[str, Source]:
        """Return the sources of a table, by modality."""
        return {name: reader.bind(table) for name, reader in self.readers.items()}

    def outputs(
        self,
        sources: Mapping[str, Source],
        rows: Rows,
        description: str = "predicting",
        watched: Bar | None = None,
    ) -> Outputs:
        """Return features, unimodal and fused logits of some rows, on CPU (see `networks.run.outputs_of`).

        Args:
            sources: Bound inputs by modality.
            rows: Row positions.
            description: What the progress bar says.
            watched: The bar that moves on by rows; None: one of its own.
        """
        how: dict[str, Any] = {"config": self.config, "runtime": self.runtime, "description": description}
        how |= {"watched": watched, "target": type(self.target)}
        return outputs_of({"": self.network}, self.readers, sources, rows, **how)[""]

    def certainty(self, outputs: Outputs, table: str, start: int = 0) -> npt.NDArray[np.float64]:
        """Return calibrated probabilities; `start` is the number of the first row."""
        with np.errstate(invalid="ignore"):  # of infinite logits; said better below
            found = self.measure.say(outputs.f.double().numpy(), self.calibration.temperature)
        wrong = np.flatnonzero(~np.isfinite(found).all(1))
        if len(wrong):
            raise RunError(
                f"{table}: the model gives no finite answer for row(s) {listed(wrong + start)}; look for absurd "
                "numbers there, or predict the other rows alone"
            )
        return np.asarray(found, dtype=np.float64)

    def answers(self, table: Table, on_problem: OnProblem) -> Answers:
        """Predict a table at once, for who asks for its features; see `said` for the other way."""
        read, lacking = self.read(table)
        sources = self.bind(read)
        problems = Problems.of(read, self.schema.modalities(), sources, lacking)
        problems.tell(read, on_problem, listing=False)
        outputs = self.outputs(sources, np.arange(len(read)))
        found, digests = self.certainty(outputs, read.name), row_digests(sources, len(read))
        return Answers(outputs, found, problems.rows, digests, read, sources)

    def said(
        self,
        table: Table | Dataset,
        on_problem: OnProblem,
        extras: Extras | None = None,
        tally: Tally | None = None,
        *,
        listing: bool = False,
    ) -> Iterator[Said]:
        """Predict a table piece by piece, and say at the end what of it could not be used; see `Problems.tell`."""
        extras = Extras() if extras is None else extras
        refuse_choice(on_problem)
        handing = self.handing(table)
        found: Problems | None = None
        with bar("predicting", len(handing)) as progress:
            for piece in handing.pieces(PIECE):
                said, problems = self.answered(piece, on_problem, extras, tally, listing=listing, watched=progress)
                found = Problems.joined([problems] if found is None else [found, problems])
                yield said
        if found is not None:
            self.tell(handing, found, on_problem, listing=listing)

    def handing(self, table: Table | Dataset) -> Handing:
        """Return what hands out the rows of a table, here or elsewhere; of a dataset as `opened` returns it."""
        if isinstance(table, Dataset):
            return Streamed.of(table, self.schema, self.readers, self.runtime)
        ids, notes = ids_with_notes(table, self.schema.named("id"))
        read, lacking = self.read(table)
        with self.runtime.applied():
            return Laid(read, lacking, ids, notes, bound_cells(self.readers, read))

    def opened(self, table: TableLike | Table | Dataset) -> Table | Dataset:
        """Return a table to be answered: a dataset as such where its rows stand alone, else as `taken` does."""
        stored = table if isinstance(table, Table | Dataset) else as_dataset(table)
        if isinstance(stored, Dataset):
            whole = self.why_together(stored)
            columns = None if self.schema.gather else used_columns(self.schema, self.readers)
            return stored if whole is None else self.taken(read_dataset(stored, columns))
        return self.taken(table if stored is None else stored)

    def why_together(self, stored: Dataset) -> str | None:
        """Return why a dataset is read at once, in words; None where it can be answered piece by piece."""
        known = {
            vocabulary.column: () if vocabulary.gaps else vocabulary.categories
            for reader in self.readers.values()
            if isinstance(reader.fitted, CellInput)
            for vocabulary in reader.fitted.categories
        }
        return why_together(stored.types(), self.schema, spacings(self.readers), known)

    def answered(
        self,
        piece: Handed,
        on_problem: OnProblem,
        extras: Extras,
        tally: Tally | None = None,
        *,
        listing: bool = False,
        watched: Bar | None = None,
        reading: Reading | None = None,
    ) -> tuple[Said, Problems]:
        """Predict the rows of a piece; return what is said of them, and what of them could not be used.

        Args:
            piece: The rows.
            on_problem: As for `predict`; problems are refused here, and else told by `tell` when all pieces are done.
            extras: What is wanted of each row.
            tally: Gathers what `drift_of` needs.
            listing: As for `Problems.tell`.
            watched: A bar that moves on by rows.
            reading: How pictures are read.
        """
        rule = self.rule_by(extras.by)
        likeness = {} if self.reference is None or not (extras.unlike or tally) else self.reference.likeness
        with self.runtime.applied():
            sources = {
                name: piece.bound[name] if name in piece.bound else reader.bind(piece.table, reading)
                for name, reader in self.readers.items()
            }
            problems = Problems.of(piece.table, self.schema.modalities(), sources, piece.lacking, piece.start)
            if on_problem == "raise":
                problems.tell(piece.table, on_problem, listing=listing)
            outputs = self.outputs(sources, np.arange(len(piece)), watched=watched)
            p = self.certainty(outputs, piece.table.name, piece.start)
            distances = distances_of(outputs, likeness)
        decided = rule.decide(p)
        if tally is not None:
            new = ~np.isin(row_digests(sources, len(piece)), self.seen)
            here = {name: new & outputs.present[name].numpy() for name in distances}
            tally.add(decided, {name: far[here[name]] for name, far in distances.items()})
        return Said(piece.ids, p, decided, outputs, problems.rows, distances), problems

    def tell(self, handing: Handing, found: Problems, on_problem: OnProblem, *, listing: bool = False) -> None:
        """Say what of a table could not be used, found in all of its pieces."""
        found.tell(handing.table, on_problem, listing=listing, notes=handing.notes if listing else ())

    def taken(self, table: TableLike | Table) -> Table:
        """Return a table, its rows gathered where the model has learnt from rows that were."""
        data = table if isinstance(table, Table) else read_table(table)
        if self.schema.gather is not None:
            self.schema.check(with_empty_columns(data, self.schema)[0])
        return self.schema.gathered(data)

    def read(self, table: Table, rows: Rows | None = None) -> tuple[Table, Lacking]:
        """Return a table, or some rows of it, as the schema wants it, and what it lacks."""
        table, lacking = with_empty_columns(table, self.schema)
        self.schema.check(table)
        read = self.schema.read(table)
        read = read if rows is None else read.take(rows)
        return with_words(read, self.schema, pictures_of(self.readers)), lacking


@dataclass(frozen=True)
class Answers:
    """What a model says of a table: outputs, probabilities, per row what is wrong and a digest of its inputs; both."""

    outputs: Outputs
    probabilities: npt.NDArray[np.float64]
    problems: list[str]
    digests: npt.NDArray[np.uint64]
    table: Table
    sources: dict[str, Source]


def row_digests(sources: Mapping[str, Source], rows: int) -> npt.NDArray[np.uint64]:
    """Return a digest of all inputs of each row: equal inputs, equal digests."""
    digests = np.zeros(rows, dtype=np.uint64)
    for source in sources.values():
        digests = digests * np.uint64(0x9E3779B97F4A7C15) + np.where(source.present, source.digests, np.uint64(0))
    return digests
