"""The README's code is run as it stands, on a small table of the name and columns that it speaks of."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
from documents import ROOT, blocks, commands, run_commands, run_python_here, scans

__all__ = ["scans"]
README = ROOT / "README.md"
COMMANDS = ["check", "augment", "fit", "show", "evaluate", "predict", "explain", "export"]


def test_commands_of_the_readme_work(scans: Path) -> None:
    assert [line.split()[1] for line in commands(README)] == COMMANDS
    run_commands(README, scans)
    for name in ("report.html", "metrics.json", "predictions.parquet", "config.yaml", "schema.json", "split.parquet"):
        assert (scans / "runs" / "scans" / name).exists()
    assert len(pd.read_csv(scans / "predictions.csv")) == 9
    assert (scans / "scores.json").exists()


def test_python_of_the_readme_works(scans: Path) -> None:
    (code,) = blocks(README, "python")
    assert "'value'" in run_python_here(code, scans)


def test_make_targets_of_the_readme_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^make (\w+)", "\n".join(blocks(README, "sh")), re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_links_of_the_readme_lead_somewhere() -> None:
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", README.read_text(encoding="utf-8")):
        assert (ROOT / target).exists(), target
