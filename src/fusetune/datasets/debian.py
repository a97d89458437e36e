"""Debian packages without being root: `apt-get download` fetches one, `dpkg-deb` unpacks it into a folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from fusetune.errors import RunError, UserError
from fusetune.progress import console

# apt warns when it cannot drop root's rights in a private folder; fetching a file needs none of them.
APT = ("apt-get", "-o", "APT::Sandbox::User=root")


def check_tools(*tools: str) -> None:
    """Raise UserError if one of the programs is not installed."""
    for tool in tools:
        if shutil.which(tool) is None:
            raise UserError(
                f"This data comes as a Debian package, and this system has no `{tool}` to fetch or unpack it. "
                "Run this on Debian, Ubuntu or in such a container, or use a table of your own: "
                "`fusetune fit TABLE.csv --label COLUMN`."
            )


def download_package(package: str, folder: Path) -> Path:
    """Download a package into `folder` and return the .deb file's path.

    The system's package lists are used where they are there and current. Otherwise (containers come without them)
    lists are fetched into `folder`.

    Raises:
        RunError: The package cannot be downloaded; the message holds apt's complaint.
    """
    try:
        return _download(package, folder, [])
    except RunError:
        options = _private_lists(folder)
    try:
        _run([*APT, *options, "update"], folder, "Reading the package lists")
        return _download(package, folder, options)
    except RunError as error:
        page = f"https://packages.debian.org/{package}"
        raise RunError(
            f"{error}\nCheck the network, or download the .deb file from {page} elsewhere and pass it with --archive."
        ) from error


def unpack_package(archive: Path, tree: Path) -> None:
    """Unpack a .deb file into the folder `tree`.

    Raises:
        UserError: The file is damaged or not a Debian package.
    """
    try:
        _run(["dpkg-deb", "-x", str(archive.absolute()), str(tree.absolute())], archive.parent, "Unpacking the package")
    except RunError as error:
        raise UserError(f"{archive} cannot be unpacked; download it again.\n{error}") from error


def _private_lists(folder: Path) -> list[str]:
    """Make a place for package lists in `folder` and return the options that point apt there."""
    for name in ("state/lists/partial", "cache/archives/partial"):
        (folder / name).mkdir(parents=True)
    here = folder.absolute()
    # Without the last setting apt calls an update without network a success.
    settings = (f"Dir::State={here}/state", f"Dir::Cache={here}/cache", "APT::Update::Error-Mode=any")
    return [word for setting in settings for word in ("-o", setting)]


def _download(package: str, folder: Path, options: list[str]) -> Path:
    """Run `apt-get download` in `folder`, showing how much of the file has arrived."""
    command = [*APT, *options, "download", package]
    name, size = _announced(_run([*command, "--print-uris"], folder, f"Looking for {package}"), package)
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            _watch(process, folder / name, size)
        except BaseException:
            process.kill()
            raise
        _, complaint = process.communicate()
    if process.returncode or not (folder / name).is_file():
        raise RunError(f"Downloading {package} failed:\n{complaint.strip()}")
    return folder / name


def _announced(listing: str, package: str) -> tuple[str, int]:
    """Read file name and size in bytes from a line of `--print-uris`: 'URI' NAME SIZE HASH."""
    for line in listing.splitlines():
        words = line.split()
        if len(words) >= 3 and words[0].startswith("'") and words[2].isdigit():
            return words[1], int(words[2])
    raise RunError(f"apt-get names no file for the package {package}.")


def _watch(process: subprocess.Popen[str], file: Path, size: int) -> None:
    """Show a progress bar until the process ends."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("Downloading the package", total=size)
        while process.poll() is None:
            progress.update(task, completed=file.stat().st_size if file.exists() else 0)
            time.sleep(0.1)
        if process.returncode == 0:
            progress.update(task, completed=size)


def _run(command: list[str], folder: Path, doing: str) -> str:
    """Run a command in `folder` with a spinner, return its output; raise RunError with its complaint if it fails."""
    plain = {**os.environ, "LC_ALL": "C"}
    with console.status(doing):
        done = subprocess.run(command, cwd=folder, env=plain, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RunError(f"{doing} failed: `{' '.join(command)}` said:\n{done.stderr.strip()}")
    return done.stdout
