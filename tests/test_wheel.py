"""The wheel holds what stands in the source tree and nothing else, and says of itself what the README does.

That it installs and runs in a clean environment takes minutes: `python benchmarks/wheel.py`.
"""

from __future__ import annotations

import re
import tomllib
import zipfile
from email import message_from_string
from pathlib import Path

import pytest
from wheel import ROOT, build

from fusetune.cli.installation import EXTRAS
from fusetune.version import VERSION


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("dist"))


def test_the_wheel_holds_the_source_tree(wheel: Path) -> None:
    meant = {
        path.relative_to(ROOT / "src").as_posix()
        for path in (ROOT / "src").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and ".egg-info" not in str(path)
    }
    with zipfile.ZipFile(wheel) as opened:
        assert {name for name in opened.namelist() if ".dist-info/" not in name} == meant
        assert (
            opened.read("fusetune/datasets/emoji.parquet")
            == (ROOT / "src" / "fusetune" / "datasets" / "emoji.parquet").read_bytes()
        )
    for name in ("fusetune/py.typed", "fusetune/report/page.html", "fusetune_papers/py.typed"):
        assert name in meant


def test_the_wheel_says_what_the_readme_says(wheel: Path) -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    home = f"fusetune-{VERSION}.dist-info"
    with zipfile.ZipFile(wheel) as opened:
        facts = message_from_string(opened.read(f"{home}/METADATA").decode())
        points = opened.read(f"{home}/entry_points.txt").decode()
        assert f"{home}/licenses/LICENSE" in opened.namelist()
    assert (facts["Name"], facts["Version"], facts["License-Expression"]) == ("fusetune", VERSION, "Apache-2.0")
    (oldest,) = re.findall(r"Python (\d\.\d+) or newer", readme)
    assert facts["Requires-Python"] == f">={oldest}"
    (name, extras), *_ = re.findall(r'"dist/(\S+\.whl)\[(\S+)\]"', readme)
    assert name == wheel.name
    assert set(extras.split(",")) <= set(facts.get_all("Provides-Extra") or ())
    assert "fusetune = fusetune.cli:main" in points
    assert "papers = fusetune_papers.cli" in points


def test_the_doctor_knows_the_packages_of_each_extra() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    given = {
        name: tuple(re.match(r"[\w-]+", line)[0] for line in lines)  # type: ignore[index]
        for name, lines in project["optional-dependencies"].items()
    }
    assert {name: packages for name, (_, packages) in EXTRAS.items()} == {name: given[name] for name in EXTRAS}
    # What is left over is for developing fusetune.
    assert set(given) - set(EXTRAS) == {"augment", "docs", "bench", "dev"}
    pins = (ROOT / "constraints.txt").read_text("utf-8").lower()
    for package in ("sentence-transformers", *EXTRAS["weights"][1]):
        assert f"\n{package}==" in pins
