"""The kinds of work: to answer rows, to look at pictures, to open them, and to encode batches.

Each calls what one process calls for the same rows, with as many threads as the worker has cores.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import safe_open
from safetensors.numpy import save_file

from fusetune.answers import Extras, as_table
from fusetune.augment import Augment
from fusetune.augment.random import Moment
from fusetune.bundle import load_bundle, manifest_of
from fusetune.cluster.work import Doing
from fusetune.data.cache import PixelCache
from fusetune.data.choices import OnProblem
from fusetune.data.images import ImageInput, ImageSource, Keeper, Reading
from fusetune.data.problems import Problems
from fusetune.data.source import Source
from fusetune.data.split import Rows
from fusetune.data.table import Table
from fusetune.doctor.images import look_at_pictures
from fusetune.encoders import Encoder
from fusetune.errors import RunError
from fusetune.evaluate.measures import Measure
from fusetune.features.store import Encoding, FeatureStore, Forward, Work
from fusetune.files import file_hash
from fusetune.handing import Handed
from fusetune.progress import Log
from fusetune.runtime import Runtime
from fusetune.vault import GIGABYTE

_FACTS = "fusetune"  # under this name, a file says in JSON what is no row
_ARRAYS = ".safetensors"
Arrays = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Answer:
    """Predict rows with a saved model.

    Attributes:
        folder: The model, or the run around it.
        model: Hash of its manifest, so that no worker answers with another.
        confined: Read no image outside the table's folder.
        extras: What is wanted of each row.
        on_problem: What becomes of cells that cannot be used.
        threads: That read pictures.
    """

    folder: Path
    model: str
    confined: bool
    extras: Extras
    on_problem: OnProblem
    threads: int
    suffix: ClassVar[str] = ".parquet"

    def begin(self) -> Doing:
        """Load the model; see `Task`."""
        if file_hash(manifest_of(self.folder)) != self.model:
            raise RunError(f"{self.folder} holds another model here than where the command was given")
        model = load_bundle(self.folder)
        model = model.confined() if self.confined else model
        likeness = {} if model.reference is None else model.reference.likeness
        reading = Reading(self.threads)

        def write(piece: Handed, path: Path) -> None:
            said, problems = model.answered(piece, self.on_problem, self.extras, listing=True, reading=reading)
            frame = as_table(said, model.measure, model.calibration, self.extras, likeness)
            # Labels may be of any kind; as numbers of classes they come back as they were.
            kept = frame.assign(prediction=said.decided) if model.measure.decides else frame
            table = pa.Table.from_pandas(kept, preserve_index=False)
            facts = json.dumps({"start": piece.start, "problems": problems.as_facts()})
            pq.write_table(table.replace_schema_metadata({**(table.schema.metadata or {}), _FACTS: facts}), path)

        return write

    def singly(self, piece: Handed) -> Iterator[tuple[int, Handed]]:
        """Yield each row; see `Task`."""
        for row in range(len(piece)):
            here = np.array([row])
            bound = {name: source.some(here) for name, source in piece.bound.items()}
            ids = piece.ids.iloc[row : row + 1].reset_index(drop=True)
            one = replace(piece, start=piece.start + row, table=piece.table.take(here), ids=ids, bound=bound)
            yield piece.start + row, one


def read_answers(path: Path, measure: Measure[Any]) -> tuple[Any, int, Problems]:
    """Return what `Answer` wrote: lines as `Model.predict_table` gives them, their first row, what is wrong there."""
    table = pq.read_table(path)
    facts = json.loads(table.schema.metadata[_FACTS.encode()])
    frame = table.to_pandas()
    if measure.decides:
        frame["prediction"] = [measure.target.names[place] for place in frame["prediction"]]
    return frame, facts["start"], Problems.of_facts(facts["problems"])


def _by_row(notes: Mapping[str, str]) -> dict[int, str]:
    return {int(row): text for row, text in notes.items()}


@dataclass(frozen=True)
class _OfRows:
    """Work on the rows of a table; its result is a file of arrays."""

    suffix: ClassVar[str] = _ARRAYS

    def singly(self, piece: tuple[int, Table]) -> Iterator[tuple[int, tuple[int, Table]]]:
        """Yield each row; see `Task`."""
        start, table = piece
        for row in range(len(table)):
            yield start + row, (start + row, table.take(np.array([row])))


@dataclass(frozen=True)
class Look(_OfRows):
    """Look at pictures as the doctor does.

    Attributes:
        reader: How they are read.
        threads: That read them.
        keeping: What a run will make of them, for which they are kept; None: nothing.
        cache: Where they are kept then, and how many bytes at most.
    """

    reader: ImageInput
    threads: int
    keeping: ImageInput | None = None
    cache: tuple[Path, int] | None = None

    def begin(self) -> Doing:
        """See `Task`."""
        keeper = None
        if self.keeping is not None and self.cache is not None:
            home, limit = self.cache
            keeper = Keeper(self.keeping, PixelCache(home, self.keeping.size, limit / GIGABYTE))

        def write(piece: tuple[int, Table], path: Path) -> None:
            found = look_at_pictures(piece[1], self.reader, keeper, self.threads)
            if keeper is not None:
                keeper.cache.flush()
            names = ("status", "pixels", "hashes", "thumbs", "several", "sides")
            write_arrays(path, {name: getattr(found, name) for name in names}, {"problems": found.problems})

        return write


@dataclass(frozen=True)
class Open(_OfRows):
    """Open pictures as a run does, and keep their pixels.

    Attributes:
        settings: How they are read.
        reading: With how many threads, and where pixels are kept.
    """

    settings: ImageInput
    reading: Reading

    def begin(self) -> Doing:
        """See `Task`."""

        def write(piece: tuple[int, Table], path: Path) -> None:
            scan = ImageSource(self.settings, piece[1], self.reading).scanned
            arrays = {"present": scan.present, "digests": scan.digests, "several": scan.several}
            write_arrays(path, arrays, {"problems": scan.problems})

        return write


@dataclass(frozen=True)
class Batches:
    """Batches that are encoded one after the other.

    Attributes:
        source: Their rows.
        keys: Row keys.
        batches: Places among the rows.
        numbers: What the rows' numbers are in the table.
    """

    source: Source
    keys: npt.NDArray[np.int64]
    batches: Sequence[Rows]
    numbers: Rows


@dataclass(frozen=True)
class Encode:
    """Run a frozen encoder.

    Attributes:
        name: Of the modality.
        encoder: On the CPU.
        augment: What happens to the inputs.
        moments: One view per moment; None stands for the plain inputs.
        batch_size: Rows per batch.
        fast: May a faster form of the encoder be used?
        example: By which that form is made.
        runtime: Device and precision.
        threads: That compute.
    """

    name: str
    encoder: Encoder
    augment: Augment
    moments: Sequence[Moment | None]
    batch_size: int
    fast: bool
    example: Any
    runtime: Runtime
    threads: int
    suffix: ClassVar[str] = _ARRAYS

    def begin(self) -> Doing:
        """See `Task`."""
        runtime = replace(self.runtime, threads=self.threads)
        runtime.apply()
        encoder = self.encoder.to(runtime.device).eval()
        store = FeatureStore(Path("nothing is kept here"), runtime, Log(quiet=True))
        forward: list[Forward] = []

        def write(piece: Batches, path: Path) -> None:
            what = Encoding(self.name, encoder, piece.source, self.augment, piece.keys, self.batch_size)
            rows = np.arange(len(piece.keys))
            work = Work(what, rows, self.moments, piece.batches, self.fast, self.example)
            if not forward:
                forward.append(store.forward(work))
            write_arrays(path, {"features": store.encoded(work, forward[0])}, {})

        return write

    def singly(self, piece: Batches) -> Iterator[tuple[int, Batches]]:
        """Yield each row; see `Task`."""
        for row, number in enumerate(piece.numbers.tolist()):
            here = np.array([row])
            yield number, Batches(piece.source.some(here), piece.keys[here], [np.arange(1)], piece.numbers[here])


def write_arrays(path: Path, arrays: Arrays, facts: Mapping[str, Any]) -> None:
    """Write arrays and what JSON says into one file."""
    whole = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    save_file(whole, path, metadata={_FACTS: json.dumps(facts)})


def read_arrays(path: Path) -> tuple[dict[str, npt.NDArray[Any]], dict[int, str]]:
    """Return the arrays that `write_arrays` wrote, and problems by row."""
    with safe_open(path, "np") as file:
        facts = json.loads(file.metadata()[_FACTS])
        return {name: file.get_tensor(name) for name in file.keys()}, _by_row(facts.get("problems", {}))  # noqa: SIM118
