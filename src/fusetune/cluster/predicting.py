"""Predicting a table on a cluster: the lines of one process, from chunks that many processes wrote."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd

from fusetune.answering import PIECE
from fusetune.answers import Extras
from fusetune.bundle import manifest_of
from fusetune.cluster.engine import Engine, Outcome
from fusetune.cluster.place import Chunk, Place
from fusetune.cluster.tasks import Answer, read_answers
from fusetune.data.choices import OnProblem
from fusetune.data.dataset import Dataset
from fusetune.data.problems import Problems, refuse_choice
from fusetune.data.table import Table
from fusetune.errors import RunError
from fusetune.files import expanded, facts_hash, file_hash
from fusetune.handing import Handing
from fusetune.model import Model
from fusetune.progress import bar
from fusetune.version import VERSION


@dataclass(frozen=True)
class Asked:
    """What is asked of a saved model.

    Attributes:
        folder: The run or its model folder.
        model: The model in it.
        extras: What is wanted of each row.
        on_problem: As for `Model.predict_table`.
        confined: Read no image outside the table's folder.
        rows: Rows of a chunk. With others than whole pieces of one process, probabilities may differ in the last digit.
    """

    folder: Path
    model: Model
    extras: Extras
    on_problem: OnProblem = "warn"
    confined: bool = False
    rows: int = PIECE


@dataclass(frozen=True)
class Predicted:
    """A table that was predicted.

    Attributes:
        pieces: Its lines, in the table's order, read from the chunks as they are asked for. Warnings and errors about
            the table come with the last piece.
        outcome: What became of the chunks.
        place: Where they are; whoever has kept the lines discards it.
    """

    pieces: Iterator[pd.DataFrame]
    outcome: Outcome
    place: Place


@contextmanager
def predicted(asked: Asked, table: Table | Dataset, folder: Path, engine: Engine) -> Iterator[Predicted]:
    """Predict a table on a cluster, and hold the folder of its chunks.

    Nothing is yielded before every chunk was done and checked: each row is there once, under its id. Else the same call
    continues in the same folder.

    Args:
        asked: What is asked.
        table: The table.
        folder: Where chunks go; on storage that all nodes share, as the model and the pictures are.
        engine: The cluster.

    Raises:
        UserError: As `Model.predict_table`, and if nodes are not alike.
        WriteError: If something cannot be written.
        RunError: If the cluster was lost.
    """
    model = asked.model
    refuse_choice(asked.on_problem)
    asked.extras.check(model.calibration, model.reference, model.measure)
    manifest = manifest_of(asked.folder).resolve()
    task = Answer(
        manifest.parent, file_hash(manifest), asked.confined, asked.extras, asked.on_problem, engine.cluster.cores
    )
    place = Place(expanded(folder).resolve(), task.suffix)
    with place.held(f"fusetune predict {table.name}"):
        engine.check([manifest, place.mark])
        handing = model.handing(model.opened(table))
        how = facts_hash(
            {"version": VERSION, "model": task.model, "confined": asked.confined, "on_problem": asked.on_problem}
            | {"extras": asdict(asked.extras)}
        )
        chunks = []
        with bar("handing out rows", len(handing)) as progress:
            for piece in handing.pieces(asked.rows):
                chunks.append(place.hand(piece.start, piece.start + len(piece), piece, how))
                progress.advance(len(piece))
        outcome = engine.run(task, place, chunks, "predicting")
        place.seal(chunks, len(handing))
        yield Predicted(_lines(asked, handing, place, chunks), outcome, place)


def _lines(asked: Asked, handing: Handing, place: Place, chunks: list[Chunk]) -> Iterator[pd.DataFrame]:
    found: Problems | None = None
    for chunk, ids in zip(chunks, handing.ids(asked.rows), strict=True):
        frame, start, problems = read_answers(place.done(chunk), asked.model.measure)
        same = len(frame) == len(ids) and (frame["row_id"].isna().to_numpy() == ids.isna().to_numpy()).all()
        if start != chunk.start or not same or (frame["row_id"].dropna().tolist() != ids.dropna().tolist()):
            raise RunError(f"{place.done(chunk)} does not hold {chunk.rows}; remove {place.folder} and start again")
        found = Problems.joined([problems] if found is None else [found, problems])
        yield frame
    if found is not None:
        asked.model.tell(handing, found, asked.on_problem, listing=True)
