"""A run's model for other places: one ONNX graph with a runner, an MLflow model, a model hub's folder, a plain folder.

Everything that can be refused is refused before anything is written, and a folder appears when it is complete.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, get_args

from fusetune.bundle import save_bundle
from fusetune.data.choices import ExportKind
from fusetune.errors import UserError, did_you_mean, listed
from fusetune.export import flavour, hub
from fusetune.export.card import card_text, hub_card, usage_text
from fusetune.export.graph import ExportError, refusals, write_graph
from fusetune.export.origin import Origin, find_origin
from fusetune.export.place import export_folder, refuse_target
from fusetune.export.preparation import unprepared, write_preparation
from fusetune.features.onnx import onnx_available
from fusetune.files import expanded, write_text
from fusetune.folder import MODEL
from fusetune.model import Model

TARGETS = get_args(ExportKind)
_RUNNER, _PICTURES, _README, _CARD = "run.py", "pictures.py", "README.md", "CARD.md"

__all__ = ["TARGETS", "ExportError", "Exported", "export_run"]


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        folder: Where it is.
        difference: Of ONNX: the largest difference of any probability from the model, on rows that were made up.
        address: Of a hub: where it was sent; None: it was not.
    """

    folder: Path
    difference: float | None = None
    address: str | None = None


