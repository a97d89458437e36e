"""The README's code is run as it stands, on a small table of the name and columns that it speaks of."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

README = Path(__file__).parents[1] / "README.md"
# The commands as printed would train for minutes; this file makes each run as short as it can be, and nothing else.
SHORT = {"FUSETUNE_CONFIG": "short.yaml"}


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    regions = ["head", "chest", "leg"]
    rows = []
    for index in range(36):
        region = regions[index % 3]
        pixels = random.integers(0, 60, (32, 32, 3), dtype=np.uint8)
        pixels[:, :, index % 3] += 150
        Image.fromarray(pixels).save(tmp_path / f"{index}.png")
        words = f"patient number {index} complains about the {region} since yesterday"
        rows.append({"image": f"{index}.png", "history": words, "age": 20 + index, "region": region})
    table = pd.DataFrame(rows).assign(patient=[f"p{i // 2}" for i in range(36)])
    table.to_csv(tmp_path / "scans.csv", index=False)
    table.iloc[:9].to_csv(tmp_path / "new_scans.csv", index=False)
    (tmp_path / "short.yaml").write_text(
        "image: {encoder: builtin, size: 32}\ntext: {encoder: builtin, max_tokens: 16}\nviews: 1\n"
        "train: {epochs: 1}\ncrossfit: {how: off}\nevaluate: {resamples: 100}\n",
        encoding="utf-8",
    )
    return tmp_path


def run(arguments: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    source = str(README.parent / "src")
    environment = {**os.environ, **SHORT, "PYTHONPATH": source, "FUSETUNE_CACHE": str(folder / "cache")}
    return subprocess.run(
        arguments, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
    )


def test_commands_of_the_readme_work(scans: Path) -> None:
    lines = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("fusetune ")]
    assert [line.split()[1] for line in lines] == ["check", "augment", "fit", "show", "evaluate", "predict", "explain"]
    for line in lines:
        done = run([sys.executable, "-m", "fusetune.cli", *shlex.split(line, comments=True)[1:]], scans)
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    for name in ("report.html", "metrics.json", "predictions.parquet", "config.yaml", "schema.json", "split.parquet"):
        assert (scans / "runs" / "scans" / name).exists()
    assert len(pd.read_csv(scans / "predictions.csv")) == 9
    assert (scans / "scores.json").exists()


def test_python_of_the_readme_works(scans: Path) -> None:
    (code,) = blocks("python")
    done = run([sys.executable, "-c", code], scans)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert "'value'" in done.stdout


def test_make_targets_of_the_readme_exist() -> None:
    makefile = (README.parent / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^make (\w+)", "\n".join(blocks("sh")), re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_links_of_the_readme_lead_somewhere() -> None:
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", README.read_text(encoding="utf-8")):
        assert (README.parent / target).exists(), target
