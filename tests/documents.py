"""Code blocks of documents, and a small table of the name and columns that they speak of."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from tiny import few_trees

from fusetune.cli import main
from fusetune.contest import pool

ROOT = Path(__file__).parents[1]
# The commands as printed would train for minutes; this file makes each run as short as it can be, and nothing else.
SHORT = {"FUSETUNE_CONFIG": "short.yaml"}
SHORT_SETTINGS = (
    "image: {encoder: builtin, size: 32}\ntext: {encoder: builtin, max_tokens: 16}\nviews: 1\n"
    "train: {epochs: 1}\ncrossfit: {how: off}\nevaluate: {resamples: 100}\n"
)


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
    (tmp_path / "short.yaml").write_text(SHORT_SETTINGS, encoding="utf-8")
    return tmp_path


def run(arguments: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    source = str(ROOT / "src")
    environment = {**os.environ, **SHORT, "PYTHONPATH": source, "FUSETUNE_CACHE": str(folder / "cache")}
    return subprocess.run(
        arguments, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
    )


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


def run_commands(document: Path, folder: Path) -> None:
    """Run a document's commands as a user would: those that use what `fit` saved, not in the process that saved it.

    Importing the libraries takes most of the time, so each of the two processes runs several commands.
    """
    words = [shlex.split(line, comments=True)[1:] for line in commands(document)]
    after = [command[0] for command in words].index("fit") + 1
    for part in (words[:after], words[after:]):
        done = run([sys.executable, "-c", _ONE_AFTER_THE_OTHER, json.dumps(part)], folder)
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


@contextmanager
def _within(folder: Path) -> Iterator[pytest.MonkeyPatch]:
    """Have this process do what `run` lets a child do: a page's code then costs no new import of the libraries.

    Nor does it grow hundreds of trees; the README's fits, in children, do.
    """
    with few_trees(), pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(pool, "cores", lambda: 1)  # comparisons start no processes either
        for name, value in {**SHORT, "FUSETUNE_CACHE": str(folder / "cache")}.items():
            patch.setenv(name, value)
        yield patch


def run_commands_here(document: Path, folder: Path) -> None:
    """Run a document's commands one after the other in this process."""
    with _within(folder) as patch:
        for line in commands(document):
            patch.setattr(sys, "argv", shlex.split(line, comments=True))
            with pytest.raises(SystemExit) as end:
                main()
            assert not end.value.code, line


def run_python_here(code: str, folder: Path) -> str:
    """Run a script in this process, and return what it prints."""
    with _within(folder), redirect_stdout(io.StringIO()) as told:
        exec(code, {"__name__": "__main__"})
    return told.getvalue()