def export_run(
    run: str | Path,
    to: str,
    out: str | Path | None = None,
    *,
    push: str | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Exported:
    """Write a run's model for another place.

    Args:
        run: Folder of a finished run; for `onnx` and `mlflow` also a model folder alone.
        to: `onnx`: one graph with a runner that needs no PyTorch. `mlflow`: a folder that `mlflow.pyfunc` loads. `hub`:
            a folder for a Hugging Face repository, with a model card. `dir`: the model as it is, with card and README.
        out: The folder to write; default: `<run>-<to>` beside the run. An earlier export there is replaced if it is
            unchanged; nothing else is.
        push: With `hub`: also send the folder to this repository (OWNER/NAME), which is private where it is new.
        say: Is told of each step.

    Raises:
        UserError: If the run, the target or the folder cannot be used, or a package is missing.
        BundleError: If the model is damaged.
        ExportError: If the model cannot be exported to ONNX; nothing was written.
        RunError: If it could not be sent; the folder stays.
    """
    if to not in TARGETS:
        raise UserError(f"--to {to}: there is no such export{did_you_mean(to, TARGETS)}; known: {listed(TARGETS)}")
    if push is not None:
        if to != "hub":
            raise UserError(f"--push {push} goes with --to hub, and this is --to {to}")
        hub.refuse_name(push)
    _refuse_lack(to)
    origin = find_origin(run)
    if origin.metrics is None and to in ("hub", "dir"):
        raise UserError(f"{origin.home} is a model without its run, and a card says what a run judged; name the run")
    place = origin.home.absolute().parent / f"{origin.name}-{to}" if out is None else expanded(out)
    refuse_target(place, origin.home)
    say(f"reading the model {origin.folder}")
    model = origin.load()
    facts: dict[str, Any] = {"strategy": model.config.strategy.name}
    write = {"onnx": _onnx, "mlflow": _mlflow, "hub": _hub, "dir": _dir}[to]
    if to == "onnx":
        _refuse_unfit(model)
    with export_folder(place, to, facts) as aside:
        write(origin, model, aside, facts, say)
    address = None
    if push is not None:
        say(f"sending {place} to {push}")
        address = hub.push(place, push)
    return Exported(place, facts.get("largest_difference"), address)


def _refuse_lack(to: str) -> None:
    if to == "onnx" and not onnx_available():
        raise UserError('--to onnx needs onnx and onnxruntime, which are not installed: pip install "fusetune[onnx]"')
    if to == "mlflow":
        flavour.needed()


def _refuse_unfit(model: Model) -> None:
    if reasons := [*refusals(model), *unprepared(model)]:
        raise UserError(f"the model cannot be exported to ONNX: {'; '.join(reasons)}. --to dir and --to mlflow take it")


def _onnx(origin: Origin, model: Model, folder: Path, facts: dict[str, Any], say: Callable[[str], None]) -> None:
    say("tracing the model, and comparing the graph with it on every pattern of missing inputs")
    facts["largest_difference"] = write_graph(model, folder / "model.onnx")
    write_preparation(model, folder)
    kinds = {reader.modality.kind for reader in model.readers.values()}
    packages = ["numpy", "onnxruntime", *(["tokenizers"] if "text" in kinds else [])]
    packages += ["pillow"] if "image" in kinds else []
    for name in (_RUNNER, *((_PICTURES,) if "image" in kinds else ())):
        write_text(folder / name, (files(__package__) / name).read_text("utf-8"))
    write_text(folder / _README, _runner_text(origin.name, packages))


def _runner_text(name: str, packages: list[str]) -> str:
    return (
        f"# {name}, as one ONNX graph\n\n"
        f"```sh\npip install {' '.join(packages)}\npython run.py rows.csv > predictions.csv\n```\n\n"
        "`rows.csv` (or `.json`, a list of objects, or `.jsonl`) has the columns of the table that the model was\n"
        "trained on; cells may be empty, and columns may lack. Paths of pictures start from its folder.\n"
        "`python run.py --help` says more. From Python:\n\n"
        '```python\nimport sys\nfrom pathlib import Path\n\nsys.path.insert(0, "FOLDER")\nfrom run import Runner\n\n'
        'runner = Runner(Path("FOLDER"))\nprint(runner.predict([{"COLUMN": "..."}]))\n```\n\n'
        "Prepared by `run.py` as it was for training: JPEG, PNG, WebP, GIF, AVIF, JPEG 2000 and PPM pictures by path,\n"
        "texts, numbers, truth values, categories, vectors, and dates written as year-month-day. Anything else is\n"
        "refused by row. A JPEG file that was cut and closed by an end marker is not noticed here, as fusetune would.\n"
    )


def _mlflow(origin: Origin, model: Model, folder: Path, facts: dict[str, Any], say: Callable[[str], None]) -> None:
    say("writing the MLflow model")
    folder.rmdir()  # MLflow makes it itself
    flavour.write_flavour(model, origin.folder, folder)


def _hub(origin: Origin, model: Model, folder: Path, facts: dict[str, Any], say: Callable[[str], None]) -> None:
    say("copying the model, writing its card")
    _copied(origin, folder)
    if model.reference is not None and model.reference.ids:  # ids of training rows are for those who have the table
        say("leaving out the ids of training rows")
        save_bundle(replace(model, reference=model.reference.without_ids()), folder / MODEL)
    load = 'from huggingface_hub import snapshot_download\n\nmodel = fusetune.load(snapshot_download("OWNER/NAME"))'
    assert origin.metrics is not None
    write_text(folder / _README, hub_card(origin, model, origin.metrics, usage_text(origin, model, load)))


def _dir(origin: Origin, model: Model, folder: Path, facts: dict[str, Any], say: Callable[[str], None]) -> None:
    say("copying the model, writing its card")
    _copied(origin, folder)
    usage = usage_text(origin, model, 'model = fusetune.load("FOLDER")')
    assert origin.metrics is not None
    write_text(folder / _CARD, card_text(origin, model, origin.metrics, usage))
    shell = "```sh\nfusetune predict FOLDER rows.csv --out predictions.csv\nfusetune evaluate FOLDER labelled.csv\n```"
    write_text(
        folder / _README,
        f"# {origin.name}\n\nA model trained with fusetune, in `{MODEL}/`. What it is, how it was judged and what its "
        f"limits are says [{_CARD}]({_CARD}). FOLDER is this folder.\n\n{shell}\n\n{usage}\n",
    )


def _copied(origin: Origin, folder: Path) -> None:
    shutil.copytree(origin.folder, folder / MODEL)
