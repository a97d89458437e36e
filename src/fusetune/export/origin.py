"""What is exported: a finished run and its model, or a model folder alone, checked before anything is written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fusetune.bundle import load_bundle
from fusetune.bundle.contents import MANIFEST
from fusetune.errors import UserError
from fusetune.files import expanded
from fusetune.folder import MODEL
from fusetune.model import Model
from fusetune.record import METRICS, Record, is_finished, is_run, read_metrics


@dataclass(frozen=True)
class Origin:
    """What is exported.

    Attributes:
        name: What to call it: the name of the run's folder.
        home: The run's folder, or the model's where it has no run.
        folder: The model's folder.
        metrics: What the run judged; None: a model alone.
    """

    name: str
    home: Path
    folder: Path
    metrics: dict[str, Any] | None

    def load(self) -> Model:
        """Return the model on the CPU, whatever this machine has: an export is for others.

        Raises:
            BundleError: If it is damaged.
        """
        model = load_bundle(self.folder)
        model.network.to("cpu")
        return model


def find_origin(path: str | Path) -> Origin:
    """Find a run or a model.

    Raises:
        UserError: If there is neither, or the run is not finished or damaged.
    """
    place = expanded(path)
    if not place.is_dir():
        raise UserError(f"there is no folder {place}; name the folder of a run, such as runs/scans")
    home = place.absolute().parent if _is_model(place) and is_run(place.absolute().parent) else place
    if is_run(home) or (home / METRICS).exists():
        return _of_run(home)
    if _is_model(place):
        return Origin(place.absolute().name, place, place, None)
    raise UserError(f"{place} is no run and no model: it has neither {METRICS} nor {MANIFEST}; name a run's folder")


def _of_run(home: Path) -> Origin:
    if not is_finished(home):
        raise UserError(
            f"the run in {home} is not finished: {METRICS} is missing; continue it with the command that began it and "
            "--resume"
        )
    metrics, record = read_metrics(home), Record.read(home)
    if record is not None:
        record.refuse_damage(home, [f"{MODEL}/{MANIFEST}"])
    if not _is_model(home / MODEL):
        raise UserError(f"the run in {home} has no {MODEL}/{MANIFEST}; put it back from a copy, or fit again")
    return Origin(home.absolute().name, home, home / MODEL, metrics)


def _is_model(folder: Path) -> bool:
    return (folder / MANIFEST).is_file()
