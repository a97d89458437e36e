"""Code blocks of documents, and a small table of the name and columns that they speak of."""

from __future__ import annotations

import json
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

ROOT = Path(__file__).parents[1]
# The commands as printed would train for minutes; this file makes each run as short as it can be, and nothing else.
SHORT = {"FUSETUNE_CONFIG": "short.yaml"}


def blocks(document: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", document.read_text(encoding="utf-8"), re.DOTALL)


def commands(document: Path) -> list[str]:
    """The lines of a document's `sh` blocks that start fusetune."""
    lines = [line for block in blocks(document, "sh") for line in block.splitlines()]
    return [line for line in lines if line.startswith("fusetune ")]


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
    source = str(ROOT / "src")
    environment = {**os.environ, **SHORT, "PYTHONPATH": source, "FUSETUNE_CACHE": str(folder / "cache")}
    return subprocess.run(
        arguments, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
    )


def run_commands(document: Path, folder: Path) -> None:
    """Run a document's commands as a user would, each in a process of its own."""
    for line in commands(document):
        done = run([sys.executable, "-m", "fusetune.cli", *shlex.split(line, comments=True)[1:]], folder)
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"


_ONE_AFTER_THE_OTHER = """
import json, sys
from fusetune.cli import main
for words in json.loads(sys.argv.pop()):
    sys.argv[1:] = words
    try:
        main()
    except SystemExit as end:
        if end.code:
            sys.exit(f"{words} ended with {end.code}")
"""


def run_commands_together(document: Path, folder: Path) -> None:
    """Run a document's commands one after the other in one process: importing the libraries takes most of the time."""
    words = [shlex.split(line, comments=True)[1:] for line in commands(document)]
    done = run([sys.executable, "-c", _ONE_AFTER_THE_OTHER, json.dumps(words)], folder)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


def run_python(code: str, folder: Path) -> str:
    done = run([sys.executable, "-c", code], folder)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout
