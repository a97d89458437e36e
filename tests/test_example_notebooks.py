"""The notebooks of `examples/` run from the first cell to the last, as somebody would run them in Jupyter.

What a notebook does not set itself is set as for the pages of the documentation, so that its fits are short.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import nbformat
import pytest
from documents import SHORT_SETTINGS
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))
# What each of them must show: plots, and pages below a cell.
PLOTS = {"augmentation": 2, "clinical": 3, "comparison": 1}
PAGES = {"augmentation": 1, "clinical": 1, "comparison": 0}


def test_there_are_three_and_the_page_about_them_names_each() -> None:
    page = (ROOT / "docs" / "notebooks.md").read_text("utf-8")
    assert [path.stem for path in NOTEBOOKS] == list(PLOTS)
    assert all(f"examples/{path.name}" in page for path in NOTEBOOKS)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_is_kept_without_outputs(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notebook: Any = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in code)
    (tmp_path / "short.yaml").write_text(SHORT_SETTINGS, encoding="utf-8")
    source = os.pathsep.join(filter(None, [str(ROOT / "src"), os.environ.get("PYTHONPATH")]))
    for name, value in {
        "PYTHONPATH": source,
        "FUSETUNE_CACHE": str(tmp_path / "cache"),
        "FUSETUNE_CONFIG": str(tmp_path / "short.yaml"),
        "TMPDIR": str(tmp_path),
        "IPYTHONDIR": str(tmp_path / "ipython"),
        "JUPYTER_RUNTIME_DIR": str(tmp_path / "runtime"),
        "OMP_NUM_THREADS": "1",
    }.items():
        monkeypatch.setenv(name, value)
    client = NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": tmp_path}})
    client.execute()
    outputs = [output for cell in code for output in cell.outputs]
    shown = [output["data"] for output in outputs if "data" in output]
    assert sum("image/png" in data for data in shown) == PLOTS[path.stem]
    assert sum("<iframe" in data.get("text/html", "") for data in shown) == PAGES[path.stem]
    # Warnings would be for whoever reads it; that of tqdm is about a package for its bars.
    said = "".join(output["text"] for output in outputs if output.get("name") == "stderr")
    assert "Warning" not in said.replace("TqdmWarning: IProgress", "")
    assert not list((ROOT / "examples").glob("runs"))
